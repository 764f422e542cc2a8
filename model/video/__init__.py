"""Video encoders, one per file, registered in `VIDEO_ENCODERS`."""

from typing import Any, ClassVar

from torch import Tensor, nn

from parse_config import Registry

VIDEO_ENCODERS = Registry("video encoder", __name__)


class VideoEncoder(nn.Module):
    """What MILES expects of a video encoder. B clips, T frames, N patches per frame, D width.

    `sizes`: names for `arch_config` -> constructor arguments; `embed_dim` is D, `blocks` its layers,
    `num_frames` the largest T, `img_size` and `patch_grid` are (height, width) in pixels and patches.
    """

    sizes: ClassVar[dict[str, dict[str, Any]]] = {}
    embed_dim: int
    blocks: nn.ModuleList
    num_frames: int
    img_size: tuple[int, int]
    patch_grid: tuple[int, int]

    def forward(
        self,
        video_BTCHW: Tensor,
        mask_BTN: Tensor | None = None,
        mask_token_D: Tensor | None = None,
        layers: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Normalised frames -> (cls_BD, patch_BTND); where `mask_BTN` is True a patch is seen as `mask_token_D`.

        layers: patch features are the mean over the outputs of so many of the last blocks.
        """
        raise NotImplementedError

    def cls_attention(self, video_BTCHW: Tensor) -> Tensor:
        """attention_BTN: how much CLS attends to each patch in the last block, mean over heads; without gradient."""
        raise NotImplementedError

    def grid(self, video_BTCHW: Tensor) -> tuple[int, int, int]:
        """(frames, rows, columns) of patches of a clip."""
        raise NotImplementedError

    def set_gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping their activations."""
        raise NotImplementedError
