"""One fMoW record, translated into satmip's types. Oddities of the vendor end here. Pure."""

import re
from typing import Any, Literal

from satmip_data.geometry import georeference_from_bounds, window_centre
from satmip_data.metadata import checks
from satmip_data.records import Aoi, Georeference, Metadata, Window
from satmip_data.sources.base import InvalidError, azimuth, parse_lonlat_ring, parse_time

FALSE_DETECTION = "false_detection"
"""Category of the boxes in which a detector of the challenge saw an object that is not there."""

_CODE = re.compile("[A-Z]{3}")


def georeference_of(record: dict[str, Any]) -> Georeference | None:
    """Return the affine of the whole image from `raw_location`; None in records of the challenge form, which have no GPS.

    Raises:
        InvalidError: `raw_location` is no area on Earth.
    """
    if (text := record.get("raw_location")) is None:
        return None
    found = georeference_from_bounds(parse_lonlat_ring("raw_location", text), record["img_width"], record["img_height"])
    if found.affine[0] <= 0.0 or found.affine[4] >= 0.0:
        raise InvalidError(f'raw_location spans no area: "{text}"')
    return found


def metadata_of(record: dict[str, Any], georeference: Georeference | None) -> Metadata:
    """Return the metadata of the whole image; the record follows its schema.

    Raises:
        InvalidError: `timestamp` is no time.
    """
    gsd, platform, time = record.get("gsd"), record.get("sensor_platform_name"), record.get("timestamp")
    direction, utm = record.get("scan_direction"), record.get("utm")
    width, height = record.get("mean_pixel_width"), record.get("mean_pixel_height")
    whole = Window(0, 0, record["img_width"], record["img_height"])
    return Metadata(
        # The nominal resolution of the product in hand, and not the size of its pixels on the ground, which are square in degrees.
        gsd=None if gsd is None else (gsd, gsd),
        multispectral_gsd=record.get("multi_resolution_dbl"),
        pixel_size=None if width is None or height is None else (abs(width), abs(height)),
        datetime=None if time is None else parse_time("timestamp", time),
        location=None if georeference is None else window_centre(georeference, whole),
        utm_zone=None if utm is None else utm.lstrip("0"),
        country_code=country(record.get("country_code")),
        cloud_cover=record.get("cloud_cover"),
        scan_direction=None if direction is None else direction.capitalize(),
        wavelengths=tuple(round(value) for value in record.get("approximate_wavelengths") or ()) or None,
        target_azimuth=azimuth(record.get("target_azimuth_dbl")),
        sun_azimuth=azimuth(record.get("sun_azimuth_dbl")),
        sun_elevation=record.get("sun_elevation_dbl"),
        off_nadir=record.get("off_nadir_angle_dbl"),
        platform=platform or None,
    )


def country(code: str | None) -> str | None:
    """Return the ISO 3166-1 alpha-3 code.

    "KO-" becomes "XKX", the code that is in common use for Kosovo (from the user-assigned range). What else is not three capital
    letters names no country and is missing: "CA-" stands for the Caspian Sea.
    """
    if code == "KO-":
        return "XKX"
    return code if code is not None and _CODE.fullmatch(code) else None


def findings(record: dict[str, Any], metadata: Metadata, georeference: Georeference | None) -> dict[str, str]:
    """Return what is odd about a record: code of `checks.FLAGS` -> message."""
    size = record["img_width"], record["img_height"]
    code = record.get("country_code")
    found = {
        "country_code": f"{code!r} became {metadata.country_code}" if code and code != metadata.country_code else None,
        "utm_zone": checks.utm_zone(metadata.utm_zone, georeference, *size),
        "footprint_shape": checks.footprint_shape(georeference, *size),
        "pixel_size": checks.pixel_size(metadata.pixel_size, georeference, *size),
        "sun_position": checks.sun(metadata),
    }
    return {flag: message for flag, message in found.items() if message is not None}


def boxes_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the boxes of a record that follows its schema: a list, or one alone."""
    boxes: Any = record["bounding_boxes"]
    return boxes if isinstance(boxes, list) else [boxes]


def aois_of(record: dict[str, Any], boxes: Literal["one", "all"], false_detections: Literal["drop", "keep"]) -> tuple[Aoi, ...]:
    """Return the boxes that become samples; the annotators' own entry (ID -1) never does.

    With "one" the largest labelled box is taken, the first of equals, and it needs no name; a false detection only where there is
    no labelled box. The counts of the paper (Table S1) are those of images, not of boxes; it does not say which box of several is
    read. NOTE[DIFF]: we take the largest, which shows most of the scene and never depends on the order of the annotations' IDs.
    """
    entries = [entry for entry in boxes_of(record) if entry.get("ID") != -1]
    labelled = [entry for entry in entries if entry.get("category") != FALSE_DETECTION]
    taken = entries if false_detections == "keep" else labelled
    if boxes == "one":
        return (_aoi(max(taken, key=_rank), ""),) if taken else ()
    ids = [entry.get("ID") for entry in taken]
    named_by_id = None not in ids and len(set(ids)) == len(ids)
    return tuple(_aoi(entry, f"b{ids[index] if named_by_id else index}") for index, entry in enumerate(taken))


def _aoi(entry: dict[str, Any], name: str) -> Aoi:
    x, y, width, height = entry["box"]
    return Aoi(x, y, width, height, entry.get("category"), name)


def _rank(entry: dict[str, Any]) -> tuple[bool, float]:
    _, _, width, height = entry["box"]
    return entry.get("category") != FALSE_DETECTION, max(width, 0.0) * max(height, 0.0)
