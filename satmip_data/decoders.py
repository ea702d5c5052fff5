"""Who decodes a JPEG: Pillow, or a faster library where it gives the same pixels for this file, which its header decides.

The verdict on broken files is always Pillow's: what a faster library has anything to say about goes to Pillow instead.
"""

import importlib.util
import io
import struct
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

DECODERS = ("auto", "pillow", "simplejpeg")
"""What can be asked for; "auto" is the fastest that is installed and exact."""

_EXACT_FRAMES = (0xC0, 0xC1, 0xC2)
"""Huffman-coded JPEGs, baseline, extended and progressive; arithmetic coding is not in every libjpeg."""
_EXACT_SAMPLING = (((1, 1),), ((1, 1), (1, 1), (1, 1)), ((2, 1), (1, 1), (1, 1)), ((2, 2), (1, 1), (1, 1)))
"""Grey, 4:4:4, 4:2:2 and 4:2:0, as horizontal and vertical factors; how others are enlarged depends on libjpeg's version."""

_chosen: ContextVar[str] = ContextVar("decoder", default="auto")


class DecoderError(Exception):
    """A decoder that cannot be had; the message says what to type."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the header of a JPEG says, down to its first scan."""

    marker: int
    """The second byte of the frame's marker, which is the kind of coding: 0xC0 is baseline."""
    position: int
    """Where the two bytes of the height stand."""
    bits: int
    height: int
    sampling: tuple[tuple[int, int], ...]
    """Horizontal and vertical sampling factor of each component."""
    scanned: int
    """Components of the first scan."""
    restarts: bool
    """The scans hold restart markers."""

    def with_height(self, data: bytes, rows: int) -> bytearray:
        """Return the file with another height in its header."""
        changed = bytearray(data)
        struct.pack_into(">H", changed, self.position, rows)
        return changed


def read_frame(data: bytes | bytearray) -> Frame | None:
    """Return the frame of a JPEG; None where there is none before the first scan."""
    body: bytes | bytearray = b""
    start, kind, restarts, position = 0, 0, False, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        segment = data[position + 4 : position + 2 + length]
        if marker == 0xDA:
            if len(body) < 6 or not segment:
                return None
            sampling = tuple((factors >> 4, factors & 15) for factors in body[7::3])
            return Frame(kind, start + 1, body[0], int.from_bytes(body[1:3], "big"), sampling, segment[0], restarts)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            body, start, kind = segment, position + 4, marker
        elif marker == 0xDD:
            restarts = any(segment)
        position += 2 + length
    return None


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
    if name == "simplejpeg" and importlib.util.find_spec("simplejpeg") is None:
        raise DecoderError("--decoder simplejpeg needs simplejpeg, however: it is not installed. Type: pip install 'satmip[fast]'")
    if name == "simplejpeg" and not _simplejpeg_is_exact():
        raise DecoderError("--decoder simplejpeg must give Pillow's pixels, however: it gives others here. Use --decoder pillow.")


def decoder_info(name: str = "auto") -> dict[str, str]:
    """Return name and version of the decoder that `name` comes to here, and of Pillow, which decodes what that one does not."""
    turbo = features.version("libjpeg_turbo")
    jpeg = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"
    pillow = f"{PIL.__version__} ({jpeg})"
    if name == "pillow" or not _simplejpeg_is_exact():
        return {"name": "Pillow", "version": pillow}
    return {"name": "simplejpeg", "version": version("simplejpeg"), "otherwise": f"Pillow {pillow}"}


def decode_fast(data: bytes | bytearray, cut: bool) -> NDArray[np.uint8] | None:
    """Return a JPEG's pixels, shape (height, width, 3), without Pillow; None where Pillow must decode it.

    Args:
        data: the whole file, never a prefix: too short a prefix looks like a truncated file.
        cut: the height in the header was made smaller (see `Frame.with_height`).
    """
    if _chosen.get() == "pillow" or not _simplejpeg_is_exact():
        return None
    frame = read_frame(data)
    if frame is None or frame.marker not in _EXACT_FRAMES or frame.bits != 8 or frame.sampling not in _EXACT_SAMPLING:
        return None
    if cut and frame.restarts:  # each restart marker below the cut is one more complaint
        return None
    return _simplejpeg(data, cut)


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
def _simplejpeg_is_exact() -> bool:
    """Try it, once a process: it is installed, and small pictures, whole and cut, come out as Pillow's, whatever its libjpeg."""
    if importlib.util.find_spec("simplejpeg") is None:
        return False
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 37, 3), dtype=np.uint8))
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", subsampling=subsampling)
        data = stream.getvalue()
        frame = read_frame(data)
        assert frame is not None
        for cut in (False, True):
            tried = frame.with_height(data, 32) if cut else data
            pixels = _simplejpeg(tried, cut)
            if pixels is None or not np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(tried)))):
                return False
    return True
