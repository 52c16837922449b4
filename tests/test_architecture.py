"""The picture: which way imports point, and that DVC knows what every stage uses."""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from secateur.methods import METHODS

ROOT = Path(__file__).parent.parent
SOURCES = {
    **dict.fromkeys((ROOT / "src/secateur").rglob("*.py"), "secateur"),
    **dict.fromkeys((ROOT / "tasks").rglob("*.py"), "tasks"),
    **dict.fromkeys((ROOT / "flows").rglob("*.py"), "flows"),
}
MAY_IMPORT = {
    "secateur": {"secateur"},
    "tasks": {"secateur", "tasks"},
    "flows": {"secateur", "tasks", "flows"},
}
# Validating params.yaml asks METHODS whether a method knows its options. That can refuse a run, but
# changes nothing that a stage makes, so a stage that only reads settings need not list the methods.
ONLY_VALIDATES = {("secateur.settings", "secateur.methods")}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "src" if "src" in path.parts else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


@cache
def imports(path: Path) -> frozenset[str]:
    """Everything a file imports, inside functions too, but not under TYPE_CHECKING."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return frozenset(found)


def ours(path: Path) -> set[str]:
    """The modules of this project that a file imports; of a package, all that its name implies."""
    return {name for name in imports(path) if name in MODULES}


def reached(module: str) -> set[str]:
    """Every module of this project that is imported, directly or not, once `module` is."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        todo += [name for name in ours(MODULES[current]) if (current, name) not in ONLY_VALIDATES]
    return seen


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    packages = {name.split(".")[0] for name in imports(path)}
    assert packages & {"secateur", "tasks", "flows"} <= MAY_IMPORT[SOURCES[path]]
    if SOURCES[path] == "secateur":
        assert not packages & {"prefect", "dvc"}
    if "dvc" in packages:
        assert path == ROOT / "tasks/versioning.py"


def test_the_library_is_found_whole():
    assert len(MODULES) > 40
    assert {"secateur.graph", "tasks.shrink", "flows.compress"} <= set(MODULES)


def stages() -> dict[str, dict]:
    definitions = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in definitions.items()}


@pytest.mark.parametrize("name", stages())
def test_deps_are_the_code_that_a_stage_uses(name):
    """A file that is missing leaves stale results; one too many reruns the stage for nothing."""
    stage = stages()[name]
    python, dash_m, module, *_ = shlex.split(stage["cmd"])
    assert (python, dash_m) == ("python", "-m")
    used = {
        MODULES[used] for used in reached(module) if used not in ("secateur", "tasks")
    }  # the two packages' own files: lazy names, and one log level
    listed = [ROOT / dep for dep in stage["deps"] if dep.startswith(("src/", "tasks/"))]
    missing = [
        str(path.relative_to(ROOT))
        for path in sorted(used)
        if not any(path == dep or dep in path.parents for dep in listed)
    ]
    assert missing == []
    needless = [
        str(dep.relative_to(ROOT))
        for dep in listed
        if not any(path == dep or dep in path.parents for path in used)
    ]
    assert needless == []


def test_stages_name_the_settings_they_read():
    """`settings.x` in a stage's module, against its params: a missing one leaves stale results."""
    for name, stage in stages().items():
        module = shlex.split(stage["cmd"])[2]
        tree = ast.parse(MODULES[module].read_text())
        read = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "settings"
        }
        read = {{"round": "rounds", "rungs": "rounds"}.get(attr, attr) for attr in read}
        params = stage.get("params", [])
        if any(isinstance(param, dict) for param in params):
            continue  # depends on the whole file
        named = {param.split(".")[0] for param in params}
        # A stage of one rung may look whether there is such a rung; what else it reads of its round
        # it names as rounds.<name>, and its parent shows in its deps.
        allowed = {"rounds"} if len(shlex.split(stage["cmd"])) > 3 else set()
        assert read - allowed <= named, name


def test_methods_are_in_no_other_list():
    """One line in METHODS makes a method reachable: no other file imports one."""
    homes = {method.__module__ for method in METHODS.values()}
    importing = {path for path in SOURCES if homes & imports(path)}
    assert importing == {MODULES["secateur.methods"]}


def test_importing_the_package_starts_no_tensorflow():
    """Nor do the stages that may have nothing to train, until they train."""
    code = (
        "import sys, secateur, secateur.settings, secateur.methods, secateur.guard, flows.compress;"
        "import tasks.shrink, tasks.control, tasks.judge, tasks.elect, tasks.report;"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("folder", ["data", "models"])
def test_artifact_folders_hold_no_code(folder):
    listed = subprocess.run(
        ["git", "ls-files", folder], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert [name for name in listed if not name.endswith("README.md")] == []
