"""Heat over a picture.

A heat map is smoothly enlarged and laid over the grey picture in a perceptual colour map, whose lightness grows with
the value: a print without colours shows it too. H, W pixels, Y, X patches.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from parse_config import UserError

PANEL = 128  # pixels a side
FAINT, FULL = 0.55, 0.85  # how much of the picture the heat covers where it is lowest and highest
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Scale:
    """What colours mean: from `low` to `high`, what it is, and the name of the colour map."""

    low: float
    high: float
    label: str
    colours: str = "inferno"


def overlay(
    picture_HWC: np.ndarray, heat_YX: np.ndarray, scale: Scale, smooth: bool = True
) -> np.ndarray:
    """The heat over the grey picture -> uint8 (H, W, 3): the thicker the higher, from FAINT to FULL. Where the heat is
    NaN (only with `smooth=False`) the dim grey picture alone stays."""
    value_HW = enlarge(heat_YX, picture_HWC.shape[:2], smooth)
    cover_HW1 = (FAINT + (FULL - FAINT) * np.nan_to_num(share(value_HW, scale)))[..., None]
    grey_HW1 = (picture_HWC @ LUMA)[..., None]
    mixed = (1 - cover_HW1) * grey_HW1 + cover_HW1 * paint(value_HW, scale)
    mixed = np.where(np.isnan(value_HW)[..., None], (1 - FAINT) * grey_HW1, mixed)
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def share(value: np.ndarray, scale: Scale) -> np.ndarray:
    """Where values lie between the ends of the scale, from 0 to 1; what lies beyond is at the end."""
    return np.clip((value - scale.low) / max(scale.high - scale.low, 1e-12), 0, 1)


def enlarge(heat_YX: np.ndarray, size: tuple[int, int], smooth: bool = True) -> np.ndarray:
    """float32 (Y, X) -> (H, W): bicubic, kept within the values that are there; or each place as a block."""
    heat = torch.from_numpy(np.ascontiguousarray(heat_YX, dtype=np.float32))[None, None]
    if not smooth:
        return F.interpolate(heat, size, mode="nearest-exact")[0, 0].numpy()
    return (
        F.interpolate(heat, size, mode="bicubic", align_corners=False)[0, 0]
        .clamp(heat.min(), heat.max())
        .numpy()
    )


def paint(value_HW: np.ndarray, scale: Scale) -> np.ndarray:
    """Values -> colours, float (H, W, 3) from 0 to 255; NaN as the lowest."""
    return (
        255
        * matplotlib_agg().colormaps[scale.colours](np.nan_to_num(share(value_HW, scale)))[..., :3]
    )


def save(picture_HWC: np.ndarray, out: str | Path) -> Path:
    """Write a PNG (and the folders to it); -> its path."""
    from PIL import Image

    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture_HWC).save(out, format="PNG", optimize=True)
    return out


def matplotlib_agg() -> Any:
    """matplotlib with the canvas that needs no screen, or a UserError that names it."""
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
