"""`load_model` of every form of path, from any working directory; embeddings of captions, files and frames."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import model as model_package
from data_loader.reader import count_frames, read_frames
from model import hub, load_model, pretrained
from model.load import is_hub_id
from model.miles import MILES
from model.weights.read import RUN_CHECKPOINTS, find
from parse_config import ConfigError, UserError
from scripts.synthetic import tiny_models
from tests.scripts.test_prepare_data import clip

CAPTIONS = ["a red dog", "the cat runs", "a man jumps left"]
NORM = {"norm_mean": [0.5] * 3, "norm_std": [0.25] * 3}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A text model, clips and a run whose checkpoint names the text model by a relative path."""
    root = tmp_path_factory.mktemp("project")
    tiny_models.save_text_model(root / "data/text", std=0.5)
    for number, frames in enumerate((9, 30)):
        clip(root / f"clips/{number}.mp4", frames=frames, size=(64, 48))
    write_checkpoint(root / "exps/tiny/0101_000000/model_best.pth", root)
    return root


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Another working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(project):
    return load_model(project / "exps/tiny/0101_000000", "cpu")


def write_checkpoint(path: Path, root: Path, seed: int = 0) -> Path:
    """A checkpoint as the trainer writes it in the working directory `root`."""
    model = tiny_models.build_miles(str(root / "data/text"), seed, time_init="rand")
    config = {
        "arch": tiny_models.arch_config("data/text"),
        "data_loader": {"type": "TextVideoDataLoader", "args": {"video_params": NORM}},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": model.state_dict(), "config": config, "epoch": 1}, path)
    return path


def clips(project: Path) -> list[Path]:
    return [project / "clips/0.mp4", project / "clips/1.mp4"]


def same_weights(first: MILES, second: MILES) -> bool:
    states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in states)


def test_every_form_of_path_from_another_working_directory(
    project, elsewhere, monkeypatch
):
    run = project / "exps/tiny/0101_000000"
    model = load_model(run / "model_best.pth", "cpu")
    model.save_pretrained(elsewhere / "exported")
    monkeypatch.setattr(
        pretrained, "snapshot_download", lambda *_, **__: str(elsewhere / "exported")
    )
    monkeypatch.setattr(hub, "reachable", lambda: True)
    t_CE, v_VE = model.encode_text(CAPTIONS), model.embed_videos(clips(project))
    for path in (run, str(run), run / "model_best.pth", "exported", "someone/miles"):
        loaded = load_model(path, "cpu")
        assert not loaded.training and loaded.device.type == "cpu"
        assert loaded.preprocessing == {"num_frames": 4, "input_res": 32, **NORM}
        assert torch.equal(loaded.encode_text(CAPTIONS), t_CE), path
        assert torch.equal(loaded.embed_videos(clips(project)), v_VE), path


def test_the_working_directory_may_change_after_loading(
    project, elsewhere, monkeypatch
):
    monkeypatch.chdir(project)
    model = load_model("exps/tiny/0101_000000", "cpu")
    monkeypatch.chdir(elsewhere)
    assert model.encode_text(CAPTIONS).shape == (3, 16)


def test_the_text_model_beside_the_checkpoint(project, elsewhere):
    shutil.copytree(project / "data", elsewhere / "data")
    path = elsewhere / "taken/away/model.pth"
    path.parent.mkdir(parents=True)
    shutil.copy(project / "exps/tiny/0101_000000/model_best.pth", path)
    assert load_model(path, "cpu").encode_text("a dog").shape == (1, 16)


def test_the_device_is_a_gpu_if_there_is_one(project, monkeypatch):
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert load_model(project / "exps/tiny/0101_000000").device.type == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_model(project / "exps/tiny/0101_000000").device.type == "cpu"


def test_the_checkpoint_of_a_run(tmp_path):
    run = tmp_path / "run"
    best, latest = (run / name for name in RUN_CHECKPOINTS)
    run.mkdir()
    latest.touch()
    assert find(run) == latest
    best.touch()
    assert find(run) == best
    assert find(best) == best


