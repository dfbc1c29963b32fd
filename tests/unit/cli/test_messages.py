"""Messages of the parser, and of errors that a limit of the shell causes."""

from __future__ import annotations

import errno
from unittest.mock import Mock

import pytest

from rcnn.cli.main import _message, main


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--val-fraction", "abc"), ("--devices", "1.5"), ("--measure", "-3"), ("--max-restarts", "many"),
        ("--seconds", "0"),  # which must be 0.1 or more
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["{} {}", "{}={}"])
def test_an_option_with_a_wrong_value_is_named_with_it(
    option: str, value: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve" if option == "--seconds" else "train", "m", *form.format(option, value).split()])
    assert end.value.code == 2
    shown = " ".join(capsys.readouterr().err.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split())
    assert f"Invalid value for '{option}': " in shown
    said = shown.partition(f"'{option}': ")[2]
    assert f"'{value}'" in said or said.startswith(value)  # older versions of typer begin with the number


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        MemoryError(),
    ],
)
def test_a_lack_of_address_space_names_the_limit(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", Mock(return_value=(4_000_000 * 1024, resource.RLIM_INFINITY)))
    line = _message(error)
    assert line is not None
    assert line.startswith("not enough memory (")
    assert line.endswith("): this shell limits the address space to 4.1 GB; raise it: ulimit -v unlimited")


@pytest.mark.parametrize(("name", "start"), [(None, "the name of a file is"), ("a" * 300, f"{'a' * 60}... is")])
def test_a_name_that_is_too_long_is_cut_if_it_is_known(name: str | None, start: str) -> None:
    line = _message(OSError(errno.ENAMETOOLONG, "File name too long", name))
    assert line == f"{start} too long for a path: names have up to 255 bytes. Check the path"
