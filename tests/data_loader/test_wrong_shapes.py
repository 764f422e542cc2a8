"""Annotation files of published data sets in another shape: one line that says what is needed and what is there."""

import json
import pickle

import pytest
import torch

from data_loader.datasets import DATASETS
from data_loader.loader import TextVideoDataLoader
from parse_config import UserError
from scripts.synthetic.miniatures import encode_media, write_media, write_text
from scripts.synthetic.miniatures.pretraining import write_tar
from trainer.evaluator import embed

VIDEO = {"num_frames": 2, "input_res": 16, "loading": "skip"}
TIMES = "0\t1\t0\t1"


def load(name, folder, split="train", **args):
    args = {"data_dir": str(folder), "split": split, "video_params": VIDEO, **args}
    return DATASETS.build({"type": name, "args": args})


def pairs(dataset):
    """{id: captions} of a data set."""
    captions = {name: [] for name in dataset.ids}
    for caption, owner in zip(dataset.captions, dataset.owner.tolist()):
        captions[dataset.ids[owner]].append(caption)
    return captions


def write(folder, files):
    """Files by name: text and bytes as they are, a .pkl as pickle, anything else as JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif name.endswith(".pkl"):
            path.write_bytes(pickle.dumps(content))
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            write_text(path, text)


def refused(name, folder, split="train", **args):
    """The one line that refuses the annotations, without the folder before it."""
    with pytest.raises(UserError) as error:
        load(name, folder, split, check_files=False, **args)
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"{folder}/")
    return message.removeprefix(f"{folder}/")


def short(value):
    """Name of a test's argument, however long that is."""
    return ascii(value)[:30]


OFFICIAL = {
    "videos": [{"video_id": "video0", "split": "train"}],
    "sentences": [{"video_id": "video0", "caption": "x"}],
}


@pytest.mark.parametrize(
    "content, message",
    [
        ([OFFICIAL], "an object {...} is needed, not a list of 1"),
        (OFFICIAL["sentences"], "an object {...} is needed, not a list of 1"),
        ({"sentences": []}, "no 'videos' in it, it is an object with the keys 'sent"),
        ({**OFFICIAL, "videos": {"video0": 1}}, "videos: a list is needed, not an obj"),
        ({**OFFICIAL, "videos": ["video0"]}, "videos[0]: an object {...} is needed,"),
        ({**OFFICIAL, "videos": [{"id": 0}]}, "videos[0]: no 'split' in it, it is an"),
        (
            {**OFFICIAL, "videos": [{"split": "train", "video_id": 0}]},
            "videos[0].video_id: text is needed, not 0",
        ),
        ({**OFFICIAL, "sentences": None}, "sentences: a list is needed, not null"),
        (
            {**OFFICIAL, "sentences": [{"video_id": "video0", "caption": ["x"]}]},
            "sentences[0].caption: text is needed, not a list of 1",
        ),
        ('{"videos": [], "videos": []}', "the key 'videos' stands twice in one object"),
        (None, "an object {...} is needed, not null"),
        ("[" * 100_000, "lists or objects are nested too deeply"),
    ],
    ids=short,
)
def test_msrvtt_official(tmp_path, content, message):
    name = "train_val_videodatainfo.json"
    write(tmp_path, {name: content})
    assert refused("MSRVTT", tmp_path, cut="full").startswith(f"{name}: {message}")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"video0": "x"}, "a list is needed, not an object with the keys 'video0'"),
        ([{"image": "a.jpg", "caption": "x"}], "entry 0: no 'video' in it, it is an"),
        (["video0"], "entry 0: an object {...} is needed, not 'video0'"),
        ([{"video": 0, "caption": "x"}], "entry 0.video: text is needed, not 0"),
        ([{"video": "a.mp4"}], "entry 0.caption: a list is needed, not null"),
        (
            [{"video": "a", "caption": [["x"]]}],
            "entry 0.caption: text is needed, not a",
        ),
        (
            [{"video": "a", "caption": "\ud800"}],
            "entry 0.caption: '\\ud800' holds half",
        ),
    ],
    ids=short,
)
def test_msrvtt_vindlu(tmp_path, content, message):
    name = "msrvtt_ret_train9k.json"
    write(tmp_path, {name: content})
    assert refused("MSRVTT", tmp_path).startswith(f"{name}: {message}")


def test_a_video_in_two_rows_keeps_the_captions_of_both(tmp_path):
    rows = [{"video": "a.mp4", "caption": text} for text in ["x", ["y", ""], "z"]]
    write(tmp_path, {"msrvtt_ret_train9k.json": rows})
    write_media(tmp_path / "a.mp4")
    dataset = load("MSRVTT", tmp_path)
    assert pairs(dataset) == {"a": ["x", "y", "z"]}
    assert dataset.left_out == {"blank captions": 1}


