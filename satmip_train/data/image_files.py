"""Image files of any kind, outside of shards: their pixels as 8-bit RGB, and where they lie on Earth."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from rasterio.enums import ColorInterp
from shapely import Polygon

from satmip_data.imagery.chips import ImageError
from satmip_data.imagery.raster_file import open_raster
from satmip_data.names import FORMATS
from satmip_data.storage.locations import list_files
from satmip_data.storage.store import Store
from satmip_train.data.outline import outline
from satmip_train.errors import UsageError

RASTERS = (".tif", ".tiff", ".jp2")
"""Endings of the files that rasterio reads; Pillow reads the others."""
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
Values = npt.NDArray[Any]
_EIGHT_BITS = ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_SENTINEL2 = (12, 13)
"""Bands of a Sentinel-2 product; red, green and blue are the fourth, third and second."""
_PREVIEW = 512
"""Longest side of the decimated raster on which percentiles are taken, pixels; that of `satmip-data build`."""


@dataclass(frozen=True)
class Rendering:
    """How bands become red, green and blue of 8 bits; only rasters need it."""

    bands: tuple[int, ...] | None = None
    """Their numbers from 1, three or one; None takes those that the file tells."""
    stretch: Literal["none", "minmax", "percentile"] = "none"
    low: float = 0.0
    """Value, or percentile of each band over the whole raster, that becomes 0."""
    high: float = 0.0
    """The same for 255."""


@dataclass(frozen=True)
class Picture:
    """An image file."""

    pixels: npt.NDArray[np.uint8]
    """(H, W, 3)."""
    footprint: Polygon | None
    """Its outline, EPSG:4326, longitudes continuous (they may pass 180); None where the file tells none on Earth."""


def parse_rendering(bands: str, stretch: str) -> Rendering:
    """Return what "4,3,2" and "minmax:0,3000" stand for; "auto" and "none" are the defaults.

    Raises:
        UsageError: they stand for nothing.
    """
    numbers = None if bands == "auto" else tuple(int(word) if word.strip().isdecimal() else 0 for word in bands.split(","))
    if numbers is not None and (len(numbers) not in (1, 3) or min(numbers) < 1):
        raise UsageError(f'--bands must be "auto", one number or three from 1, as "4,3,2", however: {bands!r}')
    kind, _, limits = ("percentile:2,98" if stretch == "percentile" else stretch).partition(":")
    if kind == "none" and not limits:
        return Rendering(numbers)
    try:
        low, high = map(float, limits.split(","))
    except ValueError:
        low = high = 0.0
    inside = kind == "minmax" or (low >= 0 and high <= 100)
    if kind not in ("minmax", "percentile") or not (-np.inf < low < high < np.inf and inside):
        raise UsageError(f'--stretch must be "none", "percentile:2,98" or "minmax:0,3000", however: {stretch!r}')
    return Rendering(numbers, "minmax" if kind == "minmax" else "percentile", low, high)


def find_images(folder: Path) -> list[Path]:
    """Return the image files below a folder that a build would list, sorted by path: none hidden, each once. See `list_files`.

    Raises:
        UsageError: there is none, or a folder cannot be read.
    """
    try:
        paths = [folder / name for name in list_files(os.path.abspath(folder))]
    except OSError as error:
        raise UsageError(f"A folder below {folder} cannot be read: {error}. Change its mode, or pass another folder.") from error
    found = sorted(path for path in paths if path.suffix.lower() in (*RASTERS, *PICTURES) and path.is_file())
    if not found:
        endings = ", ".join((*PICTURES, *RASTERS))
        raise UsageError(f"there must be images below the folder, however: {folder} holds no file of {endings}. Pass another one")
    return found


def read_picture(path: Path, rendering: Rendering) -> Picture:
    """Read an image file whole.

    Raises:
        UsageError: it is damaged, or has more than 8 bits and no stretch, or bands of which none is known to be red.
    """
    if path.suffix.lower() in RASTERS:
        return _read_raster(path, rendering)
    try:
        with Image.open(path, formats=(*FORMATS, "GIF")) as image:
            return Picture(as_rgb(image, str(path)), None)
    except Image.DecompressionBombError as error:
        raise UsageError(
            f"a picture must be of a size that Pillow opens, however: {path}: {error}. Cut it into tiles, or save it as GeoTIFF"
        ) from error
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # on broken bytes Pillow's readers raise nearly anything
        raise UsageError(f"an image must be readable, however: {path}: {error}. Remove or replace it") from error


def as_rgb(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    """Return the pixels of a Pillow image. Shape: (H, W, 3).

    Args:
        name: of it, for the error

    Raises:
        UsageError: it has more than 8 bits a channel.
    """
    if image.mode not in _EIGHT_BITS:
        raise UsageError(f"a picture must have 8 bits a channel, however: {name} has the mode {image.mode}. Convert it")
    return np.array(image.convert("RGB"))


def _read_raster(path: Path, rendering: Rendering) -> Picture:
    try:
        with open_raster(Store(str(path.parent.absolute())), path.name) as dataset:
            bands = _bands(dataset, rendering, path)
            if rendering.stretch == "none" and any(dataset.dtypes[band - 1] != "uint8" for band in bands):
                raise UsageError(
                    f"pixels must have 8 bits or a stretch to 8 bits, however: {path} has {dataset.dtypes[bands[0] - 1]}. "
                    "Add: --stretch minmax:LOW,HIGH   or: --stretch percentile:2,98"
                )
            values = dataset.read(bands)
            known = _known(values, dataset.read_masks(bands))
            limits = None if rendering.stretch == "none" else _limits(dataset, bands, rendering)
            return Picture(_to_8_bits(values, known, limits), _footprint(dataset))
    except ImageError as error:
        raise UsageError(f"Cannot read {path}. {error} Remove or replace it.") from error


def _bands(dataset: Any, rendering: Rendering, path: Path) -> list[int]:
    """Return the numbers of the bands for red, green and blue."""
    chosen = rendering.bands
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if chosen is None and set(wanted) <= set(dataset.colorinterp):
        chosen = tuple(dataset.colorinterp.index(colour) + 1 for colour in wanted)
    if chosen is None and dataset.colorinterp[0] is ColorInterp.palette:
        raise UsageError(
            f"bands must hold brightness, however: the values of {path} are numbers of colours. Write it as colours: "
            "gdal_translate -expand rgb IN OUT   or take the numbers as they are: --bands 1"
        )
    if chosen is None:
        chosen = {1: (1,), 2: (1,), 3: (1, 2, 3)}.get(dataset.count, (4, 3, 2) if dataset.count in _SENTINEL2 else None)
    if chosen is None:
        raise UsageError(f"red, green and blue must be known, however: {path} has {dataset.count} bands. Add: --bands R,G,B")
    if max(chosen) > dataset.count:
        raise UsageError(
            f"--bands must name bands of the raster, however: {path} has {dataset.count} and {max(chosen)} is asked for. "
            f"Pass numbers from 1 to {dataset.count}"
        )
    return list(chosen) if len(chosen) == 3 else [*chosen] * 3


def _known(values: Values, masks: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return which pixels hold data: not nodata, not NaN, not 0 in every band, as in shards. Shape of all three: (3, H, W)."""
    known: npt.NDArray[np.bool_] = (masks > 0) & np.isfinite(values) & (values != 0).any(axis=0)
    return known


