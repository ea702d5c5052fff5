"""Who decodes a JPEG: Pillow, or a faster library where it gives the same pixels for this file, which its header decides.

The verdict on broken files is always Pillow's: what a faster library has anything to say about goes to Pillow instead.
"""

import importlib.util
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features

from satmip_data.errors import DataError
from satmip_data.imagery import turbojpeg
from satmip_data.imagery.jpeg import Frame, cut_below, read_frame, unbroken

BOX_DECODERS = ("turbojpeg", "pyvips")
"""The libraries that hold no more than the box they are asked for; "auto" takes the first that is there."""

DECODERS = ("auto", "pillow", "simplejpeg", *BOX_DECODERS)
"""What can be asked for; "auto" is the fastest that is installed and exact."""

LARGE = 8_000_000
"""Pixels down to the box's last row from which "auto" prefers pyvips to simplejpeg, which would hold them all, 3 bytes each."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

_EXACT_FRAMES = (0xC0, 0xC1, 0xC2)
"""Huffman-coded JPEGs, baseline, extended and progressive; arithmetic coding is not in every libjpeg."""
_EXACT_SAMPLING = (((1, 1),), ((1, 1), (1, 1), (1, 1)), ((2, 1), (1, 1), (1, 1)), ((2, 2), (1, 1), (1, 1)))
"""Grey, 4:4:4, 4:2:2 and 4:2:0, as horizontal and vertical factors; how others are enlarged depends on libjpeg's version."""

_chosen: ContextVar[str] = ContextVar("decoder", default="auto")


class DecoderError(DataError):
    """A decoder that cannot be had; the message says what to type."""


@contextmanager
def using(name: str) -> Iterator[None]:
    """Decode by one of `DECODERS` while the block runs."""
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def check(name: str) -> None:
    """Refuse a decoder that this machine does not have, or has with other pixels than Pillow's.

    Raises:
        DecoderError: it is not installed, or not exact here.
    """
    if name in ("auto", "pillow"):
        return
    if not _installed(name):
        raise DecoderError(f"--decoder {name} needs {name}, however: it is not installed. Type: pip install 'satmip[fast]'")
    if not _is_exact(name):
        raise DecoderError(f"--decoder {name} must give Pillow's pixels, however: it gives others here. Use --decoder pillow.")


def decoder_info(name: str = "auto") -> dict[str, str]:
    """Return name and version of the decoder that `name` comes to here, and of those that decode what that one does not."""
    turbo = features.version("libjpeg_turbo")
    pillow = f"{PIL.__version__} (libjpeg-turbo {turbo})" if turbo else f"{PIL.__version__} (libjpeg {features.version('jpg')})"
    first, *others = [(found, _version(found)) for found in _ladder(name)] + [("Pillow", pillow)]
    info = {"name": first[0], "version": first[1]}
    return {**info, "otherwise": ", ".join(f"{found} {known}" for found, known in others)} if others else info


def _ladder(name: str) -> list[str]:
    """Return the libraries that come before Pillow, and are exact: one of boxes at most, and simplejpeg."""
    if name == "pillow":
        return []
    if name != "auto":
        return [name] if _is_exact(name) else []
    boxes = next((found for found in BOX_DECODERS if _is_exact(found)), None)
    return [found for found in (boxes, "simplejpeg") if found is not None and _is_exact(found)]


def _installed(name: str) -> bool:
    return turbojpeg.library_version() is not None if name == "turbojpeg" else importlib.util.find_spec(name) is not None


def _version(name: str) -> str:
    return turbojpeg.library_version() or "" if name == "turbojpeg" else version(name)


def decode_fast(data: bytes, box: Box, prefix: bool = False) -> NDArray[np.uint8] | None:
    """Return the pixels of a box of a JPEG, shape (height, width, 3), without Pillow; None where Pillow must decode it.

    Args:
        data: the file, whole or its first part.
        box: left, top, right, bottom.
        prefix: `data` is but the first part of a file that is known to end as it should.
    """
    chosen = _chosen.get()
    names = _ladder(chosen)
    frame = read_frame(data) if names else None
    if frame is None or frame.marker not in _EXACT_FRAMES or frame.bits != 8 or frame.sampling not in _EXACT_SAMPLING:
        return None
    if box[2] > frame.width or box[3] > frame.height:
        return None
    slow = chosen == "auto" and names[0] == "pyvips" and frame.width * box[3] < LARGE
    if names[0] in BOX_DECODERS and not slow and frame.sequential and (prefix or unbroken(data, frame)):
        return _decode(names[0], data, box, frame)
    # Too short a prefix looks to simplejpeg like a truncated file.
    return _decode("simplejpeg", data, box, frame) if "simplejpeg" in names and not prefix else None


def _decode(name: str, data: bytes, box: Box, frame: Frame) -> NDArray[np.uint8] | None:
    if name == "turbojpeg":
        return turbojpeg.decode_box(data, box, (frame.width, frame.height))
    if name == "pyvips":
        return _pyvips(data, box)
    short = cut_below(data, box[3])
    if short is not data and frame.restarts:  # each restart marker below the cut is one more complaint
        return None
    pixels = _simplejpeg(short, short is not data)
    return None if pixels is None else pixels[box[1] : box[3], box[0] : box[2]]


@cache
def _vips() -> Any:
    """Return pyvips without its cache, its threads and its warnings."""
    os.environ.setdefault("VIPS_CONCURRENCY", "1")
    logging.getLogger("pyvips").propagate = False
    import pyvips

    pyvips.cache_set_max(0)
    return pyvips


def _pyvips(data: bytes, box: Box) -> NDArray[np.uint8] | None:
    """Return the pixels of the box, of which no more than some rows are held; None at the first complaint about those above."""
    vips, (left, top, right, bottom) = _vips(), box
    try:
        image = vips.Image.jpegload_buffer(data, access="sequential", fail_on="warning")
        found = image.crop(left, top, right - left, bottom - top).write_to_memory()
    except vips.Error:
        return None
    pixels = np.frombuffer(found, np.uint8).reshape(bottom - top, right - left, -1)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def _simplejpeg(data: bytes | bytearray, cut: bool) -> NDArray[np.uint8] | None:
    """Return the pixels; None at the first complaint of libjpeg, but for the one that a cut leads to by itself."""
    import simplejpeg

    try:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        pixels = np.empty((height, width, 3), np.uint8)
        simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, buffer=pixels, strict=True)
    except ValueError as error:
        # Behind the last row libjpeg skips what was cut, and says so. Only its first complaint is told: if it is this one, every
        # row was decoded without any, and the file's end was found. The pixels stand in the buffer by then.
        if not (cut and str(error).endswith("extraneous bytes before marker 0xd9")):
            return None
    return pixels


@cache
def _is_exact(name: str) -> bool:
    """Try it, once a process: it is installed, and boxes of small pictures come out as Pillow's, whatever its libjpeg."""
    if not _installed(name):
        return False
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 67, 3), dtype=np.uint8))
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", subsampling=subsampling)
        data = stream.getvalue()
        frame = read_frame(data)
        assert frame is not None
        whole = np.asarray(Image.open(stream))
        for box in ((0, 0, 67, 64), (0, 0, 67, 16), (33, 17, 50, 31), (16, 32, 67, 48)):
            pixels = _decode(name, data, box, frame)
            if pixels is None or not np.array_equal(pixels, whole[box[1] : box[3], box[0] : box[2]]):
                return False
    return True
