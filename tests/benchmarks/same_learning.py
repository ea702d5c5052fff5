"""Speed must not change what is learned: the loss of a run by the reference path and by the fast path, beside the spread of seeds.

    python tests/benchmarks/same_learning.py SHARDS
    python tests/benchmarks/same_learning.py SHARDS --fast '{"precision": "bf16", "residual": "autocast"}'   # a fast path of yours

Trains SatMIPS for 300 steps with three seeds by the reference path and by the fast path, and once more with the first of them by
the reference path from weights that differ in their seventh digit: how far that run strays, rounding alone does. The reference
path: views one by one on the CPU, samples decoded anew in each epoch, float32 without TF32, eager, attention by its plain formula,
all tokens of the last block, token rows as long as the longest caption, AdamW as a loop. The fast path: views in batches, views and
encoders compiled, the split resident, one token of the last block, trimmed tokens, fused AdamW, and on a GPU bf16 and TF32 views.
Prints one table; writes `same_learning.json` and `.png`.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from gpu_levers import all_tokens
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from timing import machine
from torch import Tensor

from satmip_train.config import Settings, resolve
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.distributed import Job, device_name
from satmip_train.policies import Policy
from satmip_train.training import batches
from satmip_train.training.batches import DataPath
from satmip_train.training.plan import plan_run
from satmip_train.training.state import build_state
from satmip_train.training.step import Step, batch_keys
from satmip_train.views import apply
from satmip_train.views.draws import Params

SMALL = {
    "backbone_args": {"img_size": 64, "patch_size": 16, "embed_dim": 96, "depth": 2, "num_heads": 3},
    "text_layers": 1, "text_width": 64, "text_heads": 2, "ssl_hidden": 256, "ssl_dim": 64, "embed_dim": 64,
    "batch_size": 64, "workers": 0, "warmup_epochs": 1, "knn_every": 0,
}  # fmt: skip
REFERENCE = {"compile": False, "precision": "fp32", "attention": "math", "tf32": "off", "trim_tokens": False}
FAST = {"attention": "auto", "tf32": "views", "trim_tokens": True}
EVERY = 50
"""Steps that a mean goes over."""

REFERENCES, FASTS, ROUNDED = "reference, seed ", "fast, seed ", "rounded, seed 0"
"""Names of runs; those of the first two end with their seed."""
MARKS = ("reference", "fast_path", "drift", "standard_error", "spread")
"""What is found at each mark: the mean losses over seeds, the mean of what they differ by, and how far seeds are apart."""

Losses = npt.NDArray[np.float64]


@contextmanager
def views_made_by(fast: bool, compiled: bool) -> Iterator[None]:
    """Let views be made one by one on the CPU, or in batches on whatever device."""

    def one_by_one(images: Tensor, params: Params, policy: Policy) -> Tensor:
        return augment_one_by_one(images.cpu(), params.to("cpu"), policy).to(images.device)

    augment_one_by_one, batched = apply.one_by_one, apply.batched
    if not fast:
        with patch.object(apply, "batched", one_by_one):
            yield
    else:
        # Step compiles the views itself where there is a GPU.
        made: Callable[..., Tensor] = torch.compile(batched) if compiled else batched
        with patch.object(apply, "one_by_one", made):
            yield


def train(dataset: Dataset, settings: Settings, device: torch.device, fast: bool, noise: float = 0.0) -> Losses:
    """Return the loss of each step of a run; `noise` is the relative deviation of what is added to its first weights."""
    torch.compiler.reset()
    plan = plan_run(settings, dataset, Job(device))
    state = build_state(plan)
    for group in state.optimizer.param_groups:
        group.update(fused=fast, foreach=False)
        for parameter in group["params"] if noise else ():
            parameter.data.mul_(1 + noise * torch.randn_like(parameter))
    steps = range(plan.last_step)
    with views_made_by(fast, plan.compiled), nullcontext() if fast else all_tokens():
        step = Step(plan, state)
        source = batches.batches(plan, batch_keys(state), steps, DataPath(fast, ""), lambda samples: None)
        losses = [step(batch)["loss"] for batch in source]
    return torch.stack(losses).double().cpu().numpy()


def smoothed(losses: Losses) -> Losses:
    """Return the mean of each `EVERY` steps, or of the whole where these are fewer."""
    every = min(EVERY, len(losses))
    return losses[: len(losses) // every * every].reshape(-1, every).mean(1)


def compare(
    dataset: Dataset,
    device: torch.device,
    settings: dict[str, Any],
    steps: int,
    seeds: int,
    changes: dict[str, Any],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train all runs and return their losses, and whether the fast ones are as near to their references as seeds are.

    Args:
        changes: other settings of the fast path
    """
    per_epoch = sum(shard.samples for shard in dataset.split("train")) // settings["batch_size"]
    common = {**settings, "epochs": steps / per_epoch}
    fast = {
        **FAST,
        "precision": "bf16" if device.type == "cuda" else "fp32",
        "compile": device.type == "cuda" or can_compile(),
        **changes,
    }
    runs: dict[str, Losses] = {}
    seconds: dict[str, float] = {}
    ways = {
        **{f"{REFERENCES}{seed}": (seed, REFERENCE, 0.0) for seed in range(seeds)},
        **{f"{FASTS}{seed}": (seed, fast, 0.0) for seed in range(seeds)},
        ROUNDED: (0, REFERENCE, 1e-7),
    }
    for name, (seed, path, noise) in ways.items():
        start = time.process_time()
        runs[name] = train(dataset, resolve("tiny", {**common, **path, "seed": seed}), device, path is fast, noise)
        seconds[name] = time.process_time() - start
        say(f"{name}: {seconds[name]:.0f} s of CPU time")
    return {"runs": {name: losses.tolist() for name, losses in runs.items()}, "cpu_seconds": seconds, "fast": fast, **verdict(runs)}


