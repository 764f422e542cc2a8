"""Make the demo's data set: real H.264 clips of coloured shapes, captions, a tokenizer and a small text model.

    python scripts/make_demo_data.py                                     data/demo: one object a clip
    python scripts/make_demo_data.py --world sparse --out data/demo2     two objects a clip, galleries of hard negatives
    python scripts/make_demo_data.py --world partial --out data/partial  the same clips, of which captions tell a part
    python scripts/make_demo_data.py --world redundant --out data/scenes groups of objects in textured scenes

Same arguments, same bytes: every clip is a pure function of (seed, split, number). A second call finds them and stops.
`--objects 1` and `--objects 2` are older names of the worlds demo and sparse.

In the folder are captions.jsonl (a row a clip), the videos, a text model and settings.json. A row of training says in
"told" which objects of "shows" each caption mentions. A row of val and test has "phrases": the noun phrase of each
object in its caption. masks_val.npz and masks_test.npz hold for each clip's id uint8 (frames, side, side): k where the
k-th object of "shows" is seen, counted from 1, else 0.
"""

import argparse
import json
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import numpy as np

from scripts.synthetic.captions import Combination
from scripts.synthetic.worlds import SPLITS, WORLDS, draw_clip, split_combinations
from trainer.files import share

if TYPE_CHECKING:
    import tokenizers

# Of the pictures and words: raise it when they change, so that old data is not taken for new.
VERSION = 3
WORLD_OF_OBJECTS = {1: "demo", 2: "sparse"}  # by the older option
SPECIAL_TOKENS = {
    f"{name}_token": f"[{name.upper()}]"
    for name in ("pad", "unk", "cls", "sep", "mask")
}
FRAME_RATE = 12


class ClipJob(NamedTuple):
    """One clip to make: its split, its number in the split, and what it shows."""

    split: str
    number: int
    objects: Combination


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="make the demo's data set")
    parser.add_argument(
        "--out", type=Path, default=Path("data/demo"), help="folder to make"
    )
    parser.add_argument(
        "--world",
        choices=list(WORLDS),
        default="demo",
        help="what the clips show and their captions tell (default: demo)",
    )
    parser.add_argument(
        "--objects",
        type=int,
        choices=list(WORLD_OF_OBJECTS),
        help="the older option: 1 is --world demo, 2 is --world sparse",
    )
    parser.add_argument("--train", type=int, default=3000, help="training clips")
    parser.add_argument("--val", type=int, default=120, help="validation clips")
    parser.add_argument(
        "--test", type=int, default=240, help="clips of the test gallery"
    )
    parser.add_argument(
        "--side",
        type=int,
        default=64,
        help="side of a frame, pixels (decord 0.6 cannot read 48)",
    )
    parser.add_argument("--frames", type=int, default=12, help="frames a clip")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.objects is not None:
        named = WORLD_OF_OBJECTS[arguments.objects]
        if arguments.world not in ("demo", named):
            parser.error(f"--objects {arguments.objects} is --world {named}")
        arguments.world = named
    return arguments


