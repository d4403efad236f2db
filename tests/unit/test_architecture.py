"""The rules of the house that a machine can check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILDER = ROOT / "builder"
MODULES = sorted(BUILDER.rglob("*.py"))
PURE = [
    *(
        BUILDER / f"{name}.py"
        for name in ("model", "plan", "show", "render", "convert", "convert_disks", "domain_spec")
    ),
    *sorted((BUILDER / "windows").glob("*.py")),
]
TOUCHES_THE_WORLD = {"subprocess", "socket", "guestfs", "hivex", "libvirt", "libvirt_qemu", "builder.host", "requests"}
MOST_LINES = 400


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.stem)
def test_pure_modules_do_no_io(path):
    used = set(imports(path))
    assert not {name for name in used for bad in TOUCHES_THE_WORLD if name == bad or name.startswith(f"{bad}.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_can_be_read_in_a_sitting(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_say_why_they_exist(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", [one for one in MODULES if one.name != "cli.py"], ids=lambda path: path.stem)
def test_only_the_command_line_prints_or_exits(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [one.id for one in calls if isinstance(one, ast.Name) and one.id in ("print", "exit")]
    assert "sys.exit" not in path.read_text()


def test_no_windows_knowledge_writes_programs_through_a_shell():
    assert not [path for path in MODULES if "shell=True" in path.read_text()]
