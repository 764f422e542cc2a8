"""The method of MILES (arXiv 2204.12408): contrastive learning, and masked visual modeling on a snapshot's features.

B clips, T frames, N patches per frame, D encoder width, E joint width.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from model.loss import LOSSES, ContrastiveLoss, ReconstructionLoss, require_loss
from model.mask import MASKS
from model.teacher import TEACHERS
from parse_config import ConfigError
from trainer.distributed import gather
from trainer.objectives import OBJECTIVES, Objective

TUBE_BLOCK = MappingProxyType({"type": "TubeBlock"})
EMA = MappingProxyType({"type": "EMA"})
COSINE = MappingProxyType({"type": "CosineRegression"})
CONTRAST_VIEWS = ("masked", "full")
TARGET_SPACES = ("joint", "encoder")


@OBJECTIVES.register("MILESPretraining")
class MILESPretraining(Objective):
    """The video encoder sees a corrupted clip; at the hidden patches it regresses the teacher's features of the clip.

    The [MASK] token belongs to the objective, not to the encoder, which has no use for it in fine-tuning.

    Args:
        mask: masking strategy, a block {"type", "args"} of a registered mask
        teacher: rule by which the snapshot follows the video encoder, a block of a registered teacher
        mvm_loss: distance of masked visual modeling, a block of a registered reconstruction loss
        mvm_weight: factor of masked visual modeling in the loss
        contrast_view: clip that is contrasted with the caption: "masked" (the corrupted one) or "full" (a second pass)
        target_space: where features are compared: "joint" (after vid_proj) or "encoder" (before it)
    """

    def __init__(
        self,
        model: Any,
        loss: nn.Module,
        mask: Mapping[str, Any] = TUBE_BLOCK,
        teacher: Mapping[str, Any] = EMA,
        mvm_loss: Mapping[str, Any] = COSINE,
        mvm_weight: float = 1.0,
        contrast_view: str = "masked",
        target_space: str = "joint",
    ) -> None:
        super().__init__(model)
        self.contrast = require_loss(loss, ContrastiveLoss, "loss.type")
        self.reconstruct = require_loss(
            LOSSES.build(mvm_loss), ReconstructionLoss, "objective.args.mvm_loss.type"
        )
        self.mask = MASKS.build(mask)
        self.teacher: Any = TEACHERS.build(teacher, student=model)
        mask_token_D = torch.empty(model.video_model.embed_dim)
        self.mask_token_D = nn.Parameter(nn.init.trunc_normal_(mask_token_D, std=0.02))
        self.target_space = _require_choice("target_space", target_space, TARGET_SPACES)
        self.contrast_view = _require_choice(
            "contrast_view", contrast_view, CONTRAST_VIEWS
        )
        self.mvm_weight = mvm_weight

    def encode(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Embeddings to contrast and the summed distances at the hidden patches.

        Returns {"v_BE", "t_BE", "sum_and_count_12"}: [[sum of the distances, number of hidden patches]].
        """
        video_BTCHW = batch["video"]
        mask_BTN = self.mask(
            len(video_BTCHW), self.model.grid(video_BTCHW), video_BTCHW.device
        )

        v_BE, predicted_BTNX = self.features(
            self.model, video_BTCHW, mask_BTN, self.mask_token_D
        )
        _, target_BTNX = self.features(self.teacher, video_BTCHW)
        if self.contrast_view == "full":
            v_BE, _ = self.model.encode_video(video_BTCHW)
        t_BE = self.model.encode_text(batch["text"])

        sum_and_count_12 = self.reconstruct(predicted_BTNX, target_BTNX, mask_BTN)
        return {"v_BE": v_BE, "t_BE": t_BE, "sum_and_count_12": sum_and_count_12}

    def losses(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"loss", "loss_vt", "loss_mvm"}; loss_mvm is the mean over the patches that all processes hide."""
        loss_vt = self.contrast(gather(outputs["v_BE"]), gather(outputs["t_BE"]))
        distance_sum, hidden_count = gather(outputs["sum_and_count_12"]).sum(0)
        loss_mvm = distance_sum / hidden_count.clamp(min=1)
        loss = loss_vt + self.mvm_weight * loss_mvm
        return {"loss": loss, "loss_vt": loss_vt, "loss_mvm": loss_mvm}

    def after_step(self, step: int, steps: int) -> None:
        """Let the teacher follow the model; `step` of `steps` have been taken, this one included."""
        self.teacher.follow(self.model, step, steps)

    def features(
        self, encoder: Any, video_BTCHW: Tensor, *masking: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features of the student or the teacher.

        masking: mask_BTN and mask_token_D, or nothing for the whole clip. Returns (v_BE, patch features), the latter
        (B, T, N, E) in the joint space or (B, T, N, D) in the encoder's.
        """
        cls_BD, patch_BTND = encoder.video_features(video_BTCHW, *masking)
        if self.target_space == "joint":
            return encoder.vid_proj(cls_BD), encoder.vid_proj(patch_BTND)
        return encoder.vid_proj(cls_BD), patch_BTND


def _require_choice(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(
            f"objective.args.{name}: {value!r} is given; known: {', '.join(known)}"
        )
    return value
