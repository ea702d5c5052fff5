"""Random views of chips, batched, on the device of the images, with no host synchronisation."""

from dataclasses import fields
from math import ceil
from typing import Any

import torch
from torch import Tensor

from satmip_train.policies import Policy
from satmip_train.views import colour, cpu
from satmip_train.views.draws import Params
from satmip_train.views.resize import crop_resize


def apply(images: Tensor, params: Params, policy: Policy, mean: Tensor, std: Tensor) -> Tensor:
    """Return one view of each image: crop and resize, jitter, gray, blur, flips, rotation, normalisation, in this order.

    Colour and blur commute with flips and rotations: therefore these are folded into the resize. Values stay float32; nothing is
    rounded to levels between the steps, as Pillow would.

    Shape: images uint8 (B, 3, H, W); params of B views on the same device; mean, std float32 (3,) on the same device, for values in
    0..1 -> float32 (B, 3, S, S).
    """
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        views = batched(images, params, policy) if images.device.type != "cpu" else one_by_one(images, params, policy)
        return views.sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))


def one_by_one(images: Tensor, params: Params, policy: Policy) -> Tensor:
    """Return the views before normalisation, as a CPU makes them fastest. Shape: (B, 3, H, W) -> (B, 3, S, S) in 0..1."""
    drawn = {field.name: getattr(params, field.name).tolist() for field in fields(params)}
    out = torch.empty(len(images), 3, policy.view_size, policy.view_size)
    for i, image in enumerate(images):
        out[i] = _one(image, {name: values[i] for name, values in drawn.items()}, policy)
    return out


def _one(image: Tensor, drawn: dict[str, Any], policy: Policy) -> Tensor:
    # A quarter turn counter-clockwise is a horizontal flip, then a transposition; three are a vertical flip, then one.
    hflip, vflip = drawn["hflip"] ^ (drawn["rot90"] in (1, 2)), drawn["vflip"] ^ (drawn["rot90"] in (2, 3))
    x = cpu.crop_resize(image, drawn["box"], hflip, vflip, drawn["rot90"] % 2 == 1, policy.view_size)
    if drawn["jitter"]:
        factors = drawn["brightness"], drawn["contrast"], drawn["saturation"]
        x = cpu.jitter(x, drawn["order"], factors, drawn["hue"])
    if drawn["gray"]:
        x = cpu.luma(x).expand(3, -1, -1).contiguous()
    return cpu.blur(x, drawn["sigma"], ceil(3 * policy.sigma[1])) if drawn["blur"] else x


def batched(images: Tensor, params: Params, policy: Policy) -> Tensor:
    """Return the views before normalisation, as a GPU makes them: at fixed shapes, all at once, without a word to the host.

    Shape: (B, 3, H, W) -> (B, 3, S, S) in 0..1.
    """
    planes: colour.Planes = crop_resize(images, params, policy.view_size).unbind(1)
    if policy.jitter_p > 0:
        brightness, contrast, saturation = (
            torch.where(params.jitter, f, 1) for f in (params.brightness, params.contrast, params.saturation)
        )
        hue = torch.where(params.jitter, params.hue, 0)
        planes = colour.jitter(planes, params.order, brightness, contrast, saturation, hue)
    if policy.gray_p > 0:
        gray = colour.luma(planes)
        planes = tuple(torch.where(params.gray.view(-1, 1, 1), gray, plane) for plane in planes)
    x = torch.stack(planes, 1)
    if policy.blur_p > 0:
        x = colour.blur(x, torch.where(params.blur, params.sigma, 0), ceil(3 * policy.sigma[1]))
    return x