def test_the_last_stage_that_has_a_checkpoint(tmp_path):
    for name in (
        "stage1_a/model_best.pth",
        "stage2_b/checkpoint-latest.pth",
        "stage10_c/log.jsonl",
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert find(tmp_path) == tmp_path / "stage2_b/checkpoint-latest.pth"
    (tmp_path / "stage10_c/model_best.pth").touch()
    assert find(tmp_path) == tmp_path / "stage10_c/model_best.pth"


def test_what_is_a_hub_id(elsewhere):
    assert is_hub_id("someone/miles") and is_hub_id("someone/MILES-base_4f.v2")
    for path in (
        "model.pth",
        "runs/model.pth",
        "exps/demo/0101_000000",
        "/a/b",
        "./b",
        "demo",
    ):
        assert not is_hub_id(path), path
    Path("someone/miles").mkdir(parents=True)
    assert not is_hub_id("someone/miles")


def test_mistakes_are_one_line(project, elsewhere, monkeypatch):
    (elsewhere / "empty").mkdir()
    (elsewhere / "text.pth").write_text("no checkpoint")
    monkeypatch.setattr(hub, "reachable", lambda: False)
    run = project / "exps/tiny/0101_000000"
    lost = elsewhere / "lost.pth"
    shutil.copy(run / "model_best.pth", lost)
    for path, video_params, error_type, message in (
        ("absent.pth", None, FileNotFoundError, "absent.pth: no such checkpoint"),
        ("exps/demo/STAMP", None, FileNotFoundError, "no such checkpoint"),
        ("empty", None, FileNotFoundError, "empty: is a folder without a model"),
        ("text.pth", None, ConfigError, "text.pth: is damaged or no checkpoint"),
        (
            "nobody/nothing",
            None,
            ConfigError,
            "'nobody/nothing' is no local path and the hub",
        ),
        (lost, None, ConfigError, "'data/text' is no local path"),
        (run, {"deadlines": 5}, ConfigError, "deadline"),
        (run, {"deadline": -1}, ConfigError, "video_params.deadline: -1 is given"),
    ):
        with pytest.raises(error_type, match=message) as caught:
            load_model(path, "cpu", video_params)
        assert "\n" not in str(caught.value)


def test_the_lazy_name_is_the_only_one():
    with pytest.raises(AttributeError, match="no attribute 'load_models'"):
        model_package.load_models  # noqa: B018


def test_reading_settings(project, model):
    settings = model.clip_reader.video
    assert (
        settings.num_frames == 4
        and settings.input_res == 32
        and settings.deadline == 60
    )
    assert list(settings.norm_mean) == NORM["norm_mean"]
    run = project / "exps/tiny/0101_000000"
    changed = load_model(run, "cpu", video_params={"deadline": 5, "num_frames": 2})
    assert changed.clip_reader.video.deadline == 5
    assert changed.clip_reader(clips(project)).shape == (2, 2, 3, 32, 32)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_frames_are_embedded_as_their_files(project, model, make):
    frames = [
        make(read_frames(path, range(count_frames(path))).permute(0, 2, 3, 1).numpy())
        for path in clips(project)
    ]
    assert [len(video) for video in frames] == [9, 30]
    from_files = model.embed_videos(clips(project))
    assert torch.equal(model.embed_videos(frames), from_files)
    assert torch.equal(model.embed_videos([frames[0], clips(project)[1]]), from_files)
    assert torch.equal(model.embed_videos(frames[1]), from_files[1:]), (
        "one video by itself"
    )
    short = model.embed_videos([frames[0][:1]])
    assert short.shape == (1, 16) and short.isfinite().all()
    for wrong in (
        frames[0].astype("float32") if make is np.asarray else frames[0].float(),
        frames[0][:0],
    ):
        with pytest.raises(UserError, match="frames are uint8 of shape"):
            model.embed_videos([wrong])


def test_lengths_arrays_and_batches(project, model):
    v_VE = model.embed_videos(clips(project))
    assert v_VE.shape == (2, 16) and not v_VE.requires_grad
    assert torch.equal(
        model.embed_videos(clips(project), normalize=True), F.normalize(v_VE)
    )
    as_array = model.embed_videos(clips(project), numpy=True)
    assert isinstance(as_array, np.ndarray) and np.array_equal(as_array, v_VE.numpy())
    torch.testing.assert_close(model.embed_videos(clips(project), batch_size=2), v_VE)
    t_CE = model.encode_text(CAPTIONS)
    assert t_CE.shape == (3, 16) and not t_CE.requires_grad
    assert torch.equal(model.encode_text(CAPTIONS, normalize=True), F.normalize(t_CE))
    torch.testing.assert_close(model.encode_text(CAPTIONS, batch_size=2), t_CE)
    tokens = model.tokenize(CAPTIONS[:1])
    assert model.encode_text(tokens).requires_grad
    assert torch.equal(model.encode_text(tokens, normalize=True), F.normalize(t_CE[:1]))
    assert model.encode_text([]).shape == model.embed_videos([]).shape == (0, 16)


def test_progress_is_shown_if_asked_for(project, model, capsys):
    model.encode_text(CAPTIONS)
    model.embed_videos(clips(project))
    assert capsys.readouterr().err == ""
    model.encode_text(CAPTIONS, progress=True)
    model.embed_videos(clips(project), progress=True)
    shown = capsys.readouterr().err
    assert (
        "captions" in shown and "3/3" in shown and "videos" in shown and "2/2" in shown
    )


def test_similarity(project, model):
    t_CE, v_VE = model.encode_text(CAPTIONS), model.embed_videos(clips(project))
    sims_CV = model.similarity(t_CE, v_VE)
    torch.testing.assert_close(
        sims_CV, F.cosine_similarity(t_CE[:, None], v_VE[None], dim=-1)
    )
    for text in (t_CE, t_CE.numpy(), F.normalize(t_CE), CAPTIONS):
        for video in (v_VE, v_VE.numpy(), clips(project)):
            torch.testing.assert_close(model.similarity(text, video), sims_CV)
    torch.testing.assert_close(
        model.similarity("a red dog", clips(project)[1]), sims_CV[:1, 1:]
    )


def test_similarity_of_single_vectors_has_two_dimensions(project, model):
    t_CE, v_VE = model.encode_text(CAPTIONS), model.embed_videos(clips(project))
    sims_CV = model.similarity(t_CE, v_VE)
    for convert in (torch.as_tensor, np.asarray):
        t_E, v_E = convert(t_CE[1]), convert(v_VE[0])
        torch.testing.assert_close(model.similarity(t_E, v_E), sims_CV[1:2, :1])
        torch.testing.assert_close(model.similarity(t_E, v_VE), sims_CV[1:2])
        torch.testing.assert_close(model.similarity(t_CE, v_E), sims_CV[:, :1])
        torch.testing.assert_close(model.similarity(CAPTIONS, v_E), sims_CV[:, :1])
        lists = [list(map(convert, t_CE)), list(map(convert, v_VE))]
        torch.testing.assert_close(model.similarity(*lists), sims_CV)
    reversed_VE = v_VE.numpy()[::-1]
    torch.testing.assert_close(model.similarity(t_CE, reversed_VE), sims_CV.flip(1))
    torch.testing.assert_close(
        model.similarity(np.array(CAPTIONS), np.array(list(map(str, clips(project))))),
        sims_CV,
    )


def test_embeddings_of_other_widths_are_one_line(model):
    for text, video in (
        (torch.ones(2, 16), torch.ones(3, 8)),
        (torch.ones(16), np.ones(8)),
        ("a dog", torch.ones(3, 8)),
        ([torch.ones(16), torch.ones(8)], torch.ones(3, 16)),
        (torch.tensor(1.0), torch.ones(3, 16)),
    ):
        with pytest.raises(UserError, match="^similarity: ") as caught:
            model.similarity(text, video)
        assert "\n" not in str(caught.value)


def test_captions_that_are_no_texts_are_one_line(model):
    for text in (5, None, [5], ["a dog", None], [["a dog"]]):
        with pytest.raises(UserError, match="captions are texts"):
            model.encode_text(text)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_one_picture_is_one_video(project, model, make):
    picture_HWC = make(
        read_frames(clips(project)[0], [0]).permute(0, 2, 3, 1)[0].numpy()
    )
    as_video = model.embed_videos([picture_HWC[None]])
    for pictures in (picture_HWC, [picture_HWC], picture_HWC[None]):
        assert torch.equal(model.embed_videos(pictures), as_video)
    assert model.embed_videos([picture_HWC] * 2).shape == (2, 16)
    torch.testing.assert_close(
        model.similarity("a red dog", picture_HWC),
        model.similarity("a red dog", as_video),
    )


def test_embeddings_are_without_dropout_in_training_too(project, tmp_path):
    text = tiny_models.save_text_model(tmp_path, dropout=0.5, std=0.5)
    model = tiny_models.build_miles(text, drop_rate=0.5)
    model.set_clip_reader(
        load_model(project / "exps/tiny/0101_000000", "cpu").clip_reader
    )
    model.eval()
    t_CE, v_VE = model.encode_text(CAPTIONS), model.embed_videos(clips(project))
    model.train()
    model.video_model.eval()
    modes = [part.training for part in model.modules()]
    assert torch.equal(model.encode_text(CAPTIONS), t_CE)
    assert torch.equal(model.embed_videos(clips(project)), v_VE)
    assert [part.training for part in model.modules()] == modes
    with pytest.raises(FileNotFoundError):
        model.embed_videos(["absent.mp4"])
    assert [part.training for part in model.modules()] == modes
    tokens = model.tokenize(CAPTIONS)
    assert not torch.equal(model.encode_text(tokens), model.encode_text(tokens)), (
        "tokens are what training encodes"
    )


def test_a_device_that_is_not_there_is_one_line(project, monkeypatch):
    run = project / "exps/tiny/0101_000000"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, words in (
        ("cuda", "torch sees 0 GPUs here"),
        ("cuda:3", "torch sees 0 GPUs here"),
        (torch.device("cuda"), "torch sees 0 GPUs here"),
        ("gpu", "write cpu, cuda or cuda:N"),
        ("", "write cpu, cuda or cuda:N"),
        (["cpu"], "write cpu, cuda or cuda:N"),
        ("xpu", "write cpu, cuda or cuda:N"),
    ):
        with pytest.raises(UserError, match="^load_model: device") as caught:
            load_model(run, device)
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_path_that_is_none_is_one_line(elsewhere):
    Path("model.safetensors").touch()  # an empty path is not the working directory
    for path in ("", " ", None, 5):
        with pytest.raises(UserError, match="a run folder, a checkpoint") as caught:
            load_model(path, "cpu")
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="the path of the model is empty"):
        find("")
    with pytest.raises(ConfigError, match="a folder or a hub id is needed"):
        MILES.from_pretrained("")


