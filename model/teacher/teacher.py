"""What all teachers are: a copy of the video encoder and its projection that learns by no gradient."""
import copy

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """A copy of the student's `video_model` and `vid_proj`: no gradient, always in eval mode, saved with the objective.

    Made before the student is wrapped or compiled. Parameters are matched by order, so that a sharded (DTensor) or
    compiled student is followed too, as long as the teacher is sharded alike. A subclass says when and how in `follow`.
    """

    def __init__(self, student: nn.Module):
        super().__init__()
        self.video_model = copy.deepcopy(student.video_model)
        self.vid_proj = copy.deepcopy(student.vid_proj)
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
        """How much of itself the teacher keeps at the end of `step` (counted from 1) of `steps`: a pure function."""
        raise AssertionError(f"{type(self).__name__} has no momentum_at")

    @torch.no_grad()
    def follow(self, student: nn.Module, step: int, steps: int):
        """theta_teacher <- m theta_teacher + (1 - m) theta_student after the optimizer's `step`; buffers are copied."""
        momentum = self.momentum_at(step, steps)
        if momentum == 1:
            return
        mine = [*self.video_model.parameters(), *self.vid_proj.parameters()]
        theirs = [*student.video_model.parameters(), *student.vid_proj.parameters()]
        assert len(mine) == len(theirs), "teacher and student differ"
        torch._foreach_lerp_(mine, [p.detach() for p in theirs], 1 - momentum)
        buffers = [*student.video_model.buffers(), *student.vid_proj.buffers()]
        for ours, other in zip(self.buffers(), buffers, strict=True):
            ours.copy_(other)
