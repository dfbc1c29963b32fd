"""Code in weight files: everything that a pickle calls is refused by name, and nothing is run."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rcnn.weights.readers.state_dict import find_weights
from tests.unit.weights import hostile_files as make


def python(trace: Path) -> bytes:
    """The argument of a call that would leave `trace` behind."""
    return make.text(f"open({str(trace)!r}, 'w')")


Attack = Callable[[Path], bytes]  # the pickle, which would write to or remove a file
ATTACKS: dict[str, Attack] = {
    "os.system": lambda t: make.called("os", "system", make.text(f"touch {t}")),
    "posix.system": lambda t: make.called("posix", "system", make.text(f"touch {t}")),
    "builtins.eval": lambda t: make.called("builtins", "eval", python(t)),
    "builtins.exec": lambda t: make.called("builtins", "exec", python(t)),
    "__builtin__.eval": lambda t: make.called("__builtin__", "eval", python(t)),
    "builtins.open": lambda t: make.called("builtins", "open", make.text(str(t)), make.text("w")),
    "io.open": lambda t: make.called("io", "open", make.text(str(t)), make.text("w")),
    "builtins.getattr": lambda t: make.called("builtins", "getattr", make.global_("os", "path"), make.text("os")),
    "subprocess.Popen": lambda t: make.called("subprocess", "Popen", make.text(f"touch {t}")),
    "pty.spawn": lambda t: make.called("pty", "spawn", make.text(f"touch {t}")),
    "functools.partial": lambda t: make.called("functools", "partial", make.global_("os", "system"), make.text("id")),
    "operator.methodcaller": lambda t: make.called("operator", "methodcaller", make.text("system"), make.text("id")),
    "copyreg._reconstructor": lambda t: make.called(
        "copyreg", "_reconstructor", make.global_("builtins", "object"), make.global_("builtins", "object"), b"N"
    ),
    "copy_reg._reconstructor": lambda t: make.called("copy_reg", "_reconstructor", make.global_("os", "x")),
    "torch.hub.load": lambda t: make.called("torch.hub", "load", make.text("a/b"), make.text("c")),
    "torch.load": lambda t: make.called("torch", "load", make.text(str(t))),
    "torch.storage._load_from_bytes": lambda t: make.called("torch.storage", "_load_from_bytes", b"C\x01a"),
    "torch.jit.load": lambda t: make.called("torch.jit", "load", make.text(str(t))),
    "torch.nn.modules.linear.Linear": lambda t: make.called("torch.nn.modules.linear", "Linear", b"K\x01", b"K\x01"),
    "numpy.load": lambda t: make.called("numpy", "load", make.text(str(t))),
    "numpy.testing._private.utils.runstring": lambda t: make.called(
        "numpy.testing._private.utils", "runstring", python(t), b"}"
    ),
    "pickle.loads": lambda t: make.called("pickle", "loads", b"C\x01."),
    "importlib.import_module": lambda t: make.called("importlib", "import_module", make.text("antigravity")),
    "webbrowser.open": lambda t: make.called("webbrowser", "open", make.text("localhost")),
    "shutil.rmtree": lambda t: make.called("shutil", "rmtree", make.text(str(t))),
    "rcnn.cli.main.main": lambda t: make.called("rcnn.cli.main", "main"),
}
# the other ways in which a pickle may call or change something
TRICKS: dict[str, tuple[Attack, str]] = {
    "INST": (lambda t: b"(S'touch " + str(t).encode() + b"'\nios\nsystem\n", "os.system"),
    "OBJ": (lambda t: b"(" + make.global_("os", "system") + make.text(f"touch {t}") + b"o", "os.system"),
    "NEWOBJ": (lambda t: make.global_("os", "system") + make.text(f"touch {t}") + b"\x85\x81", "os.system"),
    "NEWOBJ_EX": (lambda t: make.global_("os", "system") + make.text("id") + b"\x85}\x92", "os.system"),
    "keywords": (
        lambda t: make.global_("os", "system") + b")}" + make.text("command") + make.text("id") + b"s\x92",
        "built with keyword arguments",
    ),
    "a call of a call": (
        lambda t: make.called("collections", "OrderedDict") + make.text("x") + b"\x85R", "call of a dict",
    ),
    "nested reduce": (
        lambda t: make.called("collections", "OrderedDict", make.called("os", "system", make.text(f"touch {t}"))),
        "os.system",
    ),
    "BUILD of a name": (
        lambda t: make.global_("numpy", "ndarray") + b"}" + make.text("__reduce__") + make.text("x") + b"sb",
        "the attributes of numpy.ndarray",
    ),
    "BUILD of a list": (lambda t: b"]}" + make.text("append") + make.text("x") + b"sb", "the attributes of list"),
    "extension": (lambda t: b"\x82\x01", "truncated or damaged"),
    "persistent id": (lambda t: make.text("anything") + b"Q", "something outside the file"),
    "persistent word": (lambda t: b"Panything\n", "something outside the file"),
    "a name with dots": (lambda t: make.called("collections", "OrderedDict.__init__.__globals__"), "__globals__"),
    "numpy's function on another class": (
        lambda t: make.called("numpy._core.multiarray", "_reconstruct", make.global_("os", "system"), b")", b"C\x01b"),
        "_reconstruct",
    ),
    "numpy type of objects": (lambda t: make.called("numpy", "dtype", make.text("O8"), b"\x89", b"\x88"), "O8"),
    "numpy type with words": (lambda t: make.called("numpy", "dtype", make.text("f4, O"), b"\x89", b"\x88"), "f4, O"),
    "encoding by another codec": (
        lambda t: make.called("_codecs", "encode", make.text("x"), make.text("zlib")), "_codecs.encode to zlib",
    ),
    "unhashable key": (lambda t: b"}]]s", "keys of type list"),
    "list in a set": (lambda t: b"\x8f(]\x90", "set whose items are neither"),
    "out-of-band buffer": (lambda t: b"\x97", "truncated or damaged"),
    "a protocol to come": (lambda t: b"\x80\x09", "protocol 9"),
    "no mark": (lambda t: b"t", "needs a mark on the stack"),
}  # fmt: skip


def body(attack: bytes) -> bytes:
    """The attack in addition to valid weights."""
    sound = pickle.dumps(make.ARRAYS, protocol=4)[:-1]
    return b"\x80\x04}" + make.text("model") + sound + b"s" + make.text("x") + attack + b"s."


CONTAINERS: dict[str, Callable[[bytes], make.Maker]] = {
    "pickle": make.raw,
    "torch": make.zipped_pickle,
    "legacy": lambda content: make.raw(
        b"".join(pickle.dumps(v, protocol=2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})) + content
    ),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ATTACKS)
def test_calls_are_refused_by_name_and_never_run(tmp_path: Path, name: str, container: str) -> None:
    trace, path = tmp_path / "ran", tmp_path / "weights.bin"
    trace.touch() if "rmtree" in name else None
    CONTAINERS[container](body(ATTACKS[name](trace)))(path)
    with pytest.raises(ValueError, match="neither array nor tensor: refused, and no code of it was run") as caught:
        find_weights(path)
    assert f"{path} asks for {name}" in str(caught.value)
    assert trace.exists() == ("rmtree" in name)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("trick", TRICKS)
def test_other_ways_of_calling(tmp_path: Path, trick: str, container: str) -> None:
    make_attack, message = TRICKS[trick]
    trace, path = tmp_path / "ran", tmp_path / "weights.bin"
    CONTAINERS[container](body(make_attack(trace)))(path)
    with pytest.raises(ValueError, match=r"weights\.bin") as caught:
        find_weights(path)
    assert message in str(caught.value)
    assert not trace.exists()


def test_the_attacks_run_code_in_an_ordinary_unpickler(tmp_path: Path) -> None:
    """With an ordinary unpickler, in a separate process, the first attack leaves its trace."""
    trace, path = tmp_path / "ran", tmp_path / "weights.bin"
    path.write_bytes(body(ATTACKS["os.system"](trace)))
    subprocess.run([sys.executable, "-c", f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"], check=True)
    assert trace.exists()


def test_other_entries_are_kept_without_their_classes(tmp_path: Path) -> None:
    """Settings, logs and dates of known classes are accepted without importing their classes."""
    path = tmp_path / "weights.bin"
    beside = make.called("argparse", "Namespace") + b"}" + make.text("lr") + b"K\x01sb"
    beside = b"(" + beside + make.called("mmengine.logging.history_buffer", "HistoryBuffer") + b"l"
    path.write_bytes(body(beside))
    before = set(sys.modules)
    found = find_weights(path)
    assert set(found.state) == set(make.ARRAYS)
    assert [str(each) for each in found.extras["x"]] == [
        "<argparse.Namespace>", "<mmengine.logging.history_buffer.HistoryBuffer>",
    ]  # fmt: skip
    assert not {name for name in set(sys.modules) - before if name.startswith(("mmengine", "argparse"))}
