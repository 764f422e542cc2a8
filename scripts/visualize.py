"""Look into a checkpoint on any video or image.

    python scripts/visualize.py attention -r CKPT VIDEO...          where CLS looks in the last block, over each frame
    python scripts/visualize.py attention -r CKPT VIDEO --animate mp4       all through the video
    python scripts/visualize.py alignment -r CKPT VIDEO --text "a man rides a motorcycle" [--word motorcycle]
    python scripts/visualize.py alignment --score -r CKPT --data FOLDER     how well phrases find their objects: numbers
    python scripts/visualize.py masking -r CKPT VIDEO...            what is hidden, and how far each guess is off

CKPT: of train.py, MILES, Frozen in Time or MCQ, or a folder of scripts/export.py. Several stand side by side:
-r A -r B --names "without MVM" "with MVM". docs/visualize.md shows and explains each figure.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parse_config import UserError, cli_entry
from scripts.figures.alignment import alignment_figure
from scripts.figures.attention import attention_figure
from scripts.figures.attention_video import attention_movie
from scripts.figures.clips import open_models
from scripts.figures.grounding import PHRASE_SOURCES, grounding_score, score_table
from scripts.figures.heatmap import PANEL
from scripts.figures.masking import masking_figure
from trainer import device
from trainer.files import write_json

__all__ = [
    "alignment_figure",
    "attention_figure",
    "attention_movie",
    "grounding_score",
    "masking_figure",
]
PATCH_FEATURES = ("value", "last")
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
CHECKPOINT_STARTS = (
    b"PK\x03\x04",
    b"\x80\x02}q",
    b"\x80\x02\x8a\n",
)  # zip, and two kinds of pickle
# Of options.
MINIMUM = {"panel": 16, "fps": 0.01, "most": 1, "window": 0, "batch_size": 1}
OUT_FOLDER = Path("exps/figures")


def draw_attention(args: argparse.Namespace) -> list[Path]:
    """Writes the PNG, or a moving picture for each video."""
    models = open_models(args.resume, args.device)
    options: dict[str, Any] = {
        "block": args.block,
        "heads": args.heads,
        "over": args.over,
        "title": args.title,
        **common_options(args),
    }
    if not args.animate:
        return [attention_figure(models, args.videos, args.out, **options)]
    out = args.out.with_suffix(f".{args.animate}")
    paths = []
    for i, video in enumerate(args.videos):
        path = out
        if len(args.videos) > 1:
            path = out.with_stem(f"{out.stem}_{i}_{Path(video).stem}")
        paths.append(
            attention_movie(
                models,
                video,
                path,
                seconds=args.window,
                fps=args.fps,
                most=args.most,
                **options,
            )
        )
    return paths


def draw_alignment(args: argparse.Namespace) -> list[Path]:
    """Writes the PNG, or scores."""
    if args.score:
        return score_alignment(args)
    path = alignment_figure(
        args.resume,
        args.videos,
        args.text,
        args.out,
        word=args.word,
        relative=args.relative,
        source=args.phrase,
        patch_features=args.patch_features,
        title=args.title or None,
        **common_options(args),
    )
    return [path]


def score_alignment(args: argparse.Namespace) -> list[Path]:
    """Prints a table, a row for each checkpoint; writes JSON where -o says: an object, of several a list of them."""
    scores = []
    for checkpoint in args.resume:
        (model,) = open_models(checkpoint, args.device)
        score = grounding_score(
            model,
            args.data,
            args.split,
            args.phrase,
            args.batch_size,
            args.patch_features,
        )
        scores.append({"checkpoint": checkpoint, **score})
    print(score_table(scores, args.names or [short_name(args.resume[0])]))
    if not args.out:
        return []
    args.out.parent.mkdir(parents=True, exist_ok=True)
    content = scores if len(scores) > 1 else scores[0]
    write_json(args.out, content)
    return [args.out]


def draw_masking(args: argparse.Namespace) -> list[Path]:
    """Writes the PNG."""
    path = masking_figure(
        args.resume,
        args.videos,
        args.out,
        seed=args.seed,
        title=args.title or None,
        **common_options(args),
    )
    return [path]


def common_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments that all figures take."""
    return {"names": args.names, "panel": args.panel, "device": args.device}


def build_parser() -> argparse.ArgumentParser:
    """One subcommand per figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(
        dest="figure", required=True, metavar="{attention,alignment,masking}"
    )
    attention_parser = subparsers.add_parser("attention")
    attention_parser.set_defaults(draw=draw_attention)
    add_common_options(attention_parser)
    add_attention_options(attention_parser)

    alignment_parser = subparsers.add_parser("alignment")
    alignment_parser.set_defaults(draw=draw_alignment)
    add_common_options(alignment_parser)
    alignment_parser.add_argument("--text", help="whose words are compared")
    alignment_parser.add_argument(
        "--word", nargs="+", action="extend", help="these words of the text alone"
    )
    alignment_parser.add_argument(
        "--relative", action="store_true", help="less the mean over the text's words"
    )

    add_score_options(alignment_parser)

    masking_parser = subparsers.add_parser("masking")
    masking_parser.set_defaults(draw=draw_masking)
    add_common_options(masking_parser)
    masking_parser.add_argument("--seed", type=int, default=0, help="of the mask (0)")
    return parser


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of all figures."""
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="videos or images")
    parser.add_argument(
        "-r", "--resume", nargs="+", action="extend", required=True, metavar="CKPT"
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="default: exps/figures/KIND.png"
    )
    parser.add_argument(
        "-d", "--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)"
    )
    parser.add_argument(
        "--names",
        nargs="+",
        metavar="NAME",
        help="one for each checkpoint, printed above it",
    )
    parser.add_argument(
        "--panel",
        type=int,
        default=PANEL,
        metavar="PIXELS",
        help=f"a picture's side ({PANEL})",
    )
    parser.add_argument("--title", default="", help="printed above all")


