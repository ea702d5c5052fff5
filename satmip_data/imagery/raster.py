"""Windows of georeferenced rasters, of any number of bands and any type, as RGB with 8 bits a channel (rasterio)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from satmip_data.imagery.chips import ImageError
from satmip_data.imagery.raster_file import open_raster
from satmip_data.records import Georeference, Window
from satmip_data.storage.store import Store

SENTINEL2_COUNTS = (12, 13)
"""Bands of a Sentinel-2 product, without and with B10; red, green and blue are the fourth, third and second of both."""

PREVIEW = 512
"""Longest side of the decimated raster on which percentiles are taken, pixels."""

ROWS = 64
"""Rows that are stretched at a time: the numbers between take some hundred bytes a pixel."""

Pixels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Stretch:
    """How values become 0 to 255: `none` leaves 8 bits as they are; the others go linearly from `low` to `high` and are clipped.

    With `minmax` these are values, with `percentile` percentiles of each band over the whole raster.
    """

    kind: Literal["none", "minmax", "percentile"]
    low: float = 0.0
    high: float = 0.0


def parse_stretch(text: str) -> Stretch:
    """Return the stretch that "none", "percentile", "percentile:LOW,HIGH" or "minmax:LOW,HIGH" stands for.

    Raises:
        ValueError: it is none of these, or the limits do not rise.
    """
    kind, _, limits = text.partition(":")
    if text == "none":
        return Stretch("none")
    if text == "percentile":
        return Stretch("percentile", 2.0, 98.0)
    try:
        low, high = map(float, limits.split(","))
    except ValueError:
        low = high = 0.0
    rising = -np.inf < low < high < np.inf
    if kind == "minmax" and rising:
        return Stretch("minmax", low, high)
    if kind == "percentile" and rising and low >= 0.0 and high <= 100.0:
        return Stretch("percentile", low, high)
    raise ValueError(f'stretch must be "none", "percentile", "percentile:2,98" or "minmax:0,3000", however: {text!r}')


def parse_bands(text: str) -> tuple[int, ...] | None:
    """Return the band numbers, from 1, that "4,3,2" stands for; None for "auto".

    Raises:
        ValueError: it is not one number or three, or one is below 1.
    """
    if text == "auto":
        return None
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f'bands must be "auto", one number or three (red, green, blue) from 1, as "4,3,2"; however: {text!r}')
    return tuple(map(int, parts))


@dataclass(frozen=True, slots=True)
class Header:
    """What the head of a raster tells."""

    width: int
    height: int
    count: int
    dtype: str
    colours: tuple[int, ...] | None
    """Numbers of the bands that say they are red, green and blue; None where not all three are there."""
    palette: bool
    """Whether values are numbers of colours in a table."""
    georeference: Georeference | None
    tags: dict[str, str]


class ScaleError(ValueError):
    """The pixels cannot become 8-bit RGB without the user's word on how."""


def choose_bands(header: Header, bands: tuple[int, ...] | None) -> tuple[int, int, int]:
    """Return the numbers of the bands for red, green and blue.

    Raises:
        ScaleError: a band is not there, or none were given and the raster does not tell.
    """
    if bands is None:
        bands = _natural_bands(header)
    if max(bands) > header.count:
        raise ScaleError(f"bands must be among the raster's {header.count}, however: {','.join(map(str, bands))}")
    red, green, blue = bands if len(bands) == 3 else bands * 3
    return red, green, blue


def _natural_bands(header: Header) -> tuple[int, ...]:
    if header.colours is not None:
        return header.colours
    if header.palette:
        raise ScaleError(
            "bands must hold brightness, however: the raster's values are numbers of colours. Write it as colours: "
            "gdal_translate -expand rgb IN OUT   or take the numbers as they are: --bands 1"
        )
    if header.count in (1, 2):
        return (1,)
    if header.count == 3:
        return (1, 2, 3)
    if header.count in SENTINEL2_COUNTS:
        return (4, 3, 2)
    raise ScaleError(
        f"which of {header.count} bands are red, green and blue must be known, however: the raster does not say. Add: --bands R,G,B"
    )


def check_scale(header: Header, stretch: Stretch) -> None:
    """Refuse values of more than 8 bits without a stretch.

    Raises:
        ScaleError: the values are not 8-bit, and `stretch` is none.
    """
    if header.dtype.startswith("complex"):
        raise ScaleError(f"The raster holds complex numbers ({header.dtype}), which have no brightness. Write their amplitude.")
    if stretch.kind == "none" and header.dtype != "uint8":
        raise ScaleError(
            f"pixels must have 8 bits or a stretch to 8 bits, however: {header.dtype}. Add: --stretch percentile   or, the same "
            "for every image: --stretch minmax:LOW,HIGH"
        )


def read_header(store: Store, name: str) -> Header:
    """Return what the head of a raster tells; no pixel is read.

    Raises:
        ImageError: `image_unreadable`.
    """
    with open_raster(store, name) as dataset:
        return _header(dataset)


def _header(dataset: Any) -> Header:
    return Header(
        dataset.width,
        dataset.height,
        dataset.count,
        next((dtype for dtype in dataset.dtypes if dtype != "uint8"), "uint8"),
        _colours(dataset.colorinterp),
        dataset.colorinterp[0].name == "palette",
        _georeference(dataset),
        {**dataset.tags(), **dataset.tags(ns="IMAGERY")},
    )


