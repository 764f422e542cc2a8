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
        ("train.csv", "path;caption\na;x, y", "line 2: no path .* 'path;caption'"),
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


# What is in the file is what is trained on


def pairs(dataset):
    """{id: captions} of a data set."""
    captions = {name: [] for name in dataset.ids}
    for caption, owner in zip(dataset.captions, dataset.owner.tolist()):
        captions[dataset.ids[owner]].append(caption)
    return captions


def read(folder, rows, **more):
    """{id: captions} of rows of captions.jsonl."""
    write_text(
        folder / "captions.jsonl", rows if isinstance(rows, str) else lines(rows)
    )
    return pairs(build(folder, **more))


def error_of(folder, rows, **more):
    """The one line that refuses rows of captions.jsonl, without the path of the file before it."""
    with pytest.raises(UserError) as error:
        read(folder, rows, **more)
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"{folder}/captions.jsonl: ")
    return message.removeprefix(f"{folder}/captions.jsonl: ")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("train.csv", "path,caption\na.mp4,a man, a dog", "line 2: too many cells: 3"),
        ("train.csv", "path,caption\n\nb,x\na,", ""),
        ("train.csv", "path,caption,split\na,x", "line 2: no split: 2 cells in the"),
        ("train.csv", "path,caption\n\nb,x\na", "line 4: no caption: 1 cells in the"),
        ("train.tsv", "path\tcaption\nclips/a.mp4\ta\tb", "line 2: too many cells: 3"),
        ("train.csv", 'path,caption\nb,x\na,"a man\nc,y\n', "line 3: has a quotation"),
        ("train.csv", 'path,caption\na,"a man\nb,"a dog"\nc,y', "line 2: has a quot"),
        (
            "train.csv",
            'path,caption\nclips/a.mp4,"a man\nclips/b.mp4,y\nclips/c.mp4,a dog"',
            "line 2: a quotation mark that is closed further down swallows the row 'clips/b.mp4,y'",
        ),
        (
            "train.csv",
            'caption,path\n"a man,clips/a.mp4\ny,clips/b.mp4\na dog",clips/c.mp4',
            "line 2: a quotation mark that is closed further down swallows the row 'y,clips",
        ),
        ("train.csv", "path,caption,Caption \na,x,y", "line 1: two columns are called"),
        ("train.csv", "path,caption\na,x\n\ufeffpath,caption\nb,y", "line 3: begins"),
        ("train.csv", "path,caption\na,x\nb,\0", "line 3: holds a NUL character"),
        ("train.csv", "path,caption\na,x\nb,\udce9", "line 3: is not UTF-8 text"),
        ("train.jsonl", '{"path": "a", "caption": "\udce9"}', "line 1: is not UTF-8"),
        (
            "train.json",
            '[\n{"path": "a",\n "caption": 3}]',
            "line 2, entry 0: no caption",
        ),
        ("train.csv", "", "no row of split 'train'; splits in it: it has no rows"),
        (
            "train.csv",
            "path,caption\n",
            "no row of split 'train'; splits in it: it has",
        ),
    ],
)
def test_rows_of_tables_are_never_cut(folder, name, content, message):
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    if not message:
        assert pairs(build(folder, check_files=False)) == {"b": ["x"]}
        return
    with pytest.raises(UserError) as error:
        build(folder)
    assert str(error.value).startswith(f"{folder}/{name}: {message}")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_tables_as_spreadsheets_write_them(folder, encoding, newline):
    text = newline.join(
        ["Path, Caption ,,", 'clips/a.mp4,"un caf\u00e9, ""noir""",,', ",,,", ""]
    )
    (folder / "train.csv").write_bytes(text.encode(encoding))
    dataset = build(folder)
    assert pairs(dataset) == {"clips/a.mp4": ['un caf\u00e9, "noir"']}
    assert dataset.left_out == {"empty rows (the first: line 3)": 1}


@pytest.mark.parametrize(
    "cell, captions",
    [
        ('["a man", "a dog"]', ["a man", "a dog"]),
        (' ["a man"] ', ["a man"]),
        ("['a man', \"a man's dog\"]", ["a man", "a man's dog"]),
        ("[music] a man sings", ["[music] a man sings"]),
        ("[music]", ["[music]"]),
        ('"a" man', ['"a" man']),
        ('["a man", "a dog]', "begins like a list of texts and is none"),
        ('["a man", 3]', "begins like a list of texts and is none"),
        ("[1, 2]", "begins like a list of texts and is none"),
    ],
)
@pytest.mark.parametrize("separator, name", [(",", "train.csv"), ("\t", "train.tsv")])
@pytest.mark.parametrize("column", ["captions", "caption"])
def test_a_list_in_a_cell(folder, cell, captions, separator, name, column):
    quoted = '"' + cell.replace('"', '""') + '"'
    rows = f"path{separator}{column}\nclips/a.mp4{separator}{quoted}\n"
    write_text(folder / name, rows)
    if isinstance(captions, list):
        assert pairs(build(folder)) == {"clips/a.mp4": captions}
        return
    with pytest.raises(UserError, match=f"{name}: line 2: {column}: .*{captions}"):
        build(folder)


