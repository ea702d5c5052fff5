"""Other ways to make the same views, written so that a compiler can fuse them into fewer passes over memory; tried by `gpu.py`.

Compiled, they move less; eager, they move more, which is why the package does not have them before they are measured.
"""

import torch
from torch import Tensor

from satmip_train.colour import CONTRAST, HUE, SATURATION, gaussian_kernel

Planes = tuple[Tensor, ...]
"""Red, green and blue, each (B, S, S)."""


def jitter(x: Tensor, order: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Return what `colour.jitter` does in two passes: what comes before a sample's contrast with its mean, and what comes after.

    Only contrast needs a sum over the view, and each sample has it once; everything else is pixel by pixel.
    Shape: as `colour.jitter`.
    """
    factors = torch.stack([brightness, torch.ones_like(hue), saturation, torch.ones_like(hue)], dim=1).gather(1, order)
    mean_at, hue_at = ((order == kind).to(torch.int64).argmax(1) for kind in (CONTRAST, HUE))
    planes = tuple(x.unbind(2))
    for stage in (0, 1):
        planes = _tone(planes, torch.where((stage < mean_at) & (stage < hue_at), factors[:, stage], 1), order[:, stage])
    planes = _shift_hue(planes, torch.where(hue_at < mean_at, hue, 0))
    for stage in (1, 2):
        planes = _tone(planes, torch.where((stage < mean_at) & (stage > hue_at), factors[:, stage], 1), order[:, stage])
    factor = contrast.view(-1, 1, 1)
    offset = _luma(planes).mean((1, 2), keepdim=True) * (1 - factor)
    planes = tuple((plane * factor + offset).clamp(0, 1) for plane in planes)
    for stage in (1, 2):
        planes = _tone(planes, torch.where((stage > mean_at) & (stage < hue_at), factors[:, stage], 1), order[:, stage])
    planes = _shift_hue(planes, torch.where(hue_at > mean_at, hue, 0))
    for stage in (2, 3):
        planes = _tone(planes, torch.where((stage > mean_at) & (stage > hue_at), factors[:, stage], 1), order[:, stage])
    return torch.stack(planes, 2)


def _luma(planes: Planes) -> Tensor:
    return planes[0] * 0.2989 + planes[1] * 0.587 + planes[2] * 0.114


def _tone(planes: Planes, factor: Tensor, kind: Tensor) -> Planes:
    """Change brightness or saturation."""
    factor, saturates = factor.view(-1, 1, 1), (kind == SATURATION).view(-1, 1, 1)
    gray = _luma(planes) * torch.where(saturates, 1 - factor, 0)
    return tuple((plane * factor + gray).clamp(0, 1) for plane in planes)


def _shift_hue(planes: Planes, shift: Tensor) -> Planes:
    red, green, blue = planes
    high, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    divisor = torch.where(chroma == 0, 1, chroma)
    blue_or_green = torch.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(high == red, (green - blue) / divisor, blue_or_green) + 6 * shift.view(-1, 1, 1)
    away = [(hue - primary).abs() for primary in (0, 2, 4)]
    return tuple(low + chroma * (2 - torch.minimum(x, (6 - x).abs())).clamp(0, 1) for x in away)


def blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Return what `colour.blur` does as sums of shifted views. Shape: as `colour.blur`."""
    kernel, pixel = gaussian_kernel(sigma, radius), torch.arange(x.shape[1], device=x.device)
    for dim in (1, 3):
        taps = (x.index_select(dim, (pixel + offset).clamp(0, x.shape[1] - 1)) for offset in range(-radius, radius + 1))
        weighed = [tap * kernel[:, i].view(-1, 1, 1, 1) for i, tap in enumerate(taps)]
        x = sum(weighed[1:], weighed[0])
    return x
