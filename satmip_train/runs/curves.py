"""The curves of a run, from its log: as charts of a page, and as a picture."""

from pathlib import Path

from satmip_data.pages.charts import Chart, Drawn, Series, draw
from satmip_train.errors import UsageError
from satmip_train.runs.log import Line, measured, read_log

_SCORES = {"macro_f1": "macro-F1", "top1": "top-1"}


def charts(lines: list[Line]) -> list[Drawn]:
    """Return the charts of a log, by epoch: losses against chance, temperature, rate, kNN, embeddings, speed, data wait."""
    if not lines:
        return []
    last, evaluated = lines[-1], [line for line in lines if "knn" in line]

    def series(name: str, values: list[float], chance: float | None = None) -> Series:
        return Series(name, [line["epoch"] for line in lines], values, chance)

    # A loss of one part is that part.
    parts = [name for name in measured(last) if name.startswith("loss") and (name == "loss" or last[name] != last.get("loss"))]
    losses = [series(name, _values(lines, name), last["chance"].get(name)) for name in parts]
    others = [Chart(name, "epoch", (series(name, _values(lines, name)),)) for name in measured(last) if not name.startswith("loss")]
    epochs = [line["epoch"] for line in evaluated]
    scores = [
        Series(_SCORES[name], epochs, [100 * line["knn"].get(name, float("nan")) for line in evaluated], dots=True)
        for name in _SCORES
    ]
    spread = [line for line in lines if line.get("embeddings")]

    def signs(name: str, key: str) -> Series:
        return Series(name, [line["epoch"] for line in spread], [line["embeddings"][key] for line in spread])

    waits = [100 * line["data_wait"] for line in lines]
    found = [
        Chart("loss", "epoch", tuple(losses)),
        *others,
        Chart("learning rate", "epoch", (series("lr", _values(lines, "lr")),), from_zero=True),
        Chart("kNN on val, %", "epoch", tuple(scores), within=(0, 100)),
        Chart("effective rank of the embeddings", "epoch", (signs("effective rank", "effective_rank"),), from_zero=True),
        Chart("deviation of the embeddings", "epoch", (signs("deviation", "deviation"),), from_zero=True),
        Chart("samples a second", "epoch", (series("samples/s", _values(lines, "samples_per_second")),), from_zero=True),
        Chart("waiting for data, % of the time", "epoch", (series("wait", waits),), from_zero=True, within=(0, 100)),
    ]
    return [drawn for chart in found if (drawn := draw(chart)) is not None]


def draw_curves(run: Path) -> Path:
    """Draw losses against chance, temperature, learning rate, kNN, speed and data wait into `curves.png` of a run; return its path.

    Raises:
        UsageError: the run has logged nothing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_log(run)
    if not lines:
        raise UsageError(f"There is nothing to draw: {run}/log.jsonl has no line. Train first")
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2).ravel()
    epochs = [line["epoch"] for line in lines]
    losses = [name for name in measured(lines[-1]) if name.startswith("loss")]
    for number, name in enumerate(losses):
        axes[0].plot(epochs, _values(lines, name), color=f"C{number}", label=name)
        if name in lines[-1]["chance"]:
            axes[0].axhline(lines[-1]["chance"][name], color=f"C{number}", linestyle=":", label=f"{name}, chance")
    for name in [name for name in measured(lines[-1]) if name not in losses]:
        axes[1].plot(epochs, _values(lines, name), color="C5", label=name)
    largest = max(line["lr"] for line in lines) or 1.0
    axes[1].plot(epochs, [line["lr"] / largest for line in lines], color="C7", label="lr / its largest")
    axes[2].plot(epochs, [line["samples_per_second"] for line in lines], color="C0", label="samples/s")
    axes[3].plot(epochs, [100 * line["data_wait"] for line in lines], color="C3", label="waiting for data, % of the time")
    if evaluated := [line for line in lines if "knn" in line]:
        for number, name in enumerate(evaluated[0]["knn"]):
            values = [100 * line["knn"].get(name, float("nan")) for line in evaluated]
            axes[3].plot([line["epoch"] for line in evaluated], values, f"C{number}o-", label=f"kNN {name}, %")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper right")  # "best" takes seconds where there are many points
    axes[2].set_ylim(bottom=0)
    axes[3].set_ylim(0, 100)
    figure.savefig(run / "curves.png", dpi=110)
    return run / "curves.png"


def _values(lines: list[Line], name: str) -> list[float]:
    return [line.get(name, float("nan")) for line in lines]
