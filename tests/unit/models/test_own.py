"""The user's own modules: they are named in the config, refused unless allowed, and checked when they are built."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from typing_extensions import override

import rcnn
from rcnn.models import Detector, DetectorConfig
from rcnn.models.config import OwnBackboneConfig
from rcnn.models.inference import fold_pairs
from rcnn.models.legacy.pooling import AffinePooler, NormalizedPooler
from rcnn.models.overrides import as_overrides
from rcnn.models.own import allow_factories, own_factories
from rcnn.models.pooler import RegionPooler
from rcnn.own_code import import_factory, path_of
from rcnn.structures import ImageBatch
from rcnn.training.chosen_start import choose_start
from rcnn.training.request import RunRequest
from tests.narrow import instance, present
from tests.own_modules import write_own_modules
from tests.tiny_data import TINY_MODEL

CLASSES = ("square", "disc")
FACTORY = "my_backbone.py:MyBackbone"
BASE = rcnn.override(rcnn.model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the user's files."""
    monkeypatch.chdir(tmp_path)
    return write_own_modules(tmp_path)


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> ModuleType:
    """my_backbone, imported from the working folder as by a script there."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_backbone", raising=False)
    return importlib.import_module("my_backbone")


def detections(detector: Detector) -> torch.Tensor:
    """Scores of a detector in one image of noise."""
    pixels = torch.randint(0, 256, (1, 3, 96, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return detector.eval().predict(ImageBatch(pixels=pixels, sizes=torch.tensor([[96, 128]]))).scores


SPELLINGS: list[tuple[Callable[[Any], Any], str, dict[str, int]]] = [
    (lambda mine: mine.MyBackbone, FACTORY, {}),
    (lambda mine: functools.partial(mine.MyBackbone, width=20), FACTORY, {"width": 20}),
    (lambda mine: mine.Fixed(), "my_backbone.py:Fixed", {}),
]


@pytest.mark.parametrize(("spelling", "factory", "arguments"), SPELLINGS)
def test_what_is_passed_is_named_saved_and_loaded(
    mine: ModuleType, folder: Path, spelling: Callable[[Any], Any], factory: str, arguments: dict[str, int]
) -> None:
    detector = rcnn.build_detector(BASE, backbone=spelling(mine))
    assert detector.config.backbone == OwnBackboneConfig(factory=factory, arguments=arguments)
    assert isinstance(detector.backbone, mine.MyBackbone)
    rcnn.save_checkpoint(folder / "saved", detector, detector.config, CLASSES, {})
    again = rcnn.load(folder / "saved", allow=[factory])
    assert torch.equal(detections(again), detections(detector))


def test_a_module_of_a_class_with_parameters_cannot_be_saved(mine: ModuleType, folder: Path) -> None:
    detector = rcnn.build_detector(BASE, backbone=mine.MyBackbone(width=20))
    assert detections(detector).shape[0] == 1
    with pytest.raises(ValueError, match=r"backbone was passed to build_detector as a module.*functools.partial\(make"):
        rcnn.save_checkpoint(folder / "saved", detector, detector.config, CLASSES, {})
    assert not (folder / "saved").exists()
    named = rcnn.build_detector(BASE, backbone=mine.MyBackbone)
    with pytest.raises(ValueError, match=r"does not name the detector's own modules: pass detector.config"):
        rcnn.save_checkpoint(folder / "saved", named, BASE, CLASSES, {})


def test_a_box_head_from_a_setting(folder: Path) -> None:
    config = rcnn.override(BASE, ["box.factory=my_head.py:make_box_head", "box.arguments={width: 12}"])
    detector = rcnn.build_detector(config)
    assert instance(present(detector.box_head).get_submodule("logits"), nn.Linear).in_features == 12
    rcnn.save_checkpoint(folder / "saved", detector, detector.config, CLASSES, {})
    again = rcnn.load(folder / "saved", allow="my_head.py:make_box_head")
    assert torch.equal(detections(again), detections(detector))


@pytest.mark.parametrize("part", ["box_head", "mask_head"])
def test_heads_that_are_passed(part: str) -> None:
    def make(config: DetectorConfig, maps: object) -> nn.Module:
        return getattr(rcnn.build_detector(BASE), part)

    detector = rcnn.build_detector(BASE, **{part: make})  # type: ignore[arg-type]
    assert detections(detector).shape == (1, 100)
    with pytest.raises(ValueError, match=r"keypoint_head was passed, but config.keypoint is None"):
        rcnn.build_detector(BASE, keypoint_head=make)
    with pytest.raises(ValueError, match="a Linear without the method losses"):
        rcnn.build_detector(BASE, **{part: lambda config, maps: nn.Linear(2, 2)})  # type: ignore[arg-type]


def test_code_that_is_not_allowed_is_never_imported(folder: Path) -> None:
    detector = rcnn.build_detector(rcnn.override(BASE, f"backbone.factory={FACTORY}"))
    rcnn.save_checkpoint(folder / "saved", detector, detector.config, CLASSES, {})
    (folder / "my_backbone.py").write_text("raise SystemExit('this ran')")
    for allow in (list[str](), ["my_backbone.py:other"], ["other.py:MyBackbone"], "my_backbone:MyBackbone"):
        for use in (rcnn.load, rcnn.load_checkpoint, rcnn.Predictor):
            with pytest.raises(ValueError, match=rf"saved: backbone.factory is {FACTORY}.*--allow {FACTORY}") as error:
                use(folder / "saved", allow=allow)
            assert f"allow=[{FACTORY!r}]" in str(error.value)


def test_the_allowed_path_wins_when_a_file_has_moved(folder: Path) -> None:
    detector = rcnn.build_detector(rcnn.override(BASE, f"backbone.factory={FACTORY}"))
    rcnn.save_checkpoint(folder / "saved", detector, detector.config, CLASSES, {})
    (folder / "code").mkdir()
    (folder / "my_backbone.py").rename(folder / "code" / "my_backbone.py")
    with pytest.raises(ValueError, match=r"my_backbone.py does not exist in .*--allow PATH/my_backbone.py:MyBackbone"):
        rcnn.load(folder / "saved", allow=FACTORY)
    again = rcnn.load(folder / "saved", allow=f"code/{FACTORY}")
    assert own_factories(again.config) == {"backbone.factory": f"code/{FACTORY}"}
    assert torch.equal(detections(again), detections(detector))
    moved = allow_factories(detector.config, [f"C:\\code\\{FACTORY}"], "file")
    assert own_factories(moved) == {"backbone.factory": f"C:\\code\\{FACTORY}"}


def test_files_with_one_name_in_two_folders_have_their_own_imports(folder: Path) -> None:
    for place, number in (("a", 1), ("b", 2)):
        (folder / place / "parts").mkdir(parents=True)
        (folder / place / "blocks.py").write_text(f"NUMBER = {number}")
        (folder / place / "parts" / "__init__.py").write_text(f"PART = {number}")
        (folder / place / "net.py").write_text(
            "import blocks\nimport parts\ndef make(): return blocks.NUMBER, parts.PART"
        )
    first, second = import_factory("a/net.py:make"), import_factory("b/net.py:make")
    assert (first(), second()) == ((1, 1), (2, 2))
    assert (path_of(first), path_of(second)) == ("a/net.py:make", "b/net.py:make")
    for name in ("blocks", "parts"):
        del sys.modules[name]


def test_a_file_may_replace_sys_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "net.py").write_text("import sys\nsys.path = []\ndef make(): return 3")
    assert import_factory("net.py:make")() == 3


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("nowhere.py:make", r"nowhere.py does not exist in"),
        ("my_backbone.py:MyBckbone", r"defines no MyBckbone; did you mean MyBackbone"),
        ("my_backbone.py:nn", r"is of type module; expected a function or class"),
        ("my_backbone.py", r"is not the import path of a factory; expected FILE.py:NAME"),
        ("no.such.module:make", r"importing no.such.module failed: ModuleNotFoundError.*a module must be installed"),
        ("broken.py:make", r"importing broken.py failed: SyntaxError"),
        ("reads.py:make", r"importing reads.py failed: FileNotFoundError.*weights\.bin"),
        ("my_backbone.py:MyBackbone.forward", r"forward\(\) failed: TypeError"),
        ("wrong.py:number", r"returned int; expected a torch.nn.Module"),
        ("wrong.py:silent", r"made a Linear with channels=None; expected a dict"),
        ("wrong.py:names", r"names its maps c2, c4; expected c2, c3, c4, c5"),
        ("wrong.py:layers", r"names its maps layer1; expected c2"),
        ("wrong.py:strides", r"map c2 is 32 x 48; strides\['c2'\]=8 makes 16 x 24"),
        ("wrong.py:channels", r"map c2 has 16 channels; channels\['c2'\] is 64"),
        ("wrong.py:few", r"forward returned c2; expected a dict with the maps c2, c3, as in channels"),
        ("wrong.py:crash", r"failed on an image of 128 x 192 pixels: RuntimeError: no luck"),
        ("wrong.py:numbers", r"with channels=\{2: 16\}; expected a dict, one number per map name, e.g. self.channels"),
        ("wrong.py:empty", r"has no parameters"),
        ("wrong.py:pyramid", r"is a pyramid itself \(p2, p3\); set fpn=null"),
        ("wrong.py:unequal", r"is a pyramid with p2: 16, p3: 8 channels; expected two maps or more, all with the same"),
    ],
)
def test_what_is_wrong_with_a_factory_is_said(folder: Path, factory: str, says: str) -> None:
    (folder / "broken.py").write_text("def make(:")
    (folder / "reads.py").write_text("weights = open('weights.bin').read()")
    (folder / "wrong.py").write_text(
        "from torch import nn\n"
        "def network(channels, strides, forward=lambda y: {'c2': y}):\n"
        "    class Own(nn.Conv2d):\n"
        "        def forward(self, x):\n"
        "            return forward(super().forward(x))\n"
        "    own = Own(3, 16, 4, stride=4)\n"
        "    own.channels, own.strides = channels, strides\n"
        "    return own\n"
        "def number(): return 3\n"
        "def silent(): return nn.Linear(1, 1)\n"
        "def names(): return network({'c2': 16, 'c4': 16}, {'c2': 4, 'c4': 16})\n"
        "def layers(): return network({'layer1': 16}, {'layer1': 4})\n"
        "def numbers(): return network({2: 16}, {2: 4})\n"
        "def strides(): return network({'c2': 16}, {'c2': 8})\n"
        "def channels(): return network({'c2': 64}, {'c2': 4})\n"
        "def few(): return network({'c2': 16, 'c3': 16}, {'c2': 4, 'c3': 8})\n"
        "def crash():\n"
        "    def forward(y): raise RuntimeError('no luck')\n"
        "    return network({'c2': 16}, {'c2': 4}, forward)\n"
        "def empty(): return nn.ReLU()\n"
        "def pyramid():\n"
        "    return network({'p2': 16, 'p3': 16}, {'p2': 4, 'p3': 8}, lambda y: {'p2': y, 'p3': y[:, :, ::2, ::2]})\n"
        "def unequal(): return network({'p2': 16, 'p3': 8}, {'p2': 4, 'p3': 8})\n"
    )
    with pytest.raises(ValueError, match=says):
        rcnn.build_detector(rcnn.override(BASE, f"backbone.factory={factory}"))


def test_settings_of_factories() -> None:
    config = rcnn.override(BASE, [f"backbone.factory={FACTORY}", "backbone.arguments.width=20"])
    assert config.backbone == OwnBackboneConfig(factory=FACTORY, arguments={"width": 20})
    assert OwnBackboneConfig(factory=FACTORY, arguments={"sizes": (1, 2)}).arguments == {"sizes": [1, 2]}
    for words, says in (
        (["backbone.arguments={width: 3}"], r"no such setting; set backbone.factory=... first"),
        (["backbone.factory="], r"backbone.factory is empty"),
        ([f"backbone.factory={FACTORY}", "backbone.arguments=3"], r"backbone.arguments: expected mapping, got 3"),
        ([f"backbone.factory={FACTORY}", "backbone.arguments={day: 2024-01-01}"], r"backbone.arguments is .*expected"),
        (["mask.factory=a.py:b", "mask=null", "mask.factory=a.py:b"], r"mask is off here"),
    ):
        with pytest.raises(ValueError, match=says):
            rcnn.override(BASE, words)
    with pytest.raises(ValueError, match=r"box.factory makes your own box head, which cascade does not use"):
        rcnn.build_detector(rcnn.override(BASE, ["box.factory=my_head.py:make_box_head", "cascade={}"]))


def test_training_and_evaluation_modes_are_kept() -> None:
    """The check of a backbone runs it in evaluation mode; frozen norms stay as they were."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.channels, self.strides = {"c2": 16}, {"c2": 4}
            self.conv, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.BatchNorm2d(16)
            self.frozen = nn.BatchNorm2d(16).eval()

        @override
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"c2": self.frozen(self.norm(self.conv(x)))}

    config = rcnn.override(BASE, ["fpn=null", "rpn.anchors.sizes=[[32]]"])
    backbone = instance(rcnn.build_detector(config, backbone=Normed()).backbone, Normed)
    assert (backbone.training, backbone.norm.training, backbone.frozen.training) == (True, True, False)
    assert not present(backbone.norm.running_mean).any()


