"""A training step of SatMIP and SatMIPS beside SimCLR's, in time and peak memory, as ratios, with the paper's.

    python tests/benchmarks/steps.py                          # ViT-S/16, 224 px, batch 16 on a CPU, 256 on a GPU: ten minutes
    python tests/benchmarks/steps.py --batch 4 --rounds 3     # two minutes
    python tests/benchmarks/steps.py --toy                    # seconds, only to see that it works

Networks, objectives and optimizer are those of the paper's recipes, captions have 77 tokens. For the time all objectives live in
one process and take their steps in turns. For the memory each has a process of its own, once with the batch and once with half of
it, so that what a sample takes is told from what the weights take. Needs Linux for the memory.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timing
import torch
import torch._dynamo
from gpu import TOY, synchronize
from gpu_report import DECOUPLED_FLOP, PAPER, TRAINING_FLOP
from helpers.toy_shards import write_toy_shards
from torch import Tensor

from satmip_train.config import resolve
from satmip_train.data.dataset import open_dataset
from satmip_train.data.decoder import Batch
from satmip_train.distributed import Job
from satmip_train.training import batches
from satmip_train.training.batches import DataPath
from satmip_train.training.meter import peak_bytes
from satmip_train.training.plan import RunPlan, plan_run
from satmip_train.training.state import State, build_state
from satmip_train.training.step import Step, batch_keys

OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr": ("simclr", {}),
    "satmip": ("satmip", {}),
    "satmips": ("satmips", {}),
    "decoupled": ("satmips", {"coupled": False}),
}
"""Name -> recipe and what differs from it."""
FLOP = {**TRAINING_FLOP, "decoupled": DECOUPLED_FLOP}
CONTEXT = 77
SHARE = 256
"""Samples of the paper's batch on each of its four GPUs."""
CLOCKS = {"CPU time": 0, "clock": 1}
PARTS = {"whole": (), "without views": ("views",), "forward and backward": ("views", "optimizer")}
"""Of a step, and what they leave out."""
Seconds = npt.NDArray[np.float64]
"""By CPU time and by the clock."""


@dataclass(frozen=True)
class Work:
    """What is measured."""

    shards: Path
    device: str
    precision: str
    toy: bool

    def plan(self, name: str, batch: int) -> RunPlan:
        """Return the run of an objective, resolved, with captions padded to the paper's 77 tokens."""
        recipe, changes = OBJECTIVES[name]
        base = TOY.base if self.toy else {"workers": 0, "precision": self.precision}
        flags = {**base, "epochs": 1000, "lr_start": 0.0, "batch_size": batch, "trim_tokens": False, **changes}
        plan = plan_run(resolve(recipe, flags), open_dataset(self.shards), Job(torch.device(self.device)))
        assert plan.decoder.captions is not None
        decoder = replace(plan.decoder, captions=replace(plan.decoder.captions, context=CONTEXT))
        return replace(plan, decoder=decoder, shape=replace(plan.shape, context=CONTEXT))


class TimedStep(Step):
    """A step that notes its seconds, and what of them its views and its optimizer took."""

    def __init__(self, plan: RunPlan, state: State) -> None:
        super().__init__(plan, state)
        self._job = plan.job
        self.parameters = sum(parameter.numel() for parameter in state.objective.parameters())
        self.took: list[dict[str, Seconds]] = []
        state.optimizer.register_step_pre_hook(lambda *_: self._add("optimizer", -1))
        state.optimizer.register_step_post_hook(lambda *_: self._add("optimizer", 1))

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        self._parts = {part: np.zeros(2) for part in ("step", "views", "optimizer")}
        self._add("step", -1)
        parts = super().__call__(batch)
        self._add("step", 1)
        self.took.append(self._parts)
        return parts

    def view(self, images: Tensor, number: int) -> Tensor:
        self._add("views", -1)
        made = super().view(images, number)
        self._add("views", 1)
        return made

    def _add(self, part: str, sign: int) -> None:
        synchronize(self._job)
        self._parts[part] += sign * np.array([time.process_time(), time.perf_counter()])


def start(work: Work, name: str, batch: int) -> tuple[TimedStep, Callable[[], Any]]:
    """Return the step of an objective with fresh weights, and what takes it on one batch."""
    plan = work.plan(name, batch)
    state = build_state(plan)
    state.parallel.train()
    path = DataPath(False, "one batch")
    data = next(iter(batches.batches(plan, batch_keys(state), range(1), path, lambda samples: None)))
    step = TimedStep(plan, state)
    return step, partial(step, data)


def times(work: Work, batch: int, rounds: int) -> dict[str, list[dict[str, Seconds]]]:
    """Return for each objective the seconds of its steps by round, after one that is not counted."""
    steps = {name: start(work, name, batch) for name in OBJECTIVES}
    timing.in_turns({name: take for name, (_, take) in steps.items()}, rounds + 1)
    return {name: step.took[1:] for name, (step, _) in steps.items()}


