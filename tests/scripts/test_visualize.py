"""The numbers that figures draw, each beside a slow reference: attention by loops over tokens, words, windows."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_loader.decode.timestamps import frame_seconds
from data_loader.frames import windows
from data_loader.reader import read_frames
from model.loss import LOSSES, ReconstructionLoss
from model.restore import restore
from model.text.word_features import encode_words
from parse_config import UserError
from scripts.figures.alignment import word_indices, word_similarity
from scripts.figures.attention import attention_maps, cls_attention
from scripts.figures.attention_video import sliding_attention, window_at
from scripts.figures.clips import read_clips, whole_clip
from scripts.figures.masking import load_masking, masking_error
from scripts.synthetic import tiny_models
from scripts.synthetic.clips import make, read_number, write_clip

TEXT = "The red dogs, they run: a cat's left"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def model(folder):
    miles = tiny_models.build_miles(
        folder, seed=3, time_init="rand", weight_std=0.3, pos_embed_std=0.5
    ).eval()
    torch.nn.init.normal_(miles.video_model.temporal_embed)
    return miles


def checkpoint(model, folder, path, **objective):
    """As the trainer writes it, with a teacher that is not the student."""
    torch.manual_seed(1)
    teacher = {
        f"teacher.{name}": x + 0.1 * torch.randn_like(x)
        for name, x in model.state_dict().items()
        if name.startswith("vid")
    }
    config = {
        "arch": tiny_models.arch_config(folder),
        "objective": {"type": "MILESPretraining", "args": objective},
    }
    torch.save(
        {
            "arch": "MILES",
            "state_dict": model.state_dict(),
            "config": config,
            "objective": {**teacher, "mask_token_D": torch.ones(24)},
        },
        path,
    )
    return path


@torch.no_grad()
@pytest.mark.parametrize("over, name", [("space", "attn"), ("time", "timeattn")])
@pytest.mark.parametrize("block", [0, 1, -1])
def test_attention_by_hand_and_the_blocks_own_output(model, over, name, block):
    clip = tiny_models.random_batch(rows=2, frames=3)["video"]
    layer = getattr(model.video_model.blocks[block], name)
    calls = []
    hook = layer.register_forward_hook(
        lambda _, args, output: calls.append((args[0], output))
    )
    model.encode_video(clip)  # through the fused kernel
    hook.remove()
    ((layer_input, layer_output),) = calls
    q, k, v = layer.qkv(layer_input).unflatten(-1, (3, 2, 12)).unbind(2)
    attention = cls_attention(model, clip, block, over)
    assert attention.shape == (2, 2, 3, 4, 4) and layer.record is None
    for b in range(2):
        heads = []
        for h in range(2):
            powers = [
                math.exp(float(q[b, 0, h] @ k[b, s, h]) / math.sqrt(12))
                for s in range(1 + 3 * 16)
            ]
            weights = [power / sum(powers) for power in powers]
            np.testing.assert_allclose(
                attention[b, h].flatten().numpy(), weights[1:], atol=1e-6
            )
            assert float(attention[b, h].sum()) + weights[0] == pytest.approx(
                1, abs=1e-5
            )
            patches = sum(
                weight * v[b, 1 + s, h]
                for s, weight in enumerate(attention[b, h].flatten())
            )
            heads.append(patches + weights[0] * v[b, 0, h])
        torch.testing.assert_close(
            layer.proj(torch.cat(heads)), layer_output[b, 0], atol=1e-5, rtol=1e-4
        )


def test_heads_are_means_of_each_and_one_is_uniform(model, tmp_path):
    clip = read_clips(model, make("h264-8.mp4", tmp_path))[0]
    heads = attention_maps(model, clip, heads="each")
    mean = attention_maps(model, clip)["mean of heads"]
    assert list(heads) == ["head 0", "head 1"]
    np.testing.assert_allclose(mean, (heads["head 0"] + heads["head 1"]) / 2, rtol=1e-5)
    np.testing.assert_array_equal(
        attention_maps(model, clip, heads="1")["head 1"], heads["head 1"]
    )
    weights = cls_attention(model, clip.video_BTCHW)[0].numpy()
    np.testing.assert_allclose(heads["head 0"], weights[0] * (1 + 4 * 16), rtol=1e-5)


@pytest.mark.parametrize(
    "block, heads, words",
    [
        (2, "mean", "0 to 1"),
        (-3, "mean", "0 to 1"),
        (0, "2", "mean or each"),
        (0, "-1", "mean or each"),
        (0, "all", "mean or each"),
    ],
)
def test_what_is_not_there_is_named(model, tmp_path, block, heads, words):
    with pytest.raises(UserError, match=words):
        attention_maps(
            model, read_clips(model, make("h264-8.mp4", tmp_path))[0], block, heads
        )


@torch.no_grad()
def test_words_are_the_means_of_their_pieces(model):
    words, w_WE = encode_words(model, TEXT)
    assert words == ["The", "red", "dogs", "they", "run", "a", "cat's", "left"]
    pieces = model.tokenizer.tokenize(TEXT)
    assert pieces[2:4] == ["dog", "##s"]
    hidden_LD = model.text_features(model.tokenize([TEXT]))[0]
    # [CLS] the red dog ##s , they run : a cat ' s left [SEP]: unknown pieces are one [UNK] each
    groups = [[1], [2], [3, 4], [6], [7], [9], [10, 11, 12], [13]]
    assert len(hidden_LD) == 15
    for group, feature in zip(groups, w_WE, strict=True):
        torch.testing.assert_close(
            feature, sum(model.text_proj(hidden_LD[i]) for i in group) / len(group)
        )


def test_a_text_that_is_cut_or_holds_nothing(model):
    words, w_WE = encode_words(
        model, "a dog " * 40
    )  # the text model takes 32 tokens, 2 of them are its own
    assert words == ["a", "dog"] * 15 and w_WE.shape == (30, 16)
    for text in ("", " ... "):
        with pytest.raises(UserError, match="has no words"):
            encode_words(model, text)


@torch.no_grad()
def test_alignment_is_the_cosine_of_each_word_with_each_patch(model):
    clip = tiny_models.random_batch(rows=1, frames=3)["video"]
    words, cosine_WTYX = word_similarity(model, clip, TEXT)
    w_WE, patch_TNE = encode_words(model, TEXT)[1], model.encode_video(clip)[1][0]
    assert cosine_WTYX.shape == (len(words), 3, 4, 4)
    for w in range(len(words)):
        for t in range(3):
            for n in range(16):
                a, b = w_WE[w].tolist(), patch_TNE[t, n].tolist()
                cosine = (
                    sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)
                )
                assert float(cosine_WTYX[w, t, n // 4, n % 4]) == pytest.approx(
                    cosine, abs=1e-5
                )


def test_words_are_chosen_by_name():
    assert word_indices(["A", "dog", "a"], None) == [0, 1, 2]
    assert word_indices(["A", "dog", "a"], "a") == [0, 2] and word_indices(
        ["A", "dog"], ["DOG", "a"]
    ) == [0, 1]
    with pytest.raises(
        UserError, match="--word cat: is no word of the text; its words: A, dog"
    ):
        word_indices(["A", "dog"], ["dog", "cat"])


@torch.no_grad()
@pytest.mark.parametrize("space", ["joint", "encoder"])
@pytest.mark.parametrize(
    "loss", [n for n in LOSSES.names() if issubclass(LOSSES.get(n), ReconstructionLoss)]
)
def test_the_error_is_the_objectives(model, folder, tmp_path, space, loss):
    path = checkpoint(
        model,
        folder,
        tmp_path / "c.pth",
        target_space=space,
        mvm_loss={"type": loss},
        mask={"type": "Random", "args": {"ratio": 0.4}},
        mvm_weight=3.0,
    )
    masking = load_masking(path)
    batch = tiny_models.random_batch(rows=1)
    assert masking.description == "target: the checkpoint's teacher"
    mask, error = masking_error(masking, batch["video"], seed=5)
    again = masking_error(masking, batch["video"], seed=5)
    assert torch.equal(mask, again[0]) and torch.equal(error, again[1])
    assert mask.sum(dim=(1, 2)).tolist() == [6] * 4 and not torch.equal(
        mask[0], mask[1]
    )
    torch.manual_seed(5)
    assert float(masking.objective(batch)["loss_mvm"]) == pytest.approx(
        float(error[mask].mean()), abs=1e-6
    )
    student, teacher = restore(path), restore(path, teacher=True)
    _, prediction = student.video_model(
        batch["video"], mask.flatten(1)[None], torch.ones(24)
    )
    _, target = teacher.video_model(batch["video"])
    if space == "joint":
        prediction = student.vid_proj(prediction)
        target = teacher.vid_proj(target)
    for t in range(4):
        for n in range(16):
            a, b = prediction[0, t, n], target[0, t, n]
            expected = (
                (F.normalize(a, dim=0) - F.normalize(b, dim=0)).square().sum()
                if loss == "CosineRegression"
                else torch.stack(
                    [
                        (x - y) ** 2 / 2 if abs(x - y) < 1 else abs(x - y) - 0.5
                        for x, y in zip(a, b)
                    ]
                ).mean()
            )
            if loss in ("CosineRegression", "SmoothL1Regression"):
                assert float(error[t, n // 4, n % 4]) == pytest.approx(
                    float(expected), abs=1e-5
                )


def test_a_model_without_a_teacher_is_its_own(model):
    masking = load_masking(model)
    assert (
        masking.description
        == "target: the model itself (no teacher in the file), [MASK] is zeros (none in the file)"
    )
    mask, error = masking_error(masking, tiny_models.random_batch(rows=1)["video"])
    assert mask.sum() == 4 * 8 and error[mask].min() > 0
    masking.objective.mask.ratio = lambda progress: (
        0.0
    )  # nothing hidden: the prediction is the target
    mask, error = masking_error(masking, tiny_models.random_batch(rows=1)["video"])
    assert not mask.any() and float(error.abs().max()) < 1e-6


@pytest.mark.parametrize("length, frames", [(12, 4), (13, 4), (4, 4), (1, 1), (7, 2)])
def test_a_window_of_the_whole_video_is_a_sliding_window_of_stride_1(length, frames):
    centred = [window_at(index, length, length, frames) for index in range(length)]
    assert all(
        indices[position] == index for index, (indices, position) in enumerate(centred)
    )
    centred_windows = {tuple(indices) for indices, _ in centred}
    sliding_windows = {tuple(indices) for indices in windows(length, frames, 1)}
    assert sliding_windows <= centred_windows
    assert length % frames or sliding_windows == centred_windows


@pytest.mark.parametrize(
    "length, width, frames", [(20, 8, 4), (21, 5, 4), (9, 9, 4), (6, 4, 4)]
)
def test_a_window_slides_inside_the_video(length, width, frames):
    for index in range(length):
        indices, position = window_at(index, length, width, frames)
        assert indices == sorted(set(indices)) and len(indices) == frames
        assert indices[position] == index
        assert (
            min(indices) >= 0
            and max(indices) < length
            and max(indices) - min(indices) < width
        )
        if (
            width // 2 <= index and index + 1 + width - width // 2 <= length
        ):  # neither end is near: it moves by one
            assert window_at(index + 1, length, width, frames) == (
                [i + 1 for i in indices],
                position,
            )


def test_each_shown_frame_is_read_in_its_window(model, tmp_path):
    path = make("h264-vfr.mp4", tmp_path)
    clip, seconds = whole_clip(model, path, fps=4, max_frames=100)
    heat_FYX = sliding_attention(model, clip, width=6)["mean of heads"]
    assert len(heat_FYX) == len(seconds) == len(clip.titles) and 6 < len(seconds) < 20
    for index in (0, 3, len(seconds) - 1):
        indices, position = window_at(index, len(seconds), 6, 4)
        weights = cls_attention(model, clip.video_BTCHW[:, indices])[0].mean(0)[
            position
        ]
        np.testing.assert_allclose(heat_FYX[index], 65 * weights.numpy(), rtol=1e-5)


def test_clips_are_what_the_model_reads_and_the_pictures_are_theirs(model, tmp_path):
    path = make("h264.mp4", tmp_path)
    clip = read_clips(model, path, panel=64)[0]
    assert (clip.name, clip.titles) == (
        "h264.mp4",
        ["0.16 s", "0.56 s", "0.96 s", "1.36 s"],
    )  # 25 frames a second
    assert clip.picture_TPPC.shape == (4, 64, 64, 3) and clip.video_BTCHW.shape == (
        1,
        4,
        3,
        32,
        32,
    )
    middle = (
        read_frames(path, [4, 14, 24, 34]).permute(0, 2, 3, 1)[:, :, 16:80].numpy()
    )  # the central square of 96x64
    assert np.abs(clip.picture_TPPC.astype(int) - middle).max() <= 1
    tensor = read_clips(model, clip.video_BTCHW, panel=32)[0]
    assert (
        torch.equal(tensor.video_BTCHW, clip.video_BTCHW)
        and tensor.titles[1] == "frame 1"
    )
    smooth = tensor.picture_TPPC.astype(float)
    assert (
        np.corrcoef(
            smooth.ravel(), read_clips(model, path, panel=32)[0].picture_TPPC.ravel()
        )[0, 1]
        > 0.99
    )


def test_seconds_of_frames_of_any_rate_and_of_images(tmp_path):
    times = [0, 40, 100, 900, 1000, 2000]
    write_clip(tmp_path / "v.mkv", length=6, times_ms=times)
    np.testing.assert_allclose(
        frame_seconds(tmp_path / "v.mkv"), np.array(times) / 1000, atol=2e-3
    )
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "i.png")
    assert frame_seconds(tmp_path / "i.png") == [0.0]


def test_frames_all_through_a_video(model, tmp_path):
    path = make("h264.mp4", tmp_path)  # 40 frames in 1.6 s
    all_frames, seconds = whole_clip(model, path, fps=100, max_frames=1000, panel=96)
    assert (
        seconds == pytest.approx([i / 25 for i in range(40)], abs=1e-3)
        and len(all_frames.picture_TPPC) == 40
    )
    clip, seconds = whole_clip(model, path, fps=100, max_frames=5)
    assert (
        len(clip.titles) == 5
        and seconds[0] == 0
        and seconds[-1] == pytest.approx(1.56, abs=1e-3)
    )
    _, seconds = whole_clip(model, path, fps=5, max_frames=1000)
    assert len(seconds) == 9 and max(np.diff(seconds)) < 0.25
    assert read_number(read_frames(path, [39])[0].permute(1, 2, 0).numpy()) == 39
