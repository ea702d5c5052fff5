"""The random numbers of views, drawn on the CPU."""

from dataclasses import dataclass, fields
from math import log

import torch
from torch import Tensor

from satmip_train.data.transfer import to_device
from satmip_train.policies import Policy


@dataclass(frozen=True)
class Params:
    """Random parameters of n views: tensors, n first. `params[a:b]` are those of views a to b - 1.

    Shape: box (n, 4), int64: top, left, height, width of the crop in pixels; order (n, 4), int64: a permutation of
    `colour.BRIGHTNESS`, `CONTRAST`, `SATURATION`, `HUE`; rot90 (n,), int64: quarter turns counter-clockwise; the others (n,), bool
    or float32.
    Where `jitter` or `blur` is false the values that go with it are drawn but not used.
    """

    box: Tensor
    jitter: Tensor
    order: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    gray: Tensor
    blur: Tensor
    sigma: Tensor
    hflip: Tensor
    vflip: Tensor
    rot90: Tensor

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.box)

    def __getitem__(self, views: slice) -> "Params":
        """Return the draws of a slice of the views."""
        return Params(**{field.name: getattr(self, field.name)[views] for field in fields(self)})

    def to(self, device: torch.device | str) -> "Params":
        """Return the same draws on another device, see `transfer.to_device`."""
        target = torch.device(device)
        return Params(**{field.name: to_device(getattr(self, field.name), target) for field in fields(self)})


def draw(policy: Policy, n: int, generator: torch.Generator, size: tuple[int, int]) -> Params:
    """Draw the parameters of n views of images of `size` (height, width) from a CPU generator."""

    def chance(probability: float) -> Tensor:
        return torch.rand(n, generator=generator) < probability

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    def factor(strength: float) -> Tensor:
        return uniform(max(0.0, 1 - strength), 1 + strength)

    return Params(
        box=draw_boxes(policy, n, generator, size),
        jitter=chance(policy.jitter_p),
        order=torch.rand(n, 4, generator=generator).argsort(1),
        brightness=factor(policy.brightness),
        contrast=factor(policy.contrast),
        saturation=factor(policy.saturation),
        hue=uniform(-policy.hue, policy.hue),
        gray=chance(policy.gray_p),
        blur=chance(policy.blur_p),
        sigma=uniform(*policy.sigma),
        hflip=chance(policy.hflip_p),
        vflip=chance(policy.vflip_p),
        rot90=torch.where(chance(policy.rot90_p), torch.randint(1, 4, (n,), generator=generator), 0),
    )


def draw_boxes(policy: Policy, n: int, generator: torch.Generator, size: tuple[int, int], tries: int = 10) -> Tensor:
    """Draw crops by the law of torchvision's RandomResizedCrop: the first of ten tries that fits, else the central fallback.

    Shape: (n, 4), int64: top, left, height, width.
    """
    height, width = size
    unit = torch.rand(4, n, tries, generator=generator, dtype=torch.float64)
    area = height * width * (policy.scale[0] + unit[0] * (policy.scale[1] - policy.scale[0]))
    ratio = torch.exp(log(policy.ratio[0]) + unit[1] * (log(policy.ratio[1]) - log(policy.ratio[0])))
    wide, high = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    top, left = (unit[2] * (height - high + 1)).floor(), (unit[3] * (width - wide + 1)).floor()
    boxes = torch.stack([top, left, high, wide], dim=2)  # (n, tries, 4)
    first = fits.to(torch.int64).argmax(1)
    chosen = boxes[torch.arange(n), first].to(torch.int64)
    return torch.where(fits.any(1)[:, None], chosen, torch.tensor(_central_box(policy, size)))


def _central_box(policy: Policy, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest central box whose ratio is allowed."""
    height, width = size
    high, wide = height, width
    if width / height < policy.ratio[0]:
        high = round(width / policy.ratio[0])
    elif width / height > policy.ratio[1]:
        wide = round(height * policy.ratio[1])
    return (height - high) // 2, (width - wide) // 2, high, wide
