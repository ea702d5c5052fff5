"""Time to read a window of a made-up JPEG by each decoder, in turns, to a chip of 224 pixels.

Run from the repository's root: python tests/benchmarks/decoders.py [--rounds 7]
"""

import argparse
import io
import time

import numpy as np
import timing
from PIL import Image

from satmip_data.imagery import chips, decoders
from satmip_data.records import Window

CASES = ((700, 0.2), (1000, 0.7), (3000, 0.1), (3000, 0.5), (3000, 0.9), (8000, 0.5))
"""Side of the image, and where in it the window's lower right corner lies; the window's side is a tenth."""


def made_up(side: int) -> bytes:
    """Smooth colours with fine noise on them, as a JPEG of quality 75, 4:2:0."""
    rng = np.random.default_rng(side)
    coarse = Image.fromarray(rng.integers(0, 256, (side // 20, side // 20, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += rng.integers(-12, 13, pixels.shape, dtype=np.int16)
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=75, subsampling="4:2:0")
    return stream.getvalue()


def milliseconds(decoder: str, data: bytes, window: Window, side: int) -> float:
    """Return the CPU time of one chip, which other work on the machine disturbs less than the time on the clock."""
    start = time.process_time()
    with decoders.using(decoder):
        chips.read_chip(data, window, (224, 224), (side, side))
    return (time.process_time() - start) * 1000


def main() -> None:
    """Print a row of the table for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    names = ("pillow", "turbojpeg")
    decoders.check("turbojpeg")
    report = timing.Report("decoders", ("pillow", "simplejpeg", "turbojpeg", "numpy"))
    report.table(f"Decoding a window, one process, CPU time, the least of {rounds} rounds: how much faster than Pillow")
    for side, end in CASES:
        data, extent = made_up(side), side // 10
        corner = max(0, round(end * side) - extent)
        window = Window(corner, corner, extent, extent)
        took = [[milliseconds(name, data, window, side) for name in names] for _ in range(rounds)]
        by_decoder = dict(zip(names, zip(*took, strict=True), strict=True))
        for name, times in by_decoder.items():
            what = f"{side:,} x {side:,}, window ends at {end:.0%}: {name}"
            report.row(what, min(times), "ms", timing.ratios(by_decoder["pillow"], times))
    report.save()


if __name__ == "__main__":
    main()
