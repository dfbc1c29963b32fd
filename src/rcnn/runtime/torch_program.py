"""Reads torch.export programs (.pt2) of unknown origin without running code from the file.

`torch.export.load` trusts its file: it unpickles what the file marks as pickled, evaluates its expressions of sizes
and its guards as Python, and looks up the functions of the graph by name anywhere in torch. Therefore it is given a
copy in memory that has only what this module has checked: tensors as bytes, calls of operators of networks and of
rcnn, names, and arithmetic of sizes. Metadata and guards are left out; torch still checks the ranges of the sizes.
"""

from __future__ import annotations

import ast
import io
import json
import re
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from rcnn.runtime.record import KEY
from rcnn.weights.readers.stored import Damaged, Refused
from rcnn.weights.readers.zips import Member, zip_members

_PARSING = threading.Lock()  # held while torch's parser is replaced
GRAPH, INPUTS, RECORD = "models/model.json", "data/sample_inputs/model.pt", f"extra/{KEY}.json"
TENSOR_TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
TENSORS = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
VERSIONS = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id", "version")

OPERATOR = re.compile(r"torch\.ops\.(aten|rcnn)\.(\w+)\.(\w+)", re.ASCII)
FUNCTIONS = re.compile(
    r"torch\.sym_(min|max|int|float|not|ite)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|lt|le|gt|ge|eq|ne|and_|or_|getitem)"
    r"|math\.(ceil|floor|trunc)"
)
# operators of networks besides those that torch tags as core or as pointwise. Others of torch read and write memory
# without checks (sparse and "unsafe" ones), or files
KNOWN = frozenset({
    "__and__", "__or__", "__xor__", "_assert_tensor_metadata", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "all", "any", "arange", "baddbmm", "batch_norm", "bmm", "broadcast_to", "celu_", "chunk",
    "concat", "contiguous", "conv1d", "conv2d", "conv_transpose2d", "cumsum", "detach", "dropout", "einsum", "elu_",
    "expand_as", "flatten", "floor_divide", "full", "glu", "group_norm", "hardsigmoid_", "hardswish_", "hardtanh_",
    "instance_norm", "layer_norm", "leaky_relu_", "lift_fresh_copy", "linear", "log_softmax", "matmul", "max",
    "max_pool1d", "max_pool2d", "mean", "meshgrid", "movedim", "narrow", "new_full", "new_ones", "new_zeros",
    "ones", "ones_like", "pad", "pixel_shuffle", "pixel_unshuffle", "prelu", "relu6", "repeat_interleave",
    "reshape", "rms_norm", "roll", "scaled_dot_product_attention", "silu_", "softmax", "sort", "split",
    "split_with_sizes", "square", "squeeze", "stack", "std", "sum", "swapaxes", "t", "tensor_split", "tile", "to",
    "transpose", "tril", "triu", "unbind", "unflatten", "upsample_bicubic2d", "upsample_bilinear2d",
    "upsample_nearest2d", "var", "view_as", "where", "zeros", "zeros_like",
})  # fmt: skip
NAME = re.compile(r"[\w.]*|-Infinity", re.ASCII)  # torch writes infinite numbers as text
ARITHMETIC = frozenset({
    "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "FloatPow", "FloatTrueDiv", "FloorDiv", "FloorToInt", "Ge",
    "Gt", "Identity", "Integer", "IntTrueDiv", "Le", "Lt", "Max", "Min", "Mod", "ModularIndexing", "Mul", "Ne", "Not",
    "Or", "Pow", "PowByNatural", "PythonMod", "Rational", "RoundToInt", "Symbol", "ToFloat", "TruncToFloat",
    "TruncToInt", "Unequality", "Where", "ceiling", "floor",
})  # fmt: skip
SIZE = re.compile(r"[suz]\w*\d", re.ASCII)  # a symbol: s34, u0
PARTS_OF_ARITHMETIC = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp,
    ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context,
)  # fmt: skip
MAX_EXPRESSION = 20_000  # characters
TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def read_program(path: Path) -> tuple[str, io.BytesIO]:
    """The text of the record (empty if there is none), and a checked copy of the file for `torch.export.load`.

    Raises Damaged if the file cannot be read, Refused if it contains anything that could run code.
    """
    members = _members(path)
    graph = _json(members, GRAPH)
    if "guards_code" in graph:
        graph["guards_code"] = list[str]()
    for node in graph["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}
    _require_data(graph)
    tables = {name: _json(members, name) for name in TENSOR_TABLES if name in members}
    for name, table in tables.items():
        _require_data(table)
        if any(entry.get("use_pickle") is not False for entry in table["config"].values()):
            raise Refused(f"pickled tensors ({name})")
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as archive:
        for name, content in {GRAPH: graph, **tables}.items():
            archive.writestr(f"program/{name}", json.dumps(content))
        archive.writestr(f"program/{INPUTS}", b"")  # a pickle of the example inputs, which are not needed
        for name, member in members.items():
            if TENSORS.fullmatch(name) or name in VERSIONS:
                archive.writestr(f"program/{name}", _unchanged(name, member))
    copy.seek(0)
    return (members[RECORD].read().decode() if RECORD in members else ""), copy


def _members(path: Path) -> dict[str, Member]:
    """The members by their names below the folder that has the name of the archive."""
    members: dict[str, Member] = {}
    for name, member in zip_members(path).items():
        below = name.partition("/")[2]
        if below not in (GRAPH, INPUTS, RECORD, *TENSOR_TABLES, *VERSIONS) and not TENSORS.fullmatch(below):
            raise Refused(f"the member {name[:100]!r}, which `rcnn export` does not write")
        if below in members:
            raise Refused(f"two members with the name {below!r}")
        members[below] = member
    return members


def _unchanged(name: str, member: Member) -> bytes:
    """The bytes of a member. Raises Damaged unless they have the checksum in the directory of the file."""
    content = member.read()
    if zlib.crc32(content) != member.crc:
        raise Damaged(f"{name} has another checksum than the directory says")
    return content


def _json(members: dict[str, Member], name: str) -> dict[str, Any]:
    if name not in members:
        raise Damaged(f"it has no {name}")
    try:
        content: object = json.loads(members[name].read())
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{name}: {error}") from error
    if not isinstance(content, dict):
        raise Damaged(f"{name} is not a table")
    return cast("dict[str, Any]", content)


def _require_data(value: object, key: str = "") -> None:
    """Raise Refused unless every text in `value`, which has the name `key`, is a name, a number or arithmetic."""
    if isinstance(value, dict):
        table = cast("dict[str, object]", value)
        for name, item in table.items():
            (_require_arithmetic if key == "range_constraints" else _require_name)(name)
            _require_data(item, name)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            _require_data(item, key)
    elif isinstance(value, str):
        if key == "expr_str":
            _require_arithmetic(value)
        elif key in ("in_spec", "out_spec"):
            _require_tree(json.loads(value)[1])
        elif key == "target":
            _require_operator(value)
        elif key != "torch_version":
            _require_name(value)


def _require_operator(text: str) -> None:
    if not (FUNCTIONS.fullmatch(text) or _is_known(text)):
        raise Refused(f"a call of {text[:100]!r}, which is not an operator of networks, nor of rcnn")


def _is_known(text: str) -> bool:
    """Whether `text` is an operator of rcnn, or one of torch's that networks need and that checks its arguments."""
    match = OPERATOR.fullmatch(text)
    if match is None:
        return False
    library, name, overload = match.groups()
    if library == "rcnn" or name in KNOWN:
        return True
    found = getattr(getattr(torch.ops.aten, name, None), overload, None)
    tags = found.tags if isinstance(found, torch._ops.OpOverload) else []
    return torch.Tag.core in tags or torch.Tag.pointwise in tags


def _require_name(text: str) -> None:
    if not NAME.fullmatch(text):
        raise Refused(f"{text[:100]!r} in place of a name")


def _require_arithmetic(text: str) -> None:
    """Raise Refused unless `text` is an expression of sizes, such as `Mul(Integer(32), Symbol('s9', integer=True))`."""
    refused = Refused(f"{text[:100]!r} in place of an expression of sizes")
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval"))) if len(text) <= MAX_EXPRESSION else []
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise refused from error
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.Name):
            known = node.id in ARITHMETIC if id(node) in called else SIZE.fullmatch(node.id) is not None
        elif isinstance(node, ast.Call):
            known = isinstance(node.func, ast.Name)
        elif isinstance(node, ast.Constant):
            known = SIZE.fullmatch(node.value) is not None if isinstance(node.value, str) else True
        else:
            known = isinstance(node, PARTS_OF_ARITHMETIC)
        if not known:
            raise refused
    if not nodes:
        raise refused


def _require_tree(tree: dict[str, Any]) -> None:
    """Raise Refused unless the arguments are nested in tuples, lists and dictionaries without keys."""
    if tree["type"] not in TREES or tree["context"] not in (None, "null", "[]"):
        raise Refused(f"arguments in a {str(tree['type'])[:100]!r}")
    for child in tree["children_spec"]:
        _require_tree(child)


@contextmanager
def sizes_parsed_once() -> Iterator[None]:
    """Within the block, torch parses each expression of sizes once.

    By default it parses those of each tensor again: 18,000 in a file of any size that has 200 different ones.
    """
    from torch._export.serde import serialize

    kind: Any = getattr(serialize, "GraphModuleDeserializer", None)
    if not hasattr(kind, "_parse_sym_expr"):  # another version of torch: slower, but right
        yield
        return
    known: dict[tuple[object, ...], object] = {}
    with _PARSING:
        parse = kind._parse_sym_expr

        def parse_once(self: object, *given: object) -> object:
            if (self, *given) not in known:
                known[self, *given] = parse(self, *given)
            return known[self, *given]

        kind._parse_sym_expr = parse_once
        try:
            yield
        finally:
            kind._parse_sym_expr = parse
