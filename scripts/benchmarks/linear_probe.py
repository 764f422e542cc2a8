"""Linear and nearest-neighbour probes of fixed features, and what the generated clips are labelled with.

V training clips, Q test clips, D width of the features, C classes or attribute values.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from parse_config import UserError

ATTRIBUTES = ("colour", "shape", "motion")
REGULARISATIONS = (0.01, 0.1, 1.0, 10.0)  # C of scikit-learn, tried on a held-out tenth
NEIGHBOURS = 20
TEMPERATURE = 0.07  # of the neighbours' votes, as in DINO (arXiv 2104.14294)


class Standardised(NamedTuple):
    """Training and test features with mean 0 and deviation 1 in each dimension of the training clips."""

    train_VD: np.ndarray
    test_QD: np.ndarray


def standardise(train_VD: Tensor, test_QD: Tensor) -> Standardised:
    mean_D = train_VD.mean(0)
    deviation_D = train_VD.std(0).clamp(min=1e-6)
    return Standardised(
        ((train_VD - mean_D) / deviation_D).double().numpy(),
        ((test_QD - mean_D) / deviation_D).double().numpy(),
    )


def require_scikit_learn() -> None:
    """Raise UserError where the library is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "the probe needs scikit-learn, which is not installed: pip install scikit-learn"
        )


def logistic_regression(
    train_VD: np.ndarray, label_V: np.ndarray, regularisation: float
) -> Any:
    """A fitted classifier of scikit-learn; UserError without the library."""
    require_scikit_learn()
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=regularisation, max_iter=1000).fit(train_VD, label_V)