def _colours(found: Sequence[Any]) -> tuple[int, ...] | None:
    names, wanted = [colour.name for colour in found], ("red", "green", "blue")
    return tuple(names.index(name) + 1 for name in wanted) if set(wanted) <= set(names) else None


def _georeference(dataset: Any) -> Georeference | None:
    if dataset.crs is None or dataset.transform.is_identity:
        return None
    a, b, c, d, e, f = (float(value) for value in tuple(dataset.transform)[:6])
    epsg = dataset.crs.to_epsg(confidence_threshold=100)
    return Georeference((a, b, c, d, e, f), dataset.crs.to_wkt() if epsg is None else f"EPSG:{epsg}")


@dataclass(frozen=True, slots=True)
class Layers:
    """Bands of a window with 8 bits.

    Shape:
        values: (bands, H, W) uint8, 0 where nothing is known
        known: (bands, H, W) bool
    """

    values: npt.NDArray[np.uint8]
    known: npt.NDArray[np.bool_]


def read_layers(
    store: Store, name: str, bands: tuple[int, ...] | None, stretch: Stretch, window: Window, expected_size: tuple[int, int]
) -> Layers:
    """Return red, green and blue of a window at its full resolution, stretched to 8 bits.

    A pixel is unknown where it has the raster's nodata value, its mask leaves it out, it is NaN, or it is 0 in every band read.

    Args:
        store: where the raster lies.
        name: its name there.
        bands: numbers of the bands, from 1; None takes those that the raster tells.
        stretch: values to 8 bits.
        window: what is read, inside the raster.
        expected_size: width and height of the raster as the index says.

    Raises:
        ImageError: `image_unreadable` (also where bands or a stretch must be given), or `size_mismatch`.
    """
    with open_raster(store, name) as dataset:
        header = _header(dataset)
        if (header.width, header.height) != expected_size:
            expected = f"{expected_size[0]} x {expected_size[1]}"
            message = f"a raster must have {expected} pixels, however: {header.width} x {header.height}"
            raise ImageError("size_mismatch", message)
        try:
            check_scale(header, stretch)
            chosen = choose_bands(header, bands)
        except ScaleError as error:
            raise ImageError("image_unreadable", str(error)) from error
        part = (window.y, window.y + window.height), (window.x, window.x + window.width)
        values = dataset.read(chosen, window=part)
        known = _known(values, dataset.read_masks(chosen, window=part))
    if stretch.kind == "none":
        return Layers(np.where(known, values, 0).astype(np.uint8), known)
    limits = _limits(store, name, chosen, stretch)
    return Layers(to_8_bits(values, known, limits), known)


def _known(values: Pixels, masks: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return which pixels of each band hold data. Shape of all three: (bands, H, W)."""
    known: npt.NDArray[np.bool_] = (masks > 0) & np.isfinite(values) & (values != 0).any(axis=0)
    return known


def to_8_bits(values: Pixels, known: npt.NDArray[np.bool_], limits: Sequence[tuple[float, float]]) -> npt.NDArray[np.uint8]:
    """Map each band linearly from its limits to 0 and 255, rounded and clipped; what is not known becomes 0.

    Shape: values, known (bands, H, W), limits (bands, 2) -> (bands, H, W). Where limits coincide, all above them is 255.
    """
    low, high = np.array(limits, np.float64).T[:, :, None, None]
    out = np.empty(values.shape, np.uint8)
    for start in range(0, values.shape[1], ROWS):
        rows = np.s_[:, start : start + ROWS]
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = (np.where(known[rows], values[rows], 0.0).astype(np.float64) - low) / (high - low) * 255.0
        clean = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
        out[rows] = np.where(known[rows], np.rint(np.clip(clean, 0.0, 255.0)), 0)
    return out


@lru_cache(maxsize=256)
def _limits(store: Store, name: str, bands: tuple[int, ...], stretch: Stretch) -> tuple[tuple[float, float], ...]:
    """Return the values of each band that become 0 and 255; those of a raster are the same for all its windows."""
    if stretch.kind == "minmax":
        return ((stretch.low, stretch.high),) * len(bands)
    with open_raster(store, name) as dataset:
        step = max(1, -(-max(dataset.width, dataset.height) // PREVIEW))
        shape = (len(bands), -(-dataset.height // step), -(-dataset.width // step))
        values = dataset.read(bands, out_shape=shape)
        known = _known(values, dataset.read_masks(bands, out_shape=shape))
    found = []
    for band, mask in zip(values, known, strict=True):
        low, high = np.percentile(band[mask], (stretch.low, stretch.high)) if mask.any() else (0.0, 1.0)
        found.append((float(low), float(high)))
    return tuple(found)


def compose(layers: Layers, size: tuple[int, int]) -> Image.Image:
    """Return red, green and blue as one image, resized to `size` (width, height) by antialiased bicubic interpolation.

    Raises:
        ImageError: `image_empty`: no pixel is known, or every one is black.
    """
    if not layers.known.any():
        raise ImageError("image_empty", "a window must hold data, however: every pixel is nodata")
    if not layers.values.any():
        raise ImageError("image_empty", "a window must show something, however: every pixel is 0 after the stretch")
    return Image.fromarray(np.ascontiguousarray(layers.values.transpose(1, 2, 0))).resize(size, Image.Resampling.BICUBIC)
