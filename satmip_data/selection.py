"""Which samples of an archive a build takes: by split, by category, by an expression over the columns of the index."""

import ast
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
    """An expression over the columns of `frame`, as "cloud_cover < 30 and year >= 2015": see `_truth`."""

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


@dataclass(frozen=True, slots=True)
class _Truth:
    """For which samples a condition holds and for which it fails; for the others neither is known. Shape of both: (samples,)."""

    holds: pd.Series
    fails: pd.Series


def _evaluate(samples: Sequence[Sample], where: str) -> list[bool]:
    """Return for each sample whether the expression holds."""
    table = frame(samples)
    columns = ", ".join(table.columns)
    try:
        truth = _truth(table, ast.parse(where.strip(), mode="eval").body)
    except Exception as error:  # an expression of a user may raise anything
        found = f"{type(error).__name__}: {error}"
        raise SelectionError(
            f"--where must be an expression over the columns {columns}; however: {where!r} gives {found}"
        ) from error
    if truth is None:
        raise SelectionError(
            f"--where must be a condition over the columns {columns}; however: {where!r} gives no yes or no for each sample"
        )
    return [bool(value) for value in truth.holds]


def _truth(table: pd.DataFrame, node: ast.expr) -> _Truth | None:
    """Return where a condition holds in three-valued logic; None where it, or a part of it, is no condition.

    `and`, `or` and `not` are taken apart here, and what is between them is evaluated by pandas' `DataFrame.eval`. A comparison
    with a missing value neither holds nor fails, so that `not` does not turn it into one that holds; pandas has no such values.
    """
    match node:
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=inner):
            truth = _truth(table, inner)
            return None if truth is None else _Truth(truth.fails, truth.holds)
        case ast.BoolOp(op=op, values=parts):
            return _combined([_truth(table, part) for part in parts], isinstance(op, ast.And))
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr() as op, left=left, right=right):
            return _combined([_truth(table, part) for part in (left, right)], isinstance(op, ast.BitAnd))
    expression, times = _with_times(node)
    value = table.eval(expression, engine="python", local_dict=times)
    if not isinstance(value, pd.Series) or value.dtype != bool:
        return None
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} if isinstance(node, ast.Compare) else set()
    known = table[[name for name in table.columns if name in names]].notna().all(axis=1)
    return _Truth(value & known, ~value & known)


def _with_times(node: ast.expr) -> tuple[str, dict[str, Any]]:
    """Return a condition as `DataFrame.eval` takes it, and the times for the dates in it that are compared with `timestamp`.

    For pandas 3 a date that is written as text equals no time, and one with a zone cannot be compared.

    Raises:
        ValueError: `timestamp` is compared with a number, which pandas takes for nanoseconds since 1970.
    """
    operands = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
    if not isinstance(node, ast.Compare) or "timestamp" not in map(ast.unparse, operands):
        return ast.unparse(node), {}
    times: dict[str, Any] = {}
    for i, operand in enumerate(operands):
        parts = operand.elts if isinstance(operand, ast.List | ast.Tuple) else [operand]
        constants = [part.value for part in parts if isinstance(part, ast.Constant)]
        if any(not isinstance(value, str) for value in constants):
            raise ValueError(f"timestamp is compared with dates such as '2016-01-01', not with {ast.unparse(operand)}: use year")
        if len(constants) == len(parts):
            times[f"time{i}"] = pd.to_datetime(ast.literal_eval(operand), utc=True, format="mixed").tz_localize(None)
            operands[i] = ast.Name(f"@time{i}")
    return ast.unparse(ast.Compare(operands[0], node.ops, operands[1:])), times


def _combined(parts: Sequence[_Truth | None], conjunction: bool) -> _Truth | None:
    """Return the truth of `and` or `or`: a part that fails decides the one, a part that holds the other."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    holds, fails = (pd.concat([getattr(part, name) for part in known], axis=1) for name in ("holds", "fails"))
    return _Truth(holds.all(axis=1), fails.any(axis=1)) if conjunction else _Truth(holds.any(axis=1), fails.all(axis=1))
