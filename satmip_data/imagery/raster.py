"""Windows of georeferenced rasters, of any number of bands and any type, as RGB with 8 bits a channel (rasterio)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from satmip_data.imagery.chips import ImageError, other_size
from satmip_data.imagery.raster_file import open_raster
from satmip_data.imagery.scaling import Line, ScalingError, declared
from satmip_data.records import Georeference, Scaling, Window
from satmip_data.storage.store import Store

SENTINEL2_COUNTS = (12, 13)
"""Bands of a Sentinel-2 product, without and with B10; red, green and blue are the fourth, third and second of both."""

PREVIEW = 512
"""Longest side of the decimated raster on which percentiles are taken, pixels."""

ROWS = 64
"""Rows that are stretched at a time: the numbers between take some hundred bytes a pixel."""

MOST_RESIDUAL = 2.0
"""Pixels by which a control point may miss the affine fitted to all: windows of a more warped raster have no exact place."""

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
    raise ValueError(f'Cannot read the stretch "{text}". Write none, percentile:2,98 or minmax:0,3000')


def parse_bands(text: str) -> tuple[int, ...] | None:
    """Return the band numbers, from 1, that "4,3,2" stands for; None for "auto".

    Raises:
        ValueError: it is not one number or three, or one is below 1.
    """
    if text == "auto":
        return None
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f'Cannot read the bands "{text}". Write auto, one number from 1, or red, green and blue as 4,3,2')
    return tuple(map(int, parts))


@dataclass(frozen=True, slots=True)
class Header:
    """Facts from the header of a raster."""

    width: int
    height: int
    count: int
    dtypes: tuple[str, ...]
    """Of each band."""
    colours: tuple[int, ...] | None
    """Numbers of the bands that say they are red, green and blue; None where not all three are there."""
    palette: bool
    """Whether values are numbers of colours in a table."""
    georeference: Georeference | None
    unplaced: str
    """Why its control points give no georeference; "" where they do, or it has none."""
    tags: dict[str, str]
    scales: tuple[float, ...]
    """Of each band: physical units a number; 1 where none is declared."""
    offsets: tuple[float, ...]
    """Of each band, physical units; 0 where none is declared."""

    @property
    def platform(self) -> str | None:
        """Sensor, from GDAL's IMAGERY domain."""
        return self.tags.get("SATELLITEID") or None


class WarpedError(ValueError):
    """Control points place no plane grid."""


class ScaleError(ValueError):
    """The pixels cannot become 8-bit RGB without the user's word on how."""


def choose_bands(header: Header, bands: tuple[int, ...] | None, stretch: Stretch) -> tuple[int, int, int]:
    """Return the numbers of the bands for red, green and blue.

    Raises:
        ScaleError: a band is not there, or none were given and the raster does not tell; or values have more than 8 bits and there
            is no stretch.
    """
    if bands is None:
        bands = _natural_bands(header)
    if max(bands) > header.count:
        raise ScaleError(f"The raster has no band {max(bands)}. Use --bands with numbers from 1 to {header.count}.")
    deep = [header.dtypes[number - 1] for number in bands if header.dtypes[number - 1] != "uint8"]
    if any(dtype.startswith("complex") for dtype in deep):
        raise ScaleError("The raster holds complex numbers, which have no brightness. Write their amplitude.")
    if stretch.kind == "none" and deep:
        raise ScaleError(
            f"The raster's values are {deep[0]}, not 8-bit. Add: --stretch percentile   or, the same for every image: "
            "--stretch minmax:LOW,HIGH"
        )
    red, green, blue = bands if len(bands) == 3 else bands * 3
    return red, green, blue


def scaling(header: Header, bands: Sequence[int], stretch: Stretch, apply_scale: bool) -> Scaling | None:
    """Return what is declared of the bands that are read; None where nothing follows from it: percentiles are the raster's own.

    Raises:
        ScaleError: a scale or an offset is no number that a raster can have.
    """
    if stretch.kind == "percentile" and not apply_scale:
        return None
    try:
        return declared([header.scales[number - 1] for number in bands], [header.offsets[number - 1] for number in bands])
    except ScalingError as error:
        raise ScaleError(str(error)) from error


