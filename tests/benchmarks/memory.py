"""Memory of a build and of reading shards as the data grows: of the main process and of its largest worker.

    python tests/benchmarks/memory.py                        # once and ten times the data, about two minutes
    python tests/benchmarks/memory.py --factors 1,10,100     # the target's sizes: 30,000 images, 200,000 samples

A build packs 300, 3,000, ... images of 256 x 256 pixels (one file by many names, each with a record of its own) in shards of 50; a
stream reads 2,000, 20,000, ... samples of 224 x 224 pixels (one shard of 500 by many names) in shuffled batches. "Itself" is what a
process holds without mapped files (RssAnon), seen after each shard or batch; the peak has all (VmHWM). Needs Linux.
"""

import argparse
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timing
from helpers.fmow_tree import record
from PIL import Image

from satmip_data.execution.progress import Progress
from satmip_data.pipeline import build, request
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.sources import SOURCES

SIDE = 256
IMAGES, SAMPLES, SHARD = 300, 2000, 500
FLAT = timing.Target("at most", 1.05)
"""Of a worker: its memory over that with a tenth of the data."""


def write_tree(root: Path, images: int) -> None:
    """Write an fMoW tree of so many images with their records."""
    rng, stream = np.random.default_rng(0), io.BytesIO()
    coarse = Image.fromarray(rng.integers(1, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8))
    coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(stream, "JPEG")
    (root / "train").mkdir(parents=True)
    (root / "image.jpg").write_bytes(stream.getvalue())
    for number in range(images):
        folder = root / "train" / "airport" / f"airport_{number}"
        folder.mkdir(parents=True)
        text = json.dumps(record(rng, "airport", SIDE, SIDE, 1 + number % 12))
        (folder / f"airport_{number}_0_rgb.json").write_text(text, encoding="utf-8")
        os.link(root / "image.jpg", folder / f"airport_{number}_0_rgb.jpg")


class Watch:
    """The most that this process and its workers were seen to hold, in MB."""

    def __init__(self) -> None:
        self.before, self.itself, self.worker, self.worker_peak = timing.memory_mb("RssAnon"), 0.0, 0.0, 0.0

    def look(self, _: object = None) -> None:
        """Look once."""
        self.itself = max(self.itself, timing.memory_mb("RssAnon"))
        self.worker = max(self.worker, timing.largest_worker_mb("RssAnon"))
        self.worker_peak = max(self.worker_peak, timing.largest_worker_mb("VmHWM"))

    def found(self) -> dict[str, float]:
        """Return what was seen, and the peak of this process."""
        return {**vars(self), "peak": timing.memory_mb("VmHWM")}


def build_memory(root: Path, workers: int) -> dict[str, float]:
    """Return the memory of building all of a tree."""
    watch = Watch()
    show: Callable[[Progress], None] = watch.look
    settings = BuildSettings(samples_per_shard=50)
    built = build.build(request.BuildRequest(SOURCES["fmow"](), str(root), str(root / "out"), settings, workers), show)
    watch.look()
    assert built["rejects"] == {}
    return watch.found()


def stream_memory(root: Path, workers: int) -> dict[str, float]:
    """Return the memory of reading an epoch."""
    from stream import ours  # not above: a build does without torch

    from satmip_train.data.dataset import open_dataset

    dataset = open_dataset(root)
    watch = Watch()
    for _ in ours(dataset, workers):
        watch.look()
    return watch.found()


def measure(report: timing.Report, what: str, sizes: list[int], work: Callable[[int], dict[str, float]]) -> None:
    """Print the memory for each size, and how much a sample adds."""
    report.table(f"Memory of {what}")
    last: tuple[int, dict[str, float]] | None = None
    for size in sizes:
        found = work(size)
        grown = [] if last is None else [found["worker"] / last[1]["worker"]]
        report.row(f"{size:,}: main process, itself, before", found["before"], "MB")
        report.row(f"{size:,}: main process, itself, at most", found["itself"], "MB")
        report.row(f"{size:,}: main process, peak", found["peak"], "MB")
        report.row(f"{size:,}: largest worker, itself, at most", found["worker"], "MB", grown, FLAT if grown else None)
        report.row(f"{size:,}: largest worker, peak", found["worker_peak"], "MB")
        if last is not None:
            for name in ("itself", "peak", "worker"):
                more = (found[name] - last[1][name]) * 1e6 / (size - last[0])
                report.row(f"a sample more, {last[0]:,} to {size:,}: {name}", more, "bytes")
        last = size, found


def main() -> None:
    """Measure builds and streams and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", default="1,10", help="times the data")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    factors = [int(factor) for factor in chosen.factors.split(",")]
    report = timing.Report("memory", ("torch", "pillow", "numpy", "pyarrow"))
    with tempfile.TemporaryDirectory() as folder:

        def built(images: int) -> dict[str, float]:
            write_tree(Path(folder) / "tree", images)
            found: dict[str, float] = timing.apart(build_memory, Path(folder) / "tree", chosen.workers)
            shutil.rmtree(Path(folder) / "tree")
            return found

        def streamed(samples: int) -> dict[str, float]:
            root = timing.repeated_shards(Path(folder) / str(samples), SHARD, samples // SHARD, linked=True)
            found: dict[str, float] = timing.apart(stream_memory, root, chosen.workers)
            return found

        measure(report, f"a build, {chosen.workers} workers", [IMAGES * factor for factor in factors], built)
        measure(report, f"a stream, {chosen.workers} workers", [SAMPLES * factor for factor in factors], streamed)
    report.save()


if __name__ == "__main__":
    main()
