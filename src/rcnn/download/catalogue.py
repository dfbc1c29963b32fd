"""The data sets that `rcnn data download` knows: the URLs, sizes and hashes of their archives.

URLs, sizes and hashes are copied from the public source that each entry names. TFDS is the GitHub repository
tensorflow/datasets; torchvision is the Python package.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

COCO = "http://images.cocodataset.org"  # this server has no https
LVIS = "https://s3-us-west-2.amazonaws.com/dl.fbaipublicfiles.com/LVIS"
VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"
REFER = "bvisionweb1.cs.unc.edu/licheng/referit/data"
TFDS_COCO = "TFDS, url_checksums/coco.txt"
TFDS_LVIS = "TFDS, object_detection/lvis/checksums.tsv"
TORCHVISION_VOC = "torchvision 0.29, datasets/voc.py; size: TFDS, url_checksums/voc.txt"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file to download and unpack."""

    urls: tuple[str, ...]  # mirrors of the file, tried in this order
    creates: tuple[str, ...]  # files and folders that unpacking creates in the folder of the data set
    source: str  # where the URLs, the hash and the size were published
    # files of this archive alone, by which a later run finds that it is unpacked; empty: `creates`, which are its alone
    contains: tuple[str, ...] = ()
    digest: str = ""  # "sha256:..." or "md5:..."; empty: none is published
    size: int | None = None  # bytes

    @property
    def name(self) -> str:
        """The name of the file."""
        return unquote(PurePosixPath(urlsplit(self.urls[0]).path).name)


@dataclass(frozen=True, kw_only=True)
class Download:
    """A data set to download."""

    splits: dict[str, tuple[Archive, ...]]  # name of a split -> the archives that it needs
    default: tuple[str, ...]  # splits that are downloaded unless others are named
    data: str = ""  # path for --data, relative to the folder of the data set; empty: that folder


def _coco(path: str, creates: str, size: int, sha256: str, contains: tuple[str, ...] = ()) -> Archive:
    return Archive(
        urls=(f"{COCO}/{path}",),
        creates=(creates,),
        source=TFDS_COCO,
        contains=contains,
        digest=f"sha256:{sha256}",
        size=size,
    )


TRAIN2017 = _coco(
    "zips/train2017.zip", "train2017", 19336861798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"
)
VAL2017 = _coco(
    "zips/val2017.zip", "val2017", 815585330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"
)
TEST2017 = _coco(
    "zips/test2017.zip", "test2017", 6646970404, "c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba"
)
TRAIN2014 = _coco(
    "zips/train2014.zip", "train2014", 13510573713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775"
)
VAL2014 = _coco(
    "zips/val2014.zip", "val2014", 6645013297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"
)
ANNOTATIONS2017 = _coco(
    "annotations/annotations_trainval2017.zip",
    "annotations",
    252907541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
)
ANNOTATIONS2014 = _coco(
    "annotations/annotations_trainval2014.zip",
    "annotations",
    252872794,
    "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    ("annotations/instances_train2014.json", "annotations/instances_val2014.json"),
)
TEST_INFO2017 = _coco(
    "annotations/image_info_test2017.zip",
    "annotations",
    1144034,
    "e52f412dd7195ac8f98d782b44c6dd30ea10241e9f42521f67610fbe055a74f8",
    ("annotations/image_info_test2017.json",),
)


def _lvis(split: str, size: int, sha256: str) -> Archive:
    return Archive(
        urls=(f"{LVIS}/lvis_v1_{split}.json.zip",),
        creates=(f"lvis_v1_{split}.json",),
        source=TFDS_LVIS,
        digest=f"sha256:{sha256}",
        size=size,
    )


def _voc(path: str, split: str, size: int, md5: str) -> Archive:
    year = path[3:7]
    return Archive(
        urls=(f"{VOC}/{path}",),
        creates=("VOCdevkit",),
        source=TORCHVISION_VOC,
        contains=(f"VOCdevkit/VOC{year}/ImageSets/Main/{split}.txt",),
        digest=f"md5:{md5}",
        size=size,
    )


VOC2007 = _voc("voc2007/VOCtrainval_06-Nov-2007.tar", "trainval", 460032000, "c52e279531787c972589f7e41ab4ae64")
VOC2007_TEST = _voc("voc2007/VOCtest_06-Nov-2007.tar", "test", 451020800, "b6e924de25625d8de591ea690078ad9f")
VOC2012 = _voc("voc2012/VOCtrainval_11-May-2012.tar", "trainval", 1999639040, "6cd6e144f989b92b3379bac3b3de84fd")
SBD = Archive(
    urls=("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",),
    creates=("benchmark_RELEASE",),
    source="torchvision 0.29, datasets/sbd.py",
    digest="md5:82b4d87ceb2ed10f6038a1cba92111cb",
)
BALLOON = Archive(
    urls=("https://github.com/matterport/Mask_RCNN/releases/download/v2.1/balloon_dataset.zip",),
    creates=("balloon",),
    source="README of samples/balloon in matterport/Mask_RCNN",
)


def _refer(name: str, archived: str) -> tuple[Archive, ...]:
    annotations = Archive(
        urls=(
            f"https://{REFER}/{name}.zip",
            f"https://web.archive.org/web/{archived}/https://{REFER}/{name}.zip",
        ),
        creates=(name,),
        source="README of lichengunc/refer; the Internet Archive's copy",
    )
    return annotations, TRAIN2014


DOWNLOADS = {
    "coco2017": Download(
        splits={
            "train2017": (ANNOTATIONS2017, TRAIN2017),
            "val2017": (ANNOTATIONS2017, VAL2017),
            "test2017": (TEST_INFO2017, TEST2017),
        },
        default=("train2017", "val2017"),
    ),
    "coco2014": Download(
        splits={"train2014": (ANNOTATIONS2014, TRAIN2014), "val2014": (ANNOTATIONS2014, VAL2014)},
        default=("train2014", "val2014"),
    ),
    "voc2007": Download(
        splits={"trainval": (VOC2007,), "train": (VOC2007,), "val": (VOC2007,), "test": (VOC2007_TEST,)},
        default=("trainval", "test"),
        data="VOCdevkit/VOC2007",
    ),
    "voc2012": Download(
        splits={"trainval": (VOC2012,), "train": (VOC2012,), "val": (VOC2012,)},
        default=("trainval",),
        data="VOCdevkit/VOC2012",
    ),
    "sbd": Download(
        splits={"train": (SBD,), "val": (SBD,)},
        default=("train", "val"),
        data="benchmark_RELEASE",
    ),
    "refcoco": Download(
        splits={
            "refcoco": _refer("refcoco", "20220413011718"),
            "refcoco+": _refer("refcoco+", "20220413011656"),
            "refcocog": _refer("refcocog", "20220413012904"),
        },
        default=("refcoco", "refcoco+", "refcocog"),
    ),
    "lvis": Download(
        splits={
            "train": (
                _lvis("train", 350264821, "334a4caa374030a7817cf050364525e910f7960f9b6968cef47cffbf3893f8ba"),
                TRAIN2017,
            ),
            "val": (
                _lvis("val", 64026968, "5cae9a3c79aadb667550c2b5dcf7f4d86e059a41ec91ef690225b667e28e9ba5"),
                VAL2017,
                TRAIN2017,  # LVIS val takes most of its images from train2017
            ),
        },
        default=("train", "val"),
    ),
    "balloon": Download(splits={"train": (BALLOON,), "val": (BALLOON,)}, default=("train", "val"), data="balloon"),
}
