"""Checks of PNGs that Pillow does not make: checksums, and whether all rows are there. Pure.

Pillow passes over the checksums of the coded pixels, and leaves black what a stream lacks that ends early but whole.
"""

import zlib
from collections.abc import Iterator

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Type of colour -> numbers a pixel."""
_PASSES = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
"""Of interlaced pictures: first column and step, first row and step."""
_STEP = 1 << 20
"""Bytes that are unpacked at a time."""


def breaks_checksum(data: bytes) -> bool:
    """Tell whether a chunk of a PNG that its pixels need does not fit its checksum: header, palette or coded pixels."""
    for start, end in _chunks(data):
        # A capital letter says that it is needed.
        if data[start : start + 1].isupper() and data[end : end + 4] != zlib.crc32(data[start:end]).to_bytes(4, "big"):
            return True
    return False


def lacks_rows(data: bytes) -> bool:
    """Tell whether the stream of a PNG, which has a valid header, ends before its last row."""
    compressed, header = b"", b""
    for start, end in _chunks(data):
        kind, content = data[start : start + 4], data[start + 4 : end]
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            compressed += content
    missing, stream = _bytes_of_rows(header), zlib.decompressobj()
    while missing > 0 and not stream.eof and compressed:
        missing -= len(stream.decompress(compressed, min(missing, _STEP)))
        compressed = stream.unconsumed_tail
    return missing > 0


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the kind of each chunk begins and its content ends; behind that stands its checksum."""
    position = 8
    while position + 8 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        yield position + 4, min(end, len(data))
        if data[position + 4 : position + 8] == b"IEND":
            return
        position = end + 4


def _bytes_of_rows(header: bytes) -> int:
    """Return the bytes of all rows unpacked: each has one before it that says how it is coded."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * _CHANNELS[header[9]]
    passes = _PASSES if header[12] else ((0, 1, 0, 1),)
    sizes = ((-(-(width - left) // across), -(-(height - top) // down)) for left, across, top, down in passes)
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
