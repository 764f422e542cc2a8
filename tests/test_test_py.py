"""test.py as a user starts it: real clips, a tiny model, one and several processes, errors in one line."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import test as program
from scripts.synthetic import miniatures, tiny_models
from trainer.evaluation.results import load_embeddings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
WORDS = (
    ("red", "blue", "green"),
    ("dog", "cat", "man", "person"),
    ("runs", "jumps", "left", "right"),
)


def captions(video):
    """One caption of an even video, two of an odd one; all different."""
    colours, nouns, verbs = WORDS
    sentences = [
        f"the {colours[i % 3]} {nouns[i // 3 % 4]} {verbs[i // 5 % 4]}"
        for i in (video, video + 17)
    ]
    return sentences[: 1 + video % 2]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """11 clips, a checkpoint as train.py writes it, and the config of both."""
    folder = tmp_path_factory.mktemp("home")
    rows = [{"path": f"{i}.mp4", "captions": captions(i)} for i in range(11)]
    for i in range(11):
        miniatures.write_media(folder / "data" / f"{i}.mp4", i)
    for split in ("train", "test"):
        miniatures.write_text(
            folder / "data" / f"{split}.jsonl", "\n".join(map(json.dumps, rows))
        )
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
        "name": "evaluation",
        "arch": arch,
        "data_loader": loader,
        "loss": {"type": "NormSoftmaxLoss", "args": {}},
        "metrics": ["t2v_metrics", "v2t_metrics"],
        "trainer": {"save_dir": str(folder / "exps")},
    }
    miniatures.write_text(folder / "config.json", json.dumps(config))
    torch.save(
        {
            "arch": "MILES",
            "epoch": 1,
            "state_dict": model.state_dict(),
            "config": config,
        },
        folder / "model.pth",
    )
    return folder


def run(home, *arguments):
    """Folder and results.json of a run in this process."""
    argv = [
        "-c",
        home / "config.json",
        "-r",
        home / "model.pth",
        "-d",
        "cpu",
        *arguments,
    ]
    program.cli([str(argument) for argument in argv])
    newest = max(
        (home / "exps").rglob("results.json"), key=lambda path: path.stat().st_mtime_ns
    )
    return newest.parent, json.loads(newest.read_text())


def numbers(results):
    """What must not depend on how it was computed."""
    circumstances = {
        "date",
        "processes",
        "versions",
        "git_revision",
        "metrics_from",
        "config",
    }
    return {key: value for key, value in results.items() if key not in circumstances}


@pytest.fixture(scope="module")
def evaluated(home):
    return run(
        home,
        "-s",
        2,
        'evaluation.rows=["dsl","qbnorm"]',
        "--save-embeddings",
        "--save-ranks",
    )


def test_results_are_complete_and_documented(home, evaluated):
    folder, results = evaluated
    documentation = (ROOT / "docs/results.md").read_text()
    missing = [key for key in results if f"`{key}`" not in documentation]
    assert not missing, f"docs/results.md says nothing of {missing}"
    assert results["schema"] == 1 and set(results["rows"]) == {
        "raw",
        "tta",
        "dsl",
        "qbnorm",
    }
    assert (results["num_captions"], results["num_videos"], results["protocol"]) == (
        16,
        11,
        None,
    )
    assert results["checkpoint"]["path"] == str(home / "model.pth")
    assert len(results["checkpoint"]["sha256"]) == 64
    assert results["config"]["arch"]["args"]["load_checkpoint"] == str(
        home / "model.pth"
    )
    assert results["versions"]["packages"]["torch"]
    assert (results["device"], results["split"]) == ("cpu", "test")
    assert len((folder / "ranks.jsonl").read_text().splitlines()) == 16 + 11


def test_saved_embeddings_give_the_same_numbers(home, evaluated, capsys):
    folder, results = evaluated
    embeddings, output = str(folder / "embeddings"), str(home / "from_embeddings")
    program.cli(["--metrics-from", embeddings, "-o", output, "--compare", "-d", "cpu"])
    rescored = json.loads((home / "from_embeddings/results.json").read_text())
    assert numbers(rescored) == numbers(results)
    assert rescored["config"] == results["config"]
    assert rescored["metrics_from"] == embeddings
    assert "JsonlDataset test" in capsys.readouterr().out


def test_print_config_prints_what_would_be_evaluated(home, capsys):
    program.cli(
        [
            "-c",
            str(home / "config.json"),
            "-r",
            "absent.pth",
            "-s",
            "3",
            "--print-config",
        ]
        + ["trainer.seed=5"]
    )
    printed = json.loads(capsys.readouterr().out)
    config = json.loads((home / "config.json").read_text())
    config["arch"]["args"]["load_checkpoint"] = "absent.pth"
    config["evaluation"] = {"stride": 3}
    config["trainer"]["seed"] = 5
    assert printed == config


def test_list_prints_every_registered_name_without_a_config(capsys):
    with pytest.raises(SystemExit) as end:
        program.cli(["--list"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in (
        "MILES",
        "MSRVTT",
        "TextVideoDataLoader",
        "t2v_metrics",
        "qbnorm",
        "sequential",
    ):
        assert f"  {name} " in text


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_gives_the_same(home, evaluated, processes):
    output = home / f"of_{processes}"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher.append(f"--nproc_per_node={processes}")
    command = [
        "test.py",
        "-c",
        str(home / "config.json"),
        "-r",
        str(home / "model.pth"),
    ]
    command += ["-d", "cpu", "-s", "2", 'evaluation.rows=["dsl","qbnorm"]']
    command += ["-o", str(output), "--save-embeddings"]
    finished = subprocess.run(
        [*launcher, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("written:") == 1
    results = json.loads((output / "results.json").read_text())
    assert results["processes"] == processes
    assert numbers(results) == numbers(evaluated[1])


def test_a_loaded_model_gives_the_evaluations_embeddings(home, evaluated):
    embeddings, _ = load_embeddings(evaluated[0] / "embeddings")
    model = program.load(home / "model.pth")
    video_VE = model.embed_videos([str(home / "data" / f"{i}.mp4") for i in range(11)])
    text_CE = model.encode_text(list(embeddings.captions))
    assert torch.equal(video_VE, embeddings.video_VE)
    assert torch.equal(text_CE, embeddings.text_CE)
    assert not video_VE.requires_grad
    assert torch.equal(model.embed_videos(str(home / "data/3.mp4")), video_VE[3:4])
    model.save_pretrained(home / "exported")
    exported = program.load(home / "exported")
    caption = ["the red dog runs"]
    assert torch.equal(exported.encode_text(caption), model.encode_text(caption))
    assert exported.embed_videos([home / "data/0.mp4"]).shape == (1, 16)


def test_each_run_has_its_own_folder_and_none_is_written_over(home, evaluated):
    first, _ = evaluated
    before = (first / "results.json").read_bytes()
    second, _ = run(home)
    assert second != first
    assert (first / "results.json").read_bytes() == before
    assert not (second / "embeddings").exists()
    stops(home, ["-o", str(first)], "stays as it is")


def test_every_data_set_is_evaluated(home):
    block = json.loads((home / "config.json").read_text())["data_loader"]
    both = json.dumps(
        [block, {**block, "args": {**block["args"], "dataset_name": "VideoFolder"}}]
    )
    for i in range(11):
        miniatures.write_text(home / "data" / f"{i}.txt", captions(i)[0])
    run(
        home,
        "-o",
        home / "exps/evaluation/both",
        f'evaluation={{"data_loader": {both}}}',
    )
    assert {
        path.parent.name
        for path in (home / "exps/evaluation/both").rglob("results.json")
    } == {
        "JsonlDataset_test",
        "VideoFolder_test",
    }


def test_recognition_of_ucf101(home, tmp_path, capsys):
    args, _ = miniatures.build("UCF101", tmp_path / "ucf")
    args["dataset_name"] = "UCF101"
    settings = [f"data_loader.args.{key}={value}" for key, value in args.items()]
    _, results = run(home, "-s", 4, 'evaluation.prompts=["a {}", "the {}"]', *settings)
    assert (
        results["recognition"]["classes"] == results["num_captions"]
        and "t2v" not in results
    )
    assert results["recognition"]["top5"] >= results["recognition"]["top1"]
    assert "top-1" in capsys.readouterr().out and results["protocol"].startswith(
        "ucf101"
    )


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


def stops(home, arguments, message, checkpoint=True):
    """Expects exit status 2 and one line of error that holds `message`."""
    argv = ["-c", str(home / "config.json"), "-d", "cpu"]
    if checkpoint:
        argv += ["-r", str(home / "model.pth")]
    with (
        contextlib.redirect_stderr(io.StringIO()) as stderr,
        pytest.raises(SystemExit) as end,
    ):
        program.cli([*argv, *arguments])
    assert end.value.code == 2
    assert "Traceback" not in stderr.getvalue()
    last_line = stderr.getvalue().strip().splitlines()[-1]
    assert last_line.startswith("error: ")
    assert message in last_line


@pytest.mark.parametrize(
    "arguments, message, checkpoint",
    [
        ([], "add -r CHECKPOINT", False),
        (["--pretrained-only"], "leave one out", True),
        (["-r", "nowhere.pth"], "nowhere.pth", False),
        (["data_loader.args.dataset_name=JsonlDataSet"], "JsonlDataset", True),
        (["evaluation.row=1"], "nearest: rows", True),
        (['evaluation.rows=["dls"]'], "nearest: dsl", True),
        (['metrics=["t2v_metric"]'], "nearest: t2v_metrics", True),
        (["data_loader.args.data_dir=/nowhere"], "/nowhere", True),
        (
            ["data_loader.args.with_captions=false"],
            "data_loader.args.with_captions: false is given, and retrieval is judged by captions",
            True,
        ),
        (["data_loader.args.with_captions=false", "--split", "train"], "judged", True),
        (["-d", "cuda:99"], "99", True),
    ],
)
def test_a_mistake_is_one_line(home, arguments, message, checkpoint):
    stops(home, arguments, message, checkpoint)


def test_metrics_from_a_folder_without_embeddings(home, capsys):
    with pytest.raises(SystemExit) as end:
        program.cli(["--metrics-from", str(home)])
    assert end.value.code == 2 and "embeddings.safetensors" in capsys.readouterr().err


def test_pretrained_only_evaluates_without_a_checkpoint(home):
    output = home / "pretrained_only"
    program.cli(
        [
            "-c",
            str(home / "config.json"),
            "-d",
            "cpu",
            "--pretrained-only",
            "-o",
            str(output),
        ]
    )
    assert json.loads((output / "results.json").read_text())["checkpoint"] is None
