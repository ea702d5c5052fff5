"""Coastlines of the Earth for maps: Natural Earth at 1:110 million, in the public domain (vendor/NOTICE)."""

import json
from collections.abc import Iterator
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

from satmip_data.pages import vendored

Point = tuple[float, float]


@cache
def coastlines() -> tuple[tuple[Point, ...], ...]:
    """Return the closed outlines of land, and of the Caspian Sea in it, as longitudes and latitudes in degrees."""
    topology: dict[str, Any] = json.loads(vendored("land-110m.json"))
    arcs = [_arc(steps, **topology["transform"]) for steps in topology["arcs"]]
    (land,) = topology["objects"]["land"]["geometries"]
    return tuple(_ring(numbers, arcs) for polygon in land["arcs"] for numbers in polygon)


def land_path(step: float = 0.1) -> str:
    """Return the land as an SVG path in degrees, longitude to the right and latitude upwards, rounded to a tenth.

    Filled by `fill-rule: evenodd` it leaves the Caspian Sea out. Lands at the antimeridian pass the map's border, and are drawn at
    both of them.

    Args:
        step: degrees to which corners are rounded.
    """
    return "".join(_outline(line, step) for line in drawn_coastlines())


def drawn_coastlines() -> list[tuple[Point, ...]]:
    """Return the outlines without jumps: those at the antimeridian pass the map's border, and are there for both."""
    return [line for ring in coastlines() for line in _drawn(ring)]


def _arc(steps: list[list[int]], scale: Point, translate: Point) -> list[Point]:
    """Return the points of an arc of TopoJSON, which holds whole steps from point to point."""
    columns = (accumulate(values) for values in zip(*steps, strict=True))
    return [(x * scale[0] + translate[0], y * scale[1] + translate[1]) for x, y in zip(*columns, strict=True)]


def _ring(numbers: list[int], arcs: list[list[Point]]) -> tuple[Point, ...]:
    """Return the arcs end to end; the number ~n stands for arc n from its end to its start."""
    parts = [arcs[number] if number >= 0 else arcs[~number][::-1] for number in numbers]
    return (*(point for part in parts for point in part[:-1]), parts[-1][-1])


def _outline(ring: tuple[Point, ...], step: float) -> str:
    """Return a ring as relative lines between corners on a grid: a third of the letters of absolute ones."""
    corners = [(round(lon / step), -round(lat / step)) for lon, lat in ring]
    moves = [(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in pairwise(corners)]
    lines = " ".join(f"{_short(x * step)} {_short(y * step)}" for x, y in moves if (x, y) != (0, 0))
    start = " ".join(_short(value * step) for value in corners[0])
    return f"M{start}l{lines}Z" if lines else ""


def _unwrapped(ring: tuple[Point, ...]) -> tuple[Point, ...]:
    """Return a ring without jumps at the antimeridian: its longitudes may pass 180. One around a pole goes over that."""
    turns = accumulate(
        (
            -360.0 if after[0] - before[0] > 180 else 360.0 if after[0] - before[0] < -180 else 0.0
            for before, after in pairwise(ring)
        ),
        initial=0.0,
    )
    line = tuple((lon + turn, lat) for (lon, lat), turn in zip(ring, turns, strict=True))
    (first, latitude), (last, _) = line[0], line[-1]
    pole = 90.0 if latitude > 0 else -90.0
    return line if abs(last - first) < 180 else (*line, (last, pole), (first, pole))


def _drawn(ring: tuple[Point, ...]) -> Iterator[tuple[Point, ...]]:
    """Yield a ring, and where it passes 180 degrees its other end on the other side of the map."""
    line = _unwrapped(ring)
    yield line
    longitudes = [lon for lon, _ in line]
    if max(longitudes) > 180.01 or min(longitudes) < -180.01:
        turn = -360.0 if max(longitudes) > 180.01 else 360.0
        yield tuple((lon + turn, lat) for lon, lat in line)


def _short(value: float) -> str:
    return f"{round(value, 6):g}".replace("0.", ".", 1) if abs(value) < 1 else f"{round(value, 6):g}"
