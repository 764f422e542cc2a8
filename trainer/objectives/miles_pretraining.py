"""The method of MILES (arXiv 2204.12408): contrastive learning, and masked visual modeling on a snapshot's features.

Each choice that the paper leaves open, or that comparable methods make otherwise, is a setting: docs/method.md.

B clips, T frames, N patches per frame, D encoder width, E joint width, X the width in which features are compared.
"""

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.loss import (
    LOSSES,
    ContrastiveLoss,
    ReconstructionLoss,
    require_loss,
    widened,
)
from model.loss.cosine_regression import CosineRegression
from model.mask import MASKS
from model.mask.attention import Attention
from model.predictor import PREDICTORS
from model.schedule import Points, Schedule
from model.target_norm import TARGET_NORMS, TargetNorm
from model.teacher import TEACHERS
from parse_config import ConfigError
from trainer.distributed import gather
from trainer.objectives import OBJECTIVES, Objective

log = logging.getLogger(__name__)
TUBE_BLOCK = MappingProxyType({"type": "TubeBlock"})
EMA = MappingProxyType({"type": "EMA"})
COSINE = MappingProxyType({"type": "CosineRegression"})
CONTRAST_VIEWS = ("full", "masked", "two_masked")
REGRESSED = ("masked", "all")
TARGET_FEATURES = ("last", "value")
TARGET_SPACES = ("joint", "encoder")
FORWARD_COST = 1 / 3  # of a forward and backward pass
EMBEDDINGS = ("v_BE", "second_v_BE")  # outputs, one for each contrasted view


class View(NamedTuple):
    """What an encoder makes of clips: their embeddings, and patch features as they are compared."""

    v_BE: Tensor
    patch_BTNX: Tensor


