"""`rcnn benchmark` with a compact model, and clocks that the tests move: no test depends on speed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import rcnn
from rcnn.bench import benchmark as module
from rcnn.bench.clock import STAGES, Clock
from rcnn.bench.memory import peak_memory, peak_memory_of
from rcnn.bench.report import Benchmark, Measured
from rcnn.bench.subjects import PEER, OurSubject, Request, TorchvisionSubject, photo, subject_names
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.weights.checkpoint import save_checkpoint
from tests.command import rcnn as run
from tests.tiny_data import TINY_MODEL

CPU = torch.device("cpu")
MODEL = ["mask_rcnn_compact", "input.min_size=64", "input.max_size=96"]


@pytest.fixture(scope="module")
def subject() -> OurSubject:
    found = Request(model=MODEL[0], overrides=tuple(MODEL[1:])).subject("rcnn float32")
    assert isinstance(found, OurSubject)
    return found


def figures(milliseconds: dict[str, list[float]], peak: float | None = 500.0) -> Benchmark:
    """A benchmark with given samples by stage; the whole is their sum."""
    calls = [dict(zip(milliseconds, one, strict=True)) for one in zip(*milliseconds.values(), strict=True)]
    stages = [
        {name: value / 1e3 for name, value in call.items()} | {"whole": sum(call.values()) / 1e3} for call in calls
    ]
    row = Measured(stages=stages, batches={1: [one["whole"] for one in stages], 8: [1.0, 1.1]}, peak_mib=peak)
    return Benchmark(
        model="m",
        settings=(),
        image="generated",
        machine={"device": "c", "cores": 2, "threads": 2},
        rows={"rcnn float32": row},
    )  # fmt: skip


def test_the_stages_detect_what_the_predictor_detects(subject: OurSubject) -> None:
    file = photo(None)
    [found] = subject([file], Clock(CPU))
    expected = subject.predictor.predict(file)
    assert len(found) > 10
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.rles() == expected.rles()


def test_nothing_is_done_outside_the_stages(subject: OurSubject) -> None:
    """A clock that advances by a second at each reading: the whole is its stages and the readings between them."""
    ticks: Iterator[int] = iter(range(1_000))
    clock = Clock(CPU, now=lambda: float(next(ticks)))
    with clock("whole"):
        subject([photo(None)] * 2, clock)
    assert tuple(clock.seconds) == (*STAGES, "whole")
    assert [clock.seconds[stage] for stage in STAGES] == [1.0] * len(STAGES)
    assert clock.seconds["whole"] == 2 * len(STAGES) + 1


def test_torchvisions_stages_detect_what_its_model_detects() -> None:
    config = rcnn.override(
        model_config("faster_rcnn_mobilenet_v3_large_320_fpn"), ["input.min_size=64", "input.max_size=64"]
    )
    peer = TorchvisionSubject(config, CPU)
    file = photo(None)
    clock = Clock(CPU)
    [found] = peer([file], clock)
    with torch.inference_mode():
        [expected] = peer.model([rcnn.read_image(file).float() / 255])
    assert tuple(clock.seconds) == STAGES
    torch.testing.assert_close(found["scores"], expected["scores"])
    torch.testing.assert_close(found["boxes"], expected["boxes"])


def test_a_model_has_a_peer_only_in_torchvision() -> None:
    assert subject_names(model_config("mask_rcnn_compact"), ["float32"], peer=True) == ["rcnn float32"]
    assert subject_names(model_config("mask_rcnn_r50_fpn"), ["float32"], peer=True) == ["rcnn float32", PEER]
    assert subject_names(model_config("mask_rcnn_r50_fpn"), ["float32"], peer=False) == ["rcnn float32"]


@pytest.mark.parametrize(("setting", "same"), [("num_classes=3", True), ("backbone.depth=101", False)])
def test_a_model_of_other_layers_has_no_peer(setting: str, same: bool) -> None:
    config = rcnn.override(model_config("faster_rcnn_r50_fpn"), [setting])
    assert (PEER in subject_names(config, ["float32"], peer=True)) == same


def test_subjects_are_called_in_turn_and_warm_up_is_not_counted() -> None:
    order: list[str] = []

    def subject_of(name: str) -> module.Subject:
        def call(files: list[bytes], clock: Clock) -> None:
            order.append(name)

        return call

    calls = module.alternate({name: subject_of(name) for name in "ab"}, [b""], CPU, 3)
    assert "".join(order) == "ab" * (3 + module.WARM_UP)
    assert {name: len(one) for name, one in calls.items()} == {"a": 3, "b": 3}


def test_a_slower_stage_is_a_regression_and_noise_is_none() -> None:
    noisy = {"backbone": [100.0, 104, 96, 101, 99], "paste": [10.0, 10.2, 9.9, 10, 10.1]}
    old = figures(noisy)
    assert figures(noisy).regressions(old) == []
    within = figures({"backbone": [value + 5 for value in noisy["backbone"]], "paste": noisy["paste"]})
    assert within.regressions(old) == []
    slow = figures({"backbone": [value + 40 for value in noisy["backbone"]], "paste": noisy["paste"]})
    assert [line.partition(":")[0] for line in slow.regressions(old)] == [
        "rcnn float32, backbone",
        "rcnn float32, whole",
    ]
    assert old.regressions(slow) == []
    wide = figures({"backbone": [60.0, 180, 140, 100, 150], "paste": noisy["paste"]})  # 40 ms more, but noisier
    assert wide.regressions(old) == []


def test_more_memory_and_slower_batches_are_regressions() -> None:
    old = figures({"backbone": [100.0, 101]})
    [line] = figures({"backbone": [100.0, 101]}, peak=600.0).regressions(old)
    assert line == "rcnn float32, peak memory: 500 -> 600 MiB"
    row = replace(old.rows["rcnn float32"], batches={1: [0.1], 8: [1.5, 1.6]})
    [line] = replace(old, rows={"rcnn float32": row}).regressions(old)
    assert line.startswith("rcnn float32, batch 8: 1050.0 -> 1550.0 ms")


def test_figures_of_another_machine_or_model_are_not_compared() -> None:
    old = figures({"backbone": [100.0, 101]})
    with pytest.raises(ValueError, match="threads is 2 here and 4 in the earlier one"):
        old.regressions(replace(old, machine=old.machine | {"threads": 4}))
    with pytest.raises(ValueError, match="model is 'm' here and 'n' in the earlier one"):
        old.regressions(replace(old, model="n"))


def test_another_photo_of_the_same_name_or_other_classes_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "alternate", None)  # nothing is measured
    old = figures({"backbone": [100.0, 101]})
    images = list[str]()
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "photo.png")
        earlier = replace(old, model=MODEL[0])
        with pytest.raises(ValueError, match="image is") as refused:
            module.benchmark(MODEL[0], image=tmp_path / "photo.png", earlier=earlier)
        images += re.findall(r"image is '(photo\.png \(sha256 [0-9a-f]{12}\))' here", str(refused.value))
    assert len(set(images)) == 2
    detector = rcnn.build_detector(rcnn.override(model_config(MODEL[0]), [*TINY_MODEL, "num_classes=2"]))
    rcnn.save_checkpoint(tmp_path / "saved", detector, detector.config, ["a", "b"], {})
    with pytest.raises(ValueError, match=r"settings is \('num_classes=2',\) here and \(\) in the earlier one"):
        module.benchmark(tmp_path / "saved", earlier=replace(old, model=MODEL[0]))


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": []},
        {"subjects": {}},
        {"subjects": {"rcnn float32": {"peak_mib": None, "samples": {"stages": ["x"], "batches": {"1": [0.1]}}}}},
        {"subjects": {"rcnn float32": {"peak_mib": None, "samples": {"stages": [], "batches": {"1": [0.1]}}}}},
        {"subjects": {"rcnn float32": {"peak_mib": None, "samples": {"stages": [{"whole": 1}], "batches": {"1": []}}}}},
    ],
)
def test_a_file_with_other_values_is_not_a_benchmark(tmp_path: Path, changes: dict[str, object]) -> None:
    values = figures({"backbone": [100.0, 101]}).to_dict()
    (tmp_path / "b.json").write_text(json.dumps(values | changes))
    with pytest.raises(ValueError, match=r"b\.json is not a benchmark; expected the JSON"):
        Benchmark.read(tmp_path / "b.json")


def test_memory_that_cannot_be_measured_keeps_the_other_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess[str]([], 1, "", "Traceback\nMemoryError: out of memory\n")

    def fail(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return failed

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.warns(UserWarning, match="peak memory of rcnn float32 was not measured: MemoryError: out of memory"):
        assert peak_memory_of(Request(model="m"), "rcnn float32", b"") is None


def test_the_process_for_the_memory_does_not_import_files_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command, with a program that is quick to run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('the json.py of the folder')")
    run_command = subprocess.run

    def quick(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        place = command.index("-c") + 1
        return run_command([*command[:place], "import json; print(7)"], **options)

    monkeypatch.setattr(subprocess, "run", quick)
    assert peak_memory_of(Request(model="m"), "rcnn float32", b"") == 7


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_clock_waits_for_the_gpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = list[str]()

    def synchronize_cuda(device: torch.device) -> None:
        waited.append(str(device))

    monkeypatch.setattr("torch.cuda.synchronize", synchronize_cuda)
    monkeypatch.setattr("torch.mps.synchronize", lambda: waited.append("mps"))
    with Clock(torch.device(kind))("backbone"):
        pass
    assert waited == [kind]


@pytest.mark.parametrize("model", ["mask_rcnn_compact", "fcis_compact", "rpn_r50_fpn"])
def test_every_head_measures_with_the_score_threshold_0(model: str) -> None:
    config = Request(model=model).config()
    head = config.fcis or config.box
    assert config.proposals_only or head.score_threshold == 0


def test_a_setting_can_take_the_box_head_away(tmp_path: Path) -> None:
    config = override(model_config("mask_rcnn_compact"), TINY_MODEL)
    save_checkpoint(
        tmp_path / "model", build_detector(config), config, [f"class {i}" for i in range(config.num_classes)]
    )
    for model in ("mask_rcnn_compact", str(tmp_path / "model")):
        assert Request(model=model).config().box.score_threshold == 0
        assert Request(model=model, overrides=("proposals_only=true",)).config().proposals_only


def test_the_table_and_the_json_have_the_same_figures(tmp_path: Path) -> None:
    one = figures({stage: [10.0, 20, 30] for stage in STAGES})
    peer = figures({stage: [40.0, 40, 40] for stage in STAGES}).rows["rcnn float32"]
    both = replace(one, rows={**one.rows, PEER: peer})
    both.write(tmp_path / "b.json")
    again = Benchmark.read(tmp_path / "b.json")
    assert again == both
    values = json.loads((tmp_path / "b.json").read_text())
    ours = values["subjects"]["rcnn float32"]
    assert sum(ours["stages_s"].values()) == pytest.approx(ours["p50_s"])
    assert ours["p95_s"] == pytest.approx(np.percentile([0.07, 0.14, 0.21], 95))
    assert values["faster"] == {"rcnn float32": pytest.approx(2.0), PEER: 1.0}
    table = str(both).splitlines()
    assert next(line for line in table if line.startswith("whole, p50")).split()[-2:] == ["140.0", "280.0"]
    assert next(line for line in table if line.startswith("times as fast")).split()[-2:] == ["2.00", "1.00"]


def test_the_command_prints_a_table_and_finds_an_injected_slowdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["benchmark", *MODEL, "--precision", "float32", "--repeats", "2", "--batch", "1", "--no-memory"]
    file = tmp_path / "old.json"
    assert run(*words, "--output", file) == 0
    assert "backbone" in capsys.readouterr().out
    values = json.loads(file.read_text())
    for call in values["subjects"]["rcnn float32"]["samples"]["stages"]:  # the earlier figures: a thousand times faster
        call.update({stage: seconds / 1e3 for stage, seconds in call.items()})
    file.write_text(json.dumps(values))
    assert run(*words, "--json", "--compare", file) == 1
    captured = capsys.readouterr()
    assert "slower: rcnn float32, backbone" in captured.err
    assert json.loads(captured.out)["model"] == "mask_rcnn_compact"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["mask_rcnn_compact", "--compare", "old.json"],
            "cannot be compared: model is 'mask_rcnn_compact' here and 'm'",
        ),
        (["no_such_model"], "no_such_model"),
        (["mask_rcnn_compact", "--batch", "1,x"], "--batch 1,x: expected batch sizes, e.g. 1,8"),
        (["mask_rcnn_compact", "--batch", "0"], "expected numbers of 1 to 65,536"),
        (["mask_rcnn_compact", "--compare", "other.json"], "other.json is not a benchmark; expected the JSON"),
        (["mask_rcnn_compact", "--output", "other.json"], "other.json is not a benchmark; expected the JSON"),
        (["mask_rcnn_compact", "--output", "other.json/new.json"], "other.json is a file; expected a folder"),
        (["mask_rcnn_compact", "--image", "other.json"], "other.json"),
    ],
)
def test_bad_arguments_are_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text('{"a": 1}')
    figures({"backbone": [100.0, 101]}).write("old.json")
    monkeypatch.setattr(module, "alternate", None)  # nothing is measured
    assert run("benchmark", *words) == 2
    assert message in capsys.readouterr().err
    assert Path("other.json").read_text() == '{"a": 1}'


def test_a_benchmark_replaces_only_a_benchmark(tmp_path: Path) -> None:
    found = figures({"backbone": [100.0, 101]})
    found.write(tmp_path / "new" / "b.json")
    again = replace(found, image="other.jpg")
    again.write(tmp_path / "new" / "b.json")
    assert Benchmark.read(tmp_path / "new" / "b.json") == again
    (tmp_path / "link.json").symlink_to("gone.json")
    with pytest.raises(FileExistsError, match=r"link\.json is a symbolic link, which rcnn does not replace"):
        found.write(tmp_path / "link.json")
    assert not (tmp_path / "gone.json").exists()


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "benchmark.md"
    [code] = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {})  # noqa: S102 - the repository's own page
    assert Benchmark.read("benchmark.json").model == "mask_rcnn_compact"


def test_peak_memory_is_that_of_the_process() -> None:
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # Linux: the peak of this process, gigabytes perhaps, becomes what it uses now
    before = peak_memory(CPU)
    block = np.ones(int((0 if reset.exists() else before) + 300) * 2**17)  # 300 MiB more than the peak
    assert peak_memory(CPU) >= before + 200
    del block
