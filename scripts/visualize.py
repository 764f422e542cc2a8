"""Look into a checkpoint on any video or image.

    python scripts/visualize.py attention -r CKPT VIDEO...          where CLS looks in the last block, over each frame
    python scripts/visualize.py attention -r CKPT VIDEO --animate mp4       all through the video
    python scripts/visualize.py alignment -r CKPT VIDEO --text "a man rides a motorcycle" [--word motorcycle]
    python scripts/visualize.py masking -r CKPT VIDEO...            what is hidden, and how far each guess is off

CKPT: of train.py, MILES, Frozen in Time or MCQ, or a folder of scripts/export.py. Several stand side by side:
-r A -r B --names "without MVM" "with MVM". docs/visualize.md shows and explains each figure.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parse_config import UserError, cli_entry
from scripts.figures.alignment import alignment_figure
from scripts.figures.attention import attention_figure
from scripts.figures.attention_video import attention_movie
from scripts.figures.clips import models
from scripts.figures.heatmap import PANEL
from scripts.figures.masking import masking_figure
from trainer import device

__all__ = ["alignment_figure", "attention_figure", "attention_movie", "masking_figure"]
CHECKPOINTS = (".pth", ".pt", ".bin", ".ckpt", ".tar")
OUT = Path("exps/figures")


def attention(given: argparse.Namespace, common: dict) -> list[Path]:
    """The PNG, or a moving picture for each video."""
    how = {
        "block": given.block,
        "heads": given.heads,
        "over": given.over,
        "title": given.title,
        **common,
    }
    made = models(given.resume, given.device)
    if not given.animate:
        return [attention_figure(made, given.videos, given.out, **how)]
    outs = [given.out.with_suffix(f".{given.animate}")]
    if len(given.videos) > 1:
        outs = [
            outs[0].with_stem(f"{outs[0].stem}_{i}_{Path(video).stem}")
            for i, video in enumerate(given.videos)
        ]
    return [
        attention_movie(
            made, video, out, seconds=given.window, fps=given.fps, most=given.most, **how
        )
        for video, out in zip(given.videos, outs)
    ]


def alignment(given: argparse.Namespace, common: dict) -> list[Path]:
    """The PNG."""
    return [
        alignment_figure(
            given.resume,
            given.videos,
            given.text,
            given.out,
            word=given.word,
            relative=given.relative,
            title=given.title or None,
            **common,
        )
    ]


def masking(given: argparse.Namespace, common: dict) -> list[Path]:
    """The PNG."""
    return [
        masking_figure(
            given.resume,
            given.videos,
            given.out,
            seed=given.seed,
            title=given.title or None,
            **common,
        )
    ]


def parser() -> argparse.ArgumentParser:
    """One subcommand a kind."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = made.add_subparsers(dest="kind", required=True, metavar="{attention,alignment,masking}")
    kind = {
        each.__name__: kinds.add_parser(each.__name__) for each in (attention, alignment, masking)
    }
    for each, action in zip(kind.values(), (attention, alignment, masking)):
        each.set_defaults(run=action)
        each.add_argument("videos", nargs="*", metavar="VIDEO", help="videos or images")
        each.add_argument(
            "-r", "--resume", nargs="+", action="extend", required=True, metavar="CKPT"
        )
        each.add_argument(
            "-o", "--out", type=Path, metavar="FILE", help="default: exps/figures/KIND.png"
        )
        each.add_argument(
            "-d", "--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)"
        )
        each.add_argument(
            "--names", nargs="+", metavar="NAME", help="one for each checkpoint, printed above it"
        )
        each.add_argument(
            "--panel", type=int, default=PANEL, metavar="PIXELS", help=f"a picture's side ({PANEL})"
        )
        each.add_argument("--title", default="", help="printed above all")
    one = kind["attention"]
    one.add_argument(
        "--block", type=int, default=-1, help="from 0, or from the end (default: -1, the last)"
    )
    one.add_argument("--heads", default="mean", metavar="mean|each|N", help="default: mean")
    one.add_argument(
        "--over", choices=("space", "time"), default="space", help="which of a block's two layers"
    )
    one.add_argument(
        "--animate", choices=("gif", "mp4"), help="the whole video, with a sliding window"
    )
    one.add_argument(
        "--window",
        type=float,
        default=0,
        metavar="SECONDS",
        help="of the window (0: the whole video)",
    )
    one.add_argument(
        "--fps", type=float, default=12, help="shown frames for each second of the video (12)"
    )
    one.add_argument(
        "--most", type=int, default=240, metavar="FRAMES", help="at most so many (240)"
    )
    kind["alignment"].add_argument("--text", required=True)
    kind["alignment"].add_argument(
        "--word", nargs="+", action="extend", help="these words of the text alone"
    )
    kind["alignment"].add_argument(
        "--relative", action="store_true", help="less the mean over the text's words"
    )
    kind["masking"].add_argument("--seed", type=int, default=0, help="of the mask (0)")
    return made


def sort_out(given: argparse.Namespace):
    """What follows `-r CKPT` and is no checkpoint is a video; then check what argparse cannot."""
    first, *others = given.resume
    given.resume = [first] + [path for path in others if is_checkpoint(path)]
    given.videos = [path for path in others if not is_checkpoint(path)] + given.videos
    if not given.videos:
        raise UserError("command line: no VIDEO is given")
    given.names = given.names or (
        [short(path) for path in given.resume] if len(given.resume) > 1 else None
    )
    if given.names and len(given.names) != len(given.resume):
        raise UserError(
            f"--names: {len(given.names)} for {len(given.resume)} checkpoints ({', '.join(given.names)}); "
            "give one for each, in the order of -r, and no VIDEO behind them"
        )
    for name, least in (("panel", 16), ("fps", 0.01), ("most", 1), ("window", 0)):
        if getattr(given, name, least) < least:
            raise UserError(f"--{name} {getattr(given, name)}: {least} or more is needed")
    given.out = given.out or OUT / f"{given.kind}.png"
    given.device = str(device.choose_device(given.device))


def is_checkpoint(path: str) -> bool:
    """A folder, a file named or beginning as torch's files are."""
    if Path(path).suffix.lower() in CHECKPOINTS or Path(path).is_dir():
        return True
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"\x80\x02}q", b"\x80\x02\x8a\n")


def short(path: str) -> str:
    """The end of a path that tells runs apart."""
    return "/".join(Path(path).parts[-2:])


@cli_entry
def cli(argv: Sequence[str] | None = None):
    """The command line."""
    given = parser().parse_args(argv)
    sort_out(given)
    for path in given.run(
        given, {"names": given.names, "panel": given.panel, "device": given.device}
    ):
        print(path)


if __name__ == "__main__":
    cli()
