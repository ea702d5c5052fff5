"""Colour and blur of a batch of views, each sample with its own parameters.

Here a batch of views has the layout (B, S, 3, S): rows, channels, columns, float32 in 0..1. In it the vertical and the horizontal
pass of a separable filter are both plain batched products or convolutions over views of the same memory. All operations are those
of `torchvision.transforms.functional` on float tensors, which the tests compare one by one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_UNBLURRED = 1e-3  # pixels; so narrow a Gaussian is the identity in float32


def grayscale(x: Tensor) -> Tensor:
    """Return the luma of ITU-R BT.601. Shape: (B, S, 3, S) -> (B, S, 1, S)."""
    red, green, blue = x.chunk(3, dim=2)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def blend(x: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Change brightness, contrast or saturation, whichever `kind` says for a sample; a factor of 1 changes nothing.

    All three blend the view with a reference: black, its mean gray, or its own gray image.
    Shape: x (B, S, 3, S); kind, factor (B,) -> (B, S, 3, S).
    """
    gray = grayscale(x)
    factor, kind = factor.view(-1, 1, 1, 1), kind.view(-1, 1, 1, 1)
    to_gray = torch.where(kind == SATURATION, 1 - factor, 0)
    to_mean = torch.where(kind == CONTRAST, 1 - factor, 0) * gray.mean((1, 2, 3), keepdim=True)
    return torch.addcmul(gray.mul_(to_gray).add_(to_mean), x, factor).clamp_(0, 1)


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` turns, -0.5 to 0.5, at the same saturation and value (HSV).

    Shape: x (B, S, 3, S); shift (B,) -> (B, S, 3, S).
    """
    red, green, blue = x.chunk(3, dim=2)
    high, low = x.amax(2, keepdim=True), x.amin(2, keepdim=True)
    chroma = high - low
    divisor = torch.where(chroma == 0, 1, chroma)
    # The hue in sixths of a turn, from red.
    hue = torch.where(
        high == red, (green - blue) / divisor, torch.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    )
    hue = hue + 6 * shift.view(-1, 1, 1, 1)
    primaries = torch.arange(0, 6, 2, device=x.device, dtype=x.dtype).view(3, 1)
    away = (hue - primaries).abs_()  # (B, S, 3, S): distance to each primary around the circle
    away = torch.minimum(away, (6 - away).abs_())
    return torch.addcmul(low, chroma, (2 - away).clamp_(0, 1))


def jitter(x: Tensor, order: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Apply the four colour operations to each sample in its own order.

    Every sample goes through at most three blends, its hue, and at most three blends; a place it does not use blends by 1. So each
    operation runs on the whole batch at fixed shapes and the costly hue runs only once.

    Shape: x (B, S, 3, S); order (B, 4), a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE; the others (B,) -> (B, S, 3, S).
    """
    factors = torch.stack([brightness, contrast, saturation, torch.ones_like(hue)], dim=1).gather(
        1, order
    )  # (B, 4): in order of use
    hue_at = (order == HUE).to(torch.int64).argmax(1)
    for stage in range(3):
        x = blend(x, order[:, stage], torch.where(hue_at > stage, factors[:, stage], 1))
    x = shift_hue(x, hue)
    for stage in range(1, 4):
        x = blend(x, order[:, stage], torch.where(hue_at < stage, factors[:, stage], 1))
    return x


def gaussian_kernel(sigma: Tensor, radius: int) -> Tensor:
    """Return Gaussians cut off at `radius` pixels, each of sum 1. Shape: (B,) -> (B, 2 radius + 1)."""
    offset = torch.arange(-radius, radius + 1, device=sigma.device, dtype=sigma.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp(min=_UNBLURRED)[:, None]) ** 2)
    return kernel / kernel.sum(1, keepdim=True)


def blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur by a Gaussian of `sigma` pixels, cut off at `radius`; sigma 0 changes nothing.

    Outside the view its border pixels are repeated, as Pillow's GaussianBlur does (torchvision's mirrors them).

    Shape: x (B, S, 3, S); sigma (B,) -> (B, S, 3, S).
    """
    batch, size = x.shape[:2]
    kernel = gaussian_kernel(sigma, radius)
    rows = F.pad(x.reshape(1, batch, size, 3 * size), (0, 0, radius, radius), mode="replicate")
    x = F.conv2d(rows, kernel.view(batch, 1, -1, 1), groups=batch)  # (1, B, S, 3 S): a depthwise filter, a sample a channel
    columns = F.pad(x.view(1, batch, 3 * size, size), (radius, radius, 0, 0), mode="replicate")
    return F.conv2d(columns, kernel.view(batch, 1, 1, -1), groups=batch).view(batch, size, 3, size)
