"""A box of a JPEG by TurboJPEG 3, the C library: rows above it are read without their pixels being made, rows below are not read.

The library is the system's own where that is 3.0 or newer, else the one that the package `turbojpeg` brings. Its errors come back
as values: a broken file cannot end the process.
"""

import ctypes
from functools import cache
from importlib.metadata import PackageNotFoundError, files, version

import numpy as np
from numpy.typing import NDArray

SYSTEM = "libturbojpeg.so.0"
_DECOMPRESS, _STOP_ON_WARNING, _RGB = 1, 0, 0
"""TJINIT_DECOMPRESS, TJPARAM_STOPONWARNING and TJPF_RGB of turbojpeg.h."""

ALIGN = 16
"""A box must begin at a whole MCU; this is a multiple of the width of any of 4:2:0, 4:2:2, 4:4:4 and grey."""


class _Region(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_int), ("w", ctypes.c_int), ("h", ctypes.c_int))


@cache
def _found() -> tuple[ctypes.CDLL, str] | None:
    for path, name in ((SYSTEM, SYSTEM), *_packaged()):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        if hasattr(library, "tj3SetCroppingRegion"):
            return _declared(library), name
    return None


def _packaged() -> list[tuple[str, str]]:
    """Return path and version of the libraries in the package `turbojpeg`; its module, which cannot read boxes, stays unloaded."""
    try:
        listed = files("turbojpeg") or ()
    except PackageNotFoundError:
        return []
    return [(str(path.locate()), version("turbojpeg")) for path in listed if path.name.startswith("libturbojpeg")]


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    data = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
    library.tj3Init.argtypes, library.tj3Init.restype = (ctypes.c_int,), ctypes.c_void_p
    library.tj3Set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    library.tj3DecompressHeader.argtypes = data
    library.tj3SetCroppingRegion.argtypes = (ctypes.c_void_p, _Region)
    library.tj3Decompress8.argtypes = (*data, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    library.tj3Destroy.argtypes, library.tj3Destroy.restype = (ctypes.c_void_p,), None
    return library


def library_version() -> str | None:
    """Return the version of the package that brings the library, or the name of the system's own; None where there is none."""
    found = _found()
    return None if found is None else found[1]


def decode_box(data: bytes, box: tuple[int, int, int, int], size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Return the pixels of a box, shape (height, width, 3); None at the library's first complaint about the rows down to there.

    Args:
        data: the file, or as much of its beginning as the box needs.
        box: left, top, right, bottom.
        size: width and height of the image.
    """
    found = _found()
    if found is None:
        return None
    library = found[0]
    # The upsampling of colours looks one pixel beyond the box, so that it is read with a margin.
    left, top = max(0, box[0] - 1) // ALIGN * ALIGN, max(0, box[1] - 1)
    width, height = min(size[0], box[2] + ALIGN) - left, min(size[1], box[3] + ALIGN) - top
    pixels = np.empty((height, width, 3), np.uint8)
    handle = library.tj3Init(_DECOMPRESS)
    try:
        failed = (
            library.tj3Set(handle, _STOP_ON_WARNING, 1)
            or library.tj3DecompressHeader(handle, data, len(data))
            or library.tj3SetCroppingRegion(handle, _Region(left, top, width, height))
            or library.tj3Decompress8(handle, data, len(data), pixels.ctypes.data, 0, _RGB)
        )
    finally:
        library.tj3Destroy(handle)
    return None if failed else pixels[box[1] - top : box[3] - top, box[0] - left : box[2] - left]
