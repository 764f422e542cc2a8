"""Scenes as natural video has them: a textured background, a camera that pans, groups of large textured objects.

Letters: F frames of a clip, S side of a frame in pixels, P points, N grid lines of a noise, C channels. Lengths are in
units of the side.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from scripts.synthetic.shapes import (
    Canvas,
    Group,
    Trajectory,
    border_gap,
    draw_colour,
    draw_trajectory,
)

OCTAVES = (2, 4, 8, 16)  # cells of the background's noise from border to border
PAN = (0.12, 0.2)  # way of the background from the first frame to the last
MARGIN = PAN[1] / 2  # of the background around the picture
# The scale of `draw_trajectory` by the number of copies: 1, 0.8 and 0.68 times 1.6 times that of two plain objects.
SCALES = {1: 1.04, 2: 0.83, 3: 0.71}
TRIES = 24  # draws of a copy's trajectory
CONTRAST = 0.15  # of an object's texture
TEXTURE_CELLS = 8


def draw_textured(
    groups: Sequence[Group], frames: int, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a clip of groups of textured objects; the camera pans over them and their background.

    Returns uint8 RGB frames (F, S, S, 3) and masks (F, S, S): k where the k-th group is seen, counted from 1, else 0.
    """
    direction = rng.uniform(0, 2 * np.pi)
    way = rng.uniform(*PAN) * np.array([np.cos(direction), np.sin(direction)])
    pan_F2 = np.linspace(-0.5, 0.5, frames)[:, None] * way
    canvas = Canvas(draw_background(pan_F2, side, rng), side)

    placed = place_groups(groups, frames, rng)
    for label, (group, trajectories) in enumerate(
        zip(groups, placed, strict=True), start=1
    ):
        texture = draw_texture(rng)
        colour_at = partial(_shaded, draw_colour(group.colour, rng), texture)
        for trajectory in trajectories:
            moved = replace(trajectory, centre=trajectory.centre + pan_F2)
            canvas.paint(group, moved, colour_at, label)
    return canvas.finish()


def draw_background(
    pan_F2: np.ndarray, side: int, rng: np.random.Generator
) -> np.ndarray:
    """(F, P, 3): coloured smooth noise of several octaves, rather dark, moved by `pan_F2`."""
    grid_S = (np.arange(side) + 0.5) / side
    position_F2S = (grid_S - pan_F2[..., None] + MARGIN) / (1 + 2 * MARGIN)
    pixels_FSSC = np.zeros((len(pan_F2), side, side, 3)) + rng.uniform(25, 90, 3)
    amplitude = rng.uniform(30, 50)
    for cells in OCTAVES:
        size = (cells + 1, cells + 1)
        grey_NN1 = rng.uniform(-1, 1, (*size, 1))
        noise_NNC = grey_NN1 + 0.5 * rng.uniform(-1, 1, (*size, 3))
        column_FSN = _weights(position_F2S[:, 0], cells)
        row_FSN = _weights(position_F2S[:, 1], cells)
        rows_FSNC = (row_FSN @ noise_NNC.reshape(size[0], -1)).reshape(
            *row_FSN.shape, 3
        )
        pixels_FSSC += amplitude * column_FSN[:, None] @ rows_FSNC
        amplitude /= 2
    return np.clip(pixels_FSSC, 0, 255).reshape(len(pan_F2), -1, 3)


def _weights(position: np.ndarray, cells: int) -> np.ndarray:
    """(..., N): weights of the N = cells + 1 grid lines at positions (...) from 0 to 1; smooth, their sum is 1."""
    distance = np.abs(position[..., None] * cells - np.arange(cells + 1))
    near = np.clip(1 - distance, 0, 1)
    return near**2 * (3 - 2 * near)


def place_groups(
    groups: Sequence[Group], frames: int, rng: np.random.Generator
) -> list[list[Trajectory]]:
    """Trajectories of the copies of each group, one copy after another where it overlaps the earlier ones least."""
    placed: list[list[Trajectory]] = []
    for group in groups:
        members: list[Trajectory] = []
        for _ in range(group.count):
            others = [other for earlier in placed for other in earlier]
            trajectory = _place_copy(group, frames, rng, members, others)
            if members:  # they blink together
                trajectory = replace(trajectory, opacity=members[0].opacity)
            members.append(trajectory)
        placed.append(members)
    return placed


def _place_copy(
    group: Group,
    frames: int,
    rng: np.random.Generator,
    members: Sequence[Trajectory],
    others: Sequence[Trajectory],
) -> Trajectory:
    """Of TRIES draws the first that touches nothing, or the one that covers least.

    What it covers of `members`, its own group, counts half of what it covers of `others`.
    """
    largest_gap = -np.inf
    for _ in range(TRIES):
        trajectory = draw_trajectory(group.motion, frames, rng, SCALES[group.count])
        own_gaps = [border_gap(trajectory, member) / 2 for member in members]
        other_gaps = [border_gap(trajectory, other) for other in others]
        gap = min(own_gaps + other_gaps, default=np.inf)
        if gap > largest_gap:
            largest_gap = gap
            best_trajectory = trajectory
        if gap >= 0:
            break
    return best_trajectory


def draw_texture(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """A pattern of stripes or noise: (P,) from -1 to 1 at points (P, 2) in units of the object's radius."""
    if rng.random() < 0.5:
        direction = rng.uniform(0, np.pi)
        wave = rng.uniform(5, 10) * np.array([np.cos(direction), np.sin(direction)])
        return partial(_stripes, wave, rng.uniform(0, 2 * np.pi))
    return partial(_noise, rng.uniform(-1, 1, (TEXTURE_CELLS + 1, TEXTURE_CELLS + 1)))


def _stripes(wave: np.ndarray, phase: float, local_P2: np.ndarray) -> np.ndarray:
    return np.sin(local_P2 @ wave + phase)


def _noise(noise_NN: np.ndarray, local_P2: np.ndarray) -> np.ndarray:
    position_P2 = np.clip((local_P2 + 1.5) / 3, 0, 1)
    column_PN = _weights(position_P2[:, 0], TEXTURE_CELLS)
    row_PN = _weights(position_P2[:, 1], TEXTURE_CELLS)
    return ((row_PN @ noise_NN) * column_PN).sum(1)


def _shaded(
    colour: np.ndarray,
    texture: Callable[[np.ndarray], np.ndarray],
    local_P2: np.ndarray,
) -> np.ndarray:
    """(P, 3): the colour, lighter and darker as the texture says."""
    return colour * (1 + CONTRAST * texture(local_P2))[:, None]


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
