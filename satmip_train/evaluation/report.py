"""One HTML page of a shard directory and of what was learned from it; everything is inside the file."""

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import fsspec

from satmip_train.data.dataset import Dataset
from satmip_train.evaluation import tables
from satmip_train.evaluation.classifiers import Result
from satmip_train.evaluation.evaluate import Protocol, split_features
from satmip_train.evaluation.gallery import Chip, Gallery, find_neighbours, read_chips
from satmip_train.evaluation.models import load_model
from satmip_train.files import write_atomically

_CHIPS = 12
_QUERIES = 6
_NEIGHBOURS = 6

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #2a8a4a; --bad: #c0453a; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 1120px; margin: 0 auto; padding: 2rem 1.25rem 5rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.25rem; margin: 3rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { max-width: 75ch; } .soft { opacity: .7; } code { font-size: .9em; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: right; padding: .3rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } thead th { border-bottom-width: 2px; }
table.text th, table.text td { text-align: left; } tr.summary { font-weight: 600; } tr.differs { background: var(--soft); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 1.25rem 1rem; }
.row { display: grid; grid-template-columns: repeat(7, minmax(100px, 1fr)); gap: .75rem; margin-bottom: 1.5rem; }
figure { margin: 0; } figcaption { font-size: .78rem; line-height: 1.4; overflow-wrap: anywhere; margin-top: .3rem; }
.sheet img, .row img { width: 100%; image-rendering: auto; border-radius: 3px; display: block; }
.row figure { border-top: 4px solid transparent; }
.row .same { border-color: var(--good); } .row .other { border-color: var(--bad); }
.row .query { border-color: currentColor; } .curves { max-width: 100%; background: #fff; border-radius: 3px; }
details { margin: .75rem 0; } summary { cursor: pointer; }
"""


@dataclass(frozen=True)
class Evaluated:
    """A kNN evaluation and on what it was done."""

    protocol: Protocol
    result: Result


def write_report(dataset: Dataset, evaluated: Evaluated | None, runs: Sequence[Path], folder: Path) -> Path:
    """Write `index.html` of the shards and the runs into a folder and return its path.

    Raises:
        UsageError: the shards cannot be read.
    """
    parts = [f"<h1>satmip report</h1><p class=soft><code>{escape(dataset.root)}</code></p>", _data(dataset), _chips(dataset)]
    if runs:
        parts.append(_runs(runs))
    if evaluated is not None:
        parts += [_knn(evaluated.result), _neighbours(evaluated)]
    elif runs:
        parts.append("<h2>kNN</h2><p>These shards have no labels, so there is no kNN table.</p>")
    if runs:
        parts.append(_settings(runs))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>satmip report</title>'
    page = (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    path = folder / "index.html"
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def _picture(chip: Chip) -> str:
    """Return a chip as a data URI."""
    png = io.BytesIO()
    chip.image.save(png, "PNG", optimize=True)
    return _data_uri(png.getvalue())


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _html_table(header: Sequence[str], rows: Iterable[str], kind: str = "") -> str:
    head, body = "".join(f"<th>{escape(name)}</th>" for name in header), "".join(rows)
    return f'<div class=wide><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _html_row(cells: Sequence[Any], kind: str = "") -> str:
    return f'<tr class="{kind}">' + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _data(dataset: Dataset) -> str:
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
        ("longest caption", "not counted" if longest is None else f"{longest['tokens']} tokens"),
        ("empty captions", f"{data['caption']['empty']:,}"),
        ("channel mean", ", ".join(f"{value:.4f}" for value in data["channels"]["mean"])),
        ("channel std", ", ".join(f"{value:.4f}" for value in data["channels"]["std"])),
        ("rejects", ", ".join(f"{reason}: {count:,}" for reason, count in data["rejects"].items()) or "none"),
    ]
    numeric = [(c["name"], c["unit"], f"{c['mean']:.6g}", f"{c['std']:.6g}", f"{c['known']:,}") for c in data["numeric"]]
    names = ", ".join(data["classes"]) or "none"
    return (
        "<h2>Data</h2>"
        + _html_table(("split", "samples", "shards", "MB"), map(_html_row, splits))
        + f"<h3>Facts</h3>{_html_table(('', ''), map(_html_row, facts), 'text')}"
        + f"<details><summary>{len(data['classes'])} classes</summary><p>{escape(names)}</p></details>"
        + f"<details><summary>{len(numeric)} numeric features</summary>"
        + f"{_html_table(('feature', 'unit', 'mean', 'std', 'known'), map(_html_row, numeric))}</details>"
    )


def _chips(dataset: Dataset) -> str:
    """Return the first chips of the largest split with their captions; shards are shuffled, so they are a fair draw."""
    split = max(dataset.splits, key=lambda name: dataset.splits[name])
    chips = read_chips(dataset, split, range(min(_CHIPS, dataset.splits[split])))
    figures = "".join(
        _figure(chip, f"{f'<b>{escape(chip.label)}</b><br>' if chip.label else ''}{escape(chip.caption)}") for chip in chips
    )
    return f"<h2>Chips and captions</h2><p class=soft>The first of {escape(split)}.</p><div class=sheet>{figures}</div>"


def _figure(chip: Chip, caption: str, kind: str = "") -> str:
    picture = f'<img src="{_picture(chip)}" alt="{escape(chip.key)}" title="{escape(chip.key)}">'
    return f'<figure class="{kind}">{picture}<figcaption>{caption}</figcaption></figure>'


def _runs(runs: Sequence[Path]) -> str:
    parts = []
    for run in runs:
        name, curves = escape(run.resolve().name), run / "curves.png"
        picture = "<p class=soft>There is no curves.png.</p>"
        if curves.exists():
            picture = f'<img class=curves src="{_data_uri(curves.read_bytes())}" alt="curves of {name}">'
        parts.append(f"<h3>{name}</h3>{picture}")
    return "<h2>Training</h2>" + "".join(parts)


def _knn(result: Result) -> str:
    table = tables.table(result)
    rows = [*map(_html_row, table.models), *(_html_row(row, "summary") for row in table.summaries)]
    notes = "".join(f"<p class=soft>{escape(note)}</p>" for note in table.notes)
    return f"<h2>{escape(table.title)}</h2>{_html_table(table.header, rows)}{notes}"


def _neighbours(evaluated: Evaluated) -> str:
    """Return a few test chips, each with the train chips that are nearest under the best run."""
    protocol = evaluated.protocol
    metric = evaluated.result["metric"]
    best = max((m for m in evaluated.result["models"] if m["run"] is not None), key=lambda m: m["metrics"][metric])
    features = split_features(load_model(Path(best["run"])), protocol, lambda samples: None)
    found = Gallery(*features, protocol.train, protocol.test, protocol.train_split, protocol.test_split)
    rows = []
    for row in find_neighbours(found, range(min(_QUERIES, len(features[1].vectors))), _NEIGHBOURS, protocol.device):
        query = row.query
        figures = [_figure(query, f"<b>{escape(query.label or '')}</b><br>from {escape(protocol.test_split)}", "query")]
        for chip, similarity in row.nearest:
            kind = "same" if chip.label == query.label else "other"
            figures.append(_figure(chip, f"{escape(chip.label or '')}<br>{similarity:.3f}", kind))
        rows.append(f"<div class=row>{''.join(figures)}</div>")
    learned, tested = escape(protocol.train_split), escape(protocol.test_split)
    text = (
        f"<p>The first chips of {tested}, and those of {learned} that are nearest by cosine similarity under "
        f"<b>{escape(best['name'])}</b>, the run of the best {tables.METRICS[metric]}. Green: the same class; red: another.</p>"
    )
    return f"<h2>Nearest neighbours</h2>{text}<div class=wide>{''.join(rows)}</div>"


def _settings(runs: Sequence[Path]) -> str:
    """Return the settings of the runs side by side."""
    models = [load_model(run) for run in runs]
    values = [model.settings.model_dump(mode="json") for model in models]
    rows = []
    for name in values[0]:
        cells = ["" if value[name] is None else value[name] for value in values]
        rows.append(_html_row((name, *cells), "differs" if any(cell != cells[0] for cell in cells) else ""))
    return f"<h2>Settings</h2>{_html_table(('setting', *(model.name for model in models)), rows, 'text')}"
