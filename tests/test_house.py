"""The floor plan: imports point down, no cycles, short functions, print only where a person reads it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "parse_config": 0,
    "data_loader": 1,
    "model": 1,
    "trainer": 2,
    "train": 4,
    "test": 4,
    "scripts": 5,
}
MAY = {
    "parse_config": set(),
    "data_loader": {"parse_config", "data_loader"},
    "model": {"parse_config", "model"},
    "trainer": {"parse_config", "model", "trainer"},
    "train": set(ROOMS) - {"test", "scripts"},
    "test": set(ROOMS) - {"train", "scripts"},
    "scripts": set(ROOMS),
}
TOP = {
    ".ci",
    ".git",
    ".gitignore",
    ".pre-commit-config.yaml",
    "LICENSE",
    "README.md",
    "configs",
    "data_loader",
    "docs",
    "model",
    "parse_config.py",
    "pyproject.toml",
    "requirements.txt",
    "results",
    "scripts",
    "test.py",
    "tests",
    "train.py",
    "trainer",
}
MADE = {
    ".venv",
    "data",
    "exps",
    "exports",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
}
FILES = sorted(
    p for p in ROOT.rglob("*.py") if not {".venv", "data", "exps"} & set(p.relative_to(ROOT).parts)
)
OURS = [p for p in FILES if p.relative_to(ROOT).parts[0] != "tests"]
IDS = [str(p.relative_to(ROOT)) for p in OURS]


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that `path` imports anywhere, lazily too; relative ones resolved."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = (
                module(path).split(".")
                if path.name == "__init__.py"
                else module(path).split(".")[:-1]
            )
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            name = ".".join(part for part in (base, node.module or "") if part)
            found |= {name} | {f"{name}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", OURS, ids=IDS)
def test_imports_point_down(path):
    room = path.relative_to(ROOT).with_suffix("").parts[0]
    reached = {name.split(".")[0] for name in imports(path)} & set(ROOMS)
    assert reached <= MAY[room], (
        f"{module(path)} imports {sorted(reached - MAY[room])}: not below it"
    )


def test_no_cycles():
    modules = {module(p): p for p in OURS}
    graph = {
        name: {
            other for other in imports(p) & set(modules) if not (name + ".").startswith(other + ".")
        }
        for name, p in modules.items()
    }
    done, path = set(), []

    def visit(name):
        assert name not in path, f"cycle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            path.append(name)
            for other in sorted(graph[name]):
                visit(other)
            path.pop()
            done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("path", OURS, ids=IDS)
def test_short_functions_and_plain_text(path):
    text = path.read_text(encoding="utf-8")
    assert text.isascii(), "ASCII in code"
    assert max((len(line) for line in text.splitlines()), default=0) <= 120
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 50, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", OURS, ids=IDS)
def test_print_only_where_a_person_reads_it(path):
    if path.relative_to(ROOT).parts[0] in {"train.py", "test.py", "scripts"}:
        return
    calls = [
        node.func.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert "print" not in calls


def test_top_level_is_the_promised_one():
    there = {p.name for p in ROOT.iterdir()} - MADE
    assert there <= TOP, f"not in the layout: {sorted(there - TOP)}"
    assert {
        "parse_config.py",
        "train.py",
        "test.py",
        "README.md",
        "LICENSE",
        "requirements.txt",
    } <= there


@pytest.mark.parametrize("path", OURS, ids=IDS)
def test_every_module_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body, "a module begins with its docstring"


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_nothing_swallowed(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
