"""A pickle machine that builds plain values and stored arrays only.

Python's own reader imports and calls everything that a pickle names. This one imports nothing, and the few calls
that arrays and tensors need are replaced by our functions (pickles.py, torch_files.py). No length is trusted
beyond the end of the file, and long byte strings stay in the file until they are used. See docs/security.md.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from rcnn.weights.readers.stored import Damaged, Refused, Reopen, file_part

MAX_INLINE = 1 << 16  # bytes; longer byte strings and texts stay in the file
MAX_STEPS = 5_000_000  # instructions; a checkpoint with its optimizer has tens of thousands
MAX_DIGITS = 4000  # digits or bytes of one number
SCALARS = (str, int, float, bytes, bool, type(None))


@dataclass(frozen=True)
class Name:
    """The name of a function or class in a pickle; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


class Inert:
    """Replaces an object that the weights do not need; items that are added to it are dropped."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


@dataclass(frozen=True)
class Span:
    """A long byte string that stays in its file until `read` is called."""

    length: int  # bytes in the file
    read: Callable[[], bytes | bytearray]
    text: bool = False  # UTF-8


class Source:
    """A file, or part of one, of known length; nothing beyond its end is read."""

    def __init__(self, file: BinaryIO, start: int, length: int, reopen: Reopen) -> None:
        self._file, self._start, self.length, self.at, self._reopen = file, start, length, 0, reopen
        file.seek(start)

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises Damaged if the file ends before."""
        if count < 0 or self.at + count > self.length:
            raise Damaged(f"it ends at byte {self.length}, inside {count} bytes that start at {self.at}")
        content = self._file.read(count)
        if len(content) != count:
            raise Damaged(f"it ends at byte {self.at + len(content)}")
        self.at += count
        return content

    def line(self) -> bytes:
        """The next line without its line feed."""
        content = self._file.readline(self.length - self.at)
        self.at += len(content)
        if not content.endswith(b"\n"):
            raise Damaged("it ends inside a line")
        return content[:-1]

    def seek(self, at: int) -> None:
        """Continue at byte `at`."""
        self.at = at
        self._file.seek(self._start + at)

    def span(self, count: int, text: bool = False) -> Span:
        """The next `count` bytes, which stay in the file."""
        at = self.at
        if self.at + count > self.length:
            raise Damaged(f"it ends at byte {self.length}, inside {count} bytes that start at {at}")
        self.seek(at + count)
        return Span(count, lambda: self.part(at, count), text)

    def part(self, at: int, count: int) -> bytearray:
        """`count` bytes from byte `at`; works also after the file is closed."""
        return file_part(self._reopen, self._start, self.length, at, count)


Call = Callable[[Name, Any], Any]  # (function, arguments) -> value; raises Refused for unknown names
Build = Callable[[Any, Any], None]  # (value, state): what __setstate__ would do
Persistent = Callable[[Any], Any]  # persistent id -> value


def _no_persistent(key: Any) -> Any:
    raise Refused("a reference to something outside the file (a persistent id)")


def run(source: Source, call: Call, build: Build, persistent: Persistent = _no_persistent) -> Any:
    """The value of the pickle at the position of `source`, which then moves to the end of the pickle.

    `call(name, arguments)` replaces calls, `build(value, state)` replaces `__setstate__`. Raises Damaged and Refused.
    """
    machine = _Machine(source, call, build, persistent)
    for _ in range(MAX_STEPS):
        code = source.take(1)
        if code == pickle.STOP:
            return machine.pop()
        step = _STEPS.get(code)
        if step is None:
            raise Damaged(f"byte {source.at - 1}, {code!r}, is not a pickle instruction")
        try:
            step(machine)
        except (Damaged, Refused):
            raise
        except Exception as error:  # a crafted number or text may raise anything
            raise Damaged(f"byte {source.at}: {type(error).__name__}") from error
    raise Refused(f"more than {MAX_STEPS} pickle instructions; weights need far fewer")


