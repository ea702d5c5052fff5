"""Whether a PNG holds all its rows: a stream that ends early but whole is no error to Pillow, which leaves the rest black. Pure."""

import zlib

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Type of colour -> numbers a pixel."""
_PASSES = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
"""Of interlaced pictures: first column and step, first row and step."""
_STEP = 1 << 20
"""Bytes that are unpacked at a time."""


def lacks_rows(data: bytes) -> bool:
    """Tell whether the stream of a PNG, which has a valid header, ends before its last row."""
    compressed, header = b"", b""
    position = 8
    while position + 8 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        content = data[position + 8 : position + 8 + length]
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            compressed += content
        position += length + 12
    missing, stream = _bytes_of_rows(header), zlib.decompressobj()
    while missing > 0 and not stream.eof and compressed:
        missing -= len(stream.decompress(compressed, min(missing, _STEP)))
        compressed = stream.unconsumed_tail
    return missing > 0


def _bytes_of_rows(header: bytes) -> int:
    """Return the bytes of all rows unpacked: each has one before it that says how it is coded."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * _CHANNELS[header[9]]
    passes = _PASSES if header[12] else ((0, 1, 0, 1),)
    sizes = ((-(-(width - left) // across), -(-(height - top) // down)) for left, across, top, down in passes)
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
