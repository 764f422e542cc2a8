"""Coloured shapes that move, grow, turn and blink, drawn antialiased with numpy.

Letters: F frames of a clip, S side of a frame in pixels. Lengths are in units of the side: a clip looks the same
at any size.
"""

from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (225, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 235), "yellow": (240, 225, 50),
    "purple": (150, 50, 190), "orange": (245, 135, 25), "cyan": (60, 215, 225), "white": (245, 245, 245),
    "pink": (250, 140, 190), "grey": (135, 135, 135),
}  # fmt: skip
MOTIONS = ("left", "right", "up", "down", "grow", "shrink", "turn", "blink")
ROUND = ("ring",)  # its turn cannot be seen
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class Thing:
    """One object of a clip: what the caption says of it."""

    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class Path:
    """What the caption does not say: centre (F, 2), radius (F,), angle in radians (F,), opacity (F,)."""

    centre: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    opacity: np.ndarray


def cross(arm: float) -> np.ndarray:
    """Corners (12, 2) of a cross with arms `arm` half-wide."""
    quarter = np.array([(arm, -1.0), (arm, -arm), (1.0, -arm)])
    turns = [
        np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        for a in np.pi / 2 * np.arange(4)
    ]
    return np.concatenate([quarter @ turn.T for turn in turns])


def polygon_distance(point_P2: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance (P,) of points (P, 2) to a closed polygon (n, 2); negative inside."""
    start, edge = corners, np.roll(corners, -1, axis=0) - corners
    offset = point_P2[:, None] - start
    along = np.clip((offset * edge).sum(-1) / (edge**2).sum(-1), 0, 1)
    distance = np.sqrt(((offset - along[..., None] * edge) ** 2).sum(-1).min(1))
    above = offset[..., 1] >= 0
    crosses = above != np.roll(above, -1, axis=1)
    side = edge[:, 0] * offset[..., 1] - edge[:, 1] * offset[..., 0]
    inside = (crosses & ((side > 0) == above)).sum(1) % 2 == 1
    return np.where(inside, -distance, distance)


def box(width: float, height: float) -> np.ndarray:
    """Corners (4, 2) of a rectangle; half its width and height are given."""
    return np.array([(-width, -height), (width, -height), (width, height), (-width, height)])


SHAPES = {
    "ring": lambda p: np.abs(np.hypot(p[:, 0], p[:, 1]) - 0.78) - 0.2,
    "square": lambda p: polygon_distance(p, box(0.82, 0.82)),
    "bar": lambda p: polygon_distance(p, box(1.1, 0.3)),
    "triangle": lambda p: polygon_distance(p, np.array([(0, -1.1), (1.05, 0.75), (-1.05, 0.75)])),
    "cross": lambda p: polygon_distance(p, cross(0.3)),
}


def all_things() -> list[Thing]:
    """Every colour x shape x motion that can be told from the others by looking."""
    return [
        Thing(colour, shape, motion) for colour in COLOURS for shape in SHAPES for motion in MOTIONS
        if not (motion == "turn" and shape in ROUND)
    ]  # fmt: skip


def plan(motion: str, frames: int, rng: np.random.Generator, scale: float = 1.0) -> Path:
    """Draw where an object with this motion is at each frame; always inside the picture.

    A lone one goes nearly from border to border, or stays, not far from the middle line.
    """
    time = np.linspace(0.0, 1.0, frames)
    radius = np.full(
        frames,
        scale * (rng.uniform(0.18, 0.22) if motion in DIRECTIONS else rng.uniform(0.25, 0.32)),
    )
    if motion in ("grow", "shrink"):
        small, large = scale * rng.uniform(0.07, 0.10), scale * rng.uniform(0.32, 0.38)
        radius = np.linspace(small, large, frames)[:: 1 if motion == "grow" else -1]
    room = 1 - 2.3 * radius.max()
    way = np.array(DIRECTIONS.get(motion, (0, 0))) * room * rng.uniform(0.9, 1.0)
    slack = room - np.abs(way)
    if scale == 1.0:
        slack = np.minimum(slack, 0.15)
    middle = 0.5 + (rng.random(2) - 0.5) * slack
    spin = rng.choice([-1, 1]) * rng.uniform(0.6, 1.0) * np.pi if motion == "turn" else 0.0
    opacity = np.ones(frames)
    if motion == "blink":
        opacity = ((np.arange(frames) + rng.integers(6)) // 3 % 2).astype(float)
    centre = middle + (time - 0.5)[:, None] * way
    return Path(centre, radius, rng.uniform(-0.12, 0.12) + spin * time, opacity)


def plan_apart(
    things: tuple[Thing, ...], frames: int, rng: np.random.Generator, tries: int = 60
) -> list[Path]:
    """Plan several objects so that they do not cover each other; of `tries` draws the one that leaves most room."""
    best, room = [], -np.inf
    for _ in range(tries if len(things) > 1 else 1):
        paths = [
            plan(thing.motion, frames, rng, 1.0 if len(things) == 1 else 0.65) for thing in things
        ]
        gaps = [
            (np.hypot(*(a.centre - b.centre).T) - a.radius - b.radius).min()
            for i, a in enumerate(paths) for b in paths[:i]
        ]  # fmt: skip
        if min(gaps, default=0.0) > room:
            best, room = paths, min(gaps, default=0.0)
        if room >= 0:
            break
    return best


def draw(things: tuple[Thing, ...], frames: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a clip -> uint8 (F, S, S, 3), RGB, on a dark background that differs from clip to clip."""
    grid = (np.arange(side) + 0.5) / side
    point_P2 = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    shade = (
        rng.uniform(0, 60, 3)
        + rng.uniform(-25, 25) * point_P2[:, :1]
        + rng.uniform(-25, 25) * point_P2[:, 1:]
    )
    clip = np.tile(shade, (frames, 1, 1))
    for thing, path in zip(things, plan_apart(things, frames, rng), strict=True):
        colour = np.clip(np.array(COLOURS[thing.colour]) * rng.uniform(0.9, 1.05), 0, 255)
        for frame in range(frames):
            sine, cosine = np.sin(path.angle[frame]), np.cos(path.angle[frame])
            local = (
                (point_P2 - path.centre[frame])
                @ np.array([[cosine, -sine], [sine, cosine]])
                / path.radius[frame]
            )
            near = np.flatnonzero(np.abs(local).max(1) < 1.6)
            edge = SHAPES[thing.shape](local[near]) * path.radius[frame] * side
            cover = path.opacity[frame] * np.clip(0.5 - edge, 0, 1)[:, None]
            clip[frame, near] = clip[frame, near] * (1 - cover) + colour * cover
    return np.clip(np.round(clip), 0, 255).astype(np.uint8).reshape(frames, side, side, 3)
