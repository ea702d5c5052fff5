"""Pure arithmetic from an AOI to a window, and from the window's whole pixels to everything the chip says of the ground.

The integers that are read give the GSD, the footprint and the location, so pixels and geography cannot part.
"""

import math
from functools import cache
from typing import Literal

from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from satmip_data.records import Aoi, Georeference, Metadata, Point, Ring, Window

Fit = Literal["stretch", "square"]
GsdMode = Literal["nominal", "ground"]
FmowContext = Literal["fmow", "fmow-as-run"]
Context = float | FmowContext
"""Share of a box's side that its window adds on each of its sides, or the rule of fMoW's baseline, see `fmow_margin`."""

WGS84 = Geod(ellps="WGS84")

MOST_STEP = 2.0
"""Degrees of longitude between neighbours of a footprint, at most, where its side is no straight line on the map."""

MOST_BEND = 0.5
"""Pixels, of their shorter side, by which the middle of a side may leave the line between its ends before it becomes a point of
the footprint."""

WIDE = 10.0
"""Degrees of longitude between neighbouring sides of a window beyond which its rows may be no shortest lines on the ground; at 80
degrees of latitude they are half a percent longer."""

MOST_DETOUR = 1e-4
"""Share by which a line through the middle of a row may be longer than the shortest one, which is then the row's own."""

PARTS = 64
"""Pieces in which the rows and columns of a wide window are measured."""

MOST_LONGITUDE = 1080.0
"""Degrees, three turns, that a longitude may count to; what is farther is none."""


class OutsideError(ValueError):
    """The AOI shares no pixel with its scene."""


class OffEarthError(ValueError):
    """A point of the image lies nowhere on Earth, as the corners of a picture of the whole disc do."""


def window_from_aoi(aoi: Aoi, width: int, height: int, context: Context = 0.0, fit: Fit = "stretch") -> Window:
    """Return the whole-pixel window over `aoi` in a scene of `width` x `height` pixels.

    Args:
        aoi: the annotated box; it may cross the border of the scene, and is then clipped to it.
        width: columns of the scene.
        height: rows of the scene.
        context: share of the box's side added on each of its sides; 0 reads the box itself. A rule's name: see `fmow_margin`.
            NOTE[DIFF] the paper crops "around" the box by "the standard method" and does not say with how much context.
        fit: "stretch" keeps the box, whose x and y are later scaled apart (the paper). "square" widens the shorter side about the
            box's centre, moving the window back into the scene where it would leave it. Where the scene is too small to hold the
            square, the window ends at the border and x and y are scaled apart by what remains.

    Raises:
        OutsideError: the box and the scene do not meet.
    """
    if isinstance(context, str):
        margins = fmow_margin(aoi.width, width, height, context), fmow_margin(aoi.height, height, width, context)
    else:
        margins = context * aoi.width, context * aoi.height
    left, right = _span(aoi.x, aoi.width, margins[0])
    top, bottom = _span(aoi.y, aoi.height, margins[1])
    if not (_meets(aoi.x, aoi.width, width) and _meets(aoi.y, aoi.height, height)):
        box = f"The box {aoi.width:g} x {aoi.height:g} at column {aoi.x:g}, row {aoi.y:g}"
        raise OutsideError(f"{box} lies outside its scene of {width} x {height} px")
    left, right, top, bottom = max(left, 0), min(right, width), max(top, 0), min(bottom, height)
    if fit == "square":
        side = max(right - left, bottom - top)
        left, right = _widen(left, right, side, width)
        top, bottom = _widen(top, bottom, side, height)
    return Window(left, top, right - left, bottom - top)


def fmow_margin(length: float, side: int, other_side: int, rule: FmowContext) -> float:
    """Return the pixels that the baseline of the fMoW challenge adds before and after a box along one axis.

    The smaller the box in its scene, the more: a window is 1.15 to 3 times as long as its box.

    Args:
        length: the box along the axis
        side: the scene along the axis
        other_side: the scene along the other axis
        rule: "fmow" takes the box's share of `side`. "fmow-as-run" does what the baseline's code does: it takes the share of
            `other_side`, since it divides the width by the rows and the height by the columns, and whole pixels, rounded down.
    """
    share = length / (side if rule == "fmow" else other_side)
    both = next((both for below, both in _FMOW_CONTEXT if share < below), 0.15)
    return both / 2 * length if rule == "fmow" else float(int(length * both / 2))


