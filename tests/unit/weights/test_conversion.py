"""A whole conversion: what is listed, allowed, corrected and refused; no partial output remains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.ops import FrozenBatchNorm2d

import rcnn
from rcnn.models import build_detector, model_config
from rcnn.models.config import DetectorConfig
from rcnn.models.overrides import override
from rcnn.outputs import OutputFolder
from rcnn.training.found_run import find_run
from rcnn.weights import checkpoint as checkpoints
from rcnn.weights import convert as conversion
from rcnn.weights.checkpoint import load_checkpoint
from rcnn.weights.class_names import read_classes
from rcnn.weights.convert import ConvertOptions, convert_to_folder, list_systems
from rcnn.weights.export import export_checkpoint
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.readers.stored import LazyState
from rcnn.weights.selfcheck import generated_image
from rcnn.weights.systems.converted import expected_state
from rcnn.weights.systems.detectron2.system import to_detectron2
from rcnn.weights.systems.known import SYSTEMS
from rcnn.weights.systems.mmdetection.system import to_mmdetection
from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.system import Plan, System
from rcnn.weights.systems.torchvision import to_torchvision
from rcnn.weights.transfer import transfer
from tests.narrow import instance

Converting = tuple[Path, Path]


def c4(*words: str) -> DetectorConfig:
    """Faster R-CNN on C4 with narrow blocks and a narrow RPN: files of 44 MB in place of 130."""
    return override(
        model_config("faster_rcnn_r50_c4_caffe"),
        ["num_classes=3", "backbone.width_per_group=32", "rpn.width=64", *words],
    )


def state() -> dict[str, Tensor]:
    """The state of a Detectron2 detector, all ones, without memory."""
    expected = expected_state(c4())
    one = {name: torch.ones((), dtype=value.dtype).expand(value.shape) for name, value in expected.items()}
    return to_detectron2(one, c4())


PLAIN = ConvertOptions()


def run(file: Path, output: Path, options: ConvertOptions = PLAIN) -> str:
    lines: list[str] = []
    convert_to_folder(file, output, options, lines.append)
    return "\n".join(lines)


def nothing_is_left(folder: Path) -> bool:
    return sorted(path.name for path in folder.iterdir()) == ["model.pth"]


SCORES = "roi_heads.box_predictor.cls_score.weight"
WRONG: dict[str, tuple[dict[str, Tensor | None], ConvertOptions, str]] = {
    "NaN": (
        {SCORES: torch.full((4, 2048), torch.nan)},
        PLAIN,
        r"NaN or infinity in 1 tensor: box_head\.logits\.weight",
    ),
    "infinity": ({"roi_heads.box_predictor.cls_score.bias": torch.full((4,), -torch.inf)}, PLAIN, "NaN or infinity"),
    "integers": (
        {SCORES: torch.ones(4, 2048, dtype=torch.int8)},
        PLAIN,
        r"integers where weights are expected.*box_head\.logits\.weight",
    ),
    "complex": ({SCORES: torch.zeros(4, 2048, dtype=torch.complex64)}, PLAIN, "complex numbers"),
    "another shape": ({SCORES: torch.zeros(4, 2047)}, PLAIN, r"of another shape: box_head\.logits\.weight \(4, 2047\)"),
    "other class counts": (
        {SCORES: torch.zeros(9, 2048)},
        PLAIN,
        r"of another shape: .*box_head\.(deltas|scores)",
    ),
    "missing": (
        {"proposal_generator.rpn_head.conv.bias": None},
        PLAIN,
        r"missing: rpn\.convs\.0\.bias .*allow_missing \(--allow-missing\)",
    ),
    "missing, another allowed": (
        {"proposal_generator.rpn_head.conv.bias": None},
        ConvertOptions(allow_missing=("mask_head.*",)),
        r"missing: rpn\.convs\.0\.bias",
    ),
    "unused": ({"backbone.res3.0.extra.weight": torch.zeros(2)}, PLAIN, r"backbone\.res3\.0\.extra\.weight"),
    "too few names": (
        {},
        ConvertOptions(classes="a,b"),
        r"classes \(--classes\) a,b: got 2 class names, expected 3 \(num_classes\)",
    ),
    "the same name twice": ({}, ConvertOptions(classes="a,b,a"), "got a twice or more"),
    "a setting of another network": ({}, ConvertOptions(overrides=("rpn.convs=2",)), r"missing: rpn\.convs\.1"),
    "no setting": ({}, ConvertOptions(overrides=("rpm.convs=2",)), "did you mean rpn"),
}


@pytest.mark.parametrize("case", WRONG)
def test_weights_that_are_wrong_leave_nothing_behind(tmp_path: Path, case: str) -> None:
    changes, options, message = WRONG[case]
    changed = {name: value for name, value in (state() | changes).items() if value is not None}
    torch.save({"model": changed}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "model.pth", tmp_path / "out", options)
    assert nothing_is_left(tmp_path)


def test_the_python_function_takes_a_list_of_names(tmp_path: Path) -> None:
    torch.save({"model": state()}, tmp_path / "model.pth")
    names = ("square, left", "disc", "star")
    folder = rcnn.convert(tmp_path / "model.pth", tmp_path / "out", classes=names)
    assert rcnn.load_checkpoint(folder).classes == names
    for wrong, message in (
        (["a", "b"], r"got 2 class names, expected 3 \(num_classes\)"),
        ([0, 1, 2], r"got \[0, 1, 2\] \(list\) for classes; expected a text or a list of texts"),
    ):
        given: Any = wrong
        with pytest.raises(ValueError, match=message):
            rcnn.convert(tmp_path / "model.pth", tmp_path / "out", classes=given)


def test_allowed_differences_are_listed_and_options_are_applied(tmp_path: Path) -> None:
    weights = state() | {"ema.step": torch.zeros(1), "roi_heads.extra.weight": torch.zeros(2)}
    del weights["proposal_generator.rpn_head.conv.bias"]
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(40_000)}}}
    torch.save({"model": weights, "optimizer": optimizer, "iteration": 7}, tmp_path / "model.pth")
    (tmp_path / "names.txt").write_text("square\ndisc\n\nstar\n")
    said = run(
        tmp_path / "model.pth",
        tmp_path / "out",
        ConvertOptions(
            allow_missing=("rpn.convs.0.bias", "rpn.conv.*"),
            allow_unused=("ema.*", "roi_heads.extra.*", "emma.*"),
            classes=str(tmp_path / "names.txt"),
            overrides=("box.selection.nms_iou=0.25",),
            command="rcnn convert model.pth",
        ),
    )
    for line in (
        "optimizer (1 array)",
        "ema.step",
        "roi_heads.extra.weight",
        "rpn.convs.0.bias",
        "patterns that match no tensor:\n    emma.* (--allow-unused)\n    rpn.conv.* (--allow-missing)\n",
        "read back bit for bit",
    ):
        assert line in said
    with pytest.raises(ValueError, match=r"allow_unused \(--allow-unused\) \* matches all of its \d+ tensors"):
        run(tmp_path / "model.pth", tmp_path / "none", ConvertOptions(allow_unused=("*",)))
    written = load_checkpoint(tmp_path / "out")
    assert written.classes == ("square", "disc", "star")
    assert written.config.box.selection.nms_iou == 0.25
    assert {"converted_from", "sha256", "system", "assumed", "skipped", "command", "torch"} <= set(written.provenance)
    assert written.provenance["converted_from"] == "model.pth"
    assert written.provenance["command"] == "rcnn convert model.pth"
    assert float(written.state["rpn.objectness.weight"].mean()) == 1
    assert float(written.state["rpn.convs.0.bias"].abs().max()) == 0  # as it is drawn
    with pytest.raises(ValueError, match=r"expected the folder that contains|belongs to an rcnn checkpoint"):
        run(tmp_path / "out" / "model.safetensors", tmp_path / "again")


def tree(folder: Path) -> dict[str, bytes]:
    """The content of each file below `folder`, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_a_checkpoint_that_rcnn_wrote_is_replaced(tmp_path: Path) -> None:
    torch.save({"model": state()}, tmp_path / "model.pth")
    torch.save({"model": state() | {"roi_heads.box_predictor.cls_score.bias": torch.zeros(4)}}, tmp_path / "other.pth")
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    run(tmp_path / "model.pth", out)
    before = tree(out)
    run(tmp_path / "other.pth", out)
    assert tree(out)["model.safetensors"] != before["model.safetensors"]
    assert (out / "notes.txt").read_text() == "mine"
    run(tmp_path / "model.pth", out)
    before = tree(out)
    (tmp_path / "broken.pth").write_bytes((tmp_path / "model.pth").read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or damaged"):
        run(tmp_path / "broken.pth", out)
    assert tree(out) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_the_user_is_never_replaced(tmp_path: Path, name: str) -> None:
    torch.save({"model": state()}, tmp_path / "model.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"out/{name} exists and was not written by rcnn"):
        run(tmp_path / "model.pth", tmp_path / "out")
    assert tree(tmp_path / "out") == {name: b"mine"}


def test_a_run_is_never_replaced(tmp_path: Path) -> None:
    torch.save({"model": state()}, tmp_path / "model.pth")
    with OutputFolder(tmp_path / "run") as folder:
        folder.write_json("config.json", {"train": {}})
        checkpoint = folder.claim("last")
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_text("weights")
    before = tree(tmp_path / "run")
    for output, message in (
        (checkpoint, "last/model.safetensors exists"),
        (tmp_path / "run", "contains last of another"),
    ):
        with pytest.raises(FileExistsError, match=message):
            run(tmp_path / "model.pth", output)
    assert tree(tmp_path / "run") == before
    run(tmp_path / "model.pth", tmp_path / "converted")
    with pytest.raises(FileExistsError, match="converted is a checkpoint; a run needs its own folder"):
        find_run(tmp_path / "converted")


def test_symbolic_links_in_the_output_are_not_followed(tmp_path: Path) -> None:
    torch.save({"model": state()}, tmp_path / "model.pth")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError, match=r"out/model.safetensors is a symbolic link"):
        run(tmp_path / "model.pth", tmp_path / "out")
    run(tmp_path / "model.pth", tmp_path / "converted")
    (tmp_path / "back.pth").symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError, match=r"back.pth is a symbolic link"):
        export_checkpoint(tmp_path / "converted", tmp_path / "back.pth", "detectron2")
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_export_replaces_only_its_own_file(tmp_path: Path) -> None:
    torch.save({"model": state()}, tmp_path / "model.pth")
    run(tmp_path / "model.pth", tmp_path / "out")
    for name in ("back.pth", "back.yaml"):
        (tmp_path / "back" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "back" / name).write_text("mine")
        with pytest.raises(FileExistsError, match=rf"back/{name} exists and was not written by rcnn"):
            export_checkpoint(tmp_path / "out", tmp_path / "back" / "back.pth", "detectron2")
        assert tree(tmp_path / "back") == {name: b"mine"}
        (tmp_path / "back" / name).unlink()
    for _ in range(2):
        export_checkpoint(tmp_path / "out", tmp_path / "back" / "back.pth", "detectron2")
    assert sorted(tree(tmp_path / "back")) == [".rcnn-files", "back.pth", "back.yaml"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_conversion_that_is_broken_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    torch.save({"model": state()}, tmp_path / "model.pth")

    def broken(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(checkpoints, "save_file", broken)
    with pytest.raises(type(failure)):
        run(tmp_path / "model.pth", tmp_path / "out")
    assert nothing_is_left(tmp_path)


def test_a_disk_that_gives_back_other_numbers_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": state()}, tmp_path / "model.pth")

    def forgetful(tensors: dict[str, Tensor], path: Path) -> None:
        save_file(tensors | {"rpn.objectness.bias": tensors["rpn.objectness.bias"] + 1}, path)

    monkeypatch.setattr(checkpoints, "save_file", forgetful)
    with pytest.raises(ValueError, match=r"different values from those written \(rpn\.objectness\.bias\)"):
        run(tmp_path / "model.pth", tmp_path / "out")


def test_float16_weights_prefixes_and_other_entries(tmp_path: Path) -> None:
    half = {f"module.{name}": value.half() for name, value in state().items() if value.is_floating_point()}
    torch.save({"model": half, "model_ema": half, "epoch": 3}, tmp_path / "model.pth")
    found = conversion.find_weights(tmp_path / "model.pth")
    assert set(found.state) == set(state())
    assert found.state[SCORES].dtype == torch.float32
    assert instance(found.state, LazyState).kind(SCORES) == "f2"
    assert found.extras["epoch"] == 3
    assert found.skipped[0].startswith("model_ema (")


def test_class_names_from_text_and_files(tmp_path: Path) -> None:
    assert read_classes("a, b,c") == ("a", "b", "c")
    (tmp_path / "names").write_text("traffic light\nstop sign\n")
    assert read_classes(str(tmp_path / "names")) == ("traffic light", "stop sign")
    assert read_classes("car/truck") == ("car/truck",)
    with pytest.raises(FileNotFoundError, match=r"clases\.txt does not exist; expected class names a,b,c or a file"):
        read_classes("clases.txt")


def test_every_system_is_listed() -> None:
    lines = "\n".join(list_systems())
    assert len(SYSTEMS) >= 10
    assert all(system.name in lines for system in SYSTEMS)
    assert "mmdetection" in lines


def test_the_image_of_the_check_is_the_same_every_time_and_is_a_picture() -> None:
    picture = generated_image()
    assert torch.equal(picture, generated_image())
    assert not torch.equal(picture, generated_image(1))
    assert picture.float().std() > 20


def test_differences_are_described(tmp_path: Path) -> None:
    torch.save({"model": state()}, tmp_path / "model.pth")
    run(tmp_path / "model.pth", tmp_path / "out")
    given = load_checkpoint(tmp_path / "out")
    detector = build_detector(c4("backbone.norm=gn"))
    with pytest.raises(
        ValueError,
        match=r"backbone: frozen batch norm in the checkpoint, group norm in the detector \(add backbone\.norm=",
    ):
        transfer(detector, given, given.classes)
    with pytest.raises(ValueError, match=r"its backbone has frozen batch norm, the detector's has group norm"):
        checkpoints.load_state(detector, given.state, "DIR")
    with pytest.raises(ValueError, match=r"it has 3 classes, the detector has 5 \(`rcnn train CHECKPOINT`"):
        checkpoints.load_state(build_detector(c4("num_classes=5")), given.state, "DIR")
    # the way back, and what it refuses
    said: list[str] = []
    export_checkpoint(tmp_path / "out", tmp_path / "back.pkl", "detectron2", said.append)
    assert "all" in said[1]
    assert "equal bit for bit" in said[1]
    assert (tmp_path / "back.yaml").exists()
    for output, system, message in (
        ("back.txt", "detectron2", "ends in .pth or .pkl"),
        ("other.pth", "yolo", "expected one of detectron2, mmdetection, tensorpack, torchvision"),
        ("other.pth", "torchvision", "torchvision"),
    ):
        with pytest.raises((ValueError, FileExistsError), match=message):
            export_checkpoint(tmp_path / "out", tmp_path / output, system)
    assert not (tmp_path / "other.pth").exists()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["kind"] == "detector"


def test_export_of_norms_without_eps() -> None:
    """The exported norms, run by torchvision with its eps of 1e-5, give what ours give with 0."""
    config = override(model_config("faster_rcnn_r50_fpn"), ["backbone.norm_eps=0.0"])
    name = "backbone.stem.conv1.norm"
    state = {f"{name}.{value}": torch.rand(64) for value in ("running_mean", "weight", "bias")}
    state[f"{name}.running_var"] = torch.empty(64).uniform_(1e-4, 1e-3)
    theirs = to_torchvision(state, config)
    norm = FrozenBatchNorm2d(64)
    norm.load_state_dict({value: theirs[f"backbone.body.bn1.{value}"] for value in norm.state_dict()})
    pixels = torch.randn(1, 64, 2, 2)
    mean, variance, weight, bias = (
        state[f"{name}.{value}"][:, None, None] for value in ("running_mean", "running_var", "weight", "bias")
    )
    torch.testing.assert_close(norm(pixels), (pixels - mean) / variance.sqrt() * weight + bias)
    other = to_mmdetection(state, config)
    assert torch.equal(other["backbone.bn1.running_var"], norm.running_var)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("can't allocate memory: 8 bytes"), RuntimeError),
        (RuntimeError("CUDA out of memory"), RuntimeError),
        (RuntimeError("some elements refer to a single memory location"), ValueError),
        (RuntimeError("size 3"), ValueError),
        (TypeError(), ValueError),
    ],
)
def test_too_little_memory_is_not_a_wrong_file(error: Exception, expected: type[Exception]) -> None:
    def read(found: Found, settings: SettingsSource) -> Plan:
        raise error

    system = System(name="X", files=".pth", recognises=bool, read=read)
    with pytest.raises(expected, match="memory" if expected is RuntimeError else "cannot be read as a file of X"):
        system.convert(Found(state={}, source="a.pth", extras={}))
