"""Ours out: folders that stand alone, the authors' layout, ONNX; what comes back is what went in, bit for bit."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import hub_mixin
from safetensors.torch import load_file

from model import hub, load_model, pretrained
from model.miles import MILES
from model.restore import build_from_checkpoint, restore
from model.weights import read_checkpoint
from model.weights.listed import fingerprint
from parse_config import Config, ConfigError
from scripts import export, export_onnx
from scripts.retrieval.features import hash_checkpoint
from scripts.synthetic import tiny_models
from trainer.evaluation.embed import Embeddings
from trainer.evaluation.results import describe_run, save_embeddings
from trainer.files import write_json
from trainer.origin import complete, read_origin

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


def test_the_files_do_not_depend_on_what_was_embedded_before(folder, tmp_path):
    model = tiny_models.build_miles(folder)
    model.save_pretrained(tmp_path / "before")
    files = model.text_files()
    model.encode_text(["a red dog", "the cat"], batch_size=2)
    model.save_pretrained(tmp_path / "after")
    assert fingerprint(tmp_path / "before") == fingerprint(tmp_path / "after")
    other = tiny_models.build_miles(folder)
    other.encode_text("a red dog")
    for name, content in other.text_files().items():
        assert torch.equal(content, files[name]), name


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


def test_what_fails_leaves_no_folder(checkpoint, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ConfigError("no room")

    monkeypatch.setattr(pretrained, "list_files", fail)
    with pytest.raises(SystemExit):
        export.cli([str(checkpoint), str(tmp_path / "out")])
    assert "error: no room" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
    monkeypatch.undo()
    export.cli([str(checkpoint), str(tmp_path / "out")])
    load_model(tmp_path / "out", "cpu")


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


@pytest.fixture
def exported(model, tmp_path):
    model.save_pretrained(tmp_path / "exported")
    return tmp_path / "exported"


def refusal(folder: Path) -> str:
    """The one line with which every way of opening refuses a folder."""
    lines = set()
    for opened in (folder, folder / "model.safetensors"):
        with pytest.raises((ConfigError, FileNotFoundError)) as error:
            load_model(opened, "cpu")
        lines.add(str(error.value))
    with pytest.raises((ConfigError, FileNotFoundError)) as error:
        MILES.from_pretrained(folder)
    lines.add(str(error.value))
    (line,) = lines
    assert "\n" not in line
    return line


FILES = [
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "text/config.json",
    "text/tokenizer.json",
]


@pytest.mark.parametrize(
    "name", [*FILES, "text/tokenizer_config.json", "text/text_settings.json"]
)
def test_a_file_that_is_missing_is_named(exported, name):
    (exported / name).unlink()
    line = refusal_of_folder(exported)
    assert str(exported) in line and name in line


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_that_is_missing_in_a_folder_without_a_list(exported, name):
    edit(exported / "config.json", lambda config: config.pop("files"))
    (exported / name).unlink()
    line = refusal_of_folder(exported)
    assert str(exported) in line and Path(name).name in line


def refusal_of_folder(folder: Path) -> str:
    with pytest.raises((ConfigError, FileNotFoundError)) as error:
        load_model(folder, "cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def other(tmp_path, exported):
    """Another model's exported folder, of the same shapes and with other words."""
    words = [*tiny_models.WORDS[:-1], "horse"]
    text = tiny_models.save_text_model(tmp_path / "other_text", words=words)
    model = tiny_models.build_miles(text, seed=4)
    model.update_preprocessing({"norm_mean": [0.1] * 3})
    model.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "preprocessor_config.json", "text/tokenizer.json"]
)
def test_a_file_of_another_model_is_named(exported, other, name):
    shutil.copy(other / name, exported / name)
    line = refusal(exported)
    assert line.startswith(f"{exported / name}: is not the file that was exported")
    assert "remove 'files' from config.json" in line


def test_a_config_of_another_model_is_refused(exported, other):
    shutil.copy(other / "config.json", exported / "config.json")
    assert "is not the file that was exported" in refusal(exported)


def test_a_file_too_many_is_named(exported):
    (exported / "text/added_tokens.json").write_text("{}")
    line = refusal(exported)
    assert line.startswith(
        f"{exported}/text/added_tokens.json: is no file of the model"
    )


