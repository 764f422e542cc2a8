"""Heat over a picture.

A heat map is smoothly enlarged and laid over the grey picture in a perceptual colour map, whose lightness grows with
the value: a print without colours shows it too. H, W pixels, Y, X patches.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from parse_config import UserError

PANEL = 128  # pixels, height and width of a picture
FAINT, FULL = (
    0.55,
    0.85,
)  # how much of the picture the heat covers where it is lowest and highest
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Scale:
    """What colours mean.

    Args:
        low: value of the first colour
        high: value of the last colour
        label: what the values are
        colour_map: its name in matplotlib
    """

    low: float
    high: float
    label: str
    colour_map: str = "inferno"


def overlay(
    picture_HWC: np.ndarray, heat_YX: np.ndarray, scale: Scale, smooth: bool = True
) -> np.ndarray:
    """Lays heat over the grey picture -> uint8 (H, W, 3): the higher the more opaque, from FAINT to FULL.

    Where the heat is NaN (only with `smooth=False`) the dim grey picture stays uncovered.
    """
    value_HW = enlarge(heat_YX, picture_HWC.shape[:2], smooth)
    opacity_HW = FAINT + (FULL - FAINT) * np.nan_to_num(fraction(value_HW, scale))
    opacity_HW1 = opacity_HW[..., None]

    grey_HW1 = (picture_HWC @ LUMA)[..., None]
    blend_HWC = (1 - opacity_HW1) * grey_HW1 + opacity_HW1 * colourise(value_HW, scale)
    blend_HWC = np.where(
        np.isnan(value_HW)[..., None], (1 - FAINT) * grey_HW1, blend_HWC
    )
    return np.clip(np.round(blend_HWC), 0, 255).astype(np.uint8)


def fraction(value: np.ndarray, scale: Scale) -> np.ndarray:
    """Where values lie on the scale, from 0 to 1; values beyond an end count as that end."""
    return np.clip((value - scale.low) / max(scale.high - scale.low, 1e-12), 0, 1)


def enlarge(
    heat_YX: np.ndarray, size: tuple[int, int], smooth: bool = True
) -> np.ndarray:
    """Enlarges float32 (Y, X) to (H, W): bicubic, kept within the range of the values; or each patch as a block."""
    heat = torch.from_numpy(np.ascontiguousarray(heat_YX, dtype=np.float32))[None, None]
    if not smooth:
        return F.interpolate(heat, size, mode="nearest-exact")[0, 0].numpy()

    large_HW = F.interpolate(heat, size, mode="bicubic", align_corners=False)[0, 0]
    return large_HW.clamp(heat.min(), heat.max()).numpy()


def colourise(value_HW: np.ndarray, scale: Scale) -> np.ndarray:
    """Values -> colours, float (H, W, 3) from 0 to 255; NaN as the lowest."""
    colour_map = matplotlib_agg().colormaps[scale.colour_map]
    rgba_HW4 = colour_map(np.nan_to_num(fraction(value_HW, scale)))
    return 255 * rgba_HW4[..., :3]


def save(picture_HWC: np.ndarray, path: str | os.PathLike) -> Path:
    """Writes a PNG, and the folders that lead to it; returns its path."""
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture_HWC).save(path, format="PNG", optimize=True)
    return path


def matplotlib_agg() -> Any:
    """matplotlib with the canvas that needs no screen. Raises UserError if it is not installed."""
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError:
        raise UserError(
            "figures are drawn by matplotlib, which is not installed: pip install matplotlib"
        ) from None
    return matplotlib


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/visualize.py --help")
