"""Results of an evaluation as rows of text, for the terminal and for the report."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from satmip_data.names import counted

Result = dict[str, Any]
"""Result of an evaluation with everything it depends on, as written to its file."""

METRICS = {
    "macro_f1": "macro-F1",
    "top1": "top-1",
    "macro_map": "mAP, macro",
    "micro_map": "mAP, micro",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
}
"""Names of the metrics as shown."""
_PROBES = {
    "knn": "kNN",
    "linear": "Linear probe",
    "finetune": "Fine-tuning",
    "segment": "Segmentation, linear",
    "location": "Location alone",
}
_PER_CLASS = {"f1_per_class": "F1", "ap_per_class": "Average precision", "iou_per_class": "IoU"}
_MODALITIES = {"image": "", "metadata": " of metadata", "both": " of image and metadata"}
_INTERVAL = "  95% interval"
_ERROR_HEADS = {"kilometres": "km", "gsd_ratio": "GSD ratio"}
"""Headings of the errors of `retrieve` that are not their names."""


@dataclass(frozen=True)
class Table:
    """A table of text; the first column is the name of a row."""

    title: str
    header: tuple[str, ...]
    models: tuple[tuple[str, ...], ...]
    summaries: tuple[tuple[str, ...], ...]
    """Mean and standard deviation over the models that differ only in seed, each followed by a row of its 95% interval."""
    notes: tuple[str, ...]


def table(result: Result) -> Table:
    """Return the table of a result of `evaluate`; scores are in percent."""
    columns = _columns(result)
    extra = ("iterations", "gradient") if result["probe"] == "linear" else ()
    return Table(
        title=f"{_PROBES.get(result['probe'], result['probe'])}{_MODALITIES[result['modality']]} on {result['test']['split']}",
        header=("model", *columns.values(), *extra),
        models=tuple(_model_row(model, columns, result["probe"]) for model in models_shown(result)),
        summaries=tuple(row for summary in result["summaries"] for row in _summary_rows(summary, columns, len(extra))),
        notes=_notes(result),
    )


def per_class(result: Result) -> Table:
    """Return the table of single classes, in percent: F1, average precision (multi-label sets) or IoU; a column a model."""
    # Where all models are summarised, as draws of random weights are, each of them is a column.
    shown = models_shown(result) or [{**model, "name": f"{model['name']}, seed {model['seed']}"} for model in result["models"]]
    kind, name = next((kind, name) for kind, name in _PER_CLASS.items() if kind in shown[0])
    rows = [
        (label, *("" if model[kind][label] is None else f"{100 * model[kind][label]:.1f}" for model in shown))
        for label in shown[0][kind]
    ]
    at = f" at k={result['settings']['fixed_k']}" if result["probe"] == "knn" else ""
    note = f"{name}{at}, in percent; empty where there is nothing to score."
    return Table(f"{name} of each class", ("class", *(model["name"] for model in shown)), tuple(rows), (), (note,))


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of Wilson (1927) of a share of `count` samples, both in 0..1."""
    z = 1.959964
    middle, width = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return tuple(min(max((middle + side * width) / (1 + z * z / count), 0.0), 1.0) for side in (-1, 1))  # type: ignore[return-value]


def _columns(result: Result) -> dict[str, str]:
    """Return the header of each metric, the one the paper prints for the set first."""
    names = [name for name in METRICS if name in result["models"][0]["metrics"]]
    names.sort(key=lambda name: name != result["metric"])
    if result["probe"] != "knn":
        return {name: METRICS[name] for name in names}
    k = result["settings"]["fixed_k"]
    fixed, best = {n: f"{METRICS[n]}, k={k}" for n in names}, {f"best_{n}": f"{METRICS[n]}, best k" for n in names}
    return {**fixed, **best}


def models_shown(result: Result) -> list[Result]:
    """Return the models that have a row. Single draws of random weights say little; their summary is enough."""
    summarised = {name for summary in result["summaries"] for name in summary["models"]}
    return [model for model in result["models"] if model["objective"] is not None or model["name"] not in summarised]


def _model_row(model: Result, columns: dict[str, str], probe: str) -> tuple[str, ...]:
    cells = {name: f"{100 * model['metrics'][name]:.1f}" for name in columns}
    for metric, k in model.get("best_k", {}).items():
        cells[f"best_{metric}"] += f" (k={k})"
    fit = [str(model["iterations"]), f"{model['gradient_norm']:.1e}"] if probe == "linear" else []
    return model["name"], *cells.values(), *fit


def _summary_rows(summary: Result, columns: dict[str, str], blanks: int) -> list[tuple[str, ...]]:
    mean, std, half = summary["mean"], summary["std"], summary["interval"]
    cells = [f"{100 * mean[metric]:.1f} ± {100 * std[metric]:.1f}" for metric in columns]
    limits = [f"{100 * (mean[metric] - half[metric]):.1f} to {100 * (mean[metric] + half[metric]):.1f}" for metric in columns]
    name = f"{summary['name']}, {counted(len(summary['seeds']), 'seed')}"
    return [(name, *cells, *[""] * blanks), (_INTERVAL, *limits, *[""] * blanks)]


