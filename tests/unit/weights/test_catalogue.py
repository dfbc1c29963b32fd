"""Every entry of the catalogue: unique names, plausible facts, and a converter that builds the model of its name."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from benchmarks import weights_table
from torch import Tensor

import rcnn
from rcnn.models import DetectorConfig, model_config
from rcnn.models.config import ResNetConfig, TimmConfig
from rcnn.models.zoo import MODELS
from rcnn.models.zoo.facts import facts
from rcnn.weights.catalogue import torchvision as torchvision_files
from rcnn.weights.catalogue.entry import Entry
from rcnn.weights.catalogue.expected import different_parts
from rcnn.weights.catalogue.names import default_entry, detectors_of, entries, find_entry, imagenet_entry, similar_names
from rcnn.weights.checkpoint import checkpoint_record
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.converted import Converted, expected_state
from rcnn.weights.systems.detectron2.config import config_of
from rcnn.weights.systems.detectron2.system import to_detectron2
from rcnn.weights.systems.detectron2.zoo import zoo_settings
from rcnn.weights.systems.known import convert_found
from rcnn.weights.systems.mmdetection.system import to_mmdetection
from rcnn.weights.systems.torchvision import to_torchvision
from tests.parity import peer_tensorpack
from tests.unit.blank_states import blank
from tests.unit.weights.detectron_blobs import blobs

BY_SYSTEM = {
    system: [entry for entry in entries().values() if entry.system == system and entry.kind == "detector"]
    for system in ("torchvision", "Detectron2", "Detectron", "tensorpack", "MMDetection", "D2Go")
}
# one entry per model: the files of its schedules have the same tensors
MODELS_OF = {system: {entry.model: entry for entry in found}.values() for system, found in BY_SYSTEM.items()}
COUNTS = {"torchvision": 8, "Detectron2": 47, "Detectron": 37, "tensorpack": 9, "MMDetection": 44, "D2Go": 3}


def test_the_counts_are_those_of_the_public_documents() -> None:
    assert {system: len(found) for system, found in BY_SYSTEM.items()} == COUNTS
    assert len(entries()) == len({entry.url for entry in entries().values()})


def test_files_that_a_later_torchvision_adds_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = torchvision.models.ResNet101_Weights.IMAGENET1K_V1.value
    later = Enum("later", {"IMAGENET1K_V1": kept, "IMAGENET99K_V9": SimpleNamespace(meta={})})
    monkeypatch.setattr(torchvision_files, "BACKBONES", {"resnet101": later})
    monkeypatch.setattr(torchvision_files, "DETECTORS", {})
    assert [entry.name for entry in torchvision_files.entries()] == ["resnet101@torchvision"]


def test_the_facts_of_every_entry_are_complete() -> None:
    assert all(is_complete(entry) for entry in entries().values())


def is_complete(entry: Entry) -> bool:
    """True; a missing or wrong fact fails with the fact."""
    assert re.fullmatch(r"[a-z0-9_]+@[a-z0-9-]+", entry.name)
    address = r"[\w-]+\.pth" if entry.package else r"https?://[\w./%+-]+\.(pkl|pth|npz|safetensors)"
    assert re.fullmatch(address, entry.url)
    assert entry.licence
    assert entry.seen
    assert re.fullmatch(r"|md5sum|sha256:([0-9a-f]{8}|[0-9a-f]{64})|md5:[0-9a-f]{6}", entry.digest)
    if ":" in entry.digest:  # these publishers put it into the name of the file
        assert entry.digest.partition(":")[2][:8] in entry.file
    assert all(10 < score < 90 for score in entry.scores)
    known = entry.model in MODELS or entry.kind == "backbone"
    assert known or re.search(r"_(r101|x101_(32x8d|64x4d))_fpn", entry.model), "a network that the zoo does not name"
    if entry.kind == "detector" and entry.data == "COCO":
        assert entry.scores
        assert bool(entry.mask) == (entry.model.startswith(("mask", "cascade_mask", "fcis")))
        assert bool(entry.keypoints) == entry.model.startswith("keypoint")
    return True


def test_figures_equal_those_of_the_page_of_each_model() -> None:
    """The models' own table of published AP was collected separately."""
    compared = 0
    for name, fact in facts().items():
        for system, schedule, ap in fact.published:
            entry = entries().get(f"{name}@{system.lower()}-{schedule}")
            numbers = re.findall(r"\d+\.\d+", ap)
            if entry is not None and numbers:
                compared += 1
                assert [f"{score}" for score in entry.scores] == numbers, entry.name
    assert compared > 60