def test_the_home_folder_is_expanded(project, elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(project))
    assert load_model("~/exps/tiny/0101_000000", "cpu").embedding_size == 16
    assert find("~/exps/tiny/0101_000000/model_best.pth").is_file()
    with pytest.raises(FileNotFoundError, match=f"looked for {project}/absent.pth"):
        load_model("~/absent.pth", "cpu")


def test_encode_video_points_paths_to_embed_videos(project, model):
    for paths in (["a.mp4"], "a.mp4"):
        with pytest.raises(TypeError, match="embed_videos takes paths"):
            model.encode_video(paths)
    v_BE, patch_BTNE = model.encode_video(model.clip_reader(clips(project)))
    assert v_BE.shape == (2, 16) and patch_BTNE.shape == (2, 4, 16, 16)


def test_a_batch_of_nothing_is_refused(model):
    with pytest.raises(ValueError, match="batch_size: 0 is given"):
        model.encode_text(["a dog runs"], batch_size=0)


def test_reversed_and_read_only_frames_are_taken(model):
    frames_THWC = np.random.default_rng(0).integers(0, 255, (6, 40, 40, 3), np.uint8)
    reversed_copy = np.ascontiguousarray(frames_THWC[::-1])
    frames_THWC.setflags(write=False)
    first, second = model.embed_videos([frames_THWC[::-1], reversed_copy])
    assert torch.equal(first, second)
