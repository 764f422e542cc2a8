"""Which frames are picked, compared with Frozen in Time's arithmetic, for every length from one frame on."""

import pickle
import random

import numpy as np
import pytest
import torch

from data_loader import reader, seeding
from data_loader.frames import FrameChoice, pick, windows
from data_loader.reader import read_clip
from scripts.synthetic.miniatures import write_media

LENGTHS = [*range(1, 40), 100, 1001]


@pytest.mark.parametrize("num_frames", [1, 2, 4, 7, 12])
def test_uniform_is_the_middle_of_equal_segments_as_in_frozen(num_frames):
    for length in LENGTHS:
        picked = pick(length, num_frames)
        assert len(picked) == num_frames
        assert picked == sorted(picked)
        assert 0 <= picked[0] <= picked[-1] < length
        if length >= num_frames:
            edges = (np.linspace(0, length, num_frames + 1) + 1e-9).astype(int)
            assert picked == [
                (low + high - 1) // 2 for low, high in zip(edges, edges[1:])
            ]
        else:
            assert set(picked) == set(range(length))


@pytest.mark.parametrize(
    ("length", "num_frames"),
    [(1, 1), (1, 4), (2, 4), (3, 4), (4, 4), (5, 4), (7, 2), (16, 4), (9, 12)],
)
def test_random_reaches_every_frame_of_its_segment_and_no_other(length, num_frames):
    generator = torch.Generator().manual_seed(0)
    drawn = [pick(length, num_frames, "random", generator) for _ in range(600)]
    assert {index for picked in drawn for index in picked} == set(range(length))
    assert all(
        len(picked) == num_frames and picked == sorted(picked) for picked in drawn
    )
    for i in range(num_frames):
        low, high = i * length / num_frames, (i + 1) * length / num_frames
        assert all(int(low) <= picked[i] < max(high, int(low) + 1) for picked in drawn)


def test_random_is_even_and_a_function_of_the_generator():
    generator = torch.Generator().manual_seed(1)
    drawn = torch.tensor([pick(12, 3, "random", generator) for _ in range(4000)])
    counts = torch.bincount(drawn.flatten(), minlength=12)
    assert counts.min() > 850 and counts.max() < 1150
    random.seed(0)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = pick(1000, 4, "random", torch.Generator().manual_seed(5))
    torch.rand(3), random.random()
    assert first == pick(1000, 4, "random", torch.Generator().manual_seed(5))
    torch.set_rng_state(state)
    drawn = pick(1000, 4, "random")
    torch.set_rng_state(state)
    assert drawn == pick(1000, 4, "random")  # no generator: torch's


@pytest.mark.parametrize(
    ("length", "num_frames", "how"),
    [(0, 4, "uniform"), (5, 0, "random"), (5, 4, "middle")],
)
def test_impossible_requests_say_so(length, num_frames, how):
    with pytest.raises(ValueError, match="frames"):
        pick(length, num_frames, how)


def test_windows_take_the_same_frame_of_each_segment():
    assert windows(12, 3, 2) == [[0, 4, 8], [2, 6, 10]]
    assert windows(12, 3, 1) == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert windows(10, 4, 5) == [[0, 2, 5, 7]]
    for length in LENGTHS:
        sliding = windows(length, 4, 1)
        assert len(sliding) == max(1, length // 4)
        assert all(0 <= index < length for window in sliding for index in window)
        assert all(window == sorted(window) for window in sliding)
    assert windows(1, 4, 1) == [[0, 0, 0, 0]]
    with pytest.raises(ValueError, match="stride"):
        windows(10, 4, 0)


@pytest.mark.parametrize("how", ["uniform", "random"])
def test_a_choice_gives_the_same_in_any_process(how):
    seeds = (3, 1, 4) if how == "random" else ()
    choice = FrameChoice(4, how, seeds)
    sent = pickle.loads(pickle.dumps(choice))
    for length in (1, 3, 4, 250):
        generator = seeding.generator(*seeds) if seeds else None
        assert sent(length) == choice(length) == pick(length, 4, how, generator)


def test_the_decoders_process_asks_nothing_of_a_choice(tmp_path, monkeypatch):
    write_media(tmp_path / "a.mp4", 1)
    asked = []
    monkeypatch.setattr(reader, "_chosen", lambda choose, length: asked.append(length))
    clip_TCHW, indices = read_clip(tmp_path / "a.mp4", FrameChoice(2))
    expected_TCHW, expected = read_clip(
        tmp_path / "a.mp4", lambda length: pick(length, 2), deadline=None
    )
    assert indices == expected and torch.equal(clip_TCHW, expected_TCHW)
    assert asked == []
