"""The part of the report that shows what a run reads off pictures: for each one a map, a year, and numbers beside the true ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from satmip_data.pages import Grid
from satmip_data.pages.coastlines import land_path
from satmip_train.data.dataset import Dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation import reading, tables
from satmip_train.evaluation.gallery import Chip, read_chips
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.reading import Indices, Records
from satmip_train.runs.export import load_projections

PICTURES, NEAREST = 6, 10
"""How many pictures are shown, and how many records of each, the first of which is the answer."""


@dataclass(frozen=True)
class Moment:
    """A record in words, and as marks on the map and in the year."""

    words: tuple[str, str, str, str]
    """Place, day, elevation of the sun, ground sample distance."""
    x: float
    y: float
    """On the map: degrees east, and degrees south."""
    day: float


@dataclass(frozen=True)
class Shown:
    """A picture, what is true of it, and what the nearest records say, the nearest first."""

    chip: Chip
    truth: Moment
    found: tuple[Moment, ...]


def readers(runs: Sequence[Path]) -> list[Path]:
    """Return the runs that can read: those that learned from metadata."""
    found = []
    for run in runs:
        try:
            load_projections(run)
        except UsageError:
            continue
        found.append(run)
    return found


def reading_values(runs: Sequence[Path], dataset: Dataset, splits: tuple[str, str], running: Running) -> dict[str, Any]:
    """Return what the template shows of the runs that learned from metadata; of the pictures, what the first of them reads.

    Args:
        splits: that of the pictures, and that of the records

    Raises:
        UsageError: the shards cannot be read by the runs.
    """
    able = readers(runs)
    if not able or not all(dataset.splits.get(split) for split in splits):
        return {"reading": None}
    table = tables.reading_table(reading.read(able, dataset, splits, running, lambda name, samples: None))
    lines = (*table.models, *table.summaries)
    found = reading.nearest_records(able[0], dataset, splits, running, NEAREST)[0]
    grid = Grid.of(table.header, lines, range(len(table.models), len(lines)))
    pictures = shown(dataset, splits, found[:PICTURES])
    return {
        "reading": {"pictures": pictures, "by": able[0].resolve().name, "land": land_path(), "table": grid, "notes": table.notes}
    }


def shown(dataset: Dataset, splits: tuple[str, str], found: Indices) -> list[Shown]:
    """Return the first pictures with their truth and the records that were found for them."""
    truth, records = (reading.read_records(dataset, split) for split in splits)
    chips = read_chips(dataset, splits[0], range(len(found)))
    return [
        Shown(chip, moment(truth, number), tuple(moment(records, int(record)) for record in near))
        for number, (chip, near) in enumerate(zip(chips, found, strict=True))
    ]


def moment(records: Records, number: int) -> Moment:
    """Return what a record says."""
    of = records.physical
    lon, lat, day, gsd, sun = (float(v[number]) for v in (of.longitude, of.latitude, of.day, of.gsd, records.sun_elevation))
    sides = "N" if lat >= 0 else "S", "E" if lon >= 0 else "W"
    place = "place unknown" if math.isnan(lat) else f"{abs(lat):.0f}° {sides[0]}, {abs(lon):.0f}° {sides[1]}"
    when = "day unknown" if math.isnan(day) else _words(day)
    high = "sun unknown" if math.isnan(sun) else f"sun {sun:.0f}° high"
    fine = "GSD unknown" if math.isnan(gsd) else f"{gsd:.2g} m a pixel"
    return Moment((place, when, high, fine), round(lon, 1), round(-lat, 1), round(day, 1))


def _words(day: float) -> str:
    that = date(2001, 1, 1) + timedelta(days=min(int(day / 365.25 * 365), 364))
    return f"{that.day} {that:%B}"
