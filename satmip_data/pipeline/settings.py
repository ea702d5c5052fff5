"""Settings of a build, on which its bytes depend besides the source. Saved in `dataset.json`; a resumed build needs the same."""

import math
from dataclasses import asdict, dataclass
from typing import Any, get_args

from satmip_data.geometry import Context, Fit, FmowContext, GsdMode
from satmip_data.metadata.captions import STYLES
from satmip_data.metadata.fields import BY_NAME, DEFAULT_FIELDS
from satmip_data.names import unknown_name


def _at_least(name: str, value: int, smallest: int) -> None:
    if value < smallest:
        raise ValueError(f"{name} is {value}. Use {smallest} or more.")


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """The choices of a build.

    Raises:
        ValueError: a value is out of its range.
    """

    seed: int = 0
    """Seed of the shuffle."""
    size: int | None = 224
    """Side of a chip in pixels; None keeps each window's own size."""
    context: Context = 0.0
    """Share of the AOI's side that the window adds on each of its sides; "fmow", "fmow-as-run": as the challenge's baseline."""
    fit: Fit = "stretch"
    """"stretch" scales x and y apart (the paper); "square" widens the window instead."""
    gsd: GsdMode = "nominal"
    """"nominal" is the sensor's value (the paper); "ground" the true size on the ground."""
    min_side: int = 3
    """AOIs with a side of fewer pixels are rejected."""
    samples_per_shard: int = 1000
    """At most so many samples a shard; shards of a split are equal to within one."""
    quality: int = 95
    """JPEG quality of the chips."""
    subsampling: str = "4:4:4"
    """Chroma subsampling of the chips: "4:4:4", "4:2:2" or "4:2:0"."""
    max_pixels: int = 400_000_000
    """Images with more pixels are rejected; fMoW's largest has 265 million."""
    keep_damaged: bool = False
    """Images whose data are damaged are kept and flagged, not rejected."""
    fields: tuple[str, ...] = DEFAULT_FIELDS
    """Fields of the captions."""
    style: str = "key-value"
    """Style of the captions."""

    def __post_init__(self) -> None:
        for name, smallest in (("min_side", 1), ("samples_per_shard", 1), ("max_pixels", 1)):
            _at_least(name, getattr(self, name), smallest)
        if self.size is not None:
            _at_least("size", self.size, 8)
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}. Use a number from 1 to 100.")
        if not isinstance(self.context, str) and not 0 <= self.context < math.inf:
            raise ValueError(f"context is {self.context:g}. Use a share of the box's side from 0 up, such as 0.1.")
        choices = {"fit": ("stretch", "square"), "gsd": ("nominal", "ground"), "subsampling": ("4:4:4", "4:2:2", "4:2:0")}
        choices |= {"style": tuple(STYLES)} | ({"context": get_args(FmowContext)} if isinstance(self.context, str) else {})
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(unknown_name(name, value, known))
        if not self.fields:
            raise ValueError("The captions have no field. Name at least one, such as gsd. All fields: satmip-data fields")
        for name in self.fields:
            if name not in BY_NAME:
                raise ValueError(unknown_name("field", name, BY_NAME, "fields", "satmip-data fields"))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as `dataset.json` and the resume check hold them."""
        found = {**asdict(self), "fields": list(self.fields)}
        if not self.keep_damaged:  # builds that were begun before there was the choice go on
            del found["keep_damaged"]
        return found
