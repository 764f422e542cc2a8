"""scripts/check_data.py says what is missing and broken, counts captions, and draws what the model will see."""

import contextlib
import io
import json
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_loader.decode import process
from data_loader.readers.source import Source
from parse_config import Config
from scripts import check_data
from scripts.data_check.media import compare_with_container
from scripts.data_check.sheet import NO_GLYPH, drawable
from scripts.data_check.text import count_tokens, is_blank, open_text_model
from scripts.synthetic.clip_files import audio, write_excerpt
from scripts.synthetic.clips import VIDEOS, make, write_clip, x264
from scripts.synthetic.tiny_models import save_text_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DAMAGED = {
    "h264-truncated.mp4": (24, 40),
    "h264-cut.ts": (16, 27),
    "h264-hole.mp4": (32, 40),
    "mpeg4-truncated.avi": (20, 40),
}


def command(*arguments):
    """(exit status, standard output, standard error) of the command in this process."""
    output, errors = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            check_data.main([*map(str, arguments)])
        except SystemExit as end:
            status = end.code
    return status, output.getvalue(), errors.getvalue()


def refused(*arguments):
    """The one line with which the command ends."""
    status, output, errors = command(*arguments)
    assert status == 2, output
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1, errors
    return errors


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def loader(folder, **args):
    return {
        "type": "TextVideoDataLoader",
        "args": {
            "dataset_name": "JsonlDataset",
            "data_dir": str(folder),
            "video_params": {"input_res": 32, "deadline": 0},
            **args,
        },
    }


def write_config(folder, *, text_model="no/such/model", valid=None, **args):
    content = {
        "arch": {
            "type": "MILES",
            "args": {"text_params": {"model": str(text_model)}},
        },
        "data_loader": loader(folder, **args),
        "valid_loader": valid,
    }
    (folder / "config.json").write_text(json.dumps(content))
    return folder / "config.json"


def write_clips(folder, *names):
    for name in names:
        write_clip(folder / name, length=5, size=(64, 48))


def check(folder, names, *arguments, captions=None, **args):
    """The command on a training split of these files."""
    captions = captions or [f"a box {i}" for i in range(len(names))]
    rows = [
        {"path": name, "caption": caption}
        for name, caption in zip(names, captions, strict=True)
    ]
    if args.get("with_captions") is False:
        rows = [{"path": name} for name in names]
    write_rows(folder / "train.jsonl", rows)
    config = write_config(folder, **args)
    return command("-c", config, "--decode", "all", *arguments)


def test_what_is_missing_and_broken_is_named(tmp_path):
    names = ["a.mp4", "b.mp4", "c.mp4"]
    write_clips(tmp_path, *names)
    sheet = tmp_path / "sheet.png"
    status, output, errors = check(
        tmp_path, names, "--sheet", sheet, captions=["a box grows", "a box", "a box"]
    )
    assert status == 0, output + errors
    assert "videos      3 of 3 expected, 0 missing" in output
    assert "captions    3, 1 to 1 a video, 1 texts stand more than once (2" in output
    assert "cut short   0 files" in output
    assert "annotations nothing left out" in output
    assert f"contact sheet: {sheet}\n" in output
    picture = np.asarray(Image.open(sheet).convert("RGB"))
    assert picture.std() > 20, "an empty sheet"

    (tmp_path / "b.mp4").write_bytes(b"nothing")
    status, output, _ = check(tmp_path, [*names, "gone.mp4"])
    assert status == 1
    assert "3 of 4 expected, 1 missing" in output
    assert "missing: gone.mp4" in output
    assert "decoded     2 of 3 tried" in output
    assert f"broken: {tmp_path / 'b.mp4'}: is no video" in output


def test_a_name_with_control_characters_is_one_line(tmp_path):
    write_clips(tmp_path, "a.mp4")
    status, output, errors = check(tmp_path, ["a.mp4", "b\x1b[2J.mp4"])
    assert status == 2 and output == ""
    assert len(errors.splitlines()) == 1 and "\x1b" not in errors


def test_missing_names_of_other_alphabets_are_listed(tmp_path):
    write_clips(tmp_path, "a.mp4")
    _, output, _ = check(tmp_path, ["a.mp4", "\u00fc.mp4"])
    assert "missing: \u00fc.mp4\n" in output


def test_every_file_is_looked_for_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr("data_loader.base.MAX_CHECKED", 2)
    write_clips(tmp_path, "a.mp4")
    names = ["a.mp4", "1.mp4", "2.mp4", "3.mp4", "4.mp4"]
    status, output, _ = check(tmp_path, names)
    assert status == 1
    assert "videos      1 of 5 expected, 4 missing" in output


