"""Answers in words and as tables: what the command prints, and its GeoParquet."""

import json
import math
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from satmip_data.metadata import clock
from satmip_train.files import write_atomically
from satmip_train.joint_space.ask import Answer, Density, earth_share
from satmip_train.joint_space.calibration import LEVELS, Calibration
from satmip_train.joint_space.find import Found
from satmip_train.joint_space.quantities import QUANTITIES
from satmip_train.joint_space.spaces import Categories, Circle, Line, Logarithm, Sphere

LABELS = {
    "location": "location", "day": "day of the year", "hour": "hour (UTC)", "year": "year", "gsd": "GSD",
    "multispectral_gsd": "multispectral GSD", "pixel_size": "pixel size", "cloud_cover": "cloud cover",
    "target_azimuth_angle": "target azimuth", "sun_azimuth_angle": "sun azimuth", "sun_elevation_angle": "sun elevation",
    "off_nadir_angle": "off nadir", "utm_zone": "UTM zone", "country_code": "country", "scan_direction": "scan direction",
    "wavelengths": "wavelengths", "sensor_platform": "sensor",
}  # fmt: skip
_MOST_WORDS, _MOST_SPANS, _LONGEST = 6, 3, 24


def value(name: str, known: Any) -> str:
    """Return a value of a quantity in words."""
    if name == "location":
        lon, lat = known
        return f"{abs(lat):.1f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.1f}° {'E' if lon >= 0 else 'W'}"
    if name == "day":
        return day(float(known))
    if name == "hour":
        minutes = round(float(known) % 24 * 60)
        return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"
    if name == "year":
        return f"{float(known):.1f}"
    if name in ("gsd", "multispectral_gsd"):
        return f"{float(known):.3g} m"
    if name == "pixel_size":
        return f"{float(known):.2e}°"
    if name == "cloud_cover":
        return f"{max(float(known), 0.0):.0f} %"
    if name.endswith("_angle"):
        return f"{float(known) % 360 if 'azimuth' in name else float(known):.0f}°"
    return str(known)


def day(position: float) -> str:
    """Return a position in the year as a day and a month."""
    that = date(2001, 1, 1) + timedelta(days=min(int(position % clock.YEAR_DAYS / clock.YEAR_DAYS * 365), 364))
    return f"{that.day} {that:%b}"


def region(density: Density, level: int) -> str:
    """Return a region of stated coverage in words."""
    space = density.support.space
    inside = density.region(level)
    if inside.all():
        return "anything"
    if isinstance(space, Sphere):
        area = density.area(level)
        return f"{area / 1e6:.3g} million km² ({100 * earth_share(area):.2g} % of the Earth)"
    if isinstance(space, Categories):
        words = density.words(level)
        more = f" and {len(words) - _MOST_WORDS} more" if len(words) > _MOST_WORDS else ""
        return ", ".join(words[:_MOST_WORDS]) + more
    spans = density.spans(level)
    more = f" and {len(spans) - _MOST_SPANS} more" if len(spans) > _MOST_SPANS else ""
    return "; ".join(f"{value(density.name, low)} to {value(density.name, high)}" for low, high in spans[:_MOST_SPANS]) + more


def error(density: Density, off: float) -> str:
    """Return in words how far the best answer is from the truth."""
    space = density.support.space
    if isinstance(space, Sphere):
        return f"{off:,.0f} km"
    if isinstance(space, Categories):
        return "right" if off == 0 else "wrong"
    if isinstance(space, Logarithm):
        return f"{100 * (math.exp(off) - 1):.0f} %"
    unit = "hours" if density.name == "hour" else density.quantity.unit
    return f"{off:.3g} {unit}".replace(" degrees", "°") if isinstance(space, Circle | Line) else f"{off:.3g}"


def answer_rows(answer: Answer) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and rows of the table of one picture."""
    levels = next((tuple(d.thresholds) for d in answer.densities.values() if d.thresholds), ())
    truths = {name: answer.error(name) for name in answer.densities}
    known = any(off is not None for off in truths.values())
    header = ("", "best", *(f"{level} % region" for level in levels), *(("truth", "off by") if known else ()))
    rows = []
    for name, density in answer.densities.items():
        row = [LABELS[name], value(name, density.best)]
        row += [region(density, level) if level in density.thresholds else "" for level in levels]
        if known:
            off = truths[name]
            true = "" if off is None else value(name, density.quantity.values([answer.truth])[0])
            row += [true, "" if off is None else error(density, off)]
        rows.append(tuple(row))
    return header, rows


def summary_rows(answers: Sequence[Answer]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and rows of the table of many pictures: their best answers."""
    first = ("location", "day", "hour", "year", "gsd", "sun_elevation_angle")
    names = sorted(answers[0].densities, key=lambda name: first.index(name) if name in first else len(first))[: len(first)]
    rows = [(_short(answer.name), *(value(name, answer.densities[name].best) for name in names)) for answer in answers]
    return ("image", *(LABELS[name] for name in names)), rows


