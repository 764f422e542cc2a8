"""The snapshot video encoder, "an evolving tokenizer" (MILES, arXiv 2204.12408): rules of how it follows the video
encoder, one a file, registered in `TEACHERS`. B clips, T frames, N patches a frame, D encoder width, E joint width."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from parse_config import Registry

TEACHERS = Registry("teacher", __name__)
PARTS = ("video_model", "vid_proj")


class Teacher(nn.Module):
    """A copy of the student's `video_model` and `vid_proj`: no gradient, always in eval mode, saved with the objective.

    A subclass says in `momentum_at` how much the teacher keeps of itself at each step.

    Order: the teacher copies the student as the student is then. So first load the student's weights, then make the
    teacher, then move, compile and wrap both together (DDP, or FSDP2 through `trainer.distributed.wrap`). Tensors are
    matched by name, without what `torch.compile` puts before it; of sharded tensors each process follows its own
    shard, and a teacher that is not sharded follows the whole of a student that is (a collective call).
    """

    def __init__(self, student: nn.Module):
        super().__init__()
        assert not any(hasattr(p, "full_tensor") for p in student.parameters()), (
            "make the teacher before sharding"
        )
        for part in PARTS:
            module = getattr(student, part)
            setattr(self, part, copy.deepcopy(getattr(module, "_orig_mod", module)))
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in eval mode, whatever `mode` says."""
        return super().train(False)

    @torch.no_grad()
    def video_features(self, video_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Whole clips -> (cls_BD, patch_BTND)."""
        return self.video_model(video_BTCHW)

    @torch.no_grad()
    def forward(self, video_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Whole clips -> (v_BE, patch_BTNE)."""
        cls_BD, patch_BTND = self.video_features(video_BTCHW)
        return self.vid_proj(cls_BD), self.vid_proj(patch_BTND)

    def momentum_at(self, step: int, steps: int) -> float:
        """The share of itself, 0 to 1, that the teacher keeps when `step` of `steps` have been taken: a pure function
        of the two."""
        raise NotImplementedError

    @torch.no_grad()
    def follow(self, student: nn.Module, step: int, steps: int):
        """teacher <- m teacher + (1 - m) student after the optimizer's `step`, counted from 1; buffers are copied."""
        momentum = self.momentum_at(step, steps)
        if momentum == 1:
            return
        pairs = list(_pairs(self, student))
        moving = [(mine, theirs) for mine, theirs, parameter in pairs if parameter]
        torch._foreach_lerp_(
            [mine for mine, _ in moving], [theirs for _, theirs in moving], 1 - momentum
        )
        for mine, theirs in [(mine, theirs) for mine, theirs, parameter in pairs if not parameter]:
            mine.copy_(theirs)


def _pairs(teacher: nn.Module, student: nn.Module) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """(teacher's tensor, student's tensor, whether it is a parameter), both as they lie on this process."""
    for kind in ("named_parameters", "named_buffers"):
        mine, theirs = _named(teacher, kind), _named(student, kind)
        assert mine.keys() == theirs.keys(), (
            f"teacher and student differ in {sorted(mine.keys() ^ theirs.keys())}"
        )
        for name, tensor in mine.items():
            yield *_local(tensor, theirs[name]), kind == "named_parameters"


def _named(model: nn.Module, kind: str) -> dict[str, Tensor]:
    return {
        f"{part}.{name}".replace("_orig_mod.", ""): tensor
        for part in PARTS
        for name, tensor in getattr(getattr(model, part), kind)()
    }


def _local(mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """The two without DTensor around them, of equal shape."""
    if hasattr(mine, "to_local"):
        assert hasattr(theirs, "to_local") and mine.placements == theirs.placements, (
            "sharded unlike the student"
        )
        return mine.to_local(), theirs.to_local()
    return mine, theirs.full_tensor() if hasattr(theirs, "full_tensor") else theirs
