"""Physical checks: do the place, the time, the sun and the pixels of a record agree with each other? Pure.

A record that fails one is suspect: it is flagged, and its source keeps or drops it as the user says.
"""

import math

from satmip_data import geometry
from satmip_data.metadata.sun import sun_position
from satmip_data.records import Georeference, Metadata, Point, Window

FLAGS = {
    "country_code": "the country code is not ISO 3166-1 and was normalised; no reason to doubt the record",
    "utm_zone": "the UTM zone is that of no corner of the footprint",
    "footprint_shape": "the footprint is not as wide as it is high, in metres",
    "pixel_size": "the pixel size is not the footprint's extent over the image's size",
    "sun_position": "the sun did not stand there at that time",
    "image_damaged": "parts of the image's data are damaged or missing, and --keep-damaged kept it",
}
"""Every flag a sample can carry, with its meaning."""

SUSPECT = frozenset(FLAGS) - {"country_code", "image_damaged"}
"""The flags of records that contradict themselves."""

SUN_TOLERANCE = 3.0
"""Degrees of arc between the recorded and the computed sun. Records hold the mean over a strip: its ends may lie 300 km apart,
which is 1.4 degrees from the middle, and its scan takes under a minute, a quarter of a degree. A timestamp that is wrong by an
hour, a date by ten days near an equinox, or a place by 5 degrees moves the sun further."""

SHAPE_TOLERANCE = 0.01
"""Share by which the sides of a square footprint may differ, besides a pixel: over 5 km at a latitude of 70 degrees the length of a
degree of longitude changes by 0.25 %, and the image's border is rounded to whole pixels."""

_ECCENTRICITY_SQUARED = geometry.WGS84.es

PIXEL_TOLERANCE = 1e-6
"""Relative difference of pixel sizes: fMoW's agree to 12 digits, so that one in a million is already another image."""


def utm_zone(zone: str | None, georeference: Georeference | None, width: int, height: int) -> str | None:
    """Say how a recorded UTM zone, as "32T", departs from the footprint of an image of so many pixels; None if it agrees.

    The zone of any corner or of the centre will do, with or without the exceptions of Norway and Svalbard: a vendor may have asked
    another point. Beyond UTM's latitudes, and where zone or place are unknown, there is nothing to compare.
    """
    if zone is None or georeference is None:
        return None
    centre = geometry.lonlat(georeference, width / 2, height / 2)
    if not -80.0 <= centre[1] <= 84.0 or geometry.utm_zone(centre) == zone:
        return None
    points = [(0, 0), (width, 0), (0, height), (width, height), (width / 2, height / 2)]
    places = [geometry.lonlat(georeference, *point) for point in points]
    if not all(-80.0 <= lat <= 84.0 for _, lat in places):
        return None
    zones = {name for place in places for name in (geometry.utm_zone(place), _regular_zone(place))}
    if zone in zones:
        return None
    lon, lat = places[-1]
    return f"utm_zone is {zone}, but longitude {lon:.4f}, latitude {lat:.4f} lies in {' or '.join(sorted(zones))}"


def _regular_zone(location: Point) -> str:
    """Return the zone six degrees wide, and its band, without exceptions."""
    band = geometry.utm_zone(location)[-1]
    return f"{min(int((geometry.wrap_longitude(location[0]) + 180.0) // 6), 59) + 1}{band}"


def footprint_shape(georeference: Georeference | None, width: int, height: int) -> str | None:
    """Say how a footprint that should be square departs from it; None if it is, or is unknown.

    fMoW cut its images as squares in metres out of a grid whose pixels are square in degrees, so that height / width in pixels is
    N cos(latitude) / M, with the radii of WGS84.
    """
    if georeference is None or _surely_square(georeference, width, height):
        return None
    east, north = geometry.ground_gsd(georeference, Window(0, 0, width, height), (1, 1))
    if abs(east - north) <= SHAPE_TOLERANCE * max(east, north) + max(east / width, north / height):
        return None
    return f"The footprint is not square: {east:.1f} m wide and {north:.1f} m high"


def _surely_square(georeference: Georeference, width: int, height: int) -> bool:
    """Tell whether a small north-up image is square to half the tolerance, by the radii of WGS84 at its centre.

    Over a degree those differ from geodesics by a thousandth at most, so that the geodesics, which take longer, would say the same.
    """
    a, b, _, d, e, f = georeference.affine
    across, down = a * width, -e * height
    if georeference.crs != "EPSG:4326" or b or d or not (0.0 < across < 1.0 and 0.0 < down < 1.0):
        return False
    latitude = math.radians(f - down / 2)
    bend = 1.0 - _ECCENTRICITY_SQUARED * math.sin(latitude) ** 2
    east, north = across * math.cos(latitude), down * (1.0 - _ECCENTRICITY_SQUARED) / bend
    return abs(east - north) <= SHAPE_TOLERANCE / 2 * max(east, north)


def pixel_size(recorded: Point | None, georeference: Georeference | None, width: int, height: int) -> str | None:
    """Say how a recorded pixel size, degrees along x and y, departs from the georeference; None if it agrees or one is unknown."""
    if recorded is None or georeference is None:
        return None
    measured = geometry.pixel_size(georeference, width, height)
    if all(math.isclose(a, b, rel_tol=PIXEL_TOLERANCE) for a, b in zip(recorded, measured, strict=True)):
        return None
    shown, expected = (" x ".join(f"{number:.9g}" for number in pair) for pair in (recorded, measured))
    return f"The record gives a pixel size of {shown} degrees; the footprint over {width} x {height} px gives {expected}"


def sun(metadata: Metadata) -> str | None:
    """Say how the recorded sun departs from an ephemeris for time and place; None if it agrees, or if any of them is unknown.

    The two directions are compared by the arc between them: near the zenith an azimuth alone says little.
    """
    azimuth, elevation = metadata.sun_azimuth, metadata.sun_elevation
    if azimuth is None or elevation is None or metadata.datetime is None or metadata.location is None:
        return None
    computed = sun_position(metadata.datetime, metadata.location)
    arc = arc_between((azimuth, elevation), computed)
    if arc <= SUN_TOLERANCE:
        return None
    return (
        f"The record puts the sun at azimuth {azimuth:.1f}, elevation {elevation:.1f}; for its time and place it stood at "
        f"{computed[0]:.1f}, {computed[1]:.1f}, {arc:.1f} degrees away"
    )


def arc_between(first: Point, second: Point) -> float:
    """Return the degrees of arc between two directions (azimuth, elevation), by the haversine formula."""
    (az1, el1), (az2, el2) = (tuple(map(math.radians, direction)) for direction in (first, second))
    half = math.sin((el2 - el1) / 2) ** 2 + math.cos(el1) * math.cos(el2) * math.sin((az2 - az1) / 2) ** 2
    return math.degrees(2 * math.asin(math.sqrt(min(half, 1.0))))
