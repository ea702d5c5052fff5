"""How fast training is on one GPU, end to end, and what each lever is worth, in calls of under ten minutes.

    python tests/benchmarks/gpu.py                           # one GPU: ViT-S/16, 224 px, batch 1024, bf16; the most wanted first
    python tests/benchmarks/gpu.py --before gpu.json         # what that call had no time for, beside what it found
    python tests/benchmarks/gpu.py --only attention,profile  # the parts whose names hold one of these
    python tests/benchmarks/gpu.py --toy                     # a CPU and a tiny network: only to see that it works

Makes its own shards, prints one table and writes `gpu.json` after each part, `profile.txt` and `failures.txt` into --out.
"""

import argparse
import gc
import json
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_levers import LEVERS, ROUNDED, Lever
from gpu_profile import shares
from gpu_report import derived, show
from helpers.toy_shards import write_toy_shards
from rich.console import Console
from timing import repeated_shards

from satmip_train.choices import Precision
from satmip_train.config import Settings, resolve
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.data.decoder import Batch
from satmip_train.distributed import Job, device_name
from satmip_train.evaluation import probes
from satmip_train.evaluation.features import resize, run_frozen
from satmip_train.runs.checkpoint import versions
from satmip_train.training import batches
from satmip_train.training.batches import DataPath
from satmip_train.training.meter import Clock, peak_bytes
from satmip_train.training.plan import RunPlan, plan_run
from satmip_train.training.state import State, build_state
from satmip_train.training.step import Step, batch_keys


@dataclass(frozen=True)
class Scale:
    """Sizes of everything that is measured."""

    train: tuple[int, int]
    """Samples of a shard, and shards, which are copies of one another."""
    chip: int
    base: dict[str, Any]
    warmup: int
    steps: int
    product: tuple[int, int]
    """Side of the matrices whose product gives the peak, and products: long enough for the clock and the heat of a step."""
    knn: tuple[int, int, int]
    """Train and test features and their width; fMoW's."""
    classes: int
    probe_iterations: int


_BASE = {"compile": True, "workers": 14, "precision": "bf16"}
TRUE = Scale((512, 8), 224, _BASE, 4, 15, (8192, 500), (363_572, 53_043, 384), 62, 20)
_TINY = {
    "backbone_args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "view_size": 32, "text_layers": 1, "text_width": 32, "text_heads": 2, "ssl_hidden": 32, "ssl_dim": 16, "embed_dim": 16,
    "batch_size": 16, "workers": 0, "precision": "fp32", "compile": False,
}  # fmt: skip
TOY = Scale((24, 2), 40, _TINY, 1, 2, (128, 1), (600, 80, 32), 5, 5)


