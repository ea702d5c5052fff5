"""Time and memory of indexing and planning a made-up fMoW tree of 100,000 records; the images are empty files.

Run from the repository's root: python tests/benchmarks/index_100k.py [--records 100000] [--workers 2] [--root DIR]
"""

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from fmow_tree import record

from satmip_data import build
from satmip_data.progress import no_show
from satmip_data.settings import BuildSettings
from satmip_data.sources import SOURCES

CATEGORIES = [f"category_{i:02d}" for i in range(62)]
IMAGES_A_PLACE = 6


def write_tree(root: Path, records: int) -> None:
    """Write the records and empty image files, 6 acquisitions a place, one place in eight in val."""
    rng = np.random.default_rng(0)
    for place in range(-(-records // IMAGES_A_PLACE)):
        category = CATEGORIES[place % len(CATEGORIES)]
        folder = root / ("val" if place % 8 == 0 else "train") / category / f"{category}_{place}"
        folder.mkdir(parents=True)
        for image in range(min(IMAGES_A_PLACE, records - place * IMAGES_A_PLACE)):
            width, height = (int(side) for side in rng.integers(500, 4000, 2))
            stem = folder / f"{category}_{place}_{image}_rgb"
            stem.with_suffix(".json").write_text(json.dumps(record(rng, category, width, height, 1 + image)))
            stem.with_suffix(".jpg").touch()


def peak_mb(who: int = resource.RUSAGE_SELF) -> float:
    """Return the peak resident memory in MB."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(who).ru_maxrss / unit


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its workers that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(root: Path, workers: int) -> None:
    """Print one line a stage: seconds on the clock and of CPU, and the peak memory of this process so far."""
    request = build.BuildRequest(SOURCES["fmow"](), str(root), str(root / "out"), BuildSettings(), workers)
    start, busy = time.perf_counter(), cpu_seconds()

    def lap(stage: str) -> None:
        nonlocal start, busy
        now, used = time.perf_counter(), cpu_seconds()
        print(f"{stage:<24} {now - start:8.1f} s, {used - busy:8.1f} s of CPU   peak {peak_mb():8.0f} MB")
        start, busy = now, used

    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, {workers} workers")
    lap("imports")
    items = request.source.list_items(str(root))
    lap(f"list {len(items):,} items")
    plan = build.plan_build(request, no_show)
    lap("index and plan")
    print(f"{len(plan.index.samples):,} samples in {len(plan.shards)} shards, {len(plan.index.rejects)} rejects")
    print(f"largest worker: peak {peak_mb(resource.RUSAGE_CHILDREN):.0f} MB")


def main() -> None:
    """Write the tree, if it is not there, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root", type=Path, help="keep the tree here, and use it if it is there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = args.root or Path(folder)
        if not (root / "train").exists():
            write_tree(root, args.records)
        measure(root, args.workers)


if __name__ == "__main__":
    main()
