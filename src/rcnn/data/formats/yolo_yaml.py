"""The content of YOLO's data.yaml, with the keys that it has twice, which PyYAML does not report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from rcnn.text_files import read_text, yaml_value

UNCOMPARED = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")  # of the keys << and =, without quotes
MAX_VALUES = 60_000  # texts, numbers, lists and mappings of a YAML file: PyYAML takes 2 seconds for these


def parsed_yaml(file: Path) -> tuple[Any, tuple[str, ...], str]:
    """The value in a YAML file and its repeated keys, or what is wrong with it; each file is parsed once."""
    status = file.stat()
    return _parsed(file, status.st_mtime_ns, status.st_size)


class _Loader(yaml.SafeLoader):
    """A loader of a document and the keys that it has twice, which PyYAML does not report; up to MAX_VALUES values."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._values = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES:,} values; expected the splits and the names of the classes")
        return super().compose_node(parent, index)

    @override
    def construct_document(self, node: yaml.Node) -> tuple[Any, tuple[str, ...]]:
        repeated = tuple(self._repeated_keys(node))  # before it is constructed, which merges keys
        return super().construct_document(node), repeated

    def _repeated_keys(self, node: yaml.Node) -> Iterator[str]:
        """The keys that a mapping has twice, and those of its value `names`: "names", "names: 0"."""
        yield from self._twice(node)
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        for value in [value for key, value in pairs if key.value == "names"][-1:]:
            yield from (f"names: {key}" for key in self._twice(value))

    def _twice(self, node: yaml.Node) -> list[str]:
        """The keys that a mapping has twice, as they are first written; their values count: 0, 00 and 0x0 are equal.

        Not those that merge another mapping, `<<`, which may be repeated, and not `=`, which PyYAML takes for a text
        only when it constructs the mapping.
        """
        keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        written = defaultdict[Hashable, list[str]](list)
        for key in keys:
            if isinstance(key, yaml.ScalarNode) and key.tag not in UNCOMPARED:
                written[self.construct_object(key)].append(key.value)
        return [texts[0] for texts in written.values() if len(texts) > 1]


@lru_cache(maxsize=4)
def _parsed(file: Path, changed: int, size: int) -> tuple[Any, tuple[str, ...], str]:
    """The value in a YAML file and its repeated keys, or what is wrong with it.

    Kept, because each split needs it, and PyYAML takes long.
    """
    try:
        value, repeated = yaml_value(read_text(file), _Loader) or (None, ())
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, KeyError) as error:
        return None, (), " ".join(str(error).split())[:300]
    return value, repeated, ""
