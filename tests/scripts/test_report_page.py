"""The report in a real browser: what is seen is what the run's files say, and nothing else is asked for."""

import json
import re

import pytest

from scripts import report
from tests.helpers import report_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return report_run.make(tmp_path_factory.mktemp("seen"))


@pytest.fixture(scope="module")
def path(run):
    return report.main(run, run / "a report.html")


@pytest.fixture
def page(open_page, path):
    return open_page(path)


def shown(page):
    """Captions of the gallery, from top to bottom."""
    return page.locator(".query q").all_text_contents()


def test_table_curves_and_gallery_are_there(page, run):
    results = json.loads((run / "test" / "results.json").read_text())
    rows = page.locator("table.metrics tbody tr")
    assert rows.count() == 2 and "text to video" in rows.nth(0).inner_text()
    cells = rows.nth(0).locator("td").all_inner_texts()
    low, high = results["intervals"]["t2v"]["R5"]
    assert re.split(r"\s+", cells[2].strip()) == [
        f"{results['t2v']['R5']:.2f}",
        f"{low:.2f}",
        "to",
        f"{high:.2f}",
    ]
    assert page.locator(".chart").count() >= 10
    sizes = page.locator(".chart path").evaluate_all(
        "all => all.map(path => path.getTotalLength())"
    )
    assert len(sizes) > 12 and min(sizes) > 10
    widths = page.locator("#figures img").evaluate_all(
        "all => all.map(one => one.naturalWidth)"
    )
    assert len(widths) == 5 and min(widths) > 200
    assert page.locator(".query").count() == 14 and page.title().startswith("tiny")


def test_answers_are_those_of_the_ranks(page, run):
    for row in report_run.ranks(run):
        query = page.locator(
            ".query", has=page.get_by_text(row["query"], exact=True)
        ).first
        names = query.locator(".answer").evaluate_all(
            "all => all.map(one => one.title)"
        )
        top = [name for name, _ in row["top"][:5]]
        assert names == top + [row["right"]] * (row["right"] not in top)
        assert query.locator(".answer.right").evaluate_all(
            "all => all.map(one => one.title)"
        ) == [row["right"]]
        assert query.locator(".asked .rank").inner_text() == f"rank {row['rank']:g}"
        border = query.locator(".answer.right").evaluate(
            "one => getComputedStyle(one).borderTopStyle"
        )
        assert border == ("solid" if row["right"] in top else "dashed")


def test_thumbnails_are_pictures(page):
    sizes = page.evaluate("""async () => Promise.all([...document.querySelectorAll(".strip")].map(async strip => {
        const picture = new Image();
        picture.src = getComputedStyle(strip).backgroundImage.slice(5, -2);
        await picture.decode();
        const box = strip.getBoundingClientRect();
        return [picture.naturalWidth / picture.naturalHeight / 4, box.width / box.height, box.width]; }))""")
    assert len(sizes) >= 14 * 5
    assert all(
        abs(a - 4 / 3) < 0.02 and abs(b - 4 / 3) < 0.02 and width > 60
        for a, b, width in sizes
    )


def test_search_filters(page, run):
    for words in (
        "dog",
        "the GREEN",
        "runs a",
        "nothing like it",
        "</script>",
        "odd",
        "56.mp4",
        "",
    ):
        page.get_by_role("searchbox").fill(words)
        expected = [
            row["query"]
            for row in report_run.ranks(run)
            if all(
                word in f"{row['query']}\n{row['right']}".lower()
                for word in words.lower().split()
            )
        ]
        assert sorted(shown(page)) == sorted(expected), words
        assert page.locator(".tools output").inner_text() == f"{len(expected)} of 14"


def test_sort_sorts(page, run):
    keys = {
        "worst": lambda row: -row["rank"],
        "best": lambda row: row["rank"],
        "caption": lambda row: row["query"].lower(),
        "list": lambda row: 0,
    }
    for order, key in keys.items():
        page.get_by_label("Order").select_option(order)
        rows = sorted(report_run.ranks(run), key=key)
        for outcome, is_shown in (
            ("hit", lambda row: row["rank"] <= 1),
            ("miss", lambda row: row["rank"] > 1),
            ("all", lambda row: True),
        ):
            page.get_by_label("Which").select_option(outcome)
            assert shown(page) == [row["query"] for row in rows if is_shown(row)], (
                order,
                outcome,
            )


def test_words_are_words(page, run):
    assert set(report_run.HOSTILE) < set(shown(page))
    assert page.evaluate("window.hacked") is None
    assert (
        page.locator("main section:not(#figures) img").count() == 0
        and page.locator("body script").count() == 2
    )
    page.locator("summary", has_text="resolved config").click()
    assert (
        json.loads(page.locator("pre").inner_text())["about"] == report_run.HOSTILE[0]
    )
    assert page.locator(".answer b").count() == 0
    assert report_run.NAME in page.locator(".answer").evaluate_all(
        "all => all.map(one => one.title)"
    )


def test_a_foreign_script_would_not_run(open_page, path, tmp_path):
    """The page's own policy: even markup that slipped in would stay dead."""
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(
        path.read_text().replace("<main>", "<main><script>window.hacked = 3</script>")
    )
    page = open_page(spoiled)
    assert page.evaluate("window.hacked") is None and len(shown(page)) == 14
    assert len(page.problems) == 1 and "Content Security Policy" in page.problems.pop()


def test_light_dark_and_phone(open_page, path):
    def colour(page, style="backgroundColor", selector="body"):
        return [
            int(part)
            for part in re.findall(
                r"\d+",
                page.locator(selector).first.evaluate(
                    f"one => getComputedStyle(one).{style}"
                ),
            )[:3]
        ]

    light, dark = open_page(path), open_page(path, dark=True, width=400)
    assert min(colour(light)) > 230 and max(colour(dark)) < 40
    assert max(colour(light, "color")) < 60 and min(colour(dark, "color")) > 200
    assert colour(light, "color", ".chart .s0") != colour(dark, "color", ".chart .s0")
    assert dark.evaluate("document.documentElement.scrollWidth") == 400, (
        "nothing is wider than a phone"
    )
