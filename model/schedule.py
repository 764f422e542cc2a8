"""A number that changes over training, as a pure function of the share of training that is done."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from parse_config import ConfigError, to_plain

Points = float | Sequence[Sequence[float]]


class Schedule:
    """A constant, or straight lines between points [share of training, value].

    Two points at one share are a jump: from there on the later value holds. Before the first point and after the last
    one the value stays. `schedule(progress)` is the value when `progress`, 0 to 1, of all steps have been taken.

    Args:
        points: a number, or [[share, value], ...] with shares from 0 to 1 that do not fall
        json_path: the setting, for messages
        least: smallest value that is allowed
        most: greatest value that is allowed
    """

    def __init__(
        self,
        points: Points,
        json_path: str,
        least: float = -math.inf,
        most: float = math.inf,
    ) -> None:
        pairs: Any = [(0.0, points)] if _is_number(points) else points
        if not _are_points(pairs):
            raise ConfigError(
                f"{json_path}: {to_plain(points)!r} is given; a number is needed, or points [[share of "
                "training, value], ...] with shares from 0 to 1 that do not fall"
            )
        self.shares = [float(share) for share, _ in pairs]
        self.values = [float(value) for _, value in pairs]
        if min(self.values) < least or max(self.values) > most:
            raise ConfigError(
                f"{json_path}: {to_plain(points)!r} is given, {_range_text(least, most)} is needed"
            )

    def __call__(self, progress: float) -> float:
        after = bisect_right(self.shares, progress)
        if after == 0:
            return self.values[0]
        if after == len(self.shares):
            return self.values[-1]
        start, end = self.shares[after - 1], self.shares[after]
        fraction = (progress - start) / (end - start)
        return self.values[after - 1] * (1 - fraction) + self.values[after] * fraction


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_points(points: Any) -> bool:
    """Whether these are pairs of finite numbers, their shares within 0 to 1 and in order."""
    if not isinstance(points, list | tuple) or not points:
        return False
    for pair in points:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return False
        if not all(_is_number(number) and math.isfinite(number) for number in pair):
            return False
    shares = [share for share, _ in points]
    return shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1


def _range_text(least: float, most: float) -> str:
    if most == math.inf:
        return f"{least:g} or more"
    return f"{least:g} to {most:g}"
