"""Numbers, switches, choices and paths that no function can use: refused at once, with one sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import rcnn
from rcnn.evaluation.plan import EvaluationOptions
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from tests.tiny_data import TINY_MODEL

NOWHERE = Path("absent")
IMAGE = np.zeros((8, 8, 3), np.uint8)
train = partial(rcnn.train, "mask_rcnn_compact", NOWHERE)
plan = partial(rcnn.plan, "mask_rcnn_compact", NOWHERE)
evaluate = partial(rcnn.evaluate, NOWHERE, NOWHERE)
CALLS: dict[Callable[..., object], tuple[str, ...]] = {  # function -> arguments that are whole numbers
    evaluate: ("limit", "batch_size", "workers", "pictures", "devices", "max_detections"),
    train: ("devices", "max_restarts"),
    plan: ("devices",),
    partial(rcnn.compare, NOWHERE, NOWHERE): ("samples", "seed"),
    partial(rcnn.browse_dataset, NOWHERE): ("limit",),
    partial(rcnn.check_dataset, NOWHERE): ("workers",),
    partial(rcnn.fix_dataset, NOWHERE, NOWHERE): ("workers",),
    partial(rcnn.split_dataset, NOWHERE, (0.8, 0.2), NOWHERE): ("workers",),
    rcnn.benchmark: ("repeats", "batch_sizes"),
}
SWITCHES: dict[Callable[..., object], tuple[str, ...]] = {
    evaluate: ("strict", "allow_empty", "relative_boxes", "ignore_other_classes", "boundary", "compile"),
    train: ("resume", "strict", "allow_empty", "relative_boxes"),
    plan: ("resume", "strict"),
    partial(rcnn.open_dataset, Path()): ("strict", "keypoints", "one_class"),
    partial(rcnn.check_dataset, Path()): ("no_images", "keypoints"),
    partial(rcnn.fix_dataset, NOWHERE, NOWHERE): ("crowds_as_objects",),
    partial(rcnn.convert, NOWHERE): ("allow_nonfinite",),
    partial(rcnn.export_model, NOWHERE, "a.onnx"): ("with_resize",),
    partial(rcnn.AugmentedPredictor, NOWHERE): ("flip",),
    partial(rcnn.Predictor, NOWHERE): ("compile",),
    rcnn.TargetOptions: ("keypoints", "crowds"),
    rcnn.benchmark: ("peer", "memory"),
}
NO_COUNTS: tuple[Any, ...] = ("x", "", 0.5, float("nan"), -1, True, [None], np.zeros(2), 10**400, 10**5000)


@pytest.fixture(scope="module")
def predictor() -> rcnn.Predictor:
    """A tiny detector with random weights."""
    detector = build_detector(override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2"]))
    return rcnn.Predictor(detector, device="cpu")


@pytest.mark.parametrize(("call", "name"), [(call, name) for call, names in CALLS.items() for name in names])
def test_numbers_of_another_type_or_size_are_refused(call: Callable[..., object], name: str) -> None:
    for value in NO_COUNTS:
        with pytest.raises(ValueError, match=rf"^{name}=.*; expected ") as refused:
            call(**{name: value})
        assert len(str(refused.value)) < 250


@pytest.mark.parametrize(("call", "name"), [(call, name) for call, names in SWITCHES.items() for name in names])
def test_a_text_is_no_switch(call: Callable[..., object], name: str) -> None:
    for value in ("no", None, 1, np.int64(0), np.ones(2)):
        with pytest.raises(ValueError, match=rf"^got .* for {name}; expected True or False$"):
            call(**{name: value})


def test_switches_and_pairs_of_numpy_are_accepted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no annotations in a known format"):
        rcnn.open_dataset(tmp_path, strict=np.False_, keypoints=np.True_)  # type: ignore[arg-type]
    for pairs in (np.array([[1, 2]]), [[np.int64(1), np.int64(2)]], ((1, 2),)):
        options = rcnn.TargetOptions(keypoints=np.True_, pairs=pairs)  # type: ignore[arg-type]
        assert repr(options) == repr(rcnn.TargetOptions(keypoints=True, pairs=((1, 2),)))


def test_long_texts_that_are_no_paths_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"")
    settings = " ".join(f"KEY_{number}={number}" for number in range(100))
    with pytest.raises(ValueError, match=r"a\.pth") as refused:
        rcnn.convert(tmp_path / "a.pth", tmp_path / "out", config=settings)
    assert "too long" not in str(refused.value)
    url = f"http://localhost:8000/{'a' * 300}"
    assert rcnn.Client(url).url == url


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_numbers_of_no_dimensions_are_accepted(
    kind: Callable[[float], Any], predictor: rcnn.Predictor, tmp_path: Path
) -> None:
    """The errors are about what is not there, so the numbers before were accepted."""
    numbers: dict[str, Any] = {"limit": kind(1), "workers": kind(0), "max_detections": kind(5), "devices": kind(1)}
    options = EvaluationOptions(limit=numbers["limit"], workers=kind(0), max_detections=kind(5))
    assert repr(options) == repr(EvaluationOptions(limit=1, workers=0, max_detections=5)), "JSON has plain numbers"
    with pytest.raises(FileNotFoundError):
        evaluate(**numbers)
    with pytest.raises(FileNotFoundError):
        rcnn.split_dataset(NOWHERE, (kind(0.8), kind(0.2)), tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        plan(val_fraction=kind(0.2))
    assert rcnn.Client("http://localhost:8000", timeout=kind(5)).timeout == 5
    given: dict[str, Any] = {"score": kind(0.0), "batch_size": kind(2), "max_pixels": kind(100)}
    assert len(predictor.predict([IMAGE, IMAGE], **given)) == 2
    tiled = rcnn.predict_tiled(predictor, IMAGE, tile=kind(32), overlap=kind(0.5), score=kind(0.5))
    assert tiled.scores.tolist() == predictor.predict(IMAGE, score=0.5).scores.tolist()


def test_one_text_is_a_list_of_one() -> None:
    with pytest.raises(ValueError, match=r"^no fault has the id 'boxes'"):
        rcnn.check_dataset(NOWHERE, only="boxes")
    with pytest.raises(ValueError, match=r"^names \(--names\) train: expected 2 different names"):
        rcnn.split_dataset(NOWHERE, (0.8, 0.2), NOWHERE, names="train")
    with pytest.raises(ValueError, match=r"^precision='half' is not known; expected float32, bfloat16, auto"):
        rcnn.benchmark(precisions="half")  # type: ignore[arg-type]


def test_a_validation_set_is_a_data_set() -> None:
    wrong: tuple[Any, ...] = (5, "val", [NOWHERE])
    for call in (train, plan):
        for value in wrong:
            with pytest.raises(
                ValueError, match=r"^got .* for validation; expected a Dataset; for a split .* val_split"
            ):
                call(validation=value)


def test_choices_of_an_evaluation_are_checked_before_its_files() -> None:
    with pytest.raises(ValueError, match=r"^metric 'ap' is not known; expected coco, voc2007, voc2012, lvis"):
        evaluate(metric="ap")
    with pytest.raises(ValueError, match=r"^metric 'ap' is not known; expected coco, voc2007, voc2012, lvis"):
        rcnn.compare(NOWHERE, NOWHERE, metric="ap")
    with pytest.raises(ValueError, match=r"^precision='half' is not known; expected float32, bfloat16, auto"):
        evaluate(precision="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^padding='none' is not known; expected exact, bucket"):
        evaluate(padding="none")  # type: ignore[arg-type]
    devices: tuple[Any, ...] = (0, np.int64(0), np.array(0), "cuda:0", torch.device("cuda", 0))
    for device in devices:
        with pytest.raises(ValueError, match=r"^device cuda:0 cannot be chosen for processes that rcnn starts"):
            evaluate(devices=2, device=device)


def test_fractions_and_choices_of_another_type_are_refused() -> None:
    wrong: tuple[Any, ...] = ("", "0.2", float("nan"), True, 1, -0.1, [0.2], 10**400)
    for value in wrong:
        with pytest.raises(ValueError, match=r"^val_fraction=.* \(--val-fraction\): expected 0 \(no images\) to less"):
            plan(val_fraction=value)
    for value in ([None], np.array(["onnx", "torch"]), 5):
        with pytest.raises(ValueError, match=r"^the target .* is not known; expected onnx"):
            rcnn.export_model(NOWHERE, "a.onnx", to=value)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^precision=.* is not known; expected float32"):
            rcnn.export_model(NOWHERE, "a.onnx", precision=value)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^padding=.* is not known; expected exact, bucket"):
            rcnn.Predictor(NOWHERE, padding=value)  # type: ignore[arg-type]
    devices: tuple[Any, ...] = (np.array(["cpu", "cuda"]), 10**5000, None, 0.5, True)
    for value in devices:
        with pytest.raises(ValueError, match=r"^device .* is not (known|supported); expected auto, cpu"):
            plan(device=value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_pixels": "x"}, "max_pixels='x'; expected a number of pixels, or 0 for no limit"),
        ({"max_pixels": float("nan")}, "max_pixels=nan; expected"),
        ({"max_pixels": -1}, "max_pixels=-1; expected"),
        ({"max_pixels": None}, "max_pixels=None; expected"),
        ({"batch_size": 10**400}, r"batch_size=1000.*; expected 9,223,372,036,854,775,807 or less"),
        ({"boxes": 10**400}, r"boxes=1000.*; expected N rows of four numbers"),
        ({"boxes": torch.zeros(1, 4, device="meta")}, "boxes=tensor.*; expected N rows of four numbers"),
        ({"boxes": torch.zeros(1, 4).to_sparse()}, "boxes=tensor.*; expected N rows of four numbers"),
        ({"boxes": [[0, 0, 4, 4]], "labels": torch.zeros(1, device="meta").long()}, "labels=tensor.*; expected 1 int"),
        ({"channels": np.array(["rgb", "bgr"])}, r"channels=array\(.*\) is not known; expected 'rgb' or 'bgr'"),
        ({"errors": np.array(["raise", "return"])}, r"errors=array\(.*\) is not known; expected 'raise' or 'return'"),
        ({"score": True}, "score=True; expected a number from 0 to 1"),
        ({"score": {"a": True}}, "score=True; expected a number from 0 to 1"),
        ({"score": np.zeros(2)}, r"score=array\(.*\); expected a number from 0 to 1"),
    ],
)
def test_arguments_of_predict(predictor: rcnn.Predictor, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}"):
        predictor.predict(IMAGE, **arguments)


def test_boxes_of_several_images_are_a_list(predictor: rcnn.Predictor) -> None:
    with pytest.raises(ValueError, match=r"^boxes=5; expected a list of boxes, one entry per image"):
        predictor.predict([IMAGE], boxes=5)  # type: ignore[call-overload]


def test_tensors_without_values_in_memory_are_refused(predictor: rcnn.Predictor) -> None:
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"on the device meta, which has no values; expected uint8 \(3, H, W\) on"):
        predictor.predict(image.to("meta"))
    with pytest.raises(ValueError, match=r"and sparse .*; expected uint8 .*convert with image.to_dense\(\)"):
        predictor.predict(image.to_sparse())


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000, "/".join(["folder"] * 800)])
def test_paths_that_no_file_can_have_are_refused_at_once(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predictor: rcnn.Predictor
) -> None:
    monkeypatch.chdir(tmp_path)
    calls: dict[str, Callable[[], object]] = {
        "the output folder": partial(evaluate, output=path),
        "the output file": partial(rcnn.export_model, NOWHERE, f"{path}.onnx"),
        "the model": partial(rcnn.Predictor, path),
        "the checkpoint": partial(rcnn.load_checkpoint, path),
        "the data set": partial(rcnn.open_dataset, path),
        "split": partial(rcnn.open_dataset, tmp_path, path),
        "annotations": partial(rcnn.open_dataset, tmp_path, annotations=path),
        "the first model": partial(rcnn.compare, path, path),
        "the video": partial(rcnn.write_video, path, [Image.new("RGB", (8, 8))], 5),
    }
    reason = r"contains a NUL character \(\\x00\)" if "\0" in path else "is too long for a path: names have up to 255"
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"^got '.* for {name}, which {reason}.*; expected ") as refused:
            call()
        assert len(str(refused.value)) < 450
    for call in (partial(plan, output=path), partial(plan, weights=path), partial(plan, images=path)):
        with pytest.raises(ValueError, match=rf"^got '.* for .*, which {reason}"):
            call()
    with pytest.raises(FileNotFoundError, match=rf"^'.* {reason}.*: check the path"):
        predictor.predict(path)
    found = predictor.predict([path, IMAGE], errors="return")
    assert isinstance(found[0], FileNotFoundError)
    assert isinstance(found[1], rcnn.ImageDetections)
    assert not any(tmp_path.iterdir())


def test_several_names_joined_by_plus_may_be_longer_than_one_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no annotations in a known format"):
        rcnn.open_dataset(tmp_path, "+".join(["train"] * 60))
