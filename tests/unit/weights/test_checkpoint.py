"""Our checkpoints: saving and loading, damage reported by file, and transfer to other classes."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rcnn.models import Detector, build_detector, model_config
from rcnn.models.config import CONFIG_VERSION
from rcnn.models.overrides import override
from rcnn.outputs import MARKER, OutputFolder
from rcnn.weights.checkpoint import load_checkpoint, load_detector, nonfinite, save_checkpoint
from rcnn.weights.record import record_digest
from rcnn.weights.transfer import transfer

CLASSES = ("cat", "dog", "boat", "tree", "kite", "cup")


def compact(seed: int = 0, *overrides: str) -> Detector:
    torch.manual_seed(seed)
    sizes = ["num_classes=6", "fpn.channels=64", "mask.convs=2"]  # what the tests below count on
    return build_detector(override(model_config("mask_rcnn_compact"), [*sizes, *overrides]))


def saved(folder: Path, seed: int = 0) -> Path:
    detector = compact(seed)
    save_checkpoint(folder, detector, detector.config, CLASSES, {"model": "test", "step": 3})
    return folder


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    detector = compact().to(memory_format=torch.channels_last)
    config = replace(
        detector.config,
        rpn=replace(detector.config.rpn, proposals=replace(detector.config.rpn.proposals, nms_iou=0.625)),
    )
    save_checkpoint(tmp_path / "m", detector, config, CLASSES, {"from": "here"})
    loaded, checkpoint = load_detector(tmp_path / "m")
    assert checkpoint.config == config
    assert loaded.config.rpn.proposals.nms_iou == 0.625
    assert checkpoint.classes == CLASSES
    assert checkpoint.provenance == {"from": "here"}
    expected = detector.state_dict()
    assert set(checkpoint.state) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m"], "nothing is left beside it"
    weights, settings = (tmp_path / "m" / name for name in ("model.safetensors", "config.json"))
    assert weights.stat().st_mode == settings.stat().st_mode, "who may read one may read the other"


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    """Modules that are used under two names, and views."""
    value = torch.arange(6.0)
    state = {"first": value, "second": value, "view": value[:2], "whole": value.view(2, 3), "part": value[3:]}
    save_checkpoint(tmp_path, state, compact().config, CLASSES)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], expected) for name, expected in state.items())


def test_what_cannot_be_read_again_is_not_written(tmp_path: Path) -> None:
    wrong: Any = range(6)
    with pytest.raises(ValueError, match=rf"{tmp_path}/m: expected class names as text, got 0, 1, 2 and 3 more"):
        save_checkpoint(tmp_path / "m", compact(), classes=wrong)
    arrays: Any = {"a": np.zeros(1)}
    with pytest.raises(ValueError, match="the state has a of type ndarray; expected tensors"):
        save_checkpoint(tmp_path / "m", arrays, compact().config, CLASSES)
    kind: Any = "bogus"
    with pytest.raises(ValueError, match="kind='bogus'; expected detector or backbone"):
        save_checkpoint(tmp_path / "m", compact(), kind=kind)
    assert not (tmp_path / "m").exists()


def test_only_the_detector_is_required(tmp_path: Path) -> None:
    detector = compact()
    save_checkpoint(tmp_path / "m", detector)
    checkpoint = load_detector(tmp_path / "m")[1]
    assert checkpoint.config == detector.config
    assert (checkpoint.classes, checkpoint.provenance) == (("0", "1", "2", "3", "4", "5"), {})
    save_checkpoint(tmp_path / "m", detector, classes=CLASSES)
    assert load_detector(tmp_path / "m")[1].classes == CLASSES
    with pytest.raises(ValueError, match="config is missing: dict has no config; pass the config of the detector"):
        save_checkpoint(tmp_path / "state", dict(detector.state_dict()))


def test_a_checkpoint_of_ours_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    saved(tmp_path / "m", seed=0)
    first = load_checkpoint(tmp_path / "m").state["rpn.deltas.weight"]
    saved(tmp_path / "m", seed=1)
    assert not torch.equal(load_checkpoint(tmp_path / "m").state["rpn.deltas.weight"], first)
    (tmp_path / "empty").mkdir()
    saved(tmp_path / "empty")
    (tmp_path / "m" / "notes.txt").write_text("mine")
    saved(tmp_path / "m", seed=0)
    assert torch.equal(load_checkpoint(tmp_path / "m").state["rpn.deltas.weight"], first)
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"
    copy = shutil.copytree(tmp_path / "m", tmp_path / "copy", ignore=shutil.ignore_patterns(MARKER))
    with pytest.raises(FileExistsError, match=r"copy/model.safetensors exists and was not written by rcnn"):
        saved(copy)
    assert torch.equal(load_checkpoint(copy).state["rpn.deltas.weight"], first)


def test_a_failed_write_leaves_the_old_one(tmp_path: Path) -> None:
    saved(tmp_path / "m")

    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_state_dict_pre_hook(self.fail)

        def fail(self, *_: object) -> None:
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        save_checkpoint(tmp_path / "m", Broken(), compact().config, CLASSES, {})
    load_checkpoint(tmp_path / "m")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_a_run_folder_means_its_best_or_else_its_last_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    saved(tmp_path / "last", seed=0)
    with pytest.warns(UserWarning, match=r"has no best/ \(no evaluation has finished\): last/ is used"):
        last = load_checkpoint(tmp_path).state["rpn.deltas.weight"]
    saved(tmp_path / "best", seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not torch.equal(load_checkpoint(tmp_path).state["rpn.deltas.weight"], last)


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of config.json (None removes one), with a matching digest."""
    path = folder / "config.json"
    record = {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    path.write_text(json.dumps(record | {"sha256": record_digest(record)}))


def test_each_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "model_final.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"not a checkpoint.*Found: model_final.pth.*rcnn convert .*model_final.pth"):
        load_checkpoint(tmp_path / "peer")
    with pytest.raises(ValueError, match=r"file of another framework: convert it with `rcnn convert"):
        load_checkpoint(tmp_path / "peer" / "model_final.pth")
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "training.pt").write_bytes(b"x")
    cure = "model.safetensors is missing: use another checkpoint of the run, or copy it from a backup$"
    with pytest.raises(ValueError, match=f"Found: training.pt; {cure}"):
        load_checkpoint(tmp_path / "last")
    with pytest.raises(
        ValueError, match=r"training\.pt is the state of a training run, .*: give the folder that .*last$"
    ):
        load_checkpoint(tmp_path / "last" / "training.pt")
    with OutputFolder(tmp_path / "run") as run:
        run.claim("log.jsonl").touch()
    for name in ("best", "pictures"):
        (tmp_path / "run" / name).mkdir()
        (tmp_path / "run" / name / ("config.json" if name == "best" else "a.jpg")).touch()
    with pytest.raises(ValueError, match=f"Found: config.json; {cure}"):
        load_checkpoint(tmp_path / "run" / "best")
    with pytest.raises(ValueError, match=r"is not a checkpoint: .* Found: a\.jpg$"):
        load_checkpoint(tmp_path / "run" / "pictures")

    folder = saved(tmp_path / "m")
    for version, cure in ((None, "convert or train the model again"), (99, "install that version of rcnn")):
        edit(folder, config_version=version)
        with pytest.raises(
            ValueError, match=rf"config_version {version}; .* reads config_version {CONFIG_VERSION}.*{cure}"
        ):
            load_checkpoint(folder)
        edit(folder, config_version=CONFIG_VERSION)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model.safetensors is truncated or damaged"):
        load_checkpoint(folder)
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    (folder / "model.safetensors").write_bytes(flipped)
    with pytest.raises(ValueError, match=r"is not the file that was written with the config\.json"):
        load_checkpoint(folder)
    (folder / "model.safetensors").write_bytes(whole)

    model = json.loads((folder / "config.json").read_text())["model"]
    edit(folder, format=99)
    with pytest.raises(ValueError, match=r"format 99.*pip install --upgrade rcnn"):
        load_checkpoint(folder)
    edit(folder, format=1, model=model | {"rpm": {}})
    with pytest.raises(ValueError, match=r"config.json: no setting 'rpm'; did you mean rpn"):
        load_checkpoint(folder)
    edit(folder, model=model, classes=["one"])
    with pytest.raises(ValueError, match=r"got 1 class name, expected 6 \(num_classes\)"):
        load_checkpoint(folder)
    edit(folder, classes=["cat"] * 6)
    with pytest.raises(ValueError, match="got cat twice or more"):
        load_checkpoint(folder)
    edit(folder, classes=["", *CLASSES[1:]])
    with pytest.raises(ValueError, match="class names that are not empty, got an empty one"):
        load_checkpoint(folder)
    edit(folder, classes=list(CLASSES), files=None)
    with pytest.raises(ValueError, match="lacks files"):
        load_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config.json is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classes", "null", "expected classes to be a list of names, got null"),
        ("classes", "[1, 2]", "expected classes to be a list of names, got 1 and 1 more"),
        ("classes", '{"0": "cat"}', "expected classes to be a list of names, got {"),
        ("model", "[]", "expected model to be an object"),
        ("model", '{"num_classes": "six"}', "num_classes"),
        ("model", '{"num_classes": 1e400}', "num_classes"),
        ("model", '{"fpn": {"channels": true}}', "fpn.channels"),
        ("kind", '"segmenter"', "expected kind to be one of detector, backbone, got 'segmenter'"),
        ("provenance", "3", "expected provenance to be an object"),
        (
            "files",
            '{"model.safetensors": 3}',
            "expected files to be an object of file names and .* got 3",
        ),
        ("format", "true", "expected format to be an integer, got true"),
        ("rcnn", "null", "expected rcnn to be a version, got null"),
        ("config_version", "[]", r"expected config_version to be an integer, got \[\]"),
        ("provenance", '{"a":' * 100_000, "is not JSON"),
        ("provenance", "[" * 100_000 + "]" * 100_000, "is not JSON"),
        ("model", '{"rpn":' * 500 + "{}" + "}" * 500, "config.json .*: no setting"),
    ],
)
def test_each_wrong_value_of_the_record_is_named(tmp_path: Path, key: str, value: str, message: str) -> None:
    path = saved(tmp_path / "m") / "config.json"
    record = json.loads(path.read_text()) | {key: "HERE"}
    path.write_text(json.dumps(record).replace('"HERE"', value))
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(tmp_path / "m")
    assert str(path) in str(caught.value)


