"""What scripts/rehearsal.py asks of every file that it finds. Each check returns a line for a person, or raises Failed.

C captions, V videos, E joint width.
"""

import json
import math
import re
from pathlib import Path

import torch
from torch import Tensor

import test as program
from model.weights import read_checkpoint
from scripts import export_onnx
from trainer.evaluation.results import load_embeddings
from trainer.evaluation.table import sha256

MOST = 3.2  # learning rates that AdamW moves a weight by in one step, at most: (1 - 0.9) / sqrt(1 - 0.999)


class Failed(Exception):
    """Something is not as it must be; the message says what."""


def need(holds: bool, text: str):
    """Failed(text) unless `holds`."""
    if not holds:
        raise Failed(text)


def make_data(home: Path) -> str:
    """The miniatures, and a text model that knows all their words."""
    from scripts.synthetic import miniatures, tiny_models

    names = {"CC3M": "ConceptualCaptions3M", "WEBVID": "WebVid", "MSRVTT": "MSRVTT"}
    captions = []
    for folder, name in names.items():
        _, expected = miniatures.build(name, home / "data" / folder)
        captions += [
            said for split in expected.values() for clip in split.values() for said in clip
        ]
    words = sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(captions).lower())))
    tiny_models.save_text_model(
        home / "text", words=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words], std=0.3
    )
    return f"{', '.join(names.values())}: 4 videos a split; a text model of {len(words)} words"


def trained(checkpoint: Path, frames: int, start: Path | None = None) -> str:
    """A run of two steps: finite losses, validation, a checkpoint whose weights were those of `start` two steps ago."""
    rows = [json.loads(line) for line in checkpoint.with_name("log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "step"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    need(
        len(losses) == 2 and all(map(math.isfinite, losses)),
        f"{checkpoint}: losses {losses} of two steps",
    )
    need(len(epochs) == 1 and "t2v.R1" in epochs[0], f"{checkpoint}: the epoch was not examined")
    state = read_checkpoint(checkpoint)
    weights = state["state_dict"]
    need(
        state["step"] == 2 and all(tensor.isfinite().all() for tensor in weights.values()),
        f"{checkpoint}: is broken",
    )
    found = weights["video_model.temporal_embed"].shape[1]
    need(found == frames, f"{checkpoint}: is of {found} frames, not {frames}")
    told = f"2 steps, loss {losses[0]:.3f} -> {losses[1]:.3f}, examined; the checkpoint opens"
    return told if start is None else f"{told}\n   {begins_at(checkpoint, start)}"


def begins_at(checkpoint: Path, start: Path) -> str:
    """No weight is farther from where it was in `start` than AdamW can carry it, and some have moved."""
    state, before = read_checkpoint(checkpoint), read_checkpoint(start)["state_dict"]
    reach = MOST * state["step"] * state["config"]["optimizer"]["args"]["lr"]
    moved = {
        name: float((tensor.float() - before[name].float()).abs().max())
        for name, tensor in state["state_dict"].items()
        if before[name].shape == tensor.shape
    }
    need(
        len(moved) >= len(before) - 1, f"{checkpoint}: other shapes than {start}"
    )  # the time embedding may be longer
    name = max(moved, key=moved.get)
    need(
        0 < moved[name] <= reach,
        f"{checkpoint}: does not begin at the weights of {start}: {name} is "
        f"{moved[name]:.1e} away, AdamW can move it by {reach:.1e}",
    )
    return (
        f"it began at {start.parent.parent.name}'s weights: none is more than {moved[name]:.1e} away, "
        f"AdamW can move {reach:.1e}"
    )


def examined(path: Path, checkpoint: Path) -> str:
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
    found, _ = load_embeddings(embeddings)
    names = {
        path.stem: path for path in (checkpoint.parents[3] / "data/MSRVTT/videos/all").iterdir()
    }
    clips = [names[name] for name in found.ids]
    ours, theirs = (embed(path, list(found.captions), clips) for path in (checkpoint, exported))
    for kind, was, one, other in zip(
        ("captions", "clips"), (found.text_CE, found.video_VE), ours, theirs
    ):
        need(torch.equal(one, other), f"{exported}: embeds {kind} otherwise than {checkpoint}")
        apart = float((one - was).abs().max())
        need(apart < 1e-5, f"{exported}: embeds {kind} {apart:.1e} away from the evaluation")
        need(
            float(torch.pdist(one).min()) > 1e-4, f"{exported}: gives several {kind} one embedding"
        )
    return (
        f"embeds {len(found.captions)} captions and {len(clips)} clips as the evaluation did and, bit for bit, as "
        "the checkpoint"
    )


def embed(path: Path, captions: list[str], clips: list[Path]) -> tuple[Tensor, Tensor]:
    """(C, E) and (V, E) by the five lines of the README."""
    model = program.load(path)
    return model.encode_text(captions), model.embed_videos(clips)


def same_onnx(exported: Path, folder: Path) -> str:
    """onnxruntime gives what torch gives; scripts/export_onnx.py has compared them too."""
    from model.restore import restore

    model = restore(exported)
    inputs = {"video": export_onnx.clips(model, 3, None), "text": export_onnx.captions(model, 3, 7)}
    towers = {"video": export_onnx.Video(model), "text": export_onnx.Text(model)}
    apart = max(
        export_onnx.difference(folder / f"{name}.onnx", towers[name].eval(), inputs[name])
        for name in towers
    )
    need(apart < export_onnx.TOLERANCE, f"{folder}: {apart:.1e} away from torch")
    return f"video.onnx and text.onnx: {apart:.0e} away from torch"
