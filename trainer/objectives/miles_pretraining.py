"""The method of MILES (arXiv 2204.12408): contrast + masked visual modeling on the features of a snapshot teacher.

B clips, T frames, N patches a frame, D encoder width, E width of what is compared.
"""
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.loss import LOSSES
from model.mask import MASKS
from model.teacher import TEACHERS
from parse_config import ConfigError
from trainer.distributed import gather
from trainer.objectives import OBJECTIVES, Objective

BLOCK = {"type": "TubeBlock", "args": {"ratio": 0.5}}
EMA = {"type": "EMA", "args": {"momentum": 0.996}}
REGRESSION = {"type": "CosineRegression", "args": {}}


@OBJECTIVES.register("MILESPretraining")
class MILESPretraining(Objective):
    """`contrast_view`: the captions meet the "masked" clips (the same pass) or the "full" ones (a second pass).
    `target_space`: the hidden features are compared after `vid_proj` ("joint") or before it ("encoder")."""

    def __init__(self, model: nn.Module, loss: nn.Module, mask: Mapping[str, Any] = BLOCK,
                 teacher: Mapping[str, Any] = EMA, mvm_loss: Mapping[str, Any] = REGRESSION, mvm_weight: float = 1.0,
                 contrast_view: str = "masked", target_space: str = "joint"):
        super().__init__(model)
        self.contrast, self.mvm_weight = loss, mvm_weight
        self.mask, self.reconstruct = MASKS.build(mask), LOSSES.build(mvm_loss)
        self.teacher = TEACHERS.build(teacher, student=model)
        self.mask_token_D = nn.Parameter(torch.zeros(model.video_model.embed_dim))
        nn.init.trunc_normal_(self.mask_token_D, std=0.02)
        self.view = _choice("contrast_view", contrast_view, {"masked": _same_pass, "full": _clean_pass})
        self.space = _choice("target_space", target_space, {"joint": _joint, "encoder": _encoder})

    def encode(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the losses need of this process's clips."""
        video_BTCHW = batch["video"]
        mask_BTN = self.mask(len(video_BTCHW), self.model.grid(video_BTCHW), video_BTCHW.device)
        v_BE, patch_BTNE = self.space(self.model, video_BTCHW, mask_BTN, self.mask_token_D)  # sees the corrupted clip
        _, target_BTNE = self.space(self.teacher, video_BTCHW)                               # sees the whole clip
        return {"video": self.view(self.model, video_BTCHW, v_BE), "text": self.model.encode_text(batch["text"]),
                "mvm": self.reconstruct(patch_BTNE, target_BTNE, mask_BTN)}

    def losses(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses over the clips of all processes; the regression's mean is over all that are hidden in them."""
        loss_vt = self.contrast(gather(outputs["video"]), gather(outputs["text"]))
        distance, places = gather(outputs["mvm"]).sum(0)
        loss_mvm = distance / places.clamp(min=1)
        return {"loss": loss_vt + self.mvm_weight * loss_mvm, "loss_vt": loss_vt, "loss_mvm": loss_mvm}

    def after_step(self, step: int, steps: int):
        """The snapshot follows the model; `step` counts the optimizer's steps from 1."""
        self.teacher.follow(self.model, step, steps)


def _joint(model: nn.Module, video_BTCHW: Tensor, *masked: Tensor) -> tuple[Tensor, Tensor]:
    """Embedding and patch features, both in the joint space."""
    cls_BD, patch_BTND = model.video_features(video_BTCHW, *masked)
    return model.vid_proj(cls_BD), model.vid_proj(patch_BTND)


def _encoder(model: nn.Module, video_BTCHW: Tensor, *masked: Tensor) -> tuple[Tensor, Tensor]:
    """Embedding in the joint space, patch features as the encoder gives them."""
    cls_BD, patch_BTND = model.video_features(video_BTCHW, *masked)
    return model.vid_proj(cls_BD), patch_BTND


def _same_pass(model: nn.Module, video_BTCHW: Tensor, v_BE: Tensor) -> Tensor:
    return v_BE


def _clean_pass(model: nn.Module, video_BTCHW: Tensor, v_BE: Tensor) -> Tensor:
    return model.encode_video(video_BTCHW)[0]


def _choice(name: str, given: str, known: Mapping[str, Callable]) -> Callable:
    if given not in known:
        raise ConfigError(f"objective.args.{name}: {given!r} is given; known: {', '.join(known)}")
    return known[given]