_FMOW_CONTEXT = ((0.1, 2.0), (0.2, 1.0), (0.3, 0.5), (0.4, 0.3), (0.5, 0.2))
"""Share of a scene's side below which a box lies, and what its window adds on both sides together, as a share of the box's."""


def grid(width: int, height: int, tile: int) -> tuple[tuple[str, Window], ...]:
    """Return the windows of side `tile` that together show every pixel, row by row, each with its name ("r0c1").

    The last ones of a row or column are moved back inside; along a side shorter than `tile` there is one, of that side.
    """
    across, down = min(tile, width), min(tile, height)
    return tuple(
        (f"r{row}c{column}", Window(min(column * across, width - across), min(row * down, height - down), across, down))
        for row in range(-(-height // down))
        for column in range(-(-width // across))
    )


def _meets(start: float, length: float, limit: int) -> bool:
    """Tell whether a span, without its context, shares a pixel with [0, limit)."""
    first, stop = _span(start, length, 0.0)
    return length > 0 and first < limit and stop > 0


def _span(start: float, length: float, grow: float) -> tuple[int, int]:
    """Return the whole pixels touched by a span widened by `grow` pixels on either side; one at least."""
    # A tenth of a millionth of a pixel is rounding, not a pixel touched.
    first = math.floor(start - grow + 1e-7)
    return first, max(math.ceil(start + length + grow - 1e-7), first + 1)


def _widen(start: int, stop: int, side: int, limit: int) -> tuple[int, int]:
    """Widen [start, stop) to `side` about its centre inside [0, limit)."""
    side = min(side, limit)
    start -= (side - (stop - start)) // 2
    start = min(max(start, 0), limit - side)
    return start, start + side


def chip_metadata(
    metadata: Metadata, georeference: Georeference | None, window: Window, size: tuple[int, int], gsd_mode: GsdMode = "nominal"
) -> Metadata:
    """Return what a scene's metadata become when `window` is read and resized to `size` (width, height) pixels.

    GSD, multispectral GSD and pixel size grow by the factor by which the pixels grow, for x and y apart (paper, supplement A);
    the location becomes the centroid of the window's footprint. All else is untouched, and so is the location where there is no
    georeference: a source gives one then only to a scene whose window is the whole image.
    `gsd_mode="ground"` replaces the sensor's nominal GSD by the true size on the ground; it stays missing without a georeference.
    """
    scale = (window.width / size[0], window.height / size[1])
    mean_scale = (scale[0] + scale[1]) / 2
    gsd = _scaled(metadata.gsd, scale)
    if gsd_mode == "ground":
        gsd = None if georeference is None else ground_gsd(georeference, window, size)
    return metadata.replaced(
        gsd=gsd,
        multispectral_gsd=None if metadata.multispectral_gsd is None else metadata.multispectral_gsd * mean_scale,
        pixel_size=_scaled(metadata.pixel_size, scale),
        location=metadata.location if georeference is None else window_centre(georeference, window),
    )


def _scaled(pair: Point | None, scale: Point) -> Point | None:
    return None if pair is None else (pair[0] * scale[0], pair[1] * scale[1])


def footprint(georeference: Georeference, window: Window) -> Ring:
    """Return the window's closed ring on the ground: (longitude, latitude), counter-clockwise, longitudes continuous.

    The ring starts in the west within [-180, 180); across the antimeridian it keeps its neighbours together by longitudes past
    180, and `split_ring` cuts it for maps. A side that is no line of longitude and latitude, as near a pole or where it is long,
    gets points of its own, see `MOST_STEP` and `MOST_BEND`. A ring around a pole or with a pole on it runs along the pole itself,
    which has every longitude, so that its inside is the window.
    """
    points = _outline(georeference, window)
    # One point alone: where a pole is a line of the map, as in degrees, its points have longitudes of their own.
    poles = [i for i, point in enumerate(points) if _is_pole(point)]
    on_pole = len(poles) == 1
    path = points[poles[0] + 1 :] + points[: poles[0]] if on_pole else [*points, points[0]]
    ring = _from_west(tuple(path) if georeference.crs == "EPSG:4326" else unwrap(tuple(path)))
    first, last = ring[0], ring[-1]
    if on_pole or abs(last[0] - first[0]) > 180.0:
        pole = math.copysign(90.0, first[1])
        return _counter_clockwise((*ring, (last[0], pole), (first[0], pole), first))
    return _counter_clockwise((*ring[:-1], first))


def _outline(georeference: Georeference, window: Window) -> list[Point]:
    """Return the window's corners on the ground and what is needed between them, once around."""
    x0, y0, x1, y1 = window.x, window.y, window.x + window.width, window.y + window.height
    corners = [((col, row), lonlat(georeference, col, row)) for col, row in ((x0, y1), (x1, y1), (x1, y0), (x0, y0))]
    points = []
    for (start, first), (end, last) in zip(corners, corners[1:] + corners[:1], strict=True):
        points += [first, *_between(georeference, start, end, first, last)]
    return points


def _between(georeference: Georeference, start: Point, end: Point, first: Point, last: Point, halvings: int = 17) -> list[Point]:
    """Return points on the ground between two points of the image, `start` and `end`, which lie at `first` and `last`.

    A straight line of the image is nearly one of longitude and latitude where it is short and spans few degrees of longitude.
    The ends of a side around the whole Earth lie at one place: its middle tells it from a side that has no length.
    """
    if georeference.crs == "EPSG:4326" or _is_pole(first) != _is_pole(last):
        return []  # a pole that is a point has any longitude; a side with both ends on one lies on it, which is a line then
    step = abs(wrap_longitude(last[0] - first[0]))
    if halvings == 0:  # a pole that is nearer than a hundred thousandth of the side lies on it
        return [(0.0, math.copysign(90.0, first[1]))] if step > 90.0 and abs(first[1]) > 89.0 else []
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    place = lonlat(georeference, *middle)
    steps = max(step, abs(wrap_longitude(place[0] - first[0])))
    if steps <= MOST_STEP and _is_straight(georeference, start, end, (first, place, last)):
        return []
    before = _between(georeference, start, middle, first, place, halvings - 1)
    return [*before, place, *_between(georeference, middle, end, place, last, halvings - 1)]


def _is_straight(georeference: Georeference, start: Point, end: Point, places: tuple[Point, Point, Point]) -> bool:
    """Tell whether a side leaves the line between its ends by at most `MOST_BEND`; start, middle and end lie at `places`."""
    a, b, _, d, e, _ = georeference.affine
    col, row = end[0] - start[0], end[1] - start[1]
    length, pixel = math.hypot(a * col + b * row, d * col + e * row), min(math.hypot(a, d), math.hypot(b, e))
    return _bend(*places) * length <= MOST_BEND * pixel


def _bend(first: Point, place: Point, last: Point) -> float:
    """Return how far a place lies beside the line from `first` to `last`, as a share of its length."""
    east = math.cos(math.radians(place[1]))
    x, y = wrap_longitude(last[0] - first[0]) * east, last[1] - first[1]
    across = wrap_longitude(place[0] - first[0]) * east * y - (place[1] - first[1]) * x
    return abs(across) / (x * x + y * y) if across else 0.0


def _is_pole(point: Point) -> bool:
    return abs(point[1]) > 90.0 - 1e-9  # a tenth of a millimetre


def _from_west(ring: Ring) -> Ring:
    """Move the ring by whole turns so that its western end lies in [-180, 180)."""
    turn = 360.0 * math.floor((min(lon for lon, _ in ring) + 180.0) / 360.0)
    return ring if turn == 0.0 else tuple((lon - turn, lat) for lon, lat in ring)


def window_centre(georeference: Georeference, window: Window) -> Point:
    """Return longitude in [-180, 180) and latitude of the window's centre: the centroid of its footprint.

    Taken through the affine and not from the ring's coordinates, it holds across the antimeridian and over a pole.
    """
    lon, lat = lonlat(georeference, window.x + window.width / 2, window.y + window.height / 2)
    return wrap_longitude(lon), lat


def lonlat(georeference: Georeference, col: float, row: float) -> Point:
    """Return the longitude and latitude of a point of the image, degrees, EPSG:4326; rounding past a pole is put back on it.

    Raises:
        OffEarthError: the point lies outside what its CRS maps, or has no latitude.
    """
    a, b, c, d, e, f = georeference.affine
    x, y = a * col + b * row + c, d * col + e * row + f
    if georeference.crs != "EPSG:4326":
        try:
            x, y = _to_lonlat(georeference.crs).transform(x, y, errcheck=True)
        except ProjError as error:
            raise OffEarthError(f"The pixel at column {col:g}, row {row:g} does not lie on Earth: {error}") from error
    # Grids whose outermost pixels lie on the poles reach half a pixel past them.
    if abs(y) > 90.0 + abs(d) + abs(e) or abs(x) > MOST_LONGITUDE:
        where = f"longitude {x:g}, latitude {y:g}"
        raise OffEarthError(f"The pixel at column {col:g}, row {row:g} does not lie on Earth: it is at {where}")
    return x, min(max(y, -90.0), 90.0)


@cache
def _to_lonlat(crs: str) -> Transformer:
    return Transformer.from_crs(CRS.from_user_input(crs), "EPSG:4326", always_xy=True)


def is_invertible(affine: tuple[float, float, float, float, float, float]) -> bool:
    """Tell whether an affine gives pixels an area, which a damaged one does not."""
    a, b, _, d, e, _ = affine
    return all(map(math.isfinite, affine)) and a * e != b * d


def wrap_longitude(lon: float) -> float:
    """Return the same meridian in [-180, 180)."""
    if -180.0 <= lon < 180.0:  # untouched: the remainder below costs the last bits
        return lon
    wrapped = (lon + 180.0) % 360.0 - 180.0
    return wrapped if wrapped < 180.0 else -180.0


def unwrap(ring: Ring) -> Ring:
    """Return the ring with each longitude within 180 degrees of the one before it."""
    longitudes = [lon for lon, _ in ring]
    if max(longitudes) - min(longitudes) < 180.0:
        return ring
    out = [ring[0]]
    for lon, lat in ring[1:]:
        turns = round((out[-1][0] - lon) / 360.0)
        out.append((lon + 360.0 * turns, lat))
    return tuple(out)


def signed_area(ring: Ring) -> float:
    """Return the area of a ring in square degrees, positive where it runs counter-clockwise (the shoelace formula).

    Coordinates are taken relative to the first point: footprints are millionths of a degree wide.
    """
    x0, y0 = ring[0]
    moved = [(x - x0, y - y0) for x, y in ring]
    return sum([x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(moved, moved[1:] + moved[:1], strict=True)]) / 2


def split_ring(ring: Ring) -> tuple[Ring, ...]:
    """Cut a closed ring at the antimeridian into rings inside [-180, 180] (RFC 7946, section 3.1.9); one if it does not cross."""
    from shapely import get_parts
    from shapely.affinity import translate
    from shapely.geometry import Polygon, box

    polygon = Polygon(ring)
    west, _, east, _ = polygon.bounds
    rings = []
    for turn in range(math.floor((west + 180.0) / 360.0), math.floor((east + 180.0) / 360.0) + 1):
        world = box(360.0 * turn - 180.0, -90.0, 360.0 * turn + 180.0, 90.0)
        for part in get_parts(translate(polygon.intersection(world), -360.0 * turn)):
            if part.geom_type == "Polygon" and not part.is_empty:  # and no line or point where the ring touches the antimeridian
                rings.append(_counter_clockwise(tuple((float(x), float(y)) for x, y in part.exterior.coords)))
    return tuple(rings)


def _counter_clockwise(ring: Ring) -> Ring:
    return ring if signed_area(ring) >= 0 else tuple(reversed(ring))


def ground_gsd(georeference: Georeference, window: Window, size: tuple[int, int]) -> Point:
    """Return the true metres a pixel along x and y of a chip of `size` pixels, on WGS84 through the window's centre."""
    middle_col, middle_row = window.x + window.width / 2, window.y + window.height / 2
    row = (window.x, middle_row), (window.x + window.width, middle_row)
    column = (middle_col, window.y), (middle_col, window.y + window.height)
    west, east, north, south = (lonlat(georeference, *point) for point in (*row, *column))
    if max(abs(wrap_longitude(side[0] - end[0])) for side in (west, east) for end in (north, south)) > WIDE:
        return _length(georeference, *row) / size[0], _length(georeference, *column) / size[1]
    return distance(west, east) / size[0], distance(north, south) / size[1]


def _length(georeference: Georeference, start: Point, end: Point) -> float:
    """Return the metres on the ground of a line of the image: of the whole equator 40,075 km, though its ends lie at one place.

    A few kilometres beside a pole are wide in degrees, too, and straight.
    """
    places = [
        lonlat(georeference, start[0] + (end[0] - start[0]) * part / PARTS, start[1] + (end[1] - start[1]) * part / PARTS)
        for part in range(PARTS + 1)
    ]
    first, middle, last = places[0], places[PARTS // 2], places[-1]
    shortest = distance(first, last)
    if distance(first, middle) + distance(middle, last) <= shortest * (1 + MOST_DETOUR):
        return shortest
    return sum(map(distance, places, places[1:]))


def distance(start: Point, end: Point) -> float:
    """Return the metres between two points (longitude, latitude) on the WGS84 ellipsoid."""
    return float(WGS84.inv(*start, *end)[2])


def pixel_size(georeference: Georeference, width: int, height: int) -> Point:
    """Return how many degrees a step of one column and of one row spans, at the centre of an image of `width` x `height` pixels.

    In an image that is turned a step runs along longitude and latitude at once.
    """
    if georeference.crs == "EPSG:4326":
        # The steps themselves: the difference of two longitudes has a rounding of its own at every place.
        a, b, _, d, e, _ = georeference.affine
        return math.hypot(a, d), math.hypot(b, e)
    col, row = width / 2, height / 2
    (lon, lat), *steps = (lonlat(georeference, c, r) for c, r in ((col, row), (col + 1, row), (col, row + 1)))
    across, down = (math.hypot(wrap_longitude(lon_x - lon), lat_x - lat) for lon_x, lat_x in steps)
    return across, down


def georeference_from_bounds(ring: Ring, width: int, height: int) -> Georeference:
    """Return the affine of an axis-aligned image from the extremes of its footprint (the order of a ring varies by vendor).

    A ring whose longitudes jump by more than 180 degrees crosses the antimeridian and is unwrapped first.
    """
    lons, lats = zip(*unwrap(ring), strict=True)
    west, east, south, north = min(lons), max(lons), min(lats), max(lats)
    return Georeference(((east - west) / width, 0.0, west, 0.0, -(north - south) / height, north))


def utm_zone(location: Point) -> str:
    """Return the UTM zone and latitude band of (longitude, latitude), with Norway's and Svalbard's exceptions.

    Raises:
        ValueError: the latitude lies outside UTM's [-80, 84].
    """
    lon, lat = wrap_longitude(location[0]), location[1]
    if not -80.0 <= lat <= 84.0:
        raise ValueError(f"Latitude {lat:g} is outside UTM, which covers -80 to 84 degrees")
    band = "CDEFGHJKLMNPQRSTUVWX"[min(int((lat + 80.0) // 8), 19)]
    zone = min(int((lon + 180.0) // 6), 59) + 1  # the sum rounds up to 360 just west of the antimeridian
    if band == "V" and 3.0 <= lon < 12.0:
        zone = 32
    if band == "X" and 0.0 <= lon < 42.0:
        zone = 31 + 2 * int((lon + 3.0) // 12)
    return f"{zone}{band}"
