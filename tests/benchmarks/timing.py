"""What the benchmarks share: work measured in turns, ratios with their spread, the memory of a process, shards to read."""

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
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from toy_shards import write_toy_shards


def machine(*packages: str) -> str:
    """Return one line on the machine, its load and the versions."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()).group(1)  # type: ignore[union-attr]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; CPython {platform.python_version()}, {versions}"


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


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """Return the median of the ratios within a round, with the least and the greatest."""
    found = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def rate(count: int, seconds: Sequence[float]) -> float:
    """Return how many a second, of the median round."""
    return count / statistics.median(seconds)


def memory_mb(name: str) -> float:
    """Return a line of Linux's account of this process in MB: VmHWM is its peak, RssAnon what it holds itself.

    The peak of `getrusage` is no use here: a new process inherits that of its parent.
    """
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) / 1e3


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the work gives in a new process, so that its memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def repeated_shards(root: Path, samples: int, times: int) -> Path:
    """Write one shard of toy samples of 224 pixels, beside copies of it, as a shard directory; return its path."""
    write_toy_shards(root, {"train": samples}, shards=1, size=(224, 224))
    path = root / "dataset.json"
    dataset = json.loads(path.read_text(encoding="utf-8"))
    (first,) = dataset["shards"]
    names = [f"train/{number:06d}.tar" for number in range(times)]
    for name in names[1:]:
        shutil.copyfile(root / first["name"], root / name)
    dataset["shards"] = [{**first, "name": name} for name in names]
    dataset["splits"]["train"] = {"samples": samples * times, "shards": times}
    path.write_text(json.dumps(dataset), encoding="utf-8")
    return root
