"""test.py as a user starts it: real clips, a tiny model, one and several processes, errors in one line."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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
        (["--split", "train"], "--split: 'train' is given", True),
        (["--split", "nowhere"], "nowhere", True),
        (['metrics=["foo"]'], "known: t2v_metrics, v2t_metrics", True),
        (["evaluation.rows=[3]"], "evaluation.rows: 3 is given", True),
        (["evaluation.data_loader={}"], "evaluation.data_loader: {} is given", True),
        (["data_loader=[]"], "data_loader: [] is given", True),
    ],
)
def test_a_mistake_is_one_line(home, arguments, message, checkpoint):
    stops(home, arguments, message, checkpoint)


def test_metrics_from_the_folder_above_names_that_of_the_embeddings(tmp_path, capsys):
    (tmp_path / "embeddings").mkdir()
    with pytest.raises(SystemExit, match="2"):
        program.cli(["--metrics-from", str(tmp_path)])
    error = capsys.readouterr().err
    assert error.endswith(f"--save-embeddings wrote: {tmp_path}/embeddings\n")


def test_an_output_that_is_a_file_is_said_before_anything_is_read(home, capsys):
    output = home / "output.txt"
    output.write_text("")
    argv = ["-c", str(home / "config.json"), "-o", str(output), "-d", "cpu"]
    with pytest.raises(SystemExit, match="2"):
        program.cli(argv)
    assert capsys.readouterr().err == (
        f"error: {output}: is a file; choose a folder for --output\n"
    )


@pytest.mark.parametrize("setting", ["resamples=-1", "bank=0", "bank=-5"])
def test_counts_of_the_evaluation_are_checked_at_the_start(home, capsys, setting):
    argv = ["-c", str(home / "config.json"), "-d", "cpu", f"evaluation.{setting}"]
    with pytest.raises(SystemExit, match="2"):
        program.cli(argv)
    assert (
        f"evaluation.{setting.replace('=', ': ')} is given" in capsys.readouterr().err
    )


def test_metrics_from_a_folder_without_embeddings(home, capsys):
    with pytest.raises(SystemExit) as end:
        program.cli(["--metrics-from", str(home)])
    assert end.value.code == 2 and "embeddings.safetensors" in capsys.readouterr().err


def test_mistakes_in_metrics_and_rows_stop_before_a_model_is_read(home):
    absent = ["-r", "absent.pth"]
    stops(home, [*absent, 'metrics=["foo"]'], "'foo' is no metric", False)
    stops(home, [*absent, 'evaluation.rows=["foo"]'], "'foo' is no row", False)


def spoil_ids(folder, **changes):
    path = folder / "ids.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(
        json.dumps({key: value for key, value in content.items() if value != "drop"})
    )


def spoil_tensors(folder, **changes):
    path = folder / "embeddings.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({key: x for key, x in tensors.items() if x is not None}, path)


SPOILT = {
    "ids.json of other words": lambda f: (f / "ids.json").write_text("captions"),
    "a list": lambda f: (f / "ids.json").write_text("[1]"),
    "no captions": lambda f: spoil_ids(f, captions="drop"),
    "captions of one word": lambda f: spoil_ids(f, captions="word"),
    "no about": lambda f: spoil_ids(f, about={}),
    "fewer captions": lambda f: spoil_ids(f, captions=["a", "b"]),
    "more ids": lambda f: spoil_ids(f, ids=[str(i) for i in range(12)]),
    "another tensor": lambda f: spoil_tensors(f, images=torch.ones(3)),
    "no text": lambda f: spoil_tensors(f, text_CE=None),
    "no owner": lambda f: spoil_tensors(f, owner_C=None),
    "owner and labels": lambda f: spoil_tensors(f, labels_V=torch.zeros(11).long()),
    "an owner too far": lambda f: spoil_tensors(f, owner_C=torch.full((16,), 11)),
    "owners of fractions": lambda f: spoil_tensors(f, owner_C=torch.zeros(16)),
    "fewer owners": lambda f: spoil_tensors(f, owner_C=torch.zeros(3).long()),
    "another width": lambda f: spoil_tensors(f, video_VE=torch.ones(11, 3)),
    "a vector": lambda f: spoil_tensors(f, text_CE=torch.ones(16)),
    "windows of others": lambda f: spoil_tensors(f, windows_VE=torch.ones(4, 16)),
    "a bank of another width": lambda f: spoil_tensors(f, bank_BE=torch.ones(4, 3)),
    "NaN": lambda f: spoil_tensors(f, video_VE=torch.full((11, 16), torch.nan)),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_embeddings_of_another_shape_are_refused_in_one_line(
    home, evaluated, tmp_path, fault, capsys
):
    folder = shutil.copytree(evaluated[0] / "embeddings", tmp_path / "spoilt")
    SPOILT[fault](folder)
    with pytest.raises(SystemExit) as end:
        program.cli(["--metrics-from", str(folder), "-d", "cpu"])
    lines = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and lines[-1].startswith("error: ")
    assert "Traceback" not in "".join(lines)


def test_a_file_is_no_folder_of_embeddings(home, evaluated, capsys):
    path = evaluated[0] / "embeddings" / "embeddings.safetensors"
    with pytest.raises(SystemExit) as end:
        program.cli(
            ["--metrics-from", str(path), "-c", str(home / "config.json"), "-d", "cpu"]
        )
    assert end.value.code == 2 and "holds no" in capsys.readouterr().err


def test_chance_stands_beside_a_small_gallery(home, evaluated, capsys):
    folder, results = evaluated
    argv = ["--metrics-from", str(folder / "embeddings"), "-d", "cpu"]
    program.cli([*argv, "-o", str(home / "with_chance")])
    text = capsys.readouterr().out
    assert results["queries"] == {"t2v": 16, "v2t": 11}
    assert results["chance"]["t2v"]["R5"] == pytest.approx(500 / 11)
    assert results["chance"]["v2t"]["MeanR"] < 17 / 2, "the best of several captions"
    assert text.count("  chance ") == 2
    assert "warning: few queries (16 of t2v and 11 of v2t)" in text


def test_held_out_training_videos_are_named_in_the_results(home, tmp_path):
    args, _ = miniatures.build("MSRVTT", tmp_path / "msrvtt", "Frozen", videos=8)
    args |= {"dataset_name": "MSRVTT", "holdout": 3}
    settings = [f"data_loader.args.{key}={value}" for key, value in args.items()]
    _, results = run(home, "--split", "val", *settings)
    assert results["holdout"] == {"videos": 3, "seed": 0}
    assert (results["split"], results["protocol"]) == ("val", None)
    assert (results["num_captions"], results["num_videos"]) == (3, 3)
    assert results["stamp"] == "complete" and not results["stands_in_for_validation"]
    _, results = run(home, *settings)
    assert (results["split"], results["protocol"]) == ("test", "msrvtt-1k-A")
    assert results["holdout"] == {"videos": 3, "seed": 0}
    _, results = run(home, "--split", "val", *settings, "data_loader.args.holdout=0")
    assert results["holdout"] == {"videos": 0, "seed": 0}
    assert results["stands_in_for_validation"]


def test_the_bank_holds_no_query_of_the_held_out(home, tmp_path):
    args, _ = miniatures.build("MSRVTT", tmp_path / "msrvtt", "Frozen", videos=8)
    args |= {"dataset_name": "MSRVTT", "holdout": 3}
    settings = [f"data_loader.args.{key}={value}" for key, value in args.items()]
    sizes = {}
    for split in ("val", "test"):
        rows = 'evaluation.rows=["qbnorm"]'
        folder, _ = run(home, rows, "--split", split, "--save-embeddings", *settings)
        embeddings, _ = load_embeddings(folder / "embeddings")
        sizes[split] = len(embeddings.bank_BE)
    assert sizes == {"val": 5 * 3, "test": 8 * 3}, "three captions a video"


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


def test_ctrl_c_is_one_line_and_leaves_nothing(home, tmp_path, capsys, monkeypatch):
    def be_signalled(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on after the signal")

    monkeypatch.setattr(program, "embed", be_signalled)
    with pytest.raises(SystemExit) as end:
        run(home, "-o", tmp_path / "out")
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith("stopped by Ctrl-C\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [[], ["--save-embeddings"]])
def test_a_full_disk_is_one_line(home, tmp_path, capsys, option):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".results.json.part").symlink_to("/dev/full")
    with pytest.raises(SystemExit) as end:
        run(home, "-o", folder, *option)
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {folder}/results.json: No space left on device")
    assert not (folder / "results.json").exists()
    assert folder.exists() == bool(option)  # empty, it is removed


def test_a_file_in_the_place_of_the_results_is_one_line(home, tmp_path, capsys):
    (tmp_path / "out").touch()
    with pytest.raises(SystemExit) as end:
        run(home, "-o", tmp_path / "out")
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path}/out")
