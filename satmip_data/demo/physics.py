"""Seasons and regional style of the small world: what the land is like at a place and a time. Pure."""

import datetime as dt
import math
from dataclasses import dataclass

import numpy as np

from satmip_data.records import Point


def metres_per_degree(lat: float) -> Point:
    """Return the metres of one degree of longitude and of latitude at latitude `lat` on the WGS84 ellipsoid (N cos(lat), M)."""
    square = 0.00669437999014
    root = 1.0 - square * math.sin(math.radians(lat)) ** 2
    prime = 6378137.0 / math.sqrt(root)
    meridian = 6378137.0 * (1.0 - square) / root**1.5
    return math.radians(prime) * math.cos(math.radians(lat)), math.radians(meridian)


@dataclass(frozen=True, slots=True)
class Season:
    """What the date has made of the land."""

    year: float
    """Time of the local year, 0 to 1 from midwinter to midwinter, whatever the hemisphere."""
    temperature: float
    """Degrees Celsius."""
    green: float
    """How green the grass is, 0 to 1."""
    snow: float
    """Share of the ground under snow, 0 to 1."""


def season(time: dt.datetime, lat: float, wet: float) -> Season:
    """Return the season at latitude `lat` (degrees) of a place as wet as `wet` (0 desert to 1 rain forest).

    A smooth climate: the year's mean falls with latitude, its swing grows with it; rain comes in summer in the tropics and in
    winter around the Mediterranean's latitude.
    """
    year = ((time.timetuple().tm_yday - 15) / 365.25 + (0.5 if lat < 0 else 0.0)) % 1.0
    summer = -math.cos(2 * math.pi * year)
    high = abs(lat)
    swing = 1.0 + 0.29 * high * (1.25 - 0.6 * wet) * (0.6 if lat < 0 else 1.0)
    temperature = 27.0 - 34.0 * (high / 70.0) ** 1.7 + swing * summer
    rain = wet
    if high < 27.0:
        rain += 0.45 * summer * (1.0 - wet) * min(1.0, 3 * wet)
    elif high < 44.0:
        rain -= 0.45 * summer * (1.0 - wet) * min(1.0, 3 * wet)
    green = _rise(temperature, 2.0, 12.0) * _rise(rain, 0.12, 0.62)
    snow = _rise(-temperature, 0.0, 5.0) * _rise(wet, 0.1, 0.4)
    return Season(year, temperature, green, snow)


def _rise(value: float, low: float, high: float) -> float:
    """Return 0 below `low`, 1 above `high`, and a smooth step between."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@dataclass(frozen=True, slots=True)
class Style:
    """How people build and till around a place; changes smoothly over the Earth."""

    roofs: tuple[str, ...]
    """Materials of roofs, one entry of each for every thousandth of its share."""
    street_angle: float
    """Direction of the streets, degrees counter-clockwise from east."""
    lot: float
    """Width of a house's lot, metres."""
    field: float
    """Side of a field, metres."""
    flat: bool
    """Roofs are flat instead of gabled."""


_ROOFS = (  # (latitude, longitude, materials)
    (42, -95, "slate slate brown grey"),
    (58, -120, "slate grey brown green"),
    (15, -90, "rust tin tile white"),
    (-15, -55, "tile tile tile rust"),
    (-38, -68, "tin grey rust tin"),
    (40, 5, "tile tile tile beige"),
    (53, 5, "brown tile slate slate"),
    (64, 20, "brown red slate red"),
    (55, 50, "grey green rust tin"),
    (27, 35, "beige white beige white"),
    (2, 22, "rust tin rust tin"),
    (-28, 25, "tin brown grey tile"),
    (22, 78, "beige grey white grey"),
    (33, 110, "blue grey brown blue"),
    (38, 138, "slate blue slate grey"),
    (3, 112, "tile rust brown tile"),
    (-34, 145, "tin slate brown white"),
    (-15, 178, "tin blue red green"),
    (67, 178, "green blue red grey"),
)


def style(location: Point, wet: float) -> Style:
    """Return the regional style at (longitude, latitude) of a place as wet as `wet`."""
    lon, lat = location
    weights = np.array([1.0 / (_angle(lat, lon, a, b) ** 2 + 16.0) ** 2 for a, b, _ in _ROOFS])
    shares = np.round(weights / weights.sum() * 250).astype(int)
    roofs = tuple(m for share, (_, _, names) in zip(shares, _ROOFS, strict=True) for m in names.split() for _ in range(share))
    angle = 35.0 * math.sin(math.radians(3.1 * lat + 40)) + 35.0 * math.cos(math.radians(2.3 * lon))
    west = 0.5 + 0.5 * math.cos(math.radians(lon + 100))  # wide lots and fields of the Americas
    flat = roofs.count("beige") + roofs.count("white") > 0.4 * len(roofs)
    return Style(roofs, angle, 13.0 + 9.0 * west, 45.0 + 90.0 * west + 30.0 * (1 - wet), flat)


def _angle(lat: float, lon: float, other_lat: float, other_lon: float) -> float:
    """Return the degrees of arc between two points."""
    a, b, turn = math.radians(lat), math.radians(other_lat), math.radians(lon - other_lon)
    cosine = math.sin(a) * math.sin(b) + math.cos(a) * math.cos(b) * math.cos(turn)
    return math.degrees(math.acos(min(max(cosine, -1.0), 1.0)))
