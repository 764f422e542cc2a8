"""scripts/benchmarks/ablation_stats.py: every number against loops, NumPy or printed tables."""

import itertools
import math

import numpy
import pytest

from scripts.benchmarks import ablation_stats

# Upper 2.5 % points of Student's t, from printed tables.
TABLE = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228,
    14: 2.145, 20: 2.086, 29: 2.045, 30: 2.042, 60: 2.000, 120: 1.980,
}  # fmt: skip


def looped_p(blocks):
    """All sign vectors, one by one."""

    def statistic(signed_blocks):
        means = [sum(block) / len(block) for block in signed_blocks]
        return abs(sum(means) / len(means))

    observed = statistic(blocks)
    reached = count = 0
    for signs in itertools.product((1, -1), repeat=sum(map(len, blocks))):
        remaining = iter(signs)
        flipped = [[next(remaining) * value for value in block] for block in blocks]
        reached += statistic(flipped) >= observed - 1e-9
        count += 1
    return reached / count


@pytest.mark.parametrize("lengths", [(1,), (2,), (5,), (8,), (5, 5), (3, 4, 2)])
def test_sign_flips_are_those_of_a_loop(lengths):
    rng = numpy.random.default_rng(sum(lengths))
    for shift in (0.0, 1.0, 3.0):
        blocks = [(rng.normal(shift, 1, length)).tolist() for length in lengths]
        assert ablation_stats.sign_flip_p(blocks) == looped_p(blocks)


def test_ties_count():
    assert ablation_stats.sign_flip_p([[1, 1, -1]]) == looped_p([[1, 1, -1]]) == 1.0
    assert ablation_stats.sign_flip_p([[0.0, 0.0]]) == 1.0
    tenths = [0.1, 0.2, -0.3, 0.3]  # sums that are equal but for rounding
    assert ablation_stats.sign_flip_p([tenths]) == looped_p([tenths])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_least_p_is_that_of_equal_signs(count):
    values = [float(i + 1) for i in range(count)]
    least = ablation_stats.smallest_p(count)
    assert ablation_stats.sign_flip_p([values]) == least == 2 / 2**count
    assert ablation_stats.sign_flip_p([[-v for v in values]]) == least


def test_many_pairs_are_drawn_and_the_draw_is_seeded():
    values = numpy.random.default_rng(3).normal(0.4, 1, 18)
    draws = 20_000
    drawn = ablation_stats.sign_flip_p([values], draws)
    signs = 1 - 2 * (numpy.arange(2**18)[:, None] >> numpy.arange(18) & 1)
    exact = (abs(signs @ values) >= abs(values.sum()) - 1e-9).mean()
    deviation = math.sqrt(exact * (1 - exact) / draws)
    assert 0.001 < exact < 0.9 and abs(drawn - exact) < 4 * deviation
    assert drawn == ablation_stats.sign_flip_p([values], draws)
    assert drawn != ablation_stats.sign_flip_p([values], draws, seed=1)
    certain = ablation_stats.sign_flip_p([[1.0] * 40], draws=1000)
    assert certain == 1 / 1001  # never 0: the observed signs are among the flips


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_are_those_of_the_tables(degrees):
    assert round(ablation_stats.t_quantile(0.975, degrees), 3) == TABLE[degrees]


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 12])
def test_the_distribution_is_the_integral_of_its_density(degrees):
    scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2)
    points = numpy.linspace(0, 3, 20_001)
    density = (1 + points**2 / degrees) ** (-(degrees + 1) / 2)
    area = numpy.trapezoid(density, points) * scale / math.sqrt(degrees * math.pi)
    assert ablation_stats.t_cdf(3, degrees) == pytest.approx(0.5 + area, abs=1e-8)
    assert ablation_stats.t_cdf(-3, degrees) == pytest.approx(0.5 - area, abs=1e-8)


def test_means_errors_and_intervals():
    values = numpy.random.default_rng(1).normal(2, 1, 5)
    error = numpy.std(values, ddof=1) / math.sqrt(5)
    summary = ablation_stats.paired(values.tolist())
    assert summary["values"] == values.tolist()
    assert summary["mean"] == pytest.approx(values.mean())
    assert summary["standard_error"] == pytest.approx(error)
    low, high = summary["interval_95"]
    assert (low, high) == pytest.approx(
        (values.mean() - 2.776445 * error, values.mean() + 2.776445 * error), abs=1e-5
    )
    assert summary["p"] == looped_p([values.tolist()])


def test_too_few_values_have_no_error():
    none = {"mean": None, "standard_error": None, "interval_95": None, "p": None}
    assert ablation_stats.paired([]) == {"values": [], **none}
    one = ablation_stats.paired([2.5])
    assert one == {"values": [2.5], **none, "mean": 2.5, "p": 1.0}


def test_the_interval_covers_as_often_as_it_says():
    rng = numpy.random.default_rng(5)
    covered = 0
    for _ in range(2000):
        low, high = ablation_stats.paired(rng.normal(1, 2, 5).tolist())["interval_95"]
        covered += low < 1 < high
    assert abs(covered / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)
