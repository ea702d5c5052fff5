"""The paper's tables filled from scores and trainings: which model belongs into which row, what its cell says. Opens no file."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from satmip_data.metadata.fields import DEFAULT_FIELDS, expand_fields
from satmip_data.names import counted
from satmip_train.config import FREE_SETTINGS, Settings
from satmip_train.evaluation_sets import EvaluationSet, evaluation_sets
from satmip_train.objective_names import terms_of
from satmip_train.paper.layout import COST_KINDS, FULL_EPOCHS, SHARED, Column, Row, TableLayout, recipe_settings
from satmip_train.paper.scores import Samples, Score, Training

Neighbours = Literal["paper", "best"]
"""The k of kNN that is reported: the paper's fixed ones, or the best on the test split."""

TELLING = ("objective", "policy", "metadata_encoder", "fields", "coupled", "metadata_weight", "simclr_weight")
"""The settings that tell the rows of the paper's tables apart, beside the first weights."""
_NETWORK = ("backbone", "backbone_args", "view_size", "batch_size")
"""The settings that all runs of the paper share (section 4.2)."""
_BUDGET = {"seed", "epochs", "warmup_epochs", *FREE_SETTINGS}


@dataclass(frozen=True)
class Cell:
    """Result of our models."""

    mean: float
    std: float | None
    """Sample standard deviation (n - 1) over seeds; None for a single seed."""
    seeds: tuple[int, ...]
    files: tuple[str, ...]
    """Runs and results it was computed from."""
    note: str = ""
    """Difference from the paper."""