def add_attention_options(parser: argparse.ArgumentParser) -> None:
    """Options of the attention figure and its moving picture."""
    parser.add_argument(
        "--block",
        type=int,
        default=-1,
        help="from 0, or from the end (default: -1, the last)",
    )
    parser.add_argument(
        "--heads", default="mean", metavar="mean|each|N", help="default: mean"
    )
    parser.add_argument(
        "--over",
        choices=("space", "time"),
        default="space",
        help="which of a block's two layers",
    )
    parser.add_argument(
        "--animate",
        choices=("gif", "mp4"),
        help="the whole video, with a sliding window",
    )
    parser.add_argument(
        "--window",
        type=float,
        default=0,
        metavar="SECONDS",
        help="of the window (0: the whole video)",
    )
    parser.add_argument(
        "--fps",
        type=float,
        default=12,
        help="shown frames for each second of the video (12)",
    )
    parser.add_argument(
        "--most", type=int, default=240, metavar="FRAMES", help="at most so many (240)"
    )


def add_score_options(parser: argparse.ArgumentParser) -> None:
    """Options of the numbers beside the alignment figure."""
    parser.add_argument(
        "--score",
        action="store_true",
        help="no figure: how well phrases find their objects in generated data",
    )
    parser.add_argument(
        "--data", metavar="FOLDER", help="with --score: of scripts/make_demo_data.py"
    )
    parser.add_argument(
        "--split", choices=("val", "test"), default="test", help="default: test"
    )
    parser.add_argument(
        "--phrase",
        choices=PHRASE_SOURCES,
        default="alone",
        help="words as texts of their own, or as they are read inside the caption (alone)",
    )
    parser.add_argument(
        "--patch-features",
        choices=PATCH_FEATURES,
        default="value",
        help="what a patch gives to CLS, or its output (value)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="CLIPS", help="at once (64)"
    )


def complete_arguments(args: argparse.Namespace) -> None:
    """Tells checkpoints from videos, fills in defaults and checks what argparse cannot. Raises UserError."""
    first_checkpoint, *paths = args.resume
    args.resume = [first_checkpoint] + [path for path in paths if is_checkpoint(path)]
    args.videos = [path for path in paths if not is_checkpoint(path)] + args.videos
    check_inputs(args)
    if not args.names and len(args.resume) > 1:
        args.names = [short_name(path) for path in args.resume]
    if args.names and len(args.names) != len(args.resume):
        raise UserError(
            f"--names: {len(args.names)} for {len(args.resume)} checkpoints ({', '.join(args.names)}); "
            "give one for each, in the order of -r, and no VIDEO behind them"
        )
    for name, minimum in MINIMUM.items():
        if getattr(args, name, minimum) < minimum:
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(args, name)}: {minimum} or more is needed"
            )
    if not getattr(args, "score", False):
        args.out = args.out or OUT_FOLDER / f"{args.figure}.png"
    args.device = str(device.choose_device(args.device))


def check_inputs(args: argparse.Namespace) -> None:
    """Raises UserError where what a figure is drawn of, or a score is taken of, is not given, or both are."""
    if getattr(args, "score", False):
        if not args.data:
            raise UserError("command line: --score needs --data FOLDER")
        if args.videos or args.text or args.word or args.relative:
            raise UserError(
                "command line: --score takes --data, and no VIDEO, --text, --word or --relative"
            )
        return
    if not args.videos:
        raise UserError("command line: no VIDEO is given")
    if args.figure == "alignment" and args.data:
        raise UserError("command line: --data is of --score")
    if args.figure == "alignment" and not args.text:
        raise UserError("command line: alignment needs --text, or --score and --data")


def is_checkpoint(path: str) -> bool:
    """Whether `path` is a checkpoint rather than a video: a folder, or a file named or beginning as torch's are."""
    if Path(path).suffix.lower() in CHECKPOINT_SUFFIXES or Path(path).is_dir():
        return True
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(4) in CHECKPOINT_STARTS


def short_name(path: str) -> str:
    """The end of a path that tells runs apart."""
    return "/".join(Path(path).parts[-2:])


@cli_entry
def cli(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = build_parser().parse_args(argv)
    complete_arguments(args)
    for path in args.draw(args):
        print(path)


if __name__ == "__main__":
    cli()
