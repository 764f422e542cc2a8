"""Features against a naive loop, on any number of processes, killed anywhere, with broken files and in segments."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data_loader.decode.timestamps import duration, segments
from data_loader.reader import read_clip
from model import load_model
from parse_config import UserError
from scripts import extract
from scripts.retrieval import feature_writer
from scripts.retrieval.clip_dataset import Clips
from scripts.retrieval.features import Features, load_shard, read_lines
from scripts.synthetic import tiny_models
from scripts.synthetic.clip_files import write_clip, x264
from scripts.synthetic.clips import make
from scripts.synthetic.miniatures import write_media
from tests.helpers import tiny_run
from tests.helpers.processes import run

pytestmark = pytest.mark.slow

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.helpers.warm", "tests.scripts.test_extract"])
NAMES = [
    *(f"{number}.mp4" for number in range(4)),
    "below/a.avi",
    "below/b.png",
    "not text \udcff.mp4",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A checkpoint, a folder of clips, two of them broken."""
    home = tmp_path_factory.mktemp("extract")
    for number, name in enumerate(NAMES):
        write_media(home / "clips" / name, number, frames=5 + number)
    for name in ("page.mp4", "empty.mp4"):
        make(name, home / "clips" / "below")
    (home / "clips" / "notes.md").write_text("no clip")
    save(home, "ckpt", seed=1)
    return home


def save(home: Path, name: str, seed: int) -> Path:
    folder = home / "text"
    model = tiny_models.build_miles(
        str(folder) if folder.is_dir() else tiny_models.save_text_model(folder),
        seed=seed,
        time_init="rand",
    )
    video = {
        "num_frames": 4,
        "input_res": 32,
        "norm_mean": [0.5] * 3,
        "norm_std": [0.4] * 3,
        "deadline": 0,
    }
    torch.save(
        {
            "arch": "MILES",
            "state_dict": model.state_dict(),
            "config": {
                "arch": tiny_models.arch_config(str(folder)),
                "data_loader": [{"args": {"video_params": video}}],
            },
        },
        home / f"{name}.pth",
    )
    return home / f"{name}.pth"


def arguments(home: Path, out: Path, *more: str) -> list[str]:
    return [
        "-r",
        str(home / "ckpt.pth"),
        str(home / "clips"),
        str(out),
        "-d",
        "cpu",
        "--shard",
        "2",
        "--batch",
        "3",
        "--workers",
        "0",
        *more,
    ]


def work(given: list[str]) -> bool:
    extract.cli(given)
    return True


def child(given: list[str]):
    torch.set_num_threads(1)
    extract.cli(given)


