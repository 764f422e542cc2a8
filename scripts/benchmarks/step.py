"""Training steps: ours beside that of Frozen-in-Time codebases, in one run, on synthetic tensors.

    python scripts/bench.py step [--device cuda] [--batch 32] [--size base|small|tiny] [--frames 4] [--steps 10]

Rows: contrastive and MILES steps (forward, backward, AdamW, teacher). "family" is the baseline, written here: the step
of those codebases in float32 without TF32, attention in the open with the CLS key repeated for every group, no compile,
AdamW without fusing. The table counts the operations (torch's counter) and compares them with the rate of a bare matrix
product.
"""

import argparse
import gc
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from model.loss import LOSSES
from model.miles import MILES
from model.video.attention import DividedAttention
from scripts.benchmarks.record import device_name, write_record
from trainer.accumulate import forward_backward
from trainer.objectives import OBJECTIVES
from trainer.precision import Precision

SIZES = {
    "base": (768, 12, 12, 224, 768, 6),
    "small": (384, 12, 6, 224, 384, 6),
    "tiny": (192, 6, 3, 112, 192, 3),
}


def unfused_attention(
    self: DividedAttention, x_BSD: torch.Tensor, frames: int
) -> torch.Tensor:
    """The baseline's attention: softmax(q k) v by batched products over groups that were copied into the batch.

    B clips, S = 1 + frames * patches tokens, CLS first, D width. Replaces `DividedAttention.forward`.
    """
    width_of_head = x_BSD.shape[-1] // self.num_heads
    query, key, value = (
        projected.unflatten(-1, (self.num_heads, -1))
        .transpose(1, 2)
        .reshape(-1, x_BSD.shape[1], width_of_head)
        for projected in self.qkv(x_BSD).chunk(3, -1)
    )
    query = query * width_of_head**-0.5
    cls = (query[:, :1] @ key.transpose(1, 2)).softmax(-1) @ value

    over_space = self.over == "space"
    query_groups, key_groups, value_groups = (
        group_patches(tokens, frames, over_space) for tokens in (query, key, value)
    )
    repeat = query_groups.shape[0] // query.shape[0]
    keys = torch.cat((key[:, :1].repeat_interleave(repeat, 0), key_groups), 1)
    values = torch.cat((value[:, :1].repeat_interleave(repeat, 0), value_groups), 1)

    attended = (query_groups @ keys.transpose(1, 2)).softmax(-1) @ values
    attended = attended.unflatten(0, (-1, repeat))
    if not over_space:
        attended = attended.transpose(1, 2)
    tokens = torch.cat((cls, attended.flatten(1, 2)), 1)
    tokens = tokens.unflatten(0, (-1, self.num_heads)).transpose(1, 2).flatten(2)
    return self.drop(self.proj(tokens))


def group_patches(tokens: torch.Tensor, frames: int, over_space: bool) -> torch.Tensor:
    """Patch tokens in groups that attend to each other: those of a frame, or those of a position over time."""
    groups = tokens[:, 1:].unflatten(1, (frames, -1))
    if not over_space:
        groups = groups.transpose(1, 2)
    return groups.flatten(0, 1).contiguous()


def build_objective(
    size: str, frames: int, kind: str, ours: bool, device: torch.device, compiled: bool
) -> Any:
    """An objective of `kind` on `device`; both encoders with random weights. ours=False: the baseline's attention."""
    width, depth, heads, pixels, _, _ = SIZES[size]
    video_params = {
        "img_size": pixels,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "num_frames": frames,
        "time_init": "rand",
    }
    model = MILES(
        video_params, {"model": str(text_model_folder(size)), "pretrained": True}
    )
    loss = LOSSES.build({"type": "NormSoftmaxLoss"})
    objective: Any = OBJECTIVES.build(
        {"type": kind, "args": {}}, model=model, loss=loss
    )
    objective.to(device).train()
    if not ours:
        for module in objective.modules():
            if isinstance(module, DividedAttention):
                module.__dict__["forward"] = unfused_attention.__get__(module)
    elif compiled:
        model.video_model.compile()
        model.text_model.compile()
        if hasattr(objective, "teacher"):
            objective.teacher.video_model.compile()
    return objective


def text_model_folder(size: str) -> Path:
    """A folder with a DistilBERT of that size and random weights, made once."""
    from transformers import DistilBertConfig, DistilBertModel

    _, _, _, _, width, layers = SIZES[size]
    folder = Path(torch.hub.get_dir()).parent / "miles_bench" / f"text_{size}"
    if not (folder / "config.json").exists():
        config = DistilBertConfig(
            dim=width, hidden_dim=4 * width, n_layers=layers, n_heads=SIZES[size][2]
        )
        DistilBertModel(config).save_pretrained(folder)
    return folder


