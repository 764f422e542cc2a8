"""test.py as a user meets it: real clips, a tiny model, one and several processes, mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import test as program
from scripts.synthetic import miniatures, tiny_models

ROOT = Path(__file__).resolve().parent.parent
WORDS = (
    ("red", "blue", "green"),
    ("dog", "cat", "man", "person"),
    ("runs", "jumps", "left", "right"),
)


def captions(video):
    """One or two, all different."""
    made = [
        f"the {WORDS[0][i % 3]} {WORDS[1][i // 3 % 4]} {WORDS[2][i // 5 % 4]}"
        for i in (video, video + 17)
    ]
    return made[: 1 + video % 2]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """11 clips, a checkpoint as train.py writes it, and the config of both."""
    folder = tmp_path_factory.mktemp("home")
    rows = [{"path": f"{i}.mp4", "captions": captions(i)} for i in range(11)]
    for i in range(11):
        miniatures.write_media(folder / "data" / f"{i}.mp4", i)
    for split in ("train", "test"):
        miniatures.write_text(folder / "data" / f"{split}.jsonl", "\n".join(map(json.dumps, rows)))
    arch = tiny_models.arch_config(tiny_models.save_text_model(folder / "text"))
    model = tiny_models.build_miles(str(folder / "text"))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    loader = {
        "type": "TextVideoDataLoader",
        "args": {
            "dataset_name": "JsonlDataset",
            "data_dir": str(folder / "data"),
            "batch_size": 4,
            "num_workers": 0,
            "video_params": {"num_frames": 4, "input_res": 32, "center_crop": 40},
        },
    }
    config = {
        "name": "exam",
        "arch": arch,
        "data_loader": loader,
        "loss": {"type": "NormSoftmaxLoss", "args": {}},
        "metrics": ["t2v_metrics", "v2t_metrics"],
        "trainer": {"save_dir": str(folder / "exps")},
    }
    miniatures.write_text(folder / "config.json", json.dumps(config))
    torch.save(
        {"arch": "MILES", "epoch": 1, "state_dict": model.state_dict(), "config": config},
        folder / "model.pth",
    )
    return folder


def run(home, *more):
    """The results.json of a run in this process."""
    program.cli(
        [
            "-c",
            str(home / "config.json"),
            "-r",
            str(home / "model.pth"),
            "-d",
            "cpu",
            *map(str, more),
        ]
    )
    newest = max((home / "exps").rglob("results.json"), key=lambda path: path.stat().st_mtime_ns)
    return newest.parent, json.loads(newest.read_text())


def numbers(results):
    """What must not depend on how it was computed."""
    other = {"date", "processes", "versions", "git_revision", "metrics_from", "config"}
    return {key: value for key, value in results.items() if key not in other}


@pytest.fixture(scope="module")
def examined(home):
    return run(
        home, "-s", 2, 'evaluation.rows=["dsl","qbnorm"]', "--save-embeddings", "--save-ranks"
    )


def test_results_are_complete_and_documented(home, examined):
    folder, results = examined
    said = (ROOT / "docs/results.md").read_text()
    missing = [key for key in results if f"`{key}`" not in said]
    assert not missing, f"docs/results.md says nothing of {missing}"
    assert results["schema"] == 1 and set(results["rows"]) == {"raw", "tta", "dsl", "qbnorm"}
    assert (results["num_captions"], results["num_videos"], results["protocol"]) == (16, 11, None)
    assert (
        results["checkpoint"]["path"] == str(home / "model.pth")
        and len(results["checkpoint"]["sha256"]) == 64
    )
    assert results["config"]["arch"]["args"]["load_checkpoint"] == str(home / "model.pth")
    assert (
        results["versions"]["packages"]["torch"]
        and results["device"] == "cpu"
        and results["split"] == "test"
    )
    assert len((folder / "ranks.jsonl").read_text().splitlines()) == 16 + 11


def test_numbers_again_from_embeddings(home, examined, capsys):
    folder, results = examined
    program.cli(
        [
            "--metrics-from",
            str(folder / "embeddings"),
            "-o",
            str(home / "again"),
            "--compare",
            "-d",
            "cpu",
        ]
    )
    again = json.loads((home / "again/results.json").read_text())
    assert numbers(again) == numbers(results) and again["config"] == results["config"]
    assert "JsonlDataset test" in capsys.readouterr().out and again["metrics_from"] == str(
        folder / "embeddings"
    )


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_gives_the_same(home, examined, processes):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        "test.py",
        "-c",
        str(home / "config.json"),
        "-r",
        str(home / "model.pth"),
        "-d",
        "cpu",
        "-s",
        "2",
        'evaluation.rows=["dsl","qbnorm"]',
        "-o",
        str(home / f"of_{processes}"),
        "--save-embeddings",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("written:") == 1
    results = json.loads((home / f"of_{processes}/results.json").read_text())
    assert results["processes"] == processes and numbers(results) == numbers(examined[1])


def test_five_lines_give_the_evaluators_embeddings(home, examined):
    from trainer.evaluation.results import load_embeddings

    found, _ = load_embeddings(examined[0] / "embeddings")
    model = program.load(home / "model.pth")
    videos = model.embed_videos([str(home / "data" / f"{i}.mp4") for i in range(11)])
    texts = model.encode_text(list(found.captions))
    assert torch.equal(videos, found.video_VE) and torch.equal(texts, found.text_CE), "bit for bit"
    assert not videos.requires_grad and model.embed_videos(str(home / "data/3.mp4")).equal(
        videos[3:4]
    )
    model.save_pretrained(home / "exported")
    again = program.load(home / "exported")
    assert torch.equal(
        again.encode_text(["the red dog runs"]), model.encode_text(["the red dog runs"])
    )
    assert again.embed_videos([home / "data/0.mp4"]).shape == (1, 16)


def test_each_run_has_its_own_folder_and_none_is_written_over(home, examined):
    first, _ = examined
    before = (first / "results.json").read_bytes()
    second, _ = run(home)
    assert second != first and (first / "results.json").read_bytes() == before
    assert not (second / "embeddings").exists()
    stops(home, ["-o", str(first)], "stays as it is")


def test_every_loader_is_examined(home):
    block = json.loads((home / "config.json").read_text())["data_loader"]
    both = json.dumps([block, {**block, "args": {**block["args"], "dataset_name": "VideoFolder"}}])
    for i in range(11):
        miniatures.write_text(home / "data" / f"{i}.txt", captions(i)[0])
    run(home, "-o", home / "exps/exam/both", f'evaluation={{"data_loader": {both}}}')
    assert {path.parent.name for path in (home / "exps/exam/both").rglob("results.json")} == {
        "JsonlDataset_test",
        "VideoFolder_test",
    }


def test_recognition_of_ucf101(home, tmp_path, capsys):
    args, _ = miniatures.build("UCF101", tmp_path / "ucf")
    more = [
        f"data_loader.args.{key}={value}"
        for key, value in {**args, "dataset_name": "UCF101"}.items()
    ]
    _, results = run(home, "-s", 4, 'evaluation.prompts=["a {}", "the {}"]', *more)
    assert results["recognition"]["classes"] == results["num_captions"] and "t2v" not in results
    assert results["recognition"]["top5"] >= results["recognition"]["top1"]
    assert "top-1" in capsys.readouterr().out and results["protocol"].startswith("ucf101")


def test_missing_files_are_stamped(home):
    rows = [
        {"path": name, "caption": f"a {name} dog"}
        for name in ("0.mp4", "gone.mp4", "torn.mp4", "1.mp4")
    ]
    miniatures.write_text(home / "data/part.jsonl", "\n".join(map(json.dumps, rows)))
    (home / "data/torn.mp4").write_bytes(b"no film")
    stops(home, ["data_loader.args.cut=part"], "gone.mp4")
    _, results = run(
        home, "data_loader.args.cut=part", "data_loader.args.video_params.loading=skip"
    )
    assert results["stamp"].startswith("2 of 4 videos, 2 of 4 captions")
    assert len(results["coverage"]["missing"]) == 2


def stops(home, arguments, words, checkpoint=True):
    """Exit status 2 and one line that holds `words`."""
    start = ["-c", str(home / "config.json"), "-d", "cpu"] + (
        ["-r", str(home / "model.pth")] if checkpoint else []
    )
    held, sys.stderr = sys.stderr, _Lines()
    try:
        with pytest.raises(SystemExit) as end:
            program.cli([*start, *arguments])
        said = "".join(sys.stderr.parts)
    finally:
        sys.stderr = held
    assert end.value.code == 2
    last = said.strip().splitlines()[-1]
    assert words in last and last.startswith("error: ") and "Traceback" not in said, said


class _Lines:
    def __init__(self):
        self.parts = []

    def write(self, text):
        self.parts.append(text)

    def flush(self):
        pass


@pytest.mark.parametrize(
    "arguments, words, checkpoint",
    [
        ([], "add -r CHECKPOINT", False),
        (["--pretrained-only"], "leave one out", True),
        (["-r", "nowhere.pth"], "nowhere.pth", False),
        (["data_loader.args.dataset_name=JsonlDataSet"], "JsonlDataset", True),
        (["evaluation.row=1"], "nearest: rows", True),
        (['evaluation.rows=["dls"]'], "nearest: dsl", True),
        (['metrics=["t2v_metric"]'], "nearest: t2v_metrics", True),
        (["data_loader.args.data_dir=/nowhere"], "/nowhere", True),
        (["-d", "cuda:99"], "99", True),
    ],
)
def test_mistakes_cost_one_line(home, arguments, words, checkpoint):
    stops(home, arguments, words, checkpoint)


def test_metrics_from_a_folder_that_is_none(home, capsys):
    with pytest.raises(SystemExit) as end:
        program.cli(["--metrics-from", str(home)])
    assert end.value.code == 2 and "embeddings.safetensors" in capsys.readouterr().err


def test_pretrained_only_is_had_when_asked_for(home):
    program.cli(
        [
            "-c",
            str(home / "config.json"),
            "-d",
            "cpu",
            "--pretrained-only",
            "-o",
            str(home / "only"),
        ]
    )
    assert json.loads((home / "only/results.json").read_text())["checkpoint"] is None
