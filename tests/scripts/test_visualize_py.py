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
from scripts.figures.clips import clips
from scripts.figures.heatmap import FAINT, FULL, Scale, enlarge, overlay
from scripts.figures.masking import masking_error, masking_of
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

ROOT = Path(__file__).resolve().parents[2]
SIDE = 48
BELOW = (
    TOP + TITLE + LINE + SIDE + GAP
)  # where the first row of heat begins, under a title and the row of frames


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a.pth, b.pth, clips and a picture."""
    place = tmp_path_factory.mktemp("place")
    for seed, name in enumerate("ab"):
        folder = tiny_models.save_text_model(place / f"text_{name}")
        model = tiny_models.build_miles(
            folder, seed, time_init="rand", weight_std=0.3, pos_embed_std=0.5
        ).eval()
        checkpoint(
            model, folder, place / f"{name}.pth", mask={"type": "Tube", "args": {"ratio": 0.25}}
        )
    for name in ("h264.mp4", "h264-8.mp4", "vp9.webm"):
        make(name, place)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(
        place / "still.jpg"
    )
    return place


def run(capsys, *words):
    visualize.cli([str(word) for word in words])
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


def refused(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        visualize.cli([str(word) for word in words])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and said.startswith("error: ")
    return said


def panel(path, row, column, top=BELOW):
    """A picture of the sheet, counted from the first row of heat."""
    left, down = LEFT + column * (SIDE + GAP), top + row
    return np.asarray(Image.open(path))[down : down + SIDE, left : left + SIDE]


@pytest.mark.parametrize("smooth", [True, False])
def test_overlay_pixel_by_pixel(smooth):
    from matplotlib import colormaps

    made = np.random.default_rng(0)
    picture, heat = (
        made.integers(0, 255, (12, 16, 3), np.uint8),
        made.normal(size=(3, 4)).astype(np.float32),
    )
    scale = Scale(-0.5, 1.0, "x", "viridis")
    drawn, values = overlay(picture, heat, scale, smooth), enlarge(heat, (12, 16), smooth)
    for y in range(12):
        for x in range(16):
            share = min(max((float(values[y, x]) + 0.5) / 1.5, 0.0), 1.0)
            cover = FAINT + (FULL - FAINT) * share
            grey = picture[y, x] @ [0.299, 0.587, 0.114]
            wanted = [(1 - cover) * grey + cover * 255 * c for c in colormaps["viridis"](share)[:3]]
            np.testing.assert_allclose(drawn[y, x], wanted, atol=0.51)


def test_enlarging_is_smooth_and_invents_no_values():
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 5
    large = enlarge(heat, (64, 64))
    peak = np.unravel_index(large.argmax(), large.shape)
    assert abs(peak[0] - 23.5) <= 1 and abs(peak[1] - 39.5) <= 1  # the middle of the patch
    assert large.min() == 0 and 4 < large.max() <= 5 and np.abs(np.diff(large, axis=0)).max() < 0.6
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
    assert (drawn[:, :4] == round(100 * (1 - FAINT))).all() and (drawn[:, 4:] != drawn[0, 0]).any(
        -1
    ).all()


def test_a_sheet_holds_its_pictures_to_the_pixel():
    made = np.random.default_rng(1)
    pictures = made.integers(0, 255, (2, 3, 20, 30, 3), np.uint8)
    rows = [
        Row(
            "one",
            [[(pictures[0, 0], "a"), (pictures[0, 1], "")], [(pictures[0, 2], "$_{")]],
            heat=False,
        ),
        Row("two", [[(pictures[1, 0], ""), (pictures[1, 1], "")], [(pictures[1, 2], "")]]),
    ]
    block = Block("clip", rows, Scale(2, 2, "flat"))
    sheet = draw([block, block], ["left", "right"], "all")
    assert sheet.shape[1::-1] == sheet_size([block, block], ["left", "right"], "all")
    assert sheet.shape[1] == LEFT + 3 * 30 + GAP + 4 * GAP + BAR
    height = TITLE + LINE + 20 + GAP + 20 + GAP
    for start in (TOP + 2 * HEAD, TOP + 2 * HEAD + height):
        for down, row in ((start + TITLE + LINE, 0), (start + TITLE + LINE + 20 + GAP, 1)):
            for x, column in ((LEFT, 0), (LEFT + 30 + GAP, 1), (LEFT + 60 + 5 * GAP, 2)):
                np.testing.assert_array_equal(
                    sheet[down : down + 20, x : x + 30], pictures[row, column]
                )


def test_attention_drawn_is_attention_computed(place, capsys):
    videos = [place / "h264.mp4", place / "vp9.webm"]
    (out,) = run(
        capsys,
        "attention",
        "-r",
        place / "a.pth",
        *videos,
        "-o",
        place / "deep/a.png",
        "--panel",
        SIDE,
    )
    block = TITLE + LINE + 2 * (SIDE + GAP)
    assert Image.open(out).size == (LEFT + 4 * (SIDE + GAP) + 12 + BAR - 16, TOP + 2 * block + GAP)
    model = load_model(place / "a.pth", "cpu")
    for number, clip in enumerate(clips(model, videos, SIDE)):
        heat = attention_maps(model, clip)["mean of heads"]
        for t in range(4):
            np.testing.assert_array_equal(
                panel(out, number * block - SIDE - GAP, t), clip.picture_TPPC[t]
            )
            wanted = overlay(
                clip.picture_TPPC[t], heat[t], Scale(0, heat.max(), "")
            )  # one scale for all its frames
            np.testing.assert_array_equal(panel(out, number * block, t), wanted)


def test_each_head_any_block_and_two_checkpoints(place, capsys):
    common = (
        "-r",
        place / "a.pth",
        place / "b.pth",
        place / "h264.mp4",
        "--panel",
        SIDE,
    )  # a video behind -r A B
    (out,) = run(
        capsys,
        "attention",
        *common,
        "-o",
        place / "h.png",
        "--heads",
        "each",
        "--block",
        0,
        "--over",
        "time",
    )
    assert Image.open(out).size[1] == TOP + HEAD + TITLE + LINE + 3 * (SIDE + GAP) + GAP
    heats = [
        attention_maps(model, clips(model, place / "h264.mp4", SIDE)[0], 0, "each", "time")
        for model in (load_model(place / "a.pth", "cpu"), load_model(place / "b.pth", "cpu"))
    ]
    scale = Scale(0, max(heat.max() for maps in heats for heat in maps.values()), "")
    picture = clips(load_model(place / "a.pth", "cpu"), place / "h264.mp4", SIDE)[0].picture_TPPC[2]
    np.testing.assert_array_equal(
        panel(out, HEAD + SIDE + GAP, 2), overlay(picture, heats[0]["head 1"][2], scale)
    )
    second = np.asarray(Image.open(out))[BELOW + HEAD :, 4 * (SIDE + GAP) + 3 * GAP :][
        :SIDE, LEFT + 2 * (SIDE + GAP) :
    ]
    np.testing.assert_array_equal(second[:, :SIDE], overlay(picture, heats[1]["head 0"][2], scale))


@pytest.mark.parametrize("more", [(), ("--relative",)])
def test_alignment_drawn_is_alignment_computed(place, capsys, more):
    (out,) = run(
        capsys,
        "alignment",
        "-r",
        place / "a.pth",
        place / "h264.mp4",
        "--text",
        "a red dog",
        "--word",
        "dog",
        "red",
        "-o",
        place / "w.png",
        "--panel",
        SIDE,
        *more,
    )
    model = load_model(place / "a.pth", "cpu")
    clip = clips(model, place / "h264.mp4", SIDE)[0]
    heat = word_similarity(model, clip.video_BTCHW, "a red dog")[1].numpy()
    heat = (heat - sum(heat) / 3 if more else heat)[1:]
    for w in range(2):
        for t in range(4):
            wanted = overlay(clip.picture_TPPC[t], heat[w, t], Scale(heat.min(), heat.max(), ""))
            seen = panel(out, HEAD + LINE + w * (SIDE + LINE + GAP), t)
            assert np.abs(seen.astype(int) - wanted).max() <= bool(more)


def test_masking_drawn_is_masking_computed(place, capsys):
    (out,) = run(
        capsys,
        "masking",
        "-r",
        place / "a.pth",
        place / "h264.mp4",
        "--seed",
        3,
        "-o",
        place / "m.png",
        "--panel",
        SIDE,
    )
    made = masking_of(place / "a.pth")
    clip = clips(made.objective.model, place / "h264.mp4", SIDE)[0]
    mask, error = masking_error(made, clip.video_BTCHW, 3)
    blind, shown = panel(out, HEAD, 1), panel(out, HEAD + SIDE + GAP + LINE, 1)
    patch = SIDE // 4
    for y in range(4):
        for x in range(4):
            at = slice(y * patch, (y + 1) * patch), slice(x * patch, (x + 1) * patch)
            assert bool((blind[at] == 128).all()) == bool(mask[1, y, x])
            assert mask[1, y, x] or (blind[at] == clip.picture_TPPC[1][at]).all()
    assert mask[1].sum() == 4
    heat = np.where(mask, error, np.nan)[1]
    wanted = overlay(
        clip.picture_TPPC[1], heat, Scale(0, float(error[mask].max()), ""), smooth=False
    )
    np.testing.assert_array_equal(shown, wanted)


def test_an_image_is_one_frame_and_an_exported_folder_a_checkpoint(place, capsys):
    load_model(place / "a.pth", "cpu").save_pretrained(place / "folder")
    for kind, more in (("attention", ()), ("alignment", ("--text", "a dog")), ("masking", ())):
        (out,) = run(
            capsys,
            kind,
            "-r",
            place / "folder",
            place / "still.jpg",
            "-o",
            place / "s.png",
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
def test_moving_pictures_show_every_frame(place, capsys, kind):
    (out,) = run(
        capsys,
        "attention",
        "-r",
        place / "a.pth",
        place / "b.pth",
        place / "h264-8.mp4",
        "--animate",
        kind,
        "--fps",
        100,
        "-o",
        place / "x.png",
        "--panel",
        SIDE,
        "--names",
        "one",
        "two",
    )
    assert out == place / f"x.{kind}"
    if kind == "gif":
        pages = [page.convert("RGB") for page in frames_of(Image.open(out))]
    else:
        with av.open(str(out)) as container:
            pages = [frame.to_image() for frame in container.decode(video=0)]
            assert container.streams.video[0].average_rate == 25
    assert len(pages) == 8 and len({page.size for page in pages}) == 1
    clip = clips(load_model(place / "a.pth", "cpu"), place / "h264-8.mp4", SIDE)[
        0
    ]  # frames 0, 2, 4, 6
    down = TOP + HEAD + TITLE + LINE
    shown = np.asarray(pages[2])[down : down + SIDE, LEFT : LEFT + SIDE].astype(float)
    assert np.corrcoef(shown.ravel(), clip.picture_TPPC[1].ravel())[0, 1] > 0.98


def frames_of(image):
    for number in range(image.n_frames):
        image.seek(number)
        yield image


def test_moving_pictures_of_several_videos_and_a_window(place, capsys):
    outs = run(
        capsys,
        "attention",
        "-r",
        place / "a.pth",
        place / "h264-8.mp4",
        place / "still.jpg",
        "--animate",
        "gif",
        "--window",
        0.2,
        "--most",
        3,
        "-o",
        place / "y.gif",
        "--panel",
        SIDE,
    )
    assert [path.name for path in outs] == ["y_0_h264-8.gif", "y_1_still.gif"]
    assert [getattr(Image.open(path), "n_frames", 1) for path in outs] == [3, 1]
    with pytest.raises(ValueError, match="ends in .gif or .mp4"):
        write_movie([np.zeros((4, 4, 3), np.uint8)], place / "z.avi", 5)


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_what_is_no_video_ends_in_one_line(place, capsys, tmp_path, name):
    video = make(name, tmp_path)
    assert name in refused(
        capsys, "attention", "-r", place / "a.pth", video, "-o", tmp_path / "x.png"
    )
    assert name in refused(
        capsys, "attention", "-r", place / "a.pth", video, "-o", tmp_path / "x", "--animate", "gif"
    )
    assert not list(tmp_path.glob("x*"))


def test_mistakes_end_in_one_line(place, capsys):
    base = "-r", place / "a.pth", place / "h264-8.mp4", "-o", place / "no.png"
    assert "no VIDEO" in refused(capsys, "masking", "-r", place / "a.pth")
    assert "2 for 1 checkpoints" in refused(capsys, "masking", *base, "--names", "a", "b")
    assert "its words: a, dog" in refused(
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
    assert "gone.mp4" in refused(capsys, "attention", "-r", place / "a.pth", place / "gone.mp4")
    assert "gone.pth" in refused(
        capsys, "attention", "-r", place / "gone.pth", place / "h264-8.mp4"
    )
    assert "h264-8.mp4" in refused(
        capsys, "attention", "-r", place / "h264-8.mp4", place / "h264-8.mp4"
    )
    assert not (place / "no.png").exists()


def test_without_matplotlib_it_is_named(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install matplotlib" in refused(
        capsys, "masking", "-r", place / "a.pth", place / "h264-8.mp4"
    )


def test_a_checkpoint_of_another_project_has_no_teacher(place, tmp_path, capsys):
    held = torch.load(place / "a.pth", weights_only=True)
    config = {"arch": held["config"]["arch"], "loss": {"type": "NormSoftmaxLoss"}}
    torch.save(
        {"arch": "FrozenInTime", "state_dict": held["state_dict"], "config": config},
        tmp_path / "frozen.pth",
    )
    assert "no teacher" in masking_of(tmp_path / "frozen.pth").about
    (out,) = run(
        capsys,
        "masking",
        "-r",
        tmp_path / "frozen.pth",
        place / "h264-8.mp4",
        "-o",
        tmp_path / "f.png",
    )
    assert out.stat().st_size > 5000


def test_the_command_from_a_shell(place, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "scripts/visualize.py"),
        "alignment",
        "-r",
        str(place / "a.pth"),
        "-r",
        str(place / "b.pth"),
        str(place / "h264-8.mp4"),
        "--text",
        "a dog runs",
        "--word",
        "dog",
    ]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert (
        said.stdout == "exps/figures/alignment.png\n"
        and Image.open(tmp_path / said.stdout.strip()).size[0] > 1000
    )
