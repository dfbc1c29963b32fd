"""Finds the named tensors in a weight file, and what is stored beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from rcnn.data.messages import counted, few
from rcnn.weights.readers.opcodes import Span, decoded
from rcnn.weights.readers.open_file import read_container
from rcnn.weights.readers.stored import Damaged, LazyState, Refused, Stored, require_room, shape_of

# keys under which trainers save the weights, best first
INSIDE = ("model", "state_dict", "model_state_dict", "blobs", "weights", "net", "network", "module")
# prefixes that wrappers add to every name: DistributedDataParallel, torch.compile, Lightning
WRAPPERS = ("module.", "_orig_mod.", "model.")
SMALL = 1 << 16  # bytes; arrays beside the weights are read up to this size (means, anchors)
MAX_EXTRAS = 100_000  # values beside the weights that are examined


@dataclass(frozen=True, kw_only=True)
class Found:
    """The content of a weight file."""

    state: Mapping[str, Tensor]  # names without the prefixes of wrappers; from a file, read one at a time as float32
    source: str = "the state dict"  # the file, for messages
    extras: Mapping[str, Any] = field(default_factory=dict)  # what is stored beside the weights: meta, cfg, epoch
    skipped: tuple[str, ...] = ()  # other parts of the file that hold arrays: optimizer, averaged weights
    kind: str = ""  # the file format

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of tensor `name`, without reading it."""
        return shape_of(self.state, name)


def find_weights(file: str | Path) -> Found:
    """The named tensors of `file`. Raises FileNotFoundError, ImportError, or ValueError that says what is wrong."""
    container = read_container(file)
    key, inside = _weights(container.content, str(file))
    stored = _named(inside, str(file))
    others = container.content
    try:
        require_room(sum(value.nbytes for value in stored.values()), container.size)
        if key is None:  # text and numbers among the weights themselves
            others = {name: value for name, value in container.content.items() if not isinstance(value, Stored)}
        extras = {name: _plain(value, {}, 0) for name, value in others.items() if name != key}
    except Refused as error:
        raise ValueError(f"{file} was refused, and no code of it was run: it contains {error}") from error
    except Damaged as error:
        raise ValueError(f"{file} is truncated or damaged ({error}): copy or download it again") from error
    counts = {str(name): _large_arrays(value, set(), 0) for name, value in others.items() if name != key}
    skipped = tuple(f"{name} ({counted(count, 'array')})" for name, count in counts.items() if count)
    state = LazyState(stored, str(file))
    return Found(state=state, source=str(file), extras=extras, skipped=skipped, kind=container.kind)


def _weights(content: Any, source: str) -> tuple[str | None, Mapping[Any, Any]]:
    """The key of `content` that holds the weights, and its value; the key is None if `content` is the state dict."""
    if not isinstance(content, Mapping):
        found = "an unnamed array" if isinstance(content, Stored) else type(content).__name__
        raise ValueError(f"{source} holds no named tensors: found {found}")
    parts = [key for key, value in content.items() if isinstance(value, Mapping) and _holds_arrays(value)]
    named = [key for key in INSIDE if key in parts]
    if named:
        return named[0], content[named[0]]
    if _holds_arrays(content):
        return None, content
    if len(parts) == 1:
        return parts[0], content[parts[0]]
    found = few([str(key)[:60] for key in content]) or "nothing"
    raise ValueError(f"{source} holds no named tensors: found {found}")


def _holds_arrays(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Stored) and value.kind[0] not in "SU" for value in content.values())


def _named(content: Mapping[Any, Any], source: str) -> dict[str, Stored]:
    """The arrays in `content` by name, without the prefixes of WRAPPERS. Raises ValueError for unclear names."""
    stored = {}
    for key, value in content.items():
        if not isinstance(value, Stored) or value.kind[0] in "SU":
            continue
        name = key.decode("latin1") if isinstance(key, bytes) else key
        if not isinstance(name, str):
            raise ValueError(
                f"{source} has a tensor with the name {str(key)[:40]} ({type(key).__name__}); expected text as name"
            )
        stored[name] = value
    changed = True
    while changed:
        changed = False
        for prefix in WRAPPERS:
            # where only part of the model was wrapped in DistributedDataParallel, only some names have the prefix
            prefixed = [name.startswith(prefix) for name in stored]
            if all(prefixed) or (prefix == "module." and any(prefixed)):
                short = {name.removeprefix(prefix): value for name, value in stored.items()}
                if len(short) != len(stored):
                    raise ValueError(f"{source} has tensors twice, with and without the prefix {prefix!r}")
                stored, changed = short, True
    return stored


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    """`value` with small arrays read; None replaces large arrays and values that are nested too deeply."""
    if isinstance(value, Stored):
        return value.read() if value.nbytes <= SMALL else None
    if isinstance(value, Span):
        if value.length > 64 * SMALL:
            return None
        return decoded(bytes(value.read())) if value.text else value.read().decode("latin1")
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) in done:
        return done[id(value)]
    if depth > 20 or len(done) > MAX_EXTRAS:
        return None
    done[id(value)] = None
    if isinstance(value, dict):
        new: Any = {key: _plain(each, done, depth + 1) for key, each in value.items()}
    else:
        new = type(value)([_plain(each, done, depth + 1) for each in value])
    done[id(value)] = new
    return new


def _large_arrays(value: Any, seen: set[int], depth: int) -> int:
    """The number of arrays in `value` that are too large for `_plain` to read."""
    if isinstance(value, Stored):
        return int(value.nbytes > SMALL)
    if not isinstance(value, (dict, list, tuple)) or id(value) in seen or depth > 20 or len(seen) > MAX_EXTRAS:
        return 0
    seen.add(id(value))
    return sum(_large_arrays(each, seen, depth + 1) for each in (value.values() if isinstance(value, dict) else value))
