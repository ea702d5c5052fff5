"""The paper's figures as PNG and SVG: convergence (Figure 3), and the distributions of metadata (Figures S1 to S3)."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from satmip_data.names import counted
from satmip_data.pages.coastlines import drawn_coastlines
from satmip_train.data.remote import reaching
from satmip_train.errors import UsageError
from satmip_train.evaluation_sets import evaluation_sets
from satmip_train.files import write_atomically
from satmip_train.paper.fill import Cell, Filled
from satmip_train.paper.layout import Column, Number

INDEX = "index.parquet"
_DPI = 200
_INK, _GRID, _FILL = "#2b2f36", "#d9dce1", "#3b6ea8"
_MODELS = {"SimCLR": ("#0072b2", "o"), "SatMIP": ("#e69f00", "X"), "SatMIPS": ("#009e73", "s")}
"""Colour and marker of each model: told apart also without colours."""
_LINES, _MARKERS = ("#0072b2", "#009e73", "#e69f00", "#cc79a7", "#7f7f7f", "#56b4e9"), "osX^Dv"
_AXES = ("#3b6ea8", "#d0743c")
"""Colours of width and height."""
_METRES = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_STYLE: Any = {
    "font.size": 9, "font.family": "sans-serif", "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": _GRID, "grid.linewidth": 0.6,
    "axes.axisbelow": True, "legend.frameon": False, "svg.hashsalt": "satmip",
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A point of Figure 3: score against time."""

    time: float
    mean: float
    std: float | None


@dataclass(frozen=True)
class Panel:
    """Lines of one plot, by name; the time of a point is its x."""

    title: str
    x: str
    y: str
    lines: dict[str, list[Point]]
    logarithmic: bool = False
    """The axis of x."""