def test_a_flipped_bit_in_the_record_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "m") / "config.json"
    text = path.read_bytes()
    for place in range(0, len(text), 97):
        flipped = bytearray(text)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises((ValueError, UserWarning), match=r"config\.json"):
                load_checkpoint(tmp_path / "m")
    path.write_text(json.dumps(json.loads(text), sort_keys=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(tmp_path / "m")  # the same values, written in another way


def test_classes_may_be_renamed_by_hand(tmp_path: Path) -> None:
    path = saved(tmp_path / "m") / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"classes": [f"my {name}" for name in record["classes"]]}))
    with pytest.warns(UserWarning, match=r"config\.json is not as rcnn wrote it: it was edited, or it is damaged"):
        checkpoint = load_checkpoint(tmp_path / "m")
    assert checkpoint.classes == tuple(f"my {name}" for name in record["classes"])


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m")
    model = json.loads((folder / "config.json").read_text())["model"]
    edit(folder, model=model | {"rpn": model["rpn"] | {"convs": 2}, "box": model["box"] | {"fc_width": 128}})
    with pytest.raises(ValueError, match=r"missing: rpn.convs.1.weight, rpn.convs.1.bias; of another shape: box_head"):
        load_detector(folder)


@pytest.mark.parametrize("change", [{"fc_width": 10**6}, {"fc_width": 10**6, "fcs": 128}])
def test_a_config_cannot_ask_for_more_memory_than_its_file_needs(tmp_path: Path, change: dict[str, int]) -> None:
    folder = saved(tmp_path / "m")
    model = json.loads((folder / "config.json").read_text())["model"]
    assert change.keys() <= model["box"].keys()
    edit(folder, model=model | {"box": model["box"] | change})
    with pytest.raises(ValueError, match=r"m cannot be built: the weights of this model would take more than \d+ MB"):
        load_detector(folder)


