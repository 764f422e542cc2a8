"""The space-time transformer of Frozen in Time (arXiv 2104.00650) and MILES: a ViT with divided attention.

B clips, T frames, N patches a frame, S = 1 + T * N tokens (CLS first, then frame by frame), D width.
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.video import VIDEO_ENCODERS
from model.video.attention import DividedAttention
from parse_config import ConfigError


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class SpaceTimeBlock(nn.Module):
    """Temporal attention, spatial attention, MLP. As in Frozen in Time, what spatial attention reads includes the
    temporal one's output, but its residual starts from the block's input."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, drop: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = DividedAttention(dim, num_heads, "space", qkv_bias, drop)
        self.timeattn = DividedAttention(dim, num_heads, "time", qkv_bias, drop)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.drop_path = _drop_path(drop_path)

    def forward(self, x_BSD: Tensor, frames: int) -> Tensor:
        time_BSD = x_BSD + self.timeattn(self.norm3(x_BSD), frames)
        x_BSD = x_BSD + self.drop_path(self.attn(self.norm1(time_BSD), frames))
        return x_BSD + self.drop_path(self.mlp(self.norm2(x_BSD)))


class PatchEmbed(nn.Module):
    """Each frame cut into patches, each patch projected to D."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, video_BTCHW: Tensor) -> Tensor:
        frames = video_BTCHW.shape[1]
        return self.proj(video_BTCHW.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, (-1, frames))  # BTND


@VIDEO_ENCODERS.register("SpaceTimeTransformer")
class SpaceTimeTransformer(nn.Module):
    """ViT with divided space-time attention, for any number of frames up to `num_frames`.

    `time_init`: "zeros" (the temporal layers' output projection is zero, so that the network begins as its image
    ViT), "rand", or "copy" (of the spatial layers, where an image ViT is loaded; "rand" otherwise).
    """

    sizes = {
        "base_patch16_224_temporal": {"embed_dim": 768, "num_heads": 12},
        "tiny_patch16_224_temporal": {"embed_dim": 192, "num_heads": 3},
        "small_patch16_224_temporal": {"embed_dim": 384, "num_heads": 6},
        "base_patch32_224_temporal": {"embed_dim": 768, "num_heads": 12, "patch_size": 32},
        "large_patch16_224_temporal": {"embed_dim": 1024, "num_heads": 16, "depth": 24},
        "base_patch16_224": {"embed_dim": 768, "num_heads": 12},  # Frozen's and MCQ's name of the same network
    }

    def __init__(self, img_size: int | Sequence[int] = 224, patch_size: int = 16, in_chans: int = 3,
                 embed_dim: int = 768, depth: int = 12, num_heads: int = 12, mlp_ratio: float = 4.0,
                 qkv_bias: bool = True, num_frames: int = 4, time_init: str = "zeros", drop_rate: float = 0.0,
                 drop_path_rate: float = 0.0):
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        _check(height % patch_size == 0 and width % patch_size == 0, f"img_size {height} x {width} is no multiple of "
               f"patch_size {patch_size}")
        _check(embed_dim % num_heads == 0, f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}")
        _check(time_init in ("zeros", "rand", "copy"), f"time_init {time_init!r} is none of zeros, rand, copy")
        self.img_size, self.patch_size, self.num_frames = (height, width), patch_size, num_frames
        self.embed_dim, self.time_init = embed_dim, time_init
        self.patch_grid = height // patch_size, width // patch_size
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.patch_grid[0] * self.patch_grid[1], embed_dim))
        self.temporal_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(embed_dim, num_heads, mlp_ratio, qkv_bias, drop_rate, drop_path_rate * i / max(depth - 1, 1))
            for i in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.checkpointing = False
        self._initialise()

    def forward(self, video_BTCHW: Tensor, mask_BTN: Tensor | None = None, mask_token_D: Tensor | None = None,
                ) -> tuple[Tensor, Tensor]:
        """Normalised frames -> (cls_BD, patch_BTND), both after the last norm.

        Where `mask_BTN` (bool) is True a patch's embedding gives way to `mask_token_D`; its place embeddings stay.
        Raises ValueError for another frame size or more frames than the model has.
        """
        frames, grid = video_BTCHW.shape[1], self.grid(video_BTCHW)[1:]
        if grid != self.patch_grid or frames > self.num_frames:
            raise ValueError(f"a clip of {frames} frames of {tuple(video_BTCHW.shape[3:])} pixels: the video encoder "
                             f"takes up to {self.num_frames} frames of {self.img_size} (num_frames, img_size)")
        patch_BTND = self.patch_embed(video_BTCHW)
        if mask_BTN is not None:
            patch_BTND = torch.where(mask_BTN[..., None], mask_token_D.to(patch_BTND.dtype), patch_BTND)
        patch_BTND = patch_BTND + self.pos_embed[:, None, 1:] + self.temporal_embed[:, :frames, None]
        cls_B1D = (self.cls_token + self.pos_embed[:, :1]).expand(len(patch_BTND), -1, -1)
        x_BSD = self.pos_drop(torch.cat((cls_B1D.to(patch_BTND.dtype), patch_BTND.flatten(1, 2)), dim=1))
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x_BSD = checkpoint(block, x_BSD, frames, use_reentrant=False)
            else:
                x_BSD = block(x_BSD, frames)
        x_BSD = self.norm(x_BSD)
        return x_BSD[:, 0], x_BSD[:, 1:].unflatten(1, (frames, -1))

    def grid(self, video_BTCHW: Tensor) -> tuple[int, int, int]:
        """(frames, rows, columns) of patches of a clip."""
        return (video_BTCHW.shape[1], *(side // self.patch_size for side in video_BTCHW.shape[3:]))

    def set_gradient_checkpointing(self, on: bool = True):
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.checkpointing = on

    def _initialise(self):
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        if self.time_init == "zeros":
            self.zero_time()

    def zero_time(self):
        """Silence temporal attention by its output projection. (The family zeroes qkv and fills the projection with
        ones: queries and keys then never get a gradient.)"""
        for block in self.blocks:
            nn.init.zeros_(block.timeattn.proj.weight)
            nn.init.zeros_(block.timeattn.proj.bias)


def _drop_path(rate: float) -> nn.Module:
    if rate == 0:
        return nn.Identity()
    from timm.layers import DropPath  # timm takes a second to import and is rarely needed here
    return DropPath(rate)


def _check(right: bool, message: str):
    if not right:
        raise ConfigError(f"arch.args.video_params: {message}")
