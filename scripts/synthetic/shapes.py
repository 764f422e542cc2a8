"""Coloured shapes that move, grow, turn and blink, drawn antialiased with numpy.

Letters: F frames of a clip, S side of a frame in pixels, P points. Lengths are in units of the
side: a clip looks the same at any size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

COLOURS = {
    "red": (225, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 235), "yellow": (240, 225, 50),
    "purple": (150, 50, 190), "orange": (245, 135, 25), "cyan": (60, 215, 225), "white": (245, 245, 245),
    "pink": (250, 140, 190), "grey": (135, 135, 135),
}  # fmt: skip
MOTIONS = ("left", "right", "up", "down", "grow", "shrink", "turn", "blink")
ROUND = ("ring",)  # its turning cannot be seen
LARGEST_REACH = 1.1  # of a shape from its centre along x or y, in units of its radius
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class SceneObject:
    """One object of a clip: what the caption says of it."""

    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class Group(SceneObject):
    """Copies of an object that move alike."""

    count: int = 1


@dataclass(frozen=True)
class Trajectory:
    """What the caption does not say: centre (F, 2), radius (F,), angle in radians (F,), opacity (F,)."""

    centre: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    opacity: np.ndarray


def cross(arm: float) -> np.ndarray:
    """Corners (12, 2) of a cross with arms `arm` half-wide."""
    quarter = np.array([(arm, -1.0), (arm, -arm), (1.0, -arm)])
    rotations = [_rotation(angle) for angle in np.pi / 2 * np.arange(4)]
    return np.concatenate([quarter @ rotation.T for rotation in rotations])


def _rotation(angle: float) -> np.ndarray:
    """(2, 2) matrix of a rotation by `angle` radians."""
    sine = np.sin(angle)
    cosine = np.cos(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def polygon_distance(point_P2: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance (P,) of points (P, 2) to a closed polygon (n, 2); negative inside."""
    edge_x, edge_y = (np.roll(corners, -1, axis=0) - corners).T[..., None]
    offset_x, offset_y = point_P2.T[:, None] - corners.T[..., None]  # (n, P)
    along = offset_x * edge_x + offset_y * edge_y
    along = np.clip(along / (edge_x**2 + edge_y**2), 0, 1)

    rest_x = offset_x - along * edge_x
    rest_y = offset_y - along * edge_y
    distance = np.sqrt((rest_x**2 + rest_y**2).min(0))
    above = offset_y >= 0
    crosses = above != np.roll(above, -1, axis=0)
    side = edge_x * offset_y - edge_y * offset_x
    inside = (crosses & ((side > 0) == above)).sum(0) % 2 == 1
    return np.where(inside, -distance, distance)


def box(width: float, height: float) -> np.ndarray:
    """Corners (4, 2) of a rectangle; half its width and height are given."""
    return np.array(
        [(-width, -height), (width, -height), (width, height), (-width, height)]
    )


def ring_distance(point_P2: np.ndarray) -> np.ndarray:
    """Signed distance (P,) of points (P, 2) to a ring; negative inside its rim."""
    return np.abs(np.hypot(point_P2[:, 0], point_P2[:, 1]) - 0.78) - 0.2


SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ring": ring_distance,
    "square": partial(polygon_distance, corners=box(0.82, 0.82)),
    "bar": partial(polygon_distance, corners=box(1.1, 0.3)),
    "triangle": partial(
        polygon_distance, corners=np.array([(0, -1.1), (1.05, 0.75), (-1.05, 0.75)])
    ),
    "cross": partial(polygon_distance, corners=cross(0.3)),
}


def all_objects() -> list[SceneObject]:
    """Every colour x shape x motion that can be told from the others by looking."""
    return [
        SceneObject(colour, shape, motion) for colour in COLOURS for shape in SHAPES for motion in MOTIONS
        if not (motion == "turn" and shape in ROUND)
    ]  # fmt: skip


