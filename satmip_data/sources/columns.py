"""Columns with STAC common names: the same parsers for the cells of a table and the properties of a STAC item."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from satmip_data.geometry import georeference_from_bounds, signed_area, unwrap, wrap_longitude
from satmip_data.names import counted, written
from satmip_data.records import Georeference, Ring
from satmip_data.sources.base import InvalidError, azimuth, check_lonlat, parse_lonlat_ring, parse_time

FILLED = 0.99
"""Share of its bounds that a footprint must fill for the image's sides to be known from it."""


def _number(key: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InvalidError(f"{key} is {written(value)}, which is no number") from error
    if not math.isfinite(number):
        raise InvalidError(f"{key} is {written(value)}, which is no finite number")
    if not low <= number <= high:
        bounds = f"from {low:g} up" if high == math.inf else f"from {low:g} to {high:g}"
        raise InvalidError(f"{key} is {written(value)}; it takes numbers {bounds}")
    return number


def _between(low: float = -math.inf, high: float = math.inf) -> Callable[[str, Any], float]:
    return lambda key, value: _number(key, value, low, high)


def _whole(key: str, value: Any) -> int:
    number = _number(key, value, 1, 1_000_000)
    if not number.is_integer():
        raise InvalidError(f"{key} is {written(value)}, which is no whole number")
    return int(number)


def _text(key: str, value: Any) -> str:
    return str(value)


def _azimuth(key: str, value: Any) -> float:
    turned = azimuth(_number(key, value, -360.0, 720.0))
    assert turned is not None
    return turned


def _labels(key: str, value: Any) -> tuple[str, ...]:
    """Return the parts of a list, which a CSV writes with | between them."""
    if isinstance(value, str) and value.strip().startswith("["):
        raise InvalidError(f"{key} is {written(value)}. Write a list with | between its parts, as sea|port")
    parts = value if isinstance(value, list) else str(value).split("|")
    return tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))


def _numbers(key: str, value: Any, low: float = -math.inf, high: float = math.inf) -> tuple[float, ...]:
    """Return the numbers of a list, which a CSV writes with commas, spaces or | between them."""
    parts = value if isinstance(value, list) else re.findall(r"[^\s,;|\[\]()]+", str(value))
    return tuple(_number(key, part, low, high) for part in parts)


def _wavelengths(key: str, value: Any) -> tuple[int, ...] | None:
    return tuple(round(number) for number in _numbers(key, value, 1.0, 1e6)) or None


SEE_COLUMNS = "docs/sources.md"
"""Page that lists the columns of a table."""

COLUMNS: dict[str, Callable[[str, Any], Any]] = {
    "image": _text,
    "key": _text,
    "split": _text,
    "place": _text,
    "category": _text,
    "labels": _labels,
    **dict.fromkeys(("x", "y"), _between()),
    **dict.fromkeys(("width", "height"), _between(0.0)),
    **dict.fromkeys(("image_width", "image_height"), _whole),
    **dict.fromkeys(("gsd", "gsd_x", "gsd_y", "multispectral_gsd"), _between(1e-6, 1e6)),
    "datetime": lambda key, value: parse_time(key, str(value)),
    "lon": _between(-360.0, 360.0),
    "lat": _between(-90.0, 90.0),
    "bbox": _numbers,
    "geometry": lambda key, value: parse_lonlat_ring(key, str(value)),
    "utm_zone": _text,
    "country_code": _text,
    "cloud_cover": _between(0.0, 100.0),
    "scan_direction": _text,
    "wavelengths": _wavelengths,
    **dict.fromkeys(("target_azimuth", "sun_azimuth"), _azimuth),
    "sun_elevation": _between(-90.0, 90.0),
    "off_nadir": _between(0.0, 90.0),
    "platform": _text,
}
"""Every column that is read, with what turns its cell into a value."""

ALIASES = {
    "eo:cloud_cover": "cloud_cover",
    "view:off_nadir": "off_nadir",
    "view:sun_azimuth": "sun_azimuth",
    "view:sun_elevation": "sun_elevation",
    "longitude": "lon",
    "latitude": "lat",
}
"""STAC's prefixed names and long forms -> our columns."""


def centre(cells: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return longitude and latitude of an image's centre, of its bbox or of its geometry's bounds; None without any of them.

    Raises:
        InvalidError: they are no place on Earth.
    """
    if {"lon", "lat"} <= cells.keys():
        return wrap_longitude(cells["lon"]), cells["lat"]
    # The bounds as an image of one pixel.
    if (pixel := from_bounds(cells, 1, 1)) is None:
        return None
    east, _, left, _, south, top = pixel.affine
    return wrap_longitude(left + east / 2), top + south / 2


def from_bounds(cells: Mapping[str, Any], width: int, height: int) -> Georeference | None:
    """Return the affine of an image, north up, that fills its bbox or else the bounds of its geometry; None without both.

    Raises:
        InvalidError: they span no area, or a corner of the bbox is not on Earth.
    """
    if "bbox" in cells:
        box = cells["bbox"]
        if len(box) not in (4, 6):
            raise InvalidError(f"bbox has {counted(len(box), 'number')}. Write west, south, east, north; with heights, six numbers")
        west, south, east, north = box if len(box) == 4 else (box[0], box[1], box[3], box[4])
        check_lonlat("bbox", ((west, south), (east, north)), box)
        east += 360.0 * (east < west)  # a box across the antimeridian (RFC 7946, section 5.2)
        ring: Ring = ((west, south), (east, south), (east, north), (west, north))
    elif "geometry" in cells:
        ring = cells["geometry"]
    else:
        return None
    found = georeference_from_bounds(ring, width, height)
    if not (found.affine[0] > 0.0 > found.affine[4]):
        raise InvalidError(f"The bbox or geometry spans no area: {written(ring)}")
    return found


def fills(ring: Ring) -> bool:
    """Tell whether a footprint fills its bounds, so that they are the image's own sides."""
    lons, lats = zip(*unwrap(ring), strict=True)
    return bool(abs(signed_area(unwrap(ring))) >= FILLED * (max(lons) - min(lons)) * (max(lats) - min(lats)))