FROZEN = {
    "MSR_VTT.json": {"annotations": [{"image_id": "video0", "caption": "x"}]},
    "structured-symlinks/val_list_jsfusion.txt": "video0\nvideo0\n",
    "structured-symlinks/jsfusion_val_caption_idx.pkl": {"video0": 0},
}


@pytest.mark.parametrize(
    "index, message",
    [
        ([0], "an object {...} is needed, not a list of 1"),
        ({"video0": 1}, "'video0': caption 1 is named, and there are 1, counted from"),
        (
            {"video0": -1},
            "'video0': caption -1 is named, and there are 1, counted from",
        ),
        ({"video0": "0"}, "'video0': a whole number is needed, not '0'"),
        ({"video0": True}, "'video0': a whole number is needed, not True"),
        (b"", "is no pickle of plain data"),
    ],
    ids=short,
)
def test_msrvtt_index(tmp_path, index, message):
    name = "structured-symlinks/jsfusion_val_caption_idx.pkl"
    write(tmp_path, {**FROZEN, name: index})
    assert refused("MSRVTT", tmp_path, "test").startswith(f"{name}: {message}")


def test_a_name_that_is_listed_twice_is_counted(tmp_path):
    write(tmp_path, FROZEN)
    write_media(tmp_path / "video0.mp4")
    dataset = load("MSRVTT", tmp_path, "test")
    assert pairs(dataset) == {"video0": ["x"]}
    assert dataset.left_out == {"names that are listed twice": 1}


@pytest.mark.parametrize(
    "table, message",
    [
        (
            "video_id,sentence\nv0,an owl, a fox",
            "line 2: has 3 cells where 2 are needed",
        ),
        ("video_id,sentence\nv0,x\nv1", "line 3: has 1 cells where 2 are needed"),
        ('video_id,sentence\nv0,x\nv1,"y\nv2,z', "line 3: has a quotation mark that"),
        ("video_id,sentence\nv0,\xff".encode("latin-1"), "line 2: is not UTF-8 text"),
    ],
)
def test_msrvtt_clip4clip(tmp_path, table, message):
    name = "MSRVTT_JSFUSION_test.csv"
    write(tmp_path, {name: table})
    assert refused("MSRVTT", tmp_path, "test").startswith(f"{name}: {message}")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("captions_msvd.json", ["x"], "an object {...} is needed, not a list of 1"),
        ("captions_msvd.json", {"a": "x y"}, "'a': a list is needed, not 'x y'"),
        ("captions_msvd.json", {"a": [3]}, "'a'[0]: a list is needed, not 3"),
        ("captions_msvd.json", {"a": {"x": 1}}, "'a': a list is needed, not an object"),
        ("raw-captions.pkl", [["x"]], "an object {...} is needed, not a list of 1"),
        ("raw-captions.pkl", {"a": "x"}, "'a': a list is needed, not 'x'"),
        ("raw-captions.pkl", {"a": [["x", 3]]}, "'a'[0]: text is needed, not 3"),
        ("raw-captions.pkl", {"a": [None]}, "'a'[0]: a list is needed, not null"),
        ("raw-captions.pkl", None, "an object {...} is needed, not null"),
    ],
    ids=short,
)
def test_msvd(tmp_path, name, content, message):
    write(tmp_path, {name: content, "train_list.txt": "a\n"})
    assert refused("MSVD", tmp_path).startswith(f"{name}: {message}")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"a": []}, "a list is needed, not an object with the keys 'a'"),
        (
            [{"image": "a", "caption": "x"}],
            "entry 0: no 'video' in it, it is an object",
        ),
        ([["a.mp4", "x"]], "entry 0: an object {...} is needed, not a list of 2"),
        ([{"video": "a.mp4"}], "entry 0.caption: a list is needed, not null"),
        ([{"video": "a", "description": 3}], "entry 0.description: a list is needed"),
    ],
    ids=short,
)
@pytest.mark.parametrize("name", ["train_data.json", "didemo_ret_train.json"])
def test_didemo(tmp_path, name, content, message):
    write(tmp_path, {name: content})
    assert refused("DiDeMo", tmp_path).startswith(f"{name}: {message}")


