"""Draw the pictures of the README and the site from the demo world: python docs/make_pictures.py out/shards out/runs/satmips.

Chips are taken at even steps through the split `val`, so none is picked for its looks or its result.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import satmip_data
import satmip_train

IMAGES = Path(__file__).parent / "images"
SIDE, GAP, LINE = 200, 14, 19
PAPER, INK, SOFT, ACCENT = "#182127", "#ffffff", "#a9b8c0", "#5fd0bd"
# JPEG: chips hardly shrink as PNG. All pictures together stay below 300 kB.
SAVE = {"quality": 80, "optimize": True, "progressive": True}

Text = Sequence[tuple[str, str]]
"""Lines below a chip, each with its colour."""


def draw(cells: Sequence[tuple[Image.Image, Text]], columns: int) -> Image.Image:
    """Return chips in rows, each with lines of text below it."""
    font = ImageFont.load_default(14)
    lines = max(len(text) for _, text in cells)
    height = SIDE + lines * LINE + 2 * GAP
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (GAP + columns * (SIDE + GAP), GAP + rows * height - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (chip, text) in enumerate(cells):
        x, y = GAP + number % columns * (SIDE + GAP), GAP + number // columns * height
        sheet.paste(chip.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
        for line, (words, colour) in enumerate(text):
            pen.text((x, y + SIDE + 5 + line * LINE), words, fill=colour, font=font)
    return sheet


def words(metadata: satmip_data.Metadata) -> list[str]:
    """Return the metadata of a chip of the demo world in short lines."""
    longitude, latitude = metadata.location
    place = f"{abs(latitude):.0f}° {'N' if latitude >= 0 else 'S'}, {abs(longitude):.0f}° {'E' if longitude >= 0 else 'W'}"
    return [f"{metadata.gsd[0]:.2f} m a pixel", f"{metadata.datetime:%d %B %Y}", place, f"sun {metadata.sun_elevation:.0f}° high"]


def steps(split: satmip_data.Split, count: int) -> list[satmip_data.ShardSample]:
    """Return samples at even steps through a split."""
    return [split[int(index)] for index in np.linspace(0, len(split) - 1, count)]


def chips(val: satmip_data.Split) -> Image.Image:
    """Return chips with what their metadata say."""
    return draw(
        [(s.image, [(line, INK if i == 0 else SOFT) for i, line in enumerate(words(s.metadata))]) for s in steps(val, 8)], 4
    )


def reading(shards: satmip_data.Shards, encoder: satmip_train.Encoder) -> Image.Image:
    """Return chips with their metadata beside those of the nearest record of the train split."""
    train, asked = shards["train"], steps(shards["val"], 6)[1:-1]
    nearest = encoder.similarity(asked, train).argmax(axis=1)
    cells = []
    for sample, index in zip(asked, nearest, strict=True):
        true, read = words(sample.metadata), words(train[int(index)].metadata)
        text = [("true", SOFT), *((line, INK) for line in true), ("the network reads", SOFT), *((line, ACCENT) for line in read)]
        cells.append((sample.image, text))
    return draw(cells, 4)


def main() -> None:
    """Write the pictures to docs/images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", help="shards of the demo world")
    parser.add_argument("run", help="a run of SatMIPS on them")
    arguments = parser.parse_args()
    shards, encoder = satmip_data.open_shards(arguments.shards), satmip_train.load(arguments.run)
    IMAGES.mkdir(exist_ok=True)
    for name, picture in (("chips", chips(shards["val"])), ("reading", reading(shards, encoder))):
        path = IMAGES / f"{name}.jpg"
        picture.save(path, **SAVE)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
