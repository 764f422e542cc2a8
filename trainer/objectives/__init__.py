"""What is minimised: one objective a file, registered in `OBJECTIVES`."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from parse_config import Registry

OBJECTIVES = Registry("objective", __name__)


class Objective(nn.Module):
    """A model and what is minimised of it.

    A subclass gives `encode(batch)`, all that needs parameters, and `losses(outputs)`, all that needs every row of
    every process. They are two so that accumulation can stand between them (trainer/accumulate.py): outputs of
    several batches, concatenated, are valid outputs, and `losses` has no parameters.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self, batch: Mapping[str, Any], then: Callable[[dict[str, Tensor]], Any] | None = None
    ) -> Any:
        """{"video": video_BTCHW, "text": tokens} -> {"loss": ..., parts}; or what `then` makes of the encodings."""
        return (then or self.losses)(self.encode(batch))

    def encode(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The encodings of this process's rows, each of which can be concatenated along its first dimension."""
        raise NotImplementedError

    def losses(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encodings -> {"loss": the scalar to minimise, and its parts}, equal on all processes."""
        raise NotImplementedError

    def after_step(self, step: int, steps: int):
        """Called after each optimizer step on every process; `step` of `steps` have been taken, this one included."""
