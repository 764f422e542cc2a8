"""The layers of a space-time transformer.

B clips, T frames, N patches per frame, S = 1 + T * N tokens (CLS first, then frame by frame), D width.
"""

import torch
from torch import Tensor, nn

from model.video.attention import DividedAttention


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": nn.GELU, "quick_gelu": QuickGELU}


class Mlp(nn.Module):
    """Linear, activation, Linear."""

    def __init__(
        self, dim: int, hidden: int, drop: float = 0.0, act: str = "gelu"
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = ACTIVATIONS[act]()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class SpaceTimeBlock(nn.Module):
    """Temporal attention, spatial attention, MLP. As in Frozen in Time, spatial attention reads the output of
    temporal attention, but its residual starts from the block's input."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        qkv_bias: bool = True,
        drop: float = 0.0,
        drop_path: float = 0.0,
        act: str = "gelu",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = DividedAttention(dim, num_heads, "space", qkv_bias, drop)
        self.timeattn = DividedAttention(dim, num_heads, "time", qkv_bias, drop)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop, act)
        self.norm3 = nn.LayerNorm(dim, eps=norm_eps)
        self.drop_path = make_drop_path(drop_path)

    def forward(
        self, x_BSD: Tensor, frames: int, with_values: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(B, S, D) -> (B, S, D), with the values of spatial attention beside it if asked for."""
        time_BSD = x_BSD + self.timeattn(self.norm3(x_BSD), frames)
        spatial_input_BSD = self.norm1(time_BSD)
        x_BSD = x_BSD + self.drop_path(self.attn(spatial_input_BSD, frames))
        x_BSD = x_BSD + self.drop_path(self.mlp(self.norm2(x_BSD)))
        if with_values:
            return x_BSD, self.attn.values(spatial_input_BSD)
        return x_BSD


class PatchEmbed(nn.Module):
    """Each frame cut into patches, each patch projected to D: video_BTCHW -> patch_BTND."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            in_chans, embed_dim, kernel_size=patch_size, stride=patch_size
        )

    def forward(self, video_BTCHW: Tensor) -> Tensor:
        patch_XDN = self.proj(video_BTCHW.flatten(0, 1)).flatten(2)  # X = B * T
        return patch_XDN.transpose(1, 2).unflatten(0, video_BTCHW.shape[:2])


def make_drop_path(rate: float) -> nn.Module:
    """Stochastic depth: a residual branch is left out for a clip with this probability."""
    if rate == 0:
        return nn.Identity()
    from timm.layers import (
        DropPath,
    )  # timm takes a second to import and is rarely needed here

    return DropPath(rate)
