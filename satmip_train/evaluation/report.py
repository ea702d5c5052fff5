"""One HTML page of a shard directory and of what was learned from it; everything is inside the file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from satmip_data.names import counted, without_secrets
from satmip_data.pages import Grid, render
from satmip_train.data.dataset import Dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation import probes, tables
from satmip_train.evaluation.confusion import confusion, most_confused
from satmip_train.evaluation.evaluate import Protocol, split_features
from satmip_train.evaluation.feature_map import FeatureMap, map_features
from satmip_train.evaluation.features import Features
from satmip_train.evaluation.gallery import Chip, Gallery, find_neighbours, read_chips
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import load_model
from satmip_train.evaluation.reading import read_records
from satmip_train.evaluation.reading_page import reading_values
from satmip_train.evaluation.tables import Result
from satmip_train.files import write_atomically
from satmip_train.runs.curves import charts
from satmip_train.runs.log import read_log

_CHIPS = 12
_QUERIES = 6
_NEIGHBOURS = 6
_CONFUSIONS = 12
_MATRIX = 24
"""Classes of a confusion matrix that is shown, at most."""
_FEWEST = 3
"""Samples whose features are drawn."""


@dataclass(frozen=True)
class Evaluated:
    """A kNN evaluation and on what it was done."""

    protocol: Protocol
    result: Result


@dataclass(frozen=True)
class Figure:
    """A chip of the page."""

    picture: str
    """As a data URI."""
    key: str
    label: str
    caption: str
    kind: str = ""


def write_report(
    dataset: Dataset, evaluated: Evaluated | None, runs: Sequence[Path], folder: Path, readings: dict[str, Any] | None = None
) -> Path:
    """Write `index.html` of the shards and the runs into a folder and return its path.

    Args:
        readings: see `reading_page.reading_values`; None where no pictures are read.

    Raises:
        UsageError: the shards cannot be read.
    """
    values: dict[str, Any] = {
        **_data(dataset),
        **_chips(dataset),
        "runs": [_run(run) for run in runs],
        "scores": None,
        "feature_map": None,
    }
    if evaluated is not None:
        best = _best(evaluated)
        values |= {**_knn(evaluated.result), **_neighbours(evaluated, best), **_confusions(evaluated, best)}
        values["feature_map"] = _feature_map(evaluated, best)
    if runs:
        values |= _settings(runs)
    knn: tuple[str, ...] = ("kNN",)
    if evaluated is not None:
        features = ("Features in two dimensions",) if values["feature_map"] else ()
        knn = (values["scores_title"], "Nearest neighbours", *features)
    values |= {
        "train_split": "train",
        "test_split": "val",
        "picture": lambda chip: chip.address,
        **values,
        **(readings or {"reading": None}),
    }
    read = ("What the network reads off a picture",) if values["reading"] else ()
    titles = ("Chips and captions", *read, *((*knn, "Training") if runs else ()), "Data", *(("Settings",) if runs else ()))
    page = render("report.html", root=without_secrets(dataset.root), titles=titles, **values)
    path = folder / "index.html"
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def readings(runs: Sequence[Path], protocol: Protocol) -> dict[str, Any] | None:
    """Return what the runs that learned from metadata read off the test split; None where they cannot."""
    if protocol.train.fingerprint != protocol.test.fingerprint:
        return None
    running = Running(protocol.precision, protocol.batch_size, protocol.workers, protocol.device)
    try:
        return reading_values(runs, protocol.train, (protocol.test_split, protocol.train_split), running)
    except UsageError:  # captions of another style, or columns that these shards lack: the rest of the page needs none
        return None


def _figure(chip: Chip, label: str, caption: str, kind: str = "") -> Figure:
    return Figure(chip.address, chip.key, label, caption, kind)


def _data(dataset: Dataset) -> dict[str, Any]:
    """Return what dataset.json says."""
    with fsspec.open(f"{dataset.root}/dataset.json", "rb") as file:
        data = json.loads(file.read())
    megabytes = {split: sum(s["bytes"] for s in data["shards"] if s["split"] == split) / 1e6 for split in data["splits"]}
    splits = [(name, f"{s['samples']:,}", s["shards"], f"{megabytes[name]:,.1f}") for name, s in data["splits"].items()]
    size, longest = data["size"], data["caption"]["longest"]
    facts = [
        ("source", data["source"]["name"]),
        ("licence", data["source"]["licence"]),
        ("chips", "of their own sizes" if size is None else f"{size[0]} x {size[1]} pixels"),
        ("caption fields", ", ".join(data["caption"]["fields"])),
        ("caption style", data["caption"]["style"]),
        ("longest caption", "not counted" if longest is None else counted(longest["tokens"], "token")),
        ("empty captions", f"{data['caption']['empty']:,}"),
        ("channel mean", ", ".join(f"{value:.4f}" for value in data["channels"]["mean"])),
        ("channel std", ", ".join(f"{value:.4f}" for value in data["channels"]["std"])),
        ("rejects", ", ".join(f"{reason}: {count:,}" for reason, count in data["rejects"].items()) or "none"),
    ]
    numeric = [(c["name"], c["unit"], f"{c['mean']:.6g}", f"{c['std']:.6g}", f"{c['known']:,}") for c in data["numeric"]]
    return {
        "splits": Grid.of(("split", "samples", "shards", "MB"), splits),
        "data": facts,
        "classes": data["classes"],
        "numeric": Grid.of(("feature", "unit", "mean", "std", "known"), numeric),
    }


def _chips(dataset: Dataset) -> dict[str, Any]:
    """Return the first chips of the largest split with their captions; shards are shuffled, so they are a fair draw."""
    split = max(dataset.splits, key=lambda name: dataset.splits[name])
    chips = read_chips(dataset, split, range(min(_CHIPS, dataset.splits[split])))
    return {"shown_split": split, "chips": [_figure(chip, chip.label or "", chip.caption) for chip in chips]}


def _run(run: Path) -> dict[str, Any]:
    return {"name": run.resolve().name, "charts": charts(read_log(run))}


@dataclass(frozen=True)
class _Best:
    """The best run, and its features."""

    name: str
    train: Features
    test: Features


def _best(evaluated: Evaluated) -> _Best:
    result = evaluated.result
    best = max((m for m in result["models"] if m["run"] is not None), key=lambda m: m["metrics"][result["metric"]])
    return _Best(best["name"], *split_features(load_model(Path(best["run"])), evaluated.protocol, lambda samples: None))


def _knn(result: Result) -> dict[str, Any]:
    table = tables.table(result)
    intervals = _intervals(result, table)
    rows = [(*row, *added) for row, added in zip((*table.models, *table.summaries), intervals, strict=True)]
    # Each mean is followed by its interval.
    header = (*table.header, *(["top-1, 95% interval"] if any(intervals) else []))
    grid = Grid.of(header, rows, range(len(table.models), len(rows), 2))
    single = tables.per_class(result)
    classes = {"per_class_title": single.title, "per_class": Grid.of(single.header, single.models)}
    notes = (*table.notes, *([_WILSON] if any(intervals) else []))
    return {"scores_title": table.title, "scores": grid, "notes": notes, **classes}


_WILSON = (
    "The interval of top-1 is Wilson's, for other samples of the same kind. "
    "Chips of one place resemble each other, so the true one is wider."
)


def _intervals(result: Result, table: tables.Table) -> list[tuple[str, ...]]:
    """Return the interval of top-1 of each row, if there is top-1; that of seeds stands below their mean."""
    models = tables.models_shown(result)
    if not all("top1" in model["metrics"] for model in result["models"]):
        return [()] * len((*table.models, *table.summaries))
    ends = [tables.wilson(model["metrics"]["top1"], result["test"]["samples"]) for model in models]
    return [*((f"{100 * low:.1f} to {100 * high:.1f}",) for low, high in ends), *[("",)] * len(table.summaries)]


def _neighbours(evaluated: Evaluated, best: _Best) -> dict[str, Any]:
    """Return a few test chips, each with the train chips that are nearest under the best run."""
    protocol = evaluated.protocol
    found = Gallery(best.train, best.test, protocol.train, protocol.test, protocol.train_split, protocol.test_split)
    rows = []
    for row in find_neighbours(found, range(min(_QUERIES, len(best.test.vectors))), _NEIGHBOURS, protocol.device):
        figures = [_figure(row.query, row.query.label or "", f"from {protocol.test_split}", "query")]
        for chip, similarity in row.nearest:
            kind = "same" if chip.label == row.query.label else "other"
            figures.append(_figure(chip, chip.label or "", f"{similarity:.3f}", kind))
        rows.append(figures)
    splits = {"train_split": protocol.train_split, "test_split": protocol.test_split}
    return {"neighbours": rows, "best": best.name, "metric": tables.METRICS[evaluated.result["metric"]], **splits}


def _confusions(evaluated: Evaluated, best: _Best) -> dict[str, Any]:
    """Return which classes the best run takes for which; nothing of multi-label sets."""
    if best.test.labels.ndim == 2:
        return {"confusions": None, "matrix": None}
    settings, classes = evaluated.result["settings"], evaluated.protocol.train.classes
    k = settings["fixed_k"]
    options = {"classes": len(classes), "temperature": settings["temperature"], "device": evaluated.protocol.device}
    predictions = probes.knn(best.train.vectors, best.train.labels, best.test.vectors, [k], **options)[k]
    counts = confusion(best.test.labels, predictions, len(classes))
    rows = [
        (true, taken, times, f"{100 * share:.0f} %") for true, taken, times, share in most_confused(counts, classes, _CONFUSIONS)
    ]
    table = Grid.of(("class", "taken for", "chips", "of its chips"), rows, text=True)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    matrix = list(zip(classes, shares.round(3).tolist(), strict=True)) if len(classes) <= _MATRIX else None
    return {"confusions": table, "matrix": matrix}


def _feature_map(evaluated: Evaluated, best: _Best) -> FeatureMap | None:
    """Return the features of the test split in two dimensions; None of multi-label sets."""
    if best.test.labels.ndim == 2 or len(best.test.vectors) < _FEWEST:
        return None
    protocol = evaluated.protocol
    physical = read_records(protocol.test, protocol.test_split).physical
    return map_features(best.test.vectors, best.test.labels, protocol.train.classes, physical)


def _settings(runs: Sequence[Path]) -> dict[str, Any]:
    """Return the settings of the runs side by side."""
    models = [load_model(run) for run in runs]
    values = [model.settings.model_dump(mode="json") for model in models]
    rows = [(name, *(value[name] for value in values)) for name in values[0]]
    header = ("setting", *(model.name for model in models))
    differing = [row for row in rows if any(cell != row[1] for cell in row[1:])]
    return {"settings": Grid.of(header, rows, text=True), "differing": Grid.of(header, differing, text=True)}
