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
from gpu import PAPER, TOY, TRAINING_FLOP, synchronize
from torch import Tensor
from toy_shards import write_toy_shards

from satmip_train import resident
from satmip_train.config import resolve
from satmip_train.job import Job
from satmip_train.meter import peak_bytes
from satmip_train.plan import Plan, plan_run
from satmip_train.resident import DataPath
from satmip_train.shards import open_dataset
from satmip_train.stream import Batch
from satmip_train.train import State, Step, batch_keys, build_state

OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr": ("simclr", {}),
    "satmip": ("satmip", {}),
    "satmips": ("satmips", {}),
    "decoupled": ("satmips", {"coupled": False}),
}
"""Name -> recipe and what differs from it."""
FLOP = {**TRAINING_FLOP, "decoupled": 88.2e9}
TARGETS = {
    ("satmip", "simclr"): PAPER["satmip"],
    ("satmips", "simclr"): PAPER["satmips"],
    ("satmips", "decoupled"): {"time": 0.70, "memory": 0.70},
}
"""Of what and beside what -> the paper's ratios: section 4, and "about 30%" less in section 4.7."""
CONTEXT = 77
SHARE = 256
"""Samples of the paper's batch on each of its four GPUs."""
CLOCKS = {"CPU time": 0, "clock": 1}
Seconds = npt.NDArray[np.float64]
"""By CPU time and by the clock."""


@dataclass(frozen=True)
class Work:
    """What is measured."""

    shards: Path
    device: str
    precision: str
    toy: bool

    def plan(self, name: str, batch: int) -> Plan:
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

    def __init__(self, plan: Plan, state: State) -> None:
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
    data = next(iter(resident.batches(plan, batch_keys(state), range(1), path, lambda samples: None)))
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


def without(step: dict[str, Seconds], *parts: str) -> Seconds:
    """Return the seconds of a step less those of some parts."""
    return step["step"] - sum(step[part] for part in parts)


def show_times(took: dict[str, list[dict[str, Seconds]]], batch: int) -> None:
    """Print the seconds of each objective, then the ratios."""
    print(f"| batch {batch} | step, CPU time | step, clock | views | optimizer | GFLOP/s |")
    for name, steps in took.items():
        seconds = {part: statistics.median(s[part][0] for s in steps) for part in ("step", "views", "optimizer")}
        clock = statistics.median(s["step"][1] for s in steps)
        rest = statistics.median(without(s, "views", "optimizer")[1] for s in steps)
        shares = " | ".join(f"{seconds[part] / seconds['step']:.1%}" for part in ("views", "optimizer"))
        print(f"| {name} | {seconds['step']:.2f} s | {clock:.2f} s | {shares} | {FLOP[name] * batch / rest / 1e9:.0f} |")
    print("| time | paper | FLOP | forward and backward | the same with the optimizer | whole step, views too |")
    for (above, below), paper in TARGETS.items():
        for clock_name, clock_index in CLOCKS.items():
            cells = [
                timing.ratio(*(seconds_of(took[name], clock_index, *left_out) for name in (above, below)))
                for left_out in (("views", "optimizer"), ("views",), ())
            ]
            flop = f"{FLOP[above] / FLOP[below]:.3f}"
            print(f"| {above} : {below}, {clock_name} | {paper['time']:.2f} | {flop} | {' | '.join(cells)} |")


def seconds_of(steps: Sequence[dict[str, Seconds]], clock: int, *left_out: str) -> list[float]:
    """Return the seconds of steps by one clock, less those of some parts."""
    return [float(without(step, *left_out)[clock]) for step in steps]


def show_memory(work: Work, batch: int) -> None:
    """Print the memory of each objective, then the ratios."""
    peaks: dict[str, dict[str, float]] = {}
    columns = f"batch {batch}", f"batch {batch // 2}", "a sample", "weights, gradients, optimizer"
    for name in OBJECTIVES:
        (whole, fixed), (half, _) = (timing.apart(memory, work, name, size) for size in (batch, batch // 2))
        peaks[name] = dict(zip(columns, (whole, half, (whole - half) / (batch - batch // 2), fixed), strict=True))
    print(f"| memory | {' | '.join(columns)} |")
    for name, row in peaks.items():
        print(f"| {name} | {' | '.join(f'{value:,.0f} MB' for value in row.values())} |")
    print(f"| memory | paper | batch {batch} | batch {SHARE}, extrapolated | a sample |")
    for (above, below), paper in TARGETS.items():
        far = [peaks[name][columns[0]] + (SHARE - batch) * peaks[name]["a sample"] for name in (above, below)]
        ratios = (peaks[above][columns[0]] / peaks[below][columns[0]], far[0] / far[1])
        sample = peaks[above]["a sample"] / peaks[below]["a sample"]
        print(f"| {above} : {below} | {paper['memory']:.2f} | {' | '.join(f'{value:.2f}' for value in (*ratios, sample))} |")


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
    # Of a fixed size, a freed block goes back to the system and the peak is that of what was in use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"
    print(f"{timing.machine('torch', 'timm', 'open_clip_torch')}; {device}, {torch.get_num_threads()} threads")
    if options.toy:
        print("Tiny networks: the columns of FLOP do not hold, and no ratio means anything.")
    with tempfile.TemporaryDirectory() as folder:
        shards = write_toy_shards(folder, {"train": batch, "val": 2}, shards=1, size=(size, size))
        work = Work(shards, device, options.precision, options.toy)
        show_times(times(work, batch, options.rounds), batch)
        show_memory(work, batch)


if __name__ == "__main__":
    main()
