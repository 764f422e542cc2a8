"""What the student adds to its features before they are compared with the teacher's, registered in `PREDICTORS`.

BYOL (arXiv 2006.07733) has an MLP, RILS (arXiv 2301.06958) and V-JEPA transformer blocks. A predictor belongs to the
objective: it is not used after pre-training. B clips, T frames, N patches per frame, D width.
"""

from torch import Tensor, nn

from parse_config import Registry

PREDICTORS = Registry("predictor", __name__)


class Predictor(nn.Module):
    """`predictor(patch_BTND) -> patch_BTND`; its constructor takes `width`, which is D, from the program."""

    def forward(self, patch_BTND: Tensor) -> Tensor:
        raise NotImplementedError