def found_rows(found: Sequence[Found], names: Iterable[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and rows of the table of pictures that were found by a description, with what their records say."""
    shown = [name for name in ("location", "day", "hour", "year", "gsd", "country_code") if name in names]
    rows = []
    for one in found:
        told = [QUANTITIES[name].read(one.record) for name in shown]
        values = ("" if known is None else value(name, known) for name, known in zip(shown, told, strict=True))
        rows.append((one.key, f"{one.times:.1f}", *values, "yes" if one.fits else "no"))
    return ("chip", "times as likely", *(LABELS[name] for name in shown), "fits"), rows


def _short(name: str) -> str:
    """Return the end of a long path."""
    return name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}"


def trial_rows(result: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and rows of what `trial` measured: a row for each way to answer and a column for each quantity."""
    names = list(result["units"])
    rows = [(way, *("" if found[n] is None else f"{found[n]:.3g}" for n in names)) for way, found in result["errors"].items()]
    rows.append(("bits that ask gains", *(f"{result['bits'][name]:.2f}" if name in result["bits"] else "" for name in names)))
    return ("median error", *(LABELS[name] for name in names)), rows


def about_trial(result: dict[str, Any]) -> str:
    """Return in a sentence what was measured, and in which units."""
    units = "; ".join(f"{LABELS[name]}: {unit}" for name, unit in result["units"].items())
    tested = result["tested"]
    return f"Median errors on {tested['pictures']:,} pictures of {tested['places']:,} places that nothing was fitted on. {units}."


def about_regions(calibration: Calibration, names: Iterable[str], given: bool) -> list[str]:
    """Return in sentences what the regions are worth."""
    if given:
        return ["No regions: they are calibrated for pictures of which nothing is known, and something was given."]
    if not calibration.calibrated:
        return ["No regions: nothing is calibrated, as there were no pictures of other places. Use --shards with a second split."]
    lines = []
    measured = {name: calibration.coverage[name] for name in names if name in calibration.coverage}
    if measured:
        first = next(iter(measured.values()))
        lines.append(
            f"Regions are calibrated on {max(calibration.places.values()):,} held-out places. On {first.pictures:,} pictures of "
            f"{first.places:,} other places they held the truth in (places count alike; stated, ± one "
            "standard deviation of such a measurement):"
        )
        for name, found in measured.items():
            shares = ", ".join(
                f"{100 * found.share[level]:.0f} % ({level} ± {_deviation(level, calibration.places[name], found.places):.0f})"
                for level in LEVELS
                if level in found.share
            )
            lines.append(f"  {LABELS[name]}: {shares}")
    few = [LABELS[name] for name in names if 0 < calibration.places.get(name, 0) < 19]
    if few:
        lines.append(f"A 95 % region needs 19 held-out places or more; these have fewer, so theirs is anything: {', '.join(few)}.")
    return lines


def _deviation(level: int, calibrated: int, tested: int) -> float:
    """Return by how much a measured coverage varies with which places calibrate and which test: one standard deviation, percent."""
    return math.sqrt(level * (100 - level) * (1 / max(calibrated, 1) + 1 / max(tested, 1)))


def write_parquet(answers: Iterable[Answer], path: Path, about: dict[str, Any]) -> int:
    """Write a row for each picture: best answers, how large regions are, and the best location as a point (GeoParquet).

    Columns: image; of each quantity NAME (location: location_lon, location_lat), NAME_share_50 ... (share of all cells that a
    region takes, where regions are calibrated), NAME_low_80 and NAME_high_80 (where the region is one interval), NAME_error (where
    the truth is known); nearest, the keys of the nearest references; geometry.

    Returns:
        how many rows were written
    """
    rows = [_row(answer) for answer in answers]
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}},
    }
    metadata = {"satmip": json.dumps(about)} | ({"geo": json.dumps(geo)} if "geometry" in names else {})
    table = table.replace_schema_metadata(metadata)
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))
    return len(rows)


def _row(answer: Answer) -> dict[str, Any]:
    row: dict[str, Any] = {"image": answer.name.encode("utf-8", "backslashreplace").decode()}
    for name, density in answer.densities.items():
        if name == "location":
            row["location_lon"], row["location_lat"] = (float(part) for part in density.best)
        else:
            row[name] = density.best.item() if hasattr(density.best, "item") else density.best
        for level in density.thresholds:
            row[f"{name}_share_{level}"] = density.share(level)
        if 80 in density.thresholds and not isinstance(density.support.space, Sphere | Categories):
            spans = density.spans(80)
            row[f"{name}_low_80"], row[f"{name}_high_80"] = spans[0] if len(spans) == 1 else (None, None)
        off = answer.error(name)
        if off is not None:
            row[f"{name}_error"] = off
    row["nearest"] = [one.key for one in answer.nearest]
    if "location" in answer.densities:
        row["geometry"] = shapely.to_wkb(shapely.Point(row["location_lon"], row["location_lat"]))
    return row
