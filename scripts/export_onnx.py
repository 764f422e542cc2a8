"""Both towers as ONNX, compared with torch by onnxruntime.

    python scripts/export_onnx.py MODEL OUT [--frames 4]

MODEL: a folder of scripts/export.py, or a checkpoint. OUT/video.onnx: video (B, T, C, H, W) -> video_embedding (B, E);
OUT/text.onnx: input_ids, attention_mask (B, L) -> text_embedding (B, E). B and L are free, T is --frames.
Embeddings are not normalised.
"""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from model.restore import restore
from parse_config import ConfigError, cli_entry

TOLERANCE = (
    1e-4  # largest difference between onnxruntime and torch, of embeddings scaled to length 1
)


class Video(nn.Module):
    """Clips -> embeddings."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, video: Tensor) -> Tensor:
        return self.model.vid_proj(self.model.video_features(video)[0])


class Text(nn.Module):
    """Tokens -> embeddings."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_text({"input_ids": input_ids, "attention_mask": attention_mask})


def main(source: Path, out: Path, frames: int | None = None) -> dict[str, float]:
    """Write both files; {name: largest difference}. ConfigError if onnxruntime and torch disagree."""
    model = restore(source)
    out.mkdir(parents=True, exist_ok=True)
    differences = {}
    for name, tower, inputs, free in (
        ("video", Video(model), clips(model, 2, frames), {}),
        ("text", Text(model), captions(model, 2, 9), {1: "tokens"}),
    ):
        path = out / f"{name}.onnx"
        torch.onnx.export(
            tower.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            dynamo=True,
            output_names=[f"{name}_embedding"],
            dynamic_shapes=[shape(free) for _ in inputs],
            external_data=False,
            verbose=False,
        )
        others = clips(model, 3, frames) if name == "video" else captions(model, 5, 6)
        differences[name] = max(difference(path, tower, inputs), difference(path, tower, others))
        if not differences[name] < TOLERANCE:
            raise ConfigError(
                f"{path}: onnxruntime differs from torch by {differences[name]:.1e}, {TOLERANCE} allowed"
            )
        print(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB, differs from torch by {differences[name]:.1e}"
        )
    return differences


def shape(free: Mapping[int, str]) -> dict[int, torch.export.Dim]:
    """Dimensions of any size: the batch, and those in `free`."""
    return {0: torch.export.Dim.DYNAMIC, **dict.fromkeys(free, torch.export.Dim.DYNAMIC)}


def clips(model: nn.Module, rows: int, frames: int | None) -> dict[str, Tensor]:
    """Noise of the model's size."""
    tower = model.video_model
    channels = tower.patch_embed.proj.in_channels
    return {"video": torch.randn(rows, frames or tower.num_frames, channels, *tower.img_size)}


def captions(model: nn.Module, rows: int, length: int) -> dict[str, Tensor]:
    """Random words, the last ones of every second caption hidden."""
    words = model.text_model.get_input_embeddings().num_embeddings
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[::2, length // 2 :] = 0
    return {"input_ids": torch.randint(0, words, (rows, length)), "attention_mask": mask}


@torch.no_grad()
def difference(path: Path, tower: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """Largest difference between onnxruntime's and torch's embeddings, each scaled to length 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    wanted = tower(**inputs)
    return float(
        (
            torch.nn.functional.normalize(torch.from_numpy(found))
            - torch.nn.functional.normalize(wanted)
        )
        .abs()
        .max()
    )


@cli_entry
def cli(argv: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--frames", type=int, help="frames a clip (default: as many as the model takes)"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main(arguments.model, arguments.out, arguments.frames)


if __name__ == "__main__":
    cli()
