"""The named tensors among what a file of weights holds, and what lies beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rcnn.weights.readers.opcodes import Span
from rcnn.weights.readers.open_file import read_container
from rcnn.weights.readers.stored import Damaged, LazyState, Refused, Stored, require_room
from rcnn.weights.systems.converted import few

# where trainers put the weights among other things, best first
INSIDE = ("model", "state_dict", "model_state_dict", "blobs", "weights", "net", "network", "module")
# words that a wrapper puts before every name: DistributedDataParallel, torch.compile, Lightning
WRAPPERS = ("module.", "_orig_mod.", "model.")
SMALL = 1 << 16  # bytes: arrays up to this are read with what lies beside the weights (means, anchors)
MOST_BESIDE = 100_000  # values that lie beside the weights and are looked at


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a file of weights holds."""

    state: LazyState  # read one at a time, float32; names without what wrappers put before all of them
    source: str  # the file, for messages
    extras: Mapping[str, Any] = field(default_factory=dict)  # what lies beside the weights: meta, cfg, epoch
    left: tuple[str, ...] = ()  # what else in the file holds arrays: the optimiser's, averaged weights
    kind: str = ""  # what kind of file it is


def find_weights(file: str | Path) -> Found:
    """The named tensors of `file`. Raises FileNotFoundError, ImportError, or ValueError that says what is wrong."""
    container = read_container(file)
    where, inside = _weights(container.content, str(file))
    stored = _named(inside, str(file))
    others = container.content if where is not None else {}
    try:
        require_room(sum(value.nbytes for value in stored.values()), container.size)
        extras = {key: _plain(value, {}, 0) for key, value in others.items() if key != where}
    except (Refused, Damaged) as error:
        raise ValueError(f"{file} holds {error}: refused, and nothing of it was run") from error
    counts = {str(key): _large_arrays(value, set(), 0) for key, value in others.items() if key != where}
    left = tuple(f"{key} ({count} arrays)" for key, count in counts.items() if count)
    if where is None and isinstance(container.content, Mapping):  # words and numbers among the weights themselves
        extras = {key: value for key, value in container.content.items() if not isinstance(value, Stored)}
        extras = {key: _plain(value, {}, 0) for key, value in extras.items()}
    return Found(state=LazyState(stored, str(file)), source=str(file), extras=extras, left=left, kind=container.kind)


def _weights(content: Any, source: str) -> tuple[str | None, Mapping[Any, Any]]:
    """The part of `content` that holds the weights, and by which name; None where all of it does."""
    if not isinstance(content, Mapping):
        found = "an array without a name" if isinstance(content, Stored) else type(content).__name__
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
    stored = {}
    for key, value in content.items():
        if not isinstance(value, Stored) or value.kind[0] in "SU":
            continue
        name = key.decode("latin1") if isinstance(key, bytes) else key
        if not isinstance(name, str):
            raise ValueError(
                f"{source} has a tensor called {str(key)[:40]} ({type(key).__name__}): names must be words"
            )
        stored[name] = value
    changed = True
    while changed:
        changed = False
        for prefix in WRAPPERS:
            # DistributedDataParallel's word may stand before some alone, where a part of the model was wrapped
            begin = [name.startswith(prefix) for name in stored]
            if all(begin) or (prefix == "module." and any(begin)):
                short = {name.removeprefix(prefix): value for name, value in stored.items()}
                if len(short) != len(stored):
                    raise ValueError(f"{source} has tensors twice, with {prefix!r} before their names and without")
                stored, changed = short, True
    return stored


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    """`value` without large arrays; None for what is too much or too deep to be looked at."""
    if isinstance(value, Stored):
        return value.read() if value.nbytes <= SMALL else None
    if isinstance(value, Span):
        return value.read().decode("utf-8" if value.text else "latin1") if value.length <= 64 * SMALL else None
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) in done:
        return done[id(value)]
    if depth > 20 or len(done) > MOST_BESIDE:
        return None
    done[id(value)] = None
    if isinstance(value, dict):
        new: Any = {key: _plain(each, done, depth + 1) for key, each in value.items()}
    else:
        new = type(value)([_plain(each, done, depth + 1) for each in value])
    done[id(value)] = new
    return new


def _large_arrays(value: Any, seen: set[int], depth: int) -> int:
    """How many arrays are in `value`, without the small ones, which are read."""
    if isinstance(value, Stored):
        return int(value.nbytes > SMALL)
    if not isinstance(value, dict | list | tuple) or id(value) in seen or depth > 20 or len(seen) > MOST_BESIDE:
        return 0
    seen.add(id(value))
    return sum(_large_arrays(each, seen, depth + 1) for each in (value.values() if isinstance(value, dict) else value))
