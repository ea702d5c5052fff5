"""The record types that every part of `satmip_data` speaks: frozen values, units and senses stated once.

`None` is missing, `0.0` is a value, and NaN is refused at birth, so that no later step has to ask.
"""

import datetime as dt
import hashlib
import math
import traceback
from dataclasses import dataclass, fields, replace
from itertools import chain
from operator import attrgetter
from typing import Any, get_args, get_origin

from satmip_data.names import unsigned, without_secrets

Point = tuple[float, float]
Ring = tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata of an image, under STAC common names where there is one. Every attribute may be missing (None).

    Raises:
        ValueError: a number is NaN or infinite, or `datetime` has no time zone.
    """

    gsd: Point | None = None
    """Ground sample distance of the image in hand along x and y, metres a pixel."""
    multispectral_gsd: float | None = None
    """Ground sample distance of the sensor's multispectral bands, metres a pixel of the image in hand."""
    pixel_size: Point | None = None
    """Pixel size along x and y, degrees a pixel, positive."""
    datetime: dt.datetime | None = None
    """Time of acquisition, UTC, with its time zone."""
    location: Point | None = None
    """Centroid of the footprint: longitude in [-180, 180), latitude in [-90, 90], degrees, EPSG:4326."""
    utm_zone: str | None = None
    """UTM zone and latitude band, as "32T"."""
    country_code: str | None = None
    """ISO 3166-1 alpha-3."""
    cloud_cover: float | None = None
    """Share of the image under clouds, percent."""
    scan_direction: str | None = None
    """"Forward" or "Reverse"."""
    wavelengths: tuple[int, ...] | None = None
    """Centre wavelengths of the bands, nanometres, in the order of the channels."""
    target_azimuth: float | None = None
    """Azimuth of the satellite seen from the target, degrees clockwise from north, 0 to 360."""
    sun_azimuth: float | None = None
    """Azimuth of the sun seen from the target, degrees clockwise from north, 0 to 360."""
    sun_elevation: float | None = None
    """Elevation of the sun above the horizon, degrees, -90 to 90."""
    off_nadir: float | None = None
    """Angle between the satellite's nadir and its line of sight, degrees, 0 to 90."""
    platform: str | None = None
    """Name of the sensor platform, as "GEOEYE01"."""

    def __post_init__(self) -> None:
        # All numbers at once: an index makes two of these a sample, and which number is wrong is rarely asked.
        tuples = [values for values in _TUPLES(self) if values is not None]
        if not all(map(math.isfinite, [value for value in chain(_NUMBERS(self), *tuples) if value is not None])):
            raise ValueError(_not_finite(self))
        if self.datetime is not None and self.datetime.utcoffset() != _ZERO:
            raise ValueError(f"datetime is {self.datetime.isoformat()}, which is not in UTC. Convert it: time.astimezone(dt.UTC)")

    def replaced(self, **changes: Any) -> "Metadata":
        """Return the same with other values; `dataclasses.replace` takes twice as long."""
        return Metadata(**(dict(zip(_HELD, _VALUES(self), strict=True)) | changes))


_HELD = {field.name: get_args(field.type)[0] for field in fields(Metadata)}
"""Type of each attribute where it is known."""
_VALUES = attrgetter(*_HELD)
_NUMBERS = attrgetter(*(name for name, held in _HELD.items() if held is float))
_TUPLES = attrgetter(*(name for name, held in _HELD.items() if get_origin(held) is tuple))
_ZERO = dt.timedelta(0)