def test_footage_without_captions_is_drawn_without(tmp_path):
    write_clips(tmp_path, "a.mp4", "b.mp4")
    sheet = tmp_path / "sheet.png"
    status, output, errors = check(
        tmp_path, ["a.mp4", "b.mp4"], "--sheet", sheet, with_captions=False
    )
    assert status == 0, output + errors
    assert "2 of 2" in output
    assert "captions    not used (with_captions false)" in output
    assert np.asarray(Image.open(sheet).convert("RGB")).std() > 20, "an empty sheet"


def test_no_sheet_is_written_unasked(tmp_path, monkeypatch):
    write_clips(tmp_path, "a.mp4")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    status, output, _ = check(tmp_path, ["a.mp4"])
    assert status == 0
    assert "contact sheet" not in output
    assert list((tmp_path / "here").iterdir()) == []


CAPTIONS = [
    "costs $5 and $ 6_a^b$ more",
    "\\frac{1}{0} ${$ \\",
    "\u4e00\u53ea\u72d7 a dog \U0001f436",
    "tab\tand\nline\x07",
    "lone \ud800 surrogate",
    "word " * 200,
]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_any_caption_can_be_drawn(caption, tmp_path):
    write_clips(tmp_path, "a.mp4")
    sheet = tmp_path / "sheet.png"
    # escaped in the file: what no UTF-8 can hold reaches the sheet too
    rows = [json.dumps({"path": "a.mp4", "caption": caption})]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    config = write_config(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status, output, errors = command("-c", config, "--sheet", sheet)
    if "surrogate" in caption and status == 2:
        assert len(errors.splitlines()) == 1  # refused where the table is made
        return
    assert status == 0, errors
    assert np.asarray(Image.open(sheet).convert("RGB")).std() > 20


def test_what_the_font_lacks_is_a_box_and_is_said(tmp_path):
    assert drawable("a\u4e00b\U0001f436", 9) == f"a{NO_GLYPH}b{NO_GLYPH}"
    assert drawable("costs $5\n\tthen", 99) == "costs $5 then"
    assert drawable("0123456789", 8) == "01234..."
    write_clips(tmp_path, "a.mp4")
    arguments = ["--sheet", tmp_path / "s.png"]
    _, output, _ = check(tmp_path, ["a.mp4"], *arguments, captions=["\u4e00\u53ea"])
    assert "2 characters that its font lacks are drawn as boxes" in output


@pytest.mark.parametrize("count", ["-1", "1.5", "many", "", "1e3", "\u0663"])
def test_a_number_of_files_that_is_none_is_refused(count, tmp_path):
    write_clips(tmp_path, "a.mp4")
    write_rows(tmp_path / "train.jsonl", [{"path": "a.mp4", "caption": "c"}])
    line = refused("-c", write_config(tmp_path), f"--decode={count}")
    assert f"--decode: {count!r} is given; a number of files, 0 or more, or" in line


def test_zero_files_and_more_files_than_there_are(tmp_path):
    write_clips(tmp_path, "a.mp4", "b.mp4")
    sheet = tmp_path / "sheet.png"
    _, output, _ = check(
        tmp_path, ["a.mp4", "b.mp4"], "--decode", "0", "--sheet", sheet
    )
    assert "decoded     0 of 0 tried" in output
    assert sheet.is_file()
    _, output, _ = check(tmp_path, ["a.mp4", "b.mp4"], "--decode", "99")
    assert "decoded     2 of 2 tried" in output


def test_with_all_files_broken_it_says_what_to_do(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text("<html>404</html>")
    sheet = tmp_path / "sheet.png"
    for decode in ("all", "0"):
        status, output, errors = check(
            tmp_path, ["a.mp4", "b.mp4"], "--decode", decode, "--sheet", sheet
        )
        assert "check_data" not in output + errors
        assert "contact sheet: not written, no clip can be read" in output
        assert not sheet.exists()
        assert ("none can be read: fetch them again" in output) == (decode == "all")
        assert status == int(decode == "all")


def test_a_sheet_that_cannot_be_written_is_said_before_anything_is_decoded(tmp_path):
    write_clips(tmp_path, "a.mp4")
    write_rows(tmp_path / "train.jsonl", [{"path": "a.mp4", "caption": "c"}])
    config = write_config(tmp_path)
    assert "name it with .png" in refused("-c", config, "--sheet", tmp_path / "a.xyz")
    nowhere = tmp_path / "nowhere/sheet.png"
    assert "no such folder; make it" in refused("-c", config, "--sheet", nowhere)
    (tmp_path / "folder.png").mkdir()
    folder = tmp_path / "folder.png"
    assert "cannot be written" in command("-c", config, "--sheet", folder)[2]


@pytest.mark.parametrize("name", sorted(VIDEOS))
def test_only_what_was_cut_is_cut_short(name, tmp_path):
    path, decoded, promised = compare_with_container(make(name, tmp_path), 0)
    assert path == str(tmp_path / name)
    assert (decoded, promised) == DAMAGED.get(name, (decoded, decoded))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", {"options": x264()}),
        ("sound.mkv", {"options": x264(), "add_stream": audio}),
        ("a.webm", {"codec": "libvpx-vp9", "options": {"g": "12"}}),
        ("a.avi", {"codec": "mpeg4"}),
        (
            "hevc.mp4",
            {
                "codec": "libx265",
                "options": {"x265-params": "log-level=none"},
                "container_options": {"movflags": "faststart"},
            },
        ),
    ],
)
def test_a_download_that_stopped_is_cut_short(name, options, tmp_path):
    write_excerpt(tmp_path / name, end=1, **options)
    assert compare_with_container(str(tmp_path / name), 0)[1:] == (40, 40)
    write_excerpt(tmp_path / name, end=0.6, **options)
    _, decoded, promised = compare_with_container(str(tmp_path / name), 0)
    assert 0 < decoded < 30
    assert promised == 40


