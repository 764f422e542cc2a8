"""JsonlDataset: every spelling of "a path and its captions" that people have."""

import json

import pytest

from data_loader.datasets import DATASETS
from data_loader.frames import pick
from parse_config import ConfigError, UserError
from scripts.synthetic.miniatures import write_media, write_text

VIDEO = {"num_frames": 2, "input_res": 16}
ROWS = [
    {"path": "clips/a.mp4", "captions": ["a dog", "the dog"], "split": "train"},
    {"path": "clips/b.mp4", "caption": "NA", "split": "val"},
    {"path": "clips/a.mp4", "caption": "again, a dog", "split": "train"},
    {
        "path": "clips/c.mp4",
        "caption": "a cat, \u00e9",
        "split": "test",
        "start": 0.25,
        "end": 0.75,
    },
]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate("abc"):
        write_media(tmp_path / f"clips/{name}.mp4", number)
    return tmp_path


def build(folder, split="train", **more):
    return DATASETS.build(
        {
            "type": "JsonlDataset",
            "args": {
                "data_dir": str(folder),
                "split": split,
                "video_params": VIDEO,
                **more,
            },
        }
    )


def lines(rows):
    return "\n".join(json.dumps(row) for row in rows)


def test_contract_of_an_item(folder):
    write_text(folder / "captions.jsonl", lines(ROWS))
    sample = build(folder)[0]
    assert set(sample) == {"video", "text", "meta"} and sample["video"].shape == (
        2,
        3,
        16,
        16,
    )
    assert sample["text"] in ("a dog", "the dog", "again, a dog")


@pytest.mark.parametrize(
    "newline, start, end", [("\n", "", ""), ("\r\n", "\ufeff", "\n\n")]
)
def test_json_lines_of_all_splits(folder, newline, start, end):
    write_text(folder / "captions.jsonl", start + lines(ROWS) + end, newline)
    train, val, test = (build(folder, split) for split in ("train", "val", "test"))
    assert list(train.captions) == [
        "a dog",
        "the dog",
        "again, a dog",
    ] and train.owner.tolist() == [0, 0, 0]
    assert list(val.captions) == ["NA"] and list(val.ids) == ["clips/b.mp4"]
    assert list(test.captions) == ["a cat, \u00e9"] and list(test.ids) == [
        "clips/c.mp4#0.25-0.75"
    ]
    assert "JSONL" in train.layout
    assert test[0]["meta"]["frames"] == pick(4, 2), "half a second at 8 frames/s"
    assert build(folder, "val")[0]["meta"]["frames"] == pick(8, 2)


@pytest.mark.parametrize("name, separator", [("train.csv", ","), ("train.tsv", "\t")])
def test_a_table_with_a_header(folder, name, separator):
    quoted = '"two\nlines, ""quoted"""'
    rows = [
        ["video", "caption", "start", "end"],
        ["clips/a", "NA", "", ""],
        ["clips/b.avi", quoted, "0", "1"],
        ["clips/a", "more", "", ""],
        ["clips/a", "late", "0.5", ""],
    ]
    write_text(
        folder / name, "\ufeff" + "\n".join(separator.join(row) for row in rows), "\r\n"
    )
    data = build(folder)
    assert list(data.ids) == ["clips/a", "clips/b.avi#0-1", "clips/a#0.5-"]
    assert [caption.replace("\r", "") for caption in data.captions] == [
        "NA",
        "more",
        'two\nlines, "quoted"',
        "late",
    ]
    assert data.paths[1] == str(folder / "clips/b.mp4")
    assert all(
        data[i]["video"] is not None and not data[i]["meta"]["failures"]
        for i in range(3)
    )


def test_vindlu_lists_in_a_folder_of_their_own(folder):
    listed = [
        {"video": "a.mp4", "caption": ["x", "y"]},
        {"image": "b.mp4", "caption": "z"},
    ]
    write_text(folder / "anno/my_ret_test1k.json", json.dumps(listed))
    data = build(
        folder / "clips", "test", cut="my_ret_test1k", metadata_dir=str(folder / "anno")
    )
    assert list(data.captions) == ["x", "y", "z"] and data.owner.tolist() == [0, 0, 1]
    data = build(
        folder / "clips", "test", metadata_dir=str(folder / "anno/my_ret_test1k.json")
    )
    assert len(data) == 2


def test_a_cut_names_the_file(folder):
    write_text(folder / "clips.jsonl", lines(ROWS[:1]))
    write_text(folder / "small_test.csv", "path,caption\nclips/b.mp4,x\n")
    assert len(build(folder, cut="clips")) == 1
    assert list(build(folder, "test", cut="small").captions) == ["x"]


def test_own_ids_and_foreign_keys(folder):
    row = {
        "id": 7,
        "path": "clips/a.mp4",
        "captions": ["x"],
        "shows": [[1, 2]],
        "split": "validation",
    }
    write_text(folder / "captions.jsonl", lines([row]))
    assert list(build(folder, "val").ids) == ["7"]


def test_rows_without_a_split_are_taken_with_a_warning(folder, caplog):
    write_text(
        folder / "captions.jsonl", lines([{"path": "clips/a.mp4", "caption": "x"}])
    )
    assert len(build(folder, "test")) == 1 and "name no split" in caplog.text
    caplog.clear()
    write_text(folder / "val.jsonl", lines([{"path": "clips/a.mp4", "caption": "x"}]))
    assert len(build(folder, "val")) == 1 and "name no split" not in caplog.text


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "train.jsonl",
            '{"path": "a", "caption": "x"}\n{"path": }',
            r"train.jsonl: line 2, column 10",
        ),
        ("train.jsonl", "[1]", r"line 1: an object \{...\} is needed"),
        (
            "train.jsonl",
            '{"path": "a", "captoin": "x"}',
            "line 1: no caption or captions that is text; .*'captoin'",
        ),
        (
            "train.jsonl",
            '{"path": "a", "captions": ["x", 3]}',
            "line 1: no caption or captions",
        ),
        ("train.jsonl", '{"caption": "x"}', "line 1: no path or video or image"),
        (
            "train.jsonl",
            '{"path": "a", "caption": "x", "start": "soon"}',
            "line 1: start: 'soon' is no number of seconds",
        ),
        (
            "train.csv",
            "video_id;caption\na;x",
            "line 2: no path .* its columns are 'video_id;caption'",
        ),
        ("train.csv", "path,caption\na", "line 2: no caption"),
        ("train.json", '{"path": "a"}', "a list of objects is needed"),
        ("train.json", '[{"path": "a"]', "train.json: line 1, column 14"),
        (
            "captions.jsonl",
            '{"path": "a", "caption": "x", "split": "test"}',
            "no row of split 'train'; splits in it: test",
        ),
    ],
)
def test_errors_name_their_location(folder, name, content, message):
    write_text(folder / name, content)
    with pytest.raises(
        UserError if name != "train.json" else ValueError, match=message
    ):
        build(folder)


def test_no_file_and_wrong_keys(folder):
    with pytest.raises(FileNotFoundError, match="train.jsonl.*captions.jsonl"):
        build(folder)
    write_text(folder / "train.jsonl", lines(ROWS[:1]))
    with pytest.raises(ConfigError, match=r"cutt: unknown key \(nearest: cut\)"):
        build(folder, cutt="x")
