"""The layout: imports point down, no cycles, short functions, print only in commands, nothing that is not listed."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    "parse_config",
    "data_loader",
    "model",
    "trainer",
    "train",
    "test",
    "scripts",
    "tests",
)
MAY_IMPORT = {
    "parse_config": set(),
    "data_loader": {"parse_config", "data_loader"},
    "model": {"parse_config", "model"},
    "model.load": {
        "parse_config",
        "data_loader",
        "model",
    },  # a model meets the reader of its clips
    "trainer": {"parse_config", "model", "trainer"},
    "train": {"parse_config", "data_loader", "model", "trainer"},
    "test": {"parse_config", "data_loader", "model", "trainer"},
    "scripts": {
        "parse_config",
        "data_loader",
        "model",
        "trainer",
        "train",
        "test",
        "scripts",
    },
    "tests": set(LAYERS),
}
COMMANDS = {"train.py", "test.py", "scripts"}  # where a person reads what is printed
REQUIRED = {
    "parse_config.py",
    "train.py",
    "test.py",
    "README.md",
    "LICENSE",
    "requirements.txt",
}
ALLOWED = REQUIRED | {
    ".ci", ".editorconfig", ".git-blame-ignore-revs", ".github", ".gitignore", ".pre-commit-config.yaml",
    "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "configs", "data_loader", "docs", "model", "pyproject.toml",
    "requirements.lock", "results", "scripts", "tests", "trainer",
}  # fmt: skip
PACKAGES = (
    "benchmarks",
    "data_check",
    "data_copy",
    "figures",
    "html_report",
    "retrieval",
    "synthetic",
)  # of scripts/
TEST_FOLDERS = {"data_loader", "helpers", "model", "reference", "scripts", "trainer"}
LONGEST_FUNCTION = 50
LONGEST_LINE = 120


def project_files() -> list[str]:
    """Paths that belong to the project: what git tracks, or in a copy without git everything but caches."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z"]
        listing = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        return sorted(
            path for path in listing.split("\0") if path and (ROOT / path).is_file()
        )
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    ignored = {"__pycache__", ".pytest_cache", ".hypothesis", "data", "exps"}
    return sorted(path.as_posix() for path in paths if not ignored & set(path.parts))


PATHS = project_files()
PYTHON = [path for path in PATHS if path.endswith(".py")]
SOURCE = [path for path in PYTHON if not path.startswith("tests/")]


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def syntax_tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imported_modules(path: str) -> set[str]:
    """Every module that the file imports anywhere, lazily too; relative imports resolved."""
    package = module_name(path).split(".")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    names: set[str] = set()
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            )
            module = ".".join(part for part in (base, node.module or "") if part)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def layer_violations(module: str, imports: set[str]) -> set[str]:
    """The top-level modules among `imports` that `module` may not import."""
    allowed = MAY_IMPORT.get(module, MAY_IMPORT[module.split(".")[0]])
    return {name.split(".")[0] for name in imports} & set(LAYERS) - allowed


@pytest.mark.parametrize("path", SOURCE)
def test_imports_point_down(path):
    violations = layer_violations(module_name(path), imported_modules(path))
    assert not violations, f"{path} imports {sorted(violations)}, which is not below it"


@pytest.mark.parametrize(
    "module",
    ["data_loader.base", "model.miles", "trainer.trainer", "scripts.report", "train"],
)
def test_no_source_may_import_the_tests(module):
    assert layer_violations(module, {"tests.helpers.tiny_run"}) == {"tests"}


def test_only_the_loading_of_models_reaches_the_reader():
    assert layer_violations("model.load", {"data_loader.decode.clip_reader"}) == set()
    assert layer_violations("model.miles", {"data_loader.decode.clip_reader"}) == {
        "data_loader"
    }


def test_no_cycles():
    modules = {module_name(path): path for path in SOURCE}
    graph = {
        name: {
            other
            for other in imported_modules(path) & set(modules)
            if not f"{name}.".startswith(f"{other}.")
        }
        for name, path in modules.items()
    }
    finished: set[str] = set()
    chain: list[str] = []

    def visit(name):
        assert name not in chain, (
            f"cycle: {' -> '.join([*chain[chain.index(name) :], name])}"
        )
        if name not in finished:
            chain.append(name)
            for other in sorted(graph[name]):
                visit(other)
            chain.pop()
            finished.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("path", SOURCE)
def test_short_functions_and_ascii(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.isascii(), "ASCII in code"
    assert max((len(line) for line in text.splitlines()), default=0) <= LONGEST_LINE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize(
    "path", [path for path in SOURCE if path.split("/")[0] not in COMMANDS]
)
def test_print_only_in_commands(path):
    calls = [
        node.func for node in ast.walk(syntax_tree(path)) if isinstance(node, ast.Call)
    ]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}


def test_top_level_is_the_documented_one():
    names = {path.split("/")[0] for path in PATHS}
    assert names <= ALLOWED, f"not in the layout: {sorted(names - ALLOWED)}"
    assert names >= REQUIRED


def test_scripts_are_commands_on_top_of_packages():
    folders = {
        path.split("/")[1]
        for path in PATHS
        if path.startswith("scripts/") and path.count("/") > 1
    }
    assert folders == set(PACKAGES)
    for path in SOURCE:
        if path.startswith("scripts/") and path.count("/") == 1:
            text = (ROOT / path).read_text(encoding="utf-8")
            assert 'if __name__ == "__main__":' in text, (
                f"{path} is no command: move it into a package"
            )


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in SOURCE
        if path.startswith(tuple(f"scripts/{p}/" for p in PACKAGES))
    ],
)
def test_a_library_module_names_its_command(path):
    """Run by mistake, a module of a package says which command to run."""
    if not path.endswith("__init__.py"):
        last = ast.unparse(syntax_tree(path).body[-1])
        assert last.startswith("if __name__ == '__main__':\n    raise SystemExit("), (
            path
        )


def test_tests_mirror_the_source():
    folders = {
        path.split("/")[1]
        for path in PATHS
        if path.startswith("tests/") and path.count("/") > 1
    }
    assert folders <= TEST_FOLDERS


@pytest.mark.parametrize("path", SOURCE)
def test_every_module_has_a_docstring(path):
    tree = syntax_tree(path)
    assert ast.get_docstring(tree) or not tree.body, (
        "a module begins with its docstring"
    )


@pytest.mark.parametrize("path", PYTHON)
def test_no_bare_except(path):
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
