"""Training steps: ours beside the family's way, in one run, on synthetic tensors.

    python scripts/bench.py step [--device cuda] [--batch 32] [--size base|small|tiny] [--frames 4] [--steps 10]

Rows: contrastive and MILES steps (forward, backward, AdamW, teacher). "family" is float32 without TF32, attention in
the open with the CLS key repeated for every group, no compile, AdamW without fusing: written here as the baseline.
The table counts the operations (torch's counter), and holds them against the rate of a bare matrix product.
"""

import argparse
import gc
import json
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from model.loss import LOSSES
from model.miles import MILES
from model.video.attention import DividedAttention
from trainer.accumulate import forward_backward
from trainer.objectives import OBJECTIVES
from trainer.precision import Precision
from trainer.versions import versions

SIZES = {
    "base": (768, 12, 12, 224, 768, 6),
    "small": (384, 12, 6, 224, 384, 6),
    "tiny": (192, 6, 3, 112, 192, 3),
}


def family_attention(self, x_BSD, frames):
    """The unfused twin: softmax(q k) v by batched products over groups that were copied into the batch."""
    heads, width = self.num_heads, x_BSD.shape[-1]
    q, k, v = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2).reshape(-1, x_BSD.shape[1], width // heads)
        for part in self.qkv(x_BSD).chunk(3, -1)
    )
    q = q * (width // heads) ** -0.5
    cls = (q[:, :1] @ k.transpose(1, 2)).softmax(-1) @ v
    parts = []
    for x in (q, k, v):
        groups = x[:, 1:].unflatten(1, (frames, -1))
        parts.append(
            (groups if self.over == "space" else groups.transpose(1, 2)).flatten(0, 1).contiguous()
        )
    repeat = parts[0].shape[0] // q.shape[0]
    keys, values = (
        torch.cat((x[:, :1].repeat_interleave(repeat, 0), part), 1)
        for x, part in zip((k, v), parts[1:], strict=True)
    )
    out = ((parts[0] @ keys.transpose(1, 2)).softmax(-1) @ values).unflatten(0, (-1, repeat))
    out = (out if self.over == "space" else out.transpose(1, 2)).flatten(1, 2)
    out = torch.cat((cls, out), 1).unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)
    return self.drop(self.proj(out))


def build(size: str, frames: int, kind: str, ours: bool, device: torch.device, compiled: bool):
    """An objective of `kind` on `device`; text tower and video tower with random weights."""
    from transformers import DistilBertConfig, DistilBertModel

    dim, depth, heads, pixels, text_dim, layers = SIZES[size]
    folder = Path(torch.hub.get_dir()).parent / "miles_bench" / f"text_{size}"
    config = DistilBertConfig(dim=text_dim, hidden_dim=4 * text_dim, n_layers=layers, n_heads=heads)
    if not (folder / "config.json").exists():
        DistilBertModel(config).save_pretrained(folder)
    video = {
        "img_size": pixels,
        "embed_dim": dim,
        "depth": depth,
        "num_heads": heads,
        "num_frames": frames,
        "time_init": "rand",
    }
    model = MILES(video, {"model": str(folder), "pretrained": True})
    loss = LOSSES.build({"type": "NormSoftmaxLoss"})
    objective = (
        OBJECTIVES.build({"type": kind, "args": {}}, model=model, loss=loss).to(device).train()
    )
    if not ours:
        for module in objective.modules():
            if isinstance(module, DividedAttention):
                module.forward = family_attention.__get__(module)
    if ours and compiled:
        model.video_model.compile()
        model.text_model.compile()
        if hasattr(objective, "teacher"):
            objective.teacher.video_model.compile()
    return objective


