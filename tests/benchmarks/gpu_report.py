"""What follows from the measurements of `gpu.py`: shares of what the machine can do, ratios, what fits into a card."""

from typing import Any

from rich.console import Console
from rich.table import Table

PAPER = {
    ("satmip", "simclr"): {"time": 0.56, "memory": 0.62},
    ("satmips", "simclr"): {"time": 1.05, "memory": 1.11},
    ("satmips", "decoupled"): {"time": 0.70, "memory": 0.70},
}
"""Of what and beside what -> the paper's ratios: section 4, and "about 30%" less in section 4.7."""
TRAINING_FLOP = {"simclr": 52.0e9, "satmip": 29.1e9, "satmips": 55.3e9}
"""Forward and backward of ViT-S/16 at 224 pixels, a sample, as torch's FlopCounterMode counts them; text of 77 tokens."""
DECOUPLED_FLOP = 81.2e9
VIEW_BYTES = 226e6
"""What a view of ViT-S/16 at 224 pixels moves through memory in both passes of the compiled trunk, by `gpu_schedule.py`."""
FMOW_BYTES = 363_572 * 224 * 224 * 3
"""fMoW's training split, resident at 224 pixels."""
CARDS = {"80 GB": 80e9, "24 GB": 24e9}
USABLE = 0.95
"""Part of a card's memory that a run can have; the rest is the driver's and what its pieces do not fill."""

Results = dict[str, Any]


def is_run(result: Results) -> bool:
    """Whether a part trained."""
    return "step_seconds" in result


def flop(name: str, run: Results) -> float:
    """Return the arithmetic of a sample."""
    return DECOUPLED_FLOP if name == "decoupled" else TRAINING_FLOP[run["objective"]]


def shares(name: str, run: Results, limits: Results) -> dict[str, float]:
    """Return which part of the peak of a matrix product, and of the memory's bandwidth, a run uses."""
    rate = run["samples_per_second"]
    return {
        "of_the_product_peak": rate * flop(name, run) / 1e12 / limits["product_tflops"],
        "of_the_bandwidth": rate * run["views"] * VIEW_BYTES / 1e9 / limits["copy_gb_per_second"],
    }


def ratios(results: Results) -> dict[str, dict[str, float]]:
    """Return time and memory of runs as parts of those of others, without resident data, beside the paper's ratios."""
    found = {}
    for (name, base), paper in PAPER.items():
        above, below = (results.get(part, {}) for part in (name, base))
        if is_run(above) and is_run(below):
            time, memory = above["step_seconds"] / below["step_seconds"], _working(above) / _working(below)
            ours = {"time": time, "memory": memory}
            found[f"{name} / {base}"] = {**ours, **{f"paper_{what}": value for what, value in paper.items()}}
    return found


def _working(run: Results) -> float:
    return float(run["peak_bytes"] - run["resident_bytes"])


def memory(results: Results) -> dict[str, Any]:
    """Return the peak with and without fMoW resident, the bytes a sample, and what fits into a card; {} where runs are missing."""
    whole, half = results.get("satmips", {}), results.get("lever: half the batch", {})
    if not (is_run(whole) and is_run(half)):
        return {}
    more = whole["batch_size"] - half["batch_size"]
    sample = (_working(whole) - _working(half)) / more
    fixed = _working(whole) - sample * whole["batch_size"]
    ways = {"as it is": whole, **{name: results.get(f"lever: {name}", {}) for name in SAVING}}
    fitting = {}
    for card, size in CARDS.items():
        for data, held in (("streamed", 0), ("fMoW resident", FMOW_BYTES)):
            left = USABLE * size - held
            largest = max(int((left - fixed) // sample), 0) if sample > 0 else None
            able = [way for way, run in ways.items() if is_run(run) and _working(run) <= left]
            fitting[f"{card}, {data}"] = {"largest_batch": largest, f"batch_{whole['batch_size']}_by": able}
    return {
        "peak_gb_streamed": _working(whole) / 1e9,
        "peak_gb_fmow_resident": (_working(whole) + FMOW_BYTES) / 1e9,
        "mb_a_sample": sample / 1e6,
        "gb_fixed": fixed / 1e9,
        "fits": fitting,
    }


SAVING = (
    "nine tenths of the activations kept",
    "a tenth of the activations kept",
    "activations recomputed",
    "micro-batch of 256 rows",
)
"""Levers that save memory."""


def derived(results: Results, *, toy: bool) -> Results:
    """Return everything that follows from the measurements; shares of the peak mean nothing at toy size."""
    limits = results.get("limits", {})
    runs = {name: run for name, run in results.items() if is_run(run)} if "product_tflops" in limits and not toy else {}
    used = {name: shares(name, run, limits) for name, run in runs.items()}
    return {"shares": used, "ratios": ratios(results), "memory": memory(results)}


def show(results: Results, console: Console, *, toy: bool) -> None:
    """Print the one table and what follows from it."""
    columns = "what", "by", "samples/s", "step s", "step / before", "data wait", "views", "peak GB", "of products", "of bandwidth"
    table, base, follows = Table(*columns, box=None), results.get("satmips", {}), derived(results, toy=toy)
    for name, run in results.items():
        if not is_run(run):
            continue
        before = (
            f"{run['step_seconds'] / run['batch_size'] / base['step_seconds'] * base['batch_size']:.3f}" if is_run(base) else "-"
        )
        used = follows["shares"].get(name, {})
        parts = [f"{run[share]:.1%}" for share in ("data_wait", "views_share")]
        numbers = [f"{run['samples_per_second']:,.0f}", f"{run['step_seconds']:.4f}", before, *parts]
        table.add_row(
            name, run["means"], *numbers, f"{run['peak_bytes'] / 1e9:.2f}", *([f"{x:.0%}" for x in used.values()] or "--")
        )
    console.print(table)
    rest = {name: result for name, result in results.items() if not is_run(result)}
    for name, result in {**rest, "ratios": follows["ratios"], "memory": follows["memory"]}.items():
        console.print(f"{name}: {_rounded(result)}", soft_wrap=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
