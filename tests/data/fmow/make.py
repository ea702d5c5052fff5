"""A small fMoW in all its forms, drawn from a seed, and single records of every oddity. The suns are pvlib's.

`python tests/data/fmow/make.py` writes the raw records beside this file; their golden records are rewritten by
`pytest tests/test_fmow_forms.py --update-golden`.
"""

import io
import json
import math
import struct
import tarfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
from PIL import Image
from pvlib.solarposition import get_solarposition
from rasterio.errors import NotGeoreferencedWarning

HERE = Path(__file__).parent
DEGREES = 0.00449157642  # of longitude that a footprint of 500 m at the equator spans


@dataclass(frozen=True)
class Shot:
    """One acquisition."""

    split: str
    category: str
    number: int
    acquisition: int
    lon: float = 8.58
    lat: float = 47.45
    time: str = "2012-04-02T10:32:22Z"
    width: int = 96
    numbered: str = ""
    """Number under which test and seq publish the place."""

    @property
    def place(self) -> str:
        return f"{self.category}_{self.number}"

    def stem(self, product: str, truth: bool) -> str:
        """Path without its ending: of the image, or of its ground truth."""
        if self.numbered and not truth:
            return f"{self.split}/{self.numbered}/{self.numbered}_{self.acquisition}_{product}"
        folder = f"{self.split}_gt" if self.numbered else self.split
        return f"{folder}/{self.category}/{self.place}/{self.place}_{self.acquisition}_{product}"


SHOTS = (
    Shot("train", "airport", 0, 0, -73.31, -3.79, "2015-09-21T15:30:08Z"),
    Shot("train", "airport", 0, 3, -73.31, -3.79, "2015-03-02T15:12:40.250000Z", 80),
    Shot("train", "multi-unit_residential", 12, 1, 23.7, 61.5, "2014-06-21T09:48:00Z"),
    Shot("val", "fountain", 514, 1),
    Shot("test", "dam", 0, 2, 151.2, -33.9, "2016-01-05T00:10:00Z", numbered="0000017"),
    Shot("seq", "zoo", 3, 7, -0.12, 51.5, "2010-10-10T11:05:00Z", numbered="0000002"),
)
WITHOUT_IMAGE = Shot("train", "airport", 9, 0, 10.0, 10.0)


def shape(shot: Shot) -> tuple[int, float]:
    """Height in pixels and degrees of a footprint that is square in metres, by the radii of WGS84."""
    sine, square = math.sin(math.radians(shot.lat)), 0.00669437999014
    ratio = math.cos(math.radians(shot.lat)) * (1 - square * sine**2) / (1 - square)  # N cos(latitude) / M
    return round(shot.width * ratio), DEGREES * ratio


def wkt(west: float, south: float, east: float, north: float) -> str:
    points = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return "POLYGON ((" + ", ".join(f"{x:.16f} {y:.16f}" for x, y in points) + "))"


def zone(lon: float, lat: float) -> str:
    return f"{int((lon + 180) // 6) + 1}{'CDEFGHJKLMNPQRSTUVWX'[int((lat + 80) // 8)]}"


def truth(shot: Shot, product: str = "rgb") -> dict[str, Any]:
    """Return the record in ground-truth form."""
    height, high = shape(shot)
    width = shot.width
    if product != "rgb":
        width, height = width // 4, height // 4
    west, south = shot.lon - DEGREES / 2, shot.lat - high / 2
    sun = get_solarposition(pd.DatetimeIndex([pd.Timestamp(shot.time)]), shot.lat, shot.lon).iloc[0]
    box = [width // 5, height // 4, width // 2, height // 3]
    return {
        "img_filename": f"{shot.place}_{shot.acquisition}_{product}.tif",
        "img_width": width,
        "img_height": height,
        "gsd": 0.4681 if product == "rgb" else 1.8738,
        "mean_pixel_width": DEGREES / width,
        "mean_pixel_height": high / height,
        "raw_location": wkt(west, south, west + DEGREES, south + high),
        "epsg": "4326",
        "spatial_reference": "GCS_WGS_1984",
        "utm": zone(shot.lon, shot.lat),
        "country_code": "CHE",
        "cloud_cover": 7,
        "timestamp": shot.time,
        "scan_direction": "Reverse",
        "approximate_wavelengths": [661, 545, 477],
        "catalog_id": "105041000048BE00",
        "sensor_platform_name": "GEOEYE01",
        "pan_resolution_dbl": 0.4681,
        "multi_resolution_dbl": 1.8738,
        "target_azimuth_dbl": 31.2082,
        "off_nadir_angle_dbl": 21.8979,
        "sun_azimuth_dbl": round(float(sun["azimuth"]), 4),
        "sun_elevation_dbl": round(float(sun["elevation"]), 4),
        "bounding_boxes": [
            {"ID": -1, "box": box, "category": shot.category, "raw_category": shot.category.title(), "crowd_rank": 0.66},
            {"ID": 47768, "box": box, "category": shot.category, "visible": "True"},
        ],
    }


def challenge(shot: Shot, product: str = "rgb") -> dict[str, Any]:
    """Return the record that is published beside the image: without GPS, and in test and seq without a label."""
    record = {key: value for key, value in truth(shot, product).items() if key not in ("raw_location", "catalog_id", "epsg")}
    (label,) = record["bounding_boxes"][1:]
    if shot.numbered:
        record["mean_pixel_width"] *= -1
        label = {key: label[key] for key in ("ID", "box")}
    record["bounding_boxes"] = label if shot.split == "val" else [label]
    return record


def tiff(path: Path, values: np.ndarray) -> None:
    """Write `values` (bands, H, W) as a plain TIFF."""
    bands, height, width = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=values.dtype) as file:
            file.write(values)


