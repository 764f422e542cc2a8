"""Each patch by itself through an MLP. B clips, T frames, N patches per frame, D width."""

from torch import Tensor, nn

from model.predictor import PREDICTORS, Predictor


@PREDICTORS.register("MLP")
class MLP(Predictor):
    """Linear, LayerNorm, GELU, Linear.

    Args:
        hidden_ratio: width of the hidden layer, as a multiple of D
    """

    def __init__(self, width: int, hidden_ratio: float = 2.0) -> None:
        super().__init__()
        hidden = int(width * hidden_ratio)
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Linear(hidden, width),
        )

    def forward(self, patch_BTND: Tensor) -> Tensor:
        return self.layers(patch_BTND)