@OBJECTIVES.register("MILESPretraining")
class MILESPretraining(Objective):
    """The video encoder sees a corrupted clip and regresses the teacher's features of the whole clip.

    The [MASK] token and the predictor belong to the objective, not to the encoder, which has no use for them in
    fine-tuning. A batch without "text" trains masked visual modeling alone.

    Args:
        mask: masking strategy, a block {"type", "args"} of a registered mask
        teacher: rule by which the snapshot follows the video encoder, a block of a registered teacher
        mvm_loss: distance of masked visual modeling, a block of a registered reconstruction loss
        mvm_weight: factor of masked visual modeling in the loss, or its schedule [[share of training, weight], ...]
        contrast_view: clip that is contrasted with the caption: "full" (a pass of its own), "masked" (the corrupted
            one, as the paper's figure draws it) or "two_masked" (two corruptions, each with the caption)
        target_space: where features are compared: "joint" (after vid_proj) or "encoder" (before it)
        regress: patches whose features are regressed: "masked" or "all"
        target_layers: the target is the mean over so many of the teacher's last blocks
        target_features: what is regressed of each patch: "last", its output, or "value", what it gives to the teacher's
            CLS in the last block's attention, which lies where captions do
        target_norm: none, l2, centred (less the running mean of the targets) or layer
        predictor: what stands between the student's features and the comparison, a block of a registered predictor;
            null: nothing
        mvm_share: share of each batch, up to 1, that masked visual modeling is trained on (at least one clip)
        mvm_from: share of training, 0 to 1, after which masked visual modeling begins (on batches without captions it
            is always on)
    """

    needs_captions = False

    def __init__(
        self,
        model: Any,
        loss: nn.Module,
        mask: Mapping[str, Any] = TUBE_BLOCK,
        teacher: Mapping[str, Any] = EMA,
        mvm_loss: Mapping[str, Any] = COSINE,
        mvm_weight: Points = 1.0,
        contrast_view: str = "full",
        target_space: str = "joint",
        regress: str = "all",
        target_layers: int = 1,
        target_features: str = "last",
        target_norm: str = "centred",
        predictor: Mapping[str, Any] | None = None,
        mvm_share: float = 1.0,
        mvm_from: float = 0.0,
    ) -> None:
        super().__init__(model)
        self.contrast_view = _require_choice(
            "contrast_view", contrast_view, CONTRAST_VIEWS
        )
        self.target_space = _require_choice("target_space", target_space, TARGET_SPACES)
        self.regress = _require_choice("regress", regress, REGRESSED)
        _require_choice("target_norm", target_norm, TARGET_NORMS)
        self.mvm_share = _require_some("mvm_share", mvm_share)
        self.mvm_from = _require_share("mvm_from", mvm_from)
        self.mvm_weight = Schedule(mvm_weight, "objective.args.mvm_weight", least=0)
        self.target_features = _require_choice(
            "target_features", target_features, TARGET_FEATURES
        )
        self.target_layers = _require_layers(target_layers, target_features, model)

        self.contrast = require_loss(loss, ContrastiveLoss, "loss.type")
        self.reconstruct = require_loss(
            LOSSES.build(mvm_loss), ReconstructionLoss, "objective.args.mvm_loss.type"
        )
        self.mask = MASKS.build(mask)
        self.teacher: Any = TEACHERS.build(teacher, student=model)
        width = model.video_model.embed_dim
        mask_token_D = torch.empty(width)
        self.mask_token_D = nn.Parameter(nn.init.trunc_normal_(mask_token_D, std=0.02))
        self.predictor: nn.Module = nn.Identity()
        if predictor is not None:
            self.predictor = PREDICTORS.build(predictor, width=width)
        target_width = width if target_space == "encoder" else model.embedding_size
        self.target_norm = TargetNorm(target_norm, target_width)
        self.needs_captions = self.mvm_from == 1  # else footage alone can be trained on
        self._warn_of_settings_without_effect()

    def encode(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Embeddings to contrast and the summed distances of masked visual modeling.

        Returns, of a batch with captions, {"t_BE", "v_BE"} and with two masked views "second_v_BE"; where masked visual
        modeling is on, "sum_and_count_12": [[sum of the distances, number of patches]] and, for the running mean of
        centred targets, "target_sum_1X" and "target_count_11".
        """
        video_BTCHW = batch["video"]
        has_captions = "text" in batch
        trains_mvm = self.trains_mvm(batch)
        contrasts_whole = has_captions and self.contrast_view == "full"
        contrasts_masked = has_captions and not contrasts_whole

        mvm_video_BTCHW = video_BTCHW[: self.mvm_rows(len(video_BTCHW))]
        masked_video_BTCHW = video_BTCHW if contrasts_masked else mvm_video_BTCHW
        masks = []
        if contrasts_masked or trains_mvm:
            masks = self.draw_masks(masked_video_BTCHW)
        masked = [self.masked_view(masked_video_BTCHW, mask_BTN) for mask_BTN in masks]
        clean_view = self.whole_view(video_BTCHW) if contrasts_whole else None

        outputs: dict[str, Tensor] = {}
        if has_captions:
            contrasted = masked if clean_view is None else [clean_view]
            outputs["t_BE"] = self.model.encode_text(batch["text"])
            outputs |= dict(zip(EMBEDDINGS, (view.v_BE for view in contrasted)))
        if trains_mvm:
            target_BTNX = self.target(mvm_video_BTCHW, clean_view)
            outputs |= self.compare(masked, masks, target_BTNX)
        return outputs

    def losses(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"loss", "loss_vt", "loss_mvm"}, without the part that is not trained.

        loss_vt is the mean over the contrasted views, loss_mvm over the regressed patches of all processes.
        """
        loss_by_name: dict[str, Tensor] = {}
        weighted = []
        if "t_BE" in outputs:
            loss_by_name["loss_vt"] = self._contrast(outputs)
            weighted.append(loss_by_name["loss_vt"])
        if "sum_and_count_12" in outputs:
            distance_sum, count = gather(outputs["sum_and_count_12"]).sum(0)
            loss_by_name["loss_mvm"] = distance_sum / count.clamp(min=1)
            weighted.append(self.mvm_weight(self.progress) * loss_by_name["loss_mvm"])
        if "target_sum_1X" in outputs:
            target_sum_X = gather(outputs["target_sum_1X"]).detach().sum(0)
            count = gather(outputs["target_count_11"]).detach().sum()
            self.target_norm.step_mean_X = target_sum_X / count
        return {"loss": torch.stack(weighted).sum(), **loss_by_name}

    def after_step(self, step: int, steps: int) -> None:
        """Let the teacher follow the model, and the running mean of the targets follow this step's."""
        self.teacher.follow(self.model, step, steps)
        self.target_norm.update_mean()

    def draw_masks(self, video_BTCHW: Tensor) -> list[Tensor]:
        """mask_BTN of each masked view: two for "two_masked", else one."""
        grid = self.model.grid(video_BTCHW)
        attention_BTN = None
        if self.mask.needs_attention:
            attending = self.model if self.teacher.is_student else self.teacher
            attention_BTN = attending.video_model.cls_attention(video_BTCHW)
        num_views = 2 if self.contrast_view == "two_masked" else 1
        return [
            self.mask(
                len(video_BTCHW), grid, video_BTCHW.device, self.progress, attention_BTN
            )
            for _ in range(num_views)
        ]

    def masked_view(self, video_BTCHW: Tensor, mask_BTN: Tensor) -> View:
        """The student's view of corrupted clips: their embeddings and its prediction of the target."""
        cls_BD, patch_BTND = self.model.video_features(
            video_BTCHW, mask_BTN, self.mask_token_D
        )
        predicted_BTNX = self._in_target_space(self.model, self.predictor(patch_BTND))
        return View(self.model.vid_proj(cls_BD), predicted_BTNX)

    def whole_view(self, video_BTCHW: Tensor) -> View:
        """The student's view of whole clips: their embeddings and, for the teacher "Self", the target."""
        cls_BD, patch_BTND = self.model.video_features(
            video_BTCHW,
            layers=self.target_layers,
            patch_features=self.target_features,
        )
        # Not under no_grad: autocast would keep weights cast without a gradient.
        target_BTNX = self._in_target_space(self.model, patch_BTND).detach()
        return View(self.model.vid_proj(cls_BD), target_BTNX)

    @torch.no_grad()
    def target(self, video_BTCHW: Tensor, clean_view: View | None = None) -> Tensor:
        """target_BTNX: the teacher's features of the whole clips, before they are normalised.

        clean_view: the student's view of a batch that begins with these clips, if there is one; the teacher "Self"
            needs no pass of its own then.
        """
        if not self.teacher.is_student:
            _, patch_BTND = self.teacher.video_features(
                video_BTCHW, self.target_layers, self.target_features
            )
            return self._in_target_space(self.teacher, patch_BTND)
        if clean_view is None:
            clean_view = self.whole_view(video_BTCHW)
        return clean_view.patch_BTNX[: len(video_BTCHW)]

    def compare(
        self, masked: Sequence[View], masks: Sequence[Tensor], target_BTNX: Tensor
    ) -> dict[str, Tensor]:
        """Outputs of masked visual modeling, see `encode`, of the clips of `target_BTNX`, the first of each view."""
        rows = len(target_BTNX)
        sums_12 = []
        for view, mask_BTN in zip(masked, masks, strict=True):
            regressed_BTN = self.regressed_places(mask_BTN[:rows])
            compared = self.target_norm(view.patch_BTNX[:rows], target_BTNX)
            sums_12.append(self.reconstruct(*compared, regressed_BTN))
        outputs = {"sum_and_count_12": torch.stack(sums_12).sum(0)}
        if self.target_norm.kind == "centred":
            target_YX = widened(target_BTNX).flatten(0, -2)  # Y = B * T * N
            outputs["target_sum_1X"] = target_YX.sum(0, keepdim=True)
            outputs["target_count_11"] = target_YX.new_full((1, 1), len(target_YX))
        return outputs

    def regressed_places(self, mask_BTN: Tensor) -> Tensor:
        """bool (B, T, N): the patches whose features are regressed where `mask_BTN` is hidden."""
        return torch.ones_like(mask_BTN) if self.regress == "all" else mask_BTN

    def mvm_rows(self, batch_size: int) -> int:
        """How many of a batch's clips masked visual modeling is trained on: its first ones."""
        return max(1, round(self.mvm_share * batch_size))

    @property
    def contrastive_loss(self) -> nn.Module:
        return self.contrast

    @property
    def leaves_parameters_unused(self) -> bool:
        """Before masked visual modeling begins, the [MASK] token and the predictor get no gradient."""
        return self.mvm_from > 0

    def trains_mvm(self, batch: Mapping[str, Any]) -> bool:
        """After `mvm_from`, and always on footage without captions."""
        return "text" not in batch or self.progress >= self.mvm_from

    def before_step(self, step: int, steps: int) -> None:
        """Note the share of training that is done; `step` of `steps` have been taken."""
        super().before_step(step, steps)
        self.target_norm.step_mean_X = None

    def passes_per_clip(self) -> float:
        """Forward and backward passes of the video encoder per clip, averaged over training; a forward pass is 1/3."""
        mvm_time = 1 - self.mvm_from
        attention = FORWARD_COST if self.mask.needs_attention else 0.0
        if self.contrast_view == "full":
            teacher = 0.0 if self.teacher.is_student else FORWARD_COST
            return 1 + mvm_time * self.mvm_share * (1 + teacher + attention)
        views = 2 if self.contrast_view == "two_masked" else 1
        return views + attention + mvm_time * self.mvm_share * FORWARD_COST

    def _warn_of_settings_without_effect(self) -> None:
        if self.target_norm.kind == "centred" and not isinstance(
            self.reconstruct, CosineRegression
        ):
            log.warning(
                "objective.args.target_norm: centred changes nothing with %s: the same mean is taken from both sides",
                type(self.reconstruct).__name__,
            )
        attends = isinstance(self.mask, Attention) and not self.mask.sampled
        if self.contrast_view == "two_masked" and attends:
            log.warning(
                "objective.args.mask.args.sampled: false hides the same patches in both views"
            )

    def _contrast(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The contrastive loss of the captions with each view, averaged."""
        t_BE = gather(outputs["t_BE"])
        losses = [
            self.contrast(gather(outputs[name]), t_BE)
            for name in EMBEDDINGS
            if name in outputs
        ]
        return torch.stack(losses).mean()

    def _in_target_space(self, encoder: Any, patch_BTND: Tensor) -> Tensor:
        if self.target_space == "joint":
            return encoder.vid_proj(patch_BTND)
        return patch_BTND


def _require_choice(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(
            f"objective.args.{name}: {value!r} is given; known: {', '.join(known)}"
        )
    return value


def _require_layers(layers: int, features: str, model: Any) -> int:
    """`layers`, or ConfigError if the video encoder has not so many or they do not go with these features."""
    depth = len(model.video_model.blocks)
    if not 1 <= layers <= depth:
        raise ConfigError(
            f"objective.args.target_layers: {layers} is given; the video encoder has {depth} blocks"
        )
    if features == "value" and layers > 1:
        raise ConfigError(
            f'objective.args.target_layers: {layers} is given; target_features "value" is of the last block'
        )
    return layers


def _require_some(name: str, value: float) -> float:
    if value == 0:
        raise ConfigError(
            f"objective.args.{name}: 0 is given, a share above 0 is needed; mvm_from 1 trains none"
        )
    return _require_share(name, value)


def _require_share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ConfigError(
            f"objective.args.{name}: {value!r} is given, a share from 0 to 1 is needed"
        )
    return value
