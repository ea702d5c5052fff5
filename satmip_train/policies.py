"""Augmentation policies by name (supplement B). Needs no torch, so that settings know them at once."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from satmip_data.names import did_you_mean


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


def simclr_sat(view_size: int, jitter: float) -> Policy:
    """The paper's policy (supplement B): SimCLR's, with vertical flips and rotations by right angles.

    The strengths of jitter and blur are not printed in the paper; they are those of SLIP, whose code the authors used.
    NOTE[DIFF] The paper's sigma, 0.1 to 2, is for views of 224 pixels. Other views get the same blur relative to their side.
    """
    return replace(moco_v2(view_size, jitter), vflip_p=0.5, rot90_p=0.75)


def moco_v2(view_size: int, jitter: float) -> Policy:
    """MoCo-v2's policy."""
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
    )


def crop(view_size: int, jitter: float) -> Policy:
    """The crop alone, which table 6 compares with `simclr_sat`; `jitter` has no effect."""
    return Policy(view_size, scale=(0.5, 1.0))


def north_up(view_size: int, jitter: float) -> Policy:
    """MoCo-v2's policy for images with north at the top, whose shadows and sizes of things are to be read: larger crops, no turns.

    NOTE[DIFF] The paper's policy turns views, so that the side on which shadows fall, which tells the hemisphere, is lost; and
    crops of a fifth of the area hide the GSD.
    """
    return replace(moco_v2(view_size, jitter), scale=(0.5, 1.0), gray_p=0.0)


POLICIES: dict[str, Callable[[int, float], Policy]] = {
    "simclr-sat": simclr_sat,
    "crop": crop,
    "moco-v2": moco_v2,
    "north-up": north_up,
}
"""Policies by name, each from the side of a view in pixels and the strength of the jitter. One of your own is one more entry."""


def policy(name: str, view_size: int, jitter: float = 1.0) -> Policy:
    """Return a policy by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in POLICIES:
        raise ValueError(f'Unknown policy "{name}".{did_you_mean(name, POLICIES)} Policies: {", ".join(POLICIES)}.')
    return POLICIES[name](view_size, jitter)
