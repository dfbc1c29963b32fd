"""hf:owner/name: pushed to and pulled from a local stand-in of the Hub; refusals and errors."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typing_extensions import override as overriding

import rcnn
from rcnn.models import build_detector, model_config
from rcnn.models.config import OwnBackboneConfig
from rcnn.models.overrides import override
from rcnn.training.found_run import FIELDS
from rcnn.training.publish import best_metrics
from rcnn.weights.hub import MARK, pull, while_it_grows
from tests.command import rcnn as command
from tests.tiny_data import TINY_MODEL
from tests.unit.weights.hub_server import Hub, hub_serving

pytest.importorskip("huggingface_hub", reason="needs rcnn[hub]")
REPOSITORY = "me/balloons"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_serving(REPOSITORY) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        # as when another address was set when the library was imported, which reads it only then
        elsewhere = "https://elsewhere.invalid"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", elsewhere)
        template = f"{elsewhere}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("RCNN_OFFLINE")
        yield server


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2"])
    rcnn.save_checkpoint(folder / "best", build_detector(config), classes=["red", "blue"])
    lines = [{"step": 10, "bbox_AP": 0.3, "segm_AP": 0.2}, {"step": 20, "bbox_AP": 0.29, "segm_AP": 0.25}, {"step": 30}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_what_is_pushed_is_pulled_bit_for_bit(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("push", run, REPOSITORY) == 0
    assert capsys.readouterr().out == f"{hub.address}/{REPOSITORY}: use it as hf:{REPOSITORY}\n"
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors"]
    ours, theirs = rcnn.load_checkpoint(run), rcnn.load_checkpoint(f"hf:{REPOSITORY}")
    assert theirs.config == ours.config
    assert theirs.classes == ("red", "blue")
    assert all(torch.equal(theirs.state[name], value) for name, value in ours.state.items())
    assert rcnn.Predictor(f"hf:{REPOSITORY}@main").classes == ("red", "blue")


def test_a_repository_is_private_only_on_request(hub: Hub, run: Path) -> None:
    assert command("push", run, REPOSITORY, "--private") == 0
    assert hub.private
    hub.exists = False  # it is created again
    assert command("push", run, REPOSITORY) == 0
    assert not hub.private
    hub.exists = False
    rcnn.push_to_hub(run, REPOSITORY, private=True)
    assert hub.private


def test_a_checkpoint_of_the_hub_is_downloaded_for_a_machine_without_network(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rcnn.push_to_hub(run, REPOSITORY)
    names = (f"hf:{REPOSITORY}", f"hf:{REPOSITORY}@main")
    assert command("download", *names, "--output", tmp_path / "out") == 0
    folders = [tmp_path / "out" / name for name in ("balloons", "balloons@main")]
    assert capsys.readouterr().out == "".join(f"{a}: {b}\n" for a, b in zip(names, folders, strict=True))
    for folder in folders:
        assert not any(file.is_symlink() for file in folder.iterdir())
        assert rcnn.load_checkpoint(folder).classes == ("red", "blue")
    assert rcnn.download_weights(names[0]).is_relative_to(tmp_path / "cache")


def test_a_damaged_file_in_the_cache_says_which_folder_to_delete(hub: Hub, run: Path, tmp_path: Path) -> None:
    rcnn.push_to_hub(run, REPOSITORY)
    name = f"hf:{REPOSITORY}"
    weights = pull(name) / "model.safetensors"
    weights.resolve().write_bytes(b"cut")
    folder = tmp_path / "cache/hub/models--me--balloons"
    with pytest.raises(ValueError, match=f"this is the cached copy of {name}. Delete the folder {folder};"):
        rcnn.load_checkpoint(name)
    shutil.rmtree(folder)
    assert rcnn.load_checkpoint(name).classes == ("red", "blue")


def test_the_card_says_what_the_model_is_and_scores(hub: Hub, run: Path) -> None:
    rcnn.push_to_hub(run, REPOSITORY)
    card = hub.files["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "library_name": "rcnn",
        "pipeline_tag": "image-segmentation",
        "tags": ["instance-segmentation", "object-detection", "r-cnn"],
    }
    assert "| segm_AP | 0.250 |" in card
    assert "2 classes: red, blue" in card
    assert f"rcnn predict hf:{REPOSITORY} photo.jpg" in card
    assert best_metrics(run / "best") == {}


def test_the_metrics_on_the_card_are_those_of_the_best_checkpoint(tmp_path: Path) -> None:
    record: dict[str, Any] = {name: kind() for name, kind in FIELDS.items()} | {"splits": ["train", "val"]}
    lines = [
        {"step": 9, "bbox_AP": 0.3, "bbox_AP50": 0.5, "segm_AP": 0.2},
        {"step": 19, "bbox_AP": 0.2, "bbox_AP50": 0.6, "segm_AP": None},
        {"step": 29, "bbox_AP": 0.1, "bbox_AP50": 0.6, "segm_AP": 0.25},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for best, number in (("", 2), (None, 2), ("segm.AP", 2), ("bbox.AP", 0), ("bbox.AP50", 1)):
        (tmp_path / "config.json").write_text(json.dumps(record | {"train": {"best": best}}))
        expected = {name: value for name, value in lines[number].items() if name != "step" and value is not None}
        assert best_metrics(tmp_path) == expected
    replaced = [{"step": 9, "bbox_AP": 0.5, "since_best": 0}, {"step": 19, "bbox_AP": 0.3, "since_best": 0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in replaced))  # best/ was deleted
    (tmp_path / "config.json").write_text(json.dumps(record | {"train": {"best": ""}}))
    assert best_metrics(tmp_path) == {"bbox_AP": 0.3}
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 9, "bbox_AP": None, "bbox_AP50": None}) + "\n")
    assert best_metrics(tmp_path) == {}


def test_nothing_of_the_user_is_replaced(hub: Hub, run: Path) -> None:
    hub.exists, hub.files = True, {"README.md": b"# mine", "notes.txt": b"mine"}
    rcnn.push_to_hub(run, REPOSITORY)
    assert hub.files["README.md"] == b"# mine"
    assert hub.files["notes.txt"] == b"mine"
    hub.files["README.md"] = f"{MARK}\nold".encode()
    rcnn.push_to_hub(run, REPOSITORY)
    assert b"red, blue" in hub.files["README.md"]
    hub.files["config.json"] = b'{"model_type": "bert"}'
    with pytest.raises(ValueError, match=r"config\.json that does not belong to an rcnn checkpoint"):
        rcnn.push_to_hub(run, REPOSITORY)
    assert hub.files["config.json"] == b'{"model_type": "bert"}'


def test_errors_say_what_to_do(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"hf:me is not the name of a repository; expected hf:owner/name"):
        pull("hf:me")
    with pytest.raises(ValueError, match=r"the Hub has no me/balloons, or it is private"):
        pull(f"hf:{REPOSITORY}")
    hub.exists = True
    with pytest.raises(ValueError, match=r"the Hub has no revision no-such of me/balloons"):
        pull(f"hf:{REPOSITORY}@no-such")
    with pytest.raises(ValueError, match=r"has no config\.json and model\.safetensors: it is not a checkpoint of rcnn"):
        pull(f"hf:{REPOSITORY}")
    hub.gated = True
    with pytest.raises(ConnectionError, match=rf"is gated: accept its conditions at {hub.address}/{REPOSITORY}, and"):
        pull(f"hf:{REPOSITORY}")
    hub.gated, hub.denies = False, True
    with pytest.raises(ConnectionError, match="log in with `hf auth login`"):
        rcnn.push_to_hub(run, REPOSITORY)
    with pytest.raises(ValueError, match="expected owner/name"):
        rcnn.push_to_hub(run, "balloons")
    monkeypatch.setenv("RCNN_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"forbids downloads(.|\n)*/me/other/tree/main\n"):
        pull("hf:me/other")


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                for letter in b"HTTP/1.1 200 OK\r\nX-Endless: " + 1200 * b"x":
                    connection.sendall(bytes([letter]))
                    time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("RCNN_OFFLINE")
        monkeypatch.setattr("rcnn.weights.hub.PATIENCE", 0.5)
        start = time.monotonic()
        with pytest.raises(
            ConnectionError, match=r"fewer than 16,384 bytes arrived in 0.5 seconds(.|\n)*into one folder"
        ):
            pull(f"hf:{REPOSITORY}")
        assert time.monotonic() - start < 30  # the server sends for 60 seconds


def test_a_download_that_ends_just_after_the_wait_is_complete(tmp_path: Path) -> None:
    class Late(Future[str]):
        @overriding
        def result(self, timeout: float | None = None) -> str:
            if timeout is None:
                return "the file"
            raise TimeoutError

        @overriding
        def done(self) -> bool:
            return True

    assert while_it_grows(Late(), tmp_path) == "the file"


def test_an_error_without_text_is_named_by_its_type(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", broken)
    with pytest.raises(ConnectionError, match=r"me/balloons cannot be downloaded: TimeoutError\. If this computer"):
        pull(f"hf:{REPOSITORY}")


def test_a_hub_that_cannot_be_reached_is_named(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: no server
    with pytest.raises(
        ConnectionError, match=r"me/balloons cannot be written: http://127\.0\.0\.1:9 cannot be reached"
    ):
        rcnn.push_to_hub(run, REPOSITORY)


def test_a_connection_that_breaks_off_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP library of huggingface_hub has its own errors, e.g. for a proxy that refuses."""
    hub.exists, hub.files = True, {"config.json": b"{}"}
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):  # the library is imported
        pull(f"hf:{REPOSITORY}")
    http = next(sys.modules[name] for name in ("httpx2", "httpx") if name in sys.modules)

    def broken(*arguments: object, **options: object) -> None:
        raise http.ProxyError("403 Forbidden")

    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", broken)
    with pytest.raises(ConnectionError, match=r"me/balloons cannot be downloaded: 403 Forbidden\. If this computer"):
        pull(f"hf:{REPOSITORY}")


