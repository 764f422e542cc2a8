"""A real headless Chromium for tests: the fixtures `browser` and `open_page`.

    def test_page(open_page):
        page = open_page(Path("report.html"), dark=True, width=400)      # or "http://127.0.0.1:8000/"
        page.get_by_role("searchbox").fill("dog")

`page` is a page of Playwright's sync API. Whatever goes wrong in it (console errors, uncaught errors, requests to
anywhere but the page's own origin, which are also stopped) fails the test at its end, unless the test takes it out of
`page.problems`. Chromium is that of the system; nothing is downloaded. Where there is none, tests are skipped with the
command that installs it, or fail if the environment says BROWSER_TESTS=required, as .ci/run does.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
REMEDY = "bash scripts/install_chromium.sh, or set CHROMIUM to where it is"
PATIENCE = 60_000  # ms for anything in the page; machines of tests are slow
FLAGS = ("--disable-background-networking", "--force-color-profile=srgb", "--hide-scrollbars")


def chromium() -> str | None:
    """Path of the browser: the environment's CHROMIUM, which must then be there, or the first known name."""
    if given := os.environ.get("CHROMIUM"):
        found = shutil.which(given)
        assert found, f"CHROMIUM={given}: no such program"
        return found
    return next(filter(None, map(shutil.which, NAMES)), None)


def lacking(what: str):
    """Skip, or fail where browser tests are required."""
    if os.environ.get("BROWSER_TESTS") == "required":
        pytest.fail(f"BROWSER_TESTS=required, but {what}", pytrace=False)
    pytest.skip(what)


def open_files() -> set[int]:
    """Numbers of this process's open files, without that of the look itself."""
    return {
        number for number in map(int, os.listdir("/dev/fd")) if os.path.exists(f"/dev/fd/{number}")
    }


def leave_to_the_parent():
    """In a forked child: close the browser's pipes. Playwright's process ends when nobody can write to it any more, so
    a child that lives on (a decoder, a loader's worker) would let the fixture wait for ever."""
    for number in OWN_FILES:
        with contextlib.suppress(OSError):
            os.close(number)


OWN_FILES: set[int] = set()  # of the running browser
os.register_at_fork(after_in_child=leave_to_the_parent)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for one file of tests; it does not outlive it, for its event loop would be in other tests' way."""
    path = chromium()
    if path is None:
        lacking(f"there is no Chromium: {REMEDY}")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("playwright is not installed: pip install playwright")
    before = open_files()
    with sync_playwright() as player:
        running = player.chromium.launch(executable_path=path, args=list(FLAGS), timeout=PATIENCE)
        OWN_FILES.update(open_files() - before)
        yield running
        running.close()
        OWN_FILES.clear()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Any]]:
    """open_page(path or address, dark=False, width=1280, height=900) -> a loaded page with a list `problems`."""
    pages = []

    def opened(target: str | Path, dark: bool = False, width: int = 1280, height: int = 900) -> Any:
        address = Path(target).resolve().as_uri() if isinstance(target, Path) else target
        page = browser.new_page(
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": height},
            reduced_motion="reduce",
        )
        page.set_default_timeout(PATIENCE)
        page.problems = watch(page, address)
        pages.append(page)
        page.goto(address)
        return page

    yield opened
    found = [problem for page in pages for problem in page.problems]
    for page in pages:
        page.close()
    assert not found, f"in the page: {found}"


def watch(page: Any, address: str) -> list[str]:
    """The list that problems of `page` go to from now on; requests away from `address` are stopped."""
    problems: list[str] = []

    def request(route: Any):
        if own(route.request.url, address):
            route.continue_()
        else:
            problems.append(f"request: {route.request.url}")
            route.abort()

    page.route("**/*", request)
    page.on(
        "console",
        lambda said: problems.append(f"console: {said.text}") if said.type == "error" else None,
    )
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    return problems


def own(url: str, address: str) -> bool:
    """Whether a page at `address` asks only itself: the same file, the same server, or what lies in the page."""
    asked, home = urlsplit(url), urlsplit(address)
    if asked.scheme in ("data", "blob"):
        return True
    same = (asked.scheme, asked.netloc) == (home.scheme, home.netloc)
    return same and (home.scheme != "file" or asked.path == home.path)
