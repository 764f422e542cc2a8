"""A report's page as text: hostile words, what is missing and how it is page_data, folders of every kind, sizes."""

import json
import re
import shlex
import shutil
from html.parser import HTMLParser

import pytest

import test
from parse_config import UserError
from scripts import report
from scripts.html_report import figures, gallery
from scripts.html_report.page import render_page, script_json
from scripts.html_report.run_folder import Evaluation, read_run
from tests.helpers import report_run, tiny_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    return report_run.make(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "a run")


class Reader(HTMLParser):
    """What a browser makes of the page: tags, attributes, texts by the tag that they stand in, scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.inside = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag, "tags are closed in order"

    def handle_data(self, data):
        self.texts.append((self.inside[-1] if self.inside else "", data))

    def text(self, tag=None):
        return "\n".join(data for parent, data in self.texts if tag in (None, parent))


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_info:
        report.cli(list(map(str, arguments)))
    lines = capsys.readouterr().err.strip().splitlines()
    assert exit_info.value.code == 2 and lines[-1].startswith("error: ")
    return lines[-1]


def data(html):
    """What the galleries' scripts hold."""
    return [
        json.loads(text)
        for text in re.findall(
            r'<script type="application/json"[^>]*>(.*?)</script>', html
        )
    ]


def commands(run):
    return " | ".join(
        f"{description}: {command}" for description, command in read_run(run).missing
    )


def test_hostile_words_stay_words(run):
    html = render_page(read_run(run), num_figures=0)
    seen = Reader(html)
    assert seen.inside == [] and [tag for tag, _ in seen.tags].count("script") == 2
    assert not [
        tag for tag, _ in seen.tags if tag in ("img", "b", "iframe", "link", "object")
    ]
    assert not [
        key for _, attributes in seen.tags for key in attributes if key.startswith("on")
    ]
    queries = data(html)[0]["queries"]
    assert {query["text"] for query in queries} == {
        row["query"] for row in report_run.ranks(run)
    }
    assert json.loads(seen.text("pre"))["about"] == report_run.HOSTILE[0]
    assert "http:" not in re.sub("<script type.*?</script>", "", html).replace(
        "http://pictures.invalid", ""
    )


@pytest.mark.parametrize(
    "words", [*report_run.HOSTILE, "\ud800 alone", "]]> <![CDATA[", "\x00\x1b"]
)
def test_json_in_the_page_is_the_same_json(words):
    text = script_json({"a": [words]})
    assert (
        json.loads(text) == {"a": [words]}
        and not set("<>&") & set(text)
        and text.isascii()
    )


def test_grounding_and_probes_that_lie_in_the_folder_are_shown(run):
    score = {"clips": 7, "phrases": 14, "pointing": 81.26, "pointing_game": None}
    score |= {"mean_iou": 3.0, "chance": {"pointing": 50.0, "mean_iou": 1.5}}
    score["interval"] = {"pointing": [70.0, 90.04], "mean_iou": [1.0, 5.0]}
    probes = {"linear": {"colour": 98.0, "all": 60.06}, "knn": {"colour": 90, "all": 5}}
    assert "Words on objects" not in render_page(read_run(run))
    (run / "grounding.json").write_text(json.dumps(score))
    (run / "probe.json").write_text(json.dumps(probes))
    page = Reader(render_page(read_run(run)))
    cells = page.text("td").split("\n")
    assert "Words on objects: 14 phrases of 7 clips" in page.text("h3")
    assert {"81.3", "70.0 to 90.0", "50.0", "1.0 to 5.0", "60.1"} <= set(cells)
    assert "highest patch on the object" not in page.text("th")
    assert "What captions leave out" not in page.text()
    probes["untold"] = {"questions": 5, "accuracy": 51.0, "chance": 16.8}
    (run / "probe.json").write_text(json.dumps(probes))
    page = Reader(render_page(read_run(run)))
    assert "What captions leave out: 51.0 % (chance 16.8 %)." in page.text()
    (run / "grounding.json").write_text(json.dumps({"pointing": 3.0}))
    with pytest.raises(UserError, match="grounding.json: lacks 'clips'"):
        read_run(run)


def test_figures_of_the_model(run):
    html = render_page(read_run(run), num_figures=2)
    figures = re.findall(
        r'<img alt="(\w+): [^"]*" src="data:image/jpeg;base64,[^"]{2000,}">', html
    )
    assert (
        figures == ["attention", "masking", "alignment", "alignment"]
        and read_run(run).missing == []
    )


def test_words_that_a_figure_shows(monkeypatch):
    monkeypatch.setattr(
        figures, "encode_words", lambda model, text: (text.split(), None)
    )
    words = figures.telling_words
    assert words(None, "in this clip a green hoop moves to the left slowly") == [
        "slowly",
        "green",
        "moves",
        "hoop",
    ]
    assert words(None, "it is the") == ["the", "it", "is"]


def test_a_folder_of_test_py_alone(run):
    (run / "test" / "ranks.jsonl").unlink()
    html = render_page(read_run(run / "test"), num_figures=1)
    assert commands(run / "test").count("python ") == 2 and "no log.jsonl" in commands(
        run / "test"
    )
    assert (
        "no ranks.jsonl" in html
        and "--save-ranks --save-embeddings" in html
        and data(html) == []
    )
    assert html.count('<table class="metrics">') == 1 and html.count("<img") == 3, (
        "figures need no ranks"
    )