def can_compile() -> bool:
    """Return whether there is what torch.compile needs on a CPU."""
    return shutil.which("g++") is not None


def verdict(runs: dict[str, Losses]) -> dict[str, Any]:
    """Return the smoothed losses, the spread of the seeds, and how far the fast runs are from the reference of their seed.

    One run says little: rounding is amplified by training, so a path may well end beside the reference of one seed, and which side
    is chance. So the question is answered over all seeds and marks together: whether the root mean square of the distances is at
    most the deviation of the seeds. What a path itself changes is in the mean over seeds, the drift.
    """
    smooth = {name: smoothed(losses) for name, losses in runs.items()}
    references, fasts = (np.stack([values for name, values in smooth.items() if name.startswith(of)]) for of in (REFERENCES, FASTS))
    away = fasts - references
    deviation = _root_mean_square(references.std(axis=0, ddof=1))
    per_seed = away.mean(axis=1)
    return {
        "smoothed": {name: values.tolist() for name, values in smooth.items()},
        "reference": references.mean(axis=0).tolist(),
        "fast_path": fasts.mean(axis=0).tolist(),
        "drift": away.mean(axis=0).tolist(),
        "standard_error": (away.std(axis=0, ddof=1) / len(away) ** 0.5).tolist(),
        "spread": np.ptp(references, axis=0).tolist(),
        "mean_drift": float(per_seed.mean()),
        "its_standard_error": float(per_seed.std(ddof=1) / len(per_seed) ** 0.5),
        "marks_within_spread": int((np.abs(away) <= np.ptp(references, axis=0)).sum()),
        "deviation_of_seeds": deviation,
        "distance": _root_mean_square(away),
        "distance_by_rounding": _root_mean_square(smooth[ROUNDED] - references[0]),
        "within": _root_mean_square(away) <= deviation,
    }


def _root_mean_square(values: Losses) -> float:
    return float(np.sqrt(np.square(values).mean()))


def show(found: dict[str, Any], console: Console) -> None:
    """Print the one table, of means over seeds; the curves themselves are in the JSON and the PNG."""
    columns = ("reference", "fast", "fast - reference", "its standard error", "spread of seeds")
    table = Table("steps", *columns, box=None)
    for row, values in enumerate(zip(*(found[name] for name in MARKS), strict=True)):
        numbers = (f"{x:.4f}" for x in values)
        table.add_row(f"{row * EVERY + 1} to {(row + 1) * EVERY}", *numbers)
    console.print(table)
    names = ("deviation_of_seeds", "distance", "distance_by_rounding", "mean_drift", "its_standard_error", "marks_within_spread")
    console.print(", ".join(f"{name.replace('_', ' ')}: {found[name]:.4g}" for name in names), soft_wrap=True)
    console.print(f"The fast path lies within the deviation of the seeds: {'yes' if found['within'] else 'NO'}")


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw the losses."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, losses in found["runs"].items():
        width = min(10, len(losses))
        style = {"color": "#c0453a", "linewidth": 1.2} if name.startswith(FASTS) else {"color": "#8a8a8a", "linewidth": 1.8}
        axes.plot(np.convolve(losses, np.ones(width) / width, "valid"), label=name, **style)
    axes.set(xlabel="step", ylabel="loss, mean of 10 steps")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Read the command line, train, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/same_learning"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--fast", type=json.loads, default={}, help="other settings of the fast path, as JSON")
    options = parser.parse_args()
    console = Console(width=140)
    settings, device = {"objective": "satmips", **SMALL}, torch.device(options.device)
    found = compare(open_dataset(options.shards), device, settings, options.steps, options.seeds, options.fast, console.print)
    content = {"machine": machine("torch", "timm"), "device": device_name(device), "settings": settings, **found}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "same_learning.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    plot(found, options.out / "same_learning.png")
    console.print(content["machine"], soft_wrap=True)
    show(found, console)


if __name__ == "__main__":
    main()