def batch_of(rows: int, frames: int, pixels: int, device: torch.device) -> dict:
    """Random clips and captions of 24 tokens."""
    ids = torch.randint(1000, 20000, (rows, 24), device=device)
    return {
        "video": torch.randn(rows, frames, 3, pixels, pixels, device=device),
        "text": {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
    }


def measure(
    objective, batch: dict, precision: Precision, fused: bool, steps: int
) -> dict[str, float | None]:
    """Median seconds a step, operations a step, peak memory in GiB (None where there is no GPU)."""
    device = batch["video"].device
    optimizer = torch.optim.AdamW(
        [p for p in objective.parameters() if p.requires_grad],
        1e-5,
        eps=1e-6,
        weight_decay=0.0,
        fused=fused and device.type == "cuda",
    )

    def step():
        forward_backward(objective, [batch], precision)
        precision.scaler.step(optimizer)
        precision.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        objective.after_step(1, 100)
        if device.type == "cuda":
            torch.cuda.synchronize()

    with FlopCounterMode(display=False) as counter:
        forward_backward(objective, [batch], precision)
    optimizer.zero_grad(set_to_none=True)
    for _ in range(3 if device.type == "cuda" else 1):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {
        "seconds": statistics.median(seconds),
        "flops": counter.get_total_flops(),
        "peak_gib": peak,
    }


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a bare square matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(8):
        begun = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return 2 * side**3 / statistics.median(seconds)


def main(argv: list[str]):
    """Measure, print the table, write results/bench/step_DATE.json."""
    parser = argparse.ArgumentParser(prog="bench.py step")
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--size", default="base" if cuda else "tiny", choices=SIZES)
    parser.add_argument("--batch", type=int, default=32 if cuda else 4)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10 if cuda else 5)
    parser.add_argument("--precision", default="bf16" if cuda else "fp32")
    parser.add_argument("--no-compile", action="store_true")
    given = parser.parse_args(argv)
    device, compiled = (
        torch.device(given.device),
        not given.no_compile and given.device.startswith("cuda"),
    )
    batch = batch_of(given.batch, given.frames, SIZES[given.size][3], device)
    half = given.precision in ("bf16", "fp16")
    rate = matrix_rate(device, torch.bfloat16 if half else torch.float32)
    rows = []
    for kind in ("Contrastive", "MILESPretraining"):
        for ours in (False, True):
            objective = build(given.size, given.frames, kind, ours, device, compiled)
            found = measure(
                objective,
                batch,
                Precision(given.precision if ours else "fp32", device),
                ours,
                given.steps,
            )
            rows.append(
                {
                    "step": kind,
                    "way": "ours" if ours else "family",
                    **found,
                    "clips_per_s": given.batch / found["seconds"],
                    "of_matrix_rate": found["flops"] / found["seconds"] / rate,
                }
            )
            del objective
            gc.collect()
            if cuda:
                torch.cuda.empty_cache()
    show(rows, rate, given, device)


def show(rows: list[dict], rate: float, given: argparse.Namespace, device: torch.device):
    """The table on the console and the JSON."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.processor() or 'CPU'}, {torch.get_num_threads()} threads"
    )
    print(
        f"{name}: {given.size}, {given.frames} frames, batch {given.batch}, {given.precision}; bare matrix product "
        f"{rate / 1e12:.2f} TFLOP/s"
    )
    print(
        f"{'step':<18}{'way':<8}{'s/step':>9}{'clips/s':>9}{'TFLOP':>8}{'of rate':>9}{'peak GiB':>10}"
        f"{'speed-up':>10}"
    )
    for row in rows:
        base = next(r for r in rows if r["step"] == row["step"])
        print(
            f"{row['step']:<18}{row['way']:<8}{row['seconds']:>9.3f}{row['clips_per_s']:>9.2f}"
            f"{row['flops'] / 1e12:>8.3f}{row['of_matrix_rate']:>9.1%}"
            f"{row['peak_gib'] or '-':>10.4}"
            f"{base['seconds'] / row['seconds']:>9.2f}x"
        )
    now = datetime.now(UTC)
    path = Path(__file__).resolve().parents[2] / "results/bench" / f"step_{now:%Y%m%d_%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "bench": "step",
        "date": f"{now:%Y-%m-%d %H:%M}",
        "device": name,
        "settings": vars(given),
        "matrix_flops_per_s": rate,
        "rows": rows,
        "versions": versions(),
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def same_numbers() -> float:
    """Largest difference of the baseline's attention from ours, on random input: both must compute the same."""
    worst = 0.0
    for over in ("space", "time"):
        layer, x = DividedAttention(24, 3, over), torch.randn(2, 1 + 3 * 5, 24)
        worst = max(
            worst, float((layer(x, 3) - family_attention(layer, x, 3)).detach().abs().max())
        )
    return worst
