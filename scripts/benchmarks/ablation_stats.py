"""Statistics of paired runs: means, standard errors, t intervals, exact sign-flip tests. Plain Python and NumPy.

A pair is two runs of the same seed and data; its difference is what one variant gains over the other.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

LARGEST_EXACT = 17  # differences whose 2^n flips are all counted; more are sampled
DRAWS = 100_000
# Sums of the same numbers in another order differ in the last digits, and are ties nevertheless.
TIE = 1e-9


def mean_and_error(values: Sequence[float]) -> dict[str, float | None]:
    """{"mean", "standard_error"}: null without values, and the error null below two."""
    mean = error = None
    if values:
        mean = statistics.fmean(values)
    if len(values) > 1:
        error = statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "standard_error": error}


def paired(differences: Sequence[float]) -> dict[str, Any]:
    """{"values", "mean", "standard_error", "interval_95", "p"} of the differences of pairs; null where undefined.

    The interval is Student's, which takes the differences for normal; p is that of `sign_flip_p`, which does not.
    """
    summary: dict[str, Any] = {
        "values": list(differences),
        **mean_and_error(differences),
    }
    summary |= {"interval_95": None, "p": None}
    if len(differences) > 1:
        half_width = t_quantile(0.975, len(differences) - 1) * summary["standard_error"]
        summary["interval_95"] = [
            summary["mean"] - half_width,
            summary["mean"] + half_width,
        ]
    if differences:
        summary["p"] = sign_flip_p([differences])
    return summary


def sign_flip_p(
    blocks: Sequence[Sequence[float]], draws: int = DRAWS, seed: int = 0
) -> float:
    """Two-sided p of the hypothesis that every difference is as likely to have the other sign.

    The statistic is the absolute mean over the blocks of each block's mean; the p is the share of the sign flips that
    reach the observed one, itself among them. Of n differences all 2^n flips are counted up to n = LARGEST_EXACT;
    above, `draws` random ones and the observed one are.

    Args:
        blocks: differences of the pairs, those of one block (one data set) together; no block is empty
        draws: random flips where there are too many to count
        seed: of these draws
    """
    contributions = np.concatenate(
        [np.asarray(block, float) / (len(block) * len(blocks)) for block in blocks]
    )
    observed = abs(contributions.sum())
    threshold = observed - TIE * max(1.0, observed)
    if len(contributions) > LARGEST_EXACT:
        generator = np.random.default_rng(seed)
        signs = generator.choice((-1, 1), size=(draws, len(contributions)))
        reached = int((abs(signs @ contributions) >= threshold).sum())
        return (reached + 1) / (draws + 1)
    sums = np.zeros(1)
    for contribution in contributions:
        sums = np.concatenate((sums + contribution, sums - contribution))
    return float((abs(sums) >= threshold).mean())


def smallest_p(count: int) -> float:
    """The least p that `sign_flip_p` can give with this many differences: that of equal signs, and its mirror."""
    return 2.0 ** (1 - count)


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution with a whole number of degrees of freedom, by bisection.

    Args:
        probability: above 0.5 and below 1
        degrees: 1 or more
    """
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        if t_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def t_cdf(value: float, degrees: int) -> float:
    """P(T <= value) of Student's t distribution, in closed form (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(value / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    is_odd = degrees % 2
    term = total = cosine if is_odd else 1.0
    for k in range(3 if is_odd else 2, degrees - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    if not is_odd:
        return 0.5 + sine * total / 2
    inside = angle + sine * total * (degrees > 1)
    return 0.5 + inside / math.pi


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/ablation.py --help")
