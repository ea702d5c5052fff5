"""A small fMoW tree in ground-truth form, drawn from a seed: random pictures, valid records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("airport", "multi-unit_residential", "solar_farm")


def record(rng: np.random.Generator, category: str, width: int, height: int, month: int) -> dict[str, Any]:
    """Return a ground-truth record of an image of `width` x `height` pixels with one labelled box."""
    lon, lat = float(rng.uniform(-170, 170)), float(rng.uniform(-60, 60))
    size = 4.5e-6
    east, south = lon + width * size, lat - height * size
    box = [int(width * 0.2), int(height * 0.3), int(width * 0.5), int(height * 0.4)]
    ring = [(lon, south), (east, south), (east, lat), (lon, lat), (lon, south)]
    gsd = float(rng.uniform(0.3, 0.8))
    return {
        "img_filename": "x.tif",
        "img_width": width,
        "img_height": height,
        "gsd": gsd,
        "mean_pixel_width": size,
        "mean_pixel_height": size,
        "raw_location": "POLYGON ((" + ", ".join(f"{x:.16f} {y:.16f}" for x, y in ring) + "))",
        "epsg": "4326",
        "spatial_reference": "GCS_WGS_1984",
        "utm": f"{int((lon + 180) // 6) + 1}{'CDEFGHJKLMNPQRSTUVWX'[int((lat + 80) // 8)]}",
        "country_code": str(rng.choice(["CHE", "PER", "FRA"])),
        "cloud_cover": int(rng.integers(0, 60)),
        "timestamp": f"20{int(rng.integers(10, 17))}-{month:02d}-11T10:{int(rng.integers(10, 60))}:22Z",
        "scan_direction": str(rng.choice(["Forward", "Reverse"])),
        "approximate_wavelengths": [661, 545, 477],
        "catalog_id": "105041000048BE00",
        "sensor_platform_name": "GEOEYE01",
        "pan_resolution_dbl": gsd,
        "multi_resolution_dbl": gsd * 4.003,
        "target_azimuth_dbl": float(rng.uniform(0, 360)),
        "off_nadir_angle_dbl": float(rng.uniform(0, 40)),
        "sun_azimuth_dbl": float(rng.uniform(90, 200)),
        "sun_elevation_dbl": float(rng.uniform(20, 70)),
        "bounding_boxes": [
            {"ID": -1, "box": box, "category": category, "raw_location": "POLYGON ((0 0, 1 0, 1 1, 0 1, 0 0))"},
            {"ID": int(rng.integers(1, 9999)), "box": box, "category": category, "visible": "True"},
        ],
    }


def write_fmow_tree(root: Path, places: int = 6, images: int = 3, seed: int = 0) -> list[Path]:
    """Write `places` places of `images` acquisitions into each of train and val; return the paths of the images, sorted."""
    rng = np.random.default_rng(seed)
    paths = []
    for split in ("train", "val"):
        for place in range(places):
            category = CLASSES[place % len(CLASSES)]
            folder = root / split / category / f"{category}_{place}"
            folder.mkdir(parents=True)
            for image in range(images):
                width, height = (int(side) for side in rng.integers(60, 120, 2))
                stem = folder / f"{category}_{place}_{image}_rgb"
                pixels = rng.integers(1, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
                picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
                picture.save(stem.with_suffix(".jpg"), quality=75)
                data = record(rng, category, width, height, 1 + image)
                stem.with_suffix(".json").write_text(json.dumps(data))
                paths.append(stem.with_suffix(".jpg"))
    return sorted(paths)


def contents(out: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder by its relative path."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def with_floats(value: Any) -> Any:
    """Return a JSON value with all its whole numbers written as pandas writes them, 7.0 for 7."""
    if isinstance(value, dict):
        return {name: with_floats(part) for name, part in value.items()}
    if isinstance(value, list):
        return [with_floats(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