@pytest.mark.parametrize("entry", BY_SYSTEM["torchvision"], ids=lambda entry: entry.name)
def test_torchvision_has_the_same_facts_and_names(entry: Entry) -> None:
    weights = next(
        member
        for name in torchvision.models.list_models(module=torchvision.models.detection)
        for member in torchvision.models.get_model_weights(name)
        if member.url == entry.url
    )
    metrics = weights.meta["_metrics"]["COCO-val2017"]
    assert (entry.box, entry.mask, entry.keypoints) == tuple(
        metrics.get(key) for key in ("box_map", "mask_map", "kp_map")
    )
    config = model_config(entry.model)
    converted = convert(to_torchvision(blank(config), config), entry)
    assert is_same_network(converted.config, entry)


@pytest.mark.parametrize("entry", BY_SYSTEM["Detectron2"], ids=lambda entry: entry.name)
def test_detectron2_settings_are_those_of_its_zoo(entry: Entry) -> None:
    config = config_of(zoo_settings(entry.settings), "the zoo")
    converted = convert(to_detectron2(blank(config), config), entry)
    assert is_same_network(converted.config, entry)
    if entry.data != "COCO":
        assert converted.config.num_classes == {"L": 1230, "C": 8, "P": 20}[entry.data[0]]
    assert f"/{entry.settings.removesuffix('.yaml')}/" in entry.url


@pytest.mark.parametrize("entry", MODELS_OF["Detectron"], ids=lambda entry: entry.name)
def test_detectron_files_are_recognised_by_their_blobs(entry: Entry) -> None:
    person = entry.model.startswith("keypoint")
    sizes = re.search(r"_x101_(\d+)x(\d+)d", entry.model)
    state = blobs(
        depth=101 if "101" in entry.model else 50,
        fpn="_fpn" in entry.model,
        group_norm=entry.model.endswith("_gn"),
        groups=int(sizes[1]) if sizes else 1,
        width=int(sizes[2]) if sizes else 64,
        classes=None if entry.model.startswith("rpn") else 2 if person else 81,
        masks=entry.model.startswith("mask"),
        keypoints=17 if person else 0,
    )
    converted = convert({name: torch.zeros(()).expand(value.shape) for name, value in state.items()}, entry)
    assert is_same_network(converted.config, entry)


