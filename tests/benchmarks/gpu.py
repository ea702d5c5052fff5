"""How fast training is on one GPU, end to end, and what each lever is worth: one call of under ten minutes.

    python tests/benchmarks/gpu.py              # one GPU: ViT-S/16, 224 px, batch 1024, bf16
    python tests/benchmarks/gpu.py --toy        # a CPU and a tiny network: only to see that it works

Makes its own shards, prints one table and writes `gpu.json` and `profile.txt` into --out. What does not fit into --seconds is left
out and listed as not measured.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from toy_shards import write_toy_shards

from satmip_train import probes, resident
from satmip_train.checkpoint import versions
from satmip_train.config import Settings, resolve
from satmip_train.errors import UsageError
from satmip_train.features import resize, run_frozen
from satmip_train.job import Job, device_name
from satmip_train.log import Clock
from satmip_train.meter import peak_bytes
from satmip_train.plan import Plan, plan_run
from satmip_train.resident import DataPath
from satmip_train.shards import Dataset, open_dataset
from satmip_train.stream import Batch
from satmip_train.train import Step, batch_keys, build_state

PAPER = {"satmip": {"time": 0.56, "memory": 0.62}, "satmips": {"time": 1.05, "memory": 1.11}}
"""SatMIP and SatMIPS beside SimCLR (paper, section 4)."""
TRAINING_FLOP = {"simclr": 55.9e9, "satmip": 31.1e9, "satmips": 59.2e9}
"""Forward and backward of ViT-S/16 at 224 pixels, a sample, as torch's FlopCounterMode counts them; text of 77 tokens."""
LEVERS: dict[str, dict[str, Any]] = {
    "no compile": {"compile": False},
    "attention flash": {"attention": "flash"},
    "attention cudnn": {"attention": "cudnn"},
    "attention efficient": {"attention": "efficient"},
    "tf32 off": {"tf32": "off"},
    "tokens not trimmed": {"trim_tokens": False},
    "activations recomputed": {"grad_checkpointing": True},
    "micro-batch of 256 rows": {"micro_batch": 256},
    "decoupled": {"coupled": False},
    "fp32": {"precision": "fp32"},
}


@dataclass(frozen=True)
class Scale:
    """Sizes of everything that is measured."""

    train: int
    chip: int
    base: dict[str, Any]
    warmup: int
    steps: int
    product: int
    """Side of the matrices whose product gives the peak."""
    knn: tuple[int, int, int]
    """Train and test features and their width; fMoW's."""
    classes: int
    probe_iterations: int


TRUE = Scale(4096, 224, {"compile": True, "workers": 14, "precision": "bf16"}, 6, 20, 8192, (363_572, 53_043, 384), 62, 20)
_TINY = {
    "backbone_args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "view_size": 32, "text_layers": 1, "text_width": 32, "text_heads": 2, "ssl_hidden": 32, "ssl_dim": 16, "embed_dim": 16,
    "batch_size": 16, "workers": 0, "precision": "fp32", "compile": False,
}  # fmt: skip
TOY = Scale(48, 40, _TINY, 1, 2, 128, (600, 80, 32), 5, 5)


@dataclass
class Report:
    """What was measured so far, and until when there is time."""

    scale: Scale
    job: Job
    dataset: Dataset
    until: float
    results: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[Callable[[Any], None] | None]:
        """Give a function that keeps the result under a name, or None where no time is left; a failure is a result too."""
        if time.monotonic() > self.until:
            self.results[name] = {"not measured": "out of time"}
            yield None
            return
        try:
            yield lambda value: self.results.__setitem__(name, value)
        except (RuntimeError, UsageError) as error:  # out of memory, or a lever that this machine lacks
            self.results[name] = {"not measured": str(error).splitlines()[0]}


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
    side, device = report.scale.product, report.job.device
    one, two = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = seconds(report.job, lambda: one @ two, 10)
    copy = seconds(report.job, lambda: one.clone(), 10)
    return {"product_tflops": 2 * side**3 / product / 1e12, "copy_gb_per_second": 2 * one.nbytes / copy / 1e9}


def settings_of(report: Report, objective: str, **changes: Any) -> Settings:
    """Return the settings of a measured run: the paper's recipe of the objective with what makes it fast."""
    return resolve(objective, {"epochs": 1000, "warmup_epochs": 1, **report.scale.base, **changes})


def measure(report: Report, settings: Settings, held: bool) -> dict[str, float]:
    """Train some steps end to end and return the rate, the share of waiting, the share of making views, and the peak memory."""
    job, scale = report.job, report.scale
    if job.device.type == "cuda":
        torch.compiler.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(job.device)
    plan = plan_run(settings, report.dataset, job)
    state = build_state(plan)
    source = iter(resident.batches(plan, batch_keys(state), range(plan.total_steps), DataPath(held, ""), lambda samples: None))
    step, clock = Step(plan, state), Clock(job.device)
    start = time.perf_counter()
    for _ in range(scale.warmup):
        step(next(source))
    synchronize(job)
    begun, batch = time.perf_counter() - start, {}
    clock.restart()
    for _ in range(scale.steps):
        clock.waits()
        batch = next(source)
        clock.works()
        step(batch)
    synchronize(job)
    steps, took, waited = clock.read()
    return {
        "samples_per_second": steps * settings.batch_size / took,
        "step_seconds": took / steps,
        "data_wait": waited / took,
        "views_share": views_seconds(step, state.objective.view_sources, batch, plan) / (took / steps),
        "peak_gib": peak_bytes(job) / 2**30,
        "first_steps_seconds": begun,
    }