def content(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(home):
    extract.cli(arguments(home, home / "whole"))
    return home / "whole"


def test_features_are_those_of_the_model_file_by_file(home, whole):
    found, model = Features(whole), load_model(home / "ckpt.pth", "cpu")
    assert [row["id"] for row in found.rows] == sorted(
        NAMES, key=lambda name: (name.count("/"), name)
    )
    assert len(found) == len(NAMES) and found.width == 16
    for row, feature_E in zip(found.rows, found.read_all()):
        assert (
            row["path"] == str(home / "clips" / row["id"])
            and row["start"] is row["end"] is None
        )
        assert torch.equal(
            model.embed_videos([row["path"]])[0], torch.from_numpy(feature_E)
        )


def test_broken_files_are_listed_and_do_not_stop_it(home, whole, tmp_path, capsys):
    bad = read_lines(whole / "bad_files.jsonl")
    assert [(row["id"], row["reason"]) for row in bad] == [
        ("below/empty.mp4", "is empty"),
        ("below/page.mp4", "is a web page, not a video"),
    ]
    manifest = json.loads((whole / "manifest.json").read_text())
    assert (manifest["rows"], manifest["bad"], manifest["complete"]) == (
        len(NAMES),
        2,
        True,
    )
    extract.cli(arguments(home, tmp_path / "out"))
    assert (
        "7 rows of 16 in 5 shards, 2 could not be read (bad_files.jsonl)"
        in capsys.readouterr().out
    )
    make("page.mp4", tmp_path)
    with pytest.raises(SystemExit, match="2"):
        extract.cli(
            [
                "-r",
                str(home / "ckpt.pth"),
                str(tmp_path / "page.mp4"),
                str(tmp_path / "none"),
                "-d",
                "cpu",
            ]
        )
    assert "none of the 1 could be read" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--segments", "0.5"], []])
def test_any_number_of_processes_and_workers_write_the_same_bytes(home, tmp_path, more):
    given = arguments(home, tmp_path / "one", *more)
    extract.cli(given)
    one = content(tmp_path / "one")
    for name, world, workers in (("more", 3 if more else 2, "0"), ("workers", 1, "2")):
        given = arguments(
            home, tmp_path / name, *more, "--workers", workers, "--batch", "1"
        )
        assert (
            run(work, world, tmp_path, (given,)) == [True] * world
            if world > 1
            else work(given)
        )
        assert content(tmp_path / name) == one


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_anywhere_it_goes_on_to_the_same_bytes(home, tmp_path, processes):
    given = {
        name: arguments(home, tmp_path / name, "--segments", "0.25", "--shard", "1")
        for name in ("whole", "cut")
    }
    extract.cli(given["whole"])
    chance, kills = random.Random(0), 0
    while kills < 5:
        goal = len(
            list((tmp_path / "cut" / "shards").glob("*.safetensors"))
        ) + chance.randint(1, 3)
        if not killed(
            given["cut"], tmp_path / "cut", goal, chance.random() * 0.02, processes
        ):
            break
        kills += 1
    work(given["cut"])
    assert kills >= 2 and content(tmp_path / "cut") == content(tmp_path / "whole")


def killed(
    given: list[str], out: Path, goal: int, pause: float, processes: int
) -> bool:
    """kill -9 to every process a moment after there are `goal` shards; False if they ended before."""
    started = [
        CONTEXT.Process(
            target=enter, args=(given, rank, processes, 29500 + os.getpid() % 2000)
        )
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    limit = time.monotonic() + 60
    while (
        len(list((out / "shards").glob("*.safetensors"))) < goal
        and time.monotonic() < limit
        and all(process.is_alive() for process in started)
    ):
        time.sleep(0.001)
    time.sleep(pause)
    alive = [process.is_alive() for process in started]
    for process in started:
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    return any(alive)


def enter(given: list[str], rank: int, processes: int, port: int):
    if processes > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    child(given)


def test_a_write_that_is_cut_leaves_no_shard(home, tmp_path, monkeypatch):
    """The moment between the two files of a shard, and in the middle of the second."""

    def fail(path, features):
        path.with_name(f".{path.name}.part").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(feature_writer, "save_shard", fail)
        with pytest.raises(SystemExit, match="130"):
            extract.cli(arguments(home, tmp_path / "out"))
    assert not list((tmp_path / "out" / "shards").glob("*.safetensors"))
    with pytest.raises(UserError, match="not complete"):
        Features(tmp_path / "out")
    extract.cli(arguments(home, tmp_path / "out"))
    extract.cli(arguments(home, tmp_path / "whole"))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_another_checkpoint_or_option_is_refused(home, tmp_path, capsys):
    given = arguments(home, tmp_path / "out")
    extract.cli(given)
    before = content(tmp_path / "out")
    other = str(save(home, "other", seed=2))
    for changes, said in (
        (["-r", other], "checkpoint_sha256"),
        (["--segments", "1"], "segments None, now it is 1.0"),
        (["--precision", "bf16"], "precision"),
        (["--shard", "3"], "shard_rows 2, now it is 3"),
        (["--files", "npy"], "files 'safetensors'"),
    ):
        with pytest.raises(SystemExit, match="2"):
            extract.cli([*given, *changes])
        error = capsys.readouterr().err
        assert (
            "was begun with" in error and said in error and error.count("error:") == 1
        )
    moved = home / "moved.pth"
    moved.write_bytes((home / "ckpt.pth").read_bytes())
    extract.cli([*given, "-r", str(moved)])  # the same weights elsewhere
    assert content(tmp_path / "out") == before


def test_the_checkpoint_of_a_run_folder_is_that_of_its_file(home, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    shutil.copy(home / "ckpt.pth", run / "model_best.pth")
    shutil.copy(save(home, "later", seed=3), run / "checkpoint-latest.pth")
    given = arguments(home, tmp_path / "out")
    extract.cli([*given, "-r", str(run)])
    before = content(tmp_path / "out")
    extract.cli([*given, "-r", str(run / "model_best.pth")])
    assert content(tmp_path / "out") == before
    (run / "model_best.pth").unlink()
    with pytest.raises(SystemExit, match="2"):
        extract.cli([*given, "-r", str(run)])
    assert "was begun with checkpoint_sha256" in capsys.readouterr().err


def test_what_is_given_wrong_is_said_in_a_line(home, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "empty.txt").write_text("\n\n")
    for changed, said in (
        ((str(home / "nowhere"), str(tmp_path / "a")), "no such folder"),
        (
            (str(home / "clips"), str(tmp_path / "full")),
            "holds other files (letter.txt)",
        ),
        ((str(home / "clips"), str(tmp_path / "a"), "--texts"), "a .txt"),
        (
            (str(tmp_path / "empty.txt"), str(tmp_path / "b"), "--texts"),
            "holds no text",
        ),
        ((str(tmp_path / "full"), str(tmp_path / "c")), "holds no video"),
        (
            (str(home / "clips"), str(tmp_path / "d"), "--segments", "0"),
            "float above 0",
        ),
        (
            (str(home / "x.txt"), str(tmp_path / "e"), "--texts", "--segments", "1"),
            "no seconds",
        ),
    ):
        with pytest.raises(SystemExit, match="2"):
            extract.cli(["-r", str(home / "ckpt.pth"), *changed, "-d", "cpu"])
        assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_a_part_of_a_video_that_cannot_be_read_is_listed_alone(
    home, tmp_path, monkeypatch
):
    """A file whose packets promise more than can be decoded."""
    write_clip(tmp_path / "a.mp4", length=40, rate=10, options=x264())
    rows = [
        {"id": "a", "path": str(tmp_path / "a.mp4"), "start": start, "end": start + 1}
        for start in range(6)
    ]
    read = load_model(home / "ckpt.pth", "cpu").clip_reader
    samples = Clips(rows, read, [], True).__getitems__(list(range(6)))
    assert [sample["video"] is None for sample in samples] == [False] * 4 + [True] * 2
    assert "no frame between 5 and 6 s" in samples[5]["meta"]["failures"][0][1]
    alone = [
        Clips(rows, read, [], True).__getitems__([number])[0]["video"]
        for number in range(4)
    ]
    asked = []
    monkeypatch.setattr(Clips, "_read_clip", lambda self, row: asked.append(row))
    together = Clips(rows, read, [], True).__getitems__([0, 1, 2, 3])
    assert not asked and all(
        torch.equal(one, sample["video"]) for one, sample in zip(alone, together)
    )


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("long.mp4", {"options": x264()}),
        ("long.avi", {"codec": "mpeg4"}),
        ("vfr.mp4", {"times_ms": [100 * i + (i * 7) % 60 for i in range(100)]}),
    ],
)
def test_segments_are_physical_cuts(home, tmp_path, name, how):
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / name, length=100, rate=10, **how)
    extract.cli(
        [
            "-r",
            str(home / "ckpt.pth"),
            str(tmp_path / "clips"),
            str(tmp_path / "out"),
            "-d",
            "cpu",
            "--segments",
            "4",
            "--workers",
            "0",
        ]
    )
    found, model = Features(tmp_path / "out"), load_model(home / "ckpt.pth", "cpu")
    spans = [(row["start"], row["end"]) for row in found.rows]
    assert (
        spans[:2] == [(0, 4), (4, 8)]
        and spans[2][0] == 8
        and spans[2][1] == pytest.approx(10, abs=0.1)
    )
    times = [t / 1000 for t in how.get("times", range(0, 10000, 100))]
    frames_TCHW, _ = read_clip(tmp_path / "clips" / name, range, "sequential")
    for (start, end), feature_E in zip(spans, found.read_all()):
        inside = [i for i, t in enumerate(times) if start <= t < end]
        ends = [round(len(inside) * place / 4) for place in range(5)]
        middle = [inside[(low + high - 1) // 2] for low, high in zip(ends, ends[1:])]
        video_BTCHW = model.clip_reader.transform(frames_TCHW[middle], None)[None]
        assert torch.equal(
            model.encode_video(video_BTCHW)[0][0], torch.from_numpy(feature_E)
        )


def test_the_rest_of_a_video_is_a_segment_or_part_of_one(tmp_path):
    assert segments(0, 10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert segments(0, 8.9, 4) == [(0, 4), (4, 8.9)] and segments(0, 8, 4) == [
        (0, 4),
        (4, 8),
    ]
    assert segments(0, 0.04, 4) == [(0, 0.04)] and segments(3, 9, 4) == [(3, 7), (7, 9)]
    write_clip(tmp_path / "a.mp4", length=50, rate=25)
    assert (
        duration(tmp_path / "a.mp4")
        == duration(tmp_path / "a.mp4", None)
        == pytest.approx(2)
    )
    make("h264.h264", tmp_path)  # without time stamps
    assert duration(tmp_path / "h264.h264") == pytest.approx(1.6)


@pytest.mark.parametrize("files", ["safetensors", "npy"])
def test_texts_of_files_and_of_a_config(home, tmp_path, files):
    strange = [
        "a red dog runs",
        'he said "jump" & left',
        "\U0001f600 cat",
        "the <b>man</b>",
    ]
    (tmp_path / "a.txt").write_text("\n\n".join(strange) + "\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"id": "x", "captions": strange[:2]})
        + "\n"
        + json.dumps({"text": strange[2]})
        + "\n"
        + json.dumps({"caption": strange[3]})
    )
    data = tiny_run.write_data(tmp_path / "data", test=3)
    config = tiny_run.save(
        tmp_path / "c.json",
        {"name": "c", "arch": {}, "data_loader": [tiny_run.loader(data)]},
    )
    model = load_model(home / "ckpt.pth", "cpu")
    for source, ids in (
        (tmp_path / "a.txt", ["1", "3", "5", "7"]),
        (tmp_path / "a.jsonl", ["x", "x", "2", "3"]),
        (config, ["0.png", "1.png", "2.png"]),
    ):
        out = tmp_path / source.name.replace(".", "_")
        extract.cli(
            [
                "-r",
                str(home / "ckpt.pth"),
                str(source),
                str(out),
                "--texts",
                "-d",
                "cpu",
                "--files",
                files,
            ]
        )
        found = Features(out)
        assert [row["id"] for row in found.rows] == ids and found.manifest[
            "kind"
        ] == "text"
        texts = (
            strange
            if source != config
            else [tiny_run.sentence(number) for number in range(3)]
        )
        assert [row["text"] for row in found.rows] == texts
        assert torch.equal(model.encode_text(texts), torch.from_numpy(found.read_all()))
        assert load_shard(next((out / "shards").glob(f"*.{files}"))).dtype == np.float32


def test_a_data_set_of_a_config(home, tmp_path):
    data = tiny_run.write_data(tmp_path / "data", ".mp4", test=3, train=5)
    rows = read_lines(data / "test.jsonl")
    (data / "test.jsonl").write_text(
        "\n".join(
            map(
                json.dumps,
                [
                    *rows,
                    {"path": "0.mp4", "caption": "a cat", "start": 0.2, "end": 0.7},
                    {"path": "gone.mp4", "caption": "a"},
                ],
            )
        )
    )
    content = {
        "name": "c",
        "arch": {},
        "data_loader": [tiny_run.loader(data, frames=4)],
    }
    config = tiny_run.save(tmp_path / "c.json", content)
    given = ["-r", str(home / "ckpt.pth"), str(config), "-d", "cpu", "--workers", "0"]
    extract.cli([*given, str(tmp_path / "out")])
    found, model = Features(tmp_path / "out"), load_model(home / "ckpt.pth", "cpu")
    assert [(row["start"], row["end"]) for row in found.rows] == [(None, None)] * 3 + [
        (0.2, 0.7)
    ]
    from data_loader.decode.clip_reader import ClipReader

    read = ClipReader(
        content["data_loader"][0]["args"]["video_params"]
    )  # the config's, as in test.py
    for row, feature_E in zip(found.rows, found.read_all()):
        video_BTCHW = read.clip(row["path"], row["start"], row["end"])[None]
        assert torch.equal(
            model.encode_video(video_BTCHW)[0][0], torch.from_numpy(feature_E)
        )
    assert [row["id"] for row in read_lines(tmp_path / "out" / "bad_files.jsonl")] == [
        "gone.mp4"
    ]
    extract.cli(
        [*given, str(tmp_path / "train"), "--split", "train"]
    )  # read as at test, whatever the split
    assert len(Features(tmp_path / "train")) == 5
