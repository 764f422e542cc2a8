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
from typing import Any, NoReturn
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
TIMEOUT_MS = 60_000  # for anything in the page; machines of tests are slow
FLAGS = (
    "--disable-background-networking",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)


def chromium() -> str | None:
    """Path of the browser: the environment's CHROMIUM, which must then exist, or the first known name."""
    if program := os.environ.get("CHROMIUM"):
        path = shutil.which(program)
        assert path, f"CHROMIUM={program}: no such program"
        return path
    return next(filter(None, map(shutil.which, NAMES)), None)


def skip_or_fail(reason: str) -> NoReturn:
    """Skip, or fail where browser tests are required."""
    if os.environ.get("BROWSER_TESTS") == "required":
        pytest.fail(f"BROWSER_TESTS=required, but {reason}", pytrace=False)
    pytest.skip(reason)


def open_files() -> set[int]:
    """Numbers of this process's open files, without that of the listing itself."""
    return {
        number
        for number in map(int, os.listdir("/dev/fd"))
        if os.path.exists(f"/dev/fd/{number}")
    }


def close_browser_files() -> None:
    """In a forked child: close the browser's pipes. Playwright's process ends when nobody can write to it any more, so
    a child that lives on (a decoder, a loader's worker) would let the fixture wait for ever."""
    for number in BROWSER_FILES:
        with contextlib.suppress(OSError):
            os.close(number)


BROWSER_FILES: set[int] = set()  # of the running browser
os.register_at_fork(after_in_child=close_browser_files)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for one file of tests; it does not outlive it, for its event loop would be in other tests' way."""
    path = chromium()
    if path is None:
        skip_or_fail(f"there is no Chromium: {REMEDY}")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_or_fail("playwright is not installed: pip install playwright")
    files_before = open_files()
    with sync_playwright() as player:
        chromium_browser = player.chromium.launch(
            executable_path=path, args=list(FLAGS), timeout=TIMEOUT_MS
        )
        BROWSER_FILES.update(open_files() - files_before)
        yield chromium_browser
        chromium_browser.close()
        BROWSER_FILES.clear()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Any]]:
    """open_page(path or address, dark=False, width=1280, height=900) -> a loaded page with a list `problems`."""
    pages = []

    def open_target(
        target: str | Path, dark: bool = False, width: int = 1280, height: int = 900
    ) -> Any:
        address = (
            Path(target).resolve().as_uri() if isinstance(target, Path) else target
        )
        page = browser.new_page(
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": height},
            reduced_motion="reduce",
        )
        page.set_default_timeout(TIMEOUT_MS)
        page.problems = watch(page, address)
        pages.append(page)
        page.goto(address)
        return page

    yield open_target
    problems = [problem for page in pages for problem in page.problems]
    for page in pages:
        page.close()
    assert not problems, f"in the page: {problems}"


def watch(page: Any, address: str) -> list[str]:
    """The list that problems of `page` go to from now on; requests away from `address` are stopped."""
    problems: list[str] = []

    def on_request(route: Any) -> None:
        if is_own_request(route.request.url, address):
            route.continue_()
        else:
            problems.append(f"request: {route.request.url}")
            route.abort()

    def on_console(message: Any) -> None:
        if message.type == "error":
            problems.append(f"console: {message.text}")

    page.route("**/*", on_request)
    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    return problems


def is_own_request(url: str, address: str) -> bool:
    """Whether a page at `address` asks only itself: the same file, the same server, or what lies in the page."""
    request = urlsplit(url)
    page = urlsplit(address)
    if request.scheme in ("data", "blob"):
        return True
    same_server = (request.scheme, request.netloc) == (page.scheme, page.netloc)
    return same_server and (page.scheme != "file" or request.path == page.path)