def without_strip_offsets(path: Path) -> None:
    """Take the tag StripOffsets (273) out of a TIFF, as it is missing in two files of fmow-full: its entry gets a private tag."""
    data = bytearray(path.read_bytes())
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from(order + "H", data, entry) == (273,):
            struct.pack_into(order + "H", data, entry, 65000)
    path.write_bytes(data)


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def mappings() -> dict[str, list[dict[str, str]]]:
    return {
        f"{split}_gt_mapping.json": [
            {"input": f"{split}_gt/{shot.category}/{shot.place}", "output": f"{split}/{shot.numbered}"}
            for shot in SHOTS
            if shot.split == split
        ]
        for split in ("test", "seq")
    }


def write_images(root: Path, seed: int = 0, full: bool = False) -> None:
    """Write fmow-rgb, or fmow-full, as published: images of both products with records in challenge form."""
    rng = np.random.default_rng(seed)
    for shot in SHOTS:
        for product in ("rgb", "ms" if full else "msrgb"):
            record = challenge(shot, product)
            stem = root / shot.stem(product, truth=False)
            dump(stem.with_suffix(".json"), record)
            size = (record["img_height"], record["img_width"])
            if not full:
                Image.fromarray(rng.integers(1, 256, (*size, 3), dtype=np.uint8)).save(f"{stem}.jpg", quality=90)
            elif product == "rgb":
                tiff(stem.with_suffix(".tif"), rng.integers(1, 256, (3, *size), dtype=np.uint8))
            else:
                bands = 8 if shot.split == "train" else 4
                tiff(stem.with_suffix(".tif"), rng.integers(1, 2048, (bands, *size), dtype=np.uint16))


def truth_files() -> dict[str, Any]:
    """Return the files of the ground truth: path -> JSON value."""
    records = {
        f"{shot.stem(product, truth=True)}.json": truth(shot, product)
        for shot in (*SHOTS, WITHOUT_IMAGE)
        for product in ("rgb", "msrgb")
    }
    return records | mappings()


def write_truth(root: Path) -> None:
    """Write the ground truth as a tree."""
    for path, value in truth_files().items():
        dump(root / path, value)


def write_archive(path: Path, prefix: str = "", mode: str = "w:bz2") -> None:
    """Write the ground truth as one archive, its mappings last."""
    with tarfile.open(path, mode) as archive:
        for name, value in truth_files().items():
            data = json.dumps(value).encode()
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def raw_records() -> dict[str, dict[str, Any]]:
    """Return single records of every form and oddity, by name."""
    airport, northern, val, test = SHOTS[0], SHOTS[2], SHOTS[3], SHOTS[4]
    plain = truth(airport)
    label = plain["bounding_boxes"][1]
    boxes = [
        plain["bounding_boxes"][0],
        label | {"ID": 3, "box": [-9, -4, 30, 20]},  # crosses the border
        label | {"ID": 5, "box": [70, 60, 26, 35], "visible": "False"},  # touches it
        label | {"ID": 8, "box": [96, 0, 10, 10]},  # lies beyond it
        label | {"ID": 9, "box": [4, 4, 2, 40]},  # is tiny
        label | {"ID": 11, "box": [0, 0, 90, 90], "category": "false_detection"},
    ]
    across = truth(Shot("val", "port", 1, 0, 179.999, -16.8, "2013-11-01T22:30:00Z"))
    return {
        "ground_truth": plain,
        "ground_truth_msrgb": truth(airport, "msrgb"),
        "ground_truth_northern": truth(northern),
        "challenge_train": challenge(airport),
        "challenge_val_single_box": challenge(val),
        "challenge_test": challenge(test),
        "several_boxes": plain | {"bounding_boxes": boxes},
        "false_detection_alone": plain | {"bounding_boxes": [boxes[0], boxes[5]]},
        "country_kosovo": plain | {"country_code": "KO-"},
        "country_caspian": plain | {"country_code": "CA-"},
        "across_the_antimeridian": across,
        "suspect_utm": plain | {"utm": "32T"},
        "suspect_sun": plain | {"timestamp": "2015-09-21T17:00:08Z"},
        "suspect_shape": plain | {"raw_location": wkt(-73.312, -3.79, -73.308, -3.787)},
        "suspect_pixel_size": plain | {"mean_pixel_width": 2 * plain["mean_pixel_width"]},
        "only_what_is_needed": {key: plain[key] for key in ("img_width", "img_height", "bounding_boxes")},
    }


if __name__ == "__main__":
    for name, record in raw_records().items():
        dump(HERE / f"{name}.json", record)
