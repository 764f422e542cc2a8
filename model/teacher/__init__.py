"""The snapshot video encoder, "an evolving tokenizer" (MILES, arXiv 2204.12408).

The rules by which it follows the video encoder, one per file, are registered in `TEACHERS`.

B clips, T frames, N patches per frame, D encoder width, E joint width.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from parse_config import Registry

TEACHERS = Registry("teacher", __name__)
COPIED_MODULES = ("video_model", "vid_proj")


class Teacher(nn.Module):
    """A copy of the student's `video_model` and `vid_proj`: no gradient, always in eval mode, saved with the objective.

    A subclass says in `momentum_at` how much the teacher keeps of itself at each step.

    Order: the teacher copies the student as the student is then. So first load the student's weights, then make the
    teacher, then move, compile and wrap both together (DDP, or FSDP2 through `trainer.distributed.wrap`). Tensors are
    matched by name, without what `torch.compile` puts before it; of sharded tensors each process follows its own
    shard, and an unsharded teacher follows the gathered tensors of a sharded student (a collective call).
    """

    is_student = False  # whether the target is the student's own clean pass
    video_model: Any  # a copy of the student's VideoEncoder
    vid_proj: nn.Module

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        assert not any(hasattr(p, "full_tensor") for p in student.parameters()), (
            "make the teacher before sharding"
        )
        for name in COPIED_MODULES:
            module = getattr(student, name)
            uncompiled = getattr(module, "_orig_mod", module)
            setattr(self, name, copy.deepcopy(uncompiled))
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in eval mode, whatever `mode` says."""
        return super().train(False)

    @torch.no_grad()
    def video_features(
        self, video_BTCHW: Tensor, layers: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Uncorrupted clips -> (cls_BD, patch_BTND), the latter the mean over the last `layers` blocks."""
        return self.video_model(video_BTCHW, layers=layers)

    def momentum_at(self, step: int, steps: int) -> float:
        """The share of itself, 0 to 1, that the teacher keeps when `step` of `steps` have been taken: a pure function
        of the two."""
        raise NotImplementedError

    @torch.no_grad()
    def follow(self, student: nn.Module, step: int, steps: int) -> None:
        """teacher <- m teacher + (1 - m) student after the optimizer's `step`, counted from 1; buffers are copied."""
        momentum = self.momentum_at(step, steps)
        if momentum == 1:
            return
        parameters = _local_pairs(_named_parameters(self), _named_parameters(student))
        teacher_parameters = [teacher_tensor for teacher_tensor, _ in parameters]
        student_parameters = [student_tensor for _, student_tensor in parameters]
        torch._foreach_lerp_(teacher_parameters, student_parameters, 1 - momentum)
        buffers = _local_pairs(_named_buffers(self), _named_buffers(student))
        for teacher_buffer, student_buffer in buffers:
            teacher_buffer.copy_(student_buffer)


def _named_parameters(model: nn.Module) -> dict[str, Tensor]:
    return {
        _uncompiled_name(module_name, name): parameter
        for module_name in COPIED_MODULES
        for name, parameter in getattr(model, module_name).named_parameters()
    }


def _named_buffers(model: nn.Module) -> dict[str, Tensor]:
    return {
        _uncompiled_name(module_name, name): buffer
        for module_name in COPIED_MODULES
        for name, buffer in getattr(model, module_name).named_buffers()
    }


def _uncompiled_name(module_name: str, name: str) -> str:
    return f"{module_name}.{name}".replace("_orig_mod.", "")


def _local_pairs(
    teacher_tensors: dict[str, Tensor], student_tensors: dict[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """(teacher's tensor, student's tensor) of each name, both as they lie on this process."""
    different_names = teacher_tensors.keys() ^ student_tensors.keys()
    assert not different_names, (
        f"teacher and student differ in {sorted(different_names)}"
    )
    return [
        _local(tensor, student_tensors[name])
        for name, tensor in teacher_tensors.items()
    ]


def _local(teacher_tensor: Any, student_tensor: Any) -> tuple[Tensor, Tensor]:
    """The two tensors without DTensor around them, of equal shape."""
    if hasattr(teacher_tensor, "to_local"):
        assert (
            hasattr(student_tensor, "to_local")
            and teacher_tensor.placements == student_tensor.placements
        ), "sharded unlike the student"
        return teacher_tensor.to_local(), student_tensor.to_local()
    if hasattr(student_tensor, "full_tensor"):
        return teacher_tensor, student_tensor.full_tensor()
    return teacher_tensor, student_tensor
