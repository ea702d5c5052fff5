"""Opening of GeoTIFF and JPEG 2000 files with rasterio, and of nothing else that GDAL could take a file for.

GDAL asks the content of a file how to read it: a text named `.tif` may be a list of other files and servers (VRT, WMS), and so may
what lies beside a raster.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from satmip_data.imagery.chips import ImageError
from satmip_data.storage.limits import check_unpacked
from satmip_data.storage.store import Store, check_regular

DRIVERS = {
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "GTiff"),
    **dict.fromkeys((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), "JP2OpenJPEG"),
}
"""First bytes of the files that are read (TIFF, BigTIFF; JPEG 2000 with and without boxes) -> GDAL's driver."""

HEAD = 16
"""Bytes that tell what a file is."""

NEIGHBOURS = (".ovr", ".OVR", ".msk", ".MSK")
"""Endings behind a raster's name of what GDAL opens beside it: overviews and a mask."""

DEEPEST = 2
"""Overviews of overviews, at most; programs write none."""


def driver_of(head: bytes) -> str | None:
    """Return the GDAL driver for a file that begins with `head`; None where it is neither GeoTIFF nor JPEG 2000."""
    return next((driver for magic, driver in DRIVERS.items() if head.startswith(magic)), None)


def is_raster(store: Store, name: str) -> bool:
    """Tell by its first bytes whether a file is GeoTIFF or JPEG 2000; of a file that was asked for before, without reading it.

    Raises:
        ImageError: `image_unreadable`.
    """
    return driver_of(_head(store, name)) is not None


@lru_cache(maxsize=4096)
def _head(store: Store, name: str) -> bytes:
    try:
        if store.local:
            check_regular(store.path(name))
        return store.read_range(name, 0, HEAD)
    except OSError as error:
        raise ImageError("image_unreadable", f"Cannot read the image: {error}") from error


@contextmanager
def open_raster(store: Store, name: str) -> Iterator[Any]:
    """Give rasterio's dataset; elsewhere than on this machine only the parts that are asked for are read.

    Raises:
        ImageError: `image_unreadable`: neither GeoTIFF nor JPEG 2000, damaged, or leading to other files.
    """
    # Imported here, because the many workers that read no raster are smaller by its 30 MB.
    import rasterio
    from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            warnings.simplefilter("ignore", NodataShadowWarning)
            with rasterio.open(store.path(name), driver=_driver(store, name), opener=_opener(store, name)) as dataset:
                if any(key.upper() == "OVERVIEW_FILE" for key in dataset.tags(ns="OVERVIEWS")):
                    raise ImageError("image_unreadable", "The raster's tags lead to another file (OVERVIEW_FILE). Remove that tag.")
                _check_blocks(name, dataset)
                yield dataset
    except ImageError:
        raise
    except Exception as error:
        # On broken bytes GDAL's own errors come through, which are not of rasterio's kind.
        if not isinstance(error, (RasterioError, OSError)) and not type(error).__module__.startswith("rasterio."):
            raise
        raise ImageError("image_unreadable", f"Cannot read the raster: {error}") from error


def _check_blocks(name: str, dataset: Any) -> None:
    """Refuse a raster whose single blocks unpack to more than the limit: a window is read by whole blocks.

    Raises:
        OSError: it is one.
    """
    together = dataset.count if dataset.interleaving is not None and dataset.interleaving.name == "pixel" else 1
    for (height, width), dtype in zip(dataset.block_shapes, dataset.dtypes, strict=True):
        check_unpacked(f"A block of {name}", height * width * np.dtype(dtype).itemsize * together)


def _opener(store: Store, name: str) -> Any:
    """Return what opens files for GDAL elsewhere than on this machine."""
    if store.local:
        return None
    filesystem = store.filesystem
    if "?" not in name:
        return filesystem

    def open_alone(path: str, mode: str = "rb", **_: Any) -> Any:
        # What GDAL looks for beside it is another query of the same server, which may answer with the same file.
        if path != store.path(name):
            raise FileNotFoundError(path)
        return filesystem.open(path, mode)

    return open_alone


@lru_cache(maxsize=4096)
def _driver(store: Store, name: str, depth: int = 0) -> str:
    """Return the driver of a raster, once it is known that neither it nor its neighbours lead elsewhere.

    Raises:
        ImageError: they do, or may, or the file cannot be read.
    """
    if store.local and store.path(name).startswith("/vsi"):
        raise ImageError("image_unreadable", "Paths that begin with /vsi are GDAL's own and are not read. Use a path or a URL.")
    driver = driver_of(_head(store, name))
    if driver is None:
        raise ImageError("image_unreadable", "The file is neither GeoTIFF nor JPEG 2000, whatever its name says.")
    for ending in () if "?" in name else NEIGHBOURS:
        if store.exists(name + ending):
            if depth == DEEPEST or _driver(store, name + ending, depth + 1) != "GTiff":
                raise ImageError("image_unreadable", f"The {ending} file beside the raster is no GeoTIFF. Remove it.")
            with open_raster(store, name + ending):
                pass
    return driver
