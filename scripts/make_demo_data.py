"""Make the demo's data set: real H.264 clips of coloured shapes, captions, a tokenizer and a small text model.

    python scripts/make_demo_data.py                                 data/demo: one object a clip
    python scripts/make_demo_data.py --objects 2 --out data/demo2    two objects a clip, galleries of hard negatives

Same arguments, same bytes: every clip is a pure function of (seed, split, number). A second call finds them and stops.
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

from scripts.synthetic.captions import (
    Combination,
    describe,
    split_object_pairs,
    split_single_objects,
)
from scripts.synthetic.shapes import draw

if TYPE_CHECKING:
    import tokenizers

# Of the pictures and words: raise it when they change, so that old data is not taken for new.
VERSION = 3
SPLITS = ("train", "val", "test")
SPECIAL_TOKENS = {
    f"{name}_token": f"[{name.upper()}]"
    for name in ("pad", "unk", "cls", "sep", "mask")
}
FRAME_RATE = 12


class ClipJob(NamedTuple):
    """One clip to make: its split (an index into SPLITS), its number in the split, and what it shows."""

    split_index: int
    number: int
    objects: Combination


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="make the demo's data set")
    parser.add_argument(
        "--out", type=Path, default=Path("data/demo"), help="folder to make"
    )
    parser.add_argument(
        "--objects",
        type=int,
        choices=(1, 2),
        default=1,
        help="objects a clip (2: the harder variant)",
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
    return parser.parse_args(argv)


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
) -> dict[str, Any]:
    """Draw, write and describe one clip; returns its row of the annotations."""
    split = SPLITS[job.split_index]
    rng = np.random.default_rng([arguments.seed, job.split_index, job.number])
    path = f"videos/{split}/{job.number:05d}.mp4"
    write_clip(root / path, draw(job.objects, arguments.frames, arguments.side, rng))
    num_captions = 2 if split == "train" else 1
    return {
        "id": f"{split}_{job.number:05d}",
        "path": path,
        "captions": [describe(job.objects, rng) for _ in range(num_captions)],
        "split": split,
        "shows": [astuple(scene_object) for scene_object in job.objects],
    }


def make_clips(arguments: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """Write all clips, on all cores; returns the rows of the annotations in order."""
    counts = {split: getattr(arguments, split) for split in SPLITS}
    draw_combinations = (
        split_single_objects if arguments.objects == 1 else split_object_pairs
    )
    combinations = draw_combinations(counts, np.random.default_rng(arguments.seed))
    jobs = [
        ClipJob(split_index, number, objects)
        for split_index, split in enumerate(SPLITS)
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
        return list(pool.map(work, jobs, chunksize=64))


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


def main(argv: list[str] | None = None) -> None:
    """Make the data set in a folder beside `--out`, then rename it: a folder of that name is complete."""
    arguments = parse_arguments(argv)
    out: Path = arguments.out
    options = {name: value for name, value in vars(arguments).items() if name != "out"}
    settings = {"version": VERSION, **options}
    settings_path = out / "settings.json"
    if out.exists():
        if (
            settings_path.is_file()
            and json.loads(settings_path.read_text()) == settings
        ):
            print(f"{out}: already there")
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
