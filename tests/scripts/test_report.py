"""A report's numbers: which queries are shown, curves, the table, the log."""

import json
import math
import random
import re
import shutil

import pytest

from scripts.html_report import svg
from scripts.html_report.gallery import choose_queries
from scripts.html_report.page import render_page
from scripts.html_report.run_folder import read_run
from tests.helpers import report_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    return report_run.make(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def cells(html):
    """The rows of the first table of metrics as lists of text."""
    table = re.search(r'<table class="metrics">.*?</table>', html, re.S)[0]
    return [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        for row in re.findall(r"<tr.*?</tr>", table, re.S)
    ]


@pytest.mark.parametrize("limit", [1, 2, 7, 20, 39, 40, 100])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_which_queries_are_shown(limit, share):
    draw = random.Random(f"{limit} {share}")
    ranks = [
        {"rank": 1.0 if draw.random() < share else draw.choice([1.5, 2.0, 7.0, 30.0])}
        for _ in range(40)
    ]
    indices = choose_queries(ranks, limit)
    assert indices == sorted(set(indices)) and len(indices) == min(limit, 40)
    shown_misses = [
        ranks[index]["rank"] for index in indices if ranks[index]["rank"] > 1
    ]
    all_misses = sorted((row["rank"] for row in ranks if row["rank"] > 1), reverse=True)
    assert sorted(shown_misses, reverse=True) == all_misses[: len(shown_misses)], (
        "the worst"
    )
    num_misses = min(len(all_misses), max(limit // 2, limit - (40 - len(all_misses))))
    assert len(shown_misses) == num_misses, (
        "half of each, more where there are fewer of the other"
    )


def test_curves_lie_where_the_values_say():
    values = [(10 * i, math.sin(i / 3) + 2) for i in range(30)]
    figure = svg.chart("t", {"a": values})
    points = [
        tuple(map(float, point.split()))
        for point in re.findall(r"[ML]([\d.]+ [\d.]+)", figure)
    ]
    ticks = {
        float(value): float(y) - 4
        for y, value in re.findall(r'class="y" x="\d+" y="([\d.]+)">([\d.]+)<', figure)
    }
    (low, low_y), (high, high_y) = min(ticks.items()), max(ticks.items())
    for (x, y), (step, value) in zip(points, values, strict=True):
        assert y == pytest.approx(
            low_y + (value - low) / (high - low) * (high_y - low_y), abs=0.3
        )
        assert x == pytest.approx(
            svg.LEFT + step / 290 * (420 - svg.LEFT - svg.RIGHT), abs=0.1
        )


def test_gaps_logarithms_and_long_curves():
    gap = svg.chart(
        "t", {"a": [(0, 1.0), (1, None), (2, float("nan")), (3, 2.0), (4, 2.5)]}
    )
    assert (
        re.findall("[ML]", re.search(r'<path d="(.*?)"', gap)[1]) == ["M", "M", "L"]
        and "2 values were not" in gap
    )
    assert svg.chart("t", {"a": [(0, None)], "b": []}) == ""
    logarithmic = svg.chart("t", {"a": [(i, 10.0**-i) for i in range(5)]})
    linear = svg.chart("t", {"a": [(i, 10.0**-i) for i in range(5)]}, linear=True)
    assert "logarithmic" not in linear
    ys = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", logarithmic)]
    assert "logarithmic" in logarithmic and [
        b - a for a, b in zip(ys, ys[1:])
    ] == pytest.approx([ys[1] - ys[0]] * 4, abs=0.2)
    long = [(i, float(i % 7)) for i in range(1000)]
    groups = [long[start : start + 3] for start in range(0, 1000, 3)]
    assert svg.downsample(long) == [
        (
            sum(x for x, _ in group) / len(group),
            pytest.approx(sum(y for _, y in group) / len(group)),
        )
        for group in groups
    ]
    flat = svg.chart("t", {"a": [(0, 0.9), (5, 0.9)]})
    assert re.findall(r'class="y"[^>]*>([^<]*)<', flat) == ["0.9"]


@pytest.mark.parametrize(
    "value, text",
    [
        (0.25, "0.25"),
        (1500, "1500"),
        (12000, "12k"),
        (3e-5, "3e-5"),
        (0, "0"),
        (2.5e-6, "2.5e-6"),
        (0.00075, "0.00075"),
        (-2e8, "-2e8"),
    ],
)
def test_numbers_of_axes(value, text):
    assert svg.format_number(value) == text


def test_the_table_is_that_of_the_results_with_the_published_beside(run):
    path = run / "test" / "results.json"
    results = json.loads(path.read_text())
    results["protocol"] = "msrvtt-1k-A"
    path.write_text(json.dumps(results))
    head, first, second, *published_rows = cells(
        render_page(read_run(run), num_figures=0)
    )
    assert head[2:] == ["R@1", "R@5", "R@10", "R@50", "MedR", "MeanR", "gmean", "mAP"]
    for row, direction in ((first, "t2v"), (second, "v2t")):
        for name, cell in zip(
            ("R1", "R5", "R10", "R50", "MedR", "MeanR", "gmean"), row[2:]
        ):
            low, high = results["intervals"][direction][name]
            assert (
                cell
                == f"{results[direction][name]:.2f} <small>{low:.2f} to {high:.2f}</small>"
            )
    assert [row[0] for row in published_rows] == [
        f"{name} (published)"
        for name in (
            "MILES zero-shot",
            "MILES fine-tuned",
            "Frozen zero-shot",
            "Frozen fine-tuned",
        )
    ]
    assert published_rows[0][2:7] == ["26.10", "47.20", "56.90", "", "7.00"]


def test_everything_of_the_log_is_drawn(run):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    with (run / "log.jsonl").open("a") as file:
        file.write(
            json.dumps({**rows[1], "loss": 1.0, "own_number": 3.0}) + '\n{"kind": "st'
        )
    log = read_run(run).logs[0]
    steps = log.rows["step"]
    assert [row["step"] for row in steps] == list(range(1, 9)) and log.torn == 1
    assert steps[0]["loss"] == 1.0, (
        "of a step that is written twice the later line counts"
    )
    html = render_page(read_run(run), num_figures=0)
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert titles == [
        "Loss",
        "Contrastive loss (loss_vt)",
        "Masked visual modeling (loss_mvm)",
        "Learning rate",
        "Teacher momentum",
        *[title for title in titles if title.startswith("Gradient norm")],
        "Validation, text to video",
        "Validation, video to text",
        "Samples a second",
        "Share of time waiting for data",
        "Memory, GiB",
        "own_number",
    ]
    assert "1 torn lines" in html and "2 epochs, 8 steps" in html
