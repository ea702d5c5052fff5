"""The paper's tables: their layout, the recipe of each row, and the numbers that are really printed, each with where it stands.

One TOML file a table. A number that the text of the paper lost, and that neither another of its tables nor the poster gives, is
missing here.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from satmip_train.config import resolve
from satmip_train.evaluation_sets import evaluation_sets

TABLES = ("2", "3", "4", "5", "6", "s4", "s5", "s6", "s8")
"""The tables of results, by the paper's numbers."""
FIGURE_3 = "figure3"
"""The points of Figure 3 as a table."""
FULL_EPOCHS = 200
"""Epochs of the paper's longest runs."""
SHARED = "paper/satmips"
"""A recipe of the network and the views that all runs of the paper share (section 4.2)."""

ColumnKind = Literal[
    "score", "difference", "mean_gain", "mean_of_sets",
    "time_ratio", "memory_ratio", "hours", "device_hours", "memory_gib", "energy_kwh",
]  # fmt: skip
COST_KINDS = frozenset({"time_ratio", "memory_ratio", "hours", "device_hours", "memory_gib", "energy_kwh"})
"""Columns that say what training cost."""


@dataclass(frozen=True)
class Number:
    """A printed number."""

    mean: float
    std: float | None
    source: str
    """Place in the paper, such as "Table 4" or "poster"."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    id: str
    title: str
    kind: ColumnKind
    cell: dict[str, Any]
    """The parts of a cell's probe, dataset, modality and epochs that the column decides."""
    of: tuple[str, ...]
    """Columns that this one is computed from."""
    sets: tuple[str, ...]
    """Evaluation sets over which it is the mean."""


@dataclass(frozen=True)
class Row:
    """A row of a table: which models fill it, and what the paper prints."""

    labels: tuple[str, ...]
    recipe: str | None
    """Recipe of its training; None where the row is no training of ours."""
    external: str | None
    """Somebody else's backbone, by its name in `external`."""
    control: Literal["random", "identity"] | None
    """A model that learned nothing: random weights, or the tabular features as they are."""
    cell: dict[str, Any]
    """The parts of a cell's probe, dataset, modality and epochs that the row decides."""
    gain_over: int | None
    """Number of the row that "mean_gain" compares with."""
    published: dict[str, Number]
    """By column."""


@dataclass(frozen=True)
class TableLayout:
    """A table of the paper."""

    id: str
    title: str
    labels: tuple[str, ...]
    """Headings of the rows' labels."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    cell: dict[str, Any]
    """Probe, dataset and modality of a cell, where neither row nor column says otherwise."""
    baseline: str | None
    """Recipe of the training that times and memories are relative to."""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As the paper calls it."""
        return "Figure 3" if self.id == FIGURE_3 else f"Table {self.id.upper()}"

    def cell_of(self, row: Row, column: Column) -> dict[str, Any]:
        """Return probe, dataset and modality of a cell (the image alone by default); of a training its epochs, which are the
        recipe's unless a column has its own; of a control the encoder."""
        epochs = {} if row.recipe is None else {"epochs": recipe_settings(row.recipe)["epochs"]}
        return {"modality": "image", **epochs, **self.cell, **row.cell, **column.cell}


@cache
def recipe_settings(recipe: str) -> dict[str, Any]:
    """Return all settings of a recipe."""
    return resolve(recipe, {}).model_dump()


@cache
def run_names() -> dict[str, str]:
    """Return by recipe what its runs are called, before their epochs and seed."""
    return {recipe: name for name, recipes in _read("runs").items() for recipe in recipes}


@cache
def table_layout(number: str) -> TableLayout:
    """Return a table of the paper by its number, one of `TABLES`, or the points of Figure 3."""
    data = _read(number if number == FIGURE_3 else f"table{number}")
    return TableLayout(
        id=number,
        title=data["title"],
        labels=tuple(data["labels"]),
        columns=tuple(_column(entry) for entry in data["columns"]),
        rows=tuple(_row(entry) for entry in data["rows"]),
        cell=data.get("cell", {}),
        baseline=data.get("baseline"),
        notes=tuple(data.get("notes", ())),
    )


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files("satmip_train.paper.published") / f"{name}.toml").read_text(encoding="utf-8"))


def _column(entry: dict[str, Any]) -> Column:
    title = entry.get("title") or evaluation_sets()[entry["cell"]["dataset"]].heading
    lists = {name: tuple(entry.get(name, ())) for name in ("of", "sets")}
    return Column(id=entry["id"], title=title, kind=entry.get("kind", "score"), cell=entry.get("cell", {}), **lists)


def _row(entry: dict[str, Any]) -> Row:
    numbers = {
        column: Number(float(values[0]), float(values[1]) if len(values) > 1 else None, part["source"])
        for part in entry.get("published", ())
        for column, values in part["cells"].items()
    }
    return Row(
        labels=tuple(entry["labels"]),
        recipe=entry.get("recipe"),
        external=entry.get("external"),
        control=next((kind for kind in ("random", "identity") if entry.get(kind)), None),
        cell=entry.get("cell", {}),
        gain_over=entry.get("gain_over"),
        published=numbers,
    )
