"""The explorer of a made-up index as large as fMoW's: how long its page takes to make, its size, and how fast a browser shows it.

    PYTHONPATH=tests python tests/benchmarks/explorer.py                    # 363,572 rows, a minute
    PYTHONPATH=tests python tests/benchmarks/explorer.py --rows 20000 --keep out/explorer

The rows have the fields of fMoW's training set, with towns, sensors, seasons and hours as unevenly spread as there; the chips are a
thousand of 224 pixels, linked into every shard. Needs chromium for what is timed in a browser; without it that is left out.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
import timing
from helpers.toy_shards import write_dataset_json

from satmip_data.explorer.page import write_page
from satmip_data.metadata.fields import BY_NAME
from satmip_data.records import Metadata, Sample, Window
from satmip_data.shards.dataset import describe
from satmip_data.shards.index_table import index_table, rejects_table
from satmip_data.storage.parquet import parquet_bytes

ROWS = 363_572
"""Images of fMoW's training set."""
A_SHARD = 1000
SENSORS = "GEOEYE01 QUICKBIRD02 WORLDVIEW02 WORLDVIEW03_VNIR".split()
LOOK = """
addEventListener("load", async () => {
  const page = document.documentElement;
  while (!page.dataset.drawn) await new Promise((done) => setTimeout(done, 5));
  await new Promise(requestAnimationFrame);
  const opened = performance.now(), answers = {};
  for (const filter of ["month=6..8", "month=6..8&gsd=0.5..1", "country_code=C007", "place=-20..40,30..60", "class=category_03"]) {
    const start = performance.now();
    location.hash = filter;
    await new Promise((done) => addEventListener("hashchange", done, {once: true}));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    answers[filter] = Math.round(performance.now() - start);
  }
  const status = document.querySelector("[role=status]").textContent;
  console.log("MEASURED " + JSON.stringify({"opened, ms": Math.round(opened), "answered, ms": answers, status}));
});
"""