def test_a_pyramid_of_its_own_and_bfloat16(folder: Path) -> None:
    (folder / "pyramid.py").write_text(
        "from my_backbone import MyBackbone\n"
        "class Pyramid(MyBackbone):\n"
        "    def __init__(self):\n"
        "        super().__init__(width=16)\n"
        "        self.channels = {name.replace('c', 'p'): 16 for name in self.channels}\n"
        "        self.strides = {name.replace('c', 'p'): stride for name, stride in self.strides.items()}\n"
    )
    words = ["backbone.factory=pyramid.py:Pyramid", "fpn=null", "rpn.anchors.sizes=[[16],[32],[64],[128]]"]
    detector = rcnn.build_detector(rcnn.override(BASE, words))
    assert detections(detector).shape == (1, 100)
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    assert rcnn.Predictor(detector, device="cpu", precision="bfloat16").predict(image).width == 96


class Strided(nn.Module):
    """Maps of the given strides."""

    def __init__(self, strides: dict[str, int]) -> None:
        super().__init__()
        self.channels, self.strides = dict.fromkeys(strides, 4), strides
        self.conv = nn.Conv2d(3, 4, 1)

    @override
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: self.conv(x[..., ::stride, ::stride]) for name, stride in self.strides.items()}


def test_a_pyramid_of_maps_of_one_stride_in_its_middle_is_refused() -> None:
    config = rcnn.override(BASE, ["rpn.anchors.sizes=[[8],[16],[32],[64],[128]]"])
    with pytest.raises(ValueError, match=r"expected maps with consecutive numbers"):
        rcnn.build_detector(config, backbone=Strided({"c2": 4, "c3": 8, "c4": 8, "c5": 16}))
    rcnn.build_detector(config, backbone=Strided({"c2": 4, "c3": 8, "c4": 16, "c5": 16}))