@dataclass(frozen=True)
class Filled:
    """A table with our cells."""

    layout: TableLayout
    cells: Mapping[tuple[int, str], Cell]
    """By number of the row and id of the column; a missing cell is not there."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Budget:
    """How far a reproduction goes."""

    full_epochs: float = FULL_EPOCHS
    """Epochs that stand for the paper's 200; all other numbers of epochs are shortened alike."""
    neighbours: Neighbours = "paper"

    def epochs(self, paper: float) -> float:
        """Return our number of epochs for one of the paper's."""
        return paper * self.full_epochs / FULL_EPOCHS


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the settings of a run tells the rows of the paper's tables apart: "hpt", whether it started from weights of a
    file, and those of `TELLING` that have a bearing on its objective."""
    known = {name: settings.get(name, Settings.model_fields[name].default) for name in (*TELLING, "init")}
    own = terms_of(known["objective"])
    left_out = set() if own.learns_from_metadata else {"metadata_encoder", "fields"}
    left_out |= set() if own.learns_from_metadata and own.compares_views else {"coupled", "metadata_weight", "simclr_weight"}
    known["fields"] = expand_fields(known["fields"] or DEFAULT_FIELDS)
    # timm's weights are those of no row.
    hpt = {"random": False, "timm": "timm"}.get(known["init"], True)
    return {"hpt": hpt, **{name: known[name] for name in TELLING if name not in left_out}}


def fill(layout: TableLayout, scores: Sequence[Score], trainings: Sequence[Training], budget: Budget) -> Filled:
    """Return the table's cells that the scores and trainings give.

    Several runs that differ only in seed make one cell. Where runs of different settings belong into one row, those with the
    most results fill it and a note names the others.
    """
    filler = _Filler(layout, scores, trainings, budget)
    cells: dict[tuple[int, str], Cell] = {}
    for number, row in enumerate(layout.rows):
        chosen = filler.choose(row)
        for column in layout.columns:
            cell = filler.cell(row, column, chosen)
            if cell is not None:
                cells[number, column.id] = cell
    for number, row in enumerate(layout.rows):
        for column in layout.columns:
            if column.kind == "mean_gain" and row.gain_over is not None:
                gain = _mean_gain(cells, number, row.gain_over, column)
                if gain is not None:
                    cells[number, column.id] = gain
    notes = (*filler.notes, *_sample_notes(filler.used), *_budget_notes(budget, bool(cells)), *_network_notes(filler.networks))
    return Filled(layout, cells, notes)


class _Filler:
    """Finds the models of rows and computes their cells."""

    def __init__(self, layout: TableLayout, scores: Sequence[Score], trainings: Sequence[Training], budget: Budget) -> None:
        self._layout, self._scores, self._trainings, self._budget = layout, scores, trainings, budget
        self.notes: dict[str, None] = {}
        """In order, each once."""
        self.used: dict[str, dict[Samples, None]] = {}
        """Of each evaluation set on what it was measured, in order, each once."""
        self.networks: set[str] = set()

    def choose(self, row: Row) -> str | None:
        """Return the group of equal settings that fills a row, None where there is none; note those left out."""
        found: dict[str, set[Any]] = {}
        runs: dict[str, set[str]] = {}
        for column in self._layout.columns:
            if column.kind not in ("score", "mean_of_sets"):
                continue
            wanted = self._layout.cell_of(row, column)
            for score in self._matching(row, wanted, whole=False):
                self.notes[f"Left out, as it was measured before the run's last step: {score.run} in {score.file}"] = None
            for score in self._matching(row, wanted):
                found.setdefault(_group(score), set()).add((column.id, score.dataset, score.seed))
                runs.setdefault(_group(score), set()).add(score.run or str(score.file))
        for training in self._trained(row):
            found.setdefault(_group(training), set()).add((training.settings["epochs"], training.seed))
            runs.setdefault(_group(training), set()).add(str(training.folder))
        if not found:
            return None
        chosen = max(sorted(found), key=lambda group: len(found[group]))
        for group in sorted(found.keys() - {chosen}):
            name = ", ".join(filter(None, row.labels))
            self.notes[f"{name}: left out, as they have other settings: {', '.join(sorted(runs[group]))}"] = None
        return chosen

    def cell(self, row: Row, column: Column, group: str | None) -> Cell | None:
        """Return a cell that follows from one row alone, None where something is missing."""
        wanted = self._layout.cell_of(row, column)
        if group is None:
            return None
        if column.kind in COST_KINDS:
            return self._cost(row, column, group)
        if column.kind == "difference":
            return self._difference(row, column, group)
        if column.kind == "mean_of_sets":
            return self._mean_of_sets(row, column, wanted, group)
        return _cell(self._by_seed(row, wanted, group)) if column.kind == "score" else None

    def _by_seed(self, row: Row, wanted: Mapping[str, Any], group: str) -> dict[int, "_Value"]:
        """Return the value of a cell for each seed, in percent; of two files the newer one counts."""
        matching = (score for score in self._matching(row, wanted) if _group(score) == group)
        newest = {score.seed: score for score in sorted(matching, key=lambda score: score.modified)}
        found: dict[int, _Value] = {}
        for seed, score in newest.items():
            value, note = _metric(score, row, self._budget.neighbours)
            found[seed] = _Value(value, (str(score.file), *([score.run] if score.run else ())), note)
            self.used.setdefault(score.dataset, {})[score.samples] = None
            if row.recipe is not None:
                self.networks.add(_network(score.settings))
        return found

    def _matching(self, row: Row, wanted: Mapping[str, Any], whole: bool = True) -> list[Score]:
        names = ("probe", "modality", "dataset")
        return [
            score
            for score in self._scores
            if score.whole == whole
            and all(getattr(score, name) == wanted.get(name, getattr(score, name)) for name in names)
            and self._belongs(row, score, wanted)
        ]

    def _belongs(self, row: Row, score: Score, wanted: Mapping[str, Any]) -> bool:
        if row.control is not None:
            encoder = (score.settings.get("metadata") or {}).get("metadata_encoder")
            return score.kind == row.control and wanted.get("encoder", encoder) == encoder
        if row.external is not None:
            return score.kind == "run" and score.settings["objective"] == row.external
        assert row.recipe is not None
        return score.kind == "run" and self._trains(row.recipe, score.settings, wanted["epochs"])

    def _trains(self, recipe: str, settings: Mapping[str, Any], epochs: float) -> bool:
        """Whether a run is one of a recipe. What was cut short by max_steps is none."""
        return (
            settings.get("max_steps") is None
            and math.isclose(settings["epochs"], self._budget.epochs(epochs), rel_tol=1e-6)
            and identity(settings) == identity(recipe_settings(recipe))
        )

    def _trained(self, row: Row) -> list[Training]:
        if row.recipe is None or not any(column.kind in COST_KINDS for column in self._layout.columns):
            return []
        return self._measured(row.recipe)

    def _measured(self, recipe: str) -> list[Training]:
        """Return the runs of a recipe whose cost is known; note the others."""
        epochs = recipe_settings(recipe)["epochs"]
        found = [t for t in self._trainings if self._trains(recipe, t.settings, epochs)]
        for training in found:
            if training.cost is None:
                self.notes[f"The cost of {training.folder} is missing: its summary.json does not account for all of its steps."] = (
                    None
                )
        return [training for training in found if training.cost is not None]

    def _difference(self, row: Row, column: Column, group: str) -> Cell | None:
        columns = {c.id: c for c in self._layout.columns}
        more, less = (self._by_seed(row, self._layout.cell_of(row, columns[id]), group) for id in column.of)
        both = {
            seed: _Value(more[seed].value - less[seed].value, more[seed].files + less[seed].files) for seed in more.keys() & less
        }
        return _cell(both)

    def _mean_of_sets(self, row: Row, column: Column, wanted: Mapping[str, Any], group: str) -> Cell | None:
        parts = {name: self._by_seed(row, {**wanted, "dataset": name}, group) for name in column.sets}
        known = {name: values for name, values in parts.items() if values}
        seeds = set.intersection(*(set(values) for values in known.values())) if known else set()
        note = "" if len(known) == len(parts) else f"mean over {len(known)} of {counted(len(parts), 'set')}"
        return _cell(
            {
                seed: _Value(
                    fmean(v[seed].value for v in known.values()), tuple(f for v in known.values() for f in v[seed].files), note
                )
                for seed in seeds
            }
        )

    def _cost(self, row: Row, column: Column, group: str) -> Cell | None:
        ours = [t for t in self._trained(row) if _group(t) == group]
        self.networks |= {_network(t.settings) for t in ours}
        values = {t.seed: _Value(value, (str(t.folder),)) for t in ours if (value := _cost_value(t, column.kind)) is not None}
        if column.kind not in ("time_ratio", "memory_ratio") or not values:
            return _cell(values)
        base = self._baseline(ours[0])
        known = {str(t.folder): value for t in base if (value := _cost_value(t, column.kind)) is not None}
        if not known:
            return None
        unit = fmean(known.values())
        return _cell({seed: _Value(v.value / unit, (*v.files, *sorted(known))) for seed, v in values.items()})

    def _baseline(self, run: Training) -> list[Training]:
        """Return the runs that a cost is relative to: of the same network and shards, and of these the most with equal settings."""
        assert self._layout.baseline is not None
        groups: dict[str, list[Training]] = {}
        for training in self._measured(self._layout.baseline):
            if (_network(training.settings), training.shards) == (_network(run.settings), run.shards):
                groups.setdefault(_group(training), []).append(training)
        chosen = max(sorted(groups), key=lambda group: len(groups[group]), default=None)
        for group in sorted(groups.keys() - {chosen}):
            folders = ", ".join(str(training.folder) for training in groups[group])
            self.notes[f"The baseline of costs: left out, as they have other settings: {folders}"] = None
        return [] if chosen is None else groups[chosen]


@dataclass(frozen=True)
class _Value:
    value: float
    files: tuple[str, ...]
    note: str = ""


def _cell(values: Mapping[int, _Value]) -> Cell | None:
    if not values:
        return None
    seeds = tuple(sorted(values))
    numbers = [values[seed].value for seed in seeds]
    files = tuple(dict.fromkeys(file for seed in seeds for file in values[seed].files))
    notes = dict.fromkeys(value.note for value in values.values() if value.note)
    return Cell(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None, seeds, files, "; ".join(notes))


def _metric(score: Score, row: Row, neighbours: Neighbours) -> tuple[float, str]:
    """Return the paper's metric of a score in percent, and a note where it is not at the paper's k."""
    evaluation = evaluation_sets()[score.dataset]
    if score.probe == "linear":
        return 100 * score.metrics[evaluation.metric], ""
    k = _paper_k(evaluation, row)
    if neighbours == "paper" and k in score.by_k:
        return 100 * score.by_k[k][evaluation.metric], ""
    value = 100 * max(values[evaluation.metric] for values in score.by_k.values())
    return value, "" if neighbours == "best" else f"best of k = {', '.join(map(str, sorted(score.by_k)))}, not k = {k}"


def _paper_k(evaluation: EvaluationSet, row: Row) -> int:
    return evaluation.k if row.external is None else evaluation.k_mae


def _cost_value(training: Training, kind: str) -> float | None:
    cost = training.cost
    if cost is None:
        return None
    memory = None if cost.peak_bytes is None else cost.peak_bytes / 2**30
    energy = None if cost.energy_joules is None else cost.energy_joules / 3.6e6
    return {
        "time_ratio": cost.seconds,
        "hours": cost.seconds / 3600,
        "device_hours": cost.device_seconds / 3600,
        "memory_ratio": memory,
        "memory_gib": memory,
        "energy_kwh": energy,
    }[kind]


def _group(item: Score | Training) -> str:
    """Return a key that is the same for what differs only in seed, in budget and in what changes nothing."""
    if isinstance(item, Score) and item.kind != "run":
        return json.dumps([item.kind, item.settings], sort_keys=True)
    # A run that was saved before there was a setting has its default; a setting that is no more changes nothing any more.
    fields = ((name, field) for name, field in Settings.model_fields.items() if name not in _BUDGET)
    settings = {name: item.settings.get(name, field.get_default(call_default_factory=True)) for name, field in fields}
    return json.dumps([settings, item.shards], sort_keys=True)


def _mean_gain(cells: Mapping[tuple[int, str], Cell], row: int, other: int, column: Column) -> Cell | None:
    """Return the mean over the sets of what a row is better than another."""
    both = [(cells[row, id], cells[other, id]) for id in column.of if (row, id) in cells and (other, id) in cells]
    if not both:
        return None
    files = tuple(dict.fromkeys(file for pair in both for cell in pair for file in cell.files))
    note = "" if len(both) == len(column.of) else f"mean over {len(both)} of {counted(len(column.of), 'set')}"
    return Cell(fmean(mine.mean - theirs.mean for mine, theirs in both), None, both[0][0].seeds, files, note)


def _sample_notes(used: Mapping[str, Collection[Samples]]) -> Iterable[str]:
    for name, measured in used.items():
        paper = evaluation_sets()[name]
        size = (paper.train, paper.test, paper.classes)
        if len(measured) > 1 or any((samples.train, samples.test, samples.classes) != size for samples in measured):
            here = "; and also ".join(
                f"{samples.shards}: {samples.train:,} + {samples.test:,} samples, {counted(samples.classes, 'class')}"
                for samples in measured
            )
            yield f"{paper.title} here is {here}. The paper's: {paper.train:,} + {paper.test:,}, {paper.classes}."


def _budget_notes(budget: Budget, filled: bool) -> Iterable[str]:
    if filled and budget.full_epochs != FULL_EPOCHS:
        yield f"Ours: {budget.full_epochs:g} epochs stand for the paper's {FULL_EPOCHS}, and all others are shortened alike."


def _network(settings: Mapping[str, Any]) -> str:
    """Return in words what the paper keeps the same in all its runs."""
    shared = recipe_settings(SHARED)
    known = {**{name: shared[name] for name in _NETWORK}, **settings}
    arguments = ", ".join(f"{name} {value}" for name, value in known["backbone_args"].items())
    return f"{known['backbone']} ({arguments}), views of {known['view_size']} pixels, batch {known['batch_size']}"


def _network_notes(networks: Iterable[str]) -> Iterable[str]:
    if others := sorted(set(networks) - {_network({})}):
        yield f"Ours: {'; '.join(others)}. The paper's: {_network({})}."