@pytest.mark.parametrize("key", ["size", "sampling_ratio"])
def test_a_config_cannot_ask_for_any_number_of_bins(tmp_path: Path, key: str) -> None:
    folder = saved(tmp_path / "m")
    model = json.loads((folder / "config.json").read_text())["model"]
    edit(folder, model=model | {"mask": model["mask"] | {"pooler": model["mask"]["pooler"] | {key: 10**9}}})
    with pytest.raises(ValueError, match=rf"mask\.pooler\.{key} is 1000000000; expected 0 to 128"):
        load_detector(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_is_refused(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path / "m") / name
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match=rf"{name} is not a regular file \(a pipe or a device\?\)"):
        load_detector(tmp_path / "m")


def test_wrong_values_under_a_right_digest_are_reported(tmp_path: Path) -> None:
    """Tensors that were damaged before the checkpoint was written."""
    detector = compact()
    state = dict(detector.state_dict())
    integers = state | {"rpn.deltas.weight": state["rpn.deltas.weight"].to(torch.int32)}
    save_checkpoint(tmp_path / "integers", integers, detector.config, CLASSES)
    with pytest.raises(ValueError, match=r"of another type: rpn\.deltas\.weight torch\.int32 \(expected"):
        load_detector(tmp_path / "integers")
    diverged = state | {"rpn.deltas.weight": torch.full_like(state["rpn.deltas.weight"], torch.nan)}
    save_checkpoint(tmp_path / "nan", diverged, detector.config, CLASSES)
    with pytest.warns(UserWarning, match=r"nan has NaN or infinity in 1 tensor: rpn\.deltas\.weight\."):
        load_detector(tmp_path / "nan")


