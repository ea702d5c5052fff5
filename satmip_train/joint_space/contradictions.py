"""Physical checks of a record by itself: what it says of place, time, sun and pixels cannot all be true. Pure; sees no picture."""

from satmip_data import geometry
from satmip_data.metadata import checks
from satmip_data.metadata.sun import sun_position
from satmip_data.records import Georeference, Metadata, Window

GSD_TOLERANCE = 1.25
"""Ratio by which the GSD may depart from the pixel size in degrees at that latitude: a slant view or a rounded GSD stays below."""
_AROUND = 0.2
"""Degrees around the location within which the edge of a UTM zone excuses the record: its scene may have been larger."""


def contradictions(metadata: Metadata, flags: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return the parts of a record that contradict the rest of it, each with the reason.

    Args:
        metadata: of the sample
        flags: that the build gave it, see `satmip_data.metadata.checks`
    """
    found = [*_sun(metadata), *_utm_zone(metadata), *_gsd(metadata)]
    known = {"sun_position" if part == "timestamp" else part for part, _ in found}
    told = (name for name in flags if name in checks.SUSPECT and name not in known)
    return [*found, *(("record", checks.FLAGS[name]) for name in told)]


def _sun(metadata: Metadata) -> list[tuple[str, str]]:
    if metadata.datetime is None or metadata.location is None:
        return []
    elevation = sun_position(metadata.datetime, metadata.location)[1]
    if elevation < 0:
        return [("timestamp", f"at that time and place the sun is {-elevation:.0f}° below the horizon")]
    if checks.sun(metadata) is None:
        return []
    assert metadata.sun_azimuth is not None
    assert metadata.sun_elevation is not None
    recorded = f"{metadata.sun_azimuth:.0f}° azimuth and {metadata.sun_elevation:.0f}° elevation"
    azimuth, elevation = sun_position(metadata.datetime, metadata.location)
    return [("timestamp", f"at that time and place the sun stands at {azimuth:.0f}°, {elevation:.0f}°, not {recorded}")]


def _pixel(metadata: Metadata, size: tuple[float, float]) -> Georeference | None:
    """Return a pixel of so many degrees around the location."""
    if metadata.location is None:
        return None
    (lon, lat), (width, height) = metadata.location, size
    return Georeference((width, 0.0, lon - width / 2, 0.0, -height, lat + height / 2))


def _utm_zone(metadata: Metadata) -> list[tuple[str, str]]:
    around = _pixel(metadata, (2 * _AROUND, 2 * _AROUND))
    if checks.utm_zone(metadata.utm_zone, around, 1, 1) is None:
        return []
    assert metadata.location is not None
    return [("utm_zone", f"the location lies in UTM zone {geometry.utm_zone(metadata.location)}, not {metadata.utm_zone}")]


def _gsd(metadata: Metadata) -> list[tuple[str, str]]:
    pixel = None if metadata.pixel_size is None else _pixel(metadata, metadata.pixel_size)
    if metadata.gsd is None or pixel is None:
        return []
    ground = geometry.ground_gsd(pixel, Window(0, 0, 1, 1), (1, 1))
    said, there = ((x * y) ** 0.5 for x, y in (metadata.gsd, ground))
    if 1 / GSD_TOLERANCE <= said / there <= GSD_TOLERANCE:
        return []
    return [("gsd", f"the pixel size in degrees is {there:.3g} m at that latitude, and the GSD {said:.3g} m")]
