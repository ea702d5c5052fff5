"""The tables of `reproduce real`, from the results that its commands wrote: Markdown to read, JSON to trace every number."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from satmip_train.files import CONFIG, RUN_CONFIG, result_path, write_atomically
from satmip_train.paper import figures, real
from satmip_train.paper.real import EUROSAT, FULL, LABEL_SHARES, RATES, Group, Method, Request, Study

Result = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One number of a table: over the seeds of a row, with where each was read."""

    values: tuple[float, ...]
    file: str = ""
    runs: tuple[str, ...] = ()
    digits: int = 1

    @property
    def text(self) -> str:
        """Mean and, of several, standard deviation (n - 1); empty where nothing was measured."""
        if not self.values:
            return ""
        mean = f"{fmean(self.values):,.{self.digits}f}"
        return mean if len(self.values) == 1 else f"{mean} ± {stdev(self.values):,.{self.digits}f}"

    def described(self) -> Result:
        """Return it as JSON."""
        several = len(self.values) > 1
        spread = stdev(self.values) if several else None
        return {"mean": fmean(self.values) if self.values else None, "std": spread, "values": list(self.values),
                "file": self.file, "runs": list(self.runs)}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table with its rows: a name, and a cell a column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()

    @property
    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [f"### {self.title}", "", f"| | {' | '.join(self.columns)} |", f"| --- |{' ---: |' * len(self.columns)}"]
        measured = [(name, cells) for name, cells in self.rows if any(cell.values for cell in cells)]
        lines += [f"| {name} | {' | '.join(cell.text for cell in cells)} |" for name, cells in measured]
        return "\n".join([*lines, "", *(f"* {note}" for note in self.notes)]) + "\n"


@dataclass(frozen=True)
class Report:
    """What is written."""

    tables: tuple[Table, ...]
    runs: dict[str, Result] = field(default_factory=dict)
    """By folder: settings, commit, versions, shards and step of each run that a cell names."""

    @property
    def markdown(self) -> str:
        """The tables in Markdown."""
        return "\n".join(table.markdown for table in self.tables)

    @property
    def json(self) -> Result:
        """The tables with every value, and the runs they come from."""
        tables = [
            {"title": table.title, "columns": table.columns, "notes": table.notes,
             "rows": [{"name": name, "cells": [cell.described() for cell in cells]} for name, cells in table.rows]}
            for table in self.tables
        ]  # fmt: skip
        return {"tables": tables, "runs": self.runs}


def write_report(request: Request) -> list[Path]:
    """Write `real.md`, `real.json` and the figure into the folder, of whatever is measured, and return their paths."""
    report = read_report(request)
    content = {"real.md": report.markdown, "real.json": json.dumps(report.json, indent=1)}
    for name, text in content.items():
        write_atomically(request.out / name, lambda file, text=text: file.write(text.encode()))
    drawn = figures.draw_lines(_panels(request), request.out / "real")
    return [*(request.out / name for name in content), *drawn]


def _panels(request: Request) -> list[figures.Panel]:
    """Return what the figure shows of EuroSAT: the linear probe by the budget and by the share of the labels."""
    groups, shares = real.groups_of(request, EUROSAT), (*LABEL_SHARES, 1.0)
    controls = real.results_of(request, EUROSAT, "controls")
    random = {share: _metrics(result_path(controls, "linear", share=share), "random")("top1") for share in shares}
    budgets: dict[str, list[figures.Point]] = {}
    labels: dict[str, list[figures.Point]] = {}
    for group in sorted(groups, key=lambda group: group.epochs):
        folder = real.results_of(request, EUROSAT, group.name)
        cells = {share: _metrics(result_path(folder, "linear", share=share), "run")("top1") for share in shares}
        if sum(other.method == group.method for other in groups) > 1:
            budgets.setdefault(group.method.title, []).extend(_point(group.epochs, cells[1.0]))
        if group.budget == FULL:
            labels[group.method.title] = [point for share, cell in cells.items() for point in _point(100 * share, cell)]
    epochs = sorted({group.epochs for group in groups})
    budgets["random weights"] = [point for epoch in epochs for point in _point(epoch, random[1.0])]
    labels["random weights"] = [point for share, cell in random.items() for point in _point(100 * share, cell)]
    return [
        figures.Panel("EuroSAT, all labels", "epochs of training", "linear probe, top-1 (%)", budgets),
        figures.Panel("EuroSAT, full budget", "labels (%)", "linear probe, top-1 (%)", labels, logarithmic=True),
    ]