def _natural_bands(header: Header) -> tuple[int, ...]:
    if header.colours is not None:
        return header.colours
    if header.palette:
        raise ScaleError(
            "The raster's values are numbers of colours. Write it as colours: gdal_translate -expand rgb IN OUT   or take the "
            "numbers as they are: --bands 1"
        )
    if header.count in (1, 2):
        return (1,)
    if header.count == 3:
        return (1, 2, 3)
    if header.count in SENTINEL2_COUNTS:
        return (4, 3, 2)
    raise ScaleError(f"The raster does not say which of its {header.count} bands are red, green and blue. Add: --bands R,G,B")


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
        tuple(dataset.dtypes),
        _colours(dataset.colorinterp),
        dataset.colorinterp[0].name == "palette" and not _white_is_zero(dataset),
        *_georeference(dataset),
        {**dataset.tags(), **dataset.tags(ns="IMAGERY")},
        tuple(dataset.scales),
        tuple(dataset.offsets),
    )


def _colours(found: Sequence[Any]) -> tuple[int, ...] | None:
    names, wanted = [colour.name for colour in found], ("red", "green", "blue")
    return tuple(names.index(name) + 1 for name in wanted) if set(wanted) <= set(names) else None


def _georeference(dataset: Any) -> tuple[Georeference | None, str]:
    """Return where a raster lies, by its transform or else its control points; else why these do not tell."""
    points, crs = dataset.gcps
    if dataset.crs is not None and not dataset.transform.is_identity:
        affine, crs = tuple(float(value) for value in tuple(dataset.transform)[:6]), dataset.crs
    elif not points:
        return None, ""
    elif not crs:
        return None, "The raster's control points have no CRS."
    else:
        try:
            affine = fit_control_points([(point.col, point.row, point.x, point.y) for point in points])
        except WarpedError as error:
            return None, str(error)
    epsg = crs.to_epsg(confidence_threshold=100)
    a, b, c, d, e, f = affine
    return Georeference((a, b, c, d, e, f), crs.to_wkt() if epsg is None else f"EPSG:{epsg}"), ""


def fit_control_points(points: Sequence[tuple[float, float, float, float]]) -> tuple[float, ...]:
    """Return the affine of control points (column, row, x, y).

    Raises:
        WarpedError: they determine none, or lie too far from it.
    """
    affine, residual = fit_affine(points)
    if residual == np.inf:
        raise WarpedError(f"The image's {len(points)} control points determine no grid. Give it 4 or more that lie on no line.")
    if not residual <= MOST_RESIDUAL:
        raise WarpedError(
            f"The image's {len(points)} control points miss a plane grid by up to {residual:.3g} pixels. Warp it first."
        )
    return affine


