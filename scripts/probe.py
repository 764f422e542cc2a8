"""What the frozen video encoder knows: linear and nearest-neighbour probes of its features.

    python scripts/probe.py -r CKPT --data data/ablation/partial            generated clips: colour, shape, motion
    python scripts/probe.py -r CKPT --data data/UCF101 --dataset UCF101      actions: accuracy on the official split 1

Generated clips: one binary classifier per value, mean average precision in percent; and, where training captions leave
an object out, how often a probe names its colour, shape and motion. docs/probe.md defines each number.
"""

from parse_config import end_at_ctrl_c

if __name__ == "__main__":
    end_at_ctrl_c()  # importing the rest takes seconds


import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_loader.action_dataset import ActionDataset
from data_loader.datasets import DATASETS
from data_loader.datasets.jsonl import read_rows
from data_loader.reader import BrokenVideo
from model.load import load_model
from model.miles import MILES
from parse_config import UserError, cli_entry
from scripts.benchmarks import linear_probe
from scripts.benchmarks.linear_probe import Labels
from trainer.files import write_json

FEATURES = ("cls", "patches", "joint")
GENERATED = "generated"


@torch.no_grad()
def embed(
    model: MILES, paths: Sequence[Path], features: str, batch_size: int
) -> Tensor:
    """(V, D) on the CPU: the features of videos, read as at test.

    features: "cls" before the projection, "patches": their mean over the clip, "joint": cls after the projection
    """
    reader = model.clip_reader
    assert reader is not None, "of load_model"
    batches = []
    for start in range(0, len(paths), batch_size):
        video_BTCHW = reader(paths[start : start + batch_size]).to(model.device)
        cls_BD, patch_BTND = model.video_features(video_BTCHW)
        if features == "patches":
            batches.append(patch_BTND.mean((1, 2)))
        elif features == "joint":
            batches.append(model.vid_proj(cls_BD))
        else:
            batches.append(cls_BD)
    return torch.cat(batches).float().cpu()


def readable(model: MILES, dataset: ActionDataset, indices: Sequence[int]) -> list[int]:
    """Those whose files can be read; a line says how many cannot."""
    reader = model.clip_reader
    assert reader is not None, "of load_model"
    readable_indices = []
    for index in indices:
        path = dataset.video_path(index)
        try:
            if path is not None:
                reader([path])
                readable_indices.append(index)
        except BrokenVideo as error:
            print(f"left out: {error}")
    if len(readable_indices) < len(indices):
        print(
            f"{dataset.name}: {len(indices) - len(readable_indices)} clips are left out"
        )
    return readable_indices


def subset(count: int, most: int, seed: int) -> list[int]:
    """At most `most` of the indices below `count`, drawn at random, in order."""
    order = np.random.default_rng(seed).permutation(count)[:most]
    return sorted(order.tolist())


def probe_generated(model: MILES, arguments: argparse.Namespace) -> dict[str, Any]:
    """The probes of a folder of scripts/make_demo_data.py."""
    folder = Path(arguments.data)
    path = folder / "captions.jsonl"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; make the data with scripts/make_demo_data.py, or give --dataset"
        )
    rows: dict[str, list[Any]] = {"train": [], "test": []}
    for _, row in read_rows(path):
        if row.get("split") in rows and row.get("shows"):
            rows[str(row["split"])].append(row)
    if not rows["train"] or not rows["test"]:
        raise UserError(
            f'{path}: no rows of train and test with "shows"; make the data with scripts/make_demo_data.py, or '
            "give --dataset"
        )
    most = {"train": arguments.max_train, "test": arguments.max_test}
    features, labels = {}, {}
    values: list[tuple[str, str]] = []
    for split in ("train", "test"):
        clip_indices = subset(len(rows[split]), most[split], arguments.seed)
        split_rows = [rows[split][index] for index in clip_indices]
        labels[split] = linear_probe.read_labels(split_rows, values)
        values = labels[split].values
        paths = [folder / row["path"] for row in split_rows]
        features[split] = embed(model, paths, arguments.features, arguments.batch_size)
    return {
        **probe_values(features, labels, arguments.seed),
        "untold": probe_untold(features["train"], labels["train"], arguments.seed),
        "train": len(features["train"]),
        "test": len(features["test"]),
    }


def probe_values(
    features: dict[str, Tensor], labels: dict[str, Labels], seed: int
) -> dict[str, Any]:
    """{"linear", "knn"}: mean average precision of each attribute, and "all" of them, in percent."""
    standardised = linear_probe.standardise(features["train"], features["test"])
    scores_QC = {
        "linear": linear_probe.score_values(
            standardised, labels["train"].is_shown_VC, seed
        ),
        "knn": linear_probe.neighbour_votes(
            torch.from_numpy(standardised.train_VD),
            torch.from_numpy(standardised.test_QD),
            torch.from_numpy(labels["train"].is_shown_VC).double(),
        ).numpy(),
    }
    is_shown_QC = labels["test"].is_shown_VC
    report = {}
    for name, score_QC in scores_QC.items():
        precisions = {}
        for attribute in linear_probe.ATTRIBUTES:
            columns = labels["train"].of(attribute)
            precisions[attribute] = linear_probe.mean_average_precision(
                score_QC[:, columns], is_shown_QC[:, columns]
            )
        precisions["all"] = linear_probe.mean_average_precision(score_QC, is_shown_QC)
        report[name] = precisions
    return report


