"""Colour and blur of a batch of views, each sample with its own parameters.

Everything but a mean and the blur is pixel by pixel and written so that a compiler makes few passes over memory of it. All
operations are those of `torchvision.transforms.functional` on float tensors, which the tests compare one by one.
"""

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_UNBLURRED = 1e-3  # pixels; so narrow a Gaussian is the identity in float32

Planes = tuple[Tensor, ...]
"""Red, green and blue of a batch of views, each (B, S, S), in 0..1."""


def luma(planes: Planes) -> Tensor:
    """Return the luma of ITU-R BT.601. Shape: (B, S, S)."""
    red, green, blue = planes
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def brighten_or_saturate(planes: Planes, kind: Tensor, factor: Tensor) -> Planes:
    """Change saturation where `kind` says so and else brightness; a factor of 1 changes nothing.

    Both blend the view with a reference: its own gray image, or black. Shape: kind, factor (B,).
    """
    factor, saturates = factor.view(-1, 1, 1), (kind == SATURATION).view(-1, 1, 1)
    reference = luma(planes) * torch.where(saturates, 1 - factor, 0)
    return tuple(torch.addcmul(reference, plane, factor).clamp_(0, 1) for plane in planes)


def change_contrast(planes: Planes, factor: Tensor) -> Planes:
    """Blend each view with its mean gray. Shape: factor (B,)."""
    factor = factor.view(-1, 1, 1)
    reference = luma(planes).mean((1, 2), keepdim=True) * (1 - factor)
    return tuple(torch.addcmul(reference, plane, factor).clamp_(0, 1) for plane in planes)


def shift_hue(planes: Planes, shift: Tensor) -> Planes:
    """Turn the hue by `shift` turns, -0.5 to 0.5, at the same saturation and value (HSV). Shape: shift (B,)."""
    red, green, blue = planes
    high, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    divisor = torch.where(chroma == 0, 1, chroma)
    # The hue in sixths of a turn, from red.
    blue_or_green = torch.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(high == red, (green - blue) / divisor, blue_or_green) + 6 * shift.view(-1, 1, 1)
    away = [(hue - primary).abs() for primary in (0, 2, 4)]
    return tuple(low + chroma * (2 - torch.minimum(x, (6 - x).abs())).clamp(0, 1) for x in away)


def jitter(planes: Planes, order: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Planes:
    """Apply the four colour operations to each sample in its own order.

    Only contrast needs a sum over the view. So every sample goes through all that may come before its contrast, through it, and
    through all that may come after; what is not its turn changes it by a factor of 1 or a shift of 0. Compiled, that is two passes.

    Shape: order (B, 4), a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE; the others (B,).
    """
    factors = torch.stack([brightness, contrast, saturation, hue], dim=1).gather(1, order)  # (B, 4): in order of use
    contrast_at, hue_at = ((order == kind).to(torch.int64).argmax(1, keepdim=True) for kind in (CONTRAST, HUE))
    stage = torch.arange(4, device=order.device)

    def tones(planes: Planes, first: int, used: Tensor) -> Planes:
        for i in (first, first + 1):
            planes = brighten_or_saturate(planes, order[:, i], torch.where(used[:, i], factors[:, i], 1))
        return planes

    planes = tones(planes, 0, (stage < contrast_at) & (stage < hue_at))
    planes = shift_hue(planes, torch.where(hue_at[:, 0] < contrast_at[:, 0], hue, 0))
    planes = tones(planes, 1, (stage < contrast_at) & (stage > hue_at))
    planes = change_contrast(planes, contrast)
    planes = tones(planes, 1, (stage > contrast_at) & (stage < hue_at))
    planes = shift_hue(planes, torch.where(hue_at[:, 0] > contrast_at[:, 0], hue, 0))
    return tones(planes, 2, (stage > contrast_at) & (stage > hue_at))


def gaussian_kernel(sigma: Tensor, radius: int) -> Tensor:
    """Return Gaussians cut off at `radius` pixels, each of sum 1. Shape: (B,) -> (B, 2 radius + 1)."""
    offset = torch.arange(-radius, radius + 1, device=sigma.device, dtype=sigma.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp(min=_UNBLURRED)[:, None]) ** 2)
    return kernel / kernel.sum(1, keepdim=True)


def blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur by a Gaussian of `sigma` pixels, cut off at `radius`; sigma 0 changes nothing.

    Outside the view its border pixels are repeated, as Pillow's GaussianBlur does (torchvision's mirrors them).

    Shape: x (B, 3, S, S); sigma (B,) -> (B, 3, S, S).
    """
    kernel, pixel = gaussian_kernel(sigma, radius)[:, :, None, None, None], torch.arange(x.shape[-1], device=x.device)
    for dim in (2, 3):
        # A sum of shifted views, which a compiler makes one pass; a convolution would need a padded copy first.
        blurred = x * kernel[:, radius]
        for i in (i for i in range(2 * radius + 1) if i != radius):
            blurred.addcmul_(x.index_select(dim, (pixel + i - radius).clamp(0, x.shape[dim] - 1)), kernel[:, i])
        x = blurred
    return x
