"""Reads text, JSON and YAML files of users, with clear errors and a limit on the size of YAML."""

from __future__ import annotations

import codecs
import gc
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from rcnn.arguments import DATA, as_path

MAX_YAML_NODES = 1_000_000  # values of a YAML document with its aliases (*name) expanded
MAX_YAML_DEPTH = 100  # brackets that are open at a time
FEW_LEVELS = "expected lists and mappings in a few levels"
BYTE_ORDER_MARKS = {  # UTF-32 first: its mark starts with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig",
}  # fmt: skip


OTHER_ENCODING = "text in another encoding than UTF-8; save it as UTF-8"


class NotUnicodeError(ValueError):
    """A text file in another encoding than UTF-8, UTF-16 and UTF-32, e.g. in Windows' cp1252."""


def read_text(path: Path) -> str:
    """The text of a file, see `decoded`. Raises ValueError that names the file, OSError where it cannot be read."""
    require_regular(path)
    require_no_folder(path)
    return decoded(path.read_bytes(), str(path))


def require_regular(path: Path) -> None:
    """Raise FileNotFoundError for a broken link, and ValueError for a pipe or device, since reading may never end."""
    if path.is_file() or path.is_dir():
        return
    if path.is_symlink():
        raise FileNotFoundError(f"{path} {missing_text(path)}: copy the file itself")
    if path.exists():
        raise ValueError(f"{path} is not a regular file (a pipe or a device?); expected a file")


def require_no_folder(path: Path, *, given: bool = False) -> None:
    """Raise ValueError for a folder in place of a file; `given`: the user named the path, as an argument."""
    if path.is_dir():
        advice = "give the path of a file" if given else "put the file back, or rename or remove the folder"
        raise ValueError(f"{path} is a folder; expected a file: {advice}")


def require_file(path: Path, *, given: bool = False) -> None:
    """Like `require_regular`; also raise ValueError for a folder, FileNotFoundError or PermissionError."""
    require_regular(path)
    require_no_folder(path, given=given)
    if not path.exists():
        raise FileNotFoundError(f"{path} {missing_text(path)}; copy it again")
    with path.open("rb"):  # PermissionError: some libraries report it as a missing file
        pass


def as_given(path: str | Path) -> str:
    """`path` as the user wrote it: a Path made from a URL has only one of the two slashes; the other is added."""
    return re.sub(r"^(https?:/)(?!/)", r"\1/", str(path), flags=re.IGNORECASE)


def missing_text(path: Path) -> str:
    """Why there is no file at `path`: a URL, a broken link, a file in place of a folder, or only "does not exist"."""
    if as_given(path) != str(path):
        return "is a URL, and only images are read from URLs: download the file, and give its path"
    for one in (path, *path.parents):
        if one.is_symlink() and not one.exists():
            where = "is" if one == path else f"does not exist: {one} is"
            return f"{where} a broken symbolic link (its target does not exist, or it leads back to itself)"
        if one.exists():
            return "does not exist" if one.is_dir() else f"does not exist: {one} is a file, not a folder"
    return "does not exist"


def require_data_path(path: Path) -> None:
    """Raise FileNotFoundError if `path`, which is expected to be a data set, does not exist or cannot."""
    as_path(path, "the data set", DATA)
    if not path.exists():
        raise FileNotFoundError(
            f"{as_given(path)} {missing_text(path)}; expected the folder of a data set, or an annotation file, in one "
            "of the formats of docs/data.md"
        )


