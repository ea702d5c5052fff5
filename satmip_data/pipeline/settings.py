"""What the bytes of a build depend on, besides the source. Saved in `dataset.json`; a resumed build refuses other settings."""

import math
from dataclasses import asdict, dataclass
from typing import Any, get_args

from satmip_data.geometry import Context, Fit, FmowContext, GsdMode
from satmip_data.metadata.captions import STYLES
from satmip_data.metadata.fields import BY_NAME, DEFAULT_FIELDS


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """The choices of a build.

    Raises:
        ValueError: a value is out of its range.
    """

    seed: int = 0
    """Of the global shuffle."""
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
        checks = {
            "size >= 8": self.size is None or self.size >= 8,
            "0 <= context < infinity, fmow or fmow-as-run": (
                self.context in get_args(FmowContext) if isinstance(self.context, str) else 0 <= self.context < math.inf
            ),
            "fit in stretch, square": self.fit in ("stretch", "square"),
            "gsd in nominal, ground": self.gsd in ("nominal", "ground"),
            "min_side >= 1": self.min_side >= 1,
            "samples_per_shard >= 1": self.samples_per_shard >= 1,
            "1 <= quality <= 100": 1 <= self.quality <= 100,
            "subsampling in 4:4:4, 4:2:2, 4:2:0": self.subsampling in ("4:4:4", "4:2:2", "4:2:0"),
            "max_pixels >= 1": self.max_pixels >= 1,
            "fields of the table": bool(self.fields) and all(name in BY_NAME for name in self.fields),
            f"style in {', '.join(STYLES)}": self.style in STYLES,
        }
        for rule, holds in checks.items():
            if not holds:
                raise ValueError(f"build settings need {rule}, however: {self!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as `dataset.json` and the resume check hold them."""
        found = {**asdict(self), "fields": list(self.fields)}
        if not self.keep_damaged:  # builds that were begun before there was the choice go on
            del found["keep_damaged"]
        return found