def test_one_map_is_needed_for_image_affine() -> None:
    config = rcnn.override(BASE, ["fpn=null", "box.pooler.kind=image_affine", "rpn.anchors.sizes=[[8],[16],[32]]"])
    with pytest.raises(ValueError, match=r"image_affine is defined for one map, .* several \(p2, p3\)"):
        rcnn.build_detector(config, backbone=Strided({"p2": 4, "p3": 8, "p4": 16}))


def test_a_pooler_refuses_kinds_of_other_classes() -> None:
    config = rcnn.override(BASE, "box.pooler.kind=affine").box.pooler
    with pytest.raises(
        ValueError, match=r"RegionPooler does not pool by affine, only by roi_align or roi_pool; .*build_"
    ):
        RegionPooler(config=config, strides={"p2": 4})
    with pytest.raises(ValueError, match="NormalizedPooler does not pool by affine, only by normalized;"):
        NormalizedPooler(config=config, strides={"p2": 4})
    AffinePooler(config=config, strides={"p2": 4})


def test_a_run_with_a_factory_in_a_folder_with_a_comma(tmp_path: Path) -> None:
    (tmp_path / "Müller, Jan").mkdir()
    factory = f"{write_own_modules(tmp_path / 'Müller, Jan')}/{FACTORY}"
    words = as_overrides({"backbone.factory": factory})
    request = RunRequest(model="mask_rcnn_compact", data=tmp_path, weights="none", overrides=words)
    start = choose_start(request, None, str, download=False)
    assert own_factories(rcnn.override(start.config, start.model_overrides)) == {"backbone.factory": factory}


