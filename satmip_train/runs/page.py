"""One HTML page of a run; everything is inside the file."""

import json
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from satmip_data.errors import cause
from satmip_data.names import counted
from satmip_data.pages import Grid, render
from satmip_train.config import Settings, load_recipe, recipe_names
from satmip_train.errors import UsageError
from satmip_train.files import RUN_CONFIG, write_atomically
from satmip_train.runs.cost import accounted_steps, read_summary
from satmip_train.runs.curves import charts, draw_curves
from satmip_train.runs.log import Line, measured, read_log

NAME = "index.html"


@dataclass(frozen=True)
class Plan:
    """What the page shows of `config.json`."""

    settings: dict[str, Any]
    last_step: int
    environment: list[tuple[str, Any]]


def write_run_page(run: Path) -> Path:
    """Write `index.html` and `curves.png` of a run from its log, `config.json` and `summary.json`; return the path of the page.

    Raises:
        UsageError: the run has logged nothing, or its log, `config.json` or `summary.json` is damaged.
    """
    draw_curves(run)
    lines, plan = read_log(run), _read_plan(run / RUN_CONFIG)
    settings, objective = plan.settings, plan.settings["objective"]
    recipe = objective if objective in recipe_names() else None
    page = render(
        "run.html",
        name=run.resolve().name,
        objective=objective,
        done=lines[-1]["step"] + 1,
        last_step=plan.last_step,
        epoch=lines[-1]["epoch"],
        charts=charts(lines),
        spread=lines[-1].get("embeddings"),
        losses=Grid.of(("loss", "first", "last", "chance"), _losses(lines)),
        knn=Grid.of(("step", "macro-F1", "top-1"), _knn(lines)),
        cost=_cost(lines, read_summary(run)),
        environment=plan.environment,
        recipe=recipe,
        differs=Grid.of(("setting", "here", "recipe"), _differing(settings, recipe), text=True),
        settings=Grid.of(("setting", "value"), settings.items(), text=True),
    ).encode()
    write_atomically(run / NAME, lambda file: file.write(page))
    return run / NAME


def _read_plan(path: Path) -> Plan:
    try:
        config = json.loads(path.read_bytes())
        settings = {**config["settings"], "objective": str(config["settings"]["objective"])}
        return Plan(settings, int(config["last_step"]), _environment(config))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is damaged: {cause(error)}. Copy it again; a run that goes on writes it anew.") from error


def _differing(settings: dict[str, Any], recipe: str | None) -> list[tuple[str, Any, Any]]:
    """Return the settings of a run that its objective's recipe has otherwise, with both values."""
    if recipe is None:
        return []
    theirs = Settings.model_validate(load_recipe(recipe)).model_dump(mode="json")
    return [(name, value, theirs[name]) for name, value in settings.items() if name in theirs and value != theirs[name]]


def _losses(lines: list[Line]) -> list[tuple[Any, ...]]:
    first, last = lines[0], lines[-1]
    chance = {name: f"{value:.4f}" for name, value in last["chance"].items()}
    return [(name, f"{first.get(name, nan):.4f}", f"{last[name]:.4f}", chance.get(name)) for name in measured(last)]


def _knn(lines: list[Line]) -> list[tuple[Any, ...]]:
    names = ("macro_f1", "top1")
    return [(line["step"] + 1, *(f"{line['knn'].get(name, nan):.4f}" for name in names)) for line in lines if "knn" in line]


def _cost(lines: list[Line], summary: dict[str, Any]) -> list[tuple[str, Any]]:
    speeds = sorted(line["samples_per_second"] for line in lines)
    waits = sorted(line["data_wait"] for line in lines)
    rows: list[tuple[str, Any]] = [
        ("samples a second, median", f"{speeds[len(speeds) // 2]:,.0f}"),
        ("waiting for data, median", f"{waits[len(waits) // 2]:.1%}"),
    ]
    if not summary:
        return rows
    device, energy, peak = (summary.get(name) for name in ("device_seconds", "energy_joules", "peak_memory_bytes"))
    seconds = summary.get("wall_seconds")
    return [
        *rows,
        ("sessions", f"{len(summary['sessions'])}, of {accounted_steps(summary):,} of {summary['step']:,} steps"),
        ("time", "not measured" if seconds is None else f"{seconds / 60:,.1f} min"),
        ("time of the GPU", "-" if device is None else f"{device / 60:,.1f} min"),
        ("peak memory a rank", "not measured" if peak is None else f"{peak / 2**30:,.2f} GiB"),
        ("energy of the GPUs", "not measured" if energy is None else f"{energy / 3.6e6:,.3f} kWh"),
    ]


def _environment(config: dict[str, Any]) -> list[tuple[str, Any]]:
    data = config["dataset"]
    return [
        ("device", config["device_name"]),
        ("ranks", config["ranks"]),
        ("precision", config["precision"]),
        ("data", config["data"]),
        ("shards", f"{data['root']}, {data['fingerprint'][:12]}, {counted(data['samples'], 'sample')} of {data['split']}"),
        ("parameters", f"{config['parameters']:,}"),
        *config["versions"].items(),
    ]
