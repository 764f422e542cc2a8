"""uint8 frames -> the model's input. Frames stay uint8 until the last step; one random draw per clip, not per frame.

T frames, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from torchvision.transforms.v2 import functional as F

Transform = Callable[[torch.Tensor, torch.Generator | None], torch.Tensor]
ASPECT_RATIOS = (3 / 4, 4 / 3)  # of width to height of a training crop
CROP_TRIES = 10
MAX_ASPECT_RATIO = 16  # of a picture that is scaled whole before its centre is cut out


def build_transform(
    train: bool,
    input_res: int = 224,
    center_crop: int | None = None,
    randcrop_scale: Sequence[float] = (0.5, 1.0),
    hflip: bool = True,
    norm_mean: Sequence[float] = (0.485, 0.456, 0.406),
    norm_std: Sequence[float] = (0.229, 0.224, 0.225),
) -> Transform:
    """(uint8 (T, C, H, W), generator) -> float32 (T, C, input_res, input_res), normalised.

    The transforms of Frozen-in-Time codebases. Train: a crop of random area and aspect ratio, resized to input_res and
    mirrored half of the time, the same for all frames of the clip. Test: the short side is resized to center_crop
    (256 for 224), the centre is cut out and resized to input_res.
    """
    if train:
        return partial(
            _transform_train,
            size=input_res,
            scale=randcrop_scale,
            hflip=hflip,
            mean=norm_mean,
            std=norm_std,
        )
    crop_size = center_crop or round(input_res * 256 / 224)
    return partial(
        _transform_test,
        size=input_res,
        crop_size=crop_size,
        mean=norm_mean,
        std=norm_std,
    )


def _transform_train(
    clip_TCHW: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    size: int,
    scale: Sequence[float],
    hflip: bool,
    mean: Sequence[float],
    std: Sequence[float],
) -> torch.Tensor:
    height, width = clip_TCHW.shape[-2:]
    top, left, crop_height, crop_width = random_crop(height, width, scale, generator)
    clip_TCHW = clip_TCHW[..., top : top + crop_height, left : left + crop_width]
    clip_TCHW = _resize(clip_TCHW, [size, size])

    if hflip and torch.rand((), generator=generator) < 0.5:
        clip_TCHW = clip_TCHW.flip(-1)
    return normalise(clip_TCHW, mean, std)


def _transform_test(
    clip_TCHW: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    size: int,
    crop_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> torch.Tensor:
    clip_TCHW = _resize(_shortened(clip_TCHW), [crop_size])
    clip_TCHW = F.center_crop(clip_TCHW, [crop_size, crop_size])
    clip_TCHW = _resize(clip_TCHW, [size, size])
    return normalise(clip_TCHW, mean, std)


def _shortened(clip_TCHW: torch.Tensor) -> torch.Tensor:
    """The middle of very long pictures: scaled whole, one of 1 x 60,000 pixels would take gigabytes.

    As many pixels are cut off on one side as on the other, so that the centre stays where it is.
    """
    for dimension in (2, 3):
        length = clip_TCHW.shape[dimension]
        most = MAX_ASPECT_RATIO * min(clip_TCHW.shape[2:])
        cut = max(0, length - most) // 2
        clip_TCHW = clip_TCHW.narrow(dimension, cut, length - 2 * cut)
    return clip_TCHW


def random_crop(
    height: int,
    width: int,
    scale: Sequence[float],
    generator: torch.Generator | None = None,
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop of a picture of `height` x `width` pixels.

    Its share of the area is drawn between scale[0] and scale[1], its aspect ratio between 3/4 and 4/3, as torchvision's
    RandomResizedCrop draws them: ten tries, then the largest centred crop of an allowed aspect ratio.
    """
    log_min, log_max = (math.log(ratio) for ratio in ASPECT_RATIOS)
    draws = torch.rand(CROP_TRIES, 4, generator=generator, dtype=torch.float64).tolist()
    for area_draw, aspect_draw, top_draw, left_draw in draws:
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draw)
        aspect_ratio = math.exp(log_min + (log_max - log_min) * aspect_draw)
        crop_width = round(math.sqrt(area * aspect_ratio))
        crop_height = round(math.sqrt(area / aspect_ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(top_draw * (height - crop_height + 1))
            left = int(left_draw * (width - crop_width + 1))
            return top, left, crop_height, crop_width

    crop_height = min(height, round(width / ASPECT_RATIOS[0]))
    crop_width = min(width, round(height * ASPECT_RATIOS[1]))
    return (
        (height - crop_height) // 2,
        (width - crop_width) // 2,
        crop_height,
        crop_width,
    )


def normalise(
    clip_TCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """uint8 -> float32, (x / 255 - mean) / std per channel."""
    scale_C11, shift_C11 = _scale_and_shift(tuple(mean), tuple(std))
    clip_TCHW = clip_TCHW.contiguous().to(torch.float32)
    return clip_TCHW.mul_(scale_C11).add_(shift_C11)


@lru_cache
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (C, 1, 1) each: factor and summand that normalise a pixel from 0 to 255."""
    scale_C = torch.tensor([1 / (255 * channel_std) for channel_std in std])
    shift_C = torch.tensor(
        [-channel_mean / channel_std for channel_mean, channel_std in zip(mean, std)]
    )
    return scale_C.view(-1, 1, 1), shift_C.view(-1, 1, 1)


def _resize(clip_TCHW: torch.Tensor, size: list[int]) -> torch.Tensor:
    # the kernel that F.resize looks up for a tensor
    return F.resize_image(
        clip_TCHW, size, interpolation=F.InterpolationMode.BILINEAR, antialias=True
    )
