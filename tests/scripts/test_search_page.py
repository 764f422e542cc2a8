"""The search page in a real headless Chromium: words are typed, answers come, clips play from the right second."""

import re

import pytest

from tests.helpers import search_home

pytestmark = pytest.mark.slow

PLAYS = """video => new Promise(done => {
  const look = () => video.readyState >= 2 && video.currentTime > 0.0 ? done([video.currentTime, video.duration]) :
    setTimeout(look, 20); look(); })"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    search_home.build(home)
    (home / "clips" / "below" / "a red.mp4").write_bytes(
        b"no video any more"
    )  # the browser finds out
    with search_home.serving(home / "index") as server:
        yield server


def ask(page, words):
    page.get_by_role("searchbox").fill(words)
    page.get_by_role("searchbox").press("Enter")


def status(page, words):
    page.get_by_role("status").filter(has_text=re.compile(words)).wait_for()


def card(page, words):
    return page.get_by_role("listitem").filter(has_text=words)


@pytest.mark.parametrize("dark", [False, True])
def test_words_are_answered(open_page, server, dark):
    page = open_page(server.url, dark=dark, width=400)
    assert page.title() == "Search index: 7 rows"
    ask(page, 'a "red" dog <b>\U0001f600</b>')
    status(
        page,
        re.escape('a "red" dog <b>\U0001f600</b>: 7 of 7 rows; ')
        + r"[\d.]+ ms to understand it",
    )
    assert (
        page.get_by_role("listitem").count() == 7
        and page.locator("li b", has_text='<i>b"&.webm').count() == 1
    )
    assert (
        page.locator("li i, #status b").count() == 0
    )  # names and words are text, not markup
    scores = [
        float(text.split()[-1]) for text in page.get_by_text("score").all_inner_texts()
    ]
    assert scores == sorted(scores, reverse=True)
    card(
        page, "<i>b"
    ).scroll_into_view_if_needed()  # pictures are loaded where they are seen
    card(page, "<i>b").locator("img").evaluate("image => image.decode()")
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (
        sum(map(int, re.findall(r"\d+", back))) < 200
        if dark
        else sum(map(int, re.findall(r"\d+", back))) > 600
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.problems[:] = [
        one for one in page.problems if "404" not in one
    ]  # of the file that was spoilt


def test_empty_words_are_not_asked_and_choices_ask_again(open_page, server):
    page = open_page(server.url)
    ask(page, "   ")
    status(page, "Say what to look for")
    ask(page, "a cat")
    status(page, "a cat: 7 of 7")
    page.get_by_label("best moment of each video").check()
    status(page, "a cat: 5 of 7")
    page.reload()
    status(page, "a cat: 7 of 7")  # the address knows the words
    card(page, "still.png").get_by_role("button", name="more like this").click()
    status(page, "like still.png: 7 of 7")
    assert page.get_by_role("listitem").first.inner_text().startswith("still.png")
    page.problems[:] = [one for one in page.problems if "404" not in one]


def test_clips_play_from_their_second(open_page, server):
    page = open_page(server.url + "?q=a+dog")
    status(page, "7 of 7")
    second = card(page, "from 0:04 to 0:08")
    second.get_by_role("button", name="Play long.mp4").click()
    now, whole = second.locator("video").evaluate(PLAYS)
    assert 4 <= now < 8.5 and whole == pytest.approx(10, abs=0.2)
    second.locator("video").evaluate(
        "video => new Promise(done => { video.onseeked = done; video.currentTime = 1; })"
    )
    assert second.locator("video").evaluate(
        "video => video.currentTime"
    ) == pytest.approx(1, abs=2)
    page.problems[:] = [one for one in page.problems if "404" not in one]


def test_what_cannot_be_played_is_shown_otherwise(open_page, server):
    page = open_page(server.url + "?q=a+dog")
    status(page, "7 of 7")
    old = card(page, "old.avi")
    old.get_by_role("button", name="Play").click()
    old.get_by_text("Browsers cannot play this format").wait_for()
    moving = old.get_by_alt_text("moving preview")
    assert (
        moving.evaluate("async image => (await image.decode(), image.naturalWidth)")
        == 64
    )
    assert page.locator("video").count() == 0
    spoilt = card(page, "a red.mp4")
    spoilt.get_by_text("cannot be shown").wait_for()
    spoilt.get_by_role("button", name="Play").click()
    spoilt.get_by_text("This browser cannot play this file").wait_for()
    assert any("404" in problem for problem in page.problems)
    page.problems.clear()


def test_a_server_that_has_gone_is_said(open_page, server):
    page = open_page(server.url)
    page.context.set_offline(True)
    ask(page, "a dog")
    status(page, "The server does not answer")
    assert (
        page.problems.pop().startswith("console: Failed to load resource")
        and not page.problems
    )