def test_what_can_be_pushed(hub: Hub, tmp_path: Path) -> None:
    """A detector with code of the user, which is not run; no backbone."""
    config = override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2"])
    own = replace(config, backbone=OwnBackboneConfig(factory="mine.py:make"))
    rcnn.save_checkpoint(tmp_path / "own", {"a": torch.zeros(1)}, own, ["red", "blue"])
    rcnn.push_to_hub(tmp_path / "own", REPOSITORY)
    assert hub.files["model.safetensors"] == (tmp_path / "own" / "model.safetensors").read_bytes()
    rcnn.save_checkpoint(tmp_path / "backbone", {"a": torch.zeros(1)}, config, kind="backbone")
    with pytest.raises(ValueError, match="contains only a backbone; only detectors can be pushed"):
        rcnn.push_to_hub(tmp_path / "backbone", REPOSITORY)


def test_what_is_in_the_cache_is_read_offline(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rcnn.push_to_hub(run, REPOSITORY)
    online = pull(f"hf:{REPOSITORY}")
    monkeypatch.setenv("RCNN_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: no server
    assert pull(f"hf:{REPOSITORY}") == online
    assert rcnn.load_checkpoint(f"hf:{REPOSITORY}").classes == ("red", "blue")
    (online / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="is not in the cache, and --offline"):
        pull(f"hf:{REPOSITORY}")


def test_without_a_network_the_reason_comes_at_once(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the cache is read; huggingface_hub, which tries again for half a minute, is not asked."""
    rcnn.push_to_hub(run, REPOSITORY)
    online = pull(f"hf:{REPOSITORY}")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")  # a name that no server may have (RFC 6761)
    start = time.monotonic()
    assert pull(f"hf:{REPOSITORY}") == online
    with pytest.raises(
        ConnectionError, match=r"me/other cannot be downloaded: the name hub\.invalid (?:cannot be|was not)"
    ):
        pull("hf:me/other")
    assert time.monotonic() - start < 15


def test_nothing_is_pushed_offline(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCNN_OFFLINE", "1")
    with pytest.raises(ValueError, match="me/balloons cannot be written: RCNN_OFFLINE forbids the use of the network"):
        rcnn.push_to_hub(run, REPOSITORY)


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'rcnn\[hub\]'"):
        pull("hf:me/balloons")
