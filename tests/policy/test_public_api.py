"""The public API: `rcnn.__all__`, docs/api.md and what can be imported agree, and `import rcnn` is fast."""

from __future__ import annotations

import ast
import inspect
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

import rcnn
from rcnn.cli import convert as cli_convert
from rcnn.cli import data as cli_data
from rcnn.cli import eval as cli_eval
from rcnn.cli import push as cli_push
from rcnn.cli import train as cli_train
from rcnn.cli.app import app

ROOT = Path(__file__).resolve().parents[2]


def test_all_names_exist_and_are_documented() -> None:
    assert len(rcnn.__all__) > 20
    assert rcnn.__all__ == sorted(rcnn.__all__)
    assert set(rcnn.__all__) <= set(dir(rcnn))
    for name in rcnn.__all__:
        value = getattr(rcnn, name)
        if name != "__version__":
            assert inspect.getdoc(value), name
            assert value.__name__ == name


def test_the_page_lists_all_names_once_and_no_others() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `rcnn\.(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted([*rows, "__version__"]) == rcnn.__all__
    assert "`rcnn.__version__`" in text


def test_the_page_has_the_arguments_of_every_function() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    functions = [name for name in rcnn.__all__ if inspect.isfunction(getattr(rcnn, name))]
    assert len(functions) > 10
    for name in (*functions, "Predictor", "AugmentedPredictor"):
        signature = inspect.signature(getattr(rcnn, name))
        bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
        call = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
        expected = f"- `rcnn.{name}{call}`".replace(repr(print), "print")
        assert expected in text, f"docs/api.md, section Arguments: expected the line {expected}"


# what a function returns, or another function does
COMMAND_LINE_ONLY = {
    "output", "device", "devices", "offline", "as_json", "strict", "pictures", "per_class", "padding", "tta",
    "tta_flip", "replay_file", "dry_run", "measure_steps", "schedule", "to", "list_", "max_restarts",
    "crowds_as_objects", "fix",
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (cli_train.train, rcnn.train),
        (cli_train.train, rcnn.plan),
        (cli_eval.evaluate, rcnn.evaluate),
        (cli_convert.convert, rcnn.convert),
        (cli_data.check, rcnn.check_dataset),
        (cli_data.split_command, rcnn.split_dataset),
        (cli_data.info, rcnn.describe_dataset),
        (cli_data.browse, rcnn.browse_dataset),
        (cli_data.download, rcnn.download_dataset),
        (cli_push.push, rcnn.push_to_hub),
    ],
)
def test_options_of_the_command_line_are_arguments_of_the_same_name(
    command: Callable[..., None], function: Callable[..., object]
) -> None:
    options = set(inspect.signature(command).parameters) - {"directory", "checkpoint", "context"}
    if command is cli_data.browse:
        options -= {"model", "overrides", "allow"}  # make the settings in `augmented`
    arguments = set(inspect.signature(function).parameters)
    assert len(options & arguments) >= 2
    assert options - arguments <= COMMAND_LINE_ONLY


FUNCTIONS = {  # command, or its option with a function of its own -> the function
    "train": "train",
    "train --dry-run": "plan",
    "runs": "list_runs",
    "eval": "evaluate",
    "benchmark": "benchmark",
    "compare": "compare",
    "visualize": "draw_stages",
    "predict": "Predictor",
    "predict --score best": "best_scores",
    "convert": "convert",
    "export": "export_model",
    "serve": "Client",
    "models list": "list_models",
    "models weights": "list_weights",
    "models recipes": "list_recipes",
    "models show": "model_config",
    "download": "download_weights",
    "push": "push_to_hub",
    "data check": "check_dataset",
    "data check --fix": "fix_dataset",
    "data info": "describe_dataset",
    "data browse": "browse_dataset",
    "data split": "split_dataset",
    "data download": "download_dataset",
}
ONLY_COMMANDS = {"demo", "doctor", "models cost", "data minus-refer"}


def test_every_command_has_a_function_and_the_page_names_both() -> None:
    commands = set[str]()
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        parts = command.commands if isinstance(command, TyperGroup) else None
        commands |= {name} if parts is None else {f"{name} {part}" for part in parts}
    assert {command.partition(" --")[0] for command in FUNCTIONS} == commands - ONLY_COMMANDS
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for command, function in FUNCTIONS.items():
        [row] = re.findall(rf"^\| `rcnn\.{function}` \|.*", text, flags=re.MULTILINE)
        assert f"`rcnn {command}`" in row, f"docs/api.md, row rcnn.{function}: expected `rcnn {command}`"


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "src" / "rcnn" / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == rcnn._MODULES
    assert sorted([*imported, "__version__"]) == rcnn.__all__
    assert (ROOT / "src" / "rcnn" / "py.typed").exists()


def cpu_time(code: str) -> tuple[float, str]:
    """CPU seconds of a new Python that runs `code`, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, answer.stdout.strip()


def test_import_is_fast_and_light() -> None:
    code = "import sys, rcnn; print(sorted({'torch', 'numpy', 'PIL', 'typer', 'rich'} & set(sys.modules)))"
    runs, bare = [cpu_time(code) for _ in range(3)], [cpu_time("pass")[0] for _ in range(3)]
    assert runs[0][1] == "[]"
    assert min(seconds for seconds, _ in runs) - min(bare) < 0.2, f"{runs}, Python alone {bare}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(rcnn, "Predicter")
