"""Masking strategies, one a file: `mask(batch, (T, rows, columns), device) -> bool (B, T, N)`, True = hidden.

They draw from torch's global CPU generator, so that a seeded step hides the same places again.
"""
from parse_config import ConfigError, Registry

MASKS = Registry("mask", __name__)


def hidden(ratio: float, places: int) -> int:
    """How many of `places` a `ratio` hides: the nearest whole number. Raises ConfigError outside 0..1."""
    if not 0 <= ratio <= 1:
        raise ConfigError(f"mask.args.ratio: {ratio} is given, a share from 0 to 1 is needed")
    return round(ratio * places)
