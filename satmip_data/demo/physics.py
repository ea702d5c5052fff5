"""Climate, seasons, sunlight and regional style of the small world: what the land is like at a place and a time. Pure."""

import datetime as dt
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """Look of the land at a date."""

    year: float
    """Time of the local year, 0 to 1 from midwinter to midwinter, whatever the hemisphere."""
    temperature: float
    """Degrees Celsius."""
    green: float
    """How green the grass is, 0 to 1."""
    snow: float
    """Share of the ground under snow, 0 to 1."""
    autumn: float
    """How far leaves have turned yellow and red, 0 to 1, where there is a winter."""
    fresh: float
    """How young and light green leaves and grass are, 0 to 1, after a winter."""


def mean_temperature(lat: float) -> float:
    """Return the mean temperature of a year at a latitude, degrees Celsius."""
    return float(27.0 - 34.0 * (abs(lat) / 70.0) ** 1.7)


def season(time: dt.datetime, lat: float, wet: float) -> Season:
    """Return the season at latitude `lat` (degrees) of a place as wet as `wet` (0 desert to 1 rain forest).

    A smooth climate: the year's mean falls with latitude, its swing grows with it; rain comes in summer in the tropics and in
    winter around the Mediterranean's latitude. Where there is a winter, snow lies on into the spring, leaves are light green when
    they come, grass dries over the summer, and leaves turn in autumn.
    """
    year = ((time.timetuple().tm_yday - 15) / 365.25 + (0.5 if lat < 0 else 0.0)) % 1.0
    summer = -math.cos(2 * math.pi * year)
    high = abs(lat)
    swing = 1.0 + 0.29 * high * (1.25 - 0.6 * wet) * (0.6 if lat < 0 else 1.0)
    temperature = mean_temperature(lat) + swing * summer
    rain = wet
    if high < 27.0:
        rain += 0.45 * summer * (1.0 - wet) * min(1.0, 3 * wet)
    elif high < 44.0:
        rain -= 0.45 * summer * (1.0 - wet) * min(1.0, 3 * wet)
    winters = _rise(swing, 4.0, 9.0)
    dried = max(0.0, math.sin(2 * math.pi * (year - 0.42))) * (1.0 - wet) * winters
    green = _rise(temperature, 2.0, 12.0) * _rise(rain, 0.12, 0.62) * (1.0 - 0.7 * dried)
    before = mean_temperature(lat) - swing * math.cos(2 * math.pi * (year - 0.08))  # a month ago
    snow = _rise(-0.5 * (temperature + before), -1.0, 4.0) * _rise(wet, 0.1, 0.4)
    fresh = max(0.0, math.sin(2 * math.pi * year)) * _rise(temperature, 3.0, 9.0) * winters
    autumn = _rise(16.0 - temperature, 0.0, 8.0) * _rise(temperature + 3.0, 0.0, 5.0) * winters if year > 0.5 else 0.0
    return Season(year, temperature, green, snow, autumn, fresh)


@dataclass(frozen=True, slots=True)
class Sunlight:
    """Light under a clear sky, by the sun's elevation."""

    ambient: float
    """How bright shadows are against level ground in the sun, in the values of a picture."""
    bright: float
    """How bright level ground is against that under a sun at 60 degrees, in the values of a picture."""
    warm: float
    """How much bluer light is lost than red, 0 at the zenith."""


def sunlight(elevation: float) -> Sunlight:
    """Return the light under a sun `elevation` degrees high.

    The beam is weakened by the air as Meinel and Meinel (1976) measured, 0.7 ** (air mass ** 0.678), and the sky adds a tenth of
    it. Pictures hold light to the power 1 / 2.2, and who prepared them has made up for half of the difference between suns.
    """
    sine, high = math.sin(math.radians(elevation)), math.sin(math.radians(60.0))
    light = (sine + 0.1) * 0.7 ** (sine**-0.678)
    usual = (high + 0.1) * 0.7 ** (high**-0.678)
    return Sunlight((0.1 / (sine + 0.1)) ** (1 / 2.2), (light / usual) ** (0.5 / 2.2), 0.035 * (1.0 / sine - 1.0))


def _rise(value: float, low: float, high: float) -> float:
    """Return 0 below `low`, 1 above `high`, and a smooth step between."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@dataclass(frozen=True, slots=True)
class Style:
    """How people build and till around a place; changes smoothly over the Earth."""

    roofs: tuple[str, ...]
    """Materials of roofs, one entry of each for every thousandth of its share."""
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
    weights = 1.0 / (arcs(location, np.array([(b, a) for a, b, _ in _ROOFS])) ** 2 + 16.0) ** 2
    shares = np.round(weights / weights.sum() * 250).astype(int)
    roofs = tuple(m for share, (_, _, names) in zip(shares, _ROOFS, strict=True) for m in names.split() for _ in range(share))
    west = 0.5 + 0.5 * math.cos(math.radians(location[0] + 100))  # wide lots and fields of the Americas
    flat = roofs.count("beige") + roofs.count("white") > 0.4 * len(roofs)
    return Style(roofs, 13.0 + 9.0 * west, 45.0 + 90.0 * west + 30.0 * (1 - wet), flat)


def arcs(location: Point, others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the degrees of arc from a longitude and latitude to others, (n, 2) -> (n,)."""
    (lon, lat), (lons, lats) = np.radians(location), np.radians(others).T
    cosine = np.sin(lat) * np.sin(lats) + np.cos(lat) * np.cos(lats) * np.cos(lon - lons)
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))), np.float64)
