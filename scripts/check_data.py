"""Checks a config's data before a run does: counts, missing and unreadable files, captions, and a look at the clips.

    python scripts/check_data.py -c CONFIG [--split test] [--decode 200|all] [--sheet sheet.png] [key.path=value ...]

For every loader of the config, and of its stages: found and expected videos, every missing file, files that do not
decode and files that hold fewer frames than their container promises (of a sample, or all), duplicate ids, blank and
duplicate captions, lengths, words that the text model's tokenizer does not know and captions that are too long for it,
and what splits have in common. --sheet draws what the model will see: the frames after the transform, with the caption
that goes with them. Exit status 0 if nothing is missing or broken, 1 otherwise, 2 for a mistake in what was given.
"""

from parse_config import end_at_ctrl_c

if __name__ == "__main__":
    end_at_ctrl_c()  # importing the rest takes seconds


import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_loader.annotations.left_out import left_out_text
from data_loader.base import TextVideoDataset
from data_loader.loader import open_leniently
from parse_config import (
    Config,
    ConfigError,
    UserError,
    cli_entry,
    command_line,
    printable,
)
from scripts.data_check.media import DecodeReport, try_files
from scripts.data_check.sheet import check_path, draw_sheet
from scripts.data_check.splits import other_splits, overlaps
from scripts.data_check.text import (
    MAX_TOKENIZED,
    TextModel,
    count_captions,
    count_tokens,
    duplicate_ids,
    open_text_model,
)
from trainer.config_check import stage_configs

