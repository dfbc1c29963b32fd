"""Settings of the two Chainer Mask R-CNNs: a params.yaml, flags of a command line, or KEY=VALUE words; all data."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,), "extractor": (str,), "pooling_func": (str,), "roi_size": (int,), "min_size": (int,),
    "max_size": (int,), "anchor_scales": (list,), "mean": (list,), "class_names": (list,), "score_thresh": (float, int),
    "nms_thresh": (float, int), "bn2affine": (bool,), "freeze_bn": (bool,), "roialign": (bool,),
}  # fmt: skip
WORDS = {"pooling_func": ("align", "pooling", "resize"), "model": ("resnet50", "resnet101")}
# how it was trained, and where: known, and of no use to the detector
OF_THE_RUN = {
    "gpu", "multi_node", "initializer", "max_epoch", "batch_size_per_gpu", "dataset", "logs_dir", "n_node", "n_gpu",
    "seed", "timestamp", "out", "batch_size", "lr", "weight_decay", "step_size", "git_hash", "hostname",
    "batchsize", "lr_step", "lr_initialchange", "pretrained", "snapshot", "validation", "resume", "iteration", "gamma",
    "modelfile", "image", "contour", "background", "filename",
}  # fmt: skip
SHORT = {
    "-r": "roi_size",
    "-g": "gpu",
    "-m": "model",
    "-p": "pooling_func",
    "-b": "batchsize",
    "-s": "seed",
    "-l": "lr",
}
FLAGS = {"bn2affine": True, "freeze_bn": True, "roialign": False}  # without a value; --roialign turns RoIAlign off


class _Unread:
    """What a YAML file would have made by calling something; nothing was called."""


class _Loader(yaml.SafeLoader):
    """Plain values; tuples as lists; what would be an object of Python's is not made."""


def _tuple(loader: yaml.SafeLoader, node: yaml.Node) -> list[Any]:
    assert isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node, deep=True)


def _text(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
_Loader.add_constructor("tag:yaml.org,2002:python/unicode", _text)
_Loader.add_constructor("tag:yaml.org,2002:python/str", _text)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: _Unread())


@dataclass(frozen=True)
class Settings:
    """What was said, as far as a detector has it."""

    values: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()  # of the training
    unknown: tuple[str, ...] = ()

    def get(self, key: str) -> Any:
        """The value of `key`, None where nothing was said."""
        return self.values.get(key)

    def sentences(self) -> tuple[str, ...]:
        """About what was said and plays no part."""
        said = []
        if self.ignored:
            said.append(f"settings of the training, which play no part here: {', '.join(self.ignored)}")
        if self.unknown:
            said.append(f"settings not understood, and left alone: {', '.join(self.unknown)}")
        return tuple(said)


def read_settings(config: str | Path | None, system: Literal["wkentaro", "dena"]) -> Settings:
    """The settings of a file, or the words themselves. ValueError for what cannot be read, or has the wrong kind."""
    if config is None:
        return Settings()
    found = _read(config)
    values = {key: value for key, value in found.items() if key in KINDS and not isinstance(value, _Unread)}
    for key, value in values.items():
        if float in KINDS[key] and isinstance(value, str):  # YAML's 1e-3, without a point, is a word
            value = values[key] = _number(value)
        fits = isinstance(value, KINDS[key]) and (bool in KINDS[key] or not isinstance(value, bool))
        if isinstance(value, list) and key != "class_names":
            fits = fits and all(isinstance(item, int | float) for item in value)
        if value is not None and (not fits or (key in WORDS and value not in WORDS[key])):
            wanted = " or ".join(WORDS[key]) if key in WORDS else KINDS[key][0].__name__
            raise ValueError(f"{config}: {key} is {value!r}; expected {wanted}")
    if isinstance(values.get("anchor_scales"), list):
        values["anchor_scales"] = [float(scale) for scale in values["anchor_scales"]]
    if values.pop("roialign", None) is False and system == "dena":
        values["pooling_func"] = "pooling"
    others = [key for key in found if key not in values and key != "roialign"]
    ignored = tuple(key for key in others if key in OF_THE_RUN)
    return Settings(values, ignored, tuple(key for key in others if key not in OF_THE_RUN))


def _number(text: str) -> float | str:
    """The number that a word is, or the word."""
    try:
        return float(text)
    except ValueError:
        return text


def _read(config: str | Path) -> dict[str, Any]:
    try:
        path = Path(config) if Path(config).is_file() else None
    except OSError:  # words that are too long for the name of a file
        path = None
    try:
        if path is None:
            return _words(shlex.split(str(config)), str(config))
        text = path.read_text(encoding="utf-8")
        if re.match(r"\s*--?\w", text):  # flags; a dash and a space would be a list
            return _words(shlex.split(text), str(config))
        content = _data(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"{config}: cannot be read as settings ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{config} has no keys and values; expected a params.yaml, such as min_size: 800")
    return content


def _data(text: str) -> Any:
    """What a YAML text holds, as plain values."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _words(words: list[str], source: str) -> dict[str, Any]:
    """Settings of a command line: `--roi_size 14 --bn2affine`, or `roi_size=14 bn2affine=true`."""
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.lstrip("-").replace("-", "_").partition("=")
        name = SHORT.get(word, name)
        if equals:
            value = word.partition("=")[2]
        elif name in FLAGS:
            found[name] = FLAGS[name]
            continue
        elif word.startswith("-") and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        elif not word.startswith("-"):
            raise ValueError(f"{source!r} is neither a file nor settings: expected KEY=VALUE, such as min_size=800")
        found[name] = _data(value)
    return found
