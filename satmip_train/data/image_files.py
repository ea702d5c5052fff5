"""Image files of any kind, outside of shards: their pixels as 8-bit RGB, and where they lie on Earth."""

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from shapely import Polygon

from satmip_data.errors import cause
from satmip_data.geometry import OffEarthError, footprint, is_invertible
from satmip_data.imagery import raster, scaling
from satmip_data.imagery.chips import MAX_PIXELS, ImageError, check_scans, damage
from satmip_data.imagery.raster_file import is_raster
from satmip_data.names import FORMATS, RASTERS
from satmip_data.records import Scaling, Window
from satmip_data.storage.locations import list_files
from satmip_data.storage.store import Store
from satmip_train.errors import UsageError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_EIGHT_BITS = ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Rendering:
    """How bands become red, green and blue of 8 bits; only rasters need it."""

    bands: tuple[int, ...] | None = None
    """Their numbers from 1, three or one; None takes those that the file tells."""
    stretch: raster.Stretch = field(default_factory=lambda: raster.Stretch("none"))
    apply_scale: bool = False
    """Whether the limits of the stretch are physical units, as the rasters declare them."""


@dataclass(frozen=True)
class Picture:
    """An image file."""

    pixels: npt.NDArray[np.uint8]
    """(H, W, 3)."""
    footprint: Polygon | None
    """Its outline, EPSG:4326, longitudes continuous (they may pass 180); None where the file tells none on Earth."""
    scaling: Scaling | None = None
    """What a raster declares of its values; see `raster.scaling`."""
    platform: str | None = None
    """What took it, where a raster tells."""


def parse_rendering(bands: str, stretch: str, apply_scale: bool = False) -> Rendering:
    """Return what "4,3,2" and "minmax:0,3000" stand for; "auto" and "none" are the defaults.

    With `apply_scale` the limits are physical units.

    Raises:
        UsageError: they stand for nothing.
    """
    try:
        parsed = raster.parse_stretch(stretch)
        scaling.check_stretch(apply_scale, parsed.kind)
        return Rendering(raster.parse_bands(bands), parsed, apply_scale)
    except ValueError as error:
        raise UsageError(str(error)) from error


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
        raise UsageError(f"{folder} holds no image, no file that ends with {endings}. Name another folder.")
    return found


def read_picture(path: Path, rendering: Rendering) -> Picture:
    """Read an image file whole.

    Raises:
        UsageError: it is damaged, or has more than 8 bits and no stretch, or bands of which none is known to be red.
    """
    store, name = Store(str(path.parent.absolute())), path.name
    try:
        if is_raster(store, name):
            return _read_raster(store, name, rendering)
    except ImageError as error:
        raise UsageError(f"Cannot read {path}. {error}") from error
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=(*FORMATS, "GIF")) as image:
            if image.format == "JPEG":
                check_scans(data)
            pixels = as_rgb(image, str(path))
            if found := damage(data, image):
                raise UsageError(f"The data of {path} are damaged: {found}. Remove or replace it.")
            return Picture(pixels, None)
    except Image.DecompressionBombError as error:
        raise UsageError(f"{path} is too large for Pillow: {cause(error)}. Cut it into tiles, or save it as GeoTIFF.") from error
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # on broken bytes Pillow's readers raise nearly anything
        raise UsageError(f"Cannot read the image {path}: {cause(error)}. Remove or replace it.") from error


def as_rgb(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    """Return the pixels of a Pillow image. Shape: (H, W, 3).

    Args:
        name: of it, for the error

    Raises:
        UsageError: it has more than 8 bits a channel.
    """
    if image.mode not in _EIGHT_BITS:
        raise UsageError(f"{name} has not 8 bits a channel, but the mode {image.mode}. Convert it, or save it as GeoTIFF.")
    return np.array(image.convert("RGB"))


def _read_raster(store: Store, name: str, rendering: Rendering) -> Picture:
    """Read a raster as `satmip-data build` reads its windows."""
    header = raster.read_header(store, name)
    if header.width * header.height > MAX_PIXELS:
        message = f"It has more than {MAX_PIXELS:,} pixels: {header.width} x {header.height}. Cut it into tiles."
        raise ImageError("image_too_large", message)
    whole, size = Window(0, 0, header.width, header.height), (header.width, header.height)
    try:
        declared = _declared(header, rendering)
    except raster.ScaleError as error:
        raise ImageError("unscaled", str(error)) from error
    lines = scaling.lines(declared, header.platform, rendering.apply_scale)
    layers = raster.read_layers(store, (name,), rendering.bands, rendering.stretch, whole, size, lines)
    return Picture(np.ascontiguousarray(layers.values.transpose(1, 2, 0)), _footprint(header), declared, header.platform)


def _declared(header: raster.Header, rendering: Rendering) -> Scaling | None:
    bands = raster.choose_bands(header, rendering.bands, rendering.stretch)
    return raster.scaling(header, bands, rendering.stretch, rendering.apply_scale)


def check_units(paths: Iterable[Path], rendering: Rendering) -> None:
    """Refuse rasters that one stretch cannot show alike; what cannot be read is passed over here.

    Raises:
        UsageError: their numbers mean different things, and no physical units were asked for.
    """
    if rendering.apply_scale or rendering.stretch.kind == "percentile":
        return
    same = scaling.SameUnits()
    for path in paths:
        store, name = Store(str(path.parent.absolute())), path.name
        try:
            header = raster.read_header(store, name) if is_raster(store, name) else None
            declared = None if header is None else _declared(header, rendering)
        except (ImageError, raster.ScaleError):
            continue
        if header is not None:
            add_units(same, str(path), declared, header.platform)


def add_units(same: scaling.SameUnits, name: str, declared: Scaling | None, platform: str | None) -> None:
    """Compare what a raster declares with what others did.

    Raises:
        UsageError: one stretch cannot show them alike.
    """
    try:
        same.add(name, declared, platform)
    except scaling.UnitsError as error:
        raise UsageError(str(error)) from error


def _footprint(header: raster.Header) -> Polygon | None:
    """Return the outline as a build writes it for a chip of the whole raster; None where it lies nowhere on Earth."""
    place = header.georeference
    if place is None or not is_invertible(place.affine):
        return None
    try:
        return Polygon(footprint(place, Window(0, 0, header.width, header.height)))
    except OffEarthError:
        return None
