"""Checks a config's data before a run does: counts, missing and unreadable files, captions, and a look at the clips.

    python scripts/check_data.py -c CONFIG [--split test] [--decode 200|all] [--sheet sheet.png] [key.path=value ...]

For every loader of the config: found and expected videos and captions, missing files, files that do not decode (of a
sample, or all), duplicate captions, lengths, and a contact sheet of what the model will see: the frames after the
transform, with the caption that goes with them. Exit status 0 if nothing is missing or broken, 1 otherwise.
"""

import argparse
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from data_loader.base import TextVideoDataset
from data_loader.loader import open_leniently
from data_loader.reader import BrokenVideo
from parse_config import cli_entry, command_line, printable

MAX_CAPTIONS = 200_000  # of which duplicates and lengths are counted
MAX_LISTED = 5  # missing and broken files that are listed by name
ROWS = 6  # videos of each data set on the contact sheet


def spread_indices(dataset: TextVideoDataset, count: int) -> list[int]:
    """At most `count` video indices, evenly spread over the data set."""
    if not len(dataset):
        return []
    return torch.linspace(0, len(dataset) - 1, count).long().unique().tolist()


def find_broken(dataset: TextVideoDataset, count: int) -> list[tuple[str, str]]:
    """Try `count` videos, evenly spread -> (path, reason) of those of which the middle frame cannot be read.

    A progress bar is shown; a decoder that does not return is ended after `video_params.deadline`.
    """

    def middle_frame(length: int) -> list[int]:
        return [length // 2]

    broken = []
    for index in tqdm(spread_indices(dataset, count), unit="file", leave=False):
        try:
            dataset.read_clip(index, middle_frame)
        except BrokenVideo as error:
            broken.append((error.path, error.reason))
    return broken


def print_report(
    dataset: TextVideoDataset, broken: list[tuple[str, str]], decoded: int
) -> None:
    """Print counts and faults.

    broken: see `find_broken`. decoded: how many files were tried.
    """
    print(f"{dataset.name}: {dataset.layout}")
    print_videos(dataset)
    print(f"  decoded     {decoded - len(broken)} of {decoded} tried")
    for path, reason in broken[:MAX_LISTED]:
        print(f"              broken: {printable(str(path))}: {printable(reason)}")
    print_captions(dataset)


def print_videos(dataset: TextVideoDataset) -> None:
    """Print the number of videos beside the expected one, and the first missing files."""
    counts = dataset.counts
    missing = counts["missing"]
    protocol = f" ({dataset.protocol})" if dataset.protocol else ""
    print(
        f"  videos      {counts['num_videos']} of {counts['expected_videos'] or '?'} expected"
        f"{protocol}, {len(missing)} missing"
    )
    for name in missing[:MAX_LISTED]:
        print(f"              missing: {printable(str(name))}")


def print_captions(dataset: TextVideoDataset) -> None:
    """Print the number of captions, in all and per video, of duplicates, and of words.

    Duplicates and words are counted in the first MAX_CAPTIONS captions.
    """
    if not dataset.with_captions:
        print("  captions    not used (with_captions false)")
        return

    captions = dataset.captions[:MAX_CAPTIONS]
    duplicates = [count for count in Counter(captions).values() if count > 1]
    per_video = torch.zeros(1)
    if len(dataset):
        per_video = torch.bincount(dataset.owner, minlength=len(dataset))

    print(
        f"  captions    {dataset.counts['num_captions']}, {int(per_video.min())} to "
        f"{int(per_video.max())} a video, {len(duplicates)} texts stand more than once "
        f"({sum(duplicates)} captions)"
    )

    lengths = [len(caption.split()) for caption in captions]
    if lengths:
        print(
            f"  words       {min(lengths)} to {max(lengths)} a caption, "
            f"median {statistics.median(lengths):g}; {lengths.count(0)} empty"
        )


def draw_sheet(datasets: list[TextVideoDataset], path: Path) -> None:
    """Write a PNG: for some videos of each data set the transformed frames, normalisation undone, and the caption.

    One row per video, one column per frame. What cannot be read has no row.
    """
    from matplotlib.figure import Figure

    rows = []
    for dataset in datasets:
        for index in spread_indices(dataset, min(ROWS, len(dataset))):
            sample = dataset[index]
            if sample["video"] is not None:
                rows.append((dataset, sample))

    num_columns = max(len(sample["video"]) for _, sample in rows)
    figure = Figure(figsize=(2.2 * num_columns, 2.6 * len(rows)))
    figure.subplots_adjust(
        left=0.02, right=0.98, top=0.97, bottom=0.04, wspace=0.04, hspace=0.25
    )
    axes = figure.subplots(len(rows), num_columns, squeeze=False)

    for axes_row, (dataset, sample) in zip(axes, rows, strict=True):
        draw_sample(axes_row, dataset, sample)
    figure.savefig(path, dpi=100)
    print(f"contact sheet: {path}")


def draw_sample(
    axes_row: Any, dataset: TextVideoDataset, sample: dict[str, Any]
) -> None:
    """Draw the frames of a sample into a row of axes, with their indices above and the caption below."""
    mean = torch.tensor(dataset.video.norm_mean)[:, None, None]
    std = torch.tensor(dataset.video.norm_std)[:, None, None]

    for axis in axes_row:
        axis.axis("off")

    for axis, frame_CHW, index in zip(
        axes_row, sample["video"], sample["meta"]["frames"]
    ):
        pixels_CHW = (frame_CHW * std + mean).clamp(0, 1)
        axis.imshow(pixels_CHW.permute(1, 2, 0).numpy())
        axis.set_title(f"frame {index}", fontsize=7, color="0.4")

    text = f"{dataset.name}, {sample['meta']['id']}"
    if dataset.with_captions:
        text = f"{text}: {sample['text']}"
    axes_row[0].text(
        0,
        -0.06,
        text[: 36 * len(axes_row)],
        transform=axes_row[0].transAxes,
        fontsize=8,
        va="top",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to those that all commands have."""
    parser.add_argument(
        "--split",
        help="another split than the config's",
    )
    parser.add_argument(
        "--decode",
        default="200",
        help="how many files to decode, or 'all'",
    )
    parser.add_argument(
        "--sheet",
        type=Path,
        default=Path("contact_sheet.png"),
    )


@cli_entry
def main(argv: list[str] | None = None) -> None:
    """The command line."""
    arguments, config = command_line(__doc__, argv, add_options)
    changes = {"split": arguments.split} if arguments.split else {}
    datasets = []
    complete = True
    for block in (*config.blocks("data_loader"), *config.blocks("valid_loader")):
        dataset = open_leniently(block, **changes)
        count = len(dataset)
        if arguments.decode != "all":
            count = min(int(arguments.decode), len(dataset))

        broken = find_broken(dataset, count)
        print_report(dataset, broken, count)
        complete = complete and not broken and not dataset.counts["missing"]
        datasets.append(dataset)

    draw_sheet(datasets, arguments.sheet)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
