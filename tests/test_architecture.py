"""The house plan, held by parsing the sources: who may import whom, what stays light, and that no setting is dead."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dreamlab

ROOT = Path(dreamlab.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))

ARROWS = {
    "core": set(),
    "nn": {"core"},
    "envs": {"core"},
    "logs": {"core"},
    "run": {"core"},
    "agents": {"nn", "core"},
    "dream": {"core"},
    "evals": {"dream", "run", "logs", "envs", "core"},
    "studio": {"evals", "dream", "run", "logs", "envs", "core"},
    "publish": {"evals", "dream", "run", "logs", "envs", "core"},
}
OPTIONAL = {
    "wandb",
    "ale_py",
    "dm_control",
    "ray",
    "envpool",
    "crafter",
    "minerl",
    "craftground",
    "vizdoom",
    "minatar",
    "tianshou",
    "huggingface_hub",
}


def room(path: Path) -> str:
    """The room that a file is in; "" for the front door (dreamlab/__init__.py, __main__.py)."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


def imports(tree: ast.AST, checking: bool = False) -> Iterator[tuple[str, int]]:
    """Dotted names that a file imports, and where; those of type checkers alone too if asked."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif not checking and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        else:
            yield from imports(node, checking)


def breaches(path: Path, source: str) -> list[str]:
    """Imports of a file that no arrow allows."""
    here = room(path)
    found = []
    for name, line in imports(ast.parse(source)):
        first, *rest = name.split(".")
        there = rest[0] if rest else ""
        if first != "dreamlab" or there in ("", here, "__version__") or not (ROOT / there).is_dir():
            continue
        if there == "cli" or (here in ARROWS and there not in ARROWS[here]):
            found.append(f"{path.relative_to(ROOT)}:{line}: {here or 'dreamlab'} must not import {there}")
    return found


def test_arrows_hold():
    found = [b for path in SOURCES if room(path) not in ("cli", "") for b in breaches(path, path.read_text())]
    assert not found, "\n".join(found)


def test_nobody_imports_the_command_line_at_import_time():
    """The front door may, when a public name is first used; its file holds no such import statement."""
    outside = [path for path in SOURCES if room(path) != "cli" and path.name != "__main__.py"]
    assert not [b for path in outside for b in breaches(path, path.read_text()) if "import cli" in b]


def test_the_arrow_test_can_fail():
    bad = "def f():\n    from dreamlab.envs import make\n"
    assert breaches(ROOT / "agents" / "x.py", bad) == ["agents/x.py:2: agents must not import envs"]
    assert not breaches(ROOT / "evals" / "x.py", bad)
    assert breaches(ROOT / "evals" / "x.py", "import dreamlab.cli.main")
    assert breaches(ROOT / "core" / "x.py", "from dreamlab import run")


def test_every_room_has_its_arrows():
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert rooms <= {*ARROWS, "cli"}


def test_optional_packages_are_imported_only_in_the_file_named_after_them():
    for path in SOURCES:
        for name, line in imports(ast.parse(path.read_text())):
            package = name.split(".")[0]
            if package in OPTIONAL:
                assert path.stem == package, f"{path}:{line}: {package} is imported in {package}.py alone"


def test_no_module_is_a_grab_bag():
    assert not [path for path in SOURCES if path.stem in ("utils", "util", "helpers", "misc", "tools", "common")]


# -- settings ------------------------------------------------------------------------------------------------


def configs() -> list[type]:
    """Every dataclass that is a user's setting: named Config or ...Config or ...Flags, defined in src."""
    found = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        names = [n.name for n in tree.body if isinstance(n, ast.ClassDef) and n.name.endswith(("Config", "Flags"))]
        if names:
            module = importlib.import_module(".".join(("dreamlab", *path.relative_to(ROOT).with_suffix("").parts)))
            found += [c for c in (getattr(module, n) for n in names) if dataclasses.is_dataclass(c)]
    return found


def read_names(sources: list[str]) -> set[str]:
    """Attributes that are read outside a config's own checks, and words that name one: getattr(config, "lr")."""
    found = set()
    for source in sources:
        tree = ast.parse(source)
        inside = {
            id(child)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == "__post_init__"
            for child in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in inside:
                continue
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
                found.add(getattr(node.args[1], "value", None))
    return found


def unread(cls: type, read: set[str]) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if f.name not in read]


def test_every_setting_is_read_somewhere():
    read = read_names([path.read_text() for path in SOURCES])
    dead = [f"{c.__module__}.{c.__name__}.{name}" for c in configs() for name in unread(c, read)]
    assert not dead, f"settings that nothing reads: {', '.join(dead)}"


def test_the_dead_setting_test_can_fail():
    @dataclasses.dataclass
    class C:
        lr: float = 1.0
        forgotten: int = 1

    source = "def f(c):\n    c.forgotten = 2\n    return c.lr\nclass C:\n    def __post_init__(s):\n        s.forgotten"
    assert unread(C, read_names([source])) == ["forgotten"]


def test_every_setting_is_explained_and_frozen():
    for cls in configs():
        assert cls.__dataclass_params__.frozen, f"{cls} is not frozen"  # type: ignore[attr-defined]
        tree = ast.parse(Path(sys.modules[cls.__module__].__file__ or "").read_text())
        body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls.__name__).body
        assert ast.get_docstring(ast.Module(body, [])), f"{cls} says nothing of itself"
        for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
            if isinstance(node, ast.AnnAssign):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert documented, f"{cls.__module__}.{cls.__name__}.{ast.unparse(node.target)} has no help"


# -- weight --------------------------------------------------------------------------------------------------

LIGHT = """
import importlib, sys
import dreamlab, dreamlab.cli.main, dreamlab.cli.options, dreamlab.core.config, dreamlab.run.config
from dreamlab import agents, envs
for name in agents.names():
    module = agents.load(name)
    module.Config(), module.EXTENDS, module.SEES, agents.presets(name)
for name in envs.suites():
    __import__(f"dreamlab.envs.{name}")
for verb in dreamlab.cli.main.verbs():
    importlib.import_module(f"dreamlab.cli.{verb}")
heavy = sorted({"torch", "matplotlib", "av", "tensorboard", "fastapi", "uvicorn"} & set(sys.modules))
print(",".join(heavy))
"""


def test_what_help_needs_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_verbs_are_light_until_they_run(path: Path):
    """Whatever a command imports at its top is paid by its --help."""
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    packages = {name.split(".")[0] for name, _ in imports(ast.Module(top, []))}  # type: ignore[arg-type]
    assert not packages & {"torch", "matplotlib", "av", "tensorboard", "fastapi", "uvicorn"}
