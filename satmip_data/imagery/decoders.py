"""JPEG decoders, and the verdict on damaged data, which is the same for all of them.

Pillow decodes, or TurboJPEG where it gives the same pixels for this file, which its header decides. The verdict is libjpeg's, which
fills in what is damaged and warns; Pillow passes no warning on.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features

from satmip_data.errors import DataError, install
from satmip_data.imagery import turbojpeg
from satmip_data.imagery.jpeg import read_frame, unbroken

DECODERS = ("auto", "pillow", "turbojpeg")
"""Decoders to choose from; "auto" is turbojpeg where it is installed and exact."""

FORMER = ("simplejpeg", "pyvips")
"""Decoders of earlier versions, understood as "auto"."""

LARGE = 8_000_000
"""Pixels, 3 bytes each, that turbojpeg holds at most in order to judge a file while it reads a box of it."""

DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG file", "Inconsistent progression sequence")
"""How libjpeg's warnings of damaged data begin; others complain of headers that harm no pixel."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

_EXACT_FRAMES = (0xC0, 0xC1)
"""Huffman-coded JPEGs, baseline and extended, of one scan: their rows come one after the other."""
_EXACT_SAMPLING = (((1, 1),), ((1, 1), (1, 1), (1, 1)), ((2, 1), (1, 1), (1, 1)), ((2, 2), (1, 1), (1, 1)))
"""Grey, 4:4:4, 4:2:2 and 4:2:0, as horizontal and vertical factors; how others are enlarged depends on libjpeg's version."""


class DecoderError(DataError):
    """A decoder that cannot be had; the message says what to type."""


@dataclass(slots=True)
class Reading:
    """How images are decoded, and what was found."""

    decoder: str = "auto"
    keep_damaged: bool = False
    """Whether images with damaged data are read, too."""
    damage: str = ""
    """Damage found in the images read so far."""


_reading: ContextVar[Reading | None] = ContextVar("reading", default=None)


def reading() -> Reading:
    """Return how images are decoded now."""
    return _reading.get() or Reading()


@contextmanager
def using(name: str, keep_damaged: bool = False) -> Iterator[Reading]:
    """Decode by one of `DECODERS` while the block runs."""
    now = Reading(name, keep_damaged)
    token = _reading.set(now)
    try:
        yield now
    finally:
        _reading.reset(token)


def check(name: str) -> None:
    """Refuse a decoder that this machine does not have, or has with other pixels than Pillow's.

    Raises:
        DecoderError: it is not installed, or not exact here.
    """
    if name == "turbojpeg" and turbojpeg.library_version() is None:
        raise DecoderError(f"--decoder turbojpeg is not installed. Run: {install('turbojpeg')}")
    if name == "turbojpeg" and not _is_exact():
        raise DecoderError("--decoder turbojpeg gives other pixels than Pillow here. Use --decoder pillow.")


def decoder_info(name: str = "auto") -> dict[str, str]:
    """Return name and version of the decoder that `name` comes to here, of the one for all other files, and of the judge."""
    turbo = features.version("libjpeg_turbo")
    pillow = f"{PIL.__version__} (libjpeg-turbo {turbo})" if turbo else f"{PIL.__version__} (libjpeg {features.version('jpg')})"
    judge = {"verdict": f"simplejpeg {version('simplejpeg')}"}
    if name == "pillow" or not _is_exact():
        return {"name": "Pillow", "version": pillow, **judge}
    return {"name": "turbojpeg", "version": turbojpeg.library_version() or "", "otherwise": f"Pillow {pillow}", **judge}


def decode_fast(data: bytes, box: Box, prefix: bool = False) -> NDArray[np.uint8] | None:
    """Return the pixels of a box of a JPEG without damage, shape (height, width, 3); None where Pillow must decode it.

    Args:
        data: the file, whole or its first part.
        box: left, top, right, bottom.
        prefix: `data` is but the first part of a file that is known to end as it should; only the rows down to the box are judged.
    """
    frame = read_frame(data) if reading().decoder != "pillow" and _is_exact() else None
    if frame is None or not frame.sequential or frame.marker not in _EXACT_FRAMES or frame.sampling not in _EXACT_SAMPLING:
        return None
    if box[2] > frame.width or box[3] > frame.height or not (prefix or unbroken(data, frame)):
        return None
    size = (frame.width, frame.height)
    if prefix:
        return turbojpeg.decode_box(data, box, size)
    if (box[2] - box[0]) * (frame.height - box[1]) <= LARGE:
        pixels = turbojpeg.decode_box(data, (*box[:3], frame.height), size)
        return None if pixels is None else pixels[: box[3] - box[1]]
    last = turbojpeg.decode_box(data, (0, frame.height - 1, 1, frame.height), size)
    return None if last is None else turbojpeg.decode_box(data, box, size)


def damage(data: bytes) -> str:
    """Return libjpeg's first warning of damaged data in a JPEG; "" without one, or where this libjpeg reads no such file.

    All coded data are read, at an eighth of the size, which takes half the time of decoding.
    """
    import simplejpeg

    for colours in ("GRAY", "CMYK"):
        try:
            simplejpeg.decode_jpeg(data, colours, fastdct=True, fastupsample=True, min_height=1, min_width=1, strict=True)
            return ""
        except ValueError as error:
            if str(error).startswith(DAMAGE):
                return str(error)
    return ""


@cache
def _is_exact() -> bool:
    """Try turbojpeg, once a process: it is there, and boxes of small pictures come out as Pillow's, whatever its libjpeg."""
    if turbojpeg.library_version() is None:
        return False
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 67, 3), dtype=np.uint8))
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", subsampling=subsampling)
        whole = np.asarray(Image.open(stream))
        for box in ((0, 0, 67, 64), (0, 0, 67, 16), (33, 17, 50, 31), (16, 32, 67, 48)):
            pixels = turbojpeg.decode_box(stream.getvalue(), box, picture.size)
            if pixels is None or not np.array_equal(pixels, whole[box[1] : box[3], box[0] : box[2]]):
                return False
    return True
