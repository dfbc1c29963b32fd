"""Files of torch.export programs that would run code are refused, or read without it; others give the same values."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, nn
from torch._export.serde.serialize import GraphModuleDeserializer
from typing_extensions import override

from rcnn.runtime.exported import exported_record
from rcnn.runtime.torch_program import read_program, sizes_parsed_once
from rcnn.weights.readers.stored import Damaged, Refused

Edit = Callable[[dict[str, Any]], None]


class Network(nn.Module):
    """Enough for sizes, guards, a weight and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(3.0))
        self.register_buffer("mean", torch.ones(3), persistent=False)

    @override
    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        pixels = (images.flatten(1, 2) - self.mean) * self.weight
        pixels = pixels.clamp(min=-math.inf, max=math.inf).masked_fill(pixels > 1e9, -math.inf)  # in the file as text
        return pixels[:, : images.shape[1] // 2 + 1], sizes + images.shape[0]


class Payload:
    """A pickle of it creates the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with dynamic sizes."""
    path = tmp_path_factory.mktemp("program") / "a.pt2"
    batch, height = torch.export.Dim("batch", max=64), torch.export.Dim("height", max=64)
    example = (torch.zeros(2, 6, 4, 3), torch.zeros(2, 2))
    dynamic = {"images": {0: batch, 1: 2 * height}, "sizes": {0: batch}}
    exported = torch.export.export(Network(), example, dynamic_shapes=dynamic)
    torch.export.save(exported, path, extra_files={"rcnn.json": '{"rcnn": 1}'})
    return path


def changed(program: Path, path: Path, **contents: bytes | Edit) -> Path:
    """A copy of `program` at `path` with other contents of members; an Edit changes the JSON of a member."""
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        names = [name.partition("/")[2] for name in old.namelist()]
        for name in [*names, *(name for name in contents if name not in names)]:
            content = contents.get(name)
            if content is None or not isinstance(content, bytes):
                table = old.read(f"a/{name}")
                if content is not None:
                    parsed = json.loads(table)
                    content(parsed)
                    table = json.dumps(parsed).encode()
                content = table
            new.writestr(f"a/{name}", content)
    return path


def first_node(key: str, value: object) -> Edit:
    def edit(graph: dict[str, Any]) -> None:
        graph["graph_module"]["graph"]["nodes"][0][key] = value

    return edit


def every_expression(text: str) -> Edit:
    def edit(graph: dict[str, Any]) -> None:
        for value in graph["graph_module"]["graph"]["sym_int_values"].values():
            value["as_expr"]["expr_str"] = text

    return edit


def pickled_weight(table: dict[str, Any]) -> None:
    next(iter(table["config"].values()))["use_pickle"] = True


def renamed_input(graph: dict[str, Any]) -> None:
    """The name would become a part of the generated source code."""
    graph["graph_module"]["graph"]["inputs"][0]["as_tensor"]["name"] = "images, x=print()"


def other_tree(graph: dict[str, Any]) -> None:
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = signature["in_spec"].replace("builtins.tuple", "collections.defaultdict", 1)


GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
ATTACKS: dict[str, tuple[str, bytes | Edit, str]] = {
    "function": (GRAPH, first_node("target", "torch.os.system"), "a call of 'torch.os.system'"),
    "attribute of an operator": (GRAPH, first_node("target", "torch.ops.aten.__init__.__globals__"), "a call of"),
    "file": (GRAPH, first_node("target", "torch.ops.aten.from_file.default"), "a call of 'torch.ops.aten.from_file"),
    "memory": (
        GRAPH,
        first_node("target", "torch.ops.aten._sparse_coo_tensor_unsafe.default"),
        "a call of .*, which is not an operator of networks, nor of rcnn",
    ),
    "dense": (
        GRAPH,
        first_node("target", "torch.ops.aten._to_dense.default"),
        "a call of .*, which is not an operator",
    ),
    "set_data": (
        GRAPH,
        first_node("target", "torch.ops.aten.set_data.default"),
        "a call of .*, which is not an operator",
    ),
    "size": (GRAPH, every_expression("__import__('os').getcwd()"), "in place of an expression of sizes"),
    "attribute": (GRAPH, every_expression("s0.__class__"), "in place of an expression of sizes"),
    "comprehension": (GRAPH, every_expression("[s0 for s0 in s1]"), "in place of an expression of sizes"),
    "nested": (GRAPH, every_expression("(" * 30000 + "1" + ")" * 30000), "in place of an expression of sizes"),
    "name": (GRAPH, renamed_input, "'images, x=print\\(\\)' in place of a name"),
    "arguments": (GRAPH, other_tree, "arguments in a 'collections.defaultdict'"),
    "pickled weight": (WEIGHTS, pickled_weight, "pickled tensors"),
    "old weights": ("data/weights/model.pt", b"", "which `rcnn export` does not write"),
    "object": ("data/constants/custom_obj_0", b"", "which `rcnn export` does not write"),
    "library": ("data/aotinductor/model/a.so", b"", "which `rcnn export` does not write"),
}


@pytest.mark.parametrize(("member", "content", "message"), ATTACKS.values(), ids=ATTACKS)
def test_what_could_run_code_is_refused(
    program: Path, tmp_path: Path, member: str, content: bytes | Edit, message: str
) -> None:
    path = changed(program, tmp_path / "a.pt2", **{member: content})
    with pytest.raises(Refused, match=message):
        read_program(path)
    with pytest.raises(ValueError, match=r"a\.pt2 contains .* could run code, so rcnn does not open it: export"):
        exported_record(path)


def test_a_pickle_of_example_inputs_is_not_read(program: Path, tmp_path: Path) -> None:
    created = tmp_path / "created"
    content = io.BytesIO()
    torch.save(Payload(created), content, pickle_module=pickle)
    path = changed(program, tmp_path / "a.pt2", **{"data/sample_inputs/model.pt": content.getvalue()})
    torch.export.load(read_program(path)[1])
    assert not created.exists()
    torch.load(io.BytesIO(content.getvalue()), weights_only=False)
    assert created.exists()  # so the pickle is one that runs code


def test_guards_are_not_run(program: Path, tmp_path: Path) -> None:
    created = tmp_path / "created"

    def edit(graph: dict[str, Any]) -> None:
        graph["guards_code"] = [f"__import__('pathlib').Path({str(created)!r}).touch()"]

    path = changed(program, tmp_path / "a.pt2", **{GRAPH: edit})
    torch.export.load(read_program(path)[1]).module()(torch.rand(2, 8, 4, 3), torch.rand(2, 2))
    assert not created.exists()
    with pytest.raises(AssertionError, match="Guard failed"):
        torch.export.load(path).module()(torch.rand(2, 8, 4, 3), torch.rand(2, 2))
    assert created.exists()


def test_a_checked_program_has_the_record_and_gives_the_same_values(program: Path) -> None:
    text, copy = read_program(program)
    assert json.loads(text) == {"rcnn": 1}
    found, plain = torch.export.load(copy).module(), torch.export.load(program).module()
    for batch, height in ((1, 8), (3, 2)):
        inputs = torch.rand(batch, height, 4, 3), torch.rand(batch, 2)
        for value, expected, own in zip(found(*inputs), plain(*inputs), Network()(*inputs), strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=0)
            torch.testing.assert_close(value, own, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="of the form 2"):  # ranges of sizes are still checked
        found(torch.rand(2, 7, 4, 3), torch.rand(2, 2))


def test_a_damaged_program_says_what_is_missing(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.pt2"
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if not name.endswith("model.json"):
                new.writestr(name, old.read(name))
    with pytest.raises(Damaged, match=r"it has no models/model\.json"):
        read_program(path)


def test_a_changed_byte_of_a_weight_is_noticed(program: Path, tmp_path: Path) -> None:
    """The directory of the file has a checksum of each member, which torch does not compare."""
    with zipfile.ZipFile(program) as archive:
        weight = next(name for name in archive.namelist() if name.endswith("/data/weights/weight_0"))
        values = archive.read(weight)
    content = bytearray(program.read_bytes())
    content[content.index(values)] ^= 64
    path = tmp_path / "a.pt2"
    path.write_bytes(content)
    torch.export.load(path)  # without a word
    with pytest.raises(Damaged, match=r"data/weights/weight_0 has another checksum than the directory says"):
        read_program(path)


def test_sizes_are_parsed_once(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is the same as without; outside the block, torch parses as before."""
    sympify, parsed = sympy.sympify, list[str]()

    def counted(text: str, **options: Any) -> Any:
        parsed.append(text)
        return sympify(text, **options)

    monkeypatch.setattr(sympy, "sympify", counted)
    expected = torch.export.load(read_program(program)[1])
    several, before = list(parsed), GraphModuleDeserializer._parse_sym_expr
    parsed.clear()
    with sizes_parsed_once():
        found = torch.export.load(read_program(program)[1])
    assert GraphModuleDeserializer._parse_sym_expr is before
    assert len(several) > len(set(several))
    assert len(parsed) < len(several)
    assert set(parsed) == set(several)
    assert found.graph_module.code == expected.graph_module.code
    assert found.range_constraints == expected.range_constraints
    shapes = [[str(node.meta["val"]) for node in one.graph.nodes if "val" in node.meta] for one in (found, expected)]
    assert shapes[0] == shapes[1] != []