def _limits(dataset: Any, bands: list[int], rendering: Rendering) -> npt.NDArray[np.float64]:
    """Return the values of each band that become 0 and 255, (3, 2); percentiles are taken on the raster as `build` takes them."""
    if rendering.stretch == "minmax":
        return np.full((3, 2), (rendering.low, rendering.high))
    step = max(1, -(-max(dataset.width, dataset.height) // _PREVIEW))
    shape = (len(bands), -(-dataset.height // step), -(-dataset.width // step))
    values = dataset.read(bands, out_shape=shape)
    known = _known(values, dataset.read_masks(bands, out_shape=shape))
    percentiles = (rendering.low, rendering.high)
    pairs = [np.percentile(band[mask], percentiles) if mask.any() else (0.0, 1.0) for band, mask in zip(values, known, strict=True)]
    return np.array(pairs, np.float64)


def _to_8_bits(values: Values, known: npt.NDArray[np.bool_], limits: npt.NDArray[np.float64] | None) -> npt.NDArray[np.uint8]:
    """Return 8 bits, 0 where nothing is known. Shape: values, known (3, H, W), limits (3, 2) -> (H, W, 3)."""
    if limits is not None:
        low, high = limits.T[:, :, None, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = (np.where(known, values, 0.0).astype(np.float64) - low) / (high - low) * 255.0
        values = np.rint(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0).clip(0.0, 255.0))
    return np.ascontiguousarray(np.where(known, values, 0).astype(np.uint8).transpose(1, 2, 0))


def _footprint(dataset: Any) -> Polygon | None:
    if dataset.crs is None or dataset.transform.is_identity:
        return None
    return outline(dataset.crs, dataset.transform, dataset.width, dataset.height)