def choose_regularisation(
    train_VD: np.ndarray, label_V: np.ndarray, seed: int
) -> float:
    """The C that is most accurate on a tenth of the training clips, fitted on the others; the smaller of equal ones."""
    order = np.random.default_rng(seed).permutation(len(train_VD))
    held_out, rest = order[: len(order) // 10], order[len(order) // 10 :]
    if len(np.unique(label_V[rest])) < 2 or not len(held_out):
        return 1.0
    accuracies = [
        logistic_regression(train_VD[rest], label_V[rest], regularisation).score(
            train_VD[held_out], label_V[held_out]
        )
        for regularisation in REGULARISATIONS
    ]
    return REGULARISATIONS[int(np.argmax(accuracies))]


def classify(
    features: Standardised, label_V: np.ndarray, seed: int
) -> tuple[np.ndarray, float]:
    """(predicted label of each test clip, C) of a linear classifier of one label per clip."""
    regularisation = choose_regularisation(features.train_VD, label_V, seed)
    classifier = logistic_regression(features.train_VD, label_V, regularisation)
    return classifier.predict(features.test_QD), regularisation


def score_values(
    features: Standardised, has_value_VC: np.ndarray, seed: int
) -> np.ndarray:
    """score_QC: how surely each test clip shows each value, by one binary classifier per value.

    C is chosen once, on the value that half of the clips or the nearest to it show. A value that all training clips or
    none show has the score 0.
    """
    share_C = has_value_VC.mean(0)
    typical = int(np.abs(share_C - 0.5).argmin())
    regularisation = choose_regularisation(
        features.train_VD, has_value_VC[:, typical], seed
    )
    score_QC = np.zeros((len(features.test_QD), has_value_VC.shape[1]))
    for value, share in enumerate(share_C):
        if 0 < share < 1:
            classifier = logistic_regression(
                features.train_VD, has_value_VC[:, value], regularisation
            )
            score_QC[:, value] = classifier.decision_function(features.test_QD)
    return score_QC


def average_precision(score_Q: np.ndarray, is_shown_Q: np.ndarray) -> float:
    """The mean of the precisions at each clip that shows the value, from the highest score down; NaN if none does.

    Clips of equal score are ordered by chance, and this is the expected value: of k tied clips of which r show the
    value, each place holds one of them with probability r / k, and each place of the group before it another with
    (r - 1) / (k - 1).
    """
    order = np.argsort(-score_Q, kind="stable")
    shown_in_order_Q = is_shown_Q[order] > 0
    if not shown_in_order_Q.any():
        return float("nan")
    _, first_Q, group_Q, size_Q = np.unique(
        -score_Q[order], return_index=True, return_inverse=True, return_counts=True
    )
    start_Q, size_Q = first_Q[group_Q], size_Q[group_Q]
    before_Q = np.append(0, shown_in_order_Q.cumsum())  # shown before each place
    right_Q = before_Q[start_Q + size_Q] - before_Q[start_Q]
    place_Q = np.arange(len(score_Q))
    others_before_Q = (place_Q - start_Q) * (right_Q - 1) / np.maximum(size_Q - 1, 1)
    precision_Q = (before_Q[start_Q] + 1 + others_before_Q) / (place_Q + 1)
    share_Q = right_Q / size_Q
    expected_Q = (share_Q * precision_Q)[right_Q > 0]
    return float(expected_Q.sum() / shown_in_order_Q.sum())


def mean_average_precision(score_QC: np.ndarray, is_shown_QC: np.ndarray) -> float:
    """Over the values that some test clip shows, in percent."""
    precisions = [
        average_precision(score_QC[:, value], is_shown_QC[:, value])
        for value in range(score_QC.shape[1])
    ]
    return float(100 * np.nanmean(precisions))


def neighbour_votes(train_VD: Tensor, test_QD: Tensor, vote_VC: Tensor) -> Tensor:
    """(Q, C): of the 20 nearest training clips by cosine, their rows of `vote_VC` weighted by exp(cosine / 0.07).

    Clips that are equally far as the 20th share the places that are left to them.
    """
    train_VD, test_QD = F.normalize(train_VD, dim=-1), F.normalize(test_QD, dim=-1)
    cosine_QV = test_QD @ train_VD.T
    cosine_QK, nearest_QK = cosine_QV.topk(min(NEIGHBOURS, len(train_VD)))
    weight_QK = ((cosine_QK - cosine_QK[:, :1]) / TEMPERATURE).exp()
    votes_QC = torch.einsum("qk,qkc->qc", weight_QK, vote_VC[nearest_QK])

    is_tied_QV = cosine_QV == cosine_QK[:, -1:]
    num_places_Q = (cosine_QK == cosine_QK[:, -1:]).sum(1)
    share_Q = num_places_Q.double() / is_tied_QV.sum(1)
    for query in (share_Q < 1).nonzero()[:, 0].tolist():
        num_nearer = cosine_QK.shape[1] - num_places_Q[query]
        nearer = nearest_QK[query, :num_nearer]
        tied_C = vote_VC[is_tied_QV[query]].sum(0)
        weight_of_tied = share_Q[query] * weight_QK[query, -1]
        nearer_C = weight_QK[query, :num_nearer] @ vote_VC[nearer]
        votes_QC[query] = nearer_C + weight_of_tied * tied_C
    return votes_QC


def vote_accuracy(votes_QC: Tensor, label_Q: np.ndarray) -> float:
    """How often the class with the most votes is the right one, in percent; one of n with equally many counts 1 / n."""
    is_best_QC = votes_QC == votes_QC.max(1, keepdim=True).values
    is_right_Q = is_best_QC[torch.arange(len(label_Q)), torch.from_numpy(label_Q)]
    return float(100 * (is_right_Q / is_best_QC.sum(1)).double().mean())


class Labels(NamedTuple):
    """What generated clips show. V clips, C values of all attributes.

    Args:
        values: (attribute, value) of each column
        is_shown_VC: int64, whether any object of the clip has the value
        mentioned: for each clip the indices of the objects that any of its captions mentions
        shows: for each clip the (colour, shape, motion) of each object
    """

    values: list[tuple[str, str]]
    is_shown_VC: np.ndarray
    mentioned: list[set[int]]
    shows: list[list[tuple[str, ...]]]

    def of(self, attribute: str) -> list[int]:
        """The columns of an attribute."""
        return [i for i, (name, _) in enumerate(self.values) if name == attribute]


def read_labels(
    rows: Sequence[Mapping[str, Any]], values: Sequence[tuple[str, str]] = ()
) -> Labels:
    """The labels of rows of captions.jsonl; `values` are those of the training rows, default: all that occur."""
    shows = [[tuple(item[:3]) for item in row["shows"]] for row in rows]
    if not values:
        values = sorted(
            {pair for clip in shows for item in clip for pair in zip(ATTRIBUTES, item)}
        )
    column = {pair: i for i, pair in enumerate(values)}
    is_shown_VC = np.zeros((len(rows), len(values)), np.int64)
    for clip, items in enumerate(shows):
        for item in items:
            for pair in zip(ATTRIBUTES, item):
                if pair in column:
                    is_shown_VC[clip, column[pair]] = 1
    mentioned = [
        {index for caption in row.get("told", []) for index in caption} for row in rows
    ]
    return Labels(list(values), is_shown_VC, mentioned, shows)


def is_question(labels: Labels, clip: int) -> bool:
    """Whether the captions of a clip of two objects mention one of them alone."""
    return len(labels.shows[clip]) == 2 and len(labels.mentioned[clip]) == 1


def untold_accuracy(
    score_QC: np.ndarray, labels: Labels, clips: Sequence[int]
) -> tuple[float, float, int]:
    """How often a probe names what no caption told: (accuracy, chance, number of questions), in percent.

    A question is one attribute of a clip of two objects of which captions mention one alone. Among the values other
    than that of the mentioned object, the highest score should be that of the other object, which must differ. One of n
    equal highest scores counts 1 / n.

    Args:
        score_QC: of each clip in `clips`, by a probe that was fitted on others
        labels: of all clips
        clips: their indices, in the order of `score_QC`
    """
    hits, chances = [], []
    for score_C, clip in zip(score_QC, clips, strict=True):
        if not is_question(labels, clip):
            continue
        items = labels.shows[clip]
        (mentioned_object,) = labels.mentioned[clip]
        for attribute, told_value, untold_value in zip(
            ATTRIBUTES, items[mentioned_object], items[1 - mentioned_object]
        ):
            candidates = [
                column
                for column in labels.of(attribute)
                if labels.values[column][1] != told_value
            ]
            if untold_value != told_value:
                highest = max(score_C[column] for column in candidates)
                best_values = [
                    labels.values[column][1]
                    for column in candidates
                    if score_C[column] == highest
                ]
                hits.append((untold_value in best_values) / len(best_values))
                chances.append(1 / len(candidates))
    if not hits:
        return float("nan"), float("nan"), 0
    return float(100 * np.mean(hits)), float(100 * np.mean(chances)), len(hits)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/probe.py --help")
