"""The browser of the tests itself: what goes wrong in a page is seen."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers import browser as tool

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "install_chromium.sh"


def write(folder: Path, body: str) -> Path:
    path = folder / "page #1.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><title>t</title><body>{body}")
    return path


def test_a_good_page_has_no_problems(open_page, tmp_path):
    picture = (
        "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    )
    page = open_page(
        write(tmp_path, f"<p id=a>hello</p><img src={picture}>"), width=400
    )
    assert page.inner_text("#a") == "hello" and page.problems == []
    assert page.evaluate("innerWidth") == 400


@pytest.mark.parametrize(
    "body, words",
    [
        ("<script>console.error('bad thing')</script>", "console: bad thing"),
        ("<script>nothing.there</script>", "error: nothing is not defined"),
        (
            "<img src='http://pictures.invalid/a.png'>",
            "request: http://pictures.invalid/a.png",
        ),
        (
            "<script>fetch('http://127.0.0.1:9/x').catch(() => 0)</script>",
            "request: http://127.0.0.1:9/x",
        ),
        ("<img src='neighbour.png'>", "neighbour.png"),
    ],
)
def test_problems_are_seen(open_page, tmp_path, body, words):
    page = open_page(write(tmp_path, body))
    page.wait_for_timeout(200)
    assert any(words in problem for problem in page.problems), page.problems
    page.problems.clear()


@pytest.mark.parametrize("dark", [False, True])
def test_the_scheme_is_what_was_asked_for(open_page, tmp_path, dark):
    page = open_page(write(tmp_path, ""), dark=dark)
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is dark


def test_a_forked_child_does_not_hold_the_browser(browser):
    """It would keep Playwright's process alive, and the end of the tests waiting."""
    assert len(tool.BROWSER_FILES) >= 3 and tool.open_files() >= tool.BROWSER_FILES
    pid = os.fork()
    if pid == 0:
        os._exit(len(tool.BROWSER_FILES & tool.open_files()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    "url, mine",
    [
        ("http://127.0.0.1:8000/clip/3", True),
        ("http://127.0.0.1:8001/", False),
        ("https://127.0.0.1:8000/", False),
        ("data:image/png;base64,AA", True),
        ("http://127.0.0.1:8000.other.invalid/", False),
    ],
)
def test_what_counts_as_the_pages_own(url, mine):
    assert tool.is_own_request(url, "http://127.0.0.1:8000/") is mine


def test_without_a_browser_tests_skip_or_fail(monkeypatch):
    monkeypatch.delenv("BROWSER_TESTS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="install_chromium"):
        tool.skip_or_fail(f"there is no Chromium: {tool.REMEDY}")
    monkeypatch.setenv("BROWSER_TESTS", "required")
    with pytest.raises(pytest.fail.Exception, match="install_chromium"):
        tool.skip_or_fail(f"there is no Chromium: {tool.REMEDY}")
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    with pytest.raises(
        AssertionError, match="CHROMIUM=/nowhere/chromium: no such program"
    ):
        tool.chromium()


@pytest.mark.parametrize("answer", [0, 1], ids=("apt works", "apt fails"))
def test_install_script(tmp_path, answer):
    """With an apt-get and an id of ours: what it asks for, and that failure is loud and has its status."""
    for name, body in {
        "apt-get": f'echo "$@" >> {tmp_path}/asked\n[ {answer} -eq 0 ] || exit 1\n'
        f'case "$*" in *install*) printf "#!/bin/sh\\necho 1" > {tmp_path}/chromium\n'
        f"chmod +x {tmp_path}/chromium ;; esac",
        "id": "echo 0",
        "sleep": ":",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "dirname", "seq", "cat", "chmod"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/bin/bash", str(SCRIPT)],
        env={"PATH": str(tmp_path), "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    asked = (tmp_path / "asked").read_text()
    assert (done.returncode, "WARNING" in done.stderr) == (
        (0, False) if answer == 0 else (1, True)
    ), done.stderr
    assert [line.split()[-1] for line in asked.splitlines()] == [
        "update",
        "chromium",
    ] * (3 if answer else 1)
