"""From the bytes of an image and a window to the chip's pixels, and to JPEG bytes again.

The pixels are those of Pillow's full decode, whatever is done to get them sooner.
"""

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from satmip_data.errors import cause
from satmip_data.imagery import decoders
from satmip_data.imagery.jpeg import cut_below
from satmip_data.imagery.png import breaks_checksum, lacks_rows
from satmip_data.names import FORMATS
from satmip_data.records import Window
from satmip_data.storage import limits
from satmip_data.storage.store import check_regular

MAX_PIXELS = 400_000_000
"""Default limit on the pixels of a raw image; the largest of fMoW has 16,288 x 16,291."""

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

_PILLOW_LIMIT = threading.Lock()


class ImageError(Exception):
    """An image gives no chip; `reason` is a code of `records.REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        """Keep the reason code beside the message."""
        super().__init__(reason, message)  # both, so that the error survives the way back from another process
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        """Return the message alone."""
        return self.message


def read_chip(
    data: bytes,
    window: Window,
    size: tuple[int, int],
    expected_size: tuple[int, int],
    max_pixels: int = MAX_PIXELS,
    prefix: bool = False,
) -> Image.Image:
    """Return the pixels of `window`, resized to `size` (width, height) by antialiased bicubic interpolation, as RGB, 8 bits.

    Palettes, grey, CMYK and YCbCr are converted; an alpha channel is dropped, not blended. The orientation that EXIF may ask for
    is not applied: boxes count pixels as they are stored.

    Args:
        data: the bytes of the file.
        window: what is read, inside the image.
        size: the chip's width and height.
        expected_size: width and height of the image as its metadata say.
        max_pixels: the largest number of pixels of an image that is decoded.
        prefix: `data` holds only the first bytes of a JPEG, which is known to end as it should.

    Raises:
        ImageError: `image_unreadable` (no image, truncated, a prefix too short, or more than 8 bits a channel), `image_damaged`,
            `image_too_large`, `size_mismatch`, or `image_empty` (every pixel of the window is 0).
        ValueError: the window does not lie inside `expected_size`.
    """
    right, bottom = window.x + window.width, window.y + window.height
    if right > expected_size[0] or bottom > expected_size[1]:
        inside = f"columns {window.x} to {right}, rows {window.y} to {bottom}"
        raise ValueError(f"The window ({inside}) reaches beyond its image of {expected_size[0]} x {expected_size[1]} pixels")
    pixels = _decode(data, (window.x, window.y, right, bottom), expected_size, max_pixels, prefix)
    if pixels.getbbox() is None:
        raise ImageError("image_empty", "The window is black: every pixel is 0")
    return pixels.resize(size, Image.Resampling.BICUBIC)


def image_size(image: bytes | str) -> tuple[int, int]:
    """Return width and height as the header of an image, its bytes or its path, says; of a file no more than that is read.

    Raises:
        ImageError: `image_unreadable`.
    """
    try:
        if isinstance(image, str):
            check_regular(image)
        stream = image if isinstance(image, str) else io.BytesIO(image)
        with _without_pillow_limit(), Image.open(stream, formats=FORMATS) as header:
            return header.size
    except Exception as error:  # on broken bytes Pillow's readers raise nearly anything
        raise ImageError("image_unreadable", f"Cannot read the image's header: {_evidence(error)}") from error


def _decode(
    data: bytes, box: tuple[int, int, int, int], expected_size: tuple[int, int], max_pixels: int, prefix: bool
) -> Image.Image:
    """Return the box (left, top, right, bottom) of the image as RGB."""
    try:
        header = _open(data)
        _check_header(header, data, expected_size, max_pixels)
        if header.format not in ("JPEG", "MPO"):
            part = _crop(header, box)
            _judge(damage(data, header))
            return part
        if (pixels := decoders.decode_fast(data, box, prefix)) is not None:
            return _image(pixels)
        if prefix:  # who else might decode it tells nothing of damage
            raise ImageError("image_unreadable", "The first part of the file gives no verdict on its data.")
        part = _crop(_open(cut_below(data, box[3])), box)
        _judge(damage(data, header))
        return part
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # on broken bytes Pillow's readers raise nearly anything
        raise ImageError("image_unreadable", f"Cannot decode the image: {_evidence(error)}") from error


def damage(data: bytes, image: Image.Image) -> str:
    """Return what is damaged of a JPEG, or damaged or missing of a PNG, that Pillow decodes nevertheless; "" where nothing is.

    Args:
        data: the whole file.
        image: the same, opened by Pillow; a PNG is loaded, too.
    """
    if image.format in ("JPEG", "MPO"):
        return decoders.damage(data)
    if image.format != "PNG":
        return ""
    if breaks_checksum(data):
        return "its checksum does not fit"
    return "rows are missing at its end" if _ends_black(image) and lacks_rows(data) else ""


def _judge(found: str) -> None:
    """Refuse an image whose data are damaged, unless such are kept."""
    reading = decoders.reading()
    if found and not reading.keep_damaged:
        raise ImageError("image_damaged", f"The image's data are damaged: {found}. Replace it, or add: --keep-damaged")
    reading.damage = reading.damage or found


def _ends_black(image: Image.Image) -> bool:
    """Tell whether one of the two last rows is 0, as those are that are missing."""
    rows = range(max(image.height - 2, 0), image.height)
    with _without_pillow_limit():  # Pillow asks it again of a crop
        return any(image.crop((0, row, image.width, row + 1)).getbbox() is None for row in rows)


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return pixels (H, W, 3), which may be part of longer rows, as an image: `Image.fromarray` would copy them once more."""
    height, width, row = *pixels.shape[:2], pixels.strides[0]
    bytes_of_rows = np.lib.stride_tricks.as_strided(pixels, ((height - 1) * row + width * 3,), (1,), writeable=False)
    return Image.frombytes("RGB", (width, height), bytes_of_rows.data, "raw", "RGB", row)


