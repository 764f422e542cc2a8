"""scripts/visualize.py: what is drawn is what was computed, to the pixel; any kind of file in, PNG, GIF, MP4 out."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from model import load_model
from scripts import visualize
from scripts.figures.alignment import word_similarity
from scripts.figures.attention import attention_maps
from scripts.figures.clips import read_clips
from scripts.figures.heatmap import FAINT, FULL, Scale, enlarge, overlay
from scripts.figures.masking import load_masking, masking_error
from scripts.figures.sheet import (
    BAR,
    GAP,
    HEAD,
    LEFT,
    LINE,
    TITLE,
    TOP,
    Block,
    Row,
    draw,
    sheet_size,
)
from scripts.figures.video_writer import write_movie
from scripts.synthetic import tiny_models
from scripts.synthetic.clips import BROKEN, make
from tests.scripts.test_visualize import checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SIDE = 48
BELOW = (
    TOP + TITLE + LINE + SIDE + GAP
)  # where the first row of heat begins, under a title and the row of frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds a.pth, b.pth, clips and a picture."""
    folder = tmp_path_factory.mktemp("figures")
    for seed, name in enumerate("ab"):
        text_folder = tiny_models.save_text_model(folder / f"text_{name}")
        model = tiny_models.build_miles(
            text_folder, seed, time_init="rand", weight_std=0.3, pos_embed_std=0.5
        ).eval()
        checkpoint(
            model,
            text_folder,
            folder / f"{name}.pth",
            mask={"type": "Tube", "args": {"ratio": 0.25}},
        )
    for name in ("h264.mp4", "h264-8.mp4", "vp9.webm"):
        make(name, folder)
    Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    ).save(folder / "still.jpg")
    return folder


def run(capsys, *words):
    visualize.cli([str(word) for word in words])
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


def refused(capsys, *words):
    with pytest.raises(SystemExit) as exit_info:
        visualize.cli([str(word) for word in words])
    message = capsys.readouterr().err
    assert exit_info.value.code == 2 and message.count("\n") == 1
    assert message.startswith("error: ")
    return message


def panel(path, row, column, top=BELOW):
    """A picture of the sheet, counted from the first row of heat."""
    left, down = LEFT + column * (SIDE + GAP), top + row
    return np.asarray(Image.open(path))[down : down + SIDE, left : left + SIDE]


@pytest.mark.parametrize("smooth", [True, False])
def test_overlay_pixel_by_pixel(smooth):
    from matplotlib import colormaps

    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (12, 16, 3), np.uint8)
    heat = random.normal(size=(3, 4)).astype(np.float32)
    scale = Scale(-0.5, 1.0, "x", "viridis")
    drawn, values = (
        overlay(picture, heat, scale, smooth),
        enlarge(heat, (12, 16), smooth),
    )
    for y in range(12):
        for x in range(16):
            share = min(max((float(values[y, x]) + 0.5) / 1.5, 0.0), 1.0)
            cover = FAINT + (FULL - FAINT) * share
            grey = picture[y, x] @ [0.299, 0.587, 0.114]
            expected = [
                (1 - cover) * grey + cover * 255 * c
                for c in colormaps["viridis"](share)[:3]
            ]
            np.testing.assert_allclose(drawn[y, x], expected, atol=0.51)


def test_enlarging_is_smooth_and_invents_no_values():
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 5
    large = enlarge(heat, (64, 64))
    peak = np.unravel_index(large.argmax(), large.shape)
    assert (
        abs(peak[0] - 23.5) <= 1 and abs(peak[1] - 39.5) <= 1
    )  # the middle of the patch
    assert (
        large.min() == 0
        and 4 < large.max() <= 5
        and np.abs(np.diff(large, axis=0)).max() < 0.6
    )
    blocks = enlarge(heat, (64, 64), smooth=False)
    assert (blocks[16:32, 32:48] == 5).all() and blocks.sum() == 5 * 256


def test_a_print_without_colours_still_orders_the_values():
    grey = overlay(
        np.full((8, 256, 3), 90, np.uint8),
        np.linspace(0, 1, 256)[None].repeat(8, 0),
        Scale(0, 1, ""),
    ) @ [0.299, 0.587, 0.114]
    assert (np.diff(grey[0]) > -1).all() and grey[0, -1] - grey[0, 0] > 150


def test_what_is_unknown_is_left_dim():
    picture = np.full((4, 8, 3), 100, np.uint8)
    drawn = overlay(picture, np.array([[np.nan, 1.0]]), Scale(0, 1, "x"), smooth=False)
    assert (drawn[:, :4] == round(100 * (1 - FAINT))).all() and (
        drawn[:, 4:] != drawn[0, 0]
    ).any(-1).all()


