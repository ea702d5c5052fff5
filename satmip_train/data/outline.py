"""Where an image lies on Earth, as `satmip-data` writes footprints: from the image's coordinate system and affine."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely import Polygon

Point = tuple[float, float]
Place = Callable[[Point], Point]

_PIECES = 64
"""In which each side is cut at least: over one of a scene of 100 km a straight line of the image is one within a few metres, and
a side of half the Earth or more is not taken for its complement."""
_STEP = 0.25
"""Degrees between neighbours on the border at most, as near a pole."""
_STRAIGHT = 1e-6
"""Degrees by which a point must leave the line of its neighbours to be kept, a tenth of a metre."""


class _OffEarthError(ValueError):
    """A point of the image lies nowhere on Earth."""


def outline(crs: Any, affine: Any, width: int, height: int) -> Polygon | None:
    """Return the border of an image, EPSG:4326, counter-clockwise, longitudes continuous from [-180, 180) on.

    A ring around a pole, or with a pole on it, runs along the pole itself, which has every longitude.

    Args:
        crs: rasterio's
        affine: from (column, row) to `crs`
        width: columns
        height: rows

    Returns:
        None where a point of the border lies nowhere on Earth, or the affine is that of no image
    """
    if affine.is_degenerate or not all(map(math.isfinite, affine)):
        return None
    degrees = crs == "EPSG:4326"
    try:
        points = _border(_place_in_degrees(affine) if degrees else _place(crs, affine), width, height)
    except (_OffEarthError, ProjError):
        return None
    # One point alone: where a pole is a line of the map, as in degrees, its points have longitudes of their own.
    poles = [i for i, point in enumerate(points) if _is_pole(point)]
    on_pole = len(poles) == 1
    path = points[poles[0] + 1 :] + points[: poles[0]] if on_pole else [*points, points[0]]
    ring = np.array(path)
    if not degrees:
        ring[:, 0] = np.unwrap(ring[:, 0], period=360)
    ring[:, 0] -= 360 * math.floor((ring[:, 0].min() + 180) / 360)
    first, last = ring[0], ring[-1]
    if on_pole or abs(last[0] - first[0]) > 180:
        pole = math.copysign(90, first[1])
        ring = np.array([*ring, (last[0], pole), (first[0], pole)])
    return shapely.geometry.polygon.orient(Polygon(ring).simplify(_STRAIGHT))


def _place_in_degrees(affine: Any) -> Place:
    def place(pixel: Point) -> Point:
        lon, lat = affine @ pixel
        # Grids whose outermost pixels lie on the poles reach half a pixel past them.
        if abs(lat) > 90 + abs(affine.d) + abs(affine.e):
            raise _OffEarthError
        return lon, min(max(lat, -90.0), 90.0)

    return place


def _place(crs: Any, affine: Any) -> Place:
    transformer = Transformer.from_crs(CRS.from_wkt(crs.to_wkt()), "EPSG:4326", always_xy=True)

    def place(pixel: Point) -> Point:
        x, y = affine @ pixel
        lon, lat = transformer.transform(x, y, errcheck=True)
        return lon, lat

    return place


def _border(place: Place, width: int, height: int) -> list[Point]:
    """Return points on Earth once around the image, from its first pixel down."""
    corners = [(0.0, 0.0), (0.0, float(height)), (float(width), float(height)), (float(width), 0.0), (0.0, 0.0)]
    pixels = [
        (a + (c - a) * i / _PIECES, b + (d - b) * i / _PIECES) for (a, b), (c, d) in pairwise(corners) for i in range(_PIECES)
    ]
    places = [place(pixel) for pixel in pixels]
    points = []
    for i, (start, first) in enumerate(zip(pixels, places, strict=True)):
        following = (i + 1) % len(pixels)
        points += [first, *_between(place, start, pixels[following], first, places[following])]
    return points


def _between(place: Place, start: Point, end: Point, first: Point, last: Point, halvings: int = 14) -> list[Point]:
    """Return points on Earth between two pixels, `start` and `end`, which lie at `first` and `last`."""
    step = abs((last[0] - first[0] + 180) % 360 - 180)
    if _is_pole(first) or _is_pole(last) or max(step, abs(last[1] - first[1])) <= _STEP:
        return []
    if halvings == 0:  # a pole that is nearer than the piece is short lies on it
        return [(0.0, math.copysign(90.0, first[1]))] if step > 90 and abs(first[1]) > 89 else []
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    found = place(middle)
    before = _between(place, start, middle, first, found, halvings - 1)
    return [*before, found, *_between(place, middle, end, found, last, halvings - 1)]


def _is_pole(point: Point) -> bool:
    return abs(point[1]) > 90 - 1e-9  # a tenth of a millimetre