class _Machine:
    """A pickle machine: the stack, the memo and the source of the instructions. Most methods are instructions."""

    def __init__(self, source: Source, call: Call, build: Build, persistent: Persistent) -> None:
        self.source, self.call, self.build, self.persistent = source, call, build, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise Damaged("an instruction needs a value, but the stack is empty")
        return self.stack.pop()

    def top(self, *kinds: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kinds):
            raise Damaged(f"an instruction needs a {kinds[0].__name__} on the stack")
        return self.stack[-1]

    def marked(self) -> list[Any]:
        if not self.marks:
            raise Damaged("an instruction needs a mark on the stack")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def number(self, form: str) -> int:
        return struct.unpack(form, self.source.take(struct.calcsize(form)))[0]

    def remember(self, index: int) -> None:
        if not self.stack:
            raise Damaged("an instruction stores a value, but the stack is empty")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise Damaged(f"an instruction refers to memo entry {index}, which does not exist")
        self.stack.append(self.memo[index])

    def long_string(self, form: str, text: bool) -> None:
        count = self.number(form)
        if count > MAX_INLINE:
            self.stack.append(self.source.span(count, text))
        else:
            content = self.source.take(count)
            self.stack.append(decoded(content) if text else content)

    def python2_string(self, form: str) -> None:
        """Python 2 does not distinguish text and bytes: short strings are read as text, one byte per character."""
        count = self.number(form)
        if count < 0:
            raise Damaged(f"a string has {count} bytes")
        self.stack.append(self.source.span(count) if count > MAX_INLINE else self.source.take(count).decode("latin1"))

    def long(self, form: str) -> None:
        count = self.number(form)
        if not 0 <= count <= MAX_DIGITS:
            raise Refused(f"a number of {count} bytes")
        self.stack.append(int.from_bytes(self.source.take(count), "little", signed=True))

    def digits(self, content: bytes) -> None:
        content = content.removesuffix(b"L")
        if len(content) > MAX_DIGITS:
            raise Refused(f"a number of {len(content)} digits")
        self.stack.append(content == b"01" if content in (b"00", b"01") else int(content))

    def add_items(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Inert):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise Damaged("items are set in a value that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # nothing nested: hashing a tuple of tuples may take exponential time
            flat = isinstance(key, tuple) and len(key) <= 16 and all(isinstance(part, SCALARS) for part in key)
            if not flat and not isinstance(key, SCALARS):
                raise Refused(f"a dict with keys of type {type(key).__name__}; expected text or numbers")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Damaged("a name is not text")
        self.stack.append(Name(module, name))

    def calls(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Name):
            raise Refused(f"a call of a {type(function).__name__}; expected a function name")
        if not isinstance(arguments, tuple):
            raise Damaged(f"{function} is called without an argument tuple")
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
            raise Refused("an object built with keyword arguments")
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
            raise Damaged("a tuple has more values than the stack")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def quoted(self) -> None:
        content = self.source.line()
        if len(content) < 2 or content[0] != content[-1] or content[:1] not in b"\"'":
            raise Damaged("a string is not quoted")
        self.stack.append(codecs.escape_decode(content[1:-1])[0].decode("latin1"))

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def set_one(self) -> None:
        value = self.pop()
        key = self.pop()
        self.add_items(self.top(dict, Inert), [key, value])

    def set_many(self) -> None:
        items = self.marked()
        self.add_items(self.top(dict, Inert), items)

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
            raise Refused("a set whose items are neither text nor numbers")
        if frozen:
            self.stack.append(frozenset(items))
        else:
            self.top(set).update(items)

    def protocol(self) -> None:
        if (number := self.number("<B")) > 5:
            raise Damaged(f"it has pickle protocol {number}; expected at most 5")


def decoded(content: bytes) -> str:
    """UTF-8 text as Python pickles it. Raises Damaged for other bytes."""
    try:
        return content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise Damaged(f"a text is not UTF-8 ({error.reason})") from error


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