def _point(x: float, cell: Cell) -> list[figures.Point]:
    values = cell.values
    return [figures.Point(x, fmean(values), stdev(values) if len(values) > 1 else None)] if values else []


def read_report(request: Request) -> Report:
    """Return the tables of what is measured; a cell without a result is empty."""
    tables = [*(table for study in real.STUDIES for table in _study_tables(request, study)), _rates(request)]
    folders = sorted({run for table in tables for _, cells in table.rows for cell in cells for run in cell.runs})
    return Report(tuple(tables), {run: described for run in folders if (described := _run(Path(run)))})


def _study_tables(request: Request, study: Study) -> Iterator[Table]:
    groups = real.groups_of(request, study)
    yield _scores(request, study, groups)
    if study is EUROSAT:
        yield _few_labels(request, groups)
        yield _with_metadata(request, groups)
    yield _retrieval(request, study, groups)


def _title(request: Request, group: Group) -> str:
    several = len({budget for method, budget, _ in group.study.runs if method == group.method}) > 1
    epochs = f"{group.epochs:g} epoch{'' if group.epochs == 1 else 's'}"
    return f"{group.method.title}, {epochs}" if several else group.method.title


def _scores(request: Request, study: Study, groups: Sequence[Group]) -> Table:
    """Return top-1 and macro-F1 of the images' features, with the controls."""
    controls = real.results_of(request, study, "controls")
    files = {"kNN": result_path(controls, "knn"), "linear": result_path(controls, "linear")}
    columns = (("kNN", "top1"), ("linear", "top1"), ("kNN", "macro_f1"), ("linear", "macro_f1"))
    location = _metrics(controls / "location.json", "location")
    rows = [
        ("location alone, 5 nearest", (location("top1"), Cell(()), location("macro_f1"), Cell(()))),
        *((name, tuple(_metrics(files[probe], kind)(metric) for probe, metric in columns))
          for name, kind in (("raw pixels, 32 x 32", "pixels"), ("random weights", "random"))),
    ]  # fmt: skip
    for group in groups:
        folder = real.results_of(request, study, group.name)
        own = {"kNN": result_path(folder, "knn"), "linear": result_path(folder, "linear")}
        rows.append((_title(request, group), tuple(_metrics(own[probe], "run")(metric) for probe, metric in columns)))
    heads = tuple(f"{probe}, {'top-1' if metric == 'top1' else 'macro-F1'}" for probe, metric in columns)
    return Table(f"{study.title}: features of images", heads, tuple(rows), _sample_notes(files["kNN"]))


def _sample_notes(path: Path) -> tuple[str, ...]:
    result = _read(path)
    if result is None:
        return ()
    return (
        f"In percent on {result['test']['samples']:,} images of unseen blocks; {result['train']['samples']:,} to learn from. "
        "± is the standard deviation (n - 1) over seeds. kNN with k = 5; linear: 200 iterations of L-BFGS at most.",
    )


def _few_labels(request: Request, groups: Sequence[Group]) -> Table:
    """Return top-1 of the linear probe by the share of the labels."""
    shares = (*LABEL_SHARES, 1.0)
    controls = real.results_of(request, EUROSAT, "controls")
    rows = [
        (name, tuple(_metrics(result_path(controls, "linear", share=share), kind)("top1") for share in shares))
        for name, kind in (("raw pixels, 32 x 32", "pixels"), ("random weights", "random"))
    ]
    for group in groups:
        if group.budget == FULL:
            folder = real.results_of(request, EUROSAT, group.name)
            cells = tuple(_metrics(result_path(folder, "linear", share=share), "run")("top1") for share in shares)
            rows.append((_title(request, group), cells))
    notes = ("Top-1 of the linear probe in percent, from the same features; the draw of the labels changes with the seed.",)
    return Table("EuroSAT: few labels", tuple(f"{100 * share:g} % of the labels" for share in shares), tuple(rows), notes)


def _with_metadata(request: Request, groups: Sequence[Group]) -> Table:
    """Return top-1 of the linear probe on image, metadata, and both."""
    rows = []
    for group in groups:
        if group.method.encoder is None or group.budget != FULL:
            continue
        folder = real.results_of(request, EUROSAT, group.name)
        files = [result_path(folder, "linear", modality) for modality in ("image", "both", "metadata")]
        rows.append((_title(request, group), tuple(_metrics(file, "run")("top1") for file in files)))
        if not any(name.startswith("tabular") for name, _ in rows) and group.method.encoder == "tabular":
            identity = _metrics(files[2], "identity")("top1")
            rows.append(("tabular features as they are", (Cell(()), Cell(()), identity)))
    notes = ("Top-1 of the linear probe in percent, on standardized features where metadata are among them.",)
    return Table("EuroSAT: image and metadata", ("image", "both", "metadata alone"), tuple(rows), notes)