def test_cut_short_files_are_counted_once_each_and_named(tmp_path):
    make("mpeg4-truncated.avi", tmp_path)
    write_clips(tmp_path, "a.mp4")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "b.png")
    rows = [
        {"path": "mpeg4-truncated.avi", "caption": "c", "start": 0, "end": 0.2},
        {"path": "mpeg4-truncated.avi", "caption": "c", "start": 0.2, "end": 0.4},
        {"path": "a.mp4", "caption": "c"},
        {"path": "b.png", "caption": "c"},
    ]
    write_rows(tmp_path / "train.jsonl", rows)
    status, output, _ = command("-c", write_config(tmp_path))
    assert status == 0
    assert "cut short   1 files hold fewer frames than their container" in output
    cut = tmp_path / "mpeg4-truncated.avi"
    assert f"cut short: {cut}: 20 of 40 frames" in output


def test_a_file_too_long_to_be_counted_is_not_called_broken(tmp_path, monkeypatch):
    write_clips(tmp_path, "a.mp4")

    def too_long(path, deadline):
        raise TimeoutError

    monkeypatch.setattr("scripts.data_check.media.count_frames", too_long)
    status, output, _ = check(tmp_path, ["a.mp4"])
    assert status == 0
    assert "1 not counted" in output


def test_blank_and_duplicate_captions_are_counted(tmp_path):
    names = [f"{number}.mp4" for number in range(5)]
    write_clips(tmp_path, *names)
    captions = ["a dog", "a dog", " \t", "\u200b\ufeff", "a cat"]
    status, output, _ = check(tmp_path, names, "--decode", "1", captions=captions)
    assert status == 0
    assert "1 texts stand more than once (2 captions)" in output
    assert "blank" in output
    assert [is_blank(text) for text in ("", "\u00a0\u200d", ".", "\u4e00")] == [
        True,
        True,
        False,
        False,
    ]


