"""Indexing and planning a made-up fMoW tree beside orjson reading and parsing the same records, in turns, and the memory of it.

    python tests/benchmarks/index_100k.py                    # 100,000 records, some minutes
    python tests/benchmarks/index_100k.py --records 10000    # half a minute

The records have the form, the keys and the size of fMoW's own and agree with themselves, as most of those do: footprints are square
on the ground, the sun stands where it stood. The images are empty files. Needs Linux for the memory.
"""

import argparse
import datetime as dt
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import timing
from helpers.fmow_tree import record

from satmip_data import geometry
from satmip_data.execution.progress import Progress
from satmip_data.metadata.sun import sun_position
from satmip_data.pipeline import build
from satmip_data.pipeline import request as request_module
from satmip_data.pipeline.index import build_index
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import Georeference, Window
from satmip_data.sources import SOURCES

CATEGORIES = [f"category_{i:02d}" for i in range(62)]
IMAGES_A_PLACE = 6
DEGREES_A_PIXEL = 4.5e-6
SPREAD = {
    "multi_resolution": ("start", "end", "min", "max"),
    "pan_resolution": ("start", "end", "min", "max"),
    "off_nadir_angle": ("start", "end", "min", "max"),
    "target_azimuth": ("start", "end", "min", "max"),
    "sun_azimuth": ("min", "max"),
    "sun_elevation": ("min", "max"),
}
"""Keys of which a record of fMoW also has the values over the strip."""


def own_form(rng: np.random.Generator, category: str, month: int) -> dict[str, Any]:
    """Return a record as fMoW's own are: consistent, and with all their keys."""
    lon, lat, width = float(rng.uniform(-170, 170)), float(rng.uniform(-60, 60)), int(rng.integers(500, 4000))
    georeference = Georeference((DEGREES_A_PIXEL, 0.0, lon, 0.0, -DEGREES_A_PIXEL, lat))
    east, north = geometry.ground_gsd(georeference, Window(0, 0, 1, 1), (1, 1))
    height = round(width * east / north)
    data = record(rng, category, width, height, month)
    right, bottom = lon + width * DEGREES_A_PIXEL, lat - height * DEGREES_A_PIXEL
    ring = [(lon, bottom), (right, bottom), (right, lat), (lon, lat), (lon, bottom)]
    centre = (lon + right) / 2, (lat + bottom) / 2
    azimuth, elevation = sun_position(dt.datetime.fromisoformat(data["timestamp"]), centre)
    data |= {
        "raw_location": "POLYGON ((" + ", ".join(f"{x:.16f} {y:.16f}" for x, y in ring) + "))",
        "utm": geometry.utm_zone(centre),
        "sun_azimuth_dbl": azimuth,
        "sun_elevation_dbl": elevation,
    }
    data |= {f"{key}_{part}_dbl": data[f"{key}_dbl"] for key, parts in SPREAD.items() for part in parts}
    return data


def write_tree(root: Path, records: int) -> None:
    """Write the records and empty image files, 6 acquisitions a place, one place in eight in val."""
    rng = np.random.default_rng(0)
    for place in range(-(-records // IMAGES_A_PLACE)):
        category = CATEGORIES[place % len(CATEGORIES)]
        folder = root / ("val" if place % 8 == 0 else "train") / category / f"{category}_{place}"
        folder.mkdir(parents=True)
        for image in range(min(IMAGES_A_PLACE, records - place * IMAGES_A_PLACE)):
            stem = folder / f"{category}_{place}_{image}_rgb"
            text = json.dumps(own_form(rng, category, 1 + image), indent=1, sort_keys=True)
            stem.with_suffix(".json").write_text(text, encoding="utf-8")
            stem.with_suffix(".jpg").touch()


def parse_all(paths: list[str]) -> None:
    """Read every record and parse it, and no more."""
    for path in paths:
        with open(path, "rb") as stream:
            orjson.loads(stream.read())


def measure_time(report: timing.Report, root: Path, records: int, rounds: int) -> None:
    """Print microseconds of CPU time a record, in one process."""
    request = request_module.BuildRequest(SOURCES["fmow"](), str(root), str(root / "out"), BuildSettings())
    index = partial(build_index, request.source, request.root, request.settings, request.engine)
    paths = [str(root / item.metadata) for item in request.source.list_items(str(root))]
    found = index()
    assert len(found.samples) == records
    assert not any(sample.flags for sample in found.samples)
    del found
    works = {
        "orjson reads and parses them": partial(parse_all, paths),
        "satmip finds them": partial(request.source.list_items, str(root)),
        "satmip finds and indexes them": index,
        "satmip finds, indexes and plans them": partial(build.plan_build, request),
    }
    seconds = timing.in_turns(works, rounds)
    parse = seconds["orjson reads and parses them"]
    size = sum(os.path.getsize(path) for path in paths) / records
    report.table(f"Index: {records:,} records of {size:,.0f} bytes, one process, CPU time, {rounds} rounds")
    for name, took in seconds.items():
        target = timing.Target("at most", 3.0) if took is seconds["satmip finds and indexes them"] else None
        report.row(name, 1e6 / timing.rate(records, took), "us a record", timing.ratios(took, parse), target)


def plan_memory(root: Path, workers: int) -> dict[str, float]:
    """Return the memory of planning in MB: of this process before and at its peak, and the peak of a worker."""
    before, worker = timing.memory_mb("VmHWM"), 0.0

    def look(_: Progress) -> None:
        nonlocal worker
        worker = max(worker, timing.largest_worker_mb("VmHWM"))

    build.plan_build(request_module.BuildRequest(SOURCES["fmow"](), str(root), str(root / "out"), BuildSettings(), workers), look)
    return {"before": before, "main": timing.memory_mb("VmHWM"), "worker": worker}


def measure_memory(report: timing.Report, root: Path, records: int, workers: int) -> None:
    """Print the peak memory of the processes of one planning."""
    found = timing.apart(plan_memory, root, workers)
    report.table(f"Memory of indexing and planning {records:,} records with {workers} workers")
    report.row("main process, peak", found["main"], "MB")
    report.row("of it before the work", found["before"], "MB")
    report.row("the rest, a sample", (found["main"] - found["before"]) * 1e3 / records, "kB")
    report.row("largest worker, peak", found["worker"], "MB")


def main() -> None:
    """Write the tree, if it is not there, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root", type=Path, help="keep the tree here, and use it if it is there")
    chosen = parser.parse_args()
    report = timing.Report("index_100k", ("numpy", "orjson", "jsonschema-rs", "shapely", "pyproj"))
    with tempfile.TemporaryDirectory() as folder:
        root = chosen.root or Path(folder)
        if not (root / "train").exists():
            write_tree(root, chosen.records)
        measure_time(report, root, chosen.records, chosen.rounds)
        measure_memory(report, root, chosen.records, chosen.workers)
    report.save()


if __name__ == "__main__":
    main()
