"""Divided space-time attention of Frozen in Time (arXiv 2104.00650), through fused kernels.

B clips, T frames, N patches a frame, S = 1 + T * N tokens (CLS first, then frame by frame), D width, H heads,
K = D / H, G groups (a frame's patches, or a place's frames), Q tokens in a group.
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

    def __init__(self, dim: int, num_heads: int, over: str, qkv_bias: bool = True, drop: float = 0.0):
        super().__init__()
        assert over in ("space", "time"), over
        self.num_heads, self.over = num_heads, over
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop)
        self.record: list[AttentionMap] | None = None

    def forward(self, x_BSD: Tensor, frames: int) -> Tensor:
        """x_BSD with S = 1 + frames * N -> (B, S, D)."""
        q, k, v = self.qkv(x_BSD).unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # BSHK each
        groups = [self._group(part, frames) for part in (q, k, v)]
        key_BGMHK, value_BGMHK = (_with_cls(part[:, :1], group) for part, group in zip((k, v), groups[1:], strict=True))
        attend = _attend if self.record is None else _attend_aloud
        cls_B1HK, cls_weights = attend(q[:, :1], k, v)
        shape_BG = groups[0].shape[:2]
        out, weights = attend(groups[0].flatten(0, 1), key_BGMHK.flatten(0, 1), value_BGMHK.flatten(0, 1))
        if self.record is not None:
            self.record.append(AttentionMap(cls_weights.squeeze(2), weights.unflatten(0, shape_BG)))
        out_BGQHK = out.unflatten(0, shape_BG)
        out_BPHK = (out_BGQHK if self.over == "space" else out_BGQHK.transpose(1, 2)).flatten(1, 2)
        return self.drop(self.proj(torch.cat((cls_B1HK, out_BPHK), dim=1).flatten(2)))

    def _group(self, part_BSHK: Tensor, frames: int) -> Tensor:
        part_BTNHK = part_BSHK[:, 1:].unflatten(1, (frames, -1))
        return part_BTNHK if self.over == "space" else part_BTNHK.transpose(1, 2)


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, list[AttentionMap]]]:
    """Within the block, every `DividedAttention` of `model` also keeps its weights: {module name: [map per call]}.

    The recording layers compute softmax(q k / sqrt(K)) v in the open, from the same projections as the fused kernel.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, DividedAttention)}
    maps: dict[str, list[AttentionMap]] = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.record = maps[name]
    try:
        yield maps
    finally:
        for layer in layers.values():
            layer.record = None


def _with_cls(cls_B1HK: Tensor, group_BGQHK: Tensor) -> Tensor:
    cls_BG1HK = cls_B1HK[:, None].expand(-1, group_BGQHK.shape[1], -1, -1, -1)
    return torch.cat((cls_BG1HK, group_BGQHK), dim=2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2), None


def _attend_aloud(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The twin of `_attend` that also returns its weights, (batch, heads, queries, keys), detached."""
    logits = torch.einsum("bqhk,bmhk->bhqm", q * q.shape[-1] ** -0.5, k)
    weights = logits.softmax(-1)
    return torch.einsum("bhqm,bmhk->bqhk", weights, v), weights.detach()
