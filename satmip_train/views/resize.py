"""Crops resized with antialiasing, as matrix products."""

import torch
from torch import Tensor
from torch.nn import functional as F

from satmip_train.views.draws import Params


def resize_weights(start: Tensor, length: Tensor, flip: Tensor, source: int, target: int) -> Tensor:
    """Return the matrices that resize pixels `start` to `start + length` of a line of `source` pixels to `target` pixels.

    The filter is Pillow's antialiased bilinear one: a triangle whose half-width is the larger of one source and one target pixel,
    cut off at the crop and normalised. Where `flip` is true, the order of the target pixels is reversed.
    Shape: start, length, flip (B,) -> (B, target, source), float32.
    """
    start, length, flip = start[:, None, None], length[:, None, None], flip[:, None, None]
    ahead = torch.arange(target, device=start.device, dtype=torch.float32).view(1, target, 1)
    index = torch.where(flip, target - 1 - ahead, ahead)
    scale = length / target
    pixel = torch.arange(source, device=start.device, dtype=torch.float32) + 0.5
    distance = (pixel - (start + (index + 0.5) * scale)).abs_()  # (B, target, source)
    weight = (1 - distance.div_(scale.clamp(min=1))).clamp_(min=0)
    weight.mul_((pixel > start) & (pixel < start + length))
    return weight.div_(weight.sum(2, keepdim=True))


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resize lines by one matrix and columns by another, a matrix product each.

    Where float32 products run in TF32, a pixel is exact to about 1/8 of a level of 255.
    Shape: images uint8 (B, 3, H, W); rows (B, S, H), columns (B, S, W) -> (B, 3, S, S) in 0..1, in memory by rows, then channels.
    """
    batch, _, height, width = images.shape
    size = rows.shape[1]
    # Chips come with their channels last in memory; this is one copy for them too.
    x = images.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format).view(batch, height, 3 * width)
    x = torch.bmm(rows, x).view(batch, size * 3, width)  # (B, S, 3 W) seen as (B, 3 S, W)
    return torch.bmm(x, columns.mT).view(batch, size, 3, size).mul_(1 / 255).clamp_(0, 1).permute(0, 2, 1, 3)


def crop_resize(images: Tensor, params: Params, size: int) -> Tensor:
    """Crop, resize with antialiasing, flip and rotate.

    A quarter turn counter-clockwise is a horizontal flip, then a transposition; three are a vertical flip, then one. Images are
    transposed while they are bytes, and flips are folded into the weights.
    Shape: images uint8 (B, 3, H, W) -> (B, 3, size, size) in 0..1, see `resample`.
    """
    height, width = images.shape[2:]
    if height != width:
        side = max(height, width)
        images = F.pad(images, (0, side - width, 0, side - height))
    turned, (top, left, high, wide) = params.rot90 % 2 == 1, params.box.unbind(1)
    vflip = params.vflip ^ (params.rot90 >= 2)
    hflip = params.hflip ^ ((params.rot90 == 1) | (params.rot90 == 2))

    def weights(swapped: Tensor) -> Tensor:
        start, length, flip = (torch.where(swapped, b, a) for a, b in ((top, left), (high, wide), (vflip, hflip)))
        return resize_weights(start, length, flip, images.shape[2], size)

    return resample(torch.where(turned.view(-1, 1, 1, 1), images.mT, images), weights(turned), weights(~turned))
