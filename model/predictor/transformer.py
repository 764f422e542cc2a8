"""All patches of a clip through transformer blocks. B clips, T frames, N patches per frame, D width."""

from torch import Tensor, nn

from model.predictor import PREDICTORS, Predictor
from parse_config import ConfigError


@PREDICTORS.register("Transformer")
class Transformer(Predictor):
    """Pre-norm blocks of torch over the T * N patches, which see each other, and a last linear layer.

    Args:
        depth: number of blocks
        num_heads: attention heads
        mlp_ratio: width of the MLP's hidden layer, as a multiple of D
    """

    def __init__(
        self, width: int, depth: int = 1, num_heads: int = 4, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        if depth < 1 or width % num_heads:
            raise ConfigError(
                f"predictor.args: depth {depth} and num_heads {num_heads} are given; 1 block or more and a "
                f"divisor of the width {width} are needed"
            )
        block = nn.TransformerEncoderLayer(
            width,
            num_heads,
            int(width * mlp_ratio),
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            block, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.last = nn.Linear(width, width)

    def forward(self, patch_BTND: Tensor) -> Tensor:
        patch_BSD = self.last(self.blocks(patch_BTND.flatten(1, 2)))  # S = T * N
        return patch_BSD.unflatten(1, patch_BTND.shape[1:3])