def made_up_index(rows: int, shards: list[str]) -> pa.Table:
    """Return an index in the form that a build writes, with rows drawn at random."""
    rng = np.random.default_rng(0)
    towns = 4000
    town = rng.choice(towns, rows, p=(w := 1 / np.arange(5, towns + 5)) / w.sum())
    at = np.stack([rng.uniform(-170, 170, towns), np.clip(rng.normal(30, 22, towns), -55, 71)], 1)
    lon, lat = (at[town] + rng.normal(0, 0.4, (rows, 2))).T
    sensor = rng.choice(4, rows, p=[0.2, 0.15, 0.4, 0.25])
    gsd = np.array([0.46, 0.6, 0.5, 0.34])[sensor] * rng.lognormal(0, 0.08, rows)
    side = np.clip(rng.lognormal(5.6, 0.8, (rows, 2)), 5, 8000).astype(np.int32)
    chip = gsd[:, None] * side / 224
    solar = rng.normal(10.6, 0.8, rows)
    day = rng.integers(0, 5600, rows) + np.datetime64("2002-01-28") - np.datetime64("1970-01-01")
    times = day.astype("timedelta64[us]") + (((solar - lon / 15) % 24) * 3.6e9).astype("timedelta64[us]")
    degrees = chip / 111_320
    word = lambda prefix, values, of: np.array([f"{prefix}{n:03d}" for n in range(of)])[values % of]  # noqa: E731
    number = np.arange(rows)
    fields = {
        "gsd": pa.array(list(chip)),
        "multispectral_gsd": pa.array(4 * chip.mean(1)),
        "pixel_size": pa.array(list(degrees)),
        "timestamp": pa.array(times.astype(np.int64)).cast(pa.timestamp("us", tz="UTC")),
        "location": pa.array(list(np.stack([lon, lat], 1))),
        "utm_zone": word("Z", town, 400),
        "country_code": word("C", town, 207),
        "cloud_cover": pa.array(np.floor(100 * rng.beta(0.3, 3, rows)), mask=rng.random(rows) < 0.01),
        "scan_direction": np.array(["Forward", "Reverse"])[rng.integers(0, 2, rows)],
        "wavelengths": pa.array([[661, 545, 477]] * rows),
        "target_azimuth_angle": rng.uniform(0, 360, rows),
        "sun_azimuth_angle": (150 + 20 * (solar - 10.6) + rng.normal(0, 25, rows)) % 360,
        "sun_elevation_angle": np.clip(rng.normal(52, 14, rows), 5, 90),
        "off_nadir_angle": np.clip(np.abs(rng.normal(14, 9, rows)), 0, 45),
        "sensor_platform": np.array(SENSORS)[sensor],
    }
    box = np.stack([lon - 0.001, lat - 0.001, lon + 0.001, lat + 0.001])
    category = rng.choice(62, rows, p=(v := 1 / np.arange(3, 65)) / v.sum())
    columns = {
        "key": np.array([f"train_{n:06d}" for n in range(A_SHARD)])[number % A_SHARD],
        "split": ["train"] * rows,
        "shard": np.array(shards)[number // A_SHARD],
        "place": word("place_", town, towns),
        "category": word("category_", category, 62),
        "labels": [[]] * rows,
        "flags": [["sun_position"] if odd < 0.01 else ["country_code"] if odd < 0.02 else [] for odd in rng.random(rows)],
        "path": word("train/airport/airport_", town, towns),
        "scene_width": 2 * side[:, 0],
        "scene_height": 2 * side[:, 1],
        "window_x": side[:, 0] // 4,
        "window_y": side[:, 1] // 4,
        "window_width": side[:, 0],
        "window_height": side[:, 1],
        **fields,
        **{f"scene_{name}": values for name, values in fields.items()},
        "geometry": shapely.to_wkb(shapely.box(*box)),
    }
    one = Sample("a", "train", "a", "a", "a", 1, 1, Window(0, 0, 1, 1), Metadata(), Metadata(), None)
    schema = index_table([("a", one)]).schema
    arrays = [
        pa.array(columns[f.name], f.type) if not isinstance(columns[f.name], pa.Array) else columns[f.name].cast(f.type)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


def write_directory(root: Path, rows: int) -> None:
    """Write a shard directory of so many rows."""
    names = [f"train/{number:06d}.tar" for number in range(-(-rows // A_SHARD))]
    timing.repeated_shards(root, A_SHARD, len(names), linked=True)
    dataset = json.loads((root / "dataset.json").read_text())
    files = {"index.parquet": parquet_bytes(made_up_index(rows, names)), "rejects.parquet": parquet_bytes(rejects_table([]))}
    for name, data in files.items():
        (root / name).write_bytes(data)
    dataset["files"] = {name: describe(data) for name, data in files.items()}
    dataset["splits"]["train"] = {"samples": rows, "shards": len(names)}
    dataset["caption"]["fields"] = [name for name in BY_NAME if name in ("gsd", "timestamp", "location")]
    write_dataset_json(root, dataset)


def look(page: Path) -> str:
    """Return what a browser measured of a page, by its own clock."""
    browser = shutil.which("chromium")
    if browser is None:
        return "chromium is not installed, so nothing was timed in a browser"
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder) / "page.html"
        measured.write_text(text.replace("</body>", f"<script>{LOOK}</script></body>"), encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--remote-debugging-port=0"]
        words = [browser, *flags, f"--user-data-dir={folder}/profile", measured.as_uri()]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            found = next((line for line in process.stderr if "CONSOLE" in line), "nothing")
            process.terminate()
    match = re.search(r"MEASURED ({.*})", found)
    return match[1] if match else found


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--keep", type=Path, help="write the shard directory and the page here, or use those that are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.keep or Path(folder)
        if not (root / "shards/dataset.json").exists():
            write_directory(root / "shards", options.rows)
        seconds, processor = time.perf_counter(), time.process_time()
        write_page(str(root / "shards"), root / "page.html")
        print(f"made in {time.perf_counter() - seconds:.1f} s ({time.process_time() - processor:.1f} s of one core)")
        print(f"size {(root / 'page.html').stat().st_size / 1e6:.1f} MB")
        print(look(root / "page.html"))


if __name__ == "__main__":
    main()