def draw_trajectory(
    motion: str, frames: int, rng: np.random.Generator, scale: float = 1.0
) -> Trajectory:
    """Draw at random where an object with this motion is at each frame; always inside the picture.

    A single object (`scale` 1) moves nearly from border to border, or stays, not far from the middle line.
    """
    time_F = np.linspace(0.0, 1.0, frames)
    radius_F = _draw_radius(motion, frames, rng, scale)
    margin = 1 - 2.3 * radius_F.max()
    shift = np.array(DIRECTIONS.get(motion, (0, 0))) * margin * rng.uniform(0.9, 1.0)

    slack = margin - np.abs(shift)
    if scale == 1.0:
        slack = np.minimum(slack, 0.15)
    middle = 0.5 + (rng.random(2) - 0.5) * slack
    spin = 0.0
    if motion == "turn":
        spin = rng.choice([-1, 1]) * rng.uniform(0.6, 1.0) * np.pi

    opacity_F = np.ones(frames)
    if motion == "blink":
        opacity_F = ((np.arange(frames) + rng.integers(6)) // 3 % 2).astype(float)

    centre_F2 = middle + (time_F - 0.5)[:, None] * shift
    angle_F = rng.uniform(-0.12, 0.12) + spin * time_F
    return Trajectory(centre_F2, radius_F, angle_F, opacity_F)


def _draw_radius(
    motion: str, frames: int, rng: np.random.Generator, scale: float
) -> np.ndarray:
    """(F,): constant, or changing with the motions "grow" and "shrink"."""
    if motion in DIRECTIONS:
        radius = scale * rng.uniform(0.18, 0.22)
    else:
        radius = scale * rng.uniform(0.25, 0.32)
    if motion not in ("grow", "shrink"):
        return np.full(frames, radius)
    small = scale * rng.uniform(0.07, 0.10)
    large = scale * rng.uniform(0.32, 0.38)
    radius_F = np.linspace(small, large, frames)
    return radius_F if motion == "grow" else radius_F[::-1]


def draw_trajectories(
    objects: tuple[SceneObject, ...],
    frames: int,
    rng: np.random.Generator,
    tries: int = 60,
) -> list[Trajectory]:
    """Trajectories of objects that do not cover each other: of `tries` draws the one with the largest gap."""
    if len(objects) == 1:
        return [draw_trajectory(objects[0].motion, frames, rng)]
    best_trajectories: list[Trajectory] = []
    largest_gap = -np.inf
    for _ in range(tries):
        trajectories = [
            draw_trajectory(item.motion, frames, rng, 0.65) for item in objects
        ]
        gap = min(
            border_gap(later, earlier)
            for earlier, later in combinations(trajectories, 2)
        )
        if gap > largest_gap:
            best_trajectories = trajectories
            largest_gap = gap
        if largest_gap >= 0:
            break
    return best_trajectories


def border_gap(first: Trajectory, second: Trajectory) -> float:
    """The smallest distance between the borders of two objects in any frame; negative if they overlap."""
    distance_F = np.hypot(*(first.centre - second.centre).T)
    return (distance_F - first.radius - second.radius).min()


class Canvas:
    """A clip that is being painted, and the mask that says which object each pixel shows.

    Args:
        pixels_FP3: The background; painted over in place.
        side: Side of a frame in pixels.
    """

    def __init__(self, pixels_FP3: np.ndarray, side: int) -> None:
        self.pixels_FP3 = pixels_FP3
        self.side = side
        self.mask_FP = np.zeros(pixels_FP3.shape[:2], np.uint8)
        self.point_P2 = pixel_centres(side)

    def paint(
        self,
        scene_object: SceneObject,
        trajectory: Trajectory,
        colour_at: Callable[[np.ndarray], np.ndarray],
        label: int,
    ) -> None:
        """Paint an object over what is there.

        Args:
            scene_object: Its shape is painted.
            trajectory: Where it is.
            colour_at: The colours (P, 3), or one colour (3,), at points (P, 2) of the object, in units of its radius.
            label: The mask's number of its pixels, those that it covers by half or more.
        """
        signed_distance = SHAPES[scene_object.shape]
        for frame, pixels_P3 in enumerate(self.pixels_FP3):
            radius = trajectory.radius[frame]
            offset_P2 = self.point_P2 - trajectory.centre[frame]
            local_P2 = offset_P2 @ _rotation(trajectory.angle[frame]) / radius

            reach = LARGEST_REACH + 1 / (radius * self.side)
            near = np.flatnonzero(np.maximum(*np.abs(local_P2).T) < reach)
            distance = signed_distance(local_P2[near]) * radius * self.side  # in pixels
            alpha = trajectory.opacity[frame] * np.clip(0.5 - distance, 0, 1)
            colour = colour_at(local_P2[near])
            pixels_P3[near] = (
                pixels_P3[near] * (1 - alpha[:, None]) + colour * alpha[:, None]
            )
            self.mask_FP[frame, near[alpha >= 0.5]] = label

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """The clip, uint8 (F, S, S, 3), RGB, and its masks, uint8 (F, S, S), 0 where no object is."""
        clip_FP3 = np.clip(np.round(self.pixels_FP3), 0, 255).astype(np.uint8)
        shape = (len(clip_FP3), self.side, self.side)
        return clip_FP3.reshape(*shape, 3), self.mask_FP.reshape(shape)


def pixel_centres(side: int) -> np.ndarray:
    """(P, 2): x and y of every pixel, row by row."""
    grid = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)


def draw_colour(name: str, rng: np.random.Generator) -> np.ndarray:
    """(3,): the colour of this name, a little lighter or darker."""
    return np.clip(np.array(COLOURS[name]) * rng.uniform(0.9, 1.05), 0, 255)


def draw(
    objects: tuple[SceneObject, ...], frames: int, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a clip on a dark background that differs from clip to clip.

    Returns uint8 RGB frames (F, S, S, 3) and masks (F, S, S): k where the k-th object is seen, counted from 1, else 0.
    """
    point_P2 = pixel_centres(side)
    shade = (
        rng.uniform(0, 60, 3)
        + rng.uniform(-25, 25) * point_P2[:, :1]
        + rng.uniform(-25, 25) * point_P2[:, 1:]
    )
    canvas = Canvas(np.tile(shade, (frames, 1, 1)), side)

    trajectories = draw_trajectories(objects, frames, rng)
    for label, (scene_object, trajectory) in enumerate(
        zip(objects, trajectories, strict=True), start=1
    ):
        colour = draw_colour(scene_object.colour, rng)
        canvas.paint(scene_object, trajectory, partial(_same_everywhere, colour), label)
    return canvas.finish()


def _same_everywhere(colour: np.ndarray, local_P2: np.ndarray) -> np.ndarray:
    return colour


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