def test_values_with_an_infinite_sum_are_finite() -> None:
    largest = torch.full((2,), torch.finfo(torch.float32).max)
    assert nonfinite({"largest": largest, "count": torch.tensor(3)}) == ""
    assert nonfinite({"largest": largest, "opposite": torch.tensor([torch.inf, -torch.inf])}).endswith(
        "1 tensor: opposite"
    )


def test_transfer_to_other_classes_keeps_the_rows_of_names_that_match(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m")
    source = load_file(folder / "model.safetensors")
    detector = compact(5, "num_classes=3")
    fresh = {name: value.clone() for name, value in detector.state_dict().items()}
    line = transfer(detector, load_checkpoint(folder), ("balloon", "boat", "cat"))
    assert (
        line
        == f"transferred {len(source) - 6} of {len(source)} tensors; new heads for balloon, those of boat, cat kept"
    )
    ours = detector.state_dict()
    scores, deltas, masks = (f"{n}.weight" for n in ("box_head.logits", "box_head.deltas", "mask_head.logits"))
    assert torch.equal(ours[scores][0], fresh[scores][0])
    assert torch.equal(ours[scores][1:], source[scores][[2, 0, 6]])  # boat, cat, background
    assert torch.equal(ours[deltas][:4], fresh[deltas][:4])
    assert torch.equal(ours[deltas][4:], torch.cat([source[deltas][8:12], source[deltas][:4]]))
    assert torch.equal(ours[masks][0], fresh[masks][0])
    assert torch.equal(ours[masks][1:], source[masks][[2, 0]])
    heads = ("box_head.logits", "box_head.deltas", "mask_head.logits")
    others = [name for name in source if not name.startswith(heads)]
    assert len(others) == len(source) - 6
    assert all(torch.equal(ours[name], source[name]) for name in others)


def test_transfer_to_the_same_classes_in_another_order_copies_all(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m")
    source = load_file(folder / "model.safetensors")
    detector = compact(5)
    assert (
        transfer(detector, load_checkpoint(folder), CLASSES[::-1])
        == f"transferred {len(source)} of {len(source)} tensors"
    )
    scores = detector.state_dict()["box_head.logits.bias"]
    assert torch.equal(scores, source["box_head.logits.bias"][[5, 4, 3, 2, 1, 0, 6]])


def test_transfer_names_parts_that_only_one_has_and_refuses_other_layers(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(saved(tmp_path / "m"))
    assert transfer(compact(5, "mask=null"), checkpoint, CLASSES).endswith("; skipped: mask_head")
    with pytest.raises(
        ValueError,
        match=r"built differently: mask.convs is 2 .*, 3 in .* \(add mask.convs=2\); mask_head.trunk.conv3.weight",
    ):
        transfer(compact(5, "mask.convs=3"), checkpoint, CLASSES)
    with pytest.raises(ValueError, match=r"fpn.lateral2.weight \(64, 32, 1, 1\) \(expected \(32, 32, 1, 1\)\)"):
        transfer(compact(5, "fpn.channels=32"), checkpoint, CLASSES)
