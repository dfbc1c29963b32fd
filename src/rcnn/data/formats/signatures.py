"""How to tell files of other tools and public data sets, which rcnn does not read: what each is, and what to do."""

from __future__ import annotations

import re

AGAIN = "export the annotations again as COCO"
CONVERT = "convert it to COCO's format"
TABLE_FILES = "a table of a data set: write its images to files, and use rcnn.Dataset.from_records in Python"
SEMANTIC = "which has classes but no single objects"
OWN_JSON = "in {tool}'s own JSON format: {action}"

# keys of a JSON object, or of the first entry of a list -> the tool or data set, and what to do
TOOLS: tuple[tuple[set[str], str, str], ...] = (
    ({"data", "annotations"}, "Label Studio", AGAIN),
    ({"data", "completions"}, "Label Studio", AGAIN),
    ({"annotator", "annotation_id"}, "Label Studio", AGAIN),
    ({"data_row", "projects"}, "Labelbox", AGAIN),
    ({"Labeled Data", "Label"}, "Labelbox", AGAIN),
    ({"classTitle", "geometryType"}, "Supervisely", AGAIN),
    ({"size", "objects", "tags"}, "Supervisely", AGAIN),
    ({"classes", "tags", "projectType"}, "Supervisely", AGAIN),
    ({"item", "annotations"}, "V7 (Darwin)", AGAIN),
    ({"asset", "regions"}, "VoTT", AGAIN),
    ({"assets", "tags"}, "VoTT", AGAIN),
    ({"instances", "metadata"}, "SuperAnnotate", AGAIN),
    ({"image", "annotations"}, "CreateML", AGAIN),
    ({"categories", "items"}, "Datumaro", f"{AGAIN} (COCO 1.0 in CVAT's list of formats)"),
    ({"name", "labels"}, "BDD100K or Scalabel", CONVERT),
    ({"imgHeight", "imgWidth", "objects"}, "Cityscapes", CONVERT),
    ({"project", "attribute", "metadata"}, "VIA 3", f"{CONVERT}, or use VIA 2, whose JSON files are read"),
)
# pattern in the path of a file -> what the file is, and what to do
PATHS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"_gtFine_\w+\.(json|png)$", f"of Cityscapes: {CONVERT}"),
        (r"(^|/)panoptic_[^/]+\.json$", "COCO's panoptic segmentation: get, or export, instances_*.json"),
        (r"(^|/)captions_[^/]+\.json$", "a file of captions, not of objects: get COCO's instances_*.json too"),
        (r"(^|/)metadata\.(jsonl|csv)$", "of an image folder of Hugging Face: use rcnn.Dataset.from_records in Python"),
        (r"\.odgt$", f"of CrowdHuman: {CONVERT}"),
        (r"wider_face_\w+_bbx_gt\.txt$", f"of WIDER FACE: {CONVERT}"),
        (r"-annotations-(bbox|object-segmentation)\.csv$", f"of Open Images: {CONVERT}"),
        (r"(^|/)label_2/[^/]+\.txt$", f"of KITTI: {CONVERT}"),
        (r"(^|/)labelTxt[^/]*/.*\.txt$", "in DOTA's format: export the annotations again as COCO or YOLO"),
        (r"(^|/)ADE_(train|val)_\d+\.png$", f"a semantic map of ADE20K, {SEMANTIC}"),
        (r"\.rf\.\w+_mask\.png$", f"a semantic mask of Roboflow, {SEMANTIC}: export as COCO Segmentation"),
        (
            r"(^|/)task-\d+-annotation-\d+-by-.*\.(png|npy)$",
            "a brush mask of Label Studio: move the masks of images/NAME.jpg to masks/NAME/CLASS/, as PNG files",
        ),
    )
)
# suffix, pattern that matches from the start of a text file with it -> what the file is, and what to do
STARTS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    (".xml", re.compile(r"(?s:.*?)<annotations[\s>]"), f"CVAT's own XML: {AGAIN} (COCO 1.0 in CVAT's list of formats)"),
    (
        ".csv",
        re.compile(r"[^\n]*region_shape_attributes"),
        "VIA's table: in VIA choose Annotation > Export Annotations (as json), and give that file",
    ),
    (".csv", re.compile(r"# Exported using VGG Image"), f"the table of VIA 3: {CONVERT}, or use VIA 2"),
    (
        ".csv",
        re.compile(r"[^\n]*EncodedPixels|id,annotation,"),
        f"a table with run lengths, as in Kaggle's competitions: {CONVERT}",
    ),
    (
        ".csv",
        re.compile(r"[^,\n]+(,-?\d+){4},[^,\n]+\.\w+,\d+,\d+\s"),
        "the table of makesense.ai: export as a single file in COCO JSON format, or as VOC XML",
    ),
)
HINTS = {  # suffix -> what the file is, and what to do
    ".tfrecord": f"TensorFlow records: {AGAIN}",
    ".record": f"TensorFlow records: {AGAIN}",
    ".csv": f"a table: convert it to COCO's format, or {AGAIN}",
    ".ndjson": f"JSON of another tool, an object per line: {AGAIN}",
    ".jsonl": f"JSON of another tool, an object per line: {AGAIN}",
    ".parquet": TABLE_FILES,
    ".arrow": TABLE_FILES,
    ".zip": "an archive: unpack it",
    ".tar": "an archive: unpack it",
    ".gz": "an archive: unpack it",
    ".tgz": "an archive: unpack it",
    ".7z": "an archive: unpack it",
    ".rar": "an archive: unpack it",
    ".safetensors": "a checkpoint, not a data set",
    ".pth": "a checkpoint, not a data set",
}
