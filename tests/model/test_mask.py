"""Masks: exact shares, contiguous blocks, draws that can be replayed."""

import pytest
import torch

from model.mask import MASKS
from parse_config import ConfigError


def draw(name, batch=16, grid=(3, 7, 9), seed=0, progress=0.0, device="cpu", **args):
    torch.manual_seed(seed)
    mask = MASKS.build({"type": name, "args": args})
    attention = None
    if mask.needs_attention:
        attention = torch.rand(batch, grid[0], grid[1] * grid[2]).to(device)
    return mask(batch, grid, device, progress, attention)


@pytest.mark.parametrize("name", MASKS.names())
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("grid", [(3, 7, 9), (1, 1, 1), (4, 2, 2), (2, 1, 12)])
def test_every_mask_hides_exactly_its_share(name, ratio, grid):
    mask = draw(name, grid=grid, ratio=ratio)
    frames, places = grid[0], grid[1] * grid[2]
    assert mask.shape == (16, frames, places) and mask.dtype == torch.bool
    assert (mask.sum(-1) == round(ratio * places)).all()


@pytest.mark.parametrize("name", MASKS.names())
def test_every_mask_is_replayed_by_the_global_seed_and_no_other(name):
    assert torch.equal(draw(name), draw(name))
    assert not torch.equal(draw(name), draw(name, seed=1))
    mask = draw(name, batch=8)
    assert len({tuple(clip.flatten().tolist()) for clip in mask}) == 8, (
        "each clip has its own"
    )


@pytest.mark.parametrize("name", MASKS.names())
def test_every_masks_ratio_follows_its_schedule(name):
    points = [[0.0, 0.6], [0.5, 0.4], [0.75, 0.4], [0.75, 0.0]]
    expected = {0.0: 0.6, 0.25: 0.5, 0.5: 0.4, 0.7: 0.4, 0.75: 0.0, 1.0: 0.0}
    for progress, ratio in expected.items():
        mask = draw(name, ratio=points, progress=progress)
        assert (mask.sum(-1) == round(ratio * 63)).all(), progress


def test_the_attention_mask_hides_the_least_attended():
    attention = torch.tensor([[[0.3, 0.0, 0.2, 0.5], [0.1, 0.2, 0.3, 0.4]]])
    mask = MASKS.build({"type": "Attention", "args": {"ratio": 0.5}})
    hidden = mask(1, (2, 2, 2), "cpu", 0.0, attention)
    assert hidden.tolist() == [[[False, True, True, False], [True, True, False, False]]]
    with pytest.raises(ValueError, match="needs attention_BTN"):
        mask(1, (2, 2, 2))


def test_the_sampled_attention_mask_keeps_in_proportion_to_attention():
    attention = torch.tensor([0.5, 0.3, 0.15, 0.05]).expand(40000, 1, 4)
    mask = MASKS.build({"type": "Attention", "args": {"ratio": 0.5, "sampled": True}})
    torch.manual_seed(0)
    kept = ~mask(40000, (1, 2, 2), "cpu", 0.0, attention)[:, 0]
    share = [0.5, 0.3, 0.15, 0.05]
    for i in range(4):
        # drawn first, or second after another one
        expected = share[i] + sum(
            share[j] * share[i] / (1 - share[j]) for j in range(4) if j != i
        )
        assert kept[:, i].float().mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", ["Tube", "TubeBlock"])
def test_tubes_are_the_same_in_every_frame(name):
    mask = draw(name)
    assert torch.equal(mask, mask[:, :1].expand_as(mask))


def test_random_hides_other_places_in_every_frame():
    mask = draw("Random")
    assert all(not torch.equal(clip[0], clip[1]) for clip in mask)


def islands(mask_HW):
    """Hidden places counted by connected pieces (neighbours share an edge), largest first."""
    left, sizes = {tuple(place) for place in mask_HW.nonzero().tolist()}, []
    while left:
        edge, size = [left.pop()], 0
        while edge:
            y, x = edge.pop()
            size += 1
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            edge += near
        sizes.append(size)
    return sorted(sizes, reverse=True)


def test_blocks_are_contiguous_and_scattered_places_are_not():
    pieces = {
        name: [
            len(islands(clip))
            for clip in draw(name, 200, (1, 14, 14))[:, 0].view(-1, 14, 14)
        ]
        for name in ("TubeBlock", "Tube")
    }
    mean = {name: sum(counts) / len(counts) for name, counts in pieces.items()}
    assert mean["TubeBlock"] < 3 and mean["Tube"] > 8, mean
    assert min(pieces["TubeBlock"]) == 1
    largest = draw("TubeBlock", 200, (1, 14, 14), ratio=0.2, min_block=0.2)[:, 0].view(
        -1, 14, 14
    )
    whole = [clip for clip in largest if len(islands(clip)) == 1]
    assert len(whole) > 50, "one block at once is not rare"


def test_blocks_have_many_shapes_and_reach_every_place():
    masks = draw("TubeBlock", 2000, (1, 14, 14))[:, 0].view(-1, 14, 14)
    often = masks.float().mean(0)
    assert often.min() > 0.15 and often.max() < 0.75, (often.min(), often.max())
    torch.testing.assert_close(often, often.flip(0), rtol=0, atol=0.08)
    torch.testing.assert_close(often, often.T, rtol=0, atol=0.08)
    blocks = draw("TubeBlock", 200, (1, 14, 14), ratio=0.2, min_block=0.2)[:, 0].view(
        -1, 14, 14
    )
    for lines in (blocks.any(2), blocks.any(1)):
        assert len(lines.sum(1).unique()) >= 6, "flat and upright ones"


@pytest.mark.parametrize("name", MASKS.names())
@pytest.mark.parametrize("ratio", [50, -0.1])
def test_a_wrong_ratio_is_refused(name, ratio):
    with pytest.raises(
        ConfigError, match="mask.args.ratio: .* is given, 0 to 1 is needed"
    ):
        MASKS.build({"type": name, "args": {"ratio": ratio}})


def test_wrong_blocks_are_refused():
    for args in ({"min_block": 2.0}, {"max_aspect": 0.3}):
        with pytest.raises(ConfigError, match="min_block"):
            MASKS.build({"type": "TubeBlock", "args": args})


@pytest.mark.parametrize("name", MASKS.names())
def test_every_device_gets_the_same_mask(name):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mask = draw(name, device=device)
    assert mask.device.type == device.type and torch.equal(mask.cpu(), draw(name))