def test_a_sheet_holds_its_pictures_to_the_pixel():
    random = np.random.default_rng(1)
    pictures = random.integers(0, 255, (2, 3, 20, 30, 3), np.uint8)
    rows = [
        Row(
            "one",
            [[(pictures[0, 0], "a"), (pictures[0, 1], "")], [(pictures[0, 2], "$_{")]],
            heat=False,
        ),
        Row(
            "two",
            [[(pictures[1, 0], ""), (pictures[1, 1], "")], [(pictures[1, 2], "")]],
        ),
    ]
    block = Block("clip", rows, Scale(2, 2, "flat"))
    sheet = draw([block, block], ["left", "right"], "all")
    assert sheet.shape[1::-1] == sheet_size([block, block], ["left", "right"], "all")
    assert sheet.shape[1] == LEFT + 3 * 30 + GAP + 4 * GAP + BAR
    height = TITLE + LINE + 20 + GAP + 20 + GAP
    for start in (TOP + 2 * HEAD, TOP + 2 * HEAD + height):
        for down, row in (
            (start + TITLE + LINE, 0),
            (start + TITLE + LINE + 20 + GAP, 1),
        ):
            for x, column in (
                (LEFT, 0),
                (LEFT + 30 + GAP, 1),
                (LEFT + 60 + 5 * GAP, 2),
            ):
                np.testing.assert_array_equal(
                    sheet[down : down + 20, x : x + 30], pictures[row, column]
                )


def test_attention_drawn_is_attention_computed(folder, capsys):
    videos = [folder / "h264.mp4", folder / "vp9.webm"]
    (out,) = run(
        capsys,
        "attention",
        "-r",
        folder / "a.pth",
        *videos,
        "-o",
        folder / "deep/a.png",
        "--panel",
        SIDE,
    )
    block = TITLE + LINE + 2 * (SIDE + GAP)
    assert Image.open(out).size == (
        LEFT + 4 * (SIDE + GAP) + 12 + BAR - 16,
        TOP + 2 * block + GAP,
    )
    model = load_model(folder / "a.pth", "cpu")
    for number, clip in enumerate(read_clips(model, videos, SIDE)):
        heat = attention_maps(model, clip)["mean of heads"]
        for t in range(4):
            np.testing.assert_array_equal(
                panel(out, number * block - SIDE - GAP, t), clip.picture_TPPC[t]
            )
            expected = overlay(
                clip.picture_TPPC[t], heat[t], Scale(0, heat.max(), "")
            )  # one scale for all its frames
            np.testing.assert_array_equal(panel(out, number * block, t), expected)


def test_each_head_any_block_and_two_checkpoints(folder, capsys):
    common = (
        "-r",
        folder / "a.pth",
        folder / "b.pth",
        folder / "h264.mp4",
        "--panel",
        SIDE,
    )  # a video behind -r A B
    (out,) = run(
        capsys,
        "attention",
        *common,
        "-o",
        folder / "h.png",
        "--heads",
        "each",
        "--block",
        0,
        "--over",
        "time",
    )
    assert Image.open(out).size[1] == TOP + HEAD + TITLE + LINE + 3 * (SIDE + GAP) + GAP
    heats = [
        attention_maps(
            model, read_clips(model, folder / "h264.mp4", SIDE)[0], 0, "each", "time"
        )
        for model in (
            load_model(folder / "a.pth", "cpu"),
            load_model(folder / "b.pth", "cpu"),
        )
    ]
    scale = Scale(0, max(heat.max() for maps in heats for heat in maps.values()), "")
    picture = read_clips(
        load_model(folder / "a.pth", "cpu"), folder / "h264.mp4", SIDE
    )[0].picture_TPPC[2]
    np.testing.assert_array_equal(
        panel(out, HEAD + SIDE + GAP, 2), overlay(picture, heats[0]["head 1"][2], scale)
    )
    second = np.asarray(Image.open(out))[BELOW + HEAD :, 4 * (SIDE + GAP) + 3 * GAP :][
        :SIDE, LEFT + 2 * (SIDE + GAP) :
    ]
    np.testing.assert_array_equal(
        second[:, :SIDE], overlay(picture, heats[1]["head 0"][2], scale)
    )


