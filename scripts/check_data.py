"""What is there of a config's data, before a run finds out: counts, missing and unreadable files, captions, a look.

    python scripts/check_data.py -c CONFIG [--split test] [--decode 200|all] [--sheet sheet.png] [key.path=value ...]

For every loader of the config: found and expected videos and captions, missing files, files that do not decode (of a
sample, or all), duplicate captions, lengths, and a contact sheet of what the model will see: the frames after the
transform, with the caption that goes with them. Exit status 0 if nothing is missing or broken, 1 otherwise.
"""

import statistics
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from tqdm import tqdm

from data_loader import LOADERS
from data_loader.reader import BrokenVideo
from parse_config import Config, cli_entry, command_line, merge


def data_set(block: Config, split: str | None):
    """The data set of a loader's block, opened so that nothing missing stops it."""
    changes = {"args": {"num_workers": 0, "batch_size": 1, "video_params": {"loading": "skip"}}}
    if split:
        changes["args"]["split"] = split
    return LOADERS.build(
        Config(merge(block.to_dict(), changes), block.json_path), tokenize=list
    ).dataset


def undecodable(dataset, count: int) -> list[tuple[str, str]]:
    """(path, reason) of those of `count` videos, evenly spread, whose frames cannot be read."""
    places = (
        torch.linspace(0, len(dataset) - 1, count).long().unique().tolist() if len(dataset) else []
    )

    def reason(index: int) -> tuple[str, str] | None:
        try:
            dataset._read(index, lambda length: [length // 2])
        except BrokenVideo as error:
            return error.path, error.reason
        return None

    with ThreadPoolExecutor(1) as pool:
        return [
            bad
            for bad in tqdm(pool.map(reason, places), total=len(places), unit="file", leave=False)
            if bad
        ]


def tell(dataset, bad: list[tuple[str, str]], decoded: int) -> bool:
    """Print what was found; True if nothing is wrong."""
    counts = dataset.counts
    captions = dataset.captions[:200_000]
    lengths = [len(caption.split()) for caption in captions]
    doubled = {caption: n for caption, n in Counter(captions).items() if n > 1}
    per_video = (
        torch.bincount(dataset.owner, minlength=len(dataset)) if len(dataset) else torch.zeros(1)
    )
    missing = counts.get("missing") or []
    print(f"{dataset.name}: {dataset.layout}")
    print(
        f"  videos      {counts['num_videos']} of {counts.get('expected_videos') or '?'} expected"
        f"{f' ({dataset.protocol})' if dataset.protocol else ''}, {len(missing)} missing"
    )
    for name in list(missing)[:5]:
        print(f"              missing: {name}")
    print(f"  decoded     {decoded - len(bad)} of {decoded} tried")
    for path, reason in bad[:5]:
        print(f"              broken: {path}: {reason}")
    print(
        f"  captions    {counts['num_captions']}, {int(per_video.min())} to {int(per_video.max())} a video, "
        f"{len(doubled)} texts stand more than once ({sum(doubled.values())} captions)"
    )
    if lengths:
        print(
            f"  words       {min(lengths)} to {max(lengths)} a caption, median {statistics.median(lengths):g}; "
            f"{sum(not n for n in lengths)} empty"
        )
    return not missing and not bad


def sheet(datasets: list, path: Path, rows: int = 6):
    """A PNG: for some videos of each data set the transformed frames, normalisation undone, and the caption."""
    from matplotlib.figure import Figure

    shown = [
        (dataset, index)
        for dataset in datasets
        for index in torch.linspace(0, len(dataset) - 1, min(rows, len(dataset)))
        .long()
        .unique()
        .tolist()
    ]
    samples = [(dataset, dataset[index]) for dataset, index in shown]
    samples = [(dataset, sample) for dataset, sample in samples if sample["video"] is not None]
    columns = max(len(sample["video"]) for _, sample in samples)
    figure = Figure(figsize=(2.2 * columns, 2.6 * len(samples)))
    figure.subplots_adjust(left=0.02, right=0.98, top=0.97, bottom=0.04, wspace=0.04, hspace=0.25)
    axes = figure.subplots(len(samples), columns, squeeze=False)
    for line, (dataset, sample) in zip(axes, samples, strict=True):
        mean, std = (
            torch.tensor(x)[:, None, None]
            for x in (dataset.video.norm_mean, dataset.video.norm_std)
        )
        for place, axis in enumerate(line):
            axis.axis("off")
            if place < len(sample["video"]):
                axis.imshow(
                    (sample["video"][place] * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()
                )
                axis.set_title(f"frame {sample['meta']['frames'][place]}", fontsize=7, color="0.4")
        text = f"{dataset.name}, {sample['meta']['id']}: {sample['text']}"
        line[0].text(
            0, -0.06, text[: 36 * columns], transform=line[0].transAxes, fontsize=8, va="top"
        )
    figure.savefig(path, dpi=100)
    print(f"contact sheet: {path}")


@cli_entry
def main(argv: list[str] | None = None):
    """The command line."""

    def options(parser):
        parser.add_argument("--split", help="another split than the config's")
        parser.add_argument("--decode", default="200", help="how many files to decode, or 'all'")
        parser.add_argument("--sheet", type=Path, default=Path("contact_sheet.png"))

    arguments, config = command_line(__doc__, argv, options)
    datasets, good = [], True
    for block in (*config.blocks("data_loader"), *config.blocks("valid_loader")):
        dataset = data_set(block, arguments.split)
        count = (
            len(dataset) if arguments.decode == "all" else min(int(arguments.decode), len(dataset))
        )
        good &= tell(dataset, undecodable(dataset, count), count)
        datasets.append(dataset)
    sheet(datasets, arguments.sheet)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