def draw_convergence(filled: Filled, folder: Path) -> list[Path]:
    """Draw Figure 3 from its filled table: kNN of each set against training time relative to SimCLR's 25 epochs.

    Ours are filled markers on lines, the paper's printed points open ones. Sets without a point of ours are left out, unless
    there is none at all.
    """
    columns = [column for column in filled.layout.columns if column.kind == "score"]
    measured = [column for column in columns if any(_ours(filled, model, column) for model in _MODELS)]
    shown = measured or columns
    wide = min(len(shown), 4)
    tall = -(-len(shown) // wide)

    def draw(figure: Any) -> None:
        axes = figure.subplots(tall, wide, squeeze=False).ravel()
        for axis, column in zip(axes, shown, strict=False):
            _panel(axis, filled, column)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
        for number in range(len(shown)):
            last_row = number + wide >= len(shown)
            axes[number].set_xlabel("relative training time" if last_row else "")
        handles, labels = _legend(axes[: len(shown)])
        figure.legend(handles, labels, loc="outside upper center", ncols=6 if wide > 3 else 3)

    return _save(draw, (max(2.6 * wide, 4.6), 2.5 * tall + 0.6), folder / "figure-3")


def _panel(axis: Any, filled: Filled, column: Column) -> None:
    for model, (colour, marker) in _MODELS.items():
        style = {"color": colour, "marker": marker, "capsize": 2.5, "elinewidth": 1.1}
        for whose, points in (("ours", _ours(filled, model, column)), ("paper", _printed(filled, model, column))):
            if not points:
                continue
            times, means = [p.time for p in points], [p.mean for p in points]
            errors = [p.std or 0.0 for p in points]
            look = {"linewidth": 1.6, "markersize": 5.5} if whose == "ours" else {"linewidth": 0, "markersize": 7, "mfc": "white"}
            axis.errorbar(times, means, errors, label=f"{model}, {whose}", **style, **look)
    evaluation = evaluation_sets()[column.cell["dataset"]]
    axis.set_title(evaluation.title)
    axis.set_ylabel("F1 (%)" if evaluation.metric == "macro_f1" else "accuracy (%)")
    axis.set_xlim(0, 1.04 * axis.get_xlim()[1])


def _ours(filled: Filled, model: str, column: Column) -> list[Point]:
    """Return our points of a model in order of time; a point needs its time and its score."""
    rows = [number for number, row in enumerate(filled.layout.rows) if row.labels[0] == model]
    both = [(filled.cells.get((number, "time")), filled.cells.get((number, column.id))) for number in rows]
    return _points(both)


def _printed(filled: Filled, model: str, column: Column) -> list[Point]:
    rows = [row.published for row in filled.layout.rows if row.labels[0] == model]
    return _points([(published.get("time"), published.get(column.id)) for published in rows])


def _points(pairs: list[tuple[Cell | None, Cell | None]] | list[tuple[Number | None, Number | None]]) -> list[Point]:
    found = [Point(time.mean, score.mean, score.std) for time, score in pairs if time is not None and score is not None]
    return sorted(found, key=lambda point: point.time)


def _legend(axes: npt.NDArray[Any]) -> tuple[list[Any], list[str]]:
    """Return one entry for each thing that is in some panel: ours first."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    labels = sorted(found, key=lambda label: (label.endswith("paper"), list(_MODELS).index(label.split(",")[0])))
    return [found[label] for label in labels], labels


def draw_lines(panels: Sequence[Panel], path: Path) -> list[Path]:
    """Draw panels side by side, each with lines of mean and deviation, as PNG and SVG; a panel without a line is left out."""
    shown = [panel for panel in panels if any(panel.lines.values())]

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, max(len(shown), 1), squeeze=False).ravel()
        for axis, panel in zip(axes, shown, strict=False):
            for number, (name, points) in enumerate(panel.lines.items()):
                if points:
                    xs, means, errors = [p.time for p in points], [p.mean for p in points], [p.std or 0.0 for p in points]
                    look = {"color": _LINES[number % len(_LINES)], "marker": _MARKERS[number % len(_MARKERS)], "capsize": 2.5}
                    axis.errorbar(xs, means, errors, label=name, linewidth=1.6, markersize=5, elinewidth=1.1, **look)
            axis.set_title(panel.title)
            axis.set_xlabel(panel.x)
            axis.set_ylabel(panel.y)
            axis.set_xscale("log" if panel.logarithmic else "linear")
            axis.legend(fontsize=7)

    return _save(draw, (4.2 * max(len(shown), 1), 3.2), path)


def draw_metadata(number: str, shards: str, split: str, folder: Path) -> list[Path]:
    """Draw the GSD (s1), the locations (s2) or the times (s3) of a split from the index of its shards.

    Raises:
        UsageError: there is no index or no such split, or none of its samples knows the field.
    """
    field, draw, size = {
        "s1": ("gsd", _draw_gsd, (5.2, 3.2)),
        "s2": ("location", _draw_locations, (8.4, 4.4)),
        "s3": ("timestamp", _draw_times, (9.2, 2.8)),
    }[number]
    known = _known(shards, split, field)
    note = f"{counted(len(known), 'sample')} of {split}"
    return _save(lambda figure: draw(figure, known, note), size, folder / f"figure-{number}")


def _known(shards: str, split: str, field: str) -> list[Any]:
    """Return the values of a field that the samples of a split know."""
    try:
        # Without Arrow's threads, which may outlive the interpreter; a column that is not there shows in the selection.
        table = pq.ParquetFile(pa.BufferReader(_read(f"{shards}/{INDEX}"))).read(["split", field], use_threads=False)
        table = table.select(["split", field])
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise UsageError(f"Cannot read {field} from the index of {shards}: {error}. Build the shards with satmip-data") from error
    splits, values = table["split"].to_pylist(), table[field].to_pylist()
    known = [value for name, value in zip(splits, values, strict=True) if name == split and value is not None]
    if not known:
        raise UsageError(
            f'No sample of the split "{split}" in {shards} knows its {field}. Use another --split, of '
            f"{', '.join(sorted(set(splits)))}"
        )
    return known


def _read(url: str) -> bytes:
    with reaching(url), fsspec.open(url, "rb") as file:
        content: bytes = file.read()
    return content


def _draw_gsd(figure: Any, known: list[Any], note: str) -> None:
    axis = figure.subplots()
    gsd = np.array(known, dtype=float)
    bins = np.geomspace(gsd.min() * 0.98, gsd.max() * 1.02, 49)
    for column, (name, colour) in enumerate(zip(("width", "height"), _AXES, strict=True)):
        axis.hist(gsd[:, column], bins, histtype="stepfilled", color=colour, alpha=0.25)
        axis.hist(gsd[:, column], bins, histtype="step", color=colour, linewidth=1.5, label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    ticks = [tick for tick in _METRES if bins[0] <= tick <= bins[-1]]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_xlabel("ground sample distance (m)")
    axis.set_ylabel("samples")
    axis.set_title(note, loc="right", fontsize=8, fontweight="normal")
    axis.legend(loc="upper right")


def _draw_locations(figure: Any, known: list[Any], note: str) -> None:
    axis = figure.subplots()
    axis.add_patch(_land())
    longitude, latitude = np.array(known, dtype=float).T
    many = len(known)
    axis.scatter(
        longitude, latitude, s=float(np.clip(4e4 / many, 1.5, 16)), color=_FILL, alpha=float(np.clip(400 / many, 0.06, 0.6)),
        linewidths=0, rasterized=True,
    )  # fmt: skip
    axis.set(xlim=(-180, 180), ylim=(-90, 90), aspect="equal", xticks=range(-180, 181, 30), yticks=range(-90, 91, 30))
    axis.xaxis.set_major_formatter(lambda value, _: _degrees(value, "WE"))
    axis.yaxis.set_major_formatter(lambda value, _: _degrees(value, "SN"))
    axis.axhline(0, color="#aab0b8", linewidth=1, zorder=0.6)
    axis.axvline(0, color="#aab0b8", linewidth=1, zorder=0.6)
    axis.spines[["top", "right"]].set_visible(True)
    axis.tick_params(length=0)
    axis.set_title(note, loc="right", fontsize=8, fontweight="normal")


def _land() -> Any:
    """Return the land as one patch, which leaves the Caspian Sea out: outlines one way around are land, the other way water."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    outlines = [Outline((*ring, ring[0]), closed=True) for ring in drawn_coastlines()]
    return PathPatch(Outline.make_compound_path(*outlines), facecolor="#e9ebee", edgecolor="#b9bfc7", linewidth=0.4, zorder=0.5)


def _degrees(value: float, sides: str) -> str:
    return f"{abs(value):g}°{'' if value in (0, 180, -180) else sides[int(value > 0)]}"


def _draw_times(figure: Any, known: list[Any], note: str) -> None:
    years = np.array([time.year for time in known])
    counts = [
        (np.arange(years.min(), years.max() + 1), years, None, "year"),
        (np.arange(1, 13), np.array([time.month for time in known]), _MONTHS, "month"),
        (np.arange(7), np.array([time.weekday() for time in known]), _WEEKDAYS, "weekday"),
    ]
    axes = figure.subplots(1, 3, width_ratios=(1.2, 1.1, 0.9))
    for axis, (places, values, names, label) in zip(axes, counts, strict=True):
        axis.bar(places, [100 * float(np.mean(values == place)) for place in places], width=0.8, color=_FILL)
        every = -(-len(places) // 7) if names is None else 1
        axis.set_xticks(places[::every], names or places[::every], rotation=45 if len(names or ()) > 7 else 0)
        axis.set_xlabel(label)
        axis.grid(visible=False, axis="x")
        axis.tick_params(axis="x", length=0)
    axes[0].set_ylabel("samples (%)")
    axes[-1].set_title(note, loc="right", fontsize=8, fontweight="normal")


def _save(draw: Callable[[Any], None], size: tuple[float, float], stem: Path) -> list[Path]:
    """Draw a figure and write it as PNG and as SVG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained", dpi=_DPI)
        FigureCanvasAgg(figure)
        draw(figure)
        written = []
        for suffix, metadata in (("png", {}), ("svg", {"Date": None})):
            stream = io.BytesIO()
            figure.savefig(stream, format=suffix, metadata=metadata)
            content = stream.getvalue()
            path = stem.with_suffix(f".{suffix}")
            write_atomically(path, lambda file, content=content: file.write(content))
            written.append(path)
    return written
