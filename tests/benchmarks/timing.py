"""What the benchmarks share: work measured in turns, rows with targets, the memory of a process, shards to read.

Where the environment names a folder in SATMIP_BENCH, as `run.py` does, the rows of each script are written there as JSON.
"""

import json
import os
import platform
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.toy_shards import write_toy_shards


def machine(*packages: str) -> str:
    """Return one line on the machine, its load and the versions."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()).group(1)  # type: ignore[union-attr]
    versions = ", ".join(f"{name} {version_of(name)}" for name in packages)
    return f"{cpu}, {os.cpu_count()} cores, load {load()}; CPython {platform.python_version()}, {versions}"


def version_of(package: str) -> str:
    """Return the version of a package, or that it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def load() -> str:
    """Return how many processes of the machine wanted a core, on average of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to be: "at least" or "at most" so much."""

    sense: Literal["at least", "at most"]
    value: float

    def __str__(self) -> str:
        return f"{self.sense} {self.value:g}"

    def met(self, found: float) -> bool:
        """Return whether a figure is as it has to be."""
        return found >= self.value if self.sense == "at least" else found <= self.value


HEAD = "| what | measured | ratio (least to greatest) | target | |\n| --- | ---: | ---: | ---: | --- |"


@dataclass(slots=True)
class Report:
    """The rows of one script: printed as they come, in tables of one form, and kept for `save`."""

    script: str
    packages: tuple[str, ...]
    """Whose versions matter."""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if "SATMIP_BENCH" not in os.environ:
            print(machine(*self.packages))

    def table(self, title: str) -> None:
        """Begin a table."""
        print(f"\n{title} (load {load()})\n{HEAD}")
        self.rows.append({"table": title, "load": load()})

    def row(self, what: str, figure: float, unit: str, ratios: Sequence[float] = (), target: Target | None = None) -> None:
        """Print a row; the target is that of the median of the ratios, or of the figure where there are none."""
        judged = statistics.median(ratios) if ratios else figure
        verdict = "" if target is None else "met" if target.met(judged) else "**missed**"
        spread = f"{judged:.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        print(
            f"| {what} | {figure:,.{1 if abs(figure) < 1000 else 0}f} {unit} | {spread} | {target or ''} | {verdict} |", flush=True
        )
        parts = {"what": what, "figure": figure, "unit": unit, "ratios": list(ratios)}
        self.rows.append({**parts, "target": target and str(target), "met": target and target.met(judged)})

    def save(self) -> None:
        """Write the rows as JSON, where the environment says so."""
        if (folder := os.environ.get("SATMIP_BENCH")) is not None:
            path = Path(folder) / f"{self.script}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"machine": machine(*self.packages), "rows": self.rows}, indent=1), encoding="utf-8")


def in_turns(
    works: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Run each of the works once a round, the order turned round in every second one; return their seconds by round."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works)[:: 1 if number % 2 == 0 else -1]:
            start = clock()
            works[name]()
            seconds[name].append(clock() - start)
    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def rate(count: int, seconds: Sequence[float]) -> float:
    """Return how many a second, of the median round."""
    return count / statistics.median(seconds)


def memory_mb(name: str, process: str = "self") -> float:
    """Return a line of Linux's account of a process in MB: VmHWM is its peak, RssAnon what it holds itself; 0 of one that ended.

    The peak of `getrusage` is no use here: a new process inherits that of its parent.
    """
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found.group(1)) / 1e3 if found else 0.0


def largest_worker_mb(name: str) -> float:
    """Return the same of the largest process that this one has started and that still runs; 0 where there is none."""
    return max((memory_mb(name, str(worker.pid)) for worker in active_children()), default=0.0)


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the work gives in a new process, so that its memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def repeated_shards(root: Path, samples: int, times: int, linked: bool = False) -> Path:
    """Write one shard of toy samples of 224 pixels, beside copies or links of it, as a shard directory; return its path."""
    write_toy_shards(root, {"train": samples}, shards=1, size=(224, 224))
    path = root / "dataset.json"
    dataset = json.loads(path.read_text(encoding="utf-8"))
    (first,) = dataset["shards"]
    names = [f"train/{number:06d}.tar" for number in range(times)]
    for name in names[1:]:
        (os.link if linked else shutil.copyfile)(root / first["name"], root / name)
    dataset["shards"] = [{**first, "name": name} for name in names]
    dataset["splits"]["train"] = {"samples": samples * times, "shards": times}
    path.write_text(json.dumps(dataset), encoding="utf-8")
    return root