def test_what_is_no_config_is_refused() -> None:
    value: Any = "mask_rcnn_r50_fpn"
    with pytest.raises(
        ValueError,
        match=r"got 'mask_rcnn_r50_fpn' .* for the config; expected a DetectorConfig, e.g. rcnn",
    ):
        rcnn.build_detector(value)
    with pytest.raises(ValueError, match=rf"got {value!r} to change; expected a config, e.g. rcnn.model_config"):
        rcnn.override(value, "num_classes=2")
    nothing: Any = None
    with pytest.raises(ValueError, match=r"got None for the name of the model; expected a string"):
        rcnn.model_config(nothing)


def test_layers_with_hooks_are_not_folded() -> None:
    """spectral_norm computes the weight in a hook, before each call."""
    torch.manual_seed(0)
    hooked, plain = nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 4, 3)
    norm, seen = nn.BatchNorm2d(4), list[int]()
    norm.register_forward_hook(lambda *_: seen.append(1))
    network = nn.Sequential(hooked, nn.BatchNorm2d(4), plain, norm, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    for layer in network:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(present(layer.running_mean))
    x = torch.randn(1, 3, 9, 9)
    expected = network(x)
    fold_pairs(network)
    seen.clear()
    torch.testing.assert_close(network(x), expected)
    assert seen == [1]
    assert [type(layer) for layer in network[1::2]] == [nn.BatchNorm2d, nn.BatchNorm2d, nn.Identity]


def test_configs_can_be_keys() -> None:
    config = rcnn.override(BASE, [f"backbone.factory={FACTORY}", "backbone.arguments.width=20"])
    assert len({config, replace(config), BASE}) == 2