@pytest.mark.parametrize("entry", BY_SYSTEM["tensorpack"], ids=lambda entry: entry.name)
def test_tensorpack_settings_fit_its_tensors(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    group = "_gn" in entry.model
    monkeypatch.setattr(peer_tensorpack, "BLOCKS", (3, 4, 23, 3) if "101" in entry.model else (3, 4, 6, 3))
    monkeypatch.setattr(peer_tensorpack, "CLASSES", 80)
    shapes = peer_tensorpack.peer_shapes(
        pyramid="_fpn" in entry.model,
        cascade="cascade" in entry.model,
        norm="gn" if group else "bn",
        head="4conv1fc" if group else "2fc",
        head_norm=group,
    )
    converted = convert({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}, entry)
    assert is_same_network(converted.config, entry)
    assert not [note for note in converted.notes if "unknown" in note]


@pytest.mark.parametrize("entry", MODELS_OF["MMDetection"], ids=lambda entry: entry.name)
def test_mmdetection_names_are_recognised(entry: Entry) -> None:
    config = model_config(entry.model.removesuffix("_caffe").removesuffix("_scratch"))
    if config.cascade is not None:
        config = replace(config, cascade=replace(config.cascade, mask_heads="each"))
    converted = convert(to_mmdetection(expected_state(config), config), entry)
    assert is_same_network(converted.config, entry, strides=False)  # in the config that the file contains


def convert(state: dict[str, Tensor], entry: Entry) -> Converted:
    converted = convert_found(Found(state=state, source=entry.file), entry.settings or None)
    assert not different_parts(converted, entry), "the published file is refused"
    return converted


def is_same_network(config: DetectorConfig, entry: Entry, *, strides: bool = True) -> bool:
    """True if `config` has the network that the entry's name says; a difference fails with its values."""
    name = entry.model
    if name in MODELS:
        expected = model_config(name)
        ours, theirs = config.backbone, expected.backbone
        assert type(ours) is type(theirs)
        if isinstance(ours, ResNetConfig) and isinstance(theirs, ResNetConfig):
            assert (ours.depth, ours.groups, ours.width_per_group) == (
                theirs.depth, theirs.groups, theirs.width_per_group
            )  # fmt: skip
            assert (ours.norm == "gn") == (theirs.norm == "gn")
            if strides:
                assert ours.stride_in_1x1 == theirs.stride_in_1x1
        assert (config.mask is None, config.keypoint is None, config.cascade is None, config.fpn is None) == (
            expected.mask is None, expected.keypoint is None, expected.cascade is None, expected.fpn is None
        )  # fmt: skip
        assert config.proposals_only == expected.proposals_only
        assert config.box.convs == expected.box.convs
    else:
        assert config.name.removesuffix("_caffe") == name.removesuffix("_caffe")
    return True


BACKBONES = [entry for entry in entries().values() if entry.kind == "backbone" and entry.tag in ("torchvision", "timm")]


@pytest.mark.parametrize("entry", BACKBONES, ids=lambda entry: entry.name)
def test_backbones_are_recognised(entry: Entry) -> None:
    theirs = entry.tag == "torchvision"
    build = torchvision.models.get_model if theirs else pytest.importorskip("timm").create_model
    with torch.device("meta"):
        state: dict[str, Tensor] = build(entry.model).state_dict()
    blanks = {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}
    assert convert(blanks, entry).kind == "backbone"


def test_a_name_alone_is_what_most_users_expect() -> None:
    assert find_entry("mask_rcnn_r50_fpn").file == "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    assert find_entry("keypoint_rcnn_r50_fpn").file == "keypointrcnn_resnet50_fpn_coco-fc266e95.pth"
    assert find_entry("mask_rcnn_r50_fpn_caffe").name == "mask_rcnn_r50_fpn_caffe@detectron2-3x"
    assert find_entry("mask_rcnn_r50_fpn@detectron2-3x").name == "mask_rcnn_r50_fpn_caffe@detectron2-3x"
    assert find_entry("mask_rcnn_r50_fpn@tensorpack-2x").file == "COCO-MaskRCNN-R50FPN2x.npz"
    assert find_entry("cascade_mask_rcnn_r101_fpn").tag == "tensorpack-3x"
    assert default_entry("mask_rcnn_compact") is None
    assert [entry.tag for entry in detectors_of("mask_rcnn_r101_fpn")][:2] == ["mmdetection-3x", "mmdetection-2x"]


def test_an_unknown_name_is_refused_with_similar_ones() -> None:
    with pytest.raises(ValueError, match=r"no weights named 'mask_rcnn_r50_fpn@x' \(did you mean mask_rcnn_r50_fpn@"):
        find_entry("mask_rcnn_r50_fpn@x")
    with pytest.raises(ValueError, match="no weights named 'nothing@like-it'; `rcnn models weights`"):
        find_entry("nothing@like-it")
    with pytest.raises(ValueError, match=r"no weights named 'mask_rcn_r50_fpn' \(did you mean mask_rcnn_r50_fpn,"):
        find_entry("mask_rcn_r50_fpn")
    with pytest.raises(
        ValueError, match=r"which starts from the ImageNet weights tf_efficientnet_lite0@package of its backbone: rcnn"
    ):
        find_entry("mask_rcnn_lite0_fpn")
    with pytest.raises(
        ValueError, match=r"the model mask_rcnn_compact has no published weights \(similar models with "
    ):
        find_entry("mask_rcnn_compact")
    for name in similar_names("mask_rcnn_compact"):
        assert find_entry(name).kind == "detector"
    with pytest.raises(FileNotFoundError, match=r"mask_rcn_r50_fpn does not exist \(did you mean mask_rcnn_r50_fpn,"):
        checkpoint_record("mask_rcn_r50_fpn")


def test_the_beginning_of_a_tag_suggests_the_tags_that_start_with_it() -> None:
    near = similar_names("mask_rcnn_r50_fpn@detectron2")
    assert near[0] == "mask_rcnn_r50_fpn_caffe@detectron2-3x"
    assert len(near) == 3
    assert all(one.startswith("mask_rcnn_r50_fpn_caffe@detectron2-") for one in near)


def test_conversion_of_a_name_is_refused(tmp_path: Path) -> None:
    for name, message in {
        "mask_rcn_r50_fpn": r"does not exist \(did you mean mask_rcnn_r50_fpn, .*; expected a weight file of another",
        "mask_rcnn_r50_fpn": r"is the name of published weights, which need no conversion",
        "model_final.pkl": r"model_final\.pkl does not exist; expected a weight file of another framework",
    }.items():
        with pytest.raises(FileNotFoundError, match=message):
            rcnn.convert(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("mask_rcnn_r50_fpn", "resnet50@torchvision"),
        ("cascade_rcnn_r101_fpn", "resnet101@torchvision"),
        ("mask_rcnn_r50_fpn_caffe", "resnet50@msra"),
        ("mask_rcnn_r101_fpn_gn", "resnet101_gn@fair"),
        ("mask_rcnn_x101_32x8d_fpn", "resnext101_32x8d@fair"),
        ("mask_rcnn_resnet50d_fpn", "resnet50d@timm"),
        ("mask_rcnn_swin_tiny_fpn", "swin_tiny_patch4_window7_224@timm"),
        ("faster_rcnn_mobilenet_v3_large_320_fpn", "mobilenet_v3_large@torchvision"),
        ("mask_rcnn_compact", ""),
        ("mask_rcnn_vit_base", ""),
    ],
)
def test_imagenet_weights_fit_the_backbone(model: str, name: str) -> None:
    entry = imagenet_entry(model_config(model))
    assert (entry.name if entry else "") == name


