"""Results of an evaluation as rows of text, for the terminal and for the report."""

from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table as RichTable

Result = dict[str, Any]

_COLUMNS = {
    "knn": {
        "macro_f1": "macro-F1, k={k}",
        "top1": "top-1, k={k}",
        "best_macro_f1": "macro-F1, best k",
        "best_top1": "top-1, best k",
    },
    "linear": {"macro_f1": "macro-F1", "top1": "top-1"},
}


@dataclass(frozen=True)
class Table:
    """A table of text; the first column is the name of a row."""

    title: str
    header: tuple[str, ...]
    models: tuple[tuple[str, ...], ...]
    summaries: tuple[tuple[str, ...], ...]
    """Mean and standard deviation over the models that differ only in seed."""
    notes: tuple[str, ...]


def table(result: Result) -> Table:
    """Return the table of a result of `evaluate`; scores are in percent."""
    columns = _COLUMNS[result["probe"]]
    header = tuple(text.format(k=result["settings"].get("fixed_k")) for text in columns.values())
    extra = ("iterations", "gradient") if result["probe"] == "linear" else ()
    summarised = {name for summary in result["summaries"] for name in summary["models"]}
    # Single draws of random weights say little; their summary is enough.
    shown = [model for model in result["models"] if model["objective"] is not None or model["name"] not in summarised]
    return Table(
        title=f"{'kNN' if result['probe'] == 'knn' else 'Linear probe'} on {result['test']['split']}",
        header=("model", *header, *extra),
        models=tuple(_model_row(model, columns, result["probe"]) for model in shown),
        summaries=tuple(_summary_row(summary, columns, len(extra)) for summary in result["summaries"]),
        notes=_notes(result),
    )


def _model_row(model: Result, columns: dict[str, str], probe: str) -> tuple[str, ...]:
    cells = [f"{100 * model['metrics'][metric]:.1f}" for metric in columns]
    if probe == "knn":
        cells[2] += f" (k={model['best_k']['macro_f1']})"
        cells[3] += f" (k={model['best_k']['top1']})"
    else:
        cells += [str(model["iterations"]), f"{model['gradient_norm']:.1e}"]
    return model["name"], *cells


def _summary_row(summary: Result, columns: dict[str, str], blanks: int) -> tuple[str, ...]:
    cells = [f"{100 * summary['mean'][metric]:.1f} ± {100 * summary['std'][metric]:.1f}" for metric in columns]
    return f"{summary['name']}, {len(summary['seeds'])} seeds", *cells, *[""] * blanks


def _notes(result: Result) -> tuple[str, ...]:
    train, test, settings = result["train"], result["test"], result["settings"]
    notes = [
        f"Learned from {train['samples']:,} samples of {train['split']} ({train['shards']}), tested on {test['samples']:,} of "
        f"{test['split']} ({test['shards']}), {result['classes']} classes; in percent."
    ]
    if result["probe"] == "knn":
        ks = ", ".join(str(k) for k in settings["ks"])
        notes.append(
            f"Vote of the k nearest by cosine similarity, weighted by exp(similarity / {settings['temperature']}). "
            f"Best k: of {ks}, chosen on the test split, as the paper does."
        )
    else:
        notes.append(
            f"Logistic regression without regularisation, at most {settings['max_iterations']} iterations of L-BFGS; "
            f"a gradient above {settings['tolerance']:.0e} means that the fit was stopped before it converged."
        )
    if result["summaries"]:
        notes.append("±: standard deviation over seeds (n - 1).")
    return tuple(notes)


def rich_table(table: Table) -> RichTable:
    """Return the table for a terminal."""
    shown = RichTable(title=table.title, title_justify="left", caption="\n".join(map(escape, table.notes)), caption_justify="left")
    for number, name in enumerate(table.header):
        shown.add_column(name, justify="right" if number else "left")
    for row in table.models:
        shown.add_row(*map(escape, row))
    shown.add_section()
    for row in table.summaries:
        shown.add_row(*map(escape, row), style="bold")
    return shown
