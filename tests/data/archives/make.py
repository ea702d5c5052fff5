"""Small archives of every kind, drawn from a seed: rasters, folders of classes, tables, STAC items, HDF5 files, patches."""

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import rasterio
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

CORINE = ("Pastures", "Sea and ocean", "Airports", "Rice fields")


def pixels(rng: np.random.Generator, height: int, width: int, bands: int, low: int, high: int) -> np.ndarray:
    """Return smooth noise, so that a JPEG keeps it. Shape: (bands, height, width)."""
    coarse = rng.uniform(low, high, (bands, -(-height // 8) + 1, -(-width // 8) + 1))
    return np.kron(coarse, np.ones((1, 8, 8)))[:, :height, :width]


def write_raster(
    path: Path,
    values: np.ndarray,
    crs: str | None = "EPSG:32632",
    transform: tuple[float, ...] = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0),
    tags: dict[str, str] | None = None,
    **profile: Any,
) -> Path:
    """Write a GeoTIFF of `values` (bands, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {} if crs is None else {"crs": crs, "transform": Affine(*transform)}
    bands, height, width = values.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": values.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", **shape, **place, **profile) as file:
            file.write(values)
            file.update_tags(**(tags or {}))
    return path


def write_control_points(path: Path, bent: float, corners: int = 4) -> Path:
    """Write a raster of 60 x 40 pixels of 20 m that control points alone place; the last of them is `bent` pixels off the grid."""
    places = [(0, 0), (0, 60), (40, 0), (40, 60), (20, 30)][:corners]
    points = [GroundControlPoint(row, col, 500_000 + 20 * col, 5_000_000 - 20 * row) for row, col in places]
    points[-1].x += 20 * bent
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": 3, "width": 60, "height": 40, "dtype": "uint8"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", gcps=points, crs="EPSG:32632", **profile) as file:
            file.write(pixels(np.random.default_rng(0), 40, 60, 3, 1, 255).astype(np.uint8))
    return path


def write_rasters(root: Path, seed: int = 0) -> None:
    """Write a folder of three rasters: 8-bit UTM, 16-bit of 12 bands, float in degrees."""
    rng = np.random.default_rng(seed)
    write_raster(root / "a/town_20200102T030405.tif", pixels(rng, 70, 100, 3, 1, 255).astype(np.uint8))
    write_raster(root / "a/sea_20200607T080910.tif", pixels(rng, 64, 64, 12, 1, 4000).astype(np.uint16), "EPSG:32719")
    degrees = (1e-4, 0.0, 12.0, 0.0, -1e-4, 60.0)
    write_raster(root / "b/field_20201112T131415.tif", pixels(rng, 40, 64, 13, 0, 1).astype(np.float32), "EPSG:4326", degrees)


def write_class_folders(root: Path, classes: tuple[str, ...], images: int, seed: int = 0, suffix: str = "jpg") -> list[str]:
    """Write `images` images of 16 x 16 for each class; return their paths below `root`."""
    rng = np.random.default_rng(seed)
    paths = []
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            path = f"{name}/{name}_{number}.{suffix}"
            Image.fromarray(pixels(rng, 16, 16, 3, 1, 255).astype(np.uint8).transpose(1, 2, 0)).save(root / path)
            paths.append(path)
    return paths


def zip_folder(root: Path, target: Path) -> Path:
    """Write all files below `root` into a zip file."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                archive.write(path, f"{root.name}/{path.relative_to(root)}")
    return target


def table_rows() -> pd.DataFrame:
    """Return a table of three images with everything known, in the names of STAC."""
    return pd.DataFrame(
        {
            "image": ["images/one.png", "images/one.png", "images/two.png"],
            "x": [0, 20, 5], "y": [0, 10, 5], "width": [20, 20, 30], "height": [30, 20, 40],
            "split": ["train", "train", "val"],
            "category": ["port", None, "port"],
            "gsd": [0.5, 0.5, None],
            "datetime": ["2020-01-02T03:04:05Z", "2020-01-02T03:04:05+02:00", None],
            "platform": ["WORLDVIEW02", "WORLDVIEW02", None],
            "view:off_nadir": [0.0, 12.5, None],
            "view:sun_azimuth": [-10.0, 350.0, None],
            "view:sun_elevation": [45.0, 45.0, None],
            "eo:cloud_cover": [0.0, 7.0, None],
            "bbox": ["7.0,46.0,7.001,46.001", "7.0,46.0,7.001,46.001", None],
        }
    )  # fmt: skip


def write_table_images(root: Path, seed: int = 0) -> None:
    """Write the images of `table_rows`, 40 x 50 and 60 x 80."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name, width, height in (("one", 40, 50), ("two", 60, 80)):
        Image.fromarray(pixels(rng, height, width, 3, 1, 255).astype(np.uint8).transpose(1, 2, 0)).save(root / f"images/{name}.png")


def stac_item(number: int, asset: dict[str, Any]) -> dict[str, Any]:
    """Return a STAC item with one asset."""
    west = 10.0 + number
    ring = [[west, 45.0], [west + 0.01, 45.0], [west + 0.01, 45.01], [west, 45.01], [west, 45.0]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"Scene-{number}",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, 45.0, west + 0.01, 45.01],
        "properties": {
            "datetime": "2021-05-06T07:08:09Z", "platform": "sentinel-2a", "gsd": 10, "eo:cloud_cover": 0, "view:off_nadir": 3.5,
            "view:azimuth": 100.0, "view:sun_azimuth": 150.0, "view:sun_elevation": 40.0,
        },
        "assets": {"visual": asset, "thumbnail": {"href": "small.jpg", "roles": ["thumbnail"]}},
        "links": [],
    }  # fmt: skip


def write_so2sat(root: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """Write training.h5 (40 rows) and testing.h5 (10); return the RGB reflectance of each, (N, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    colours = {}
    for name, count in (("training", 40), ("testing", 10)):
        sen2 = rng.uniform(0.01, 0.4, (count, 32, 32, 10))
        label = np.eye(17)[np.arange(count) % 17]
        with h5py.File(root / f"{name}.h5", "w") as file:
            file.update({"sen2": sen2, "label": label})
        colours[name] = sen2[..., [2, 1, 0]]
    return colours


def write_bigearthnet(root: Path, patches: int = 8, seed: int = 0) -> list[str]:
    """Write patches in version 1's layout; return their names."""
    rng = np.random.default_rng(seed)
    names = []
    for number in range(patches):
        name = f"S2A_MSIL2A_20170613T101031_{number}_45"
        left, top = 500_000.0 + 1200 * number, 5_000_000.0
        for band in ("B02", "B03", "B04"):
            values = pixels(rng, 120, 120, 1, 1, 3000).astype(np.uint16)
            write_raster(root / name / f"{name}_{band}.tif", values, transform=(10.0, 0.0, left, 0.0, -10.0, top))
        record = {
            "labels": [CORINE[number % 4], CORINE[(number + 1) % 4]],
            "coordinates": {"ulx": left, "uly": top, "lrx": left + 1200, "lry": top - 1200},
            "projection": rasterio.crs.CRS.from_epsg(32632).to_wkt(),
            "acquisition_date": "2017-06-13 10:10:31",
        }
        (root / name / f"{name}_labels_metadata.json").write_text(json.dumps(record))
        names.append(name)
    return names