def views_seconds(step: Step, sources: tuple[str, ...], batch: Batch, plan: Plan) -> float:
    """Return how long the views of a step take by themselves."""
    images = {name: batch[name].to(plan.job.device) for name in set(sources)}
    return seconds(plan.job, lambda: [step.view(images[name], number) for number, name in enumerate(sources)], 5)


def profile(report: Report, out: Path) -> str:
    """Write what a step of SatMIPS spends its time on to `profile.txt`."""
    plan = plan_run(settings_of(report, "satmips"), report.dataset, report.job)
    state = build_state(plan)
    source = iter(resident.batches(plan, batch_keys(state), range(plan.total_steps), DataPath(True, ""), lambda samples: None))
    step = Step(plan, state)
    for _ in range(report.scale.warmup):
        step(next(source))
    cuda = report.job.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(2):
            step(next(source))
        synchronize(report.job)
    table = profiler.key_averages().table(sort_by="self_cuda_time_total" if cuda else "self_cpu_time_total", row_limit=40)
    (out / "profile.txt").write_text(table, encoding="utf-8")
    return str(out / "profile.txt")


def extraction(report: Report) -> dict[str, float]:
    """Return the rate of features of whole chips that are on the device already."""
    settings = settings_of(report, "simclr")
    plan = plan_run(settings, report.dataset, report.job)
    backbone = build_state(plan).objective.backbone.eval()
    chips, size = min(512, report.scale.train), report.scale.chip
    images = torch.randint(0, 256, (chips, 3, size, size), dtype=torch.uint8, device=report.job.device)
    took = seconds(
        report.job, lambda: run_frozen(backbone, resize(images, settings.view_size), report.job.device, plan.precision), 5
    )
    return {"samples_per_second": chips / took}


def neighbours(report: Report) -> dict[str, float]:
    """Return how long kNN takes at fMoW's size, k = 20, from features on the host to predictions on the host."""
    train, labels, test = _features(report)
    start = time.perf_counter()
    probes.knn(train, labels, test, [20], classes=report.scale.classes, device=report.job.device)
    return {"seconds": time.perf_counter() - start}


def linear(report: Report) -> dict[str, float]:
    """Return how long the linear probe takes at fMoW's size: some iterations, and what 200 would take at that rate."""
    train, labels, test = _features(report)
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


def run_all(report: Report, out: Path) -> None:
    """Measure everything, the most wanted first."""
    with report.part("limits") as keep:
        if keep:
            keep(limits(report))
    for objective in ("satmips", "simclr", "satmip"):
        for held in (True, False):
            with report.part(f"{objective}, {'resident' if held else 'stream'}") as keep:
                if keep:
                    keep(measure(report, settings_of(report, objective), held))
    for name, work in {"features": extraction, "kNN": neighbours, "linear probe": linear}.items():
        with report.part(name) as keep:
            if keep:
                keep(work(report))
    with report.part("profile") as keep:
        if keep:
            keep(profile(report, out))
    for name, changes in LEVERS.items():
        with report.part(f"satmips, resident, {name}") as keep:
            if keep:
                keep(measure(report, settings_of(report, "satmips", **changes), True))
    report.results["ratios"] = ratios(report.results)


def ratios(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return time and memory of SatMIP and SatMIPS as parts of SimCLR's, data being resident."""
    base = results["simclr, resident"]
    found = {}
    for objective in PAPER:
        run = results[f"{objective}, resident"]
        if "peak_gib" in run and "peak_gib" in base:
            found[objective] = {
                "time": run["step_seconds"] / base["step_seconds"],
                "memory": run["peak_gib"] / base["peak_gib"],
            }
    return found


def show(report: Report, console: Console) -> None:
    """Print the one table."""
    table = Table("what", "samples/s", "step s", "data wait", "views", "peak GiB", "of the peak", box=None)
    peak = report.results["limits"].get("product_tflops", float("nan"))
    rest = {}
    for name, value in report.results.items():
        if not (isinstance(value, dict) and "step_seconds" in value):
            rest[name] = value
            continue
        used = value["samples_per_second"] * TRAINING_FLOP[name.split(",")[0]] / 1e12 / peak
        shares = (f"{value[share]:.1%}" for share in ("data_wait", "views_share"))
        share = f"{used:.0%}" if report.scale is TRUE and "decoupled" not in name else "-"
        row = f"{value['samples_per_second']:,.0f}", f"{value['step_seconds']:.4f}", *shares, f"{value['peak_gib']:.2f}", share
        table.add_row(name, *row)
    console.print(table)
    for name, value in rest.items():
        console.print(f"{name}: {value}", soft_wrap=True)
    console.print(f"ratios of the paper: {PAPER}", soft_wrap=True)


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/gpu"))
    parser.add_argument("--seconds", type=float, default=480, help="no further part is begun after so many")
    options = parser.parse_args()
    if not options.toy and not torch.cuda.is_available():
        parser.error("this needs a GPU, however: torch sees none. Pass --toy to see that the script works")
    start, scale = time.monotonic(), TOY if options.toy else TRUE
    job = Job(torch.device("cpu" if options.toy else "cuda:0"))
    shards = write_toy_shards(options.out / "shards", {"train": scale.train, "val": 16}, shards=8, size=(scale.chip, scale.chip))
    report = Report(scale, job, open_dataset(shards), start + options.seconds)
    run_all(report, options.out)
    environment = {"device": device_name(job.device), "python": platform.python_version(), **versions()}
    jpegs = sum(shard.bytes for shard in report.dataset.shards) / (scale.train + 16)
    content = {"environment": environment, "bytes_a_sample": jpegs, "toy": options.toy, **report.results}
    (options.out / "gpu.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    console = Console(width=140)
    console.print(f"{environment}; {time.monotonic() - start:.0f} s", soft_wrap=True)
    show(report, console)


if __name__ == "__main__":
    main()