def fit_affine(points: Sequence[tuple[float, float, float, float]]) -> tuple[tuple[float, ...], float]:
    """Return the affine that fits control points (column, row, x, y) best, and its largest residual in pixels.

    The residual is infinite where fewer than 4 points, which always fit, or points on one line tell nothing.
    """
    values = np.array(points, np.float64)
    pixels, places = values[:, :2] - values[:, :2].mean(axis=0), values[:, 2:] - values[:, 2:].mean(axis=0)
    linear = np.linalg.lstsq(pixels, places, rcond=None)[0].T
    if len(points) < 4 or np.linalg.matrix_rank(pixels) < 2 or not abs(np.linalg.det(linear)) > 0.0:
        return (), np.inf
    missed = np.linalg.solve(linear, (places - pixels @ linear.T).T)
    (a, b), (d, e) = linear
    c, f = values[:, 2:].mean(axis=0) - linear @ values[:, :2].mean(axis=0)
    return tuple(map(float, (a, b, c, d, e, f))), float(np.hypot(*missed).max())


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
    store: Store,
    names: Sequence[str],
    bands: tuple[int, ...] | None,
    stretch: Stretch,
    window: Window,
    expected_size: tuple[int, int],
    lines: Sequence[Line] = (),
) -> Layers:
    """Return red, green and blue of a window at its full resolution, stretched to 8 bits.

    A pixel is unknown where all bands read have the raster's nodata value or 0, or its mask or alpha band leaves it out. Where one
    band alone has such a value, it counts. A band is unknown where it is NaN.

    Args:
        store: where the raster lies.
        names: its name there; or those of three rasters with one band each, for red, green and blue.
        bands: numbers of the bands, from 1; None takes those that the raster tells.
        stretch: values to 8 bits.
        window: what is read, inside the raster.
        expected_size: width and height of the raster as the index says.
        lines: of each band, what makes of its numbers the values that `stretch` speaks of, see `scaling.lines`; empty for the
            numbers themselves. What is missing is told by the numbers.

    Raises:
        ImageError: `image_unreadable` (also where bands or a stretch must be given), or `size_mismatch`.
    """
    parts: list[_Part] = []
    limits: list[tuple[float, float]] = []
    for name in names:
        with open_raster(store, name) as dataset:
            chosen = _checked(_header(dataset), bands, stretch, expected_size)[: 3 // len(names)]
            parts.append(_read(dataset, chosen, window=((window.y, window.y + window.height), (window.x, window.x + window.width))))
        if stretch.kind != "none":
            limits += _limits(store, name, chosen, stretch)
    values, known = np.concatenate([part[0] for part in parts]), _known(parts)
    if stretch.kind == "none":
        return Layers(np.where(known, values, 0).astype(np.uint8), known)
    return Layers(to_8_bits(values, known, _in_numbers(limits, lines, stretch)), known)


def _in_numbers(limits: list[tuple[float, float]], lines: Sequence[Line], stretch: Stretch) -> list[tuple[float, float]]:
    """Return limits as numbers of each band, falling where its scale is negative; percentiles were taken of numbers."""
    if not lines:
        return limits
    if stretch.kind == "percentile":
        return [(high, low) if scale < 0.0 else (low, high) for (low, high), (scale, _) in zip(limits, lines, strict=True)]
    return [((low - added) / scale, (high - added) / scale) for (low, high), (scale, added) in zip(limits, lines, strict=True)]


def _checked(
    header: Header, bands: tuple[int, ...] | None, stretch: Stretch, expected_size: tuple[int, int]
) -> tuple[int, int, int]:
    """Return the numbers of the bands that are read."""
    if (header.width, header.height) != expected_size:
        raise ImageError("size_mismatch", other_size((header.width, header.height), expected_size))
    try:
        return choose_bands(header, bands, stretch)
    except ScaleError as error:
        raise ImageError("image_unreadable", str(error)) from error


_Part = tuple[Pixels, npt.NDArray[np.bool_]]
"""Values of the bands read, (bands, H, W), and where the raster says that there are data, (H, W)."""


def _read(dataset: Any, bands: Sequence[int], **which: Any) -> _Part:
    """Read bands; `which` is rasterio's `window` or `out_shape`."""
    valid = (dataset.read_masks(bands, **which) > 0).any(axis=0)
    alpha = [number for number, colour in enumerate(dataset.colorinterp, 1) if colour.name == "alpha" and number not in bands]
    if alpha and all(flag.name != "alpha" for flag in dataset.mask_flag_enums[bands[0] - 1]):
        # GDAL leaves it out of its masks where there is a nodata value, and where it holds floats.
        shape = {"out_shape": which["out_shape"][1:]} if "out_shape" in which else which
        valid &= dataset.read(alpha[0], **shape) > 0
    values = dataset.read(bands, **which)
    if _white_is_zero(dataset) and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    return values, valid


def _white_is_zero(dataset: Any) -> bool:
    """Tell whether grey values are written from white to black, as by scanners; GDAL gives them a table of colours."""
    return bool(dataset.count == 1 and dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES")


def _known(parts: Sequence[_Part]) -> npt.NDArray[np.bool_]:
    """Return which values are known, (bands, H, W), of parts that are read as one picture."""
    values = np.concatenate([part[0] for part in parts])
    known: npt.NDArray[np.bool_] = np.any([part[1] for part in parts], axis=0) & (values != 0).any(axis=0) & np.isfinite(values)
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
        part = _read(dataset, bands, out_shape=shape)
    values, known = part[0], _known([part])
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
        raise ImageError("image_empty", "The window is empty: every pixel is nodata")
    if not layers.values.any():
        raise ImageError("image_empty", "The window is black: every pixel is 0 after the stretch")
    return Image.fromarray(np.ascontiguousarray(layers.values.transpose(1, 2, 0))).resize(size, Image.Resampling.BICUBIC)
