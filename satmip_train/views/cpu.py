"""Random views on a CPU, one at a time: a view stays in the core's cache, and a step that was not drawn costs nothing.

The numbers are those of `augment.batched`, which a GPU runs, to a few millionths of the range: the tests compare the two.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from satmip_train.views import colour

_NEGLIGIBLE = 1e-8
"""Weight of a Gaussian's tail, relative to its peak, that float32 does not show."""
_LUMA = (0.2989, 0.587, 0.114)

Box = Sequence[int]
"""Top, left, height, width in pixels."""


def crop_resize(image: Tensor, box: Box, hflip: bool, vflip: bool, turned: bool, size: int) -> Tensor:
    """Crop, flip, transpose where `turned`, and resize with antialiasing.

    The filter is symmetric and separable, so flips and transposition may come first, on bytes.
    Shape: uint8 (3, H, W) -> float32 (3, size, size) in 0..1.
    """
    top, left, height, width = box
    crop = image[:, top : top + height, left : left + width]
    if flips := [axis for axis, flip in ((1, vflip), (2, hflip)) if flip]:
        crop = crop.flip(flips)
    if turned:
        crop = crop.mT
    pixels = crop.to(torch.float32, memory_format=torch.contiguous_format)[None]
    if (height, width) != (size, size):
        # Without shrinking the antialiased filter is the plain one, which torch does faster.
        shrinks = max(height, width) > size
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=shrinks, align_corners=False)
    return pixels[0].mul_(1 / 255).clamp_(0, 1)


def luma(x: Tensor) -> Tensor:
    """Return the luma of ITU-R BT.601. Shape: (3, S, S) -> (S, S)."""
    return (x[0] * _LUMA[0]).add_(x[1], alpha=_LUMA[1]).add_(x[2], alpha=_LUMA[2])


def blend(x: Tensor, kind: int, factor: float) -> Tensor:
    """Change brightness, contrast or saturation in place, see `colour.blend`. Shape: (3, S, S) -> (3, S, S)."""
    if kind == colour.BRIGHTNESS:
        return x.mul_(factor).clamp_(0, 1)
    gray = luma(x).mul_(1 - factor)
    return x.mul_(factor).add_(gray.mean() if kind == colour.CONTRAST else gray).clamp_(0, 1)


def shift_hue(x: Tensor, shift: float) -> Tensor:
    """Turn the hue by `shift` turns, -0.5 to 0.5, see `colour.shift_hue`; here the hue is in units of chroma / 6 turns.

    So scaled it needs no division, and gray needs no exception. Shape: (3, S, S) -> (3, S, S).
    """
    red, green, blue = x
    high, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    # Where on floats is slow on a CPU; masks of 0 and 1 do the same.
    is_green, is_red = (high == green).to(x.dtype), (high == red).to(x.dtype)
    hue = (red - green).add_(chroma, alpha=4)
    hue.addcmul_(is_green, (blue - red).add_(chroma, alpha=2).sub_(hue))
    hue.addcmul_(is_red, (green - blue).sub_(hue)).add_(chroma, alpha=6 * shift)
    out = torch.empty_like(x)
    for channel in range(3):
        away = torch.sub(hue, chroma, alpha=2 * channel).abs_()
        around = torch.sub(away, chroma, alpha=6).abs_()
        away = torch.minimum(away, around, out=away).neg_().add_(chroma, alpha=2).clamp_(min=0)
        torch.add(torch.minimum(away, chroma, out=away), low, out=out[channel])
    return out


def jitter(x: Tensor, order: Sequence[int], factors: Sequence[float], hue: float) -> Tensor:
    """Apply the four colour operations in an order; `factors` are those of brightness, contrast, saturation.

    Shape: (3, S, S) -> (3, S, S).
    """
    for kind in order:
        x = shift_hue(x, hue) if kind == colour.HUE else blend(x, kind, factors[kind])
    return x


def blur(x: Tensor, sigma: float, radius: int) -> Tensor:
    """Blur with a Gaussian of `sigma` pixels, cut off at `radius`, see `colour.blur`. Shape: (3, S, S) -> (3, S, S)."""
    # Farther taps would add nothing that float32 can hold.
    reach = min(radius, math.floor(sigma * math.sqrt(-2 * math.log(_NEGLIGIBLE))))
    if reach < 1:
        return x
    taps = colour.gaussian_kernel(torch.tensor([sigma], dtype=torch.float64), reach)[0].tolist()
    size = x.shape[1]
    padded = F.pad(x[None], [reach] * 4, mode="replicate")[0]
    rows = padded[:, :size] * taps[0]
    for i in range(1, len(taps)):
        rows.add_(padded[:, i : i + size], alpha=taps[i])
    out: Tensor = rows[:, :, :size] * taps[0]
    for i in range(1, len(taps)):
        out.add_(rows[:, :, i : i + size], alpha=taps[i])
    return out
