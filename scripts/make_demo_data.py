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

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.synthetic.captions import Combination, deal_one, deal_two, describe
from scripts.synthetic.shapes import draw

VERSION = (
    3  # of the pictures and words: raise it when they change, so that old data is not taken for new
)
SPLITS = ("train", "val", "test")
SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="make the demo's data set")
    parser.add_argument("--out", type=Path, default=Path("data/demo"), help="folder to make")
    parser.add_argument(
        "--objects",
        type=int,
        choices=(1, 2),
        default=1,
        help="objects a clip (2: the harder variant)",
    )
    parser.add_argument("--train", type=int, default=3000, help="training clips")
    parser.add_argument("--val", type=int, default=120, help="validation clips")
    parser.add_argument("--test", type=int, default=240, help="clips of the test gallery")
    parser.add_argument(
        "--side", type=int, default=64, help="side of a frame, pixels (decord 0.6 cannot read 48)"
    )
    parser.add_argument("--frames", type=int, default=12, help="frames a clip")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def write_clip(path: Path, clip_FSSC: np.ndarray, rate: int = 12) -> None:
    """Write uint8 RGB frames (F, S, S, 3) as H.264 in mp4.

    A constant quantiser: x264's usual rate control (crf with mbtree) gives other bytes from run to run.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=rate, options={"preset": "veryfast", "qp": "18"}
        )
        stream.height, stream.width = clip_FSSC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in clip_FSSC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def make_clip(job: tuple[int, int, Combination], args: argparse.Namespace, root: Path) -> dict:
    """Draw, write and describe clip `number` of a split -> its line of the JSONL."""
    split, number, things = job
    rng = np.random.default_rng([args.seed, split, number])
    name = f"videos/{SPLITS[split]}/{number:05d}.mp4"
    write_clip(root / name, draw(things, args.frames, args.side, rng))
    captions = [describe(things, rng) for _ in range(2 if SPLITS[split] == "train" else 1)]
    return {
        "id": f"{SPLITS[split]}_{number:05d}", "path": name, "captions": captions, "split": SPLITS[split],
        "shows": [astuple(thing) for thing in things],
    }  # fmt: skip


def make_clips(args: argparse.Namespace, root: Path) -> list[dict]:
    """Write all clips, on all cores -> the lines of the JSONL in order."""
    counts = {split: getattr(args, split) for split in SPLITS}
    dealt = (deal_one if args.objects == 1 else deal_two)(counts, np.random.default_rng(args.seed))
    jobs = [
        (i, n, things) for i, split in enumerate(SPLITS) for n, things in enumerate(dealt[split])
    ]
    for split in SPLITS:
        (root / "videos" / split).mkdir(parents=True)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with ProcessPoolExecutor(cores) as pool:
        return list(pool.map(partial(make_clip, args=args, root=root), jobs, chunksize=64))


def train_tokenizer(captions: list[str]):
    """Train a WordPiece tokenizer on the captions -> tokenizers.Tokenizer.

    The trainer numbers its pieces, and breaks ties between them, differently from run to run. What it always finds are
    the letters and the whole words of the captions: these are kept, in alphabetical order.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        captions, trainers.WordPieceTrainer(vocab_size=2000, show_progress=False)
    )
    words = {word for caption in captions for word in caption.split()}
    kept = sorted(
        piece
        for piece in tokenizer.get_vocab()
        if piece in words or len(piece.removeprefix("##")) == 1
    )
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL.values(), *kept])}
    tokenizer.model = models.WordPiece(vocab=vocabulary, unk_token="[UNK]")
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
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
        **SPECIAL,
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    size = {
        "dim": 128,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 512,
        "max_position_embeddings": 64,
    }
    fresh = {
        "initializer_range": 0.08,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }  # it learns from nothing, and briefly
    config = DistilBertConfig(vocab_size=tokenizer.get_vocab_size(), **size, **fresh)
    DistilBertModel(config).save_pretrained(folder)


def main(given: list[str] | None = None) -> None:
    """Make the data set in a folder beside `--out`, then rename: what is there is complete."""
    args = arguments(given)
    settings = {"version": VERSION, **{k: v for k, v in vars(args).items() if k != "out"}}
    stamp = args.out / "settings.json"
    if args.out.exists():
        if stamp.is_file() and json.loads(stamp.read_text()) == settings:
            print(f"{args.out}: already there")
            return
        sys.exit(
            f"{args.out} exists and was made otherwise (see {stamp}): remove it, or give another --out"
        )
    part = args.out.with_name(args.out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    lines = make_clips(args, part)
    (part / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    train = [caption for line in lines if line["split"] == "train" for caption in line["captions"]]
    make_text_model(train, part / "text_model", args.seed)
    (part / stamp.name).write_text(json.dumps(settings, indent=2) + "\n")
    part.rename(args.out)
    print(
        f"{args.out}: {args.train} + {args.val} + {args.test} clips, {len(set(train))} different training captions"
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
