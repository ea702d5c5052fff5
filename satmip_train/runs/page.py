"""One HTML page of a run; everything is inside the file."""

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

from satmip_train.files import write_atomically
from satmip_train.runs.cost import accounted_steps, read_summary
from satmip_train.runs.curves import draw_curves
from satmip_train.runs.log import Line, measured, read_log

NAME = "index.html"
_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 1000px; margin: 0 auto; padding: 2rem 1.25rem 5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; } .soft { opacity: .7; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
img { max-width: 100%; background: #fff; border-radius: 3px; } summary { cursor: pointer; }
"""


def write_run_page(run: Path) -> Path:
    """Write `index.html` and `curves.png` of a run from its log, `config.json` and `summary.json`; return the path of the page.

    Raises:
        UsageError: the run has logged nothing.
    """
    picture = base64.b64encode(draw_curves(run).read_bytes()).decode()
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    lines, summary = read_log(run), read_summary(run)
    done = lines[-1]["step"] + 1
    title = f"{config['settings']['objective']}: {escape(run.resolve().name)}"
    parts = [
        f"<h1>{title}</h1><p class=soft>step {done:,} of {config['last_step']:,}, epoch {lines[-1]['epoch']:.2f}</p>",
        f"<img alt='losses, temperature, learning rate, kNN, speed, data wait' src='data:image/png;base64,{picture}'>",
        "<h2>Losses</h2>" + _table(_losses(lines), "loss", "first", "last", "chance"),
        "<h2>kNN on val</h2>" + _table(_knn(lines), "step", "macro-F1", "top-1"),
        "<h2>Cost</h2>" + _table(_cost(lines, summary), "what", "value"),
        "<h2>Environment</h2>" + _table(_environment(config), "what", "value"),
        f"<details><summary>Settings</summary>{_table(list(config['settings'].items()), 'setting', 'value')}</details>",
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
    page = f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n".encode()
    write_atomically(run / NAME, lambda file: file.write(page))
    return run / NAME


def _losses(lines: list[Line]) -> list[tuple[Any, ...]]:
    first, last = lines[0], lines[-1]
    chance = {name: f"{value:.4f}" for name, value in last["chance"].items()}
    return [(name, f"{first[name]:.4f}", f"{last[name]:.4f}", chance.get(name, "")) for name in measured(last)]


def _knn(lines: list[Line]) -> list[tuple[Any, ...]]:
    return [(line["step"] + 1, *(f"{line['knn'][name]:.4f}" for name in ("macro_f1", "top1"))) for line in lines if "knn" in line]


def _cost(lines: list[Line], summary: dict[str, Any]) -> list[tuple[str, Any]]:
    speeds = sorted(line["samples_per_second"] for line in lines)
    waits = sorted(line["data_wait"] for line in lines)
    rows: list[tuple[str, Any]] = [
        ("samples a second, median", f"{speeds[len(speeds) // 2]:,.0f}"),
        ("waiting for data, median", f"{waits[len(waits) // 2]:.1%}"),
    ]
    if summary:
        rows += [
            ("sessions", f"{len(summary['sessions'])}, of {accounted_steps(summary):,} of {summary['step']:,} steps"),
            ("time", f"{summary['wall_seconds'] / 60:,.1f} min"),
            ("time of the GPU", "-" if summary["device_seconds"] is None else f"{summary['device_seconds'] / 60:,.1f} min"),
            ("peak memory a rank", f"{summary['peak_memory_bytes'] / 2**30:,.2f} GiB"),
            (
                "energy of the GPUs",
                "not measured" if summary["energy_joules"] is None else f"{summary['energy_joules'] / 3.6e6:,.3f} kWh",
            ),
        ]
    return rows


def _environment(config: dict[str, Any]) -> list[tuple[str, Any]]:
    data = config["dataset"]
    return [
        ("device", config["device_name"]),
        ("ranks", config["ranks"]),
        ("precision", config["precision"]),
        ("data", config["data"]),
        ("shards", f"{data['root']}, {data['fingerprint'][:12]}, {data['samples']:,} samples of {data['split']}"),
        ("parameters", f"{config['parameters']:,}"),
        *config["versions"].items(),
    ]


def _table(rows: list[tuple[Any, ...]], *columns: str) -> str:
    if not rows:
        return "<p class=soft>none</p>"
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