def batch_of(rows: int, frames: int, pixels: int, device: torch.device) -> dict:
    """Random clips and captions of 24 tokens."""
    ids = torch.randint(1000, 20000, (rows, 24), device=device)
    return {
        "video": torch.randn(rows, frames, 3, pixels, pixels, device=device),
        "text": {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
    }


def measure(
    objective: Any, batch: dict[str, Any], precision: Precision, fused: bool, steps: int
) -> dict[str, Any]:
    """Median seconds per step, operations per step, peak memory in GiB (None where there is no GPU)."""
    on_gpu = precision.device.type == "cuda"
    optimizer = torch.optim.AdamW(
        [parameter for parameter in objective.parameters() if parameter.requires_grad],
        1e-5,
        eps=1e-6,
        weight_decay=0.0,
        fused=fused and on_gpu,
    )

    def take_step() -> None:
        forward_backward(objective, [batch], precision)
        precision.scaler.step(optimizer)
        precision.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        objective.after_step(1, 100)
        if on_gpu:
            torch.cuda.synchronize()

    with FlopCounterMode(display=False) as counter:
        forward_backward(objective, [batch], precision)
    optimizer.zero_grad(set_to_none=True)
    for _ in range(3 if on_gpu else 1):
        take_step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        begun = time.perf_counter()
        take_step()
        seconds.append(time.perf_counter() - begun)
    peak_gib = None
    if on_gpu:
        peak_gib = torch.cuda.max_memory_allocated() / 2**30
    return {
        "seconds": statistics.median(seconds),
        "flops": counter.get_total_flops(),
        "peak_gib": peak_gib,
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


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The arguments, with defaults for a GPU where there is one."""
    cuda = torch.cuda.is_available()
    defaults: dict[str, Any] = {"device": "cpu", "size": "tiny", "batch": 4, "steps": 5}
    if cuda:
        defaults = {"device": "cuda", "size": "base", "batch": 32, "steps": 10}
    parser = argparse.ArgumentParser(prog="bench.py step")
    parser.add_argument("--device", default=defaults["device"])
    parser.add_argument("--size", default=defaults["size"], choices=SIZES)
    parser.add_argument("--batch", type=int, default=defaults["batch"])
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--steps", type=int, default=defaults["steps"])
    parser.add_argument("--precision", default="bf16" if cuda else "fp32")
    parser.add_argument("--no-compile", action="store_true")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure, print the table, write results/bench/step_DATE.json."""
    arguments = parse_arguments(argv)
    device = torch.device(arguments.device)
    batch = batch_of(
        arguments.batch, arguments.frames, SIZES[arguments.size][3], device
    )
    half_precision = arguments.precision in ("bf16", "fp16")
    rate = matrix_rate(device, torch.bfloat16 if half_precision else torch.float32)
    rows = []
    for objective in ("Contrastive", "MILESPretraining"):
        for ours in (False, True):
            rows.append(measure_row(objective, ours, arguments, batch, rate))
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    show(rows, rate, arguments, device)


def measure_row(
    kind: str,
    ours: bool,
    arguments: argparse.Namespace,
    batch: dict[str, Any],
    rate: float,
) -> dict[str, Any]:
    """One line of the table: an objective's step, ours or the baseline's."""
    device = torch.device(arguments.device)
    compiled = not arguments.no_compile and device.type == "cuda"
    objective = build_objective(
        arguments.size, arguments.frames, kind, ours, device, compiled
    )
    precision = Precision(arguments.precision if ours else "fp32", device)
    measured = measure(objective, batch, precision, ours, arguments.steps)
    return {
        "step": kind,
        "way": "ours" if ours else "family",
        **measured,
        "clips_per_s": arguments.batch / measured["seconds"],
        "of_matrix_rate": measured["flops"] / measured["seconds"] / rate,
    }


def show(
    rows: list[dict[str, Any]],
    rate: float,
    arguments: argparse.Namespace,
    device: torch.device,
) -> None:
    """Print the table and write the JSON."""
    name = device_name(device)
    print(
        f"{name}: {arguments.size}, {arguments.frames} frames, batch {arguments.batch}, {arguments.precision}; "
        f"bare matrix product {rate / 1e12:.2f} TFLOP/s"
    )
    print(
        f"{'step':<18}{'way':<8}{'s/step':>9}{'clips/s':>9}{'TFLOP':>8}{'of rate':>9}{'peak GiB':>10}"
        f"{'speed-up':>10}"
    )
    for row in rows:
        baseline = next(first for first in rows if first["step"] == row["step"])
        print(
            f"{row['step']:<18}{row['way']:<8}{row['seconds']:>9.3f}{row['clips_per_s']:>9.2f}"
            f"{row['flops'] / 1e12:>8.3f}{row['of_matrix_rate']:>9.1%}"
            f"{row['peak_gib'] or '-':>10.4}"
            f"{baseline['seconds'] / row['seconds']:>9.2f}x"
        )
    write_record("step", name, arguments, {"matrix_flops_per_s": rate, "rows": rows})


def attention_difference() -> float:
    """Largest difference of the baseline's attention from ours, on random input: both must compute the same."""
    differences = []
    for axis in ("space", "time"):
        layer = DividedAttention(24, 3, axis)
        tokens = torch.randn(2, 1 + 3 * 5, 24)
        difference = layer(tokens, 3) - unfused_attention(layer, tokens, 3)
        differences.append(float(difference.detach().abs().max()))
    return max(differences)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/bench.py step --help")
