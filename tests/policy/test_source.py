"""Rules of the source that a machine can check. Each check says that it found something to check."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "rcnn"
FILES = sorted(SOURCE.rglob("*.py"))
LINES = 400
SWITCHES = 1  # conditions on the config in models/rpn.py; only ever lowered
# who may import whom: a package imports its own level's files of the same package, and lower levels
LEVELS = {
    "arguments": -1,  # checks of types, imports nothing of rcnn
    "background": 0,
    "commands": 0,
    "outputs": 0,
    "new_outputs": 0,
    "own_code": 0,
    "progress": 0,
    "stopping": 0,
    "text_files": 0,
    "threads": 0,
    "structures": 0, "ops": 0,
    "preprocess": 1, "download": 1,
    "models": 2, "data": 2,
    "weights": 3, "metrics": 3, "drawing": 3, "given_steps": 3,
    "runtime": 4,
    "prediction_arguments": 3,
    "region_features": 4,
    "results": 4,
    "predictor": 5, "tta": 5, "tiles": 5,
    "evaluation": 6,
    "training": 7, "export": 7, "serving": 7, "bench": 7,
    "demo": 8,
    "cli": 9,
    "__main__": 10,
}  # fmt: skip
# test-time augmentation and tiles are prediction, repeated; pages show the augmentation that the user lists
ALLOWED_BESIDE = {("tta", "predictor"), ("tiles", "predictor"), ("drawing", "given_steps")}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
# written in pieces so that this file does not hold what it forbids
FORBIDDEN_WORDS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK|for " + r"now)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(work|home|root|Users)/[\w.]")


def package_of(path: Path) -> str:
    """`models` of src/rcnn/models/backbones/resnet.py, `predictor` of src/rcnn/predictor.py."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Every node of a file's syntax tree."""
    return list(ast.walk(tree_of(path)))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, anywhere in it, with its line."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; wanted an absolute import"
            yield node.module or "", node.lineno
            if node.module == "rcnn":
                yield from ((f"rcnn.{alias.name}", node.lineno) for alias in node.names)


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository: those that git knows, or all where there is no git."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout
        return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        return [path for pattern in patterns for path in ROOT.glob(f"**/{pattern}") if ".venv" not in path.parts]


def test_every_file_belongs_to_a_level() -> None:
    packages = {package_of(path) for path in FILES} - {"__init__"}
    assert {"ops", "models", "data", "training", "cli"} <= packages
    assert packages <= set(LEVELS), (
        f"no level for {packages - set(LEVELS)}: docs/architecture.md (Layers) says who may import whom"
    )


def test_imports_point_down() -> None:
    seen, wrong = 0, list[str]()
    for path in FILES:
        own = package_of(path)
        for module, line in imports(path):
            parts = module.split(".")
            if parts[0] != "rcnn" or len(parts) < 2 or parts[1] not in LEVELS or parts[1] == own:
                continue
            seen += 1
            if LEVELS[parts[1]] >= LEVELS.get(own, 9) and (own, parts[1]) not in ALLOWED_BESIDE:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert seen > 50
    assert not wrong, "imports point down only:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("hotcoco", {"ops/coco_backend.py"}),
        ("triton", {"ops/kernels"}),
        ("matplotlib", {"drawing"}),
        ("jinja2", {"drawing/pages.py"}),
        ("typer", {"cli"}),
        ("pickle", {"weights", "data/formats/plain_pickle.py"}),
        ("yaml", {"text_files.py", "models/overrides.py", "weights", "data/formats/yolo_yaml.py"}),
    ],
)
def test_a_library_is_imported_in_its_place_only(package: str, allowed: set[str]) -> None:
    users = [
        path.relative_to(SOURCE).as_posix()
        for path in FILES
        if any(module.split(".")[0] == package for module, _ in imports(path))
    ]
    if package not in ("triton", "pickle"):  # which may have no user yet
        assert users, f"nothing imports {package}: is it still a dependency?"
    outside = [user for user in users if not any(user == place or user.startswith(f"{place}/") for place in allowed)]
    assert not outside, f"{package} is imported by {outside}, wanted only in {allowed}"


def test_no_test_library_in_the_package() -> None:
    used = {module.split(".")[0] for path in FILES for module, _ in imports(path)}
    assert "torch" in used
    assert not used & {"pytest", "pycocotools", "hypothesis", "detectron2", "cv2"}


def test_files_are_short() -> None:
    checked = [*FILES, *tracked("tests/*.py", "tests/**/*.py", "benchmarks/*.py")]
    assert len(checked) > 60
    long = [f"{p.relative_to(ROOT)}: {n}" for p in checked if (n := len(p.read_text().splitlines())) > LINES]
    assert not long, f"over {LINES} lines, a file holds two subjects: {long}"


def test_no_file_is_called_utils() -> None:
    names = [part for path in [*FILES, *tracked("tests/*.py", "tests/**/*.py")] for part in path.with_suffix("").parts]
    assert "detector" in names
    assert not FORBIDDEN_NAMES & {name.removeprefix("test_") for name in names if name not in ROOT.parts}


def test_no_notes_for_later_and_no_machine_paths() -> None:
    files = tracked("*.py", "*.md", "*.toml", "Makefile", ".ci/run")
    assert len(files) > 60
    wrong = []
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if FORBIDDEN_WORDS.search(line) or MACHINE_PATHS.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not wrong, "\n".join(wrong)