def test_what_is_missing_is_said_with_a_command_that_makes_it(run, capsys):
    shutil.rmtree(run / "test")
    ((description, command),) = read_run(run).missing
    assert "no results.json" in description
    program, script, *arguments = shlex.split(command)
    assert (program, script) == ("python", "test.py") and (
        tiny_run.ROOT / script
    ).is_file()
    test.cli([*arguments, "-d", "cpu"])
    report.cli([str(run), "-o", str(run / "new" / "r.html"), "--figures", "0"])
    assert "missing:" not in capsys.readouterr().out and data(
        (run / "new" / "r.html").read_text()
    )
    for file in run.glob("*.pth"):
        file.unlink()
    results = json.loads((run / "test" / "results.json").read_text())
    (run / "test" / "results.json").write_text(
        json.dumps({**results, "checkpoint": None})
    )
    assert "no checkpoint, so no figures" in render_page(read_run(run))


def test_clips_that_are_gone_are_counted(run):
    results = json.loads((run / "test" / "results.json").read_text())
    home = shutil.copytree(
        results["config"]["data_loader"]["args"]["data_dir"], run / "data"
    )
    results["config"]["data_loader"]["args"]["data_dir"] = str(home)
    (run / "test" / "results.json").write_text(json.dumps(results))
    (home / "57.mp4").unlink()
    (home / "58.mp4").write_bytes(b"no film")
    html = render_page(read_run(run), num_figures=0)
    assert {item["name"] for item in data(html)[0]["items"] if "src" not in item} == {
        "57.mp4",
        "58.mp4",
    }
    assert "2 of 14 clips could not be read" in html
    shutil.rmtree(home)
    html = render_page(read_run(run))
    assert (
        "14 of 14 clips could not be read" in html
        and str(home) in html
        and "No clips to draw" in html
    )


def test_stages_have_their_own_curves(run, tmp_path):
    for number in (1, 2):
        shutil.copytree(
            run,
            tmp_path / "both" / f"stage{number}_x",
            ignore=shutil.ignore_patterns("test"),
        )
    html = render_page(read_run(tmp_path / "both"), num_figures=0)
    assert re.findall("<h3>(.*?)</h3>", html) == ["stage1_x", "stage2_x"] * 2
    assert f"-r {tmp_path}/both/stage2_x/model_best.pth" in commands(tmp_path / "both")


def test_recognition_asks_with_videos():
    ranks = [
        {
            "direction": "v2t",
            "query": f"v{i}",
            "right": "run",
            "rank": 1.0 + i,
            "top": [["run", 0.5], ["jump", 0.4]],
        }
        for i in range(3)
    ]
    page_data = gallery.gallery_data(Evaluation("", None, {}, ranks), 10, FakeClips())
    assert [
        page_data["items"][query["item"]]["src"] for query in page_data["queries"]
    ] == [
        "<v0>",
        "<v1>",
        "<v2>",
    ]
    assert [item["name"] for item in page_data["items"] if "src" not in item] == [
        "run",
        "jump",
    ]
    assert gallery.gallery_notes(page_data, FakeClips())[0].startswith(
        "3 of 3 videos are shown: 1 of 1 hits"
    )


class FakeClips:
    """Clips without files; each may be asked for once."""

    def __init__(self, size=0):
        self.unreadable = {}
        self.open_error = ""
        self.names = set()
        self.size = size

    def thumbnail(self, name):
        assert name not in self.names
        self.names.add(name)
        return {"name": name, "src": f"<{name}>" + "x" * self.size}


def test_a_thousand_queries_and_videos():
    """Each thumbnail is there once; the page grows by what is shown."""
    ranks = [
        {
            "direction": "t2v",
            "query": f"caption {i}",
            "right": f"v{i}",
            "rank": 1.0 + i % 5 * 100,
            "top": [[f"v{(i * 7 + k) % 1000}", 0.5] for k in range(10)],
        }
        for i in range(1000)
    ]
    clips = FakeClips(5000)
    page_data = gallery.gallery_data(Evaluation("", None, {}, ranks), 200, clips)
    used = {
        page_data["items"][number]["name"]
        for query in page_data["queries"]
        for number, _ in query["top"]
    }
    used |= {ranks[query["index"]]["right"] for query in page_data["queries"]}
    assert {item["name"] for item in page_data["items"]} == used == clips.names and len(
        page_data["queries"]
    ) == 200
    assert len(script_json(page_data)) < 5100 * len(used) + 200 * 300
    assert gallery.gallery_notes(page_data, clips) == [
        "200 of 1000 captions are shown: 100 of 200 hits (rank 1, evenly over "
        "the list) and 100 of 800 misses, the worst."
    ]


def test_mistakes_cost_one_line(run, tmp_path, capsys):
    assert "no such folder" in refused(capsys, tmp_path / "nowhere")
    assert "neither log.jsonl nor results.json" in refused(capsys, tmp_path)
    assert "at least 1" in refused(capsys, run, "--queries", 0)
    assert "is a folder" in refused(capsys, run, "-o", tmp_path)
    with (run / "test" / "ranks.jsonl").open("a") as file:
        file.write('{"direction": "t2v"}\n')
    assert "ranks.jsonl, line 29" in refused(capsys, run)
    (run / "test" / "results.json").write_text("{")
    assert "results.json: is damaged" in refused(capsys, run)
    (run / "test" / "results.json").write_text("{}")
    assert "is no results.json of test.py" in refused(capsys, run)
    assert not (run / "report.html").exists()
