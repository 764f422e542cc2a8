"""Checks of scripts/rehearsal.py on the files that programs leave. Each returns a line to print, or raises Failed.

C captions, V videos, E joint width.
"""

import json
import math
import re
from pathlib import Path

import torch
from torch import Tensor

from model import load_model
from model.restore import restore
from model.weights import read_checkpoint
from scripts import export_onnx
from scripts.synthetic import miniatures, tiny_models
from trainer.evaluation.results import load_embeddings
from trainer.files import sha256

# Learning rates that AdamW moves a weight by in one step, at most: (1 - 0.9) / sqrt(1 - 0.999).
ADAMW_REACH = 3.2


class Failed(Exception):
    """Something is not as it must be; the message says what."""


def need(holds: bool, text: str) -> None:
    """Failed(text) unless `holds`."""
    if not holds:
        raise Failed(text)


def make_data(folder: Path) -> str:
    """Write the miniature data sets, and a text model that knows all their words."""
    names = {"CC3M": "ConceptualCaptions3M", "WEBVID": "WebVid", "MSRVTT": "MSRVTT"}
    captions: list[str] = []
    for subfolder, name in names.items():
        _, expected = miniatures.build(name, folder / "data" / subfolder)
        for split in expected.values():
            for clip_captions in split.values():
                captions += clip_captions
    words = sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(captions).lower())))
    special_tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tiny_models.save_text_model(
        folder / "text", words=[*special_tokens, *words], std=0.3
    )
    return f"{', '.join(names.values())}: 4 videos per split; a text model of {len(words)} words"


def trained(checkpoint: Path, frames: int, start: Path | None = None) -> str:
    """A run of two steps: finite losses, validation, a checkpoint whose weights were those of `start` two steps ago."""
    rows = [
        json.loads(line)
        for line in checkpoint.with_name("log.jsonl").read_text().splitlines()
    ]
    losses = [row["loss"] for row in rows if row["kind"] == "step"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    need(
        len(losses) == 2 and all(map(math.isfinite, losses)),
        f"{checkpoint}: losses {losses} of two steps",
    )
    need(
        len(epochs) == 1 and "t2v.R1" in epochs[0],
        f"{checkpoint}: the epoch was not evaluated",
    )
    state = read_checkpoint(checkpoint)
    weights = state["state_dict"]
    need(
        state["step"] == 2
        and all(tensor.isfinite().all() for tensor in weights.values()),
        f"{checkpoint}: is broken",
    )
    model_frames = weights["video_model.temporal_embed"].shape[1]
    need(
        model_frames == frames,
        f"{checkpoint}: is of {model_frames} frames, not {frames}",
    )
    line = f"2 steps, loss {losses[0]:.3f} -> {losses[1]:.3f}, evaluated; the checkpoint opens"
    if start is None:
        return line
    return f"{line}\n   {begins_at(checkpoint, start)}"


def begins_at(checkpoint: Path, start: Path) -> str:
    """No weight is farther from where it was in `start` than AdamW can carry it, and some have moved."""
    state = read_checkpoint(checkpoint)
    before = read_checkpoint(start)["state_dict"]
    reach = ADAMW_REACH * state["step"] * state["config"]["optimizer"]["args"]["lr"]
    moved = {
        name: float((tensor.float() - before[name].float()).abs().max())
        for name, tensor in state["state_dict"].items()
        if before[name].shape == tensor.shape
    }
    need(
        len(moved) >= len(before) - 1, f"{checkpoint}: other shapes than {start}"
    )  # the time embedding may be longer
    name = max(moved, key=lambda name: moved[name])
    need(
        0 < moved[name] <= reach,
        f"{checkpoint}: does not begin at the weights of {start}: {name} is "
        f"{moved[name]:.1e} away, AdamW can move it by {reach:.1e}",
    )
    return (
        f"it began at {start.parent.parent.name}'s weights: none is more than {moved[name]:.1e} away, "
        f"AdamW can move {reach:.1e}"
    )


def evaluated(path: Path, checkpoint: Path) -> str:
    """results.json: of this checkpoint, of MSR-VTT's 1k-A, four of its thousand videos."""
    results = json.loads(path.read_text())
    digest = sha256(checkpoint)
    need(results["checkpoint"]["sha256"] == digest, f"{path}: is not of {checkpoint}")
    need(
        (results["protocol"], results["stamp"])
        == ("msrvtt-1k-A", "4 of 1000 videos, 4 of 1000 captions"),
        f"{path}: {results['protocol']}, {results['stamp']}",
    )
    return f"{path.name}: {results['protocol']}, {results['stamp']}, of that checkpoint (SHA-256 {digest[:8]})"


def same_model(checkpoint: Path, exported: Path, embeddings: Path) -> str:
    """What was exported embeds as the checkpoint does, bit for bit, and as the evaluation did."""
    saved, _ = load_embeddings(embeddings)
    clip_folder = checkpoint.parents[3] / "data/MSRVTT/videos/all"
    paths = {path.stem: path for path in clip_folder.iterdir()}
    clips = [paths[name] for name in saved.ids]
    of_checkpoint = embed(checkpoint, list(saved.captions), clips)
    of_export = embed(exported, list(saved.captions), clips)
    for content, evaluated_NE, expected_NE, exported_NE in zip(
        ("captions", "clips"),
        (saved.text_CE, saved.video_VE),
        of_checkpoint,
        of_export,
        strict=True,
    ):
        equal = torch.equal(expected_NE, exported_NE)
        need(equal, f"{exported}: embeds {content} otherwise than {checkpoint}")
        difference = float((expected_NE - evaluated_NE).abs().max())
        need(
            difference < 1e-5,
            f"{exported}: embeds {content} {difference:.1e} away from the evaluation",
        )
        distinct = float(torch.pdist(expected_NE).min()) > 1e-4
        need(distinct, f"{exported}: gives several {content} one embedding")
    return (
        f"embeds {len(saved.captions)} captions and {len(clips)} clips as the evaluation did and, bit for bit, as "
        "the checkpoint"
    )


def embed(path: Path, captions: list[str], clips: list[Path]) -> tuple[Tensor, Tensor]:
    """Embeddings (C, E) of captions and (V, E) of clips, by the five lines of the README."""
    model = load_model(path, "cpu")
    video_VE = model.embed_videos(clips)
    assert isinstance(video_VE, Tensor)
    return model.encode_text(captions), video_VE


def same_onnx(exported: Path, folder: Path) -> str:
    """onnxruntime gives what torch gives; scripts/export_onnx.py has compared them too."""
    model = restore(exported)
    inputs = {
        "video": export_onnx.clips(model, 3, None),
        "text": export_onnx.captions(model, 3, 7),
    }
    encoders = {"video": export_onnx.Video(model), "text": export_onnx.Text(model)}
    difference = max(
        export_onnx.difference(
            folder / f"{name}.onnx", encoders[name].eval(), inputs[name]
        )
        for name in encoders
    )
    need(
        difference < export_onnx.TOLERANCE,
        f"{folder}: {difference:.1e} away from torch",
    )
    return f"video.onnx and text.onnx: {difference:.0e} away from torch"


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/rehearsal.py --help")