@pytest.mark.parametrize(
    "fields, captions",
    [
        ({"caption": "", "captions": ["x", "y"]}, ["x", "y"]),
        ({"caption": " ", "captions": "x"}, ["x"]),
        ({"caption": "x", "captions": []}, ["x"]),
        ({"caption": "x", "captions": [""]}, ["x"]),
        ({"caption": None, "captions": ["x"]}, ["x"]),
        ({"caption": "x", "captions": ["x", "y", "y"]}, ["x", "y", "y"]),
        ({"caption": "x", "captions": ["y"]}, ["x", "y"]),
        ({"captions": ["x", " ", "x"]}, ["x", "x"]),
        ({"Caption": "x"}, ["x"]),
    ],
)
def test_all_captions_of_a_row_are_taken(folder, fields, captions):
    rows = [{"path": "clips/a.mp4", **fields}]
    assert read(folder, rows) == {"clips/a.mp4": captions}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"caption": "\ud800 dog"}, "line 1: caption: .* half a surrogate pair"),
        ({"captions": ["a\0"]}, "line 1: captions: .* holds a NUL character"),
        ({"caption": float("nan")}, "line 1: no caption or captions that is text"),
        ({"caption": {"en": "x"}}, "line 1: no caption or captions that is text"),
        ({"caption": 3, "captions": ["x"]}, "line 1: no caption or captions that is"),
        ({"caption": "x", "Caption": "y"}, "line 1: caption stands twice, 'x' and 'y'"),
        ({"caption": None}, "line 1: no caption or captions that is text"),
    ],
)
def test_captions_that_are_no_text(folder, fields, message):
    with pytest.raises(UserError, match=message):
        read(folder, [{"path": "clips/a.mp4", **fields}])


def test_blank_captions_are_left_out_and_counted(folder, caplog):
    caplog.set_level("INFO")
    rows = [
        {"path": "clips/a.mp4", "captions": ["x", "", "\u3000"], "split": "test"},
        {"path": "clips/b.mp4", "caption": " \n", "split": "test"},
        {"path": "clips/c.mp4", "captions": [], "split": "test"},
        {"path": "clips/c.mp4", "caption": "y", "split": "val"},
        {"path": "clips/c.mp4", "caption": "y", "split": "tset"},
        {"path": "clips/a.mp4", "caption": "", "split": "val"},
        {"path": "clips/a.mp4", "caption": "z", "split": "val"},
    ]
    assert read(folder, rows, split="test") == {"clips/a.mp4": ["x"], "clips/c.mp4": []}
    assert build(folder, "test").left_out == {
        "rows of split 'val'": 3,
        "rows of split 'tset'": 1,
        "blank captions": 2,
        "videos with blank captions alone": 1,
    }
    line = next(text for text in caplog.messages if "left out:" in text)
    assert line.startswith("JsonlDataset test: 2 videos, 1 captions; layout: JSONL, ")
    assert "left out: 3 rows of split 'val', 2 blank captions, 1 rows" in line
    assert read(folder, rows, split="val") == {
        "clips/c.mp4": ["y"],
        "clips/a.mp4": ["z"],
    }
    footage = [{**row, "split": "train"} for row in rows[:2]]
    assert len(read(folder, footage, with_captions=False)) == 2


def test_nothing_left_out_is_said_too(folder, caplog):
    caplog.set_level("INFO")
    read(folder, [{"path": "clips/a.mp4", "caption": "x", "split": "train"}])
    assert "; nothing left out" in caplog.text


def test_missing_files_and_captions_are_in_the_same_line(folder, caplog):
    caplog.set_level("INFO")
    rows = [
        {"path": "clips/a.mp4", "caption": "x", "split": "train"},
        {"path": "clips/z.mp4", "caption": "y", "split": "train"},
        {"path": "clips/b.mp4", "captions": [], "split": "train"},
    ]
    read(folder, rows, video_params={**VIDEO, "loading": "skip"})
    expected = "left out: 1 videos without a caption, 1 videos without a file"
    assert expected in caplog.text


