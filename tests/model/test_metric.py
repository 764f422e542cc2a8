"""The metrics against reference values, a brute-force twin, chance, and themselves in other blocks and orders."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.metric import (
    LEVELS,
    METRICS,
    chance,
    extra_pairs,
    intervals,
    mean_interval,
    same_words,
    summarise,
    t2v_metrics,
    v2t_metrics,
)
from model.ranks import count, owners
from model.similarity import CosineSimilarity, SimilarityMatrix
from parse_config import UserError

REFERENCE = Path(__file__).parents[1] / "reference"
EXPECTED = json.loads((REFERENCE / "metrics_expected.json").read_text())
BOTH = {"t2v": t2v_metrics, "v2t": v2t_metrics}


@pytest.fixture(scope="module")
def matrices():
    with np.load(REFERENCE / "metrics_sims.npz") as found:
        return dict(found)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("way", BOTH)
def test_reference_values_exactly(matrices, name, way):
    expected = dict(EXPECTED[name][way])
    expected["gmean"] = expected.pop("geometric_mean_R1-R5-R10")
    assert BOTH[way](matrices[name]) == expected
    assert BOTH[way](torch.from_numpy(matrices[name])) == expected


# A ragged world with few distinct scores, so that ties are everywhere; some videos may have no caption.
@st.composite
def worlds(draw, captions=7, videos=4):
    shape = draw(st.integers(1, captions)), draw(st.integers(1, videos))
    sims = draw(
        st.lists(
            st.integers(-2, 2),
            min_size=shape[0] * shape[1],
            max_size=shape[0] * shape[1],
        )
    )
    owner = draw(
        st.lists(st.integers(0, shape[1] - 1), min_size=shape[0], max_size=shape[0])
    )
    return np.array(sims, np.float64).reshape(shape) / 2, np.array(owner)


def brute_rank(scores, mine):
    """The mean place of the first of `mine` over all orders that sort `scores`, by trying them all."""
    places = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            places.append(1 + min(order.index(i) for i in mine))
    return np.mean(places)


def brute_precision(scores, mine):
    values = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            places = sorted(1 + order.index(i) for i in mine)
            values.append(np.mean([(n + 1) / place for n, place in enumerate(places)]))
    return np.mean(values)


@settings(max_examples=40, deadline=None)
@given(worlds(captions=6))
def test_ranks_are_the_brute_force_ones(world):
    sims, owner = world
    there, back = count(SimilarityMatrix(sims), owners(owner, *sims.shape))
    assert there.ranks() == pytest.approx(
        [brute_rank(row, [j]) for row, j in zip(sims, owner)]
    )
    expected = [
        brute_rank(sims[:, j], np.flatnonzero(owner == j)) for j in np.unique(owner)
    ]
    assert back.ranks() == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(worlds(captions=5, videos=5), st.randoms(use_true_random=False))
def test_map_is_the_brute_force_one(world, random):
    sims, owner = world
    relevant = np.array([[random.random() < 0.4 for _ in row] for row in sims])
    relevant[np.arange(len(owner)), owner] = True
    expected = np.mean(
        [
            brute_precision(row, np.flatnonzero(right))
            for row, right in zip(sims, relevant)
        ]
    )
    found = t2v_metrics(sims, owner, relevant)
    assert found["mAP"] == pytest.approx(100 * expected)
    assert found == {
        **t2v_metrics(sims, owner, np.argwhere(relevant)),
        "mAP": pytest.approx(found["mAP"]),
    }
    assert t2v_metrics(sims, owner).items() <= found.items(), (
        "relevance adds a number and changes none"
    )


@settings(max_examples=40, deadline=None)
@given(worlds(captions=9, videos=6), st.randoms(use_true_random=False))
def test_row_and_column_order_change_nothing(world, random):
    sims, owner = world
    rows, columns = list(range(len(sims))), list(range(sims.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    moved = sims[rows][:, columns]
    moved_owner = np.argsort(columns)[owner[rows]]
    for metric in BOTH.values():
        assert metric(moved, moved_owner) == pytest.approx(metric(sims, owner))


@settings(max_examples=60, deadline=None)
@given(worlds(captions=40, videos=30), st.integers(1, 9), st.integers(1, 9))
def test_block_sizes_change_nothing(world, height, width):
    sims, owner = world
    whole, parts = (
        count(SimilarityMatrix(sims, block), owners(owner, *sims.shape))
        for block in (None, (height, width))
    )
    for a, b in zip(whole, parts):
        assert all(torch.equal(x, y) for x, y in zip(a, b))


def random_embeddings(captions, videos, width=24, seed=0, distinct=None):
    """With `distinct`, embeddings are drawn from that many different ones: ties everywhere."""
    g = torch.Generator().manual_seed(seed)
    pool = torch.randn(distinct or captions + videos, width, generator=g)
    pick = (
        torch.randint(len(pool), (captions + videos,), generator=g)
        if distinct
        else torch.arange(len(pool))
    )
    owner = torch.randint(videos, (captions,), generator=g)
    return pool[pick[:captions]], pool[pick[captions:]], owner


@pytest.mark.parametrize(
    "captions, videos", [(1, 1), (7, 3), (65, 130), (500, 301), (1001, 67)]
)
@pytest.mark.parametrize("distinct", [None, 5])
@pytest.mark.parametrize("block", [None, (64, 128), (128, 64), (192, 320)])
def test_from_embeddings_as_from_the_matrix(captions, videos, distinct, block):
    text, video, owner = random_embeddings(captions, videos, distinct=distinct)
    norm = torch.nn.functional.normalize
    sims = norm(text.double()) @ norm(video.double()).T
    if distinct:  # in exact arithmetic equal embeddings tie; float64's last bits are no part of the question
        sims = (sims * 1e10).round() / 1e10
    expected = count(SimilarityMatrix(sims), owner)
    found = count(CosineSimilarity(text, video, block), owner)
    for a, b in zip(expected, found):
        assert (
            torch.equal(a.greater, b.greater)
            and torch.equal(a.equal, b.equal)
            and torch.equal(a.tied_right, b.tied_right)
        )


@pytest.mark.parametrize("captions, videos", [(7, 7), (150, 30), (1000, 100)])
def test_constant_embeddings_score_as_chance_both_ways(captions, videos):
    text, video = (
        torch.ones(captions, 1) * torch.randn(1, 50),
        torch.ones(videos, 1) * torch.randn(1, 50),
    )
    owner = owners(None, captions, videos) if captions % videos == 0 else None
    there, back = count(CosineSimilarity(text, video), owner)
    sims = np.zeros((captions, videos))
    assert set(there.ranks()) == {(videos + 1) / 2}
    each = captions // videos
    assert np.allclose(back.ranks(), (captions + 1) / (each + 1))
    if owner is not None:
        assert summarise(there) == t2v_metrics(sims)
        assert summarise(back) == v2t_metrics(sims)
        assert chance(owner, videos) == {
            "t2v": summarise(there),
            "v2t": summarise(back),
        }
    g = np.random.default_rng(0)
    shuffled = [1 + g.permutation(captions)[:each].min() for _ in range(4000)]
    assert np.mean(shuffled) == pytest.approx(v2t_metrics(sims)["MeanR"], rel=0.1)


def hypergeometric_hit(candidates, right, k):
    """Probability that any of `right` among `candidates` is among the first k of a random order."""
    k = min(k, candidates)
    miss = math.comb(candidates - right, k) / math.comb(candidates, k)
    return 1 - miss


@pytest.mark.parametrize("videos", [1, 2, 3, 4, 5, 9, 10, 11, 49, 50, 51, 100, 257])
@pytest.mark.parametrize("each", [1, 2, 20])
def test_constant_similarities_are_chance_for_every_k_and_n(videos, each):
    captions = videos * each
    sims = torch.ones(captions, videos)
    found = {way: metric(sims) for way, metric in BOTH.items()}
    for k in (1, 5, 10, 50):
        assert found["t2v"][f"R{k}"] == pytest.approx(100 * min(1, k / videos))
        expected = 100 * hypergeometric_hit(captions, each, k)
        assert found["v2t"][f"R{k}"] == pytest.approx(expected)
    for name in ("MedR", "MeanR"):
        assert found["t2v"][name] == (videos + 1) / 2
        assert found["v2t"][name] == pytest.approx((captions + 1) / (each + 1))
    owner = owners(None, captions, videos)
    none = torch.empty(0, 2, dtype=torch.long)
    harmonic = sum(1 / i for i in range(1, videos + 1)) / videos
    guessed = chance(owner, videos, none)
    assert guessed["t2v"].pop("mAP") == pytest.approx(100 * harmonic)
    assert guessed == found
    assert chance(owner, videos) == found


def test_the_cases_that_were_reported():
    assert t2v_metrics(torch.ones(9, 9))["R5"] == pytest.approx(500 / 9)
    assert v2t_metrics(torch.ones(9, 9))["R5"] == pytest.approx(500 / 9)
    assert t2v_metrics(torch.ones(100, 100))["R50"] == 50
    assert v2t_metrics(torch.ones(100, 100))["R50"] == 50


def brute_hit(scores, mine, k):
    """How often any of `mine` is among the first k, over all orders that sort `scores`."""
    hits = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            hits.append(any(i in mine for i in order[:k]))
    return np.mean(hits)


@settings(max_examples=40, deadline=None)
@given(worlds(captions=6))
def test_hits_are_the_brute_force_probabilities(world):
    sims, owner = world
    there, back = count(SimilarityMatrix(sims), owners(owner, *sims.shape))
    for k in range(1, 8):
        expected = [brute_hit(row, [j], k) for row, j in zip(sims, owner)]
        assert there.hits(k) == pytest.approx(expected)
        expected = [
            brute_hit(sims[:, j], np.flatnonzero(owner == j), k)
            for j in np.unique(owner)
        ]
        assert back.hits(k) == pytest.approx(expected)


def untied_intervals(ranks, resamples):
    """The bootstrap of ranks without ties, R@K as a share of ranks up to K."""
    values, counts = np.unique(ranks, return_counts=True)
    draws = np.random.default_rng(0).multinomial(
        len(ranks), counts / len(ranks), size=resamples
    )
    samples = [np.repeat(values, drawn) for drawn in draws]
    columns = {
        **{f"R{k}": [100 * (s <= k).sum() / len(s) for s in samples] for k in LEVELS},
        "MedR": [np.median(s) for s in samples],
    }
    return {
        name: np.percentile(column, [2.5, 97.5]).tolist()
        for name, column in columns.items()
    }


def test_without_ties_nothing_changes_by_a_bit():
    g = np.random.default_rng(3)
    sims, owner = g.standard_normal((300, 90)), g.integers(0, 90, 300)
    sims[np.arange(300), owner] += 1.5
    counts = count(SimilarityMatrix(sims), owners(owner, *sims.shape))
    for queries in counts:
        ranks = queries.ranks()
        assert (ranks == np.round(ranks)).all(), "nothing is tied"
        numbers = summarise(queries)
        assert numbers == summarise(ranks)
        for k in LEVELS:
            assert set(queries.hits(k)) <= {0.0, 1.0}
            assert numbers[f"R{k}"] == 100 * (ranks <= k).sum() / len(ranks)
        assert numbers["MedR"] == np.median(ranks)
        assert intervals(queries) == intervals(ranks)
        expected = untied_intervals(ranks, 1000)
        assert expected.items() <= intervals(queries).items()


def test_equal_captions_of_a_video_do_not_hurt_it():
    sims = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    assert v2t_metrics(sims, [0, 0, 1])["R1"] == 100


def test_ragged_captions_and_a_video_without_any():
    sims = np.array(
        [[0.9, 0.5, 0.1], [0.2, 0.1, 0.3], [0.4, 0.6, 0.5], [0.9, 0.0, 0.2]]
    )
    there, back = count(SimilarityMatrix(sims), owners([0, 2, 2, 0], 4, 3))
    assert there.ranks().tolist() == [1, 1, 2, 1]
    assert back.ranks().tolist() == [1.0, 1], "two videos have captions: two ranks"
    assert count(SimilarityMatrix(np.zeros((4, 2))), owners([0, 0, 1, 0], 4, 2))[
        1
    ].ranks().tolist() == [
        5 / 4,
        5 / 2,
    ]
    assert (
        count(SimilarityMatrix(np.zeros((3, 2))), owners([0, 0, 1], 3, 2))[1].ranks()[0]
        == 4 / 3
    ), "float64"


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: t2v_metrics(np.full((3, 3), np.nan)), "NaN"),
        (lambda: v2t_metrics(np.array([[1.0, np.nan], [0, 1]])), "NaN"),
        (
            lambda: CosineSimilarity(
                torch.tensor([[1.0, torch.nan]]), torch.ones(1, 2)
            ),
            "NaN",
        ),
        (
            lambda: CosineSimilarity(
                torch.tensor([[1.0, torch.inf]]), torch.ones(1, 2)
            ),
            "NaN or infinity",
        ),
        (lambda: CosineSimilarity(torch.ones(2, 3), torch.ones(2, 4)), "equal widths"),
        (lambda: t2v_metrics(np.zeros((7, 3))), "give owner"),
        (lambda: t2v_metrics(np.zeros((3, 3)), [0, 1]), "each of the 3 captions"),
        (lambda: t2v_metrics(np.zeros((3, 3)), [0, 1, 3]), "0 to 2"),
        (lambda: t2v_metrics(np.zeros((3, 3)), [0.0, 1, 2]), "integer"),
        (lambda: t2v_metrics(np.zeros(3)), "captions x videos"),
    ],
)
def test_wrong_input_says_what(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: t2v_metrics(np.full((3, 3), np.nan)),
        lambda: CosineSimilarity(torch.full((3, 2), torch.inf), torch.ones(1, 2)),
    ],
)
def test_nan_is_a_mistake_of_one_line(call):
    with pytest.raises(UserError) as error:
        call()
    assert len(str(error.value).splitlines()) == 1


def test_summary_by_hand():
    found = summarise(np.array([1, 2, 6, 11, 60, 1.5]))
    assert (
        found["R1"] == pytest.approx(100 / 6)
        and found["R5"] == 50
        and found["R50"] == pytest.approx(500 / 6)
    )
    assert found["MedR"] == 4 and found["MeanR"] == pytest.approx(81.5 / 6)
    assert summarise(np.array([2.0]))["gmean"] == 0


def test_intervals_hold_the_value_and_match_a_plain_bootstrap():
    g = np.random.default_rng(1)
    ranks = np.ceil(g.exponential(8, 400))
    found, value = intervals(ranks, resamples=2000), summarise(ranks)
    assert found == intervals(ranks, resamples=2000), "seeded"
    plain = [summarise(g.choice(ranks, len(ranks))) for _ in range(2000)]
    for name, (low, high) in found.items():
        assert low <= value[name] <= high
        twin = np.percentile([row[name] for row in plain], [2.5, 97.5])
        assert [low, high] == pytest.approx(twin.tolist(), rel=0.08, abs=0.6)
    low, high = mean_interval(ranks)
    assert low < ranks.mean() < high and high - low == pytest.approx(
        3.92 * ranks.std() / 20, rel=0.1
    )
    assert intervals(np.array([3.0]))["MedR"] == [3, 3]


def test_same_words_make_a_video_relevant():
    captions = ["A man sings.", "a man  sings", "a dog", "A man sings", "a cat"]
    owner = torch.tensor([0, 1, 1, 0, 2])
    pairs = same_words(captions, owner)
    assert pairs.tolist() == [[0, 1], [1, 0], [3, 1]]
    assert extra_pairs(torch.tensor([[0, 0], [0, 1], [0, 1]]), owner).tolist() == [
        [0, 1]
    ]


def test_every_registered_metric_takes_similarities_and_owners(matrices):
    for name in METRICS.names():
        assert set(METRICS.get(name)(matrices["five_captions"])) == {
            "R1",
            "R5",
            "R10",
            "R50",
            "MedR",
            "MeanR",
            "gmean",
        }