def test_words_that_the_tokenizer_does_not_know_and_long_captions(tmp_path):
    write_clips(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text_model = save_text_model(tmp_path / "text")  # 32 tokens
    captions = ["a red dog runs", "the zebra and the zebra", "dog " * 31]
    status, output, _ = check(
        tmp_path,
        ["a.mp4", "b.mp4", "c.mp4"],
        captions=captions,
        text_model=text_model,
    )
    assert status == 0
    assert "7.50% of the words are unknown to the tokenizer (3 of 40)" in output
    assert ": 'zebra', 'and'\n" in output
    assert "1 captions have more than 32 tokens and are cut" in output

    arch = {"args": {"text_params": {"model": text_model, "max_length": 5}}}
    report = count_tokens(captions, open_text_model(Config({"arch": arch})))
    assert (report.max_length, report.too_long) == (5, 3)
    assert (report.words, report.unknown, report.captions) == (40, 3, 3)


def test_a_text_model_that_is_not_here_is_one_line(tmp_path):
    write_clips(tmp_path, "a.mp4")
    status, output, _ = check(tmp_path, ["a.mp4"])
    assert status == 0
    (line,) = [line for line in output.splitlines() if line.startswith("  tokens")]
    assert "not counted: arch.args.text_params.model: 'no/such/model'" in line


def test_what_splits_have_in_common_is_said(tmp_path, caplog):
    write_clips(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    splits = {
        "train": [("a.mp4", "one"), ("b.mp4", "two"), ("c.mp4", "three")],
        "val": [("b", "four"), ("./a.mp4", "one"), ("gone.mp4", "five")],
        "test": [("c.mp4", "six")],
    }
    for split, rows in splits.items():
        write_rows(
            tmp_path / f"{split}.jsonl",
            [{"path": path, "caption": caption} for path, caption in rows],
        )
    config = write_config(tmp_path, valid=loader(tmp_path, split="val"))
    with caplog.at_level(logging.WARNING):
        _, output, _ = command("-c", config)
    assert (
        "overlap of JsonlDataset train and JsonlDataset val: 2 files, 1 caption texts\n"
        in output
    )
    assert (
        "overlap of JsonlDataset train and JsonlDataset test: 1 files, 0 caption texts\n"
        f"              in both: {tmp_path / 'c.mp4'}\n" in output
    )
    assert (
        "overlap of JsonlDataset val and JsonlDataset test: 0 files, 0 caption texts\n"
        in output
    )
    (tmp_path / "val.jsonl").unlink()
    assert output.count("overlap of") == 3


def test_one_list_for_all_splits_is_no_overlap(tmp_path):
    write_clips(tmp_path, "a.mp4", "b.mp4")
    rows = [{"path": name, "caption": name} for name in ("a.mp4", "b.mp4")]
    write_rows(tmp_path / "captions.jsonl", rows)
    _, output, _ = command("-c", write_config(tmp_path))
    assert "overlap" not in output


def test_every_stage_is_checked(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_clips(tmp_path / name, f"{name}.mp4")
        rows = [{"path": f"{name}.mp4", "caption": name}, {"path": "x", "caption": "c"}]
        write_rows(tmp_path / name / "train.jsonl", rows)
    content = {
        "stages": [
            {"data_loader": [loader(tmp_path / "one"), loader(tmp_path / "two")]},
            {"data_loader": loader(tmp_path / "two")},
        ]
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    status, output, _ = command("-c", tmp_path / "config.json")
    assert status == 1
    assert output.count("1 of 2 expected") == 2
    (tmp_path / "empty.json").write_text("{}")
    line = refused("-c", tmp_path / "empty.json")
    assert "data_loader: is missing: the config names no data to check" in line


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("demo.json", "python scripts/make_demo_data.py --out {folder}"),
        ("ablation.json", "python scripts/ablation.py makes it"),
        ("finetune_msrvtt.json", "data_loader.args.data_dir=FOLDER says where"),
        ("zero_lsmdc.json", "data_loader.args.data_dir=FOLDER says where"),
        ("pretrain_curriculum.json", "data_loader.args.data_dir=FOLDER says where"),
    ],
)
def test_absent_data_is_one_line_with_the_remedy(
    config, message, tmp_path, monkeypatch
):
    folder = tmp_path / "nowhere"
    for name in ("DEMO", "ABLATION", "MSRVTT", "LSMDC", "CC3M", "WEBVID"):
        monkeypatch.setenv(f"{name}_DIR", str(folder))
    line = refused("-c", ROOT / "configs" / config)
    assert message.format(folder=folder) in line
    assert str(folder) in line


def test_a_folder_without_any_of_its_videos_is_one_line(tmp_path):
    rows = [{"path": f"{number}.mp4", "caption": "c"} for number in range(3)]
    write_rows(tmp_path / "train.jsonl", rows)
    line = refused("-c", write_config(tmp_path))
    assert "3 of 3 videos are not in" in line
    assert "data_loader.args.data_dir=FOLDER says where it lies" in line


def test_a_decoder_that_hangs_is_broken(tmp_path, monkeypatch):
    write_clips(tmp_path, "a.mp4", "b.mp4")
    real = Source.packets

    def hang(self):
        if self.path.endswith("a.mp4"):
            time.sleep(30)
        yield from real(self)

    monkeypatch.setattr(Source, "packets", hang)
    monkeypatch.setattr(process, "_idle_child", None)  # a new one, which hangs
    video_params = {"input_res": 32, "deadline": 0.4}
    status, output, _ = check(tmp_path, ["a.mp4", "b.mp4"], video_params=video_params)
    assert status == 1
    assert "a.mp4: the decoder did not return within " in output
    assert "decoded     1 of 2 tried" in output