@pytest.mark.parametrize("more", [(), ("--relative",)])
def test_alignment_drawn_is_alignment_computed(folder, capsys, more):
    (out,) = run(
        capsys,
        "alignment",
        "-r",
        folder / "a.pth",
        folder / "h264.mp4",
        "--text",
        "a red dog",
        "--word",
        "dog",
        "red",
        "-o",
        folder / "w.png",
        "--panel",
        SIDE,
        *more,
    )
    model = load_model(folder / "a.pth", "cpu")
    clip = read_clips(model, folder / "h264.mp4", SIDE)[0]
    words, cosine_WTYX = word_similarity(
        model, clip.video_BTCHW, "a red dog", "alone", "value"
    )
    assert words == ["a red dog", "a", "red", "dog"]
    heat = cosine_WTYX.numpy()
    heat = (heat - sum(heat) / 4 if more else heat)[2:]
    for w in range(2):
        for t in range(4):
            expected = overlay(
                clip.picture_TPPC[t], heat[w, t], Scale(heat.min(), heat.max(), "")
            )
            drawn = panel(out, HEAD + LINE + w * (SIDE + LINE + GAP), t)
            assert np.abs(drawn.astype(int) - expected).max() <= bool(more)


def test_masking_drawn_is_masking_computed(folder, capsys):
    (out,) = run(
        capsys,
        "masking",
        "-r",
        folder / "a.pth",
        folder / "h264.mp4",
        "--seed",
        3,
        "-o",
        folder / "m.png",
        "--panel",
        SIDE,
    )
    masking = load_masking(folder / "a.pth")
    clip = read_clips(masking.objective.model, folder / "h264.mp4", SIDE)[0]
    mask, error = masking_error(masking, clip.video_BTCHW, 3)
    masked_picture = panel(out, HEAD, 1)
    error_picture = panel(out, HEAD + SIDE + GAP + LINE, 1)
    patch = SIDE // 4
    for y in range(4):
        for x in range(4):
            at = slice(y * patch, (y + 1) * patch), slice(x * patch, (x + 1) * patch)
            assert bool((masked_picture[at] == 128).all()) == bool(mask[1, y, x])
            assert (
                mask[1, y, x] or (masked_picture[at] == clip.picture_TPPC[1][at]).all()
            )
    assert mask[1].sum() == 4
    heat = np.where(mask, error, np.nan)[1]
    expected = overlay(
        clip.picture_TPPC[1], heat, Scale(0, float(error[mask].max()), ""), smooth=False
    )
    np.testing.assert_array_equal(error_picture, expected)


def test_an_image_is_one_frame_and_an_exported_folder_a_checkpoint(folder, capsys):
    load_model(folder / "a.pth", "cpu").save_pretrained(folder / "exported")
    for kind, more in (
        ("attention", ()),
        ("alignment", ("--text", "a dog")),
        ("masking", ()),
    ):
        (out,) = run(
            capsys,
            kind,
            "-r",
            folder / "exported",
            folder / "still.jpg",
            "-o",
            folder / "s.png",
            "--panel",
            SIDE,
            *more,
        )
        frames = np.asarray(Image.open(out))[BELOW - SIDE + HEAD :][
            :10
        ]  # a strip of the row of frames
        assert (frames[:, LEFT : LEFT + SIDE] < 255).any() and (
            frames[:, LEFT + SIDE :][:, : 2 * GAP] == 255
        ).all()


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_moving_pictures_show_every_frame(folder, capsys, kind):
    (out,) = run(
        capsys,
        "attention",
        "-r",
        folder / "a.pth",
        folder / "b.pth",
        folder / "h264-8.mp4",
        "--animate",
        kind,
        "--fps",
        100,
        "-o",
        folder / "x.png",
        "--panel",
        SIDE,
        "--names",
        "one",
        "two",
    )
    assert out == folder / f"x.{kind}"
    if kind == "gif":
        pages = [page.convert("RGB") for page in frames_of(Image.open(out))]
    else:
        with av.open(str(out)) as container:
            pages = [frame.to_image() for frame in container.decode(video=0)]
            assert container.streams.video[0].average_rate == 25
    assert len(pages) == 8 and len({page.size for page in pages}) == 1
    clip = read_clips(load_model(folder / "a.pth", "cpu"), folder / "h264-8.mp4", SIDE)[
        0
    ]  # frames 0, 2, 4, 6
    down = TOP + HEAD + TITLE + LINE
    drawn = np.asarray(pages[2])[down : down + SIDE, LEFT : LEFT + SIDE].astype(float)
    assert np.corrcoef(drawn.ravel(), clip.picture_TPPC[1].ravel())[0, 1] > 0.98


def frames_of(image):
    for number in range(image.n_frames):
        image.seek(number)
        yield image


