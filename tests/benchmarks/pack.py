"""Packing chips and rewriting captions on a CPU, each beside what a user would run instead, in turns.

    python tests/benchmarks/pack.py                             # some minutes
    python tests/benchmarks/pack.py --caption-samples 100000    # the target's size: 4 GB of disk
    python tests/benchmarks/pack.py --toy                       # seconds, only to see that it works

The images are made up (quality 75, 4:2:0); the sizes of their files follow fMoW's official list, which is read from
SATMIP_REAL_DATA where that is set and else from its quantiles below. The box has a quarter of the image's side and ends at 62 % of
its height. Needs Linux for the memory.

img2dataset cannot be installed beside us (1.47 wants webdataset < 0.3, pandas < 3 and OpenCV < 5) and knows no boxes. Its row has
the steps of its resizer at its defaults, with the crop that all others have put in.
"""

import argparse
import csv
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timing
from helpers.fmow_tree import record
from PIL import Image

from satmip_data.imagery import chips, decoders
from satmip_data.pipeline import build, pack
from satmip_data.pipeline import recaption as recaption_module
from satmip_data.pipeline import request as request_module
from satmip_data.pipeline.recaption import recaption
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import Sample, Window
from satmip_data.sources import SOURCES

QUANTILES = {
    0: 14_376, 5: 65_772, 10: 82_199, 25: 113_005, 50: 151_194, 75: 222_298, 90: 484_634, 95: 1_994_127, 97: 9_817_903,
    98: 12_759_826, 99: 18_731_655, 99.5: 28_054_940, 100: 58_872_202,
}  # fmt: skip
"""Percent of the 7,445 rgb images of fMoW's val_sample list, and the bytes of a file that so many do not exceed."""

BYTES_A_PIXEL = 0.26
TILE = 1024


def file_sizes(images: int) -> tuple[np.ndarray, str]:
    """Return the bytes of so many files, one from each equal share of the list, and where the list comes from."""
    at = (np.arange(images) + np.random.default_rng(0).random(images)) / images * 100
    if "SATMIP_REAL_DATA" not in os.environ:
        return np.exp(np.interp(at, list(QUANTILES), np.log(list(QUANTILES.values())))), "the quantiles in this script"
    path = Path(os.environ["SATMIP_REAL_DATA"]) / "fmow" / "fmow-rgb_val_sample_filelist.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        known = [int(row["bytes"]) for row in csv.DictReader(lines) if row["path"].endswith("_rgb.jpg")]
    return np.percentile(known, at), "the official list"


def tile() -> np.ndarray:
    """Return smooth colours with noise on them, of which images are made. Shape: (TILE, TILE, 3)."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (TILE // 16, TILE // 16, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((TILE, TILE), Image.Resampling.BICUBIC)).astype(np.int16)
    return (pixels + rng.integers(-15, 16, (TILE, TILE, 1), dtype=np.int16)).clip(0, 255).astype(np.uint8)


def made_up(texture: np.ndarray, width: int, height: int) -> bytes:
    """Return a JPEG of the tile, repeated over the image."""
    repeats = -(-height // TILE), -(-width // TILE), 1
    stream = io.BytesIO()
    Image.fromarray(np.tile(texture, repeats)[:height, :width]).save(stream, "JPEG", quality=75, subsampling="4:2:0")
    return stream.getvalue()


def write_tree(root: Path, sizes: np.ndarray) -> None:
    """Write an fMoW tree of images whose files have about the given bytes."""
    rng, texture = np.random.default_rng(0), tile()
    for number, size in enumerate(rng.permutation(sizes)):
        side = size / BYTES_A_PIXEL
        width, height = round((side * 1.25) ** 0.5), round((side / 1.25) ** 0.5)
        data = record(rng, "airport", width, height, 1 + number % 12)
        write_image(root, number, data, [round(width * 0.4), round(height * 0.37), width // 4, height // 4], texture)


def write_image(root: Path, number: int, data: dict[str, Any], box: list[int], texture: np.ndarray) -> None:
    """Write an image of the tree and its record, with one box: left, top, width, height."""
    data["bounding_boxes"] = [{**found, "box": box} for found in data["bounding_boxes"]]
    folder = root / "train" / "airport" / f"airport_{number}"
    folder.mkdir(parents=True)
    (folder / f"airport_{number}_0_rgb.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / f"airport_{number}_0_rgb.jpg").write_bytes(made_up(texture, data["img_width"], data["img_height"]))


def with_pillow(path: Path, window: Window) -> tuple[Image.Image, bytes]:
    """Return chip and JPEG as one would make them with Pillow: decode all, crop, resize, encode."""
    box = window.x, window.y, window.x + window.width, window.y + window.height
    with Image.open(path) as image:
        chip = image.convert("RGB").crop(box).resize((224, 224), Image.Resampling.BICUBIC)
    return chip, chips.encode_jpeg(chip)


def with_baseline(path: Path, window: Window) -> bytes:
    """Return a JPEG by the steps of fMoW's baseline: decode all, as float32, crop, bilinear without antialiasing, encode."""
    scene = cv2.imread(str(path)).astype(np.float32)
    chip = cv2.resize(cropped(scene, window), (224, 224))
    return bytes(cv2.imencode(".jpg", chip)[1])


