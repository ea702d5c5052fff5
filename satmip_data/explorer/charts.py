"""The charts of the explorer, made from the rows of an index. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from satmip_data.explorer.arrays import Numbers, numbers, pairs, times
from satmip_data.explorer.captions import caption_lengths
from satmip_data.explorer.columns import Bars, Column, bar_sets, bars, histogram, whole_numbers, world_map
from satmip_data.metadata.clip_tokens import token_counter
from satmip_data.metadata.fields import FIELDS

PLACE, TIME, VIEW, CONTENT, RECORD = "Place", "Time", "Scale and view", "Content", "Records"
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
COLUMNS = (
    *"key split shard category labels flags window_width window_height".split(),
    *(field.name for field in FIELDS),
)
"""Of the index, those that the page is made of."""
_SEPARATOR = "\x1f"


@dataclass(frozen=True, eq=False)
class Chart:
    """A column that is drawn, and may be filtered by."""

    name: str
    """In the address of a page, as "cloud_cover"."""
    title: str
    group: str
    column: Column
    by: str = ""
    """Name of the chart by whose values its bars are parted."""


def charts_of(index: pa.Table, dataset: Mapping[str, Any]) -> list[Chart]:
    """Return the charts of the rows of an index, without those of fields that no row knows.

    Args:
        index: rows of `index.parquet`.
        dataset: their `dataset.json`.
    """
    charts = [*_place(index), *_content(index), *_time(index), *_view(index), *_records(index, dataset["caption"])]
    return [chart for chart in charts if chart.name in _ALWAYS or len(np.unique(chart.column.codes)) > 1 or _known(chart.column)]


_ALWAYS = ("split", "missing", "check")


def _known(column: Column) -> bool:
    """Return whether a column all of whose rows have one code says anything."""
    if not len(column.codes):
        return False
    if isinstance(column, Bars):
        return column.absent is None
    return bool(column.codes[0] < column.meaning()["size"] - 1)


def _place(index: pa.Table) -> Iterator[Chart]:
    location = pairs(index["location"])
    yield Chart("place", "Places", PLACE, world_map(location[:, 0], location[:, 1]))
    yield Chart("country_code", "Country", PLACE, _words(index["country_code"]))
    yield Chart("utm_zone", "UTM zone", PLACE, _words(index["utm_zone"]))


def _content(index: pa.Table) -> Iterator[Chart]:
    yield Chart("split", "Split", CONTENT, _words(index["split"]))
    labels = index["labels"]
    if pc.any(pc.greater(pc.list_value_length(labels), 0)).as_py():
        yield Chart("class", "Classes by split", CONTENT, _sets(labels, "none"), by="split")
    else:
        yield Chart("class", "Class by split", CONTENT, _words(index["category"], "none"), by="split")


def _time(index: pa.Table) -> Iterator[Chart]:
    taken = times(index["timestamp"])
    unknown = np.isnat(taken)
    months = taken.astype("datetime64[M]").astype(np.int64)
    years = np.where(unknown, np.nan, months // 12 + 1970)
    hours = np.where(unknown, np.nan, (taken - taken.astype("datetime64[D]")) / np.timedelta64(1, "h"))
    known = years[~unknown]
    span = (int(known.min()), int(known.max())) if len(known) else (2000, 2000)
    year = whole_numbers(years, *span) if span[1] - span[0] < 80 else histogram(years)
    yield Chart("year", "Year", TIME, year)
    yield Chart("month", "Month", TIME, whole_numbers(np.where(unknown, np.nan, months % 12 + 1), 1, 12, MONTHS))
    solar = (hours + pairs(index["location"])[:, 0] / 15) % 24
    yield Chart("solar_hour", "Hour of local solar time", TIME, histogram(solar, np.linspace(0, 24, 49).tolist(), unit="h"))


def _view(index: pa.Table) -> Iterator[Chart]:
    around, percent = np.linspace(0, 360, 37).tolist(), np.linspace(0, 100, 51).tolist()
    degrees = "degrees"

    def number(name: str) -> Numbers:
        return numbers(index[name])

    gsd, pixel = (pairs(index[name]).mean(axis=1) for name in ("gsd", "pixel_size"))
    sides = np.maximum(number("window_width"), number("window_height"))
    yield Chart("gsd", "GSD of the chip", VIEW, histogram(gsd, unit="m", size=True))
    yield Chart("multispectral_gsd", "Multispectral GSD", VIEW, histogram(number("multispectral_gsd"), unit="m", size=True))
    yield Chart("pixel_size", "Pixel size", VIEW, histogram(pixel, unit=degrees, size=True))
    yield Chart("window", "Longer side of the window", VIEW, histogram(sides, unit="pixels", size=True))
    yield Chart("cloud_cover", "Cloud cover", VIEW, histogram(number("cloud_cover"), percent, unit="%"))
    yield Chart("off_nadir_angle", "Off-nadir angle", VIEW, histogram(number("off_nadir_angle"), unit=degrees))
    yield Chart("target_azimuth_angle", "Target azimuth", VIEW, histogram(number("target_azimuth_angle"), around, unit=degrees))
    yield Chart("sun_elevation_angle", "Sun elevation", VIEW, histogram(number("sun_elevation_angle"), unit=degrees))
    yield Chart("sun_azimuth_angle", "Sun azimuth", VIEW, histogram(number("sun_azimuth_angle"), around, unit=degrees))
    yield Chart("sensor_platform", "Sensor", VIEW, _words(index["sensor_platform"]))
    yield Chart("scan_direction", "Scan direction", VIEW, _words(index["scan_direction"]))
    yield Chart("wavelengths", "Wavelengths, nm", VIEW, _joined(index["wavelengths"]))


def _records(index: pa.Table, style: Mapping[str, Any]) -> Iterator[Chart]:
    yield Chart("missing", "Completeness: samples that lack a field", RECORD, _missing(index))
    yield Chart("check", "Physical checks and oddities", RECORD, _sets(index["flags"], "nothing odd"))
    lengths = caption_lengths(index, style["fields"], style["style"])
    unit = "characters" if token_counter() is None else "tokens"
    yield Chart("caption", "Length of the caption", RECORD, _lengths(lengths, unit))


def _lengths(lengths: Numbers, unit: str) -> Column:
    low, high = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
    return whole_numbers(lengths, low, high) if high - low < 60 else histogram(lengths, unit=unit)


def _missing(index: pa.Table) -> Bars:
    """Return the fields that rows lack."""
    lacks = np.stack([pc.is_null(index[field.name]).to_numpy() for field in FIELDS], axis=1)
    codes = lacks @ (1 << np.arange(len(FIELDS)))
    present, inverse = np.unique(codes, return_inverse=True)
    sets = [[number for number in range(len(FIELDS)) if code >> number & 1] for code in present]
    return bar_sets(inverse, sets, [field.name for field in FIELDS], "none is missing")


def _words(column: pa.ChunkedArray, unknown: str = "unknown") -> Bars:
    encoded = column.combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return bars(codes, encoded.dictionary.to_pylist(), unknown)


def _joined(column: pa.ChunkedArray) -> Bars:
    """Return lists of numbers as words."""
    return _words(pa.chunked_array([pc.binary_join(_as_words(column), "-")]))


def _sets(column: pa.ChunkedArray, unknown: str) -> Bars:
    """Return lists of words as sets."""
    encoded = pc.binary_join(_as_words(column), _SEPARATOR).dictionary_encode()
    sets = [text.split(_SEPARATOR) if text else [] for text in encoded.dictionary.to_pylist()]
    values = sorted({word for words in sets for word in words})
    number = {word: place for place, word in enumerate(values)}
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return bar_sets(codes, [[number[word] for word in words] for words in sets], values, unknown)


def _as_words(column: pa.ChunkedArray) -> pa.ListArray:
    return column.combine_chunks().cast(pa.list_(pa.string()))
