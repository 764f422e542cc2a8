"""A tiny run with an evaluation, from which a report is made: real files of train.py and test.py, hostile captions."""

import json
from pathlib import Path

import test
import train
from scripts.synthetic.miniatures import write_media, write_text
from tests.helpers import tiny_run

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '<img src="http://pictures.invalid/" onerror="hacked=2">',
    '<!-- <script> a dog & "a cat" \\u003c/script>',
    "the dog's caf\u00e9 &amp; \u2028 \U0001f436 runs",
)
NAME = 'a "<b>odd</b>" & name.mp4'


def make(home: Path) -> Path:
    """The run folder: 2 epochs, and in test/ an evaluation with its ranks of 14 clips, four with hostile captions."""
    tiny_run.write_data(home / "data", ".mp4", train=8, val=4)
    rows = []
    for number in range(14):
        name = NAME if number == 3 else f"{number + 50}.mp4"
        write_media(home / "data" / name, number)
        rows.append(
            {
                "path": name,
                "caption": HOSTILE[number]
                if number < 4
                else tiny_run.sentence(7 * number),
            }
        )
    write_text(home / "data" / "test.jsonl", "\n".join(map(json.dumps, rows)))
    config = tiny_run.config(
        home, tiny_run.loader(home / "data", frames=2), about=HOSTILE[0]
    )
    path = tiny_run.save(home / "config.json", config)
    train.cli(["-c", str(path), "-d", "cpu"])
    run = next((home / "exps" / "tiny").iterdir())
    test.cli(
        [
            "-c",
            str(path),
            "-r",
            str(run / "model_best.pth"),
            "-d",
            "cpu",
            "-o",
            str(run / "test"),
            "--save-ranks",
        ]
    )
    return run


def ranks(run: Path) -> list[dict]:
    """The text-to-video lines of the evaluation's ranks.jsonl."""
    text = (run / "test" / "ranks.jsonl").read_text(encoding="utf-8")
    rows = map(json.loads, text.strip("\n").split("\n"))
    return [row for row in rows if row["direction"] == "t2v"]
