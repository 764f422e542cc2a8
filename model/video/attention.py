"""Divided space-time attention of Frozen in Time (arXiv 2104.00650), through fused kernels.

B clips, T frames, N patches per frame, S = 1 + T * N tokens (CLS first, then frame by frame), D width, H heads,
K = D / H, G groups (the patches of a frame, or the frames of a patch position), Q tokens per group, M = 1 + Q.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AttentionMap(NamedTuple):
    """Softmax weights of one attention layer, each row sums to 1.

    `cls_BHS`: of CLS over all tokens. `patch_BGHQM`: of each group's patches over M = 1 + Q tokens, CLS first; the
    groups are frames (G = T, Q = N) in spatial layers, places (G = N, Q = T) in temporal ones.
    """

    cls_BHS: Tensor
    patch_BGHQM: Tensor


class DividedAttention(nn.Module):
    """Multi-head attention in which CLS sees every token and a patch sees CLS and its own group.

    `over="space"`: the group is the patch's frame; `over="time"`: the same place in every frame.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        over: str,
        qkv_bias: bool = True,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        assert over in ("space", "time"), over
        self.num_heads, self.over = num_heads, over
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop)
        self.record: list[AttentionMap] | None = None

    def forward(self, x_BSD: Tensor, frames: int) -> Tensor:
        """x_BSD with S = 1 + frames * N -> (B, S, D)."""
        qkv = self.qkv(x_BSD).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # BHSK each
        query = self._groups(q, frames)  # BGHQK
        key = _with_cls(k, self._groups(k, frames))  # BGHMK
        value = _with_cls(v, self._groups(v, frames))  # BGHMK
        attend = fused if self.record is None else unfused
        cls_BH1K, cls_weights = attend(q[:, :, :1], k, v)
        # B * G can exceed CUDA's limit of a grid, so groups use the dimension of the heads.
        out, weights = attend(
            query.flatten(1, 2), key.flatten(1, 2), value.flatten(1, 2)
        )
        groups_heads = query.shape[1:3]
        if self.record is not None:
            assert cls_weights is not None and weights is not None
            patch_weights = weights.unflatten(1, groups_heads)
            self.record.append(AttentionMap(cls_weights.squeeze(2), patch_weights))
        out_BGHQK = out.unflatten(1, groups_heads)
        if self.over == "space":
            out_BTNHK = out_BGHQK.permute(0, 1, 3, 2, 4)
        else:
            out_BTNHK = out_BGHQK.permute(0, 3, 1, 2, 4)
        out_BSHK = torch.cat((cls_BH1K.transpose(1, 2), out_BTNHK.flatten(1, 2)), dim=1)
        return self.drop(self.proj(out_BSHK.flatten(2)))

    def values(self, x_BSD: Tensor) -> Tensor:
        """(B, S, D): what each token gives to one that attends to it alone: its value through the projection."""
        width = x_BSD.shape[-1]
        bias_D = None if self.qkv.bias is None else self.qkv.bias[-width:]
        return self.proj(F.linear(x_BSD, self.qkv.weight[-width:], bias_D))

    def _groups(self, part_BHSK: Tensor, frames: int) -> Tensor:
        """Queries, keys or values of the patches by group: (B, G, H, Q, K)."""
        part_BHTNK = part_BHSK[:, :, 1:].unflatten(2, (frames, -1))
        if self.over == "space":
            return part_BHTNK.permute(0, 2, 1, 3, 4)
        return part_BHTNK.permute(0, 3, 1, 2, 4)


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, list[AttentionMap]]]:
    """Within the block, every `DividedAttention` of `model` also keeps its weights: {module name: [map per call]}.

    The recording layers compute softmax(q k / sqrt(K)) v without the fused kernel, from the same projections.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, DividedAttention)
    }
    maps: dict[str, list[AttentionMap]] = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.record = maps[name]
    try:
        yield maps
    finally:
        for layer in layers.values():
            layer.record = None


def fused(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
    """Attention by the fastest kernel for the device; (..., queries, K), (..., keys, K) twice -> (..., queries, K)."""
    return F.scaled_dot_product_attention(q, k, v), None


def unfused(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """`fused` by batched matrix products, which also returns its weights (..., queries, keys), detached."""
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
    return weights @ v, weights.detach()


def _with_cls(part_BHSK: Tensor, group_BGHQK: Tensor) -> Tensor:
    cls_BGH1K = part_BHSK[:, None, :, :1].expand(-1, group_BGHQK.shape[1], -1, -1, -1)
    return torch.cat((cls_BGH1K, group_BGHQK), dim=3)
