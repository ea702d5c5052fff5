"""Limits for one file of an archive: small files that unpack to gigabytes, or take minutes, are refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


class Readable(Protocol):
    """A stream of bytes, such as a `gzip.GzipFile`."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a build; what exceeds one is a reject, or an error where it is a table or an archive itself."""

    unpacked: int = 2000
    """Megabytes of a file that is unpacked into memory: a member of an archive, a compressed table."""
    scans: int = 100
    """Scans of a JPEG; each takes as long as a whole image, and programs write ten."""
    windows: int = 100_000
    """Windows on the grid of one raster."""


DEFAULT = Limits()
_current = DEFAULT


def current() -> Limits:
    """Return the limits that hold in this process."""
    return _current


@contextmanager
def using(limits: Limits) -> Iterator[None]:
    """Have limits hold in this process while the block runs."""
    global _current
    before, _current = _current, limits
    try:
        yield
    finally:
        _current = before


def check_unpacked(name: str, size: int) -> None:
    """Refuse a file of `size` bytes that is too large to be unpacked into memory.

    Raises:
        OSError: it is.
    """
    if size > _current.unpacked * 1_000_000:
        raise OSError(f"{name} unpacks to more than {_current.unpacked:,} MB. Unpack it first, or raise --max-unpacked.")


def unpack(name: str, stream: Readable) -> bytes:
    """Return the bytes of a stream that unpacks a file.

    Raises:
        OSError: they are too many.
    """
    data = stream.read(_current.unpacked * 1_000_000 + 1)
    check_unpacked(name, len(data))
    return data