def with_img2dataset(path: Path, window: Window) -> bytes:
    """Return a JPEG by the steps of img2dataset's resizer: decode all, (crop,) by areas or, where it grows, Lanczos, encode."""
    scene = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    how = cv2.INTER_AREA if min(window.width, window.height) > 224 else cv2.INTER_LANCZOS4
    chip = cv2.resize(cropped(scene, window), (224, 224), interpolation=how)
    return bytes(cv2.imencode(".jpg", chip, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def cropped(scene: np.ndarray, window: Window) -> np.ndarray:
    """Return the window's pixels. Shape: (H, W, 3)."""
    return scene[window.y : window.y + window.height, window.x : window.x + window.width]


def with_satmip(path: Path, sample: Sample, decoder: str) -> tuple[Image.Image, bytes]:
    """Return chip and JPEG as they are packed."""
    with decoders.using(decoder):
        chip = chips.read_chip(path.read_bytes(), sample.window, (224, 224), (sample.scene_width, sample.scene_height))
    return chip, chips.encode_jpeg(chip)


def pack_all(tasks: list[pack.PackTask]) -> None:
    """Pack the shards in this process."""
    for task in tasks:
        pack.pack_shard(task)


def measure_packing(report: timing.Report, root: Path, images: int, rounds: int) -> None:
    """Print chips/s of decoding and encoding by each way, and of whole packing."""
    sizes, origin = file_sizes(images)
    write_tree(root, sizes)
    request = request_module.BuildRequest(SOURCES["fmow"](), str(root), str(root / "out"), BuildSettings(samples_per_shard=10))
    plan = build.plan_build(request)
    samples = [sample for shard in plan.shards for sample in shard.samples]
    written = sorted((root / sample.path).stat().st_size for sample in samples)
    top = sum(written[-max(images // 20, 1) :]) / sum(written)
    pixels = sum(sample.scene_width * sample.scene_height for sample in samples)
    print(f"{len(samples)} images, {sum(written) / 1e6:.0f} MB, {sum(written) / pixels:.2f} byte a pixel, sizes of {origin};")
    print(f"the largest 5 % hold {top:.0%} of the bytes; box 25 % of a side, ending at 62 % of the height")
    for sample in samples:
        chip, jpeg = with_pillow(root / sample.path, sample.window)
        for decoder in decoders.DECODERS:
            ours = with_satmip(root / sample.path, sample, decoder)
            assert ours[0].tobytes() == chip.tobytes(), f"{sample.key}: other pixels by {decoder}"
            assert ours[1] == jpeg
    print(f"bit-identical to Pillow: all {len(samples)} chips, by {', '.join(decoders.DECODERS)}")
    each: dict[str, Callable[[], Any]] = {
        "Pillow, whole image": lambda: [with_pillow(root / s.path, s.window) for s in samples],
        "fMoW's baseline": lambda: [with_baseline(root / s.path, s.window) for s in samples],
        "img2dataset's resizer": lambda: [with_img2dataset(root / s.path, s.window) for s in samples],
        "satmip, pillow": lambda: [with_satmip(root / s.path, s, "pillow") for s in samples],
        "satmip, auto": lambda: [with_satmip(root / s.path, s, "auto") for s in samples],
        "satmip, whole pack": partial(pack_all, plan.tasks(request)),
    }
    seconds = timing.in_turns(each, rounds)
    rates = {name: timing.rate(len(samples), took) for name, took in seconds.items()}
    report.table("Packing, one process, CPU time: how much faster than Pillow")
    for name, took in seconds.items():
        target = timing.Target("at least", 2.5) if name in ("satmip, auto", "satmip, whole pack") else None
        report.row(name, rates[name], "chips/s", timing.ratios(seconds["Pillow, whole image"], took), target)
    for other, target in (("fMoW's baseline", timing.Target("at least", 5.0)), ("img2dataset's resizer", None)):
        ratios = timing.ratios(seconds[other], seconds["satmip, auto"])
        report.row(f"satmip, auto, against {other}", rates["satmip, auto"], "chips/s", ratios, target)
    measure_scaling(report, plan, request, rounds)


def measure_scaling(report: timing.Report, plan: build.BuildPlan, request: request_module.BuildRequest, rounds: int) -> None:
    """Print how much sooner two processes have packed the shards; neither their start nor their imports count."""
    shards_longest_first = sorted(plan.tasks(request), key=lambda t: -sum(s.scene_width * s.scene_height for s in t.shard.samples))
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context) as one, ProcessPoolExecutor(2, context) as two:
        pools = {"1 process": one, "2 processes": two}
        works = {name: partial(_pack_in, pool, shards_longest_first) for name, pool in pools.items()}
        for work in works.values():
            work()
        seconds = timing.in_turns(works, rounds, time.perf_counter)
    count, two_fold = sum(len(task.shard.samples) for task in shards_longest_first), seconds["2 processes"]
    faster = timing.ratios(seconds["1 process"], two_fold)
    report.row(
        "2 processes against 1, on the clock", timing.rate(count, two_fold), "chips/s", faster, timing.Target("at least", 1.85)
    )


def _pack_in(pool: ProcessPoolExecutor, tasks: list[pack.PackTask]) -> None:
    list(pool.map(pack.pack_shard, tasks))


WORKER = """
import pickle, re, sys
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1e3
function, task = pickle.load(sys.stdin.buffer)
before = peak()
samples = function(task).samples
print(samples, before, peak())
"""
"""What a worker does, in a process that has imported nothing else: unpickle function and task, call the one on the other."""


def measure_memory(report: timing.Report, root: Path, size: tuple[int, int]) -> None:
    """Print the peak memory of a worker that packs one sample, a box of a large image that ends at 62 % of its height."""
    width, height = size
    data = record(np.random.default_rng(0), "airport", width, height, 1)
    write_image(root, 0, data, [width // 2 - 250, round(height * 0.62) - 500, 500, 500], tile())
    request = request_module.BuildRequest(SOURCES["fmow"](), str(root), str(root / "out"), BuildSettings())
    plan = build.plan_build(request)
    (path,) = root.rglob("*.jpg")
    report.table(
        f"Peak memory of a worker, a box of 500 pixels in {width:,} x {height:,}, a file of {path.stat().st_size / 1e6:.0f} MB"
    )
    for decoder in decoders.DECODERS:
        (task,) = plan.tasks(replace(request, decoder=decoder))
        work = pickle.dumps((pack.pack_shard, task))
        run = subprocess.run([sys.executable, "-c", WORKER], input=work, capture_output=True, check=True)
        samples, before, after = map(float, run.stdout.split())
        assert samples == 1, "the box gave no sample"
        target = timing.Target("at most", 150.0) if decoder == "auto" else None
        report.row(f"{decoder}, of it {before:.0f} MB before the task", after, "MB", target=target)


def copy_members(root: Path, names: list[str]) -> None:
    """Read every member of the tars and write it into another tar."""
    for name in names:
        with tarfile.open(root / name) as old, tarfile.open(root / "copy", "w|") as new:
            for entry in old:
                new.addfile(entry, old.extractfile(entry))


def measure_captions(report: timing.Report, root: Path, samples: int, times: int, rounds: int) -> None:
    """Print how much longer new captions take than copying the tars' members."""
    timing.repeated_shards(root, samples, times)
    names = [entry["name"] for entry in json.loads((root / "dataset.json").read_text(encoding="utf-8"))["shards"]]
    fields = iter([("gsd",), ("gsd", "timestamp")] * rounds)

    def rewrite() -> Any:
        return recaption(str(root), recaption_module.CaptionRewrite(next(fields), "key-value"))

    seconds = timing.in_turns({"members": lambda: copy_members(root, names), "captions": rewrite}, rounds)
    size = sum((root / name).stat().st_size for name in names) / 1e6
    report.table(f"New captions of {samples * times:,} samples, {size:,.0f} MB, one process, CPU time")
    longer = timing.ratios(seconds["captions"], seconds["members"])
    report.row("tarfile reads and writes the members", timing.rate(samples * times, seconds["members"]), "samples/s")
    report.row(
        "satmip, against that",
        timing.rate(samples * times, seconds["captions"]),
        "samples/s",
        longer,
        timing.Target("at most", 1.5),
    )


def main() -> None:
    """Run all parts and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--caption-samples", type=int, default=5000, help="in shards of 500")
    parser.add_argument("--toy", action="store_true", help="small and short")
    chosen = parser.parse_args()
    images, rounds = (20, 2) if chosen.toy else (chosen.images, chosen.rounds)
    report = timing.Report("pack", ("pillow", "turbojpeg", "simplejpeg", "opencv-python-headless", "numpy"))
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # a warning that float32 became 8-bit, as it must
    Image.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        measure_packing(report, root / "fmow", images, rounds)
        measure_memory(report, root / "large", (2500, 2000) if chosen.toy else (10_000, 8_000))
        samples, times = (50, 2) if chosen.toy else (500, max(chosen.caption_samples // 500, 1))
        measure_captions(report, root / "captions", samples, times, rounds)
    report.save()


if __name__ == "__main__":
    main()
