"""Processes that are started for a Python function: they get signals from their launcher only."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig

from rcnn.runtime import launch
from rcnn.runtime.in_flight import ERROR_FILE, PID, STOPPED, launcher_was_signalled
from rcnn.runtime.launch import ProcessFailedError, _apart, _result_after, _signal_processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_of_a_function_is_not_in_the_terminals_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "0" / "error.json"))
    (tmp_path / "0").mkdir()
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            _apart(os.write, write, f"called {os.getpid()}".encode())
            os.write(write, f" {os.getpgid(0)} {os.getsid(0)}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert answer.read().split() == ["called", *3 * [str(child)]]  # Ctrl-C goes to the terminal's group
    assert os.getpgid(0) != child
    assert (tmp_path / "0" / PID).read_text() == str(child)
    os.waitpid(child, 0)
    # what os.write has returned, if a signal has ended the launcher's wait for it
    assert _result_after(SignalException("stopped", signal.SIGINT), tmp_path) == len(f"called {child}")


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_function_that_is_stopped_without_a_result_ends_the_script(
    tmp_path: Path, number: signal.Signals, raised: type[BaseException]
) -> None:
    with pytest.raises(raised) as error:
        _result_after(SignalException("stopped", number), tmp_path)
    assert error.value.args == ((143,) if raised is SystemExit else ())


def test_the_launcher_signals_the_processes_that_noted_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []

    def kill(process: int, number: int) -> None:
        sent.append((process, number))

    monkeypatch.setattr(os, "kill", kill)
    for rank in ("0", "1"):
        (tmp_path / "run" / rank).mkdir(parents=True)
        (tmp_path / "run" / rank / PID).write_text(f"400{rank}")
    _signal_processes(tmp_path, 2)
    assert sorted(sent) == [(4000, 2), (4001, 2)]


def test_a_process_knows_whether_its_launcher_got_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher writes a note in the folder that it gives to torch, before torch passes the signal on."""
    own = tmp_path / "run_x" / "attempt_0" / "1"
    own.mkdir(parents=True)
    monkeypatch.delenv(ERROR_FILE, raising=False)
    assert not launcher_was_signalled()
    monkeypatch.setenv(ERROR_FILE, str(own / "error.json"))
    assert not launcher_was_signalled()
    with pytest.raises(SignalException):
        launch._StopOnce(tmp_path).handle(signal.SIGTERM, None)
    assert launcher_was_signalled()


def stopped_with(monkeypatch: pytest.MonkeyPatch, errors: Sequence[Mapping[str, object]]) -> None:
    """Replace torch's launcher by one that a signal stops; process N then wrote the N-th of `errors`."""

    def fake(config: LaunchConfig, program: object) -> Callable[..., None]:
        specs = config.logs_specs
        assert specs is not None
        assert specs.root_log_dir is not None

        def stopped(*arguments: object) -> None:
            for rank, error in enumerate(errors):
                folder = Path(str(specs.root_log_dir)) / "run" / "attempt_0" / str(rank)
                folder.mkdir(parents=True)
                (folder / "error.json").write_text(json.dumps(error))
            raise SignalException("stopped", signal.SIGINT)

        return stopped

    monkeypatch.setattr(launch, "elastic_launch", fake)


@pytest.mark.parametrize("own", ["", "INFO"])
def test_torch_does_not_print_its_stack_before_the_message(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes get this variable, unless the user has set it; it is read when torch is imported."""
    monkeypatch.delenv(launch.TORCH_LOG, raising=False)
    if own:
        monkeypatch.setenv(launch.TORCH_LOG, own)
    seen = list[str | None]()

    def fake(config: LaunchConfig, program: object) -> Callable[..., None]:
        def noting(*arguments: object) -> None:
            seen.append(os.environ.get("TORCH_CPP_LOG_LEVEL"))

        return noting

    monkeypatch.setattr(launch, "elastic_launch", fake)
    launch.launch_command(["train"], devices=2)
    assert seen == [own or "ERROR"]
    assert os.environ.get(launch.TORCH_LOG, "") == own


def test_an_error_while_stopping_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    full = {"message": {"message": "last/ cannot be written: disk full"}, "lost": False, "expected": True}
    lost = {"message": {"message": "lost the connection"}, "lost": True, "expected": True}
    stopped_with(monkeypatch, [lost, full])
    expected = "last/ cannot be written: disk full\n(process 1 of 2, while stopping)"
    ended = launch.launch_command(["train"], devices=2)
    assert (ended.status, ended.failed, ended.message) == (2, False, expected)
    with pytest.raises(ProcessFailedError) as error:
        launch.launch_function(print, devices=2)
    assert str(error.value) == expected


def test_a_process_that_only_lost_another_one_while_stopping_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_with(monkeypatch, [{"message": {"message": "lost the connection"}, "lost": True}, {"message": "<NONE>"}])
    ended = launch.launch_command(["train"], devices=2)
    assert (ended.status, ended.message) == (128 + signal.SIGINT, "stopped by SIGINT")


def test_a_process_that_ends_itself_has_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """sys.exit(3) in the user's code, which leaves no error file."""

    def fake(config: LaunchConfig, program: object) -> Callable[..., None]:
        def ended(*arguments: object) -> None:
            failure = ProcessFailure(local_rank=0, pid=1, exitcode=3, error_file="<N/A>")
            raise ChildFailedError("", {0: failure})

        return ended

    monkeypatch.setattr(launch, "elastic_launch", fake)
    with pytest.raises(ProcessFailedError, match=r"^a process ended with exit status 3 before it had a result$"):
        launch.launch_function(print, devices=2)


@pytest.mark.parametrize(
    ("notes", "codes", "errors", "status", "message"),
    [
        ({0: "15 told", 1: "15 "}, (143, 143), {}, 143, ""),  # process 0 has said it
        ({1: "15 "}, (-15, 143), {}, 143, "process 1 of 2 was stopped by SIGTERM"),  # before the training began
        # 0 has lost it
        ({1: "15 ", 0: ""}, (2, 143), {0: {"lost": True}}, 143, "process 1 of 2 was stopped by SIGTERM"),
        ({1: "2 "}, (-15, 130), {}, 130, "process 1 of 2 was stopped by SIGINT"),
        ({1: "15 "}, (2, 143), {0: {"common": True}}, 2, "message of 0"),  # NaN, which all processes had
        ({}, (3, 143), {}, 3, ""),
    ],
)
def test_a_signal_to_one_process_is_reported_once(
    tmp_path: Path,
    notes: Mapping[int, str],
    codes: tuple[int, int],
    errors: Mapping[int, Mapping[str, object]],
    status: int,
    message: str,
) -> None:
    failures = dict[int, ProcessFailure]()
    for rank in range(len(codes)):
        own = tmp_path / str(rank)
        own.mkdir()
        if rank in notes:
            (own / STOPPED).write_text(notes[rank])
    for rank, code in enumerate(codes):
        file = tmp_path / str(rank) / "error.json"
        if rank in errors:
            details = {"message": f"message of {rank}", "extraInfo": {"timestamp": "1"}}
            file.write_text(json.dumps({"message": details, "expected": True, **errors[rank]}))
        failures[rank] = ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file=str(file))
    ended = launch._ended(failures, 2, tmp_path)
    assert (ended.status, ended.message) == (status, message)
