"""A small xBD tree in xView2's layout, drawn from a seed: tiles of noise with buildings at places that are known exactly."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

AFFINE = (5.1e-06, -1.8e-08, -122.68, -1.4e-08, -4.0e-06, 38.48)
"""Where the pixels of every made tile lie: (longitude, latitude) = affine of (column, row). A pixel is 0.44 m wide and high."""


def to_lonlat(column: float, row: float) -> tuple[float, float]:
    a, b, c, d, e, f = AFFINE
    return a * column + b * row + c, d * column + e * row + f


def wkt(points: list[tuple[float, float]]) -> str:
    return "POLYGON ((" + ", ".join(f"{x:.16g} {y:.16g}" for x, y in [*points, points[0]]) + "))"


def shape(points: list[tuple[float, float]], uid: str) -> dict[str, Any]:
    return {"properties": {"feature_type": "building", "subtype": "no-damage", "uid": uid}, "wkt": wkt(points)}


def record(houses: list[list[tuple[float, float]]], name: str, side: int = 128) -> dict[str, Any]:
    """Return the label file of a tile of `side` pixels with houses given by their corners in pixels."""
    return {
        "metadata": {
            "sensor": "GEOEYE01",
            "provider_asset_type": "GEOEYE01",
            "gsd": 1.8769937,
            "capture_date": "2017-10-11T19:19:41.000Z",
            "off_nadir_angle": 21.352135,
            "pan_resolution": 0.46887785,
            "sun_azimuth": 166.999,
            "sun_elevation": 43.562,
            "target_azimuth": 109.77001,
            "disaster": "made-up-fire",
            "disaster_type": "fire",
            "catalog_id": "105001000C5D4200",
            "original_width": side,
            "original_height": side,
            "width": side,
            "height": side,
            "id": "made",
            "img_name": name,
        },
        "features": {
            "lng_lat": [shape([to_lonlat(*point) for point in house], f"uid-{i}") for i, house in enumerate(houses)],
            "xy": [shape(house, f"uid-{i}") for i, house in enumerate(houses)],
        },
    }


def house(rng: np.random.Generator, side: int = 128) -> list[tuple[float, float]]:
    x, y = rng.uniform(0, side - 12, 2)
    width, height = rng.uniform(4, 12, 2)
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def write_xbd_tree(root: Path, tiles: int = 4, seed: int = 0, side: int = 128) -> None:
    """Write `tiles` tiles, each before and after, with 12 houses, into `root`/images and `root`/labels."""
    rng = np.random.default_rng(seed)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for tile in range(tiles):
        houses = [house(rng, side) for _ in range(12)]
        for when in ("pre", "post"):
            name = f"made-up-fire_{tile:08d}_{when}_disaster"
            pixels = rng.integers(1, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{name}.png")
            (root / "labels" / f"{name}.json").write_text(json.dumps(record(houses, f"{name}.png", side)))


if __name__ == "__main__":
    write_xbd_tree(Path(sys.argv[1]))