def probe_untold(feature_VD: Tensor, labels: Labels, seed: int) -> dict[str, Any]:
    """Of what training captions leave out: each half of the training clips is scored by a probe of the other half."""
    clips = range(len(feature_VD))
    nothing = {"accuracy": None, "chance": None, "questions": 0}
    if not any(linear_probe.is_question(labels, clip) for clip in clips):
        return nothing
    order = np.random.default_rng(seed).permutation(len(feature_VD))
    halves = np.array_split(order, 2)
    score_VC = np.zeros_like(labels.is_shown_VC, dtype=np.float64)
    for fitted, scored in (halves, halves[::-1]):
        standardised = linear_probe.standardise(feature_VD[fitted], feature_VD[scored])
        score_VC[scored] = linear_probe.score_values(
            standardised, labels.is_shown_VC[fitted], seed
        )
    accuracy, chance, questions = linear_probe.untold_accuracy(score_VC, labels, clips)
    if not questions:
        return nothing
    return {"accuracy": accuracy, "chance": chance, "questions": questions}


def probe_actions(model: MILES, arguments: argparse.Namespace) -> dict[str, Any]:
    """{"linear", "knn"}: accuracy in percent on the official split of an action data set."""
    features, labels = {}, {}
    for split in ("train", "test"):
        args = {
            "data_dir": arguments.data,
            "split": split,
            "video_params": {"loading": "skip"},
            "holdout": 0,  # nothing is chosen
        }
        dataset = DATASETS.build({"type": arguments.dataset, "args": args})
        if not isinstance(dataset, ActionDataset):
            raise UserError(
                f"--dataset {arguments.dataset}: has no classes; UCF101 and HMDB51 have"
            )
        most = arguments.max_train if split == "train" else arguments.max_test
        clip_indices = subset(len(dataset), most, arguments.seed)
        clip_indices = readable(model, dataset, clip_indices)
        paths = [Path(dataset.video_path(index) or "") for index in clip_indices]
        features[split] = embed(model, paths, arguments.features, arguments.batch_size)
        labels[split] = dataset.labels[clip_indices]
    standardised = linear_probe.standardise(features["train"], features["test"])
    predicted_Q, regularisation = linear_probe.classify(
        standardised, labels["train"].numpy(), arguments.seed
    )
    votes_QC = linear_probe.neighbour_votes(
        torch.from_numpy(standardised.train_VD),
        torch.from_numpy(standardised.test_QD),
        F.one_hot(labels["train"]).double(),
    )
    truth_Q = labels["test"].numpy()
    return {
        "linear": {"accuracy": float(100 * (predicted_Q == truth_Q).mean())},
        "C": regularisation,
        "knn": {"accuracy": linear_probe.vote_accuracy(votes_QC, truth_Q)},
        "train": len(features["train"]),
        "test": len(truth_Q),
    }


def table(report: dict[str, Any]) -> str:
    """The numbers as lines of text."""
    lines = []
    for probe in ("linear", "knn"):
        numbers = [f"{name} {value:.1f}" for name, value in report[probe].items()]
        lines.append(f"{probe:>7}: {', '.join(numbers)}")
    untold = report.get("untold")
    if untold and untold["questions"]:
        lines.append(
            f" untold: {untold['accuracy']:.1f} (chance {untold['chance']:.1f}, {untold['questions']} questions)"
        )
    elif untold:
        lines.append(" untold: nothing, every object is mentioned by some caption")
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> None:
    """Embed, fit, score, print, write."""
    linear_probe.require_scikit_learn()
    model = load_model(arguments.resume, arguments.device)
    probe = probe_generated if arguments.dataset == GENERATED else probe_actions
    report = {
        "checkpoint": str(arguments.resume),
        "data": str(arguments.data),
        "dataset": arguments.dataset,
        "features": arguments.features,
        "seed": arguments.seed,
        **probe(model, arguments),
    }
    print(
        f"{arguments.features} features of {report['train']} + {report['test']} clips"
    )
    print(table(report))
    if arguments.output:
        write_json(arguments.output, report)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is given, 1 or more is needed")
    return number


@cli_entry
def cli(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-r", "--resume", required=True, help="checkpoint, run folder or export")
    add("--data", required=True, help="folder of the data set")
    add(
        "--dataset",
        choices=(GENERATED, "UCF101", "HMDB51"),
        default=GENERATED,
        help="default: generated",
    )
    add("--features", choices=FEATURES, default="cls", help="default: cls")
    add("--max-train", type=positive, default=2000, help="default: 2000 clips")
    add("--max-test", type=positive, default=2000, help="default: 2000 clips")
    add("--batch-size", type=positive, default=32, help="clips at once, default: 32")
    add("--seed", type=int, default=0, help="of the clips that are chosen")
    add("-d", "--device", default=None, help="default: a GPU if there is one")
    add("-o", "--output", type=Path, help="JSON file to write")
    main(parser.parse_args(argv))


if __name__ == "__main__":
    cli()
