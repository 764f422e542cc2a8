"""uint8 frames -> what the model sees. Pictures stay uint8 until the last step; one draw a clip, not a frame.

T frames, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torchvision.transforms.v2 import functional as F

Transform = Callable[[torch.Tensor, torch.Generator | None], torch.Tensor]
RATIO = (3 / 4, 4 / 3)  # of width to height of a training crop


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

    Train (the family's): a crop of random area and aspect brought to input_res, mirrored half of the time, the same for
    all frames of the clip. Test (the family's): short side to center_crop (256 for 224), its centre, then input_res.
    """
    if train:
        return partial(
            _train, size=input_res, scale=randcrop_scale, hflip=hflip, mean=norm_mean, std=norm_std
        )
    centre = center_crop or round(input_res * 256 / 224)
    return partial(_test, size=input_res, centre=centre, mean=norm_mean, std=norm_std)


def _train(
    clip_TCHW: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    size: int,
    scale: Sequence[float],
    hflip: bool,
    mean: Sequence[float],
    std: Sequence[float],
) -> torch.Tensor:
    top, left, height, width = random_crop(*clip_TCHW.shape[-2:], scale, generator)
    mirror = hflip and bool(torch.rand((), generator=generator) < 0.5)
    clip_TCHW = _resize(clip_TCHW[..., top : top + height, left : left + width], [size, size])
    return normalise(clip_TCHW.flip(-1) if mirror else clip_TCHW, mean, std)


def _test(
    clip_TCHW: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    size: int,
    centre: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> torch.Tensor:
    clip_TCHW = F.center_crop(_resize(clip_TCHW, [centre]), [centre, centre])
    return normalise(_resize(clip_TCHW, [size, size]), mean, std)


def random_crop(
    height: int, width: int, scale: Sequence[float], generator: torch.Generator | None = None
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop that covers a share `scale` of the area, drawn as torchvision's
    RandomResizedCrop draws it: ten tries, then the largest centred one of an allowed aspect."""
    draws_43 = torch.rand(10, 4, generator=generator, dtype=torch.float64).tolist()
    for area, aspect, down, right in draws_43:
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = math.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * aspect)
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            return int(down * (height - high + 1)), int(right * (width - wide + 1)), high, wide
    high = min(height, round(width / RATIO[0]))
    wide = min(width, round(height * RATIO[1]))
    return (height - high) // 2, (width - wide) // 2, high, wide


def normalise(clip_TCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 -> float32, (x / 255 - mean) / std for each channel, in two passes over the memory."""
    scale = torch.tensor([1 / (255 * deviation) for deviation in std]).view(-1, 1, 1)
    shift = torch.tensor([-middle / deviation for middle, deviation in zip(mean, std)]).view(
        -1, 1, 1
    )
    return clip_TCHW.contiguous().to(torch.float32).mul_(scale).add_(shift)


def _resize(clip_TCHW: torch.Tensor, size: list[int]) -> torch.Tensor:
    return F.resize(clip_TCHW, size, interpolation=F.InterpolationMode.BILINEAR, antialias=True)
