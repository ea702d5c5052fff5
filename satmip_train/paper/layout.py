"""The paper's tables: their layout, the settings of each row, and the numbers that are really printed, each with where it stands.

One TOML file a table. A number that the text of the paper lost, and that neither another of its tables nor the poster gives, is
missing here.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

TABLES = ("2", "3", "4", "5", "6", "s4", "s5", "s6", "s8")
"""The tables of results, by the paper's numbers."""
FIGURE_3 = "figure3"
"""The points of Figure 3 as a table."""
FULL_EPOCHS = 200
"""Epochs of the paper's longest runs."""
FULL_VIEW = 224
"""Side of its views in pixels."""

ColumnKind = Literal[
    "score", "difference", "mean_gain", "mean_of_sets",
    "time_ratio", "memory_ratio", "hours", "device_hours", "memory_gib", "energy_kwh",
]  # fmt: skip
COST_KINDS = frozenset({"time_ratio", "memory_ratio", "hours", "device_hours", "memory_gib", "energy_kwh"})
"""Columns that say what training cost."""


@dataclass(frozen=True)
class EvaluationSet:
    """A data set that representations are evaluated on."""

    id: str
    title: str
    metric: Literal["macro_f1", "top1"]
    """What the paper reports on it (section 4.1)."""
    k: int
    """Neighbours of kNN that the paper reports for contrastive models (supplement C)."""
    k_mae: int
    """The same for masked autoencoders."""
    train: int
    """Samples to learn from (Table S1)."""
    test: int
    classes: int
    names: tuple[str, ...]
    """Other names of it."""

    @property
    def heading(self) -> str:
        """The heading of its column."""
        return f"{self.title} {'F1' if self.metric == 'macro_f1' else 'Acc.'}"


@dataclass(frozen=True)
class Number:
    """A printed number."""

    mean: float
    std: float | None
    source: str
    """Where it is printed, as "Table 4" or "poster"."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    id: str
    title: str
    kind: ColumnKind
    cell: dict[str, Any]
    """What of a cell's probe, dataset, modality and epochs the column decides."""
    of: tuple[str, ...]
    """Columns that this one is computed from."""
    sets: tuple[str, ...]
    """Evaluation sets over which it is the mean."""


@dataclass(frozen=True)
class Row:
    """A row of a table: which models fill it, and what the paper prints."""

    labels: tuple[str, ...]
    settings: dict[str, Any] | None
    """Settings of training that tell the row from others; None where the row is no training of ours."""
    external: str | None
    """Somebody else's backbone, by its name in `external`."""
    control: Literal["random", "identity"] | None
    """A model that learned nothing: random weights, or the tabular features as they are."""
    cell: dict[str, Any]
    """What of a cell's probe, dataset, modality and epochs the row decides."""
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
    """Probe, dataset, modality and epochs of a cell, where neither row nor column says otherwise."""
    baseline: dict[str, Any] | None
    """Settings of the training that times and memories are relative to, and its epochs where they are not the cell's."""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As the paper calls it."""
        return "Figure 3" if self.id == FIGURE_3 else f"Table {self.id.upper()}"

    def cell_of(self, row: Row, column: Column) -> dict[str, Any]:
        """Return probe, dataset, modality and epochs of a cell, of a control also the encoder; the image alone by default."""
        return {"modality": "image", **self.cell, **row.cell, **column.cell}


@cache
def evaluation_sets() -> dict[str, EvaluationSet]:
    """Return the paper's evaluation sets by id, in its order."""
    return {id: EvaluationSet(id=id, **{**entry, "names": tuple(entry["names"])}) for id, entry in _read("datasets").items()}


def set_named(name: str) -> EvaluationSet | None:
    """Return the evaluation set of a name, None where the paper has none of that name."""
    plain = name.lower().replace("-", "_")
    return next((s for s in evaluation_sets().values() if plain in (s.id, *s.names)), None)


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
        cell=data["cell"],
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
        settings=entry.get("settings"),
        external=entry.get("external"),
        control=next((kind for kind in ("random", "identity") if entry.get(kind)), None),
        cell=entry.get("cell", {}),
        gain_over=entry.get("gain_over"),
        published=numbers,
    )
