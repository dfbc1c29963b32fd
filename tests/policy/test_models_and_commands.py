"""Documented models, commands and the version exist: models build, commands of the docs parse."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import torch
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

import rcnn
from rcnn.cli.app import app
from rcnn.cli.main import COMMANDS as HELP
from rcnn.models import MODELS, model_config
from rcnn.models.config import TimmConfig, ViTConfig
from rcnn.models.cost import cost, cost_of
from rcnn.models.overrides import config_from_dict, config_to_dict, override
from rcnn.models.setting_tables import settings_table
from rcnn.models.zoo.facts import facts
from rcnn.weights.checkpoint import empty_detector

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("**/*.md"))]
COMMANDS = {
    "train",
    "runs",
    "eval",
    "benchmark",
    "compare",
    "visualize",
    "predict",
    "convert",
    "export",
    "serve",
    "models",
    "download",
    "push",
    "data",
    "doctor",
    "demo",
}
GROUPS = {"models", "data"}  # of commands
SHELL = {"", "sh", "bash", "console"}  # languages of code blocks


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_named_model_builds_and_costs_what_the_table_says(name: str) -> None:
    config = model_config(name)
    assert config.name == name
    assert config_from_dict(config_to_dict(config)) == config
    if isinstance(config.backbone, TimmConfig | ViTConfig):
        pytest.importorskip("timm", reason="needs rcnn[timm]")
    with torch.device("meta"):
        detector = empty_detector(config)
    assert sum(parameter.numel() for parameter in detector.parameters()) > 100_000
    assert (detector.mask_head is not None) == ("mask_rcnn" in name)
    assert MODELS[name].__doc__ or name.endswith("_caffe")
    row, counted = facts()[name], cost_of(detector)
    assert row.parameters == counted.parameters, "run python benchmarks/model_sizes.py"
    assert row.gflops == round(counted.flops / 1e9, 1), "run python benchmarks/model_sizes.py"
    assert row.paper or name.endswith("_compact")


def test_the_readme_counts_the_models() -> None:
    counts = re.findall(r"\b(\d+) models\b", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert counts
    assert set(map(int, counts)) == {len(MODELS)}


def test_cost_equals_a_convolution_computed_by_hand() -> None:
    """One more convolution in the mask head: 256 * 256 * 9 weights at 14 x 14 cells of 100 detections, twice."""
    base = model_config("mask_rcnn_r50_fpn")
    four, three = cost(base), cost(override(base, ["mask.convs=3"]))
    assert four.parameters - three.parameters == 256 * 256 * 9 + 256
    assert four.flops - three.flops == 2 * 256 * 256 * 9 * 14 * 14 * 100


def test_every_setting_is_described() -> None:
    """Settings that `rcnn models show` prints have a description, except those with self-explanatory names."""
    settings = settings_table(model_config("mask_rcnn_r50_fpn"))
    assert len(settings) > 40
    for setting in settings:
        assert setting.type, setting
    assert sum(bool(setting.comment) for setting in settings) > len(settings) / 3


def test_what_models_show_prints_is_what_train_takes() -> None:
    shown = CliRunner().invoke(app, ["models", "show", "mask_rcnn_compact"])
    assert shown.exit_code == 0, shown.output
    words = [line.split("  #")[0].rstrip() for line in shown.stdout.splitlines()]
    model = [word for word in words if not word.startswith("train.")]
    assert len(model) > 40
    assert any(word.startswith("train.lr=") for word in words)
    assert override(model_config("mask_rcnn_compact"), model) == model_config("mask_rcnn_compact")


def shell_of(page: Path) -> list[str]:
    """Lines of a page's shell blocks, continued lines joined, and its inline code of one line."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    shell = [block.replace("\\\n", " ") for language, block in blocks if language in SHELL]
    lines = [line.strip().removeprefix("$ ") for block in shell for line in block.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", text)


def commands_of(page: Path) -> list[str]:
    """The rcnn commands of a page, also those that follow `-m rcnn`, as `rcnn ...`."""
    lines = [re.sub(r"^.*-m rcnn ", "rcnn ", line) for line in shell_of(page)]
    return [line for line in lines if line.startswith("rcnn ")]


@cache
def options_of(subcommand: str) -> frozenset[str]:
    """The options of `rcnn SUBCOMMAND`."""
    command = get_command(app)
    for word in subcommand.split():
        assert isinstance(command, TyperGroup)
        command = command.commands[word]
    options = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
    return frozenset({"--help", *(name for name in options if name.startswith("-"))})


def test_commands_in_the_docs_exist() -> None:
    found = [(page.name, command) for page in PAGES for command in commands_of(page)]
    assert len(found) > 250
    assert len({page for page, _ in found}) > 20
    for page, command in found:
        words = shlex.split(command.split("#")[0].split("|")[0].split(">")[0], posix=True)
        subcommand = words[1] if len(words) > 1 else "--help"
        if subcommand.startswith("-"):
            continue
        assert subcommand in COMMANDS, f"{page}: {command}"
        if subcommand in GROUPS and len(words) > 2 and not words[2].startswith("-"):
            subcommand = f"{subcommand} {words[2]}"
        known = options_of(subcommand)
        for option in (word.split("=")[0] for word in words[2:] if word.startswith("-") and word != "-"):
            assert option in known, f"{page}: {command} has {option}, which `rcnn {subcommand}` does not know"


def test_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {"demo", "test", "test-all", "export-matrix"} <= targets
    named = [(page.name, line.split()[1]) for page in PAGES for line in shell_of(page) if line.startswith("make ")]
    assert len(named) > 10
    for page, target in named:
        assert target in targets or "=" in target, f"{page}: make {target}"


def test_files_named_in_the_docs_exist() -> None:
    seen = 0
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            seen += 1
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
        for name in re.findall(r"`((?:src|docs|tests|benchmarks)/[\w/.-]+\.\w+)", page.read_text(encoding="utf-8")):
            seen += 1
            assert (ROOT / name).exists(), f"{page.name} names {name}"
    assert seen


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == rcnn.__version__
    answer = CliRunner().invoke(app, ["--version"])
    assert answer.stdout.strip() == f"rcnn {rcnn.__version__}"
    assert f"\nversion: {rcnn.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_pre_commit_runs_the_formatter_of_the_project() -> None:
    pinned = re.search(r'"ruff==([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pinned
    assert f"rev: v{pinned[1]}\n" in (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")


def test_the_workflow_runs_the_command_of_the_readme() -> None:
    assert "run: make test" in (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from rcnn.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'yaml', 'hotcoco', 'jinja2', 'matplotlib', 'safetensors'}\n"
        "found = sorted(heavy & set(sys.modules))\n"
        "print('heavy:', found, 'modules:', len(sys.modules))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "train" in answer.stdout
    assert "heavy: []" in answer.stdout, answer.stdout.splitlines()[-1]


def test_the_short_help_lists_every_command() -> None:
    described = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    assert set(HELP) == COMMANDS
    assert all(name in described.output for name in HELP)


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_import_next_to_nothing(word: str) -> None:
    code = (
        "import sys\nfrom rcnn.cli.main import main\n"
        f"try:\n    main(['{word}'])\nexcept SystemExit as exit:\n    assert not exit.code\n"
        "print(sorted({'typer', 'click', 'rich', 'json', 'inspect'} & set(sys.modules)))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_importing_the_package_starts_nothing() -> None:
    code = "import sys, rcnn; print(sorted({'torch', 'typer', 'numpy'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.strip() == "[]"
