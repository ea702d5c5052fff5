"""Metadata as standardized numbers and category codes. Pure.

All columns of all fields are computed; which of them train is chosen at training.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from satmip_data.metadata.fields import CATEGORICAL, FIELDS, NUMERIC, Column
from satmip_data.records import Metadata

ROUNDING = 1e-8
"""Share of its mean by which a constant value differs after a projection: noise, which must not become a feature."""

_FIELD_OF = {column.name: field for field in FIELDS for column in field.columns}


@dataclass(frozen=True, slots=True)
class Features:
    """The tabular features of one chip.

    Shape:
        numeric: (F,) float32, standardized; 0 (the mean) where the value is missing
        mask: (F,) bool, True where the value is known
        categorical: (C,) int64; 0 is unknown or missing
    """

    numeric: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    categorical: npt.NDArray[np.int64]


def read_column(metadata: Metadata, column: Column) -> Any:
    """Return the raw value of a column, None where its field is missing."""
    value = _FIELD_OF[column.name].value(metadata)
    return None if value is None else column.read(value)


@dataclass(frozen=True, slots=True)
class NumericStatistics:
    """Mean and population standard deviation of one numeric column over the train split, and how many values were known."""

    name: str
    mean: float
    std: float
    known: int


@dataclass(frozen=True, slots=True)
class Standardizer:
    """Turns metadata into `Features`, by statistics of the numeric columns and vocabularies of the categorical ones."""

    numeric: tuple[NumericStatistics, ...]
    vocabularies: tuple[tuple[str, ...], ...]
    """For each categorical column its values; code i + 1 stands for value i, and 0 for all others."""

    def transform(self, metadata: Metadata) -> Features:
        """Return the features of one chip. Shapes: see `Features`."""
        values = [read_column(metadata, column) for column in NUMERIC]
        numeric = [0.0 if v is None else (v - s.mean) / s.std for v, s in zip(values, self.numeric, strict=True)]
        codes = [_code(read_column(metadata, c), words) for c, words in zip(CATEGORICAL, self.vocabularies, strict=True)]
        return Features(
            np.array(numeric, dtype=np.float32), np.array([v is not None for v in values]), np.array(codes, dtype=np.int64)
        )

    def invert(self, features: Features) -> dict[str, float | str | None]:
        """Return the raw value of every column by name; None where it is missing or its category is unknown."""
        raw: dict[str, float | str | None] = {}
        for stats, value, known in zip(self.numeric, features.numeric, features.mask, strict=True):
            raw[stats.name] = float(value) * stats.std + stats.mean if known else None
        for column, code, words in zip(CATEGORICAL, features.categorical, self.vocabularies, strict=True):
            raw[column.name] = words[int(code) - 1] if code > 0 else None
        return raw

    def to_json(self) -> dict[str, Any]:
        """Return the part of `dataset.json` that describes the columns."""
        return {
            "numeric": [
                {"name": s.name, "field": _FIELD_OF[s.name].name, "unit": c.unit, "mean": s.mean, "std": s.std, "known": s.known}
                for c, s in zip(NUMERIC, self.numeric, strict=True)
            ],
            "categorical": [
                {"name": c.name, "field": _FIELD_OF[c.name].name, "values": list(words)}
                for c, words in zip(CATEGORICAL, self.vocabularies, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Standardizer":
        """Read back what `to_json` wrote.

        Raises:
            ValueError: the columns are not this version's.
        """
        names = [entry["name"] for entry in [*data["numeric"], *data["categorical"]]]
        expected = [column.name for column in (*NUMERIC, *CATEGORICAL)]
        if names != expected:
            wrong = next((name for name in [*names, *expected] if name not in expected or name not in names), "their order")
            raise ValueError(
                f"The feature columns of dataset.json differ from those of this version ({wrong}). Build the shards again, or use "
                "the satmip that wrote them."
            )
        numeric = tuple(NumericStatistics(e["name"], e["mean"], e["std"], e["known"]) for e in data["numeric"])
        return cls(numeric, tuple(tuple(entry["values"]) for entry in data["categorical"]))


def _code(value: str | None, words: tuple[str, ...]) -> int:
    return 0 if value is None or value not in words else words.index(value) + 1


def fit(chips: Iterable[Metadata]) -> Standardizer:
    """Fit on the chips of the train split: mean and population deviation of numeric columns, sorted values of categorical ones.

    A column whose values differ by no more than rounding gets deviation 1, so that its standardized values are 0 or nearly so.
    """
    numbers: list[list[float]] = [[] for _ in NUMERIC]
    words: list[set[str]] = [set() for _ in CATEGORICAL]
    for metadata in chips:
        for values, column in zip(numbers, NUMERIC, strict=True):
            if (value := read_column(metadata, column)) is not None:
                values.append(value)
        for vocabulary, column in zip(words, CATEGORICAL, strict=True):
            if (value := read_column(metadata, column)) is not None:
                vocabulary.add(value)
    statistics = tuple(_statistics(column.name, values) for column, values in zip(NUMERIC, numbers, strict=True))
    return Standardizer(statistics, tuple(tuple(sorted(vocabulary)) for vocabulary in words))


def _statistics(name: str, values: list[float]) -> NumericStatistics:
    if not values:
        return NumericStatistics(name, 0.0, 1.0, 0)
    # math.fsum is exact, so the result does not depend on the order of the samples.
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    return NumericStatistics(name, mean, 1.0 if std <= ROUNDING * abs(mean) else std, len(values))
