"""The package: one list of dependencies, a lock file that fits it, tools of one version, a wheel with what it needs."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def runtime_requirements() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def locked_versions() -> dict[str, set[str]]:
    """{package: its pinned versions}; several where they depend on the Python version."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([^\s;\\]+)", (ROOT / "requirements.lock").read_text(), re.M
    ):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def test_dependencies_are_read_from_requirements_txt():
    assert PROJECT["project"]["dynamic"] == ["dependencies"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["dependencies"] == {
        "file": ["requirements.txt"]
    }
    assert set(EXTRAS) == {"dev", "onnx", "probe", "torchcodec", "wandb"}
    assert "decord" in {requirement.name for requirement in runtime_requirements()}


@pytest.mark.parametrize(
    "requirement",
    [
        *runtime_requirements(),
        *(
            Requirement(line)
            for name in ("dev", "onnx", "probe")
            for line in EXTRAS[name]
        ),
    ],
    ids=str,
)
def test_the_lock_file_fits(requirement):
    if requirement.name == PROJECT["project"]["name"]:
        return
    versions = locked_versions().get(canonicalize_name(requirement.name), set())
    assert versions, (
        f"{requirement.name} is not in requirements.lock: make it anew, see its top"
    )
    assert all(requirement.specifier.contains(version) for version in versions)


def test_every_locked_package_has_a_hash():
    blocks = re.split(
        r"^(?=[\w.-]+==)", (ROOT / "requirements.lock").read_text(), flags=re.M
    )[1:]
    assert len(blocks) > 50
    assert all("--hash=sha256:" in block for block in blocks)


def test_one_version_of_ruff():
    (pinned,) = [line for line in EXTRAS["dev"] if line.startswith("ruff==")]
    version = pinned.removeprefix("ruff==")
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    installed = subprocess.run(
        [sys.executable, "-m", "ruff", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"rev: v{version}\n" in hooks
    assert locked_versions()["ruff"] == {version}
    assert installed.stdout.split()[1] == version


def test_ci_runs_one_script():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"- run: (.*)", workflow) == ["bash .ci/run"]


@pytest.mark.slow
@pytest.mark.slow
def test_the_wheel_has_what_it_needs(tmp_path):
    """pip wheel of a copy (building writes beside the source), then an import from the wheel alone."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, tracked.split("\0")):
        if name.split("/")[0] not in ("results", "docs", "tests"):
            target = tmp_path / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]
    done = subprocess.run(
        [*command, "-w", str(tmp_path), str(tmp_path / "source")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "parse_config.py",
        "train.py",
        "model/miles.py",
        "trainer/objectives/contrastive.py",
    } <= {*names}
    assert {"scripts/html_report/template.html", "scripts/retrieval/page.html"} <= {
        *names
    }
    assert not [name for name in names if name.startswith("tests/")]
    code = "import sys; sys.path.insert(0, sys.argv[1]); import model, trainer.trainer; print(model.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(wheel)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and ".whl" in done.stdout, done.stderr
