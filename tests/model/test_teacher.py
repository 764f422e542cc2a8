"""Teachers: copies that follow by a pure function of the step, whatever stands around the student."""

import math

import pytest
import torch
from torch import nn

from model.teacher import TEACHERS
from parse_config import ConfigError

ARGS = {"EMA": {"momentum": 0.9}, "Snapshot": {"every": 2}}


class Video(nn.Module):
    """Stands in for a video encoder: a layer, dropout, running statistics, a buffer of whole numbers."""

    def __init__(self):
        super().__init__()
        self.patch, self.drop, self.norm = (
            nn.Linear(12, 6),
            nn.Dropout(0.5),
            nn.BatchNorm1d(6),
        )

    def forward(
        self,
        video_BTCHW,
        mask_BTN=None,
        mask_token_D=None,
        layers=1,
        patch_features="last",
    ):
        patch_BTND = self.drop(self.patch(video_BTCHW.flatten(2)))[:, :, None]
        return self.norm(patch_BTND.mean((1, 2))), patch_BTND


class Student(nn.Module):
    """video_model, vid_proj, and a text tower that no teacher takes over."""

    def __init__(self):
        super().__init__()
        self.video_model, self.vid_proj, self.text_model = (
            Video(),
            nn.Sequential(nn.Linear(6, 4)),
            nn.Linear(3, 3),
        )

    def move(self):
        """As an optimizer step would, and a pass that moves the statistics."""
        with torch.no_grad():
            for p in self.parameters():
                p.add_(torch.randn_like(p))
        self.train()(torch.randn(4, 2, 3, 2, 2))

    def forward(self, video_BTCHW):
        return self.vid_proj(self.video_model(video_BTCHW)[0])


def build(name, student, **args):
    return TEACHERS.build(
        {"type": name, "args": args or ARGS.get(name, {})}, student=student
    )


def held(module):
    return {
        name: tensor.detach().clone()
        for name, tensor in module.state_dict().items()
        if name.startswith(("video_model", "vid_proj"))
    }


COPIES = [name for name in TEACHERS.names() if name != "Self"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", COPIES)
def test_every_teacher_begins_as_a_copy_that_does_not_learn(name):
    student = Student()
    teacher = build(name, student)
    assert (
        held(teacher).keys() == held(student).keys() == teacher.state_dict().keys()
    ), "no more than these"
    for key, tensor in held(student).items():
        assert torch.equal(teacher.state_dict()[key], tensor)
        assert (
            teacher.state_dict()[key].data_ptr() != student.state_dict()[key].data_ptr()
        )
    assert not any(p.requires_grad for p in teacher.parameters())
    holder = nn.ModuleList([teacher, student]).train()
    assert (
        not any(m.training for m in teacher.modules())
        and student.training
        and holder.training
    )
    clip = torch.randn(2, 3, 3, 2, 2)
    cls_BD, patch_BTND = teacher.video_features(clip)
    assert not cls_BD.requires_grad and not patch_BTND.requires_grad
    assert torch.equal(teacher.video_features(clip)[0], cls_BD), "no dropout"
    assert teacher.vid_proj(cls_BD).shape == (2, 4)
    assert teacher.vid_proj(patch_BTND).shape == (2, 3, 1, 4)


@pytest.mark.parametrize("name", COPIES)
def test_every_teacher_follows_by_its_momentum(name):
    student = Student()
    teacher = build(name, student)
    for step in range(1, 5):
        student.move()
        before, target, momentum = (
            held(teacher),
            held(student),
            teacher.momentum_at(step, 4),
        )
        assert 0 <= momentum <= 1 and momentum == teacher.momentum_at(step, 4)
        teacher.follow(student, step, 4)
        parameters = dict(teacher.named_parameters())
        for key, tensor in held(teacher).items():
            want = (
                momentum * before[key] + (1 - momentum) * target[key]
                if key in parameters
                else before[key]
                if momentum == 1
                else target[key]
            )
            torch.testing.assert_close(tensor, want, rtol=1e-6, atol=1e-6)
        assert {
            name: p for name, p in student.named_parameters() if p.grad is not None
        } == {}


def test_only_the_teacher_self_holds_nothing_and_is_the_student():
    teachers = {name: build(name, Student()) for name in TEACHERS.names()}
    assert [name for name in teachers if teachers[name].is_student] == ["Self"]
    assert [name for name in teachers if not teachers[name].state_dict()] == ["Self"]
    teachers["Self"].follow(Student(), 1, 2)
    assert teachers["Self"].momentum_at(1, 2) == 0


def test_snapshot_copies_every_n_steps_and_frozen_never():
    student = Student()
    snapshot, frozen, start = (
        build("Snapshot", student, every=3),
        build("Frozen", student),
        held(student),
    )
    for step in range(1, 8):
        student.move()
        if step % 3 == 0:
            copied = held(student)
        snapshot.follow(student, step, 7)
        frozen.follow(student, step, 7)
        for key, tensor in (copied if step >= 3 else start).items():
            assert torch.equal(snapshot.state_dict()[key], tensor), "bit for bit"
            assert torch.equal(frozen.state_dict()[key], start[key])


def test_ema_momentum_constant_or_rising_to_one():
    constant, cosine = (
        build("EMA", Student()),
        build("EMA", Student(), momentum=0.9, schedule="cosine"),
    )
    assert {constant.momentum_at(step, 10) for step in range(11)} == {0.9}
    assert build("EMA", Student(), schedule="constant").momentum_at(1, 10) == 0.996
    for step in range(11):
        assert cosine.momentum_at(step, 10) == pytest.approx(
            1 - 0.1 * (math.cos(math.pi * step / 10) + 1) / 2
        )
    assert cosine.momentum_at(10, 10) == cosine.momentum_at(12, 10) == 1
    cosine.momentum_at(0, 0)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["in place", "around"])
def test_a_compiled_student_is_followed(when, how):
    student, twin = Student(), Student()
    twin.load_state_dict(student.state_dict())

    def compiled():
        if how == "in place":
            student.video_model.compile(backend="eager")
        else:
            student.video_model = torch.compile(student.video_model, backend="eager")

    if when == "before":
        compiled()
    teacher, other = build("EMA", student), build("EMA", twin)
    if when == "after":
        compiled()
    with torch.no_grad():
        for p, q in zip(student.parameters(), twin.parameters(), strict=True):
            q.copy_(p.add_(1))
    teacher.follow(student, 1, 2)
    other.follow(twin, 1, 2)
    assert held(teacher).keys() == held(other).keys()
    assert all(
        torch.equal(tensor, held(other)[key]) for key, tensor in held(teacher).items()
    )


@pytest.mark.parametrize(
    "name, args, says",
    [
        ("EMA", {"momentum": 1.5}, "momentum: 1.5"),
        ("EMA", {"schedule": "linear"}, "known: constant, cosine"),
        ("Snapshot", {"every": 0}, "every: 0"),
    ],
)
def test_wrong_rules_are_refused(name, args, says):
    with pytest.raises(ConfigError, match=says):
        build(name, Student(), **args)
