"""Facts about a JPEG from its bytes, before a pixel is decoded: its frame, whether its scan is complete, where to stop. Pure."""

import struct
from dataclasses import dataclass

import numpy as np

END = b"\xff\xd9"
BLOCK = 1 << 16
"""Bytes that `unbroken` looks at in one step: they stay in the cache of the processor."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Header of a JPEG, down to its first scan."""

    marker: int
    """The second byte of the frame's marker, which is the kind of coding: 0xC0 is baseline."""
    position: int
    """Position of the two bytes of the height."""
    bits: int
    width: int
    height: int
    sampling: tuple[tuple[int, int], ...]
    """Horizontal and vertical sampling factor of each component."""
    scanned: int
    """Components of the first scan."""
    scan: int
    """Position where the coded pixels of the first scan begin."""
    restarts: bool
    """The scans hold restart markers."""

    @property
    def sequential(self) -> bool:
        """Whether its rows come one after the other: Huffman-coded, 8 bits, all components in one scan."""
        return self.marker in (0xC0, 0xC1) and self.bits == 8 and self.scanned == len(self.sampling)

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
            height, width = struct.unpack_from(">HH", body, 1)
            return Frame(kind, start + 1, body[0], width, height, sampling, segment[0], position + 2 + length, restarts)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            body, start, kind = segment, position + 4, marker
        elif marker == 0xDD:
            restarts = any(segment)
        position += 2 + length
    return None


def unbroken(data: bytes, frame: Frame) -> bool:
    """Tell whether nothing but coded pixels, and restart markers where there are any, stands between the scan's start and the end.

    Such a file is never found truncated or broken behind the rows that are decoded, so that they alone give its verdict.
    """
    if not data.endswith(END):
        return False
    scan = np.frombuffer(data, np.uint8, offset=min(frame.scan, len(data) - len(END)))[: -len(END)]
    for start in range(0, len(scan), BLOCK):
        part = scan[start : start + BLOCK + 1]  # with the first byte of the next
        stray = (part[:-1] == 0xFF) & (part[1:] != 0)
        if np.any(stray) and not (frame.restarts and np.all((part[1:][stray] & 0xF8) == 0xD0)):
            return False
    return len(scan) == 0 or scan[-1] != 0xFF


def cut_below(data: bytes, bottom: int) -> bytes | bytearray:
    """Return the JPEG with a smaller height in its header, so that decoding stops below row `bottom`; the rows above stay exact.

    Only sequential Huffman-coded JPEGs of one scan that end as they should are changed: all others come back as they are, so that
    a truncated file is still found to be truncated. One row of MCUs more than the window needs is kept, because the upsampling of
    colours looks at the row below.
    """
    frame = read_frame(data)
    if frame is None or not frame.sequential or not data.endswith(END):
        return data
    mcu = 8 * max((vertical for _, vertical in frame.sampling), default=1)
    rows = (-(-bottom // mcu) + 1) * mcu
    return data if rows >= frame.height else frame.with_height(data, rows)