def test_didemo_counts_what_is_not_listed(tmp_path):
    rows = [{"video": f"{name}.mp4", "description": name} for name in "abb"]
    write(tmp_path, {"train_data.json": rows, "train_list.txt": "b.mp4\nb.mov\n"})
    write_media(tmp_path / "b.mp4")
    dataset = load("DiDeMo", tmp_path)
    assert pairs(dataset) == {"b": ["b b"]}
    assert dataset.left_out == {
        "names of videos that are listed twice": 1,
        "videos with descriptions that are not listed": 1,
    }


@pytest.mark.parametrize(
    "table, message",
    [
        (f"a.1\t{TIMES}\tx\nb.1\t0", "line 2 has 2 fields with tabs between them, 6"),
        (f"a.1\t{TIMES}\tx\n \t{TIMES}\ty", "line 2 has 6 fields with tabs between"),
        (f"a.1\t{TIMES}\tx\rb.1".encode(), "line 2 has 1 fields with tabs between"),
        (f"a.1\t{TIMES}\t\xe9".encode("cp1252"), "line 1: is not UTF-8 text; save it"),
    ],
)
def test_lsmdc(tmp_path, table, message):
    name = "LSMDC16_annos_training.csv"
    write(tmp_path, {name: table})
    expected = f"{name}: {message}"
    assert refused("LSMDC", tmp_path).startswith(expected)


LSMDC_FROZEN = {
    "structured-symlinks/train_list.txt": "a_00\n",
    "structured-symlinks/raw-captions.pkl": {"a_00": [["x"]]},
    "frame_tar_list.txt": "films/a/a_00.tar\n",
}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("structured-symlinks/raw-captions.pkl", [1], "an object {...} is needed, not"),
        (
            "structured-symlinks/raw-captions.pkl",
            {"a_00": "x"},
            "'a_00': a list is nee",
        ),
        ("frame_tar_list.txt", "films/a/a_00.tar\nb.tar", "line 2: film/clip.tar is"),
    ],
    ids=short,
)
def test_lsmdc_frozen(tmp_path, name, content, message):
    write(tmp_path, {**LSMDC_FROZEN, name: content})
    assert refused("LSMDC", tmp_path).startswith(f"{name}: {message}")


@pytest.mark.parametrize(
    "files, message",
    [
        (
            {"classInd.txt": "1 A\n2\n"},
            "classInd.txt: line 2: a number and a class are",
        ),
        (
            {"trainlist01.txt": "A/x.avi 1\nx.avi"},
            "trainlist01.txt: line 2: class/file",
        ),
        (
            {"trainlist01.txt": "A/x.avi 1\nB/x.avi 2"},
            "trainlist01.txt: line 2: class/",
        ),
    ],
    ids=short,
)
def test_ucf101(tmp_path, files, message):
    write(tmp_path, {"classInd.txt": "1 A", "trainlist01.txt": "A/x.avi 1", **files})
    assert refused("UCF101", tmp_path).startswith(message)


@pytest.mark.parametrize("line", ["x.avi", "1", "x.avi 3", "x.avi one"])
def test_hmdb51(tmp_path, line):
    name = "splits/eat_test_split1.txt"
    write(tmp_path, {name: f"a.avi 1\n{line} \n"})
    expected = f"{name}: line 2: a file and 0, 1 or 2 are needed, not '{line}'"
    assert refused("HMDB51", tmp_path).startswith(expected)


def test_clips_that_are_listed_twice_are_counted(tmp_path):
    write(tmp_path, {"splits/eat_test_split1.txt": "a.avi 1\na.avi 1\n"})
    write_media(tmp_path / "eat/a.avi")
    dataset = load("HMDB51", tmp_path)
    assert pairs(dataset) == {"eat/a": ["eat"]}
    assert dataset.left_out == {"clips that are listed twice": 1}


# The large tables go on without a bad row, and count it


def test_webvid_rows(tmp_path):
    rows = [
        "videoid,name,page_dir",
        "1,a fox,p",
        "2,a fox, an owl,p",
        "3,an owl",
        '4,"a ""red"" fox,\nan owl",p',
        "5,  ,p",
        "6,,p",
        ",an owl,p",
        '7,"a fox" runs,p',
        "8,NA,p",
    ]
    write(tmp_path, {"results_2M_train.csv": "\n".join(rows)})
    dataset = load("WebVid", tmp_path, check_files=False)
    assert pairs(dataset) == {
        "1": ["a fox"],
        "4": ['a "red" fox,\nan owl'],
        "8": ["NA"],
    }
    assert dataset.left_out == {
        "rows of more or fewer than 3 cells (the first: line 3)": 2,
        "lines of a lone quotation mark (the first: line 10)": 1,
        "rows without videoid, page_dir or caption": 2,
        "videos with blank captions alone": 1,
    }