def test_folders_without_a_list_are_compared_by_what_they_say(
    exported, folder, tmp_path
):
    """As exported before: a tokenizer of more words, clips of another size."""
    edit(exported / "config.json", lambda config: config.pop("files"))
    assert load_model(exported, "cpu").embedding_size == 16
    words = [*tiny_models.WORDS, "horse"]
    tiny_models.save_text_model(tmp_path / "more", words=words)
    tokenizer = (exported / "text/tokenizer.json").read_bytes()
    shutil.copy(tmp_path / "more/tokenizer.json", exported / "text")
    assert "23 tokens and the model 22 embeddings" in refusal_of_folder(exported)
    (exported / "text/tokenizer.json").write_bytes(tokenizer)
    edit(
        exported / "preprocessor_config.json",
        lambda preprocessing: preprocessing.update(input_res=64),
    )
    assert "says 64 px, and the model takes 32" in refusal_of_folder(exported)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("config.json", "{", "is no JSON"),
        ("config.json", "[]", "holds no object"),
        ("config.json", '{"arch": 5}', "has no arch"),
        ("config.json", '{"arch": {"type": "MILES", "args": {"a": 1}}}', "unknown key"),
        ("preprocessor_config.json", "{", "is no JSON"),
        ("preprocessor_config.json", "{}", "has no num_frames"),
        ("model.safetensors", "x", "is damaged"),
    ],
)
def test_a_damaged_file_is_named(exported, name, content, words):
    edit(exported / "config.json", lambda config: config.pop("files"))
    (exported / name).write_text(content)
    line = refusal_of_folder(exported)
    assert words in line and str(exported / name) in line


def test_the_weights_of_a_folder_bring_its_preprocessing(exported, model):
    """Given by the path of its weights the folder is the same model."""
    edit(exported / "config.json", lambda config: config.pop("files"))
    edit(
        exported / "preprocessor_config.json",
        lambda preprocessing: preprocessing.update(norm_mean=[0.1] * 3),
    )
    loaded = load_model(exported / "model.safetensors", "cpu")
    assert loaded.preprocessing["norm_mean"] == [0.1] * 3 and same(loaded, model)


def test_training_and_tests_start_from_a_folder(exported, model):
    """With its own text model, where the config names none."""
    config = Config(
        {"arch": {"type": "MILES", "args": {"load_checkpoint": str(exported)}}}
    )
    loaded = build_from_checkpoint(complete(config, read_origin(exported))["arch"])
    assert same(loaded.eval(), model)
    captions = ["a red dog", "the cat"]
    assert torch.equal(loaded.encode_text(captions), model.encode_text(captions))
    (exported / "preprocessor_config.json").write_text("{}")
    for start in (read_origin, read_checkpoint):
        with pytest.raises(ConfigError, match="is not the file that was exported"):
            start(exported)


def test_a_folder_that_is_saved_into_again_holds_one_model(exported, other):
    MILES.from_pretrained(exported).save_pretrained(other)
    assert {path.name for path in (other / "text").iterdir()} == {
        path.name for path in (exported / "text").iterdir()
    }
    load_model(other, "cpu")


@pytest.mark.parametrize(
    "name, change",
    [
        ("preprocessor_config.json", lambda it: it.update(norm_mean=[0.1] * 3)),
        ("text/tokenizer_config.json", lambda it: it.update(model_max_length=5)),
        ("text/text_settings.json", lambda it: it.update(max_length=5)),
        ("config.json", lambda it: it.update(note="another")),
    ],
)
def test_fingerprints_cover_preprocessing_and_tokenizer(exported, name, change):
    weights = exported / "model.safetensors"
    config = Config({"name": "x"})
    before = hash_checkpoint(exported)
    assert before == hash_checkpoint(weights) == fingerprint(exported)
    assert describe_run(config, exported, "cpu")["checkpoint"]["sha256"] == before
    edit(exported / name, change)
    after = hash_checkpoint(exported)
    assert after != before and after == hash_checkpoint(weights)
    assert describe_run(config, exported, "cpu")["checkpoint"]["sha256"] == after


def test_the_fingerprint_of_a_hub_id_is_that_of_its_folder(exported, monkeypatch):
    monkeypatch.setattr(pretrained, "snapshot_download", lambda *_, **__: str(exported))
    monkeypatch.setattr(hub, "reachable", lambda: True)
    assert hash_checkpoint("someone/miles") == fingerprint(exported)


def test_results_say_which_tokenizer_lay_beside_a_checkpoint(
    checkpoint, model, tmp_path
):
    words = [*tiny_models.WORDS[:-1], "horse"]
    text = tiny_models.save_text_model(tmp_path / "other_text", words=words)
    other = tiny_models.build_miles(text)
    hashes = [
        describe_run(Config({}), checkpoint, "cpu", made)["checkpoint"]["text_sha256"]
        for made in (model, model, other)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_fingerprint_of_a_file_is_that_of_its_bytes(checkpoint):
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert hash_checkpoint(checkpoint) == hash_checkpoint(checkpoint.parent) == digest


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_can_be_read_by_whom_the_umask_lets(model, folder, tmp_path, umask):
    previous = os.umask(umask)
    try:
        model.save_pretrained(tmp_path / "exported")
        write_json(tmp_path / "exported/atomic.json", {})
        tiny_models.save_text_model(tmp_path / "exported/text_model")
        embeddings = Embeddings(
            text_CE=torch.ones(1, 2),
            video_VE=torch.ones(1, 2),
            captions=["a"],
            ids=["a"],
            owner_C=torch.zeros(1, dtype=torch.long),
        )
        save_embeddings(tmp_path / "exported/embeddings", embeddings, {"config": {}})
    finally:
        os.umask(previous)
    for path in (tmp_path / "exported").rglob("*"):
        full_mode = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == full_mode & ~umask, path
