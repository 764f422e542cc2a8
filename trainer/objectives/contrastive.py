"""Contrastive learning alone: fine-tuning, and the baseline without masks. B pairs, E joint width."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from model.loss import ContrastiveLoss, require_loss
from trainer.distributed import gather
from trainer.objectives import OBJECTIVES, Objective


@OBJECTIVES.register("Contrastive")
class Contrastive(Objective):
    """`loss(v_BE, t_BE)` over the pairs of all processes."""

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        super().__init__(model)
        self.loss = require_loss(loss, ContrastiveLoss, "loss.type")

    @property
    def contrastive_loss(self) -> nn.Module:
        return self.loss

    def encode(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"v_BE", "t_BE"} of this process's pairs."""
        v_BE, _ = self.model.encode_video(batch["video"])
        return {"v_BE": v_BE, "t_BE": self.model.encode_text(batch["text"])}

    def losses(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"loss", "loss_vt"}."""
        loss_vt = self.loss(gather(outputs["v_BE"]), gather(outputs["t_BE"]))
        return {"loss": loss_vt, "loss_vt": loss_vt}
