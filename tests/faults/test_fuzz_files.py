"""Mutated images, checkpoints and run folders: each is read, or refused by an error of rcnn that names the file."""

from __future__ import annotations

import copy
import io
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from rcnn.data.images import read_image
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.training.log import read_log
from rcnn.training.plan import plan_training
from rcnn.training.request import RunRequest
from rcnn.training.run import run_training
from rcnn.weights.checkpoint import save_checkpoint
from tests.faults.mutations import MUTANTS, mutate
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco

SIZE = (24, 16)  # of the images, width and height
# Pillow's name of a format -> modes and options of its variants
FORMATS: dict[str, list[tuple[str, dict[str, object]]]] = {
    "JPEG": [("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True}), ("RGB", {"exif": True})],
    "PNG": [("RGB", {}), ("RGBA", {}), ("P", {}), ("1", {}), ("LA", {}), ("I;16", {}), ("L", {"optimize": True})],
    "WEBP": [("RGB", {}), ("RGBA", {"lossless": True})],
    "TIFF": [("RGB", {}), ("CMYK", {}), ("LA", {}), ("L", {"compression": "tiff_lzw"}), ("1", {}), ("I;16", {})],
    "BMP": [("RGB", {}), ("P", {}), ("1", {})],
    "GIF": [("P", {}), ("L", {})],
    "JPEG2000": [("RGB", {}), ("L", {})],
    "PPM": [("RGB", {}), ("L", {}), ("1", {})],
    "TGA": [("RGB", {}), ("RGBA", {"compression": "tga_rle"})],
    "ICO": [("RGBA", {})],
    "PCX": [("RGB", {})],
    "SGI": [("RGB", {})],
    "AVIF": [("RGB", {})],
    "QOI": [("RGB", {})],
    "DDS": [("RGBA", {})],
    "IM": [("RGB", {})],
    "XBM": [("1", {})],
}


def quietly(check: Callable[[], object]) -> Callable[[], object]:
    """`check` as a hypothesis test of MUTANTS examples, the same in each run."""
    configured = settings(
        max_examples=MUTANTS,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    return configured(check)


def outcome(file: Path, use: Callable[[], object]) -> str:
    """`read` or `refused`. Any other error, or a refusal that names neither `file` nor its folder, fails the test."""
    try:
        use()
    except (ValueError, OSError) as error:
        message = str(error)
        assert file.name in message or str(file.parent) in message, message
        message.encode()  # can be printed
        return "refused"
    return "read"


def encoded() -> list[tuple[str, bytes]]:
    """An image in every format and mode that Pillow can write here: suffix and content."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    suffixes = {name: suffix for suffix, name in reversed(Image.registered_extensions().items())}
    found: list[tuple[str, bytes]] = []
    for name, variants in FORMATS.items():
        if name not in Image.SAVE:
            continue
        for mode, options in variants:
            variant = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
            if options.pop("exif", False):
                exif = Image.Exif()
                exif[0x0112] = 6  # orientation: rotated
                options["exif"] = exif.tobytes()
            buffer = io.BytesIO()
            variant.save(buffer, name, **options)
            found.append((suffixes[name], buffer.getvalue()))
    return found


def mutated_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with one to four bytes changed, a piece removed, doubled or swapped with noise, or its end cut off."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([1, 1, 1, 2, 4, 16, 64]))
        piece = data[start : start + length]
        kind = draw(st.sampled_from(["byte", "byte", "noise", "remove", "double", "cut", "huge"]))
        if kind == "cut":
            data = data[:start]
        elif kind == "remove":
            data = data[:start] + data[start + length :]
        elif kind == "double":
            data = data[:start] + piece * 2 + data[start + length :]
        else:
            new = {"byte": draw(st.binary(min_size=1, max_size=1)), "huge": b"\xff\xff\xff\xff"}.get(
                kind, draw(st.binary(min_size=length, max_size=length)) if kind == "noise" else b""
            )
            data = data[:start] + new + data[start + len(new) :]
    return data


def test_mutated_images_are_read_or_refused(tmp_path: Path) -> None:
    originals = encoded()
    assert len(originals) >= 30
    for number, (suffix, content) in enumerate(originals):  # each is an image before it is mutated
        file = tmp_path / f"original-{number}{suffix}"
        file.write_bytes(content)
        assert read_image(file).shape[0] == 3
    seen: Counter[str] = Counter()

    @st.composite
    def mutants(draw: st.DrawFn) -> tuple[str, bytes]:
        suffix, content = draw(st.sampled_from(originals))
        return suffix, mutated_bytes(draw, content)

    def check(mutant: tuple[str, bytes]) -> None:
        suffix, content = mutant
        file = tmp_path / f"mutant{suffix}"
        file.write_bytes(content)

        def use() -> None:
            image = read_image(file, max_pixels=10**6)
            assert image.dtype == torch.uint8
            assert image.ndim == 3
            assert image.shape[0] == 3

        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            seen[outcome(file, use)] += 1

    quietly(given(mutants())(check))()
    print(f"{sum(seen.values())} mutants in {len(originals)} variants of formats: {dict(seen)}")
    assert set(seen) == {"read", "refused"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny model, with its data."""
    root = tmp_path_factory.mktemp("runs")
    data = write_tiny_coco(root / "data", {"train": 2, "val": 1}, size=(64, 96))
    words = (*TINY_MODEL, "train.steps=2", "train.batch_size=1", "train.workers=0", "train.warmup_steps=1")
    request = RunRequest(model="mask_rcnn_compact", data=data, output=root / "run", overrides=words, device="cpu")
    run_training(request, log=lambda line: None)
    return root / "run"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    detector = build_detector(override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2"]))
    save_checkpoint(folder, detector, detector.config, CLASSES, {})
    return folder


def check_json(file: Path, use: Callable[[], object]) -> Counter[str]:
    """What becomes of mutants of a JSON file; the file is the same afterwards."""
    original = file.read_text()
    content = json.loads(original)
    seen: Counter[str] = Counter()

    @st.composite
    def mutants(draw: st.DrawFn) -> str:
        value = copy.deepcopy(content)
        for _ in range(draw(st.integers(1, 3))):
            if isinstance(value, (dict, list)):
                value = mutate(draw, value)
        text = json.dumps(value)
        return text if draw(st.integers(0, 9)) else text[: draw(st.integers(0, len(text)))]

    def check(text: str) -> None:
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        seen[outcome(file, use)] += 1

    try:
        quietly(given(mutants())(check))()
    finally:
        file.write_text(original)
    print(f"{sum(seen.values())} mutants of {file.name}: {dict(seen)}")
    return seen


def test_mutated_records_of_runs_are_resumed_or_refused(run: Path) -> None:
    request = RunRequest(
        model="mask_rcnn_compact", data=run.parent / "data", output=run, resume=True, device="cpu", allow_empty=True
    )
    assert "refused" in check_json(run / "config.json", lambda: plan_training(request))


def test_mutated_configs_of_checkpoints_are_loaded_or_refused(checkpoint: Path) -> None:
    seen = check_json(checkpoint / "config.json", lambda: Predictor(checkpoint, device="cpu"))
    assert "refused" in seen


def test_mutated_weights_are_loaded_or_refused(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    original = file.read_bytes()
    header = original[:4000]  # where the structure is
    seen: Counter[str] = Counter()

    @st.composite
    def mutants(draw: st.DrawFn) -> bytes:
        return mutated_bytes(draw, header) + original[4000:]

    def check(content: bytes) -> None:
        file.write_bytes(content)
        seen[outcome(file, lambda: Predictor(checkpoint, device="cpu"))] += 1

    try:
        quietly(given(mutants())(check))()
    finally:
        file.write_bytes(original)
    print(f"{sum(seen.values())} mutants: {dict(seen)}")
    assert seen["refused"] > 0.8 * sum(
        seen.values()
    )  # every change is noticed: only the mutants that change nothing are read


def test_mutated_logs_are_read(run: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    shutil.copy(run / "log.jsonl", log)
    original = log.read_bytes()
    read: list[int] = []

    @st.composite
    def mutants(draw: st.DrawFn) -> bytes:
        return mutated_bytes(draw, original)

    def check(content: bytes) -> None:
        log.write_bytes(content)
        lines = read_log(log)
        assert all(type(line["step"]) is int for line in lines)
        read.append(len(lines))

    quietly(given(mutants())(check))()
    assert 0 < sum(read) < len(read) * len(original.splitlines())
