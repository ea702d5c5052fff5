"""Columns of a table as small whole numbers: the bins of a number, the values of a word, the cells of a map. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from satmip_data.explorer.arrays import Numbers
from satmip_data.pages.charts import ticks

Codes = npt.NDArray[np.unsignedinteger[Any]]

_BINS = 48
"""At most, about, where values do not say."""
_LOG_RANGE = 4.0
"""Quotient of the largest and the smallest value from which bins of sizes grow with them."""
_A_DECADE = (48, 24, 20, 12, 10, 6, 5, 4, 3, 2, 1)


class Column(Protocol):
    """Data of a chart: one code per row, and the meaning of the codes."""

    @property
    def codes(self) -> Codes:
        """One a row."""
        ...

    def meaning(self) -> dict[str, Any]:
        """Return what the codes mean, as JSON."""
        ...


@dataclass(frozen=True, eq=False)
class Histogram:
    """A number by its bins; the code after that of the last bin is that of unknown numbers."""

    codes: Codes
    edges: tuple[float, ...]
    """Of the bins, rising; of whole numbers in the middle between them."""
    log: bool = False
    whole: bool = False
    unit: str = ""
    labels: tuple[str, ...] = ()
    """Names of the bins, where they have some."""

    def meaning(self) -> dict[str, Any]:
        """Return what the codes mean, as JSON."""
        return {
            "kind": "histogram", "size": len(self.edges), "edges": self.edges, "log": self.log, "whole": self.whole,
            "unit": self.unit, "labels": self.labels,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bars:
    """Words, none, one or several a row, most frequent first."""

    codes: Codes
    values: tuple[str, ...]
    sets: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    """Numbers of the values that each code stands for; where there is none, code and value are the same."""
    absent: int | None = None
    """Number of the value that says that there is none."""

    def meaning(self) -> dict[str, Any]:
        """Return what the codes mean, as JSON."""
        size = len(self.sets) or len(self.values)
        return {"kind": "bars", "size": size, "values": self.values, "sets": self.sets, "absent": self.absent}


@dataclass(frozen=True, eq=False)
class Map:
    """Places by the cells of a grid, row by row from the north-west; the code after that of the last is that of unknown places."""

    codes: Codes
    west: float
    north: float
    step: float
    """Degrees, the side of a cell."""
    columns: int
    rows: int

    def meaning(self) -> dict[str, Any]:
        """Return what the codes mean, as JSON."""
        return {
            "kind": "map", "size": self.columns * self.rows + 1, "west": self.west, "north": self.north, "step": self.step,
            "columns": self.columns, "rows": self.rows,
        }  # fmt: skip


def histogram(values: Numbers, edges: Sequence[float] | None = None, *, unit: str = "", size: bool = False) -> Histogram:
    """Return numbers by bins.

    Args:
        values: NaN where unknown.
        edges: of the bins; they are left where a value lies outside. Without them bins are round numbers over the values.
        size: whether quotients count rather than differences, as with sizes.
    """
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    log = size and low > 0 and high / low > _LOG_RANGE
    if edges is None or low < edges[0] or high > edges[-1]:
        edges = _log_edges(low, high) if log else ticks(low, high, _BINS)
    return Histogram(_bins(values, edges), tuple(edges), log=log, unit=unit)


def whole_numbers(values: Numbers, low: int, high: int, labels: Sequence[str] = ()) -> Histogram:
    """Return whole numbers from `low` to `high`, each its own bin; NaN where unknown."""
    edges = [number - 0.5 for number in range(low, high + 2)]
    return Histogram(_bins(values, edges), tuple(edges), whole=True, labels=tuple(labels))


def _log_edges(low: float, high: float) -> list[float]:
    decades = math.log10(high / low)
    n = next((n for n in _A_DECADE if n * decades <= _BINS), 1)
    first, last = math.floor(n * math.log10(low) + 1e-9), math.ceil(n * math.log10(high) - 1e-9)
    return [10 ** (number / n) for number in range(first, last + 1)]


def _bins(values: Numbers, edges: Sequence[float]) -> Codes:
    count = len(edges) - 1
    found = np.clip(np.searchsorted(np.asarray(edges), values, side="right") - 1, 0, count - 1)
    return narrow(np.where(np.isnan(values), count, found), count + 1)


def bars(codes: npt.NDArray[np.integer[Any]], values: Sequence[str], unknown: str = "unknown") -> Bars:
    """Return words, most frequent first.

    Args:
        codes: number of the word of each row; -1 where it has none.
        values: the words.
        unknown: what stands for none.
    """
    return bar_sets(codes, [(number,) for number in range(len(values))], values, unknown)


def bar_sets(
    codes: npt.NDArray[np.integer[Any]], sets: Sequence[Sequence[int]], values: Sequence[str], unknown: str = "unknown"
) -> Bars:
    """Return sets of words, most frequent words first.

    Args:
        codes: number of the set of each row; -1 where it has none.
        sets: each as numbers of words.
        values: the words.
        unknown: what stands for an empty set, and for none.
    """
    present, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    words = [tuple(sets[code]) if code >= 0 else () for code in present]
    totals = np.zeros(len(values) + 1, np.int64)
    for numbers, count in zip(words, counts, strict=True):
        totals[list(numbers) or [len(values)]] += count
    order = [int(number) for number in np.argsort(-totals[:-1], kind="stable") if totals[number]]
    place = {number: rank for rank, number in enumerate(order)}
    absent = len(order) if totals[-1] else None
    shown = (*(values[number] for number in order), *([unknown] if absent is not None else []))
    found = tuple(tuple(place[number] for number in numbers) or (len(order),) for numbers in words)
    if all(len(numbers) == 1 for numbers in found) and len({numbers[0] for numbers in found}) == len(found):
        return Bars(narrow(np.array([numbers[0] for numbers in found], np.int64)[inverse], len(shown)), shown, absent=absent)
    return Bars(narrow(inverse, len(found)), shown, found, absent)


_WORLD = (-180.0, -60.0, 180.0, 84.0)
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_ACROSS, _ASPECT = 180, 0.5


def world_map(lon: Numbers, lat: Numbers) -> Map:
    """Return places by the cells of a map of the region that holds all of them; NaN where unknown."""
    known = ~(np.isnan(lon) | np.isnan(lat))
    west, south, east, north = _extent(lon[known], lat[known])
    step = next(step for step in _STEPS if step * _ACROSS >= east - west - 1e-9)
    columns, rows = math.ceil((east - west) / step - 1e-9), math.ceil((north - south) / step - 1e-9)
    across = np.clip(np.floor((np.where(known, lon, west) - west) / step), 0, columns - 1)
    down = np.clip(np.floor((north - np.where(known, lat, north)) / step), 0, rows - 1)
    codes = np.where(known, down * columns + across, columns * rows).astype(np.int64)
    return Map(narrow(codes, columns * rows + 1), west, north, step, columns, rows)


def _extent(lon: Numbers, lat: Numbers) -> tuple[float, float, float, float]:
    """Return west, south, east, north of the map: of a region with its surroundings, twice as wide as high, or of the world."""
    if not len(lon):
        return _WORLD
    width = max(1.3 * float(np.ptp(lon)), 1.3 * float(np.ptp(lat)) / _ASPECT, 1.8)
    if width > 120:
        south, north = float(lat.min()), float(lat.max())
        return _WORLD[0], _WORLD[1] if south > _WORLD[1] else -90.0, _WORLD[2], _WORLD[3] if north < _WORLD[3] else 90.0
    # Whole cells of a round number of degrees, so that a region of many data sets is drawn in the same cells.
    step = next(step for step in _STEPS if step * _ACROSS >= width)
    west = math.floor(((lon.min() + lon.max()) / 2 - width / 2) / step) * step
    north = math.ceil(((lat.min() + lat.max()) / 2 + width * _ASPECT / 2) / step) * step
    return west, max(north - width * _ASPECT, -90.0), west + width, min(north, 90.0)


def narrow(codes: npt.NDArray[np.integer[Any]], size: int) -> Codes:
    """Return codes below `size` in as few bytes as hold them."""
    kind = np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.uint32
    return codes.astype(kind)
