"""What is minimised: one objective per file, registered in `OBJECTIVES`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from parse_config import Registry

OBJECTIVES = Registry("objective", __name__)


class Objective(nn.Module):
    """A model and what is minimised of it.

    A subclass implements `encode(batch)`, all that needs parameters, and `losses(outputs)`, all that needs every row
    of every process. The two are separate so that accumulation can stand between them (trainer/accumulate.py): outputs
    of several batches, concatenated, are valid outputs, and `losses` has no parameters.
    """

    needs_captions = True  # whether every batch must have "text"
    model: Any  # a dual encoder with the methods of model.miles.MILES
    progress: float = 0.0  # share of training that is done

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, batch: Mapping[str, Any], encode_only: bool = False
    ) -> dict[str, Tensor]:
        """{"loss": scalar, and its parts} of {"video": video_BTCHW, "text": tokens}.

        encode_only: return the outputs of `encode` instead. It is an argument of forward, because the wrappers for
        several processes act on forward alone.
        """
        outputs = self.encode(batch)
        if encode_only:
            return outputs
        return self.losses(outputs)

    def encode(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The outputs of this process's rows, each of which can be concatenated along its first dimension."""
        raise NotImplementedError

    def losses(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"loss": the scalar to minimise, and its parts}, equal on all processes."""
        raise NotImplementedError

    def trains_mvm(self, batch: Mapping[str, Any]) -> bool:
        """Whether masked visual modeling is trained on this batch, at this progress."""
        return False

    def passes_per_clip(self) -> float:
        """Forward and backward passes of the video encoder per clip: what a step costs, beside plain training's 1."""
        return 1.0

    @property
    def contrastive_loss(self) -> nn.Module | None:
        """The loss that compares clips and captions, if there is one."""
        return None

    @property
    def leaves_parameters_unused(self) -> bool:
        """Whether some steps on captioned batches give some parameters no gradient."""
        return False

    def before_step(self, step: int, steps: int) -> None:
        """Called before each optimizer step on every process; `step` of `steps` have been taken."""
        self.progress = step / max(steps, 1)

    def after_step(self, step: int, steps: int) -> None:
        """Called after each optimizer step on every process; `step` of `steps` have been taken, this one included."""
