"""The space-time transformer of Frozen in Time (arXiv 2104.00650) and MILES: a ViT with divided attention.

B clips, T frames, N patches per frame, S = 1 + T * N tokens (CLS first, then frame by frame), D width.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.video import VIDEO_ENCODERS, VideoEncoder
from model.video.attention import record_attention
from model.video.blocks import ACTIVATIONS, PatchEmbed, SpaceTimeBlock
from parse_config import ConfigError

# (embed_dim, depth, patch_size, pre_norm) -> what "pretrained": true stands for.
IMAGE_WEIGHTS = {
    (768, 12, 16, False): "vit_base_patch16_224.augreg_in21k",
    (768, 12, 32, False): "vit_base_patch32_224.augreg_in21k",
    (192, 12, 16, False): "vit_tiny_patch16_224.augreg_in21k",
    (384, 12, 16, False): "vit_small_patch16_224.augreg_in21k",
    (1024, 24, 16, False): "vit_large_patch16_224.augreg_in21k",
    (768, 12, 16, True): "vit_base_patch16_clip_224.openai",
}
PATCH_FEATURES = ("last", "value")
TIME_INITS = ("zeros", "rand", "copy")


@VIDEO_ENCODERS.register("SpaceTimeTransformer")
class SpaceTimeTransformer(VideoEncoder):
    """ViT with divided space-time attention, for any number of frames up to `num_frames`.

    The initial standard deviations are those of Frozen in Time; a small encoder without
    pretrained weights learns several times as fast with `weight_std` of about embed_dim ** -0.5, `pos_embed_std` and
    `frame_std` of 0.5. `pre_norm`, `act` and `norm_eps` are for CLIP's ViTs.

    Args:
        img_size: pixels per side, or (height, width)
        patch_size: pixels per side of a patch
        in_chans: channels of a frame
        embed_dim: width
        depth: number of blocks
        num_heads: attention heads per block
        mlp_ratio: width of the MLP's hidden layer, as a multiple of embed_dim
        qkv_bias: whether queries, keys and values have biases
        num_frames: largest number of frames of a clip
        time_init: start of temporal attention: zeros (begins as its image ViT), rand, or copy (of spatial attention,
            where an image ViT is loaded)
        drop_rate: dropout of embeddings and projections
        drop_path_rate: stochastic depth at the last block, rising linearly from 0
        pre_norm: a norm before the blocks, as CLIP's ViTs have
        act: activation of the MLP: gelu or quick_gelu
        norm_eps: epsilon of the norms
        weight_std: initial standard deviation of linear layers
        pos_embed_std: initial standard deviation of CLS and position embeddings
        frame_std: initial standard deviation of frame embeddings
    """

    sizes = {
        "base_patch16_224_temporal": {"embed_dim": 768, "num_heads": 12},
        "tiny_patch16_224_temporal": {"embed_dim": 192, "num_heads": 3},
        "small_patch16_224_temporal": {"embed_dim": 384, "num_heads": 6},
        "base_patch32_224_temporal": {
            "embed_dim": 768,
            "num_heads": 12,
            "patch_size": 32,
        },
        "large_patch16_224_temporal": {"embed_dim": 1024, "num_heads": 16, "depth": 24},
        # Frozen's and MCQ's name of base_patch16_224_temporal.
        "base_patch16_224": {"embed_dim": 768, "num_heads": 12},
        "base_patch16_clip_224_temporal": {
            "embed_dim": 768,
            "num_heads": 12,
            "pre_norm": True,
            "act": "quick_gelu",
            "norm_eps": 1e-5,
        },
    }

    checkpointing = False

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        num_frames: int = 4,
        time_init: str = "zeros",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        pre_norm: bool = False,
        act: str = "gelu",
        norm_eps: float = 1e-6,
        weight_std: float = 0.02,
        pos_embed_std: float = 0.02,
        frame_std: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        _check_arguments(
            height, width, patch_size, embed_dim, num_heads, act, time_init
        )
        self.img_size = (height, width)
        self.patch_size = patch_size
        self.patch_grid = (height // patch_size, width // patch_size)
        self.num_frames = num_frames
        self.embed_dim = embed_dim
        self.time_init = time_init
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(
            torch.zeros(1, 1 + math.prod(self.patch_grid), embed_dim)
        )
        self.temporal_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        if pre_norm:
            self.norm_pre = nn.LayerNorm(embed_dim, eps=norm_eps)
        options: dict[str, Any] = {"qkv_bias": qkv_bias, "drop": drop_rate}
        options |= {"act": act, "norm_eps": norm_eps}
        drop_path_rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(embed_dim, num_heads, mlp_ratio, drop_path=rate, **options)
            for rate in drop_path_rates
        )
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self._initialise(weight_std, pos_embed_std, frame_std)

    def forward(
        self,
        video_BTCHW: Tensor,
        mask_BTN: Tensor | None = None,
        mask_token_D: Tensor | None = None,
        layers: int = 1,
        patch_features: str = "last",
    ) -> tuple[Tensor, Tensor]:
        """Normalised frames -> (cls_BD, patch_BTND), both after the last norm.

        Where `mask_BTN` (bool) is True a patch's embedding is replaced by `mask_token_D`; its position embeddings stay.
        With `layers` above 1 the patch features are the mean over so many of the last blocks, each after the last norm
        (data2vec, arXiv 2202.03555); CLS is that of the last. `patch_features` "value": instead of a patch's output
        what it gives to CLS, its value in the last spatial attention (as MaskCLIP reads CLIP, arXiv 2112.01071).

        Raises ValueError for another frame size, more frames than the model has, more layers than blocks.
        """
        frames, *patch_grid = self.grid(video_BTCHW)
        if tuple(patch_grid) != self.patch_grid or frames > self.num_frames:
            raise ValueError(
                f"a clip of {frames} frames of {tuple(video_BTCHW.shape[3:])} pixels: the video encoder "
                f"takes up to {self.num_frames} frames of {self.img_size} (num_frames, img_size)"
            )
        x_BSD = self._embed(video_BTCHW, mask_BTN, mask_token_D)
        if patch_features not in PATCH_FEATURES or (
            patch_features == "value" and layers > 1
        ):
            raise ValueError(
                f"patch_features {patch_features!r} of {layers} layers; known: last, and value of the last layer alone"
            )
        if patch_features == "value":
            x_BSD, patch_BSD = self._values(x_BSD, frames)
        else:
            x_BSD, patch_BSD = self._blocks(x_BSD, frames, layers)
        return x_BSD[:, 0], patch_BSD[:, 1:].unflatten(1, (frames, -1))

    def _embed(
        self,
        video_BTCHW: Tensor,
        mask_BTN: Tensor | None,
        mask_token_D: Tensor | None,
    ) -> Tensor:
        """x_BSD: what the first block reads."""
        patch_BTND = self.patch_embed(video_BTCHW)
        if mask_BTN is not None:
            assert mask_token_D is not None, "a mask needs a mask token"
            mask_token_D = mask_token_D.to(patch_BTND.dtype)
            patch_BTND = torch.where(mask_BTN[..., None], mask_token_D, patch_BTND)
        frames = patch_BTND.shape[1]
        patch_BTND = patch_BTND + self.pos_embed[:, None, 1:]
        patch_BTND = patch_BTND + self.temporal_embed[:, :frames, None]
        cls_B1D = (self.cls_token + self.pos_embed[:, :1]).expand(
            patch_BTND.shape[0], -1, -1
        )
        cls_B1D = cls_B1D.to(patch_BTND.dtype)
        x_BSD = self.pos_drop(torch.cat((cls_B1D, patch_BTND.flatten(1, 2)), dim=1))
        if hasattr(self, "norm_pre"):
            x_BSD = self.norm_pre(x_BSD)
        return x_BSD

    def _values(self, x_BSD: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """(output of the last block, values of its spatial attention), both (B, S, D) after the last norm."""
        for block in self.blocks[:-1]:
            x_BSD = self._run(block, x_BSD, frames)
        x_BSD, value_BSD = self._run(self.blocks[-1], x_BSD, frames, True)
        return self.norm(x_BSD), self.norm(value_BSD)

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        """The block's output, with its activations recomputed in the backward pass if so set."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _blocks(self, x_BSD: Tensor, frames: int, layers: int) -> tuple[Tensor, Tensor]:
        """(output of the last block, mean over the last `layers` blocks), both (B, S, D) after the last norm."""
        if not 1 <= layers <= len(self.blocks):
            raise ValueError(
                f"layers {layers}: the video encoder has {len(self.blocks)} blocks"
            )
        outputs_BSD = []
        for i, block in enumerate(self.blocks):
            x_BSD = self._run(block, x_BSD, frames)
            if i >= len(self.blocks) - layers:
                outputs_BSD.append(self.norm(x_BSD))
        last_BSD = outputs_BSD[-1]
        if layers == 1:
            return last_BSD, last_BSD
        return last_BSD, torch.stack(outputs_BSD).mean(0)

    def cls_attention(self, video_BTCHW: Tensor) -> Tensor:
        """attention_BTN: how much CLS attends to each patch in the last block's spatial layer, mean over heads."""
        last_block: Any = self.blocks[-1]
        with record_attention(last_block.attn) as maps:
            self(video_BTCHW)
        attention_BS = maps[""][0].cls_BHS.mean(1)
        return attention_BS[:, 1:].unflatten(1, (video_BTCHW.shape[1], -1))

    def grid(self, video_BTCHW: Tensor) -> tuple[int, int, int]:
        """(frames, rows, columns) of patches of a clip."""
        frames, _, height, width = video_BTCHW.shape[1:]
        return frames, height // self.patch_size, width // self.patch_size

    @property
    def image_weights(self) -> str | None:
        """The timm ViT of this size, or None."""
        pre_norm = hasattr(self, "norm_pre")
        return IMAGE_WEIGHTS.get(
            (self.embed_dim, len(self.blocks), self.patch_size, pre_norm)
        )

    def set_gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.checkpointing = on

    def _initialise(
        self, weight_std: float, pos_embed_std: float, frame_std: float
    ) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=weight_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=pos_embed_std)
        nn.init.trunc_normal_(self.cls_token, std=pos_embed_std)
        if frame_std:
            nn.init.trunc_normal_(self.temporal_embed, std=frame_std)
        if self.time_init == "zeros":
            self.zero_time()

    def zero_time(self) -> None:
        """Silence temporal attention by its output projection. (Frozen in Time zeroes qkv and fills the projection
        with ones: queries and keys then never get a gradient.)"""
        for block in self.blocks:
            assert isinstance(block, SpaceTimeBlock)
            nn.init.zeros_(block.timeattn.proj.weight)
            nn.init.zeros_(block.timeattn.proj.bias)


def _check_arguments(
    height: int,
    width: int,
    patch_size: int,
    embed_dim: int,
    num_heads: int,
    act: str,
    time_init: str,
) -> None:
    """ConfigError for arguments that do not go together, or names that are not known."""
    sizes = {
        "img_size": min(height, width),
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "num_heads": num_heads,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(
                f"arch.args.video_params.{name}: {size} is given, 1 or more is needed"
            )
    mistake = ""
    if height % patch_size or width % patch_size:
        mistake = (
            f"img_size {height} x {width} is no multiple of patch_size {patch_size}"
        )
    elif embed_dim % num_heads:
        mistake = f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}"
    elif act not in ACTIVATIONS:
        mistake = f"act {act!r} is none of {', '.join(ACTIVATIONS)}"
    elif time_init not in TIME_INITS:
        mistake = f"time_init {time_init!r} is none of {', '.join(TIME_INITS)}"
    if mistake:
        raise ConfigError(f"arch.args.video_params: {mistake}")
