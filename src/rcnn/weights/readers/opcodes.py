"""The instructions of a pickle, run by a machine that can only put together plain values and stored arrays.

Python's own reader looks up and calls whatever a pickle names. This one has no way to: a name is kept as a name, and
the few calls that arrays and tensors need are done by functions of ours (pickles.py, torch_files.py). Lengths are
believed only as far as the file goes, and long byte strings stay in the file until they are asked for.
"""

from __future__ import annotations

import codecs
import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from rcnn.weights.readers.stored import Damaged, Refused

KEPT = 1 << 16  # longer byte strings and texts, in bytes, are left in the file
MOST_STEPS = 5_000_000  # instructions; a checkpoint with its optimiser has some tens of thousands
MOST_DIGITS = 4000
SCALARS = (str, int, float, bytes, bool, type(None))


@dataclass(frozen=True)
class Name:
    """What a pickle calls a function or a class by; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


@dataclass(frozen=True)
class Span:
    """A long byte string, left in its file: `read` gives it."""

    length: int  # bytes in the file
    read: Callable[[], bytes | bytearray]
    text: bool = False  # UTF-8


class Source:
    """A file, or a part of one, of known length, of which no more is read than there is."""

    def __init__(
        self, file: BinaryIO, start: int, length: int, reopen: Callable[[], io.BufferedReader | io.BytesIO]
    ) -> None:
        self._file, self._start, self.length, self.at, self._reopen = file, start, length, 0, reopen
        file.seek(start)

    def take(self, count: int) -> bytes:
        """The next `count` bytes; Damaged where there are not so many."""
        if count < 0 or self.at + count > self.length:
            raise Damaged(f"it ends at byte {self.length}, amid {count} bytes that begin at {self.at}")
        content = self._file.read(count)
        if len(content) != count:
            raise Damaged(f"it ends at byte {self.at + len(content)}")
        self.at += count
        return content

    def line(self) -> bytes:
        """The next line without its end."""
        content = self._file.readline(self.length - self.at)
        self.at += len(content)
        if not content.endswith(b"\n"):
            raise Damaged("it ends amid a line")
        return content[:-1]

    def seek(self, at: int) -> None:
        """Go on at byte `at`."""
        self.at = at
        self._file.seek(self._start + at)

    def span(self, count: int, text: bool = False) -> Span:
        """The next `count` bytes, left where they are."""
        at = self.at
        if self.at + count > self.length:
            raise Damaged(f"it ends at byte {self.length}, amid {count} bytes that begin at {at}")
        self.seek(at + count)
        return Span(count, lambda: self.part(at, count), text)

    def part(self, at: int, count: int) -> bytearray:
        """`count` bytes from byte `at` on, also when the file was closed since."""
        if at < 0 or count < 0 or at + count > self.length:
            raise Damaged(f"bytes {at} to {at + count} are wanted of {self.length}")
        with self._reopen() as file:
            file.seek(self._start + at)
            content = bytearray(count)  # not bytes: an array made of these may be written to, and is no copy
            got = file.readinto(content)
        if got != count:
            raise Damaged(f"it ends amid {count} bytes that begin at {at}")
        return content


Call = Callable[[Name, Any], Any]  # (function, arguments) -> value; Refused where the name is not known
Build = Callable[[Any, Any], None]  # (value, state): what __setstate__ is to do
Persistent = Callable[[Any], Any]


def _no_persistent(key: Any) -> Any:
    raise Refused("something outside of it (a persistent id)")


def run(source: Source, call: Call, build: Build, persistent: Persistent = _no_persistent) -> Any:
    """The value of the pickle that begins where `source` is, and `source` is left where it ends.

    `call(name, arguments)` does what a pickle calls; `build(value, state)` what it sets. Raises Damaged and Refused.
    """
    machine = _Machine(source, call, build, persistent)
    for _ in range(MOST_STEPS):
        code = source.take(1)
        if code == pickle.STOP:
            return machine.pop()
        step = _STEPS.get(code)
        if step is None:
            raise Damaged(f"no instruction of a pickle begins with {code!r}, as byte {source.at - 1} does")
        try:
            step(machine)
        except (Damaged, Refused):
            raise
        except Exception as error:  # whatever a number or a text made to confuse may raise
            raise Damaged(f"byte {source.at}: {type(error).__name__}") from error
    raise Refused(f"more than {MOST_STEPS} instructions, as no weights need")


class _Machine:
    """The stack, the memo, and where the instructions come from."""

    def __init__(self, source: Source, call: Call, build: Build, persistent: Persistent) -> None:
        self.source, self.call, self.build, self.persistent = source, call, build, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise Damaged("an instruction wants a value where there is none")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise Damaged(f"an instruction wants a {kind.__name__} where there is none")
        return self.stack[-1]

    def marked(self) -> list[Any]:
        if not self.marks:
            raise Damaged("an instruction wants a mark where there is none")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def number(self, form: str) -> int:
        return struct.unpack(form, self.source.take(struct.calcsize(form)))[0]

    def remember(self, index: int) -> None:
        if not self.stack:
            raise Damaged("an instruction keeps a value where there is none")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise Damaged(f"an instruction recalls value {index}, which was not kept")
        self.stack.append(self.memo[index])

    def long_string(self, form: str, text: bool) -> None:
        count = self.number(form)
        if count > KEPT:
            self.stack.append(self.source.span(count, text))
        else:
            content = self.source.take(count)
            self.stack.append(decoded(content) if text else content)

    def python2_string(self, form: str) -> None:
        """Python 2 knew no difference between text and bytes: short ones are text, a byte each character."""
        count = self.number(form)
        if count < 0:
            raise Damaged(f"a string has {count} bytes")
        self.stack.append(self.source.span(count) if count > KEPT else self.source.take(count).decode("latin1"))

    def long(self, form: str) -> None:
        count = self.number(form)
        if not 0 <= count <= MOST_DIGITS:
            raise Refused(f"a number of {count} bytes")
        self.stack.append(int.from_bytes(self.source.take(count), "little", signed=True))

    def digits(self, content: bytes) -> None:
        content = content.removesuffix(b"L")
        if len(content) > MOST_DIGITS:
            raise Refused(f"a number of {len(content)} digits")
        self.stack.append(content == b"01" if content in (b"00", b"01") else int(content))

    def add_items(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise Damaged("keys and values are set in what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # nothing nested: the hash of a tuple of tuples may take for ever
            flat = isinstance(key, tuple) and len(key) <= 16 and all(isinstance(part, SCALARS) for part in key)
            if not flat and not isinstance(key, SCALARS):
                raise Refused(f"a dict whose keys are of {type(key).__name__}, not words or numbers")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Damaged("a name is no text")
        self.stack.append(Name(module, name))

    def calls(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Name):
            raise Refused(f"a call of {type(function).__name__}, which is no function by name")
        if not isinstance(arguments, tuple):
            raise Damaged(f"{function} is called with no arguments")
        self.stack.append(self.call(function, arguments))

    def reduce(self) -> None:
        arguments = self.pop()
        self.calls(self.pop(), arguments)

    def instance(self) -> None:
        module, name = decoded(self.source.line()), decoded(self.source.line())
        self.stack.append(self.call(Name(module, name), tuple(self.marked())))

    def object(self) -> None:
        items = self.marked()
        if not items:
            raise Damaged("an object without a class")
        self.calls(items[0], tuple(items[1:]))

    def new(self, keywords: bool = False) -> None:
        if keywords and self.pop():
            raise Refused("an object made with keywords")
        self.reduce()

    def set_state(self) -> None:
        state = self.pop()
        self.build(self.top(object), state)

    def pop_mark_or_value(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def new_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise Damaged("a tuple of more values than there are")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def quoted(self) -> None:
        content = self.source.line()
        if len(content) < 2 or content[0] != content[-1] or content[:1] not in b"\"'":
            raise Damaged("a string is not in quotes")
        self.stack.append(codecs.escape_decode(content[1:-1])[0].decode("latin1"))  # pyrefly: ignore[missing-attribute]

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def set_one(self) -> None:
        value = self.pop()
        key = self.pop()
        self.add_items(self.top(dict), [key, value])

    def set_many(self) -> None:
        items = self.marked()
        self.add_items(self.top(dict), items)

    def pop_to_name(self) -> None:
        name = self.pop()
        self.name(self.pop(), name)

    def items_dict(self) -> None:
        items = self.marked()
        self.stack.append({})
        self.add_items(self.stack[-1], items)

    def into_set(self, frozen: bool = False) -> None:
        items = self.marked()
        if not all(isinstance(item, SCALARS) for item in items):
            raise Refused("a set of what is neither word nor number")
        if frozen:
            self.stack.append(frozenset(items))
        else:
            self.top(set).update(items)

    def protocol(self) -> None:
        if (number := self.number("<B")) > 5:
            raise Damaged(f"it has protocol {number}, which there is not")


def decoded(content: bytes) -> str:
    """UTF-8 text as Python pickles it; Damaged where it is none."""
    try:
        return content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise Damaged(f"a text is no UTF-8 ({error.reason})") from error


_STEPS: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.PROTO: _Machine.protocol,
    pickle.FRAME: lambda m: m.source.take(8),
    pickle.MARK: _Machine.mark,
    pickle.POP: _Machine.pop_mark_or_value,
    pickle.POP_MARK: _Machine.marked,
    pickle.DUP: lambda m: m.push(m.top(object)),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.INT: lambda m: m.digits(m.source.line()),
    pickle.LONG: lambda m: m.digits(m.source.line()),
    pickle.BININT: lambda m: m.push(m.number("<i")),
    pickle.BININT1: lambda m: m.push(m.number("<B")),
    pickle.BININT2: lambda m: m.push(m.number("<H")),
    pickle.LONG1: lambda m: m.long("<B"),
    pickle.LONG4: lambda m: m.long("<i"),
    pickle.FLOAT: lambda m: m.push(float(m.source.line())),
    pickle.BINFLOAT: lambda m: m.push(m.number(">d")),
    pickle.STRING: _Machine.quoted,
    pickle.BINSTRING: lambda m: m.python2_string("<i"),
    pickle.SHORT_BINSTRING: lambda m: m.python2_string("<B"),
    pickle.BINBYTES: lambda m: m.long_string("<I", text=False),
    pickle.SHORT_BINBYTES: lambda m: m.long_string("<B", text=False),
    pickle.BINBYTES8: lambda m: m.long_string("<Q", text=False),
    pickle.BYTEARRAY8: lambda m: m.long_string("<Q", text=False),
    pickle.UNICODE: lambda m: m.push(m.source.line().decode("raw-unicode-escape")),
    pickle.BINUNICODE: lambda m: m.long_string("<I", text=True),
    pickle.SHORT_BINUNICODE: lambda m: m.long_string("<B", text=True),
    pickle.BINUNICODE8: lambda m: m.long_string("<Q", text=True),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.new_tuple(1),
    pickle.TUPLE2: lambda m: m.new_tuple(2),
    pickle.TUPLE3: lambda m: m.new_tuple(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.marked())),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.LIST: lambda m: m.push(m.marked()),
    pickle.APPEND: lambda m: m.extend([m.pop()]),
    pickle.APPENDS: lambda m: m.extend(m.marked()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.DICT: _Machine.items_dict,
    pickle.SETITEM: _Machine.set_one,
    pickle.SETITEMS: _Machine.set_many,
    pickle.EMPTY_SET: lambda m: m.push(set()),
    pickle.ADDITEMS: _Machine.into_set,
    pickle.FROZENSET: lambda m: m.into_set(frozen=True),
    pickle.GLOBAL: lambda m: m.name(decoded(m.source.line()), decoded(m.source.line())),
    pickle.STACK_GLOBAL: _Machine.pop_to_name,
    pickle.REDUCE: _Machine.reduce,
    pickle.INST: _Machine.instance,
    pickle.OBJ: _Machine.object,
    pickle.NEWOBJ: _Machine.new,
    pickle.NEWOBJ_EX: lambda m: m.new(keywords=True),
    pickle.BUILD: _Machine.set_state,
    pickle.PERSID: lambda m: m.push(m.persistent(decoded(m.source.line()))),
    pickle.BINPERSID: lambda m: m.push(m.persistent(m.pop())),
    pickle.PUT: lambda m: m.remember(int(m.source.line())),
    pickle.BINPUT: lambda m: m.remember(m.number("<B")),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number("<I")),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.GET: lambda m: m.recall(int(m.source.line())),
    pickle.BINGET: lambda m: m.recall(m.number("<B")),
    pickle.LONG_BINGET: lambda m: m.recall(m.number("<I")),
}