def _retrieval(request: Request, study: Study, groups: Sequence[Group]) -> Table:
    """Return the errors of the metadata found for an image, beside the best constant; of test images and of learned ones."""
    errors = ("kilometres",) if study is EUROSAT else ("kilometres", "days", "hours")
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    constants: Result = {}
    for group in groups:
        if group.method.encoder is None or group.budget != FULL:
            continue
        folder = real.results_of(request, study, group.name)
        cells = []
        for split in ("test", "train"):
            path = result_path(folder / split, "retrieval")
            result = _read(path)
            cells.append(_found(path, result, _rank))
            cells += [_found(path, result, partial(_error, name=name), digits=1 if name == "hours" else 0) for name in errors]
            if result is not None:
                constants[split] = (path, result)
        rows.append((_title(request, group), tuple(cells)))
    rows += [(name, tuple(_constant(constants, name, errors))) for name in ("best constant", "chance")]
    heads = [f"{'unseen' if split == 'test' else 'learned from'}: {name}" for split in ("test", "train")
             for name in ("rank, %", *("km" if name == "kilometres" else name for name in errors))]  # fmt: skip
    notes = (
        "Median over the images of a split: the rank of an image's own metadata among those of the split, in percent of their "
        "number (50 is chance), and how far off the metadata are that lie nearest. Best constant: one answer that errs least.",
    )
    return Table(f"{study.title}: metadata found for an image", tuple(heads), tuple(rows), notes)


def _constant(found: Result, name: str, errors: Sequence[str]) -> Iterator[Cell]:
    for split in ("test", "train"):
        path, result = found.get(split, ("", None))
        yield Cell((50.0,)) if name == "chance" and result else Cell(())
        for error in errors:
            values = {} if result is None else result["best_constant"] if name == "best constant" else result["chance"]["errors"]
            value = values.get(error)
            yield Cell(() if value is None else (value,), str(path), digits=1 if error == "hours" else 0)


def _rank(found: Result, result: Result) -> float:
    return float(100 * found["metrics"]["median_rank"] / result["test"]["samples"])


def _error(found: Result, result: Result, name: str) -> float:
    return float(found["errors"][name])


def _found(path: Path, result: Result | None, value: Callable[[Result, Result], float], digits: int = 1) -> Cell:
    if result is None:
        return Cell(())
    models = result["models"]
    values = tuple(float(value(model["image_to_metadata"], result)) for model in models)
    return Cell(values, str(path), tuple(model["run"] for model in models), digits)


def _rates(request: Request) -> Table:
    """Return what the choice of the rates saw."""
    methods: tuple[Method, ...] = tuple(dict.fromkeys(method for method, _, _ in EUROSAT.runs if method.rate_of is None))
    rows = []
    for method in methods:
        scores = real.chosen_rates(request, method)
        files = {rate: str(real.rate_command(request, method, rate).output) for rate in RATES}
        cells = tuple(Cell(() if (found := scores[rate]) is None else (100 * found,), files[rate]) for rate in RATES)
        rows.append((f"{method.title}: {chosen:g}" if (chosen := real.chosen_rate(request, method)) else method.title, cells))
    notes = (
        f"Top-1 of kNN on val in percent, seed {request.seeds[0]}, a quarter of the budget, for each lr_base; beside the name the "
        "one that was taken. SatMIPS with tabular metadata takes that of SatMIPS with text; PlanesNet takes the same rates.",
    )
    return Table("Choice of the rates", tuple(f"{rate:g}" for rate in RATES), tuple(rows), notes)


def _metrics(path: Path, kind: str) -> Callable[[str], Cell]:
    """Return what gives a metric, in percent, of the models of a kind in a result."""
    result = _read(path)

    def cell(metric: str) -> Cell:
        models = [] if result is None else [model for model in result["models"] if model["kind"] == kind]
        values = tuple(100 * model["metrics"][metric] for model in models)
        return Cell(values, str(path) if models else "", tuple(model["run"] for model in models if model["run"]))

    return cell


def _read(path: Path) -> Result | None:
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result


def _run(folder: Path) -> Result:
    """Return what a cell's run was: its settings, the commit and versions of its training, its shards and its last step."""
    exported, planned = _read(folder / CONFIG), _read(folder / RUN_CONFIG)
    if exported is None or planned is None:
        return {}
    return {"settings": exported["settings"], "versions": planned["versions"], "shards": exported["dataset"]["fingerprint"],
            "step": exported["step"]}  # fmt: skip
