"""The method of MILES (arXiv 2204.12408): contrast, and masked visual modeling on the features of a snapshot teacher.

B clips, T frames, N patches a frame, D encoder width, E joint width (or D, with target_space "encoder").
"""

from collections.abc import Callable, Mapping
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


@OBJECTIVES.register("MILESPretraining")
class MILESPretraining(Objective):
    """The video encoder sees corrupted clips; where they are hidden it regresses what the teacher sees in whole ones.

    `mask`, `teacher`, `mvm_loss`: blocks of the config. `contrast_view`: captions meet the "masked" clips (the same
    pass) or the "full" ones (a second, clean pass). `target_space`: features are compared after `vid_proj` ("joint") or
    before it ("encoder"). The [MASK] token is here and not in the encoder, which has no use for it when fine-tuning.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        mask: Mapping[str, Any] = TUBE_BLOCK,
        teacher: Mapping[str, Any] = EMA,
        mvm_loss: Mapping[str, Any] = COSINE,
        mvm_weight: float = 1.0,
        contrast_view: str = "masked",
        target_space: str = "joint",
    ):
        super().__init__(model)
        self.contrast = require_loss(loss, ContrastiveLoss, "loss.type")
        self.reconstruct = require_loss(
            LOSSES.build(mvm_loss), ReconstructionLoss, "objective.args.mvm_loss.type"
        )
        self.mask, self.teacher = MASKS.build(mask), TEACHERS.build(teacher, student=model)
        self.mask_token_D = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(model.video_model.embed_dim), std=0.02)
        )
        self.features = _choice(
            "target_space", target_space, {"joint": _joint, "encoder": _encoder}
        )
        self.contrasted = _choice(
            "contrast_view", contrast_view, {"masked": _masked, "full": _full}
        )
        self.mvm_weight = mvm_weight

    def encode(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """-> v_BE and t_BE to contrast, and what the hidden places' distances add up to, sums_12."""
        video_BTCHW = batch["video"]
        mask_BTN = self.mask(len(video_BTCHW), self.model.grid(video_BTCHW), video_BTCHW.device)

        v_BE, patch_BTNE = self.features(
            self.model, video_BTCHW, mask_BTN, self.mask_token_D
        )  # the corrupted clip
        _, target_BTNE = self.features(self.teacher, video_BTCHW)  # the whole clip
        v_BE = self.contrasted(self.model, video_BTCHW, v_BE)
        t_BE = self.model.encode_text(batch["text"])

        return {
            "v_BE": v_BE,
            "t_BE": t_BE,
            "sums_12": self.reconstruct(patch_BTNE, target_BTNE, mask_BTN),
        }

    def losses(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """-> {"loss", "loss_vt", "loss_mvm"}; loss_mvm is the mean over all places that any process hides."""
        loss_vt = self.contrast(gather(outputs["v_BE"]), gather(outputs["t_BE"]))
        distance, places = gather(outputs["sums_12"]).sum(0)
        loss_mvm = distance / places.clamp(min=1)
        return {
            "loss": loss_vt + self.mvm_weight * loss_mvm,
            "loss_vt": loss_vt,
            "loss_mvm": loss_mvm,
        }

    def after_step(self, step: int, steps: int):
        """The teacher follows; `step` of `steps` have been taken, this one included."""
        self.teacher.follow(self.model, step, steps)


def _joint(model: nn.Module, video_BTCHW: Tensor, *hiding: Tensor) -> tuple[Tensor, Tensor]:
    """(v_BE, patch_BTNE) of the student or the teacher."""
    cls_BD, patch_BTND = model.video_features(video_BTCHW, *hiding)
    return model.vid_proj(cls_BD), model.vid_proj(patch_BTND)


def _encoder(model: nn.Module, video_BTCHW: Tensor, *hiding: Tensor) -> tuple[Tensor, Tensor]:
    """(v_BE, patch_BTND) of the student or the teacher."""
    cls_BD, patch_BTND = model.video_features(video_BTCHW, *hiding)
    return model.vid_proj(cls_BD), patch_BTND


def _masked(model: nn.Module, video_BTCHW: Tensor, v_BE: Tensor) -> Tensor:
    return v_BE


def _full(model: nn.Module, video_BTCHW: Tensor, v_BE: Tensor) -> Tensor:
    return model.encode_video(video_BTCHW)[0]


def _choice(name: str, given: str, known: Mapping[str, Callable]) -> Callable:
    if given not in known:
        raise ConfigError(f"objective.args.{name}: {given!r} is given; known: {', '.join(known)}")
    return known[given]
