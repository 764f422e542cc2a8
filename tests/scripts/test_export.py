"""Ours out: folders that stand alone, the authors' layout, ONNX; what comes back is what went in, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import hub_mixin
from safetensors.torch import load_file

from model.miles import MILES
from model.restore import restore
from model.weights import read_checkpoint
from scripts import export, export_onnx
from scripts.synthetic import tiny_models

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def model(folder):
    made = tiny_models.build_miles(folder, seed=3, time_init="rand").eval()
    torch.nn.init.normal_(made.video_model.temporal_embed)
    return made


@pytest.fixture
def checkpoint(model, folder, tmp_path):
    """As the trainer writes it."""
    teacher = {
        f"teacher.{name}": tensor + 1
        for name, tensor in model.state_dict().items()
        if name.startswith("vid")
    }
    config = {
        "name": "tiny",
        "about": "a test",
        "arch": tiny_models.arch_config(folder),
        "data_loader": [
            {
                "type": "TextVideoDataLoader",
                "args": {
                    "video_params": {
                        "num_frames": 4,
                        "input_res": 32,
                        "norm_mean": [0.5] * 3,
                        "norm_std": [0.5] * 3,
                    }
                },
            }
        ],
    }
    config["arch"]["args"]["load_checkpoint"] = "somewhere/else.pth"
    torch.save(
        {
            "arch": "MILES",
            "epoch": 2,
            "step": 30,
            "state_dict": model.state_dict(),
            "config": config,
            "objective": {**teacher, "mask_token_D": torch.zeros(24)},
            "monitor_best": 0.5,
            "optimizer": {"vid_proj.0.weight": {"exp_avg": torch.ones(16, 24)}},
        },
        tmp_path / "model_best.pth",
    )
    (tmp_path / "results.json").write_text(
        json.dumps(
            {
                "t2v": {"R1": 26.1, "R5": 47.2, "R10": 56.9, "MedR": 7.0},
                "num_captions": 10,
                "num_videos": 10,
                "protocol": "toy",
            }
        )
    )
    return tmp_path / "model_best.pth"


def same(a, b):
    batch = tiny_models.random_batch()
    return all(torch.equal(x, y) for x, y in zip(a(batch), b(batch)))


def test_a_folder_stands_alone(model, folder, checkpoint, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    export.cli([str(checkpoint), str(out)])
    assert "without optimizer" in capsys.readouterr().out
    assert {str(p.relative_to(out)) for p in out.rglob("*")} >= {
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "README.md",
        "text",
        "text/config.json",
        "text/tokenizer.json",
    }
    assert set(load_file(out / "model.safetensors")) == set(model.state_dict())
    text = "".join(
        p.read_text() for p in out.rglob("*.*") if p.suffix in (".json", ".md")
    )
    assert folder not in text and str(tmp_path) not in text, "no path of this machine"
    moved = out.rename(tmp_path / "moved")
    back = MILES.from_pretrained(moved)
    assert same(model, back) and not back.training
    assert (
        back.tokenize(["a red dog"])["input_ids"].tolist()
        == model.tokenize(["a red dog"])["input_ids"].tolist()
    )
    assert torch.equal(
        back.encode_text(["a red dog", "the cat"]),
        model.encode_text(["a red dog", "the cat"]),
    )
    assert back.preprocessing == {
        "num_frames": 4,
        "input_res": 32,
        "norm_mean": [0.5] * 3,
        "norm_std": [0.5] * 3,
    }
    assert same(model, restore(moved)) and same(model, restore(checkpoint))
    assert restore(checkpoint).preprocessing == back.preprocessing
    card = (moved / "README.md").read_text()
    for words in (
        "- run: tiny. a test",
        "`model_best.pth`, epoch 2, step 30",
        "SHA-256",
        "toy, 10 captions, 10 videos",
        "| t2v | 26.1 | 47.2 | 56.9 | 7.0 |",
        "from model import load_model",
    ):
        assert words in card


def test_saved_again_and_changed_on_the_way_in(model, tmp_path):
    model.save_pretrained(tmp_path / "a")
    MILES.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    for name in (
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "text/tokenizer.json",
    ):
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes(), name
    longer = MILES.from_pretrained(
        tmp_path / "b", video_params={"num_frames": 8, "load_temporal_fix": "nearest"}
    )
    assert longer.video_model.num_frames == longer.preprocessing["num_frames"] == 8
    assert torch.equal(
        longer.video_model.temporal_embed[:, ::2], model.video_model.temporal_embed
    )


def test_the_teacher_if_asked_for(model, checkpoint, tmp_path):
    export.cli([str(checkpoint), str(tmp_path / "out"), "--teacher"])
    state = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(
            state[name], tensor + 1 if name.startswith("vid") else tensor
        )
    assert (
        "weights of the snapshot teacher"
        in (tmp_path / "out" / "README.md").read_text()
    )


def test_the_authors_layout(model, checkpoint, tmp_path):
    """A plain file by the released names, that torch alone reads in an interpreter without this project."""
    out = tmp_path / "MILES.pth"
    export.cli([str(checkpoint), str(out), "--layout", "authors"])
    code = (
        "import sys, torch; sys.path.clear(); c = torch.load(sys.argv[1], weights_only=True); "
        "print(c['arch'], c['epoch'], c['monitor_best'], *c['state_dict'])"
    )
    told = subprocess.run(
        [sys.executable, "-I", "-c", code, str(out)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert told[:3] == ["MILES", "2", "0.5"] and told[3:] == list(model.state_dict())
    assert set(read_checkpoint(out)) == {
        "arch",
        "epoch",
        "state_dict",
        "optimizer",
        "monitor_best",
        "config",
    }
    assert same(model, restore(out))


@pytest.mark.parametrize(
    "given, message",
    [
        (["model_best.pth", "model_best.pth"], "is there already; choose another name"),
        (["absent.pth", "out"], "absent.pth: no such checkpoint"),
        (["bare.pth", "out"], "does not say what model it holds; give a config"),
        (["plain.pth", "out", "--teacher"], "holds no teacher"),
    ],
)
def test_mistakes_are_one_line(
    checkpoint, model, tmp_path, monkeypatch, capsys, given, message
):
    monkeypatch.chdir(tmp_path)
    torch.save(model.state_dict(), "bare.pth")
    torch.save({**read_checkpoint(checkpoint), "objective": {}}, "plain.pth")
    with pytest.raises(SystemExit) as end:
        export.cli(given)
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert end.value.code == 2 and line.startswith("error: ") and message in line
    assert not (tmp_path / "out").exists()


def test_the_script_runs_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "export.py"), "absent.pth", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.strip().startswith(
        "error: absent.pth: no such checkpoint"
    )


def test_push_to_hub(model, monkeypatch):
    sent = {}

    class Hub:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **_):
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id, folder_path, **_):
            sent[repo_id] = {
                str(p.relative_to(folder_path)) for p in Path(folder_path).rglob("*")
            }
            assert same(model, MILES.from_pretrained(folder_path))
            return "done"

    monkeypatch.setattr(hub_mixin, "HfApi", Hub)
    assert model.push_to_hub("me/miles") == "done"
    assert sent["me/miles"] >= {
        "model.safetensors",
        "config.json",
        "README.md",
        "text/tokenizer.json",
    }


def test_a_hub_id(model, monkeypatch, tmp_path):
    from model import hub, pretrained

    model.save_pretrained(tmp_path / "there")
    asked = {}

    def download(name, **where):
        asked.update(where, name=name)
        return str(tmp_path / "there")

    monkeypatch.setattr(pretrained, "snapshot_download", download)
    monkeypatch.setattr(hub, "reachable", lambda: True)
    assert same(model, MILES.from_pretrained("me/miles", revision="v1"))
    assert asked == {"name": "me/miles", "revision": "v1", "local_files_only": False}


def test_onnx_of_both_towers(folder, tmp_path):
    """Another batch and another number of tokens than at export; `main` compares them itself."""
    import onnxruntime

    model = tiny_models.build_miles(folder, depth=1, time_init="rand").eval()
    model.save_pretrained(tmp_path / "m")
    differences = export_onnx.main(tmp_path / "m", tmp_path / "onnx")
    assert max(differences.values()) < 1e-5
    batch = tiny_models.random_batch(rows=7)
    t_BE, v_BE = model(batch)
    for name, inputs, wanted in (
        ("video", {"video": batch["video"]}, v_BE),
        ("text", batch["text"], t_BE),
    ):
        session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / f"{name}.onnx"))
        (found,) = session.run(
            [f"{name}_embedding"], {key: value.numpy() for key, value in inputs.items()}
        )
        torch.testing.assert_close(
            torch.from_numpy(found), wanted.detach(), atol=1e-5, rtol=1e-4
        )