def decoded(content: bytes, source: str) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, which is removed; line ends are LF.

    Raises NotUnicodeError, with `source`, for another encoding, and ValueError for binary files.
    """
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at offset {error.start}" if content[error.start :] else "cut short"
        if encoding == "utf-8" and is_binary(content):
            raise ValueError(f"{source} is not a text file: it is binary ({found})") from error
        raise NotUnicodeError(
            f"{source} is not a text file in {encoding.upper().removesuffix('-SIG')} ({found}); save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(
            f"{source} is not a text file: it is binary, or in UTF-16 without a byte order mark; save it as UTF-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def without_controls(value: object) -> str:
    """`value`, e.g. from a server, as text with control characters escaped: these could change the terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(value))


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped. Errors as for `read_text`."""
    return [stripped for line in read_text(path).splitlines() if (stripped := line.strip())]


def read_json(
    path: Path,
    advice: str = "it may be cut short or another kind of file: export or copy it again",
    *,
    given: bool = False,
) -> Any:
    """The value in a JSON file. Raises ValueError, which ends with `advice`, where it is damaged; OSError as usual.

    `given`: as for `require_no_folder`. JSON is text in UTF-8, UTF-16 or UTF-32. Raises NotUnicodeError for text in
    another encoding.
    """
    require_regular(path)
    require_no_folder(path, given=given)
    content = path.read_bytes()
    if not content:
        raise ValueError(f"{path} is empty (0 bytes); {advice}")
    try:
        with gc_paused():
            return json.loads(content)
    except UnicodeDecodeError as error:
        if is_binary(content):
            raise ValueError(f"{path} is not JSON: it is a binary file; {advice}") from error
        raise NotUnicodeError(f"{path} is {OTHER_ENCODING}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {advice}") from error


def is_binary(content: bytes) -> bool:
    """Whether the start of a file that is not in a Unicode encoding has control characters, which texts do not have."""
    return any(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in content[:1024])


def contains_key(content: bytes, key: str) -> bool:
    """Whether the content of a JSON file, or its start, contains the text `key` in quotes; it is not parsed."""
    encoding = json.detect_encoding(content)
    if encoding.startswith("utf-8"):
        return f'"{key}"'.encode() in content
    return f'"{key}"' in content.decode(encoding, "replace")


@contextmanager
def gc_paused() -> Iterator[None]:
    """Within the block, garbage collection is off: with millions of lists in use, it takes half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def yaml_value(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The value of a YAML document.

    Raises yaml.YAMLError where it is damaged, and where aliases (`*name`) refer to themselves or expand to more than
    MAX_YAML_NODES values: 500 bytes can describe a billion. The same for more than MAX_YAML_DEPTH open brackets, for
    which PyYAML's time grows with the square of their number, and for what is nested too deeply for Python.
    """
    brackets = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", text))
    if _is_deep(brackets) and _is_deep(_brackets_of_tokens(text, loader)):  # the first also counts those in comments
        raise yaml.YAMLError(f"more than {MAX_YAML_DEPTH} brackets are open; {FEW_LEVELS}")
    reader = loader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None
        _count_nodes(node, {})
        return reader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError(f"lists and mappings are nested too deeply; {FEW_LEVELS}") from error
    finally:
        reader.dispose()


def _brackets_of_tokens(text: str, loader: type[yaml.SafeLoader]) -> Iterator[int]:
    """1 for each bracket that opens a list or mapping of a YAML document, -1 for each that closes one."""
    for token in yaml.scan(text, loader):
        if isinstance(token, yaml.FlowSequenceStartToken | yaml.FlowMappingStartToken):
            yield 1
        elif isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken):
            yield -1


def _is_deep(brackets: Iterable[int]) -> bool:
    """Whether more than MAX_YAML_DEPTH brackets are open at a time."""
    depth = 0
    for change in brackets:
        depth = max(0, depth + change)
        if depth > MAX_YAML_DEPTH:
            return True
    return False


def _count_nodes(node: yaml.Node, counts: dict[int, int]) -> int:
    """Number of nodes at and below `node`, with aliases expanded; `counts` has those of finished nodes (0: begun)."""
    if (known := counts.get(id(node))) is not None:
        if not known:
            raise yaml.YAMLError("an alias (*name) refers to the list or mapping that contains it")
        return known
    counts[id(node)] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    total = 1 + sum(_count_nodes(child, counts) for child in children)
    if total > MAX_YAML_NODES:
        raise yaml.YAMLError(f"its aliases (*name) expand to more than {MAX_YAML_NODES:,} values; write them out")
    counts[id(node)] = total
    return total