def test_mcq_rows(tmp_path):
    rows = ["x\tp/1\tn\tv", "y\tp/2", "z\t\tn\tv", 'w "w"\tp/4\tn\tv', "\tp/5\tn\tv"]
    for name, table in (
        ("WebVid", "webvid_training_success_full_noun_verb.tsv"),
        ("ConceptualCaptions3M", "cc3m_training_success_full_noun_verb.tsv"),
    ):
        write(tmp_path, {table: "\n".join(rows)})
        dataset = load(name, tmp_path, check_files=False)
        assert pairs(dataset) == {"p/1": ["x"], "p/4": ['w "w"']}
        assert dataset.left_out == {
            "rows of more or fewer than 4 cells (the first: line 2)": 1,
            "rows without a file": 1,
            "videos with blank captions alone": 1,
        }


def test_cc3m_rows_keep_their_numbers(tmp_path):
    rows = ["x\thttp://a/1", "y", 'a\t"b"\thttp://a/2', "z\t", '"w\thttp://a/3']
    write(tmp_path, {"Train_GCC-training.tsv": "\n".join(rows)})
    write_media(tmp_path / "training/0_1", suffix=".jpg")
    dataset = load("ConceptualCaptions3M", tmp_path, check_files=False)
    assert [name.partition("_")[0] for name in dataset.ids] == ["0", "4"]
    assert list(dataset.captions) == ["x", '"w']
    assert dataset.left_out == {
        "rows of more or fewer than 2 cells (the first: line 2)": 2,
        "rows without a URL": 1,
    }


@pytest.mark.parametrize(
    "name, table",
    [
        ("WebVid", "results_2M_train.csv"),
        ("ConceptualCaptions3M", "Train_GCC-training-success-020321-VALIDIMG.csv"),
    ],
)
def test_large_tables_of_another_encoding(tmp_path, name, table):
    header = "videoid,name,page_dir,thumbnailUrl,caption\n"
    row = "1,caf\u00e9,p,http://a/1,caf\u00e9\n"
    (tmp_path / "training").mkdir()
    write(tmp_path, {table: (header + row).encode("utf-16")})
    assert list(load(name, tmp_path, check_files=False).captions) == ["caf\u00e9"]
    write(tmp_path, {table: (header + row).encode("cp1252")})
    assert refused(name, tmp_path).startswith(f"{table}: line 2: is not UTF-8 text")


def test_a_table_of_which_nothing_is_left_says_why(tmp_path):
    write(tmp_path, {"results_2M_train.csv": "videoid,name,page_dir\n1,,p\n2,,p\n"})
    with pytest.raises(
        UserError, match="no videos in the annotations, left out: 2 rows"
    ):
        load("WebVid", tmp_path)


# Galleries


def test_a_text_file_of_blanks(tmp_path):
    for number, name in enumerate("abc"):
        write_media(tmp_path / f"{name}.mp4", number)
    write(tmp_path, {"a.txt": "x\n", "b.txt": " \n\n"})
    dataset = load("VideoFolder", tmp_path, "test")
    assert pairs(dataset) == {"a": ["x"], "c": []}
    assert dataset.left_out == {"videos with blank captions alone": 1}


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"caption": "\\ud800"}', b'{"caption": "a\\u0000"}'],
    ids=short,
)
def test_metadata_of_a_shard(tmp_path, content):
    files = []
    for number, metadata in enumerate([b'{"caption": "x"}', content]):
        files.append((f"{number}.mp4", encode_media(".mp4", number, 8, 8)))
        files.append((f"{number}.json", metadata))
    write_tar(tmp_path / "train/0.tar", files)
    dataset = load("TarShards", tmp_path)
    assert pairs(dataset) == {"0/0": ["x"]}
    assert "1 faulty" in dataset.layout and "1.json" in dataset.layout


@pytest.mark.parametrize("captions", [[], [" "]])
def test_a_gallery_without_any_caption(tmp_path, captions):
    rows = [{"path": "a.mp4", "captions": captions}, {"path": "b.mp4", "captions": []}]
    write(tmp_path, {"test.json": rows})
    for number, name in enumerate("ab"):
        write_media(tmp_path / f"{name}.mp4", number)
    loader = TextVideoDataLoader(
        "JsonlDataset",
        data_dir=str(tmp_path),
        split="test",
        batch_size=1,
        video_params=VIDEO,
        num_workers=0,
    )
    with pytest.raises(
        UserError, match="JsonlDataset test: none of its . videos has a"
    ):
        embed(torch.nn.Linear(1, 1), loader, "cpu")