def test_timm_publishes_these_files() -> None:
    timm = pytest.importorskip("timm")
    found = [entry for entry in entries().values() if entry.system == "timm"]
    assert len(found) == 5
    for entry in found:
        known = timm.models.get_pretrained_cfg(entry.model)
        assert entry.url == f"https://huggingface.co/{known.hf_hub_id}/resolve/main/model.safetensors"
        assert known.license in entry.licence.lower()


def test_every_timm_model_has_imagenet_weights_by_name() -> None:
    named = [model_config(name) for name in MODELS]
    timm = [config for config in named if isinstance(config.backbone, TimmConfig)]
    assert timm
    assert all(imagenet_entry(config) for config in timm)


def test_the_page_of_weights_is_up_to_date() -> None:
    text = weights_table.PAGE.read_text(encoding="utf-8")
    assert text.count("\n| [`") == sum(not entry.package for entry in entries().values())
    assert weights_table.updated(text) == text, "run python benchmarks/weights_table.py"


def test_tables_are_in_the_package(tmp_path: Path) -> None:
    tables = Path(__file__).resolve().parents[3] / "src/rcnn/weights/catalogue/tables"
    assert {path.suffix for path in tables.iterdir()} == {".tsv"}
    lines = [line for path in tables.glob("*.tsv") for line in path.read_text().splitlines() if "\t" in line]
    assert all("\t\t" not in line and not line.endswith("\t") for line in lines)
