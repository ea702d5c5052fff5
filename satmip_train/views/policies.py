"""Augmentation policies (supplement B)."""

from dataclasses import dataclass
from typing import Literal


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