@dataclass
class Report:
    """What was measured so far, and until when there is time."""

    scale: Scale
    job: Job
    dataset: Dataset
    out: Path
    until: float
    only: tuple[str, ...] = ()
    results: dict[str, Any] = field(default_factory=dict)

    def measure(self, name: str, work: Callable[[], Any]) -> None:
        """Keep what the work gives under a name; a failure is a result too."""
        known = "not measured" not in self.results.get(name, {"not measured": ""})
        if (self.only and not any(part in name for part in self.only)) or (known and not self.only):
            return
        if time.monotonic() > self.until:
            self.results[name] = {"not measured": "out of time"}
            return
        start = time.monotonic()
        try:
            self.results[name] = work()
        except Exception as error:  # out of memory, a lever that this machine lacks, or whatever a compiler or a driver says
            self.results[name] = {"not measured": f"{type(error).__name__}: {error}".splitlines()[0]}
            with (self.out / "failures.txt").open("a", encoding="utf-8") as file:
                file.write(f"{name}\n{traceback.format_exc()}\n")
        self.results[name]["took_seconds"] = time.monotonic() - start
        self.save()

    def save(self) -> None:
        """Write everything as JSON."""
        environment = {"device": device_name(self.job.device), "python": platform.python_version(), **versions()}
        environment["workers"] = str(self.scale.base["workers"])
        derives = derived(self.results, toy=self.scale is TOY)
        content = {"environment": environment, "toy": self.scale is TOY, "parts": self.results, "derived": derives}
        (self.out / "gpu.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def loader_processes(most: int, chip_bytes: int) -> int:
    """Return how many processes may decode: as many as there are cores, and shared memory for three batches of 1024 each.

    A container may have next to none of it; then this process decodes by itself, instead of no part being measured.
    """
    shared = Path("/dev/shm")
    room = shutil.disk_usage(shared).free // (3 * 1024 * chip_bytes) if shared.is_dir() else most
    return int(min(most, room, os.cpu_count() or 1))


def shards(root: Path, scale: Scale) -> Path:
    """Write the shards that are trained on, and return their folder."""
    samples, times = scale.train
    if scale is TOY:
        return write_toy_shards(root, {"train": samples * times}, shards=times, size=(scale.chip, scale.chip))
    return repeated_shards(root, samples, times)


def synchronize(job: Job) -> None:
    """Wait until the device has done everything."""
    if job.device.type == "cuda":
        torch.cuda.synchronize(job.device)


def seconds(job: Job, work: Callable[[], Any], repeat: int) -> float:
    """Return the seconds that one call takes, after one to warm up."""
    work()
    synchronize(job)
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    synchronize(job)
    return (time.perf_counter() - start) / repeat


def limits(report: Report) -> dict[str, float]:
    """Return the peak of a bf16 matrix product and of a copy, measured."""
    (side, repeat), device = report.scale.product, report.job.device
    one, two = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    # Larger than any cache, so that the copy is one of memory.
    long = torch.randn(16 * side, side, device=device, dtype=torch.bfloat16)
    seconds(report.job, lambda: one @ two, repeat)
    product, copy = (seconds(report.job, work, repeat) for work in (lambda: one @ two, lambda: long.clone()))
    return {"product_tflops": 2 * side**3 / product / 1e12, "copy_gb_per_second": 2 * long.nbytes / copy / 1e9}


def settings_of(report: Report, objective: str, **changes: Any) -> Settings:
    """Return the settings of a measured run: the paper's recipe of the objective with what makes it fast."""
    fitting = {"batch_size": 8} if report.scale is TOY and "batch_size" in changes else {}
    return resolve(objective, {"epochs": 1000, "warmup_epochs": 1, **report.scale.base, **changes, **fitting})


def free(job: Job) -> None:
    """Let go of what earlier parts left on the device: of what they compiled too."""
    torch.compiler.reset()
    gc.collect()  # a compiled forward and its module hold each other
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(job.device)


@dataclass
class Trial:
    """A run set up to be measured."""

    plan: RunPlan
    state: State
    step: Step
    source: Iterator[Batch]
    decode_seconds: float
    """To bring the split onto the device, where it is resident."""


def trial(report: Report, settings: Settings, lever: Lever) -> Trial:
    """Set a run up and take its first steps, in which everything is compiled."""
    job = report.job
    free(job)
    plan = plan_run(settings, report.dataset, job)
    state = build_state(plan)
    start, path = time.perf_counter(), DataPath(lever.held, "")
    source = iter(batches.batches(plan, batch_keys(state), range(plan.total_steps), path, lambda samples: None))
    decoded = time.perf_counter() - start
    step = Step(plan, state)
    lever.prepare(state, step)
    for _ in range(report.scale.warmup if lever.steps is None else 1):
        step(next(source))
    synchronize(job)
    return Trial(plan, state, step, source, decoded)


def end_to_end(report: Report, objective: str, lever: Lever) -> dict[str, Any]:
    """Train some steps end to end; return the rate, the shares of waiting and of making views, and the peak memory."""
    settings, job = settings_of(report, objective, **lever.changes), report.job
    start = time.perf_counter()
    with lever.around():
        run = trial(report, settings, lever)
        begun, clock, batch = time.perf_counter() - start, Clock(job.device), {}
        clock.restart()
        for _ in range(lever.steps or report.scale.steps):
            clock.waits()
            batch = next(run.source)
            clock.works()
            lever.every_step(run.step(batch))
        synchronize(job)
        steps, took, waited = clock.read()
        views = views_seconds(run, batch, 1 if lever.steps else 5)
    return {
        "objective": objective,
        "views": run.state.objective.views,
        "means": lever.means,
        "attention": settings.attention,
        "batch_size": settings.batch_size,
        "samples_per_second": steps * settings.batch_size / took,
        "step_seconds": took / steps,
        "data_wait": waited / took,
        "views_share": views / (took / steps),
        "peak_bytes": peak_bytes(job),
        "resident_bytes": sum(run.plan.order.counts) * report.scale.chip**2 * 3 if lever.held else 0,
        "decoded_samples_per_second": sum(run.plan.order.counts) / run.decode_seconds if lever.held else None,
        "first_steps_seconds": begun,
    }


def views_seconds(run: Trial, batch: Batch, repeat: int) -> float:
    """Return how long the views of a step take by themselves."""
    sources, device = run.state.objective.view_sources, run.plan.job.device
    images = {name: batch[name].to(device) for name in set(sources)}
    return seconds(run.plan.job, lambda: [run.step.view(images[name], number) for number, name in enumerate(sources)], repeat)


def profile(report: Report) -> dict[str, Any]:
    """Return which part of a step of SatMIPS each kind of kernels takes; the kernels go to `profile.txt`."""
    run, steps = trial(report, settings_of(report, "satmips"), Lever("")), min(3, report.scale.steps)

    def work() -> None:
        for _ in range(steps):
            run.step(next(run.source))
        synchronize(report.job)

    start = time.perf_counter()
    work()
    took = time.perf_counter() - start
    return {"shares_of_a_step": shares(work, took, report.job.device.type == "cuda", report.out / "profile.txt")}


def extraction(report: Report) -> dict[str, Any]:
    """Return the rate of features of whole chips that are on the device already, not compiled, as `satmip-eval` has them."""
    free(report.job)
    settings = settings_of(report, "simclr", compile=False)
    plan = plan_run(settings, report.dataset, report.job)
    backbone, device = build_state(plan).objective.backbone.eval(), report.job.device
    chips, size = min(256, sum(plan.order.counts)), report.scale.chip
    images = torch.randint(0, 256, (chips, 3, size, size), dtype=torch.uint8, device=device)

    def rate(precision: Precision) -> float:
        return chips / seconds(report.job, lambda: run_frozen(backbone, resize(images, settings.view_size), device, precision), 20)

    return {"features_per_second": rate("fp32"), "features_per_second_in_bf16": rate("bf16")}


def neighbours(report: Report) -> dict[str, Any]:
    """Return how long kNN takes at fMoW's size, k = 20, from features on the host to predictions on the host."""
    train, labels, test = _features(report)
    options: dict[str, Any] = {"classes": report.scale.classes, "device": report.job.device}
    probes.knn(train[:500], labels[:500], test[:50], [20], **options)  # kernels are loaded when they are first used
    start = time.perf_counter()
    probes.knn(train, labels, test, [20], **options)
    return {"seconds": time.perf_counter() - start}


def linear(report: Report) -> dict[str, Any]:
    """Return how long the linear probe takes at fMoW's size: some iterations, and what 200 would take at that rate."""
    train, labels, test = _features(report)
    probes.linear(train[:500], labels[:500], test[:50], max_iterations=2, device=report.job.device)
    start = time.perf_counter()
    fit = probes.linear(train, labels, test, max_iterations=report.scale.probe_iterations, device=report.job.device)
    took = time.perf_counter() - start
    return {"seconds": took, "iterations": fit.iterations, "seconds_of_200_iterations": took / fit.iterations * 200}


def _features(report: Report) -> tuple[probes.Features, probes.Labels, probes.Features]:
    generator = np.random.default_rng(0)
    train, test, width = report.scale.knn
    labels = generator.integers(0, report.scale.classes, train)
    centres = generator.standard_normal((report.scale.classes, width), dtype=np.float32)
    features = centres[labels] + 3 * generator.standard_normal((train, width), dtype=np.float32)
    return features, labels, 3 * generator.standard_normal((test, width), dtype=np.float32)


def run_all(report: Report) -> None:
    """Measure everything, the most wanted first."""
    report.measure("limits", lambda: limits(report))
    plain, decoupled = Lever(""), Lever("decoupled", {"coupled": False})
    report.measure("satmips", lambda: end_to_end(report, "satmips", plain))
    report.measure(f"lever: {ROUNDED.name}", lambda: end_to_end(report, "satmips", ROUNDED))
    report.measure("profile", lambda: profile(report))
    for objective in ("simclr", "satmip"):
        report.measure(objective, lambda objective=objective: end_to_end(report, objective, plain))  # type: ignore[misc]
    report.measure("decoupled", lambda: end_to_end(report, "satmips", decoupled))
    for name, work in {"features": extraction, "kNN": neighbours, "linear probe": linear}.items():
        report.measure(name, lambda work=work: work(report))  # type: ignore[misc]
    for lever in LEVERS:
        report.measure(f"lever: {lever.name}", lambda lever=lever: end_to_end(report, "satmips", lever))  # type: ignore[misc]


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/gpu"))
    parser.add_argument("--before", type=Path, help="gpu.json of an earlier call, whose parts are not measured again")
    parser.add_argument("--only", default="", help="measure the parts whose names hold one of these, comma-separated")
    parser.add_argument("--seconds", type=float, default=480, help="no further part is begun after so many")
    options = parser.parse_args()
    if not options.toy and not torch.cuda.is_available():
        parser.error("torch sees no GPU. Use --toy to see that the script works")
    start, scale = time.monotonic(), TOY if options.toy else TRUE
    scale.base["workers"] = loader_processes(scale.base["workers"], 3 * scale.chip**2)
    job = Job(torch.device("cpu" if options.toy else "cuda:0"))
    before = {} if options.before is None else json.loads(options.before.read_text(encoding="utf-8"))["parts"]
    options.out.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(shards(options.out / "shards", scale))
    only = tuple(part for part in options.only.split(",") if part)
    report = Report(scale, job, dataset, options.out, start + options.seconds, only, before)
    run_all(report)
    report.save()
    console = Console(width=150)
    console.print(f"{device_name(job.device)}, {versions()}; {time.monotonic() - start:.0f} s", soft_wrap=True)
    show(report.results, console, toy=options.toy)


if __name__ == "__main__":
    main()