def _notes(result: Result) -> tuple[str, ...]:
    train, test, settings = result["train"], result["test"], result["settings"]
    notes = [
        f"Learned from {counted(train['samples'], 'sample')} of {train['split']} ({train['shards']}), tested on "
        f"{test['samples']:,} of {test['split']} ({test['shards']}), {result['classes']} classes; in percent."
    ]
    if "label_share" in settings:
        notes.append(f"Learned from {100 * settings['label_share']:g} % of these labels, drawn by the seed of the model.")
    notes += _PROTOCOLS.get(result["probe"], _plain_notes)(settings)
    if settings.get("larger_images") == "keep" and result["modality"] != "metadata":
        notes.append("Images larger than a view keep their size, as in the paper, where all have one square size.")
    if result["summaries"]:
        notes.append("±: standard deviation over seeds (n - 1); the interval is Student's, for the mean of runs with other seeds.")
    return (*notes, *result["notes"])


def _plain_notes(settings: Result) -> list[str]:
    return []


def _knn_notes(settings: Result) -> list[str]:
    ks = ", ".join(str(k) for k in settings["ks"])
    return [
        f"Vote of the k nearest by cosine similarity, weighted by exp(similarity / {settings['temperature']}). "
        f"Best k: of {ks}, chosen on the test split, as the paper does."
    ]


def _linear_notes(settings: Result) -> list[str]:
    scaled = " of standardized features" if settings["standardize"] else ""
    return [
        f"Logistic regression{scaled} without regularisation, at most {settings['max_iterations']} iterations of L-BFGS; "
        f"a gradient above {settings['tolerance']:.0e} means that the fit was stopped before it converged."
    ]


def _finetune_notes(settings: Result) -> list[str]:
    return [
        f"Our recipe, not the paper's: AdamW, {counted(settings['epochs'], 'epoch')}, batches of {settings['batch_size']}, rate "
        f"{settings['lr']:g}, crops, flips and rotations; the last epoch is tested."
    ]


def _segment_notes(settings: Result) -> list[str]:
    epochs = counted(settings["epochs"], "epoch")
    return [f"Our protocol, not the paper's: one linear layer on frozen patch features, AdamW, {epochs}."]


def _location_notes(settings: Result) -> list[str]:
    return [f"Vote of the {settings['k']} nearest locations of the train split, by great-circle distance; no picture is seen."]


_PROTOCOLS: dict[str, Callable[[Result], list[str]]] = {
    "knn": _knn_notes,
    "linear": _linear_notes,
    "finetune": _finetune_notes,
    "segment": _segment_notes,
    "location": _location_notes,
}


def retrieval_tables(result: Result) -> tuple[Table, Table]:
    """Return the tables of a result of `retrieval.retrieve`, of ranks and of errors: a row a model and direction, one of chance."""
    depths = result["settings"]["depths"]
    found = [
        (model["name"], direction.replace("_to_", " -> "), model[direction])
        for model in result["models"]
        for direction in ("image_to_metadata", "metadata_to_image")
    ]
    chance = ("chance", "", result["chance"])

    def ranks(name: str, direction: str, of: Result) -> tuple[str, ...]:
        recall = [f"{100 * of['metrics'][f'recall_{k}']:.1f}" for k in depths]
        return name, direction, *recall, f"{of['metrics']['median_rank']:g}"

    def errors(name: str, direction: str, of: Result) -> tuple[str, ...]:
        return name, direction, *("" if value is None else f"{value:.4g}" for value in of["errors"].values())

    where = f"Over {counted(result['test']['samples'], 'pair')} of {result['test']['split']} ({result['test']['shards']})."
    units = "; ".join(f"{_ERROR_HEADS.get(name, name)}: {text}" for name, text in result["units"].items())
    of_ranks = ("model", "direction", *(f"R@{k}" for k in depths), "median rank")
    of_errors = ("model", "direction", *(_ERROR_HEADS.get(name, name) for name in result["units"]))
    return (
        Table("Retrieval", of_ranks, tuple(ranks(*row) for row in found), (ranks(*chance),), (f"{where} R@k in percent.",)),
        Table(
            "Median error of the first result",
            of_errors,
            tuple(errors(*row) for row in found),
            (errors("best constant", "", {"errors": result["best_constant"]}), errors(*chance)),
            (
                f"The error is 0 where the first result is the right one. {units}.",
                "Best constant: the single answer to all that errs least.",
                "Chance level: the expected result if a random sample were retrieved.",
            ),
        ),
    )


def reading_table(result: Result) -> Table:
    """Return the table of a result of `reading.read`: median errors of a row a model, and of the answers that see no picture."""
    best = result["best_constant"]

    def row(name: str, errors: Result) -> tuple[str, ...]:
        return name, *("" if value is None else f"{value:.3g} ({value / best[of]:.2f})" for of, value in errors.items())

    where = f"Over {result['test']['samples']:,} images of {result['test']['split']} ({result['test']['shards']})."
    units = "; ".join(f"{name.replace('_', ' ')}: {text}" for name, text in result["units"].items())
    return Table(
        f"Median error of the nearest record of {result['settings']['records']}",
        ("model", *(name.replace("_", " ") for name in result["units"])),
        tuple(row(model["name"], model["errors"]) for model in result["models"]),
        (row("best constant", best), row("random record", result["random_record"])),
        (
            f"{where} {units}.",
            "In brackets: the error divided by that of the best constant, the single answer to all images that errs least.",
        ),
    )