def write_clip(path: Path, clip_FSSC: np.ndarray) -> None:
    """Write uint8 RGB frames (F, S, S, 3) as H.264 in mp4.

    A constant quantiser: x264's usual rate control (crf with mbtree) gives other bytes from run to run.
    """
    options = {"preset": "veryfast", "qp": "18"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        stream.height, stream.width = clip_FSSC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame_SSC in clip_FSSC:
            frame = av.VideoFrame.from_ndarray(frame_SSC, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def make_clip(
    job: ClipJob, arguments: argparse.Namespace, root: Path
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Draw, write and describe one clip; returns its row of the annotations and, of val and test, its masks."""
    clip = draw_clip(
        arguments.world,
        job.objects,
        job.split,
        job.number,
        arguments.seed,
        arguments.frames,
        arguments.side,
    )
    path = f"videos/{job.split}/{job.number:05d}.mp4"
    write_clip(root / path, clip.frames_FSSC)
    row = {
        "id": f"{job.split}_{job.number:05d}",
        "path": path,
        "captions": [caption.text for caption in clip.captions],
        "split": job.split,
        "shows": [astuple(scene_object) for scene_object in job.objects],
    }
    if job.split == "train":
        return {**row, "told": [caption.told for caption in clip.captions]}, None
    return {**row, "phrases": clip.captions[0].phrases}, clip.mask_FSS


def make_clips(arguments: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """Write all clips, on all cores, and the masks; returns the rows of the annotations in order."""
    counts = {split: getattr(arguments, split) for split in SPLITS}
    combinations = split_combinations(arguments.world, counts, arguments.seed)
    jobs = [
        ClipJob(split, number, objects)
        for split in SPLITS
        for number, objects in enumerate(combinations[split])
    ]

    for split in SPLITS:
        (root / "videos" / split).mkdir(parents=True)

    if hasattr(os, "sched_getaffinity"):
        num_cores = len(os.sched_getaffinity(0))
    else:
        num_cores = os.cpu_count() or 1
    with ProcessPoolExecutor(num_cores) as pool:
        work = partial(make_clip, arguments=arguments, root=root)
        made = list(pool.map(work, jobs, chunksize=64))
    write_masks(root, made)
    return [row for row, _ in made]


def write_masks(
    root: Path, made: list[tuple[dict[str, Any], np.ndarray | None]]
) -> None:
    """Write masks_val.npz and masks_test.npz: uint8 (F, S, S) by the id of the clip."""
    for split in SPLITS[1:]:
        mask_of_id = {
            row["id"]: mask_FSS
            for row, mask_FSS in made
            if mask_FSS is not None and row["split"] == split
        }
        np.savez_compressed(root / f"masks_{split}.npz", **mask_of_id)  # type: ignore[arg-type]


def train_tokenizer(captions: list[str]) -> "tokenizers.Tokenizer":
    """Train a WordPiece tokenizer on the captions.

    The trainer numbers its pieces, and breaks ties between them, differently from run to run. What it always finds are
    the letters and the whole words of the captions: these are kept, in alphabetical order.
    """
    from tokenizers import (
        Tokenizer,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        captions, trainers.WordPieceTrainer(vocab_size=2000, show_progress=False)
    )

    words = {word for caption in captions for word in caption.split()}
    pieces = sorted(
        piece
        for piece in tokenizer.get_vocab()
        if piece in words or len(piece.removeprefix("##")) == 1
    )
    all_pieces = [*SPECIAL_TOKENS.values(), *pieces]
    vocabulary = {piece: token_id for token_id, piece in enumerate(all_pieces)}
    tokenizer.model = models.WordPiece(vocab=vocabulary, unk_token="[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def make_text_model(captions: list[str], folder: Path, seed: int) -> None:
    """Save a tokenizer of the captions' words and a small random DistilBERT in Hugging Face form."""
    import torch
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

    tokenizer = train_tokenizer(captions)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
        **SPECIAL_TOKENS,
    ).save_pretrained(folder)

    torch.manual_seed(seed)
    # Larger weights than usual and no dropout: it is trained from scratch, and briefly.
    config = DistilBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        dim=128,
        n_layers=2,
        n_heads=4,
        hidden_dim=512,
        max_position_embeddings=64,
        initializer_range=0.08,
        dropout=0.0,
        attention_dropout=0.0,
    )
    DistilBertModel(config).save_pretrained(folder)
    share(folder / "model.safetensors")


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the bytes of the data set depend on."""
    options = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("out", "objects")
    }
    return {"version": VERSION, **options}


def is_same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a folder's settings are the wanted ones. Older folders name the objects a clip instead of the world."""
    if "objects" in found:
        world = WORLD_OF_OBJECTS.get(found["objects"])
        options = {name: value for name, value in found.items() if name != "objects"}
        found = {**options, "world": world}
    return found == wanted


def main(argv: list[str] | None = None) -> None:
    """Make the data set in a folder beside `--out`, then rename it: a folder of that name is complete."""
    arguments = parse_arguments(argv)
    out: Path = arguments.out
    settings = settings_of(arguments)
    settings_path = out / "settings.json"
    if out.exists():
        if settings_path.is_file() and is_same(
            json.loads(settings_path.read_text()), settings
        ):
            masks = "" if (out / "masks_test.npz").is_file() else ", older: no masks"
            print(f"{out}: already there{masks}")
            return
        sys.exit(
            f"{out} exists and was made otherwise (see {settings_path}): remove it, or give another --out"
        )

    temporary = out.with_name(out.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)

    rows = make_clips(arguments, temporary)
    lines = [json.dumps(row) + "\n" for row in rows]
    (temporary / "captions.jsonl").write_text("".join(lines))
    train_captions = [
        caption
        for row in rows
        if row["split"] == "train"
        for caption in row["captions"]
    ]
    make_text_model(train_captions, temporary / "text_model", arguments.seed)
    (temporary / settings_path.name).write_text(json.dumps(settings, indent=2) + "\n")
    temporary.rename(out)
    print(
        f"{out}: {arguments.train} + {arguments.val} + {arguments.test} clips, "
        f"{len(set(train_captions))} different training captions"
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