@pytest.mark.parametrize("split", ["train ", "Train", " TRAINING\t"])
def test_the_name_of_a_split_may_have_blanks_and_capitals(folder, split):
    row = {"path": "clips/a.mp4", "caption": "x", "split": split}
    assert read(folder, [row, ROWS[3]]) == {"clips/a.mp4": ["x"]}


def test_wrong_splits_are_listed_briefly(folder):
    rows = [
        {"path": "clips/a.mp4", "caption": "x", "split": f"a\nb{number} {'c' * 99}"}
        for number in range(100)
    ]
    message = error_of(folder, rows)
    assert message.startswith("no row of split 'train'; splits in it: a b0 ccc")
    assert message.endswith(", ...") and len(message) < 600


@pytest.mark.parametrize("split", [1, ["train"], True, {"train": 1}])
def test_a_split_that_is_no_text(folder, split):
    row = {"path": "clips/a.mp4", "caption": "x", "split": split}
    assert error_of(folder, [row]).startswith("line 1: split: ")


def test_a_row_without_a_split_among_others(folder):
    """It would be in training and test."""
    rows = [{"path": "clips/b.mp4", "caption": "x", "split": " "}, *ROWS]
    assert error_of(folder, rows).startswith(
        "line 1: names no split, and other rows do (test, train, val)"
    )
    write_text(folder / "train.jsonl", lines(rows))
    assert set(pairs(build(folder))) == {"clips/a.mp4", "clips/b.mp4"}


@pytest.mark.parametrize(
    "times, message",
    [
        ('"start": 5, "end": 3', "end: 3 is not after start, 5"),
        ('"start": 3, "end": 3', "end: 3 is not after start, 3"),
        ('"end": 0', "end: 0 is not after start, 0"),
        ('"start": NaN', "start: nan is no number of seconds"),
        ('"end": Infinity', "end: inf is no number of seconds"),
        ('"start": 1e400', "start: inf is no number of seconds"),
        ('"start": -0.5', "start: -0.5 is no number of seconds"),
        ('"start": true', "start: True is no number of seconds"),
        ('"start": "nan"', "start: 'nan' is no number of seconds"),
        ('"start": "1_0"', "start: '1_0' is no number of seconds"),
        ('"start": "0:05"', "start: '0:05' is no number of seconds"),
        ('"end": "0,5"', "end: '0,5' is no number of seconds"),
        ('"end": [1]', "end: a list of 1 is no number of seconds"),
        (f'"end": 1{"0" * 400}', "end: a number of more than 60 digits is no number"),
        (f'"end": 1{"0" * 5000}', "holds a number of thousands of digits"),
    ],
    ids=range(15),
)
def test_times_that_are_none(folder, times, message):
    rows = '{"path": "clips/a.mp4", "caption": "x", ' + times + "}"
    assert error_of(folder, rows).startswith(f"line 1: {message}")


def test_times_as_text_and_their_ids(folder):
    times = [(" 0.25 ", ""), (0, 1e-1), (None, 1234567.5), (1234567.25, 1234567.5)]
    rows = [
        {"path": "clips/a.mp4", "caption": "x", "start": start, "end": end}
        for start, end in times
    ]
    assert list(read(folder, rows)) == [
        "clips/a.mp4#0.25-",
        "clips/a.mp4#0-0.1",
        "clips/a.mp4#0-1234567.5",
        "clips/a.mp4#1234567.25-1234567.5",
    ]


@pytest.mark.parametrize(
    "own, expected",
    [(0, "0"), (7, "7"), ("0", "0"), (" a ", "a"), (1.5, "1.5"), (7.0, "7")],
)
def test_own_ids(folder, own, expected):
    row = {"id": own, "path": "clips/a.mp4", "caption": "x"}
    assert read(folder, [row]) == {expected: ["x"]}


@pytest.mark.parametrize("own", [None, "", "  "])
def test_no_id_is_the_path(folder, own):
    row = {"id": own, "path": "clips/a.mp4", "caption": "x"}
    assert read(folder, [row]) == {"clips/a.mp4": ["x"]}


@pytest.mark.parametrize("own", ["[1]", "true", "NaN", "{}", '"\\u0000"', '"\\ud800"'])
def test_ids_that_are_none(folder, own):
    rows = '{"path": "clips/a.mp4", "caption": "x", "id": ' + own + "}"
    assert error_of(folder, rows).startswith("line 1: id: ")