def _not_finite(metadata: Metadata) -> str:
    for field in fields(metadata):
        value = getattr(metadata, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                return f"{field.name} is {number}. Use a finite number, or None where it is not known"
    raise AssertionError(f"every number is finite: {metadata!r}")


@dataclass(frozen=True, slots=True)
class Georeference:
    """Position of an image's pixels: an affine from pixel corners to the coordinates of `crs`.

    With `(a, b, c, d, e, f) = affine`, the point at column `col` and row `row` (0, 0 is the outer corner of the first pixel)
    lies at `(a col + b row + c, d col + e row + f)`. Longitudes may pass 180 so that an image across the antimeridian stays whole.
    """

    affine: tuple[float, float, float, float, float, float]
    crs: str = "EPSG:4326"


@dataclass(frozen=True, slots=True)
class Aoi:
    """An area of interest: a box in scene pixels from the top-left corner, as annotated; it may cross the scene's border."""

    x: float
    y: float
    width: float
    height: float
    category: str | None = None
    """Class of what stands in the box; never shown to pretraining."""
    name: str = ""
    """Tells this box from the others of its scene; empty where a scene gives one sample."""
    labels: tuple[str, ...] = ()
    """Every class of a multi-label set that stands in the box; `category` is then None."""


@dataclass(frozen=True, slots=True)
class Window:
    """The whole-pixel rectangle that is read: column and row of its first pixel, width and height in pixels.

    Raises:
        ValueError: an offset is negative or a side is not positive.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.x < 0 or self.y < 0 or self.width < 1 or self.height < 1:
            raise ValueError(
                f"The window {self.width} x {self.height} at column {self.x}, row {self.y} is empty or begins outside the image"
            )


@dataclass(frozen=True, slots=True)
class Scaling:
    """Scale and offset that a raster, or its item, declares for the bands that are read: a value is scale * number + offset."""

    scales: tuple[float, ...]
    offsets: tuple[float, ...]

    @property
    def pairs(self) -> tuple[tuple[float, float], ...]:
        """Scale and offset of each band."""
        return tuple(zip(self.scales, self.offsets, strict=True))

    @property
    def stated(self) -> bool:
        """Whether a number is anything else than its value."""
        return set(self.scales) != {1.0} or set(self.offsets) != {0.0}


@dataclass(frozen=True, slots=True)
class Scene:
    """One raw image with its metadata. A source makes these; vendor oddities end there."""

    key: str
    """Unique in the source, lower case, no dot, no slash: the sample keys start with it."""
    split: str
    place: str
    """One spot on Earth seen at several times; scenes of one place share it."""
    path: str
    """The image, relative to the source's root; a URL may be signed, and is written down without that."""
    width: int
    height: int
    """Size of the image in pixels, as its metadata says."""
    metadata: Metadata
    """Of the raw image, before any crop."""
    georeference: Georeference | None
    aois: tuple[Aoi, ...]
    flags: tuple[str, ...] = ()
    """Codes of `checks.FLAGS`: what is odd about the record."""
    scaling: Scaling | None = None
    """Declared by a raster whose values are stretched alike; None for a picture."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A scene or AOI that gives no sample, and why. Never lost: it becomes a row of `rejects.parquet`."""

    path: str
    stage: str
    """"scan", "index" or "pack"."""
    reason: str
    """A code of `REASONS`."""
    message: str
    key: str = ""
    trace: str = ""
    """Of an error that satmip does not know, its traceback: it is written to a log."""

    def unsigned(self) -> "Reject":
        """Return the same without the secrets of URLs, to be written down."""
        return replace(self, path=unsigned(self.path), message=without_secrets(self.message), trace=without_secrets(self.trace))


def crash(path: str, stage: str, error: Exception, key: str = "") -> Reject:
    """Return the reject of what ended in an error that no source expects."""
    message = f"Reading it ended in an error that satmip does not know: {type(error).__name__}: {error}. The log has more."
    return Reject(path, stage, "unexpected", message, key, "".join(traceback.format_exception(error)))


REASONS = {
    "metadata_unreadable": "the metadata file is not valid JSON or cannot be read",
    "metadata_invalid": "the metadata lacks what a scene needs, or holds values no scene can have",
    "image_missing": "metadata without its image",
    "metadata_missing": "an image without its metadata",
    "no_aoi": "no labelled box in the scene",
    "aoi_outside": "the box lies outside the image",
    "aoi_tiny": "the box is smaller than --min-side pixels",
    "suspect": "the record fails a physical check, and --flagged drop leaves such out",
    "no_georeference": "the scene or window cannot be placed on Earth and the source requires it",
    "not_in_split_file": "the user's --split-file does not name it",
    "unscaled": "the pixels cannot become 8-bit RGB without --bands or --stretch",
    "duplicate_key": "another scene has the same key",
    "image_unreadable": "the image cannot be decoded",
    "image_outside": "the data name a place outside the source that needs --allow-outside, or that no data may name",
    "image_damaged": "the image can be decoded, but parts of its data are damaged or missing; --keep-damaged keeps such",
    "image_too_large": "the image has more pixels than --max-pixels",
    "size_mismatch": "the image's size is not what its metadata says",
    "unexpected": "reading it ended in an error that satmip does not know; rejects.log has the traceback",
    "image_empty": "the window holds no data (every pixel black)",
}
"""Every reason code with its meaning."""


def with_digest(key: str, name: str, longest: int) -> str:
    """Return a key, cut to make room, with a hash of a name behind it, at most `longest` characters in all."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{key[: longest - len(digest) - 1]}_{digest}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One chip to be: a window of a scene with the metadata and footprint that belong to exactly that window."""

    key: str
    split: str
    place: str
    category: str | None
    path: str
    scene_width: int
    scene_height: int
    window: Window
    metadata: Metadata
    """Of the chip, after the crop and the resize."""
    scene_metadata: Metadata
    """Of the scene, before the crop."""
    footprint: Ring | None
    """Closed ring of (longitude, latitude), counter-clockwise seen from above, longitudes continuous (they may pass 180)."""
    labels: tuple[str, ...] = ()
    """Classes of a multi-label set; empty where a sample has one `category` or none."""
    flags: tuple[str, ...] = ()
    """Of its scene."""
    scaling: Scaling | None = None
    """Of its scene."""