def test_the_word_checks_match_their_examples() -> None:
    assert FORBIDDEN_WORDS.search("# TO" + "DO: later")
    assert MACHINE_PATHS.search('open("/ho' + 'me/me/data")')
    assert not MACHINE_PATHS.search("https://example.org/home/page and runs/home/last")


def test_no_code_is_run_from_data() -> None:
    calls, wrong = 0, list[str]()
    for path in FILES:
        for node in nodes(path):
            if not isinstance(node, ast.Call):
                continue
            calls += 1
            name = ast.unparse(node.func)
            unsafe = name in ("eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "os.system")
            if name == "torch.load":
                unsafe = not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
            if unsafe:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert calls > 500
    assert not wrong, "\n".join(wrong)


def test_all_that_is_public_has_a_docstring() -> None:
    seen, without = 0, list[str]()
    for path in FILES:
        tree = tree_of(path)
        public: list[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef]] = [("the module", tree)]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                public.append((node.name, node))
                if isinstance(node, ast.ClassDef):
                    public += [
                        (f"{node.name}.{method.name}", method)
                        for method in node.body
                        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
                        and method.name != "forward"  # which the class describes
                        # an overriding method does what the method that it overrides says
                        and not {"overload", "override"} & {ast.unparse(mark) for mark in method.decorator_list}
                    ]  # fmt: skip
        seen += len(public)
        without += [
            f"{path.relative_to(ROOT)}: {name}" for name, node in public if not (ast.get_docstring(node) or "").strip()
        ]
    assert seen > 150
    assert not without, "\n".join(without)


def test_all_that_is_public_is_typed() -> None:
    seen, without = 0, list[str]()
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [a for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
                seen += 1
                if node.returns is None or any(argument.annotation is None for argument in arguments):
                    without.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert seen > 150
    assert not without, "\n".join(without)


def test_the_main_path_has_few_switches() -> None:
    """Rules of old systems are strategy classes in models/legacy, not conditions on the config in the RPN."""
    tree = ast.parse((SOURCE / "models" / "rpn.py").read_text(encoding="utf-8"))
    conditions = [node for node in ast.walk(tree) if isinstance(node, ast.If | ast.IfExp)]
    switches = [f"{node.lineno}: {test}" for node in conditions if "config" in (test := ast.unparse(node.test))]
    assert conditions
    assert len(switches) <= SWITCHES, "\n".join(switches)


def test_every_opaque_op_has_a_fake_kernel() -> None:
    registered, without = 0, list[str]()
    for path in sorted((SOURCE / "ops").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"^@opaque_op\ndef (\w+)", text, flags=re.MULTILINE):
            registered += 1
            if f"@{name}.register_fake" not in text:
                without.append(f"{path.relative_to(ROOT)}: {name}")
    assert registered >= 2
    assert not without, f"torch.compile cannot trace {without}"


def test_letters_of_shapes_are_explained() -> None:
    """At the top of the file (`Letters: ...`), or for all files in docs/conventions.md."""
    conventions = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    shared = _letters(conventions[conventions.index("all others mean:") :].split("For example")[0])
    assert set("BHWNGPRDKJC") <= shared
    shapes, unexplained = 0, list[str]()
    for path in FILES:
        if package_of(path) in ("models", "ops", "structures", "region_features"):
            text, top = path.read_text(encoding="utf-8"), ast.get_docstring(tree_of(path)) or ""
            own = _letters(top[top.index("Letters:") :]) if "Letters:" in top else set[str]()
            for shape in re.findall(r"(?<!\w)\([\w.*+ /-]+,(?: [\w.*+ /-]+,?)*\)", text):
                shapes += 1
                if unknown := _letters(shape) - own - shared:
                    unexplained.append(f"{path.relative_to(ROOT)}: {', '.join(sorted(unknown))} in {shape}")
    assert shapes > 500
    assert not unexplained, "\n".join(unexplained)


def _letters(text: str) -> set[str]:
    return set(re.findall(r"\b[A-Z]\b", text))


def test_make_runs_no_exhaustive_tests() -> None:
    """A `-m` in the Makefile replaces that of pyproject.toml."""
    commands = [line for line in (ROOT / "Makefile").read_text().splitlines() if " -m pytest" in line]
    assert commands
    assert all("not exhaustive" in line for line in commands if line.count(" -m ") > 1)


def test_commands_in_messages_are_quoted() -> None:
    """A command with a value in it is made by `as_typed`: the value may be a path with a space."""
    commands = "|".join(path.stem for path in (SOURCE / "cli").glob("*.py"))
    value_in_command = re.compile(rf"\brcnn (?:{commands})(?: [^\s`,;()]+)* [^\s`,;()]*\0")
    assert value_in_command.search("start a new run: rcnn train \0 --data DATA")
    assert not value_in_command.search("or `rcnn data check DIR`, in \0")
    seen, wrong = 0, list[str]()
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.JoinedStr):
                parts = [one.value if isinstance(one, ast.Constant) else "\0" for one in node.values]
                seen += 1
                if value_in_command.search("".join(map(str, parts))):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert seen > 500
    assert not wrong, f"commands with values that are not quoted; use rcnn.commands.as_typed: {wrong}"
