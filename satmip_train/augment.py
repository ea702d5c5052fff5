"""Random views of chips, batched, on the device of the images. What to do is drawn on the CPU, then done without a host sync.

The policy is the paper's SimCLR-Sat (section 4.2, supplement B): SimCLR's with vertical flips and rotations by right angles.
"""

from dataclasses import dataclass, fields
from math import ceil, log
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from satmip_train import augment_cpu, colour
from satmip_train.transfer import to_device


@dataclass(frozen=True)
class Policy:
    """Every probability and strength of the random views; ranges are (lowest, highest) of a uniform draw."""

    view_size: int
    """Side of a view in pixels."""
    scale: tuple[float, float]
    """Area of the crop as a part of the image's."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width of the crop over its height, uniform in the logarithm."""
    jitter_p: float = 0.0
    brightness: float = 0.0
    """Strength a: the factor is uniform in 1 - a to 1 + a; so for contrast and saturation."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Strength a: the shift is uniform in -a to a turns of the colour circle."""
    gray_p: float = 0.0
    blur_p: float = 0.0
    sigma: tuple[float, float] = (0.0, 0.0)
    """Standard deviation of the Gaussian blur in pixels of the view."""
    hflip_p: float = 0.0
    vflip_p: float = 0.0
    rot90_p: float = 0.0
    """Probability of a rotation, by 90, 180 or 270 degrees alike."""


@dataclass(frozen=True)
class Params:
    """What was drawn for n views: tensors, n first. `params[a:b]` are the draws of views a to b - 1.

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


def policy(name: Literal["simclr-sat", "crop", "moco-v2"], view_size: int, jitter: float = 1.0) -> Policy:
    """Return a policy of the paper (supplement B; table 6 compares its two), or MoCo-v2's, for views of `view_size` pixels.

    The strengths of jitter and blur are not printed in the paper; they are those of SLIP, whose code the authors used. `jitter`
    multiplies those of the jitter, hue up to 0.5.

    Raises:
        ValueError: there is no such policy.
    """
    if name == "crop":
        return Policy(view_size, scale=(0.5, 1.0))
    if name not in ("simclr-sat", "moco-v2"):
        raise ValueError(f"a policy must be simclr-sat, moco-v2 or crop, however: {name=}")
    # NOTE[DIFF] The paper's sigma, 0.1 to 2, is for views of 224 pixels. Other views get the same blur relative to their side.
    pixel = view_size / 224
    return Policy(
        view_size,
        scale=(0.2, 1.0),
        jitter_p=0.8,
        brightness=0.4 * jitter,
        contrast=0.4 * jitter,
        saturation=0.4 * jitter,
        hue=0.1 * jitter,
        gray_p=0.2,
        blur_p=0.5,
        sigma=(0.1 * pixel, 2.0 * pixel),
        hflip_p=0.5,
        vflip_p=0.5 if name == "simclr-sat" else 0.0,
        rot90_p=0.75 if name == "simclr-sat" else 0.0,
    )


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
    x = augment_cpu.crop_resize(image, drawn["box"], hflip, vflip, drawn["rot90"] % 2 == 1, policy.view_size)
    if drawn["jitter"]:
        factors = drawn["brightness"], drawn["contrast"], drawn["saturation"]
        x = augment_cpu.jitter(x, drawn["order"], factors, drawn["hue"])
    if drawn["gray"]:
        x = augment_cpu.luma(x).expand(3, -1, -1).contiguous()
    return augment_cpu.blur(x, drawn["sigma"], ceil(3 * policy.sigma[1])) if drawn["blur"] else x


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
