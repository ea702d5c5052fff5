"""Which samples of an archive a build takes: by split, by category, by an expression over the columns of the index."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from satmip_data.fields import CATEGORICAL, NUMERIC
from satmip_data.records import Sample
from satmip_data.tabular import read_column


class SelectionError(ValueError):
    """A selection that cannot be made; the message names what can be chosen."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a build takes; without any choice, everything."""

    splits: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    where: str = ""
    """An expression of pandas' `DataFrame.eval` over the columns of `frame`, as "cloud_cover < 30 and year >= 2015"."""

    def to_json(self) -> dict[str, Any]:
        """Return the selection as `dataset.json` and the resume check hold it."""
        return {**asdict(self), "splits": list(self.splits), "categories": list(self.categories)}


EVERYTHING = Selection()


def select(samples: Sequence[Sample], selection: Selection) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """Return the chosen samples in their order, and how many each choice dropped (the first that drops a sample counts it).

    Raises:
        SelectionError: a split or category is nowhere in the archive, or the expression cannot be evaluated.
    """
    chosen, dropped = list(samples), {}
    for option, wanted in (("split", selection.splits), ("category", selection.categories)):
        if wanted:
            kept = [sample for sample in chosen if _among(sample, option, wanted)]
            _check_known(option, wanted, samples)
            chosen, dropped[option] = kept, len(chosen) - len(kept)
    if selection.where:
        mask = _evaluate(chosen, selection.where)
        kept = [sample for sample, keep in zip(chosen, mask, strict=True) if keep]
        chosen, dropped["where"] = kept, len(chosen) - len(kept)
    return tuple(chosen), dropped


def _names(sample: Sample, option: str) -> set[str]:
    names = (sample.split,) if option == "split" else (sample.category, *sample.labels)
    return {name for name in names if name is not None}


def _among(sample: Sample, option: str, wanted: tuple[str, ...]) -> bool:
    return not _names(sample, option).isdisjoint(wanted)


def _check_known(option: str, wanted: tuple[str, ...], samples: Sequence[Sample]) -> None:
    known = sorted({name for sample in samples for name in _names(sample, option)})
    if unknown := [name for name in wanted if name not in known]:
        raise SelectionError(f"--{option} must be one of {', '.join(known)}; however: {', '.join(unknown)}")


def frame(samples: Sequence[Sample]) -> pd.DataFrame:
    """Return one row a sample: its names and sizes, and every tabular column of the chip's metadata; NaN where it is missing."""
    columns: dict[str, Any] = {name: [getattr(s, name) for s in samples] for name in ("key", "split", "place", "category", "path")}
    columns |= {name: [getattr(s, name) for s in samples] for name in ("scene_width", "scene_height")}
    columns |= {f"window_{name}": [getattr(s.window, name) for s in samples] for name in ("x", "y", "width", "height")}
    # UTC, and without a zone: with one, pandas compares it with no date that is written as text.
    columns["timestamp"] = pd.to_datetime(pd.Series([s.metadata.datetime for s in samples]), utc=True).dt.tz_localize(None)
    numeric = {c.name: pd.Series([read_column(s.metadata, c) for s in samples], dtype="float64") for c in NUMERIC}
    categorical = {c.name: pd.Series([read_column(s.metadata, c) for s in samples], dtype="str") for c in CATEGORICAL}
    return pd.DataFrame({**columns, **numeric, **categorical})


def _evaluate(samples: Sequence[Sample], where: str) -> list[bool]:
    """Return for each sample whether the expression holds; a comparison with a missing value does not."""
    table = frame(samples)
    columns = ", ".join(table.columns)
    try:
        result = table.eval(where, engine="python")
    except Exception as error:  # an expression of a user may raise anything
        found = f"{type(error).__name__}: {error}"
        raise SelectionError(
            f"--where must be an expression over the columns {columns}; however: {where!r} gives {found}"
        ) from error
    if not isinstance(result, pd.Series) or result.dtype != bool:
        raise SelectionError(
            f"--where must be a condition over the columns {columns}; however: {where!r} gives no yes or no for each sample"
        )
    return [bool(value) for value in result]
