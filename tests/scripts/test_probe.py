"""The probe's numbers against loops, and the command on generated clips and actions."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from parse_config import UserError
from scripts.benchmarks import linear_probe
from scripts.benchmarks.linear_probe import Labels, Standardised
from scripts.synthetic import miniatures, tiny_models

ROOT = Path(__file__).resolve().parents[2]


def separable(num_clips, width=12, classes=3, noise=0.1, seed=0):
    """(features whose first dimensions say the class, the classes)."""
    generator = np.random.default_rng(seed)
    label_V = generator.integers(classes, size=num_clips)
    feature_VD = generator.normal(size=(num_clips, width)) * noise
    feature_VD[np.arange(num_clips), label_V] += 1
    return feature_VD, label_V


def test_average_precision_is_the_mean_precision_at_the_shown():
    generator = np.random.default_rng(0)
    for _ in range(20):
        score, shown = generator.normal(size=30), generator.random(30) < 0.3
        ranking = sorted(range(30), key=lambda clip: -score[clip])
        precisions = []
        for rank, clip in enumerate(ranking, 1):
            if shown[clip]:
                found = sum(bool(shown[other]) for other in ranking[:rank])
                precisions.append(found / rank)
        value = linear_probe.average_precision(score, shown.astype(int))
        assert value == pytest.approx(sum(precisions) / len(precisions), abs=1e-12)
    assert math.isnan(linear_probe.average_precision(np.ones(3), np.zeros(3)))


def test_the_mean_is_over_values_that_are_shown():
    score = np.array([[3.0, 0, 0], [2, 1, 0], [1, 2, 0]])
    shown = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]])
    expected = 100 * ((1 / 1 + 2 / 3) / 2 + 1) / 2
    assert linear_probe.mean_average_precision(score, shown) == pytest.approx(expected)


def test_neighbours_vote_by_their_cosine():
    torch.manual_seed(0)
    train, test, votes = torch.randn(50, 6), torch.randn(7, 6), torch.rand(50, 4)
    actual = linear_probe.neighbour_votes(train, test, votes)
    for query, row in zip(test, actual):
        cosines = [
            float(query @ other / (query.norm() * other.norm())) for other in train
        ]
        nearest = sorted(range(50), key=lambda clip: -cosines[clip])[:20]
        best = cosines[nearest[0]]
        expected = sum(
            math.exp((cosines[clip] - best) / 0.07) * votes[clip] for clip in nearest
        )
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


def test_tied_neighbours_share_the_places_that_are_left():
    """The mean over random orders of the training clips, each taking the first 20 of them."""
    generator = np.random.default_rng(0)
    train = torch.tensor(generator.integers(-1, 2, (60, 2))).double() + 0.25
    test = torch.tensor(generator.integers(-1, 2, (5, 2))).double() + 0.25
    votes = torch.nn.functional.one_hot(torch.arange(60) % 3).double()
    actual = linear_probe.neighbour_votes(train, test, votes)
    cosines = (
        torch.nn.functional.normalize(test) @ torch.nn.functional.normalize(train).T
    )
    expected = torch.zeros(5, 3).double()
    for _ in range(400):
        order = torch.tensor(generator.permutation(60))
        for query, row in enumerate(cosines[:, order]):
            nearest = order[row.argsort(descending=True, stable=True)[:20]]
            weight = ((cosines[query, nearest] - row.max()) / 0.07).exp()
            expected[query] += weight @ votes[nearest] / 400
    torch.testing.assert_close(actual, expected, rtol=0.1, atol=0.2)


def test_constant_features_score_as_chance():
    labels = np.arange(90) % 5
    votes = torch.nn.functional.one_hot(torch.tensor(labels)).double()
    constant = torch.ones(90, 4).double()
    voted = linear_probe.neighbour_votes(constant, constant, votes)
    torch.testing.assert_close(voted, torch.full((90, 5), 4.0).double())
    assert linear_probe.vote_accuracy(voted, labels) == pytest.approx(20)
    uneven = np.zeros(90, int)
    assert linear_probe.vote_accuracy(voted, uneven) == pytest.approx(20)


def test_votes_without_ties_are_counted_as_before():
    generator = torch.Generator().manual_seed(0)
    votes = torch.rand(40, 6, generator=generator)
    labels = torch.randint(6, (40,), generator=generator).numpy()
    expected = float(100 * (votes.argmax(1).numpy() == labels).mean())
    assert linear_probe.vote_accuracy(votes, labels) == expected


def test_average_precision_of_tied_clips_is_the_expected_one():
    generator = np.random.default_rng(0)
    for size in (1, 4, 6):
        for _ in range(10):
            score, shown = (
                generator.integers(0, 3, size),
                generator.integers(0, 2, size),
            )
            if not shown.any():
                continue
            values = []
            for order in itertools.permutations(range(size)):
                if all(score[a] >= score[b] for a, b in itertools.pairwise(order)):
                    places = [p for p, clip in enumerate(order, 1) if shown[clip]]
                    values.append(np.mean([n / p for n, p in enumerate(places, 1)]))
            value = linear_probe.average_precision(score, shown)
            assert value == pytest.approx(np.mean(values))


def test_average_precision_without_ties_is_the_same_to_the_bit():
    generator = np.random.default_rng(0)
    for size in (3, 40, 501):
        score, shown = generator.normal(size=size), generator.random(size) < 0.4
        shown[0] = True
        in_order = shown[np.argsort(-score, kind="stable")].astype(int)
        precisions = in_order.cumsum() / np.arange(1, size + 1)
        expected = float(precisions[in_order > 0].mean())
        assert linear_probe.average_precision(score, shown.astype(int)) == expected


def test_features_that_carry_the_label_are_read_and_others_are_not():
    train, labels = separable(200)
    test, truth = separable(100, seed=1)
    features = linear_probe.standardise(torch.tensor(train), torch.tensor(test))
    predicted, regularisation = linear_probe.classify(features, labels, seed=0)
    assert (predicted == truth).mean() == 1
    assert regularisation in linear_probe.REGULARISATIONS
    noise = np.random.default_rng(2).normal(size=(100, 12))
    blind = Standardised(features.train_VD, noise)
    predicted, _ = linear_probe.classify(blind, labels, seed=0)
    assert (predicted == truth).mean() < 0.5


def test_standardising_is_by_the_training_clips_alone():
    train, test = torch.randn(40, 3) * 5 + 2, torch.randn(9, 3)
    features = linear_probe.standardise(train, test)
    np.testing.assert_allclose(features.train_VD.mean(0), 0, atol=1e-6)
    expected = (test - train.mean(0)) / train.std(0)
    np.testing.assert_allclose(features.test_QD, expected.numpy(), rtol=1e-5)


def test_values_are_scored_by_one_classifier_each():
    feature, label = separable(150)
    shown = np.eye(3, dtype=int)[label]
    shown[:, 2] = 1  # of a value that all show nothing can be learned
    features = Standardised(feature, feature)
    score = linear_probe.score_values(features, shown, seed=0)
    assert linear_probe.mean_average_precision(score[:, :2], shown[:, :2]) == 100
    assert not score[:, 2].any()


ROWS = [
    {"shows": [["red", "ring", "up"], ["blue", "bar", "up"]], "told": [[0], [0]]},
    {"shows": [["red", "bar", "up"], ["blue", "ring", "left"]], "told": [[1]]},
    {"shows": [["blue", "bar", "left"], ["red", "ring", "up"]], "told": [[0], [0, 1]]},
]


def test_labels_of_rows():
    labels = linear_probe.read_labels(ROWS)
    assert labels.values == [
        ("colour", "blue"),
        ("colour", "red"),
        ("motion", "left"),
        ("motion", "up"),
        ("shape", "bar"),
        ("shape", "ring"),
    ]
    assert labels.is_shown_VC.tolist() == [
        [1, 1, 0, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
    ]
    assert labels.mentioned == [{0}, {1}, {0, 1}]
    other = linear_probe.read_labels(
        [{"shows": [["green", "ring", "up"]]}], labels.values
    )
    assert other.is_shown_VC.tolist() == [[0, 0, 0, 1, 0, 1]]


def test_a_question_is_what_the_untold_object_has_and_the_told_one_has_not():
    values = [("colour", name) for name in ("blue", "green", "red")]
    values += [("shape", name) for name in ("bar", "ring")]
    values += [("motion", name) for name in ("left", "up")]
    labels = Labels(
        values,
        np.zeros((3, 7), int),
        [{0}, {1}, {0, 1}],
        [[tuple(item) for item in row["shows"]] for row in ROWS],
    )
    score = np.array(
        [
            # told: red ring up; untold: blue bar, and up as well, which is no question
            [0.5, 0.4, 9.0, 0.1, 9.0, 0.3, 0.2],
            # told: blue ring left; untold: red bar up; green is guessed
            [9.0, 0.6, 0.5, 0.1, 9.0, 9.0, 0.2],
            [0.0] * 7,  # both are told
        ]
    )
    tied = linear_probe.untold_accuracy(np.zeros_like(score), labels, range(3))
    assert tied[0] == pytest.approx(tied[1]), "equal scores name it as often as chance"
    accuracy, chance, questions = linear_probe.untold_accuracy(score, labels, range(3))
    assert questions == 5
    assert accuracy == pytest.approx(100 * 4 / 5)
    assert chance == pytest.approx(100 * (1 / 2 + 1 + 1 / 2 + 1 + 1) / 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe")
    sizes = ["--train", "40", "--val", "2", "--test", "8"]
    command = [sys.executable, str(ROOT / "scripts/make_demo_data.py"), *sizes]
    data = ["--world", "partial", "--out", str(path / "data")]
    subprocess.run([*command, *data], check=True, capture_output=True)
    model = tiny_models.build_miles(str(path / "data/text_model"))
    model.save_pretrained(path / "model")
    return path


def probe(folder, *arguments):
    return subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts/probe.py"),
            "-r",
            str(folder / "model"),
            *arguments,
        ],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("features", ["cls", "patches", "joint"])
def test_the_command_on_generated_clips(folder, features):
    out = folder / f"{features}.json"
    done = probe(
        folder,
        *("--data", str(folder / "data"), "--features", features, "-o", str(out)),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["train"] == 40 and report["test"] == 8
    for kind in ("linear", "knn"):
        assert report[kind].keys() == {"colour", "shape", "motion", "all"}
        assert all(0 < value <= 100 for value in report[kind].values())
    assert report["untold"]["questions"] > 0
    assert f"{features} features of 40 + 8 clips" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "nowhere"], "nowhere/captions.jsonl"),
    ],
)
def test_mistakes_are_one_line(folder, arguments, message):
    done = probe(folder, *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name, classes", [("UCF101", 4), ("HMDB51", 3)])
def test_the_command_on_actions(folder, name, classes):
    """Each clip of the miniatures has a colour of its own, so nothing but the form of the report is known."""
    data, out = folder / name, folder / f"{name}.json"
    _, expected = miniatures.build(name, data, videos=12)
    done = probe(folder, "--data", str(data), "--dataset", name, "-o", str(out))
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["train"] == len(expected["train"])
    assert report["test"] == len(expected["test"])
    assert len({clip.partition("/")[0] for clip in expected["train"]}) == classes
    for kind in ("linear", "knn"):
        right = report[kind]["accuracy"] * report["test"] / 100
        assert right == pytest.approx(round(right)) and 0 <= right <= report["test"]


@pytest.mark.slow
def test_nothing_is_untold_where_captions_tell_all(folder):
    data = folder / "told"
    sizes = ["--train", "24", "--val", "2", "--test", "4"]
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts/make_demo_data.py"), *sizes),
            *("--world", "sparse", "--out", str(data)),
        ],
        check=True,
        capture_output=True,
    )
    out = folder / "told.json"
    done = probe(folder, "--data", str(data), "--max-train", "20", "-o", str(out))
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["train"] == 20 and report["test"] == 4
    assert report["untold"] == {"accuracy": None, "chance": None, "questions": 0}
    assert "untold: nothing, every object is mentioned by some caption" in done.stdout


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        linear_probe.logistic_regression(np.eye(2), np.arange(2), 1.0)