def memory(work: Work, name: str, batch: int) -> tuple[float, float]:
    """Return in MB what an objective's networks, optimizer and steps take at most, and what of it weights and optimizer do."""
    job = Job(torch.device(work.device))
    before = timing.memory_mb("VmRSS") if job.device.type == "cpu" else 0.0
    step, take = start(work, name, batch)
    # The optimizer's state is made at the end of the first step, so the second has the peak.
    for _ in range(2):
        take()
    peak = timing.memory_mb("VmHWM") if job.device.type == "cpu" else peak_bytes(job) / 1e6
    # Weight, gradient and AdamW's two averages, in float32.
    return peak - before, 16 * step.parameters / 1e6


def seconds_of(steps: Sequence[dict[str, Seconds]], clock: str, *left_out: str) -> list[float]:
    """Return the seconds of steps by one clock, less those of some parts."""
    return [float((step["step"] - sum(step[part] for part in left_out))[CLOCKS[clock]]) for step in steps]


def show_times(report: timing.Report, took: dict[str, list[dict[str, Seconds]]], title: str, judge: str) -> None:
    """Print the time of each objective, then the ratios; `judge` is the clock that the targets are for, if any."""
    report.table(f"A step, {title}")
    for name, steps in took.items():
        whole, clock = (statistics.median(seconds_of(steps, by)) for by in CLOCKS)
        shares = (statistics.median(s[part][0] for s in steps) / whole for part in ("views", "optimizer"))
        about = ", ".join(f"{part} {share:.1%}" for part, share in zip(("views", "optimizer"), shares, strict=True))
        report.row(f"{name}, CPU time (clock {1e3 * clock:,.0f} ms; {about})", 1e3 * whole, "ms")
    for (above, below), paper in PAPER.items():
        flop = f"{FLOP[above] / FLOP[below]:.3f} by FLOP"
        for by, part in (*(("CPU time", part) for part in PARTS), ("clock", "whole")):
            one, two = (seconds_of(took[name], by, *PARTS[part]) for name in (above, below))
            target = timing.Target("at most", paper["time"]) if by == judge and part == "whole" else None
            what = f"{above} : {below}, {part}, {by} ({flop})"
            report.row(what, 1e3 * statistics.median(one), "ms", timing.ratios(one, two), target)


def show_memory(report: timing.Report, work: Work, batch: int) -> None:
    """Print the memory of each objective, then the ratios."""
    report.table("Memory of networks, optimizer and steps")
    peaks, samples = {}, {}
    for name in OBJECTIVES:
        (whole, fixed), (half, _) = (timing.apart(memory, work, name, size) for size in (batch, batch // 2))
        peaks[name], samples[name] = whole, (whole - half) / (batch - batch // 2)
        about = (
            f"batch {batch // 2}: {half:,.0f} MB; weights, gradients, averages: {fixed:,.0f} MB; a sample: {samples[name]:.0f} MB"
        )
        report.row(f"{name}, batch {batch} ({about})", whole, "MB")
    far = {name: peaks[name] + (SHARE - batch) * samples[name] for name in OBJECTIVES}
    for (above, below), paper in PAPER.items():
        target = None if work.toy else timing.Target("at most", paper["memory"])
        report.row(f"{above} : {below}, batch {batch}", peaks[above], "MB", [peaks[above] / peaks[below]])
        report.row(f"{above} : {below}, batch {SHARE}, extrapolated", far[above], "MB", [far[above] / far[below]], target)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="tiny networks on a CPU")
    parser.add_argument("--batch", type=int, help="samples a step")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each objective that are timed")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on a GPU, fp32 on a CPU")
    options = parser.parse_args()
    device = "cuda:0" if torch.cuda.is_available() and not options.toy else "cpu"
    batch = options.batch or (16 if device == "cpu" else SHARE)
    size = TOY.chip if options.toy else 224
    # Else the second objective, whose batches have another number of views, would get one graph for all sizes, and the first not.
    torch._dynamo.config.automatic_dynamic_shapes = False
    # Of a fixed size, a freed block goes back to the system and the peak is that of what was in use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"
    report = timing.Report("steps", ("torch", "timm", "open_clip_torch"))
    networks = "tiny networks, of which nothing follows" if options.toy else "ViT-S/16"
    title = f"{networks}, batch {batch}, {device}, {torch.get_num_threads()} threads, precision {options.precision}"
    with tempfile.TemporaryDirectory() as folder:
        shards = write_toy_shards(folder, {"train": batch, "val": 2}, shards=1, size=(size, size))
        work = Work(shards, device, options.precision, options.toy)
        took = times(work, batch, options.rounds)
        show_times(report, took, title, "" if options.toy else "CPU time" if device == "cpu" else "clock")
        show_memory(report, work, batch)
    report.save()


if __name__ == "__main__":
    main()