def _crop(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    image.load()
    with _without_pillow_limit():  # Pillow asks it again of a crop
        part = image.crop(box)
    part.info.pop("transparency", None)
    return part.convert("RGB")


def _evidence(error: Exception) -> str:
    """Return what an error says, without the address in memory that Pillow names: the same file gives the same words."""
    if isinstance(error, UnidentifiedImageError):
        return "it is none of " + ", ".join(FORMATS)
    return re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "the file", cause(error))


def too_large(what: str, width: int, height: int, max_pixels: int) -> str:
    """Return the message of an image or a window that has too many pixels."""
    return f"The {what} has {width} x {height} = {width * height:,} pixels; --max-pixels allows {max_pixels:,}"


def other_size(found: tuple[int, int], expected: tuple[int, int]) -> str:
    """Return the message of an image that has not the size its metadata say."""
    return f"The image has {found[0]} x {found[1]} pixels; its metadata say {expected[0]} x {expected[1]}"


def _open(data: bytes | bytearray) -> Image.Image:
    with _without_pillow_limit():
        return Image.open(io.BytesIO(data), formats=FORMATS)


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lift Pillow's limit on pixels, which counts for the whole process, while the block runs; ours is `max_pixels`."""
    with _PILLOW_LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_header(image: Image.Image, data: bytes, expected_size: tuple[int, int], max_pixels: int) -> None:
    """Refuse by the header alone, before a pixel is decoded."""
    width, height = image.size
    if image.format == "JPEG":
        check_scans(data)
    if width * height > max_pixels:
        raise ImageError("image_too_large", too_large("image", width, height, max_pixels))
    if image.size != tuple(expected_size):
        raise ImageError("size_mismatch", other_size(image.size, expected_size))
    # Pillow would cut 16-bit colours down to 8 without a word; only the layout of the stored pixels tells.
    if image.mode not in MODES or any(";16" in repr(tile) for tile in getattr(image, "tile", ())):
        found = f"mode {image.mode}, stored as {_layout(image)}"
        raise ImageError("image_unreadable", f"The image has not 8 bits a channel ({found})")


def check_scans(data: bytes) -> None:
    """Refuse a JPEG that takes as long as very many.

    Raises:
        ImageError: `image_too_large`: it has more scans than the limit.
    """
    scans, most = data.count(b"\xff\xda"), limits.current().scans
    if scans > most:
        raise ImageError("image_too_large", f"The JPEG has {scans} scans, more than {most}. Write it again, or raise --max-scans.")


def _layout(image: Image.Image) -> str:
    return ", ".join(sorted({str(tile[3]) for tile in getattr(image, "tile", ())}))


def encode_jpeg(image: Image.Image, quality: int = 95, subsampling: str = "4:4:4") -> bytes:
    """Return the image as a baseline JPEG without metadata: the same pixels give the same bytes with one version of libjpeg."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling=subsampling, comment=b"")
    return stream.getvalue()
