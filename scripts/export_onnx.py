"""Both encoders as ONNX, compared with torch by onnxruntime.

    python scripts/export_onnx.py MODEL OUT [--frames 4]

MODEL: a folder of scripts/export.py, or a checkpoint. OUT/video.onnx: video (B, T, C, H, W) -> video_embedding (B, E);
OUT/text.onnx: input_ids, attention_mask (B, L) -> text_embedding (B, E). B and L are free, T is --frames.
Embeddings are not normalised.
"""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.miles import MILES
from model.restore import restore
from parse_config import ConfigError, cli_entry

# Largest difference allowed between onnxruntime and torch, of embeddings scaled to length 1.
TOLERANCE = 1e-4


class Video(nn.Module):
    """Clips -> embeddings."""

    def __init__(self, model: MILES) -> None:
        super().__init__()
        self.model = model

    def forward(self, video: Tensor) -> Tensor:
        cls_BD, _ = self.model.video_features(video)
        return self.model.vid_proj(cls_BD)


class Text(nn.Module):
    """Tokens -> embeddings."""

    def __init__(self, model: MILES) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_text(
            {"input_ids": input_ids, "attention_mask": attention_mask}
        )


def main(source: Path, out: Path, frames: int | None = None) -> dict[str, float]:
    """Write both files; {name: largest difference}. ConfigError if onnxruntime and torch disagree."""
    model = restore(source)
    out.mkdir(parents=True, exist_ok=True)
    video_inputs = clips(model, 2, frames)
    text_inputs = captions(model, 2, 9)
    return {
        "video": write_encoder(
            "video",
            Video(model),
            out,
            video_inputs,
            clips(model, 3, frames),
            free_dims=(0,),
        ),
        "text": write_encoder(
            "text",
            Text(model),
            out,
            text_inputs,
            captions(model, 5, 6),
            free_dims=(0, 1),
        ),
    }


def write_encoder(
    name: str,
    encoder: nn.Module,
    out: Path,
    inputs: Mapping[str, Tensor],
    test_inputs: Mapping[str, Tensor],
    free_dims: tuple[int, ...],
) -> float:
    """Trace `encoder` on `inputs` into OUT/name.onnx, of any size along `free_dims`.

    The largest difference from torch, on `inputs` and on `test_inputs` of other sizes; ConfigError if it is too large.
    """
    path = out / f"{name}.onnx"
    dynamic_shape = dict.fromkeys(free_dims, torch.export.Dim.DYNAMIC)
    torch.onnx.export(
        encoder.eval(),
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        dynamo=True,
        output_names=[f"{name}_embedding"],
        dynamic_shapes=[dynamic_shape for _ in inputs],
        external_data=False,
        verbose=False,
    )
    largest = max(
        difference(path, encoder, inputs), difference(path, encoder, test_inputs)
    )
    if not largest < TOLERANCE:
        raise ConfigError(
            f"{path}: onnxruntime differs from torch by {largest:.1e}, {TOLERANCE} allowed"
        )
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, differs from torch by {largest:.1e}"
    )
    return largest


def clips(model: MILES, rows: int, frames: int | None) -> dict[str, Tensor]:
    """Random clips of the model's size."""
    video_model: Any = model.video_model
    channels = video_model.patch_embed.proj.in_channels
    height, width = video_model.img_size
    return {
        "video": torch.randn(
            rows, frames or video_model.num_frames, channels, height, width
        )
    }


def captions(model: MILES, rows: int, length: int) -> dict[str, Tensor]:
    """Random tokens; the second half of every other caption is padding."""
    embeddings: Any = model.text_model.get_input_embeddings()
    attention_mask = torch.ones(rows, length, dtype=torch.long)
    attention_mask[::2, length // 2 :] = 0
    input_ids = torch.randint(0, embeddings.num_embeddings, (rows, length))
    return {"input_ids": input_ids, "attention_mask": attention_mask}


@torch.no_grad()
def difference(path: Path, encoder: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """Largest difference between onnxruntime's and torch's embeddings, each scaled to length 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    (onnx_BE,) = session.run(None, arrays)
    torch_BE = F.normalize(encoder(**inputs))
    return float((F.normalize(torch.from_numpy(onnx_BE)) - torch_BE).abs().max())


@cli_entry
def cli(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--frames",
        type=int,
        help="frames per clip (default: as many as the model takes)",
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main(arguments.model, arguments.out, arguments.frames)


if __name__ == "__main__":
    cli()