@pytest.mark.parametrize(
    "ids, message",
    [
        (["1", 1], "line 2: id '1' is that of another video too, in .*: line 1;"),
        (["clips/b.mp4", None], "line 2: id 'clips/b.mp4' is that of another video"),
        (["1", "2", "1"], "line 3: id '1' is that of another video too, in .*line 1"),
    ],
)
def test_two_videos_of_one_id(folder, ids, message):
    rows = [
        {"path": f"clips/{name}.mp4", "caption": "x", "id": own}
        for name, own in zip("abc", ids)
    ]
    with pytest.raises(UserError, match=message):
        read(folder, rows)


def test_one_video_of_two_ids(folder):
    rows = [{"path": "clips/a.mp4", "caption": "x", "id": own} for own in "ab"]
    assert error_of(folder, rows).startswith(
        "line 2: id 'b' is given to the video that"
    )
    rows = [
        {"path": "clips/a.mp4", "caption": own, "id": own} for own in ["", "b", "b"]
    ]
    assert read(folder, rows) == {"b": ["b", "b"]}


@pytest.mark.parametrize(
    "path", ["./clips/a.mp4", "clips//a.mp4", "clips/./a.mp4", "{folder}/clips/a.mp4"]
)
@pytest.mark.parametrize("first", [True, False])
def test_one_file_is_one_video(folder, path, first):
    paths = [path.format(folder=folder), "clips/a.mp4"]
    rows = [
        {"path": path, "caption": str(n)}
        for n, path in enumerate(paths[:: 1 if first else -1])
    ]
    assert list(read(folder, rows).values()) == [["0", "1"]]
    whole = [{"start": 0, **rows[0]}, {"start": None, **rows[1]}]
    assert list(read(folder, whole).values()) == [["0", "1"]]


def test_one_file_under_two_names_is_one_video(folder):
    names = ["clips/a", "clips/a.avi", "clips/b.avi", "clips/a.mp4", "clips/b.mp4"]
    write_media(folder / "clips/b.avi", 4)
    rows = [{"path": path, "caption": path} for path in names]
    assert read(folder, rows) == {
        "clips/a": ["clips/a", "clips/a.avi", "clips/a.mp4"],
        "clips/b.avi": ["clips/b.avi"],
        "clips/b.mp4": ["clips/b.mp4"],
    }


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"path": ""}, "the path is empty; write the name of the file, or remove"),
        ({"path": "./"}, "path './' names no file"),
        ({"path": " clips/a.mp4"}, "path ' clips/a.mp4' has blanks around it; remove"),
        ({"path": "clips/a.mp4\u3000"}, r"path 'clips/a.mp4\u3000' has blanks around"),
        ({"path": "clips\\a.mp4"}, r"path 'clips\\a.mp4' has "),
        ({"path": "clips/a\n.mp4"}, r"path 'clips/a\n.mp4' has a line break or tab in"),
        (
            {"path": "clips/\ufeffa.mp4"},
            r"path 'clips/\ufeffa.mp4' has a byte order mark",
        ),
        ({"path": "https://x.org/a.mp4"}, "path 'https://x.org/a.mp4' is a URL"),
        ({"path": "clips/a\0.mp4"}, r"path: 'clips/a\x00.mp4' holds a NUL character"),
        (
            {"path": "clips/\ud800.mp4"},
            r"path: 'clips/\ud800.mp4' holds half a surrogate",
        ),
        ({"path": "a.mp4", "video": "b.mp4"}, "path 'a.mp4' and video 'b.mp4' are two"),
        (
            {"video": "a.mp4", "image": "a.jpg"},
            "video 'a.mp4' and image 'a.jpg' are two",
        ),
        ({"path": 3, "video": "a.mp4"}, "no path or video or image that is text"),
        ({"path": ["a.mp4"]}, "no path or video or image that is text"),
        ({"path": float("nan")}, "no path or video or image that is text"),
        ({"path": None}, "no path or video or image that is text"),
    ],
    ids=range(16),
)
def test_paths_that_are_none(folder, fields, message):
    rows = [{"caption": "x", **fields}]
    assert error_of(folder, rows).startswith(f"line 1: {message}")


def test_unusual_paths_of_existing_files(folder):
    for number, name in enumerate([" a.mp4", "a\\b.mp4", "a\udcff.mp4"]):
        write_media(folder / name, number)
        row = {"path": name, "video": name, "image": "", "caption": "x"}
        assert read(folder, [row]) == {name: ["x"]}


def test_a_large_table_remembers_what_was_left_out(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("data_loader.annotations.table_cache.SMALL", 2)
    write_text(folder / "captions.jsonl", lines([*ROWS, {**ROWS[0], "caption": " "}]))
    cache = str(tmp_path / "cache")
    for _ in range(2):
        dataset = build(folder, cache_dir=cache)
        assert dataset.left_out == {"rows of split 'val'": 1, "rows of split 'test'": 1}