def test_moving_pictures_of_several_videos_and_a_window(folder, capsys):
    outs = run(
        capsys,
        "attention",
        "-r",
        folder / "a.pth",
        folder / "h264-8.mp4",
        folder / "still.jpg",
        "--animate",
        "gif",
        "--window",
        0.2,
        "--most",
        3,
        "-o",
        folder / "y.gif",
        "--panel",
        SIDE,
    )
    assert [path.name for path in outs] == ["y_0_h264-8.gif", "y_1_still.gif"]
    assert [getattr(Image.open(path), "n_frames", 1) for path in outs] == [3, 1]
    with pytest.raises(ValueError, match="ends in .gif or .mp4"):
        write_movie([np.zeros((4, 4, 3), np.uint8)], folder / "z.avi", 5)


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_what_is_no_video_ends_in_one_line(folder, capsys, tmp_path, name):
    video = make(name, tmp_path)
    assert name in refused(
        capsys, "attention", "-r", folder / "a.pth", video, "-o", tmp_path / "x.png"
    )
    assert name in refused(
        capsys,
        "attention",
        "-r",
        folder / "a.pth",
        video,
        "-o",
        tmp_path / "x",
        "--animate",
        "gif",
    )
    assert not list(tmp_path.glob("x*"))


def test_mistakes_end_in_one_line(folder, capsys):
    base = "-r", folder / "a.pth", folder / "h264-8.mp4", "-o", folder / "no.png"
    assert "no VIDEO" in refused(capsys, "masking", "-r", folder / "a.pth")
    assert "2 for 1 checkpoints" in refused(
        capsys, "masking", *base, "--names", "a", "b"
    )
    assert "its words: a dog, a, dog" in refused(
        capsys, "alignment", *base, "--text", "a dog", "--word", "frisbee"
    )
    assert "has no words" in refused(capsys, "alignment", *base, "--text", "...")
    assert "0 to 1, or -1" in refused(capsys, "attention", *base, "--block", 7)
    assert "mean or each" in refused(capsys, "attention", *base, "--heads", "all")
    assert "16 or more" in refused(capsys, "attention", *base, "--panel", 3)
    assert "--most 0: 1 or more" in refused(
        capsys, "attention", *base, "--animate", "gif", "--most", 0
    )
    assert "GPU 99" in refused(capsys, "masking", *base, "-d", "cuda:99")
    assert "gone.mp4" in refused(
        capsys, "attention", "-r", folder / "a.pth", folder / "gone.mp4"
    )
    assert "gone.pth" in refused(
        capsys, "attention", "-r", folder / "gone.pth", folder / "h264-8.mp4"
    )
    assert "h264-8.mp4" in refused(
        capsys, "attention", "-r", folder / "h264-8.mp4", folder / "h264-8.mp4"
    )
    assert not (folder / "no.png").exists()


def test_without_matplotlib_it_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install matplotlib" in refused(
        capsys, "masking", "-r", folder / "a.pth", folder / "h264-8.mp4"
    )


def test_a_checkpoint_of_another_project_has_no_teacher(folder, tmp_path, capsys):
    checkpoint_content = torch.load(folder / "a.pth", weights_only=True)
    config = {
        "arch": checkpoint_content["config"]["arch"],
        "loss": {"type": "NormSoftmaxLoss"},
    }
    torch.save(
        {
            "arch": "FrozenInTime",
            "state_dict": checkpoint_content["state_dict"],
            "config": config,
        },
        tmp_path / "frozen.pth",
    )
    assert "no teacher" in load_masking(tmp_path / "frozen.pth").description
    (out,) = run(
        capsys,
        "masking",
        "-r",
        tmp_path / "frozen.pth",
        folder / "h264-8.mp4",
        "-o",
        tmp_path / "f.png",
    )
    assert out.stat().st_size > 5000


def test_a_run_folder_has_the_teacher_of_its_checkpoint(folder, tmp_path):
    (tmp_path / "model_best.pth").symlink_to(folder / "a.pth")
    assert (
        load_masking(tmp_path).description == load_masking(folder / "a.pth").description
    )


def test_the_command_from_a_shell(folder, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "scripts/visualize.py"),
        "alignment",
        "-r",
        str(folder / "a.pth"),
        "-r",
        str(folder / "b.pth"),
        str(folder / "h264-8.mp4"),
        "--text",
        "a dog runs",
        "--word",
        "dog",
    ]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert (
        process.stdout == "exps/figures/alignment.png\n"
        and Image.open(tmp_path / process.stdout.strip()).size[0] > 1000
    )