MAX_LISTED = 5  # missing and broken files that are listed by name
# The command that a config's note names -> how it makes the data.
MAKERS = {
    "scripts/make_demo_data.py": "python scripts/make_demo_data.py --out {data_dir} makes it",
    "scripts/ablation.py": "python scripts/ablation.py makes it",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to those that all commands have."""
    parser.add_argument("--split", help="another split than the config's")
    parser.add_argument(
        "--decode",
        default="200",
        help="how many files to decode, evenly spread, or 'all'",
    )
    parser.add_argument(
        "--sheet", type=Path, help="picture to draw some clips into, as sheet.png"
    )


def decode_limit(text: str) -> int | None:
    """How many files are decoded at most, None for all. Raises ConfigError."""
    if text == "all":
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(
            f"--decode: {text!r} is given; a number of files, 0 or more, or 'all' is needed"
        )
    return int(text)


def loader_blocks(config: Config) -> list[Config]:
    """The loaders of the config and of its stages, each once. Raises ConfigError if there is none."""
    blocks: list[Config] = []
    for stage in stage_configs(config):
        for block in (*stage.blocks("data_loader"), *stage.blocks("valid_loader")):
            if block not in blocks:
                blocks.append(block)
    if not blocks:
        raise ConfigError("data_loader: is missing: the config names no data to check")
    return blocks


def open_dataset(block: Config, config: Config, split: str | None) -> TextVideoDataset:
    """The data set of a loader, every file looked for. Raises UserError with the remedy if it is not there."""
    args = dict(block.get("args") or {})
    changes: dict[str, Any] = {"check_files": True}
    if split:
        changes["split"] = split
    if (split or args.get("split", "train")) == "train":
        changes["holdout"] = 0  # all training videos are looked at
    try:
        return open_leniently(block, **changes)
    except FileNotFoundError as error:
        raise UserError(f"{error}; {remedy(config, args.get('data_dir'))}") from None


def remedy(config: Config, data_dir: str | None) -> str:
    """What makes or finds the data of a config."""
    note = str(config.get("about") or "")
    for command, text in MAKERS.items():
        if command in note:
            return text.format(data_dir=data_dir)
    return "data_loader.args.data_dir=FOLDER says where it lies, docs/data.md which files belong there"


def print_videos(dataset: TextVideoDataset) -> None:
    """Print the number of videos beside the expected one, the first missing files, and duplicate ids."""
    print(f"{dataset.name}: {dataset.layout}")
    counts = dataset.counts
    missing = counts["missing"]
    protocol = f" ({dataset.protocol})" if dataset.protocol else ""
    print(
        f"  videos      {counts['num_videos']} of {counts['expected_videos'] or '?'} expected"
        f"{protocol}, {len(missing)} missing"
    )
    print_listed("missing", missing)
    print(f"  annotations {left_out_text(dataset.left_out)}")
    num_ids, examples = duplicate_ids(dataset, MAX_LISTED)
    if num_ids:
        print(
            f"  ids         {num_ids} stand more than once: {listing(examples, num_ids)}"
        )


def print_listed(word: str, lines: list[str]) -> None:
    """Print the first lines, each behind the word."""
    for line in lines[:MAX_LISTED]:
        print(f"              {word}: {printable(line)}")


def listing(names: list[str], count: int) -> str:
    """The names, with a mark if there are more."""
    return printable(", ".join(names)) + (", ..." if count > len(names) else "")


def print_decoded(report: DecodeReport) -> None:
    """Print how many of the tried files can be read, and those that are broken or cut short."""
    num_tried = len(report.tried)
    print(f"  decoded     {len(report.readable)} of {num_tried} tried")
    broken = [f"{path}: {reason}" for path, reason in report.broken.values()]
    print_listed("broken", broken)
    if num_tried and not report.readable:
        print(
            "              none can be read: fetch them again, or let data_loader.args.data_dir name readable ones"
        )
    if report.readable:
        uncounted = ""
        if report.uncounted:
            uncounted = f", {report.uncounted} not counted (in tar files, or too long for the deadline)"
        print(
            f"  cut short   {len(report.cut_short)} files hold fewer frames than their container promises{uncounted}"
        )
    lines = [
        f"{file.path}: {file.decoded} of {file.promised} frames"
        for file in report.cut_short
    ]
    print_listed("cut short", lines)


def print_captions(dataset: TextVideoDataset, model: TextModel | str) -> None:
    """Print the numbers of captions, of words, and what the text model makes of them.

    model: or why there is none.
    """
    if not dataset.with_captions:
        print("  captions    not used (with_captions false)")
        return

    report = count_captions(dataset)
    print(
        f"  captions    {report.total}, {report.fewest} to {report.most} a video, {report.duplicate_texts} texts stand "
        f"more than once ({report.duplicates} captions), {report.blank} blank"
    )
    least, median, most = report.lengths
    print(f"  words       {least} to {most} a caption, median {median:g}")
    if isinstance(model, str):
        print(f"  tokens      not counted: {model}")
    else:
        print_tokens(dataset, model)


def print_tokens(dataset: TextVideoDataset, model: TextModel) -> None:
    """Print the share of unknown words, and how many captions are longer than the text model takes."""
    report = count_tokens(dataset.captions, model)
    share = report.unknown / max(1, report.words)
    examples = f": {', '.join(map(repr, report.examples))}" if report.examples else ""
    print(
        f"  tokens      {share:.2%} of the words are unknown to the tokenizer ({report.unknown} of {report.words})"
        f"{examples}"
    )
    sample = ""
    if report.captions == MAX_TOKENIZED:
        sample = f" of {report.captions} evenly spread"
    print(
        f"              {report.too_long}{sample} captions have more than {report.max_length} tokens and are cut"
    )


def text_model(config: Config) -> TextModel | str:
    """The text model's tokenizer, or why it is not to be had, in one line."""
    try:
        return open_text_model(config)
    except UserError as error:
        return " ".join(str(error).split())


def print_overlaps(
    datasets: list[TextVideoDataset], others: list[TextVideoDataset]
) -> None:
    """Print what splits have in common."""
    for overlap in overlaps(datasets, others, MAX_LISTED):
        print(
            f"overlap of {overlap.first} and {overlap.second}: {overlap.num_files} files, "
            f"{overlap.num_captions} caption texts"
        )
        print_listed("in both", overlap.examples)


def find_other_splits(
    blocks: list[Config], datasets: list[TextVideoDataset]
) -> Iterator[TextVideoDataset]:
    """Splits of the training data that the config does not name itself."""
    known = {(dataset.name, dataset.data_dir) for dataset in datasets}
    for block, dataset in zip(blocks, datasets, strict=True):
        for other_split in other_splits(block, dataset):
            if (other_split.name, other_split.data_dir) not in known:
                known.add((other_split.name, other_split.data_dir))
                yield other_split


@cli_entry
def main(argv: list[str] | None = None) -> None:
    """The command line."""
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # any caption and file name can be shown
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments, config = command_line(__doc__, argv, add_options)
    limit = decode_limit(arguments.decode)
    if arguments.sheet:
        check_path(arguments.sheet)
    blocks = loader_blocks(config)
    datasets = [open_dataset(block, config, arguments.split) for block in blocks]
    model = text_model(config)

    complete = True
    unreadable = []
    for dataset in datasets:
        count = len(dataset) if limit is None else min(limit, len(dataset))
        report = try_files(dataset, count)
        print_videos(dataset)
        print_decoded(report)
        print_captions(dataset, model)
        complete = complete and not report.broken and not dataset.counts["missing"]
        unreadable.append(set(report.broken))

    print_overlaps(datasets, list(find_other_splits(blocks, datasets)))
    if arguments.sheet:
        print(draw_sheet(datasets, unreadable, arguments.sheet))
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
