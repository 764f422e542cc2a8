"""The patches that the teacher's CLS attends to least: what the caption may speak of stays visible.

A-CLIP (arXiv 2212.08653) keeps the most attended patches, UMT (arXiv 2303.16058) draws those that it keeps.
B clips, T frames, N = rows * columns patches per frame.
"""

import torch
from torch import Tensor

from model.mask import MASKS, Mask
from model.schedule import Points


@MASKS.register("Attention")
class Attention(Mask):
    """Hides the least attended patches of each frame.

    Args:
        sampled: draw the visible patches in proportion to attention, one after the other without putting back (UMT),
            instead of keeping the most attended (A-CLIP)
    """

    needs_attention = True

    def __init__(self, ratio: Points = 0.5, sampled: bool = False) -> None:
        super().__init__(ratio)
        self.sampled = sampled

    def __call__(
        self,
        batch: int,
        grid: tuple[int, int, int],
        device: torch.device | str = "cpu",
        progress: float = 0.0,
        attention_BTN: Tensor | None = None,
    ) -> Tensor:
        """bool (B, T, N) on the device of `attention_BTN`. ValueError without it."""
        if attention_BTN is None:
            raise ValueError("the Attention mask needs attention_BTN")
        score_BTN = attention_BTN.detach().float().log()
        if self.sampled:
            # The largest of log p + Gumbel noise are draws without replacement (arXiv 1903.06059).
            noise_BTN = torch.rand(score_BTN.shape).log().neg().log().neg()
            score_BTN = score_BTN + noise_BTN.to(score_BTN.device)
        _, rows, columns = grid
        count = round(self.ratio(progress) * rows * columns)
        hidden_BTN = score_BTN.argsort(dim=-1, stable=True)[..., :count]
        mask_BTN = torch.zeros_like(score_BTN, dtype=torch.bool)
        return mask_BTN.scatter_(-1, hidden_BTN, True)
