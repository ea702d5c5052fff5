"""Random access to the samples of a tar."""

import errno
import mmap
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from satmip_data.errors import cause
from satmip_data.names import counted
from satmip_train.data.dataset import Dataset
from satmip_train.data.integrity import check_shard
from satmip_train.errors import UsageError

_BLOCK = 512
_MEMBER = re.compile(r"^((?:.*/|)[^./]+)\.([^/]*)$")


class ShardReader:
    """Random access to the samples of one tar: its headers are walked once, then a member is a slice of the mapped file.

    Members are grouped into samples by key, the name up to the first dot of its last part, as webdataset does.

    Args:
        path: of the tar
        samples: how many it holds, or how many of them are kept
        kept: keys of the samples that are given, others being passed over; None: all

    Raises:
        UsageError: the tar is gone or damaged, or its samples are not as many as listed.
    """

    def __init__(self, path: Path, samples: int, kept: frozenset[str] | None = None) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            advice = "Copy the shard or build it again"
            if getattr(error, "errno", None) == errno.EMFILE:
                advice = "Raise the limit (ulimit -n), or build with more --samples-per-shard"
            raise UsageError(f"Cannot read {path}: {cause(error)}. {advice}.") from error
        self.keys: list[str] = []
        rows: list[dict[str, tuple[int, int]]] = []
        try:
            for name, start, size in tar_members(self._data):
                if (match := _MEMBER.match(name)) is None:
                    continue
                key, suffix = match.groups()
                if kept is not None and key not in kept:
                    continue
                if not self.keys or key != self.keys[-1]:
                    self.keys.append(key)
                    rows.append({})
                rows[-1][suffix.lower()] = (start, size)
        except ValueError as error:
            raise UsageError(f"{path} is no whole tar: {cause(error)}. Copy the shard again, or build it again.") from error
        if len(self.keys) != samples or len(set(self.keys)) != samples:
            found = f"{counted(len(self.keys), 'sample')} of {counted(len(set(self.keys)), 'key')}"
            raise UsageError(f"{path} holds {found}; dataset.json says {samples}. Copy the shard again, or build it again.")
        self._tables = _tables(rows)

    def find(self, index: int, suffix: str) -> bytes | None:
        """Return a member of a sample by suffix; None where the sample has none."""
        table = self._tables.get(suffix)
        if table is None or table[index, 0] < 0:
            return None
        start, size = table[index]
        return self._data[start : start + size]

    def read(self, index: int, suffix: str) -> bytes:
        """Return a member of a sample by suffix.

        Raises:
            UsageError: the sample has no such member.
        """
        content = self.find(index, suffix)
        if content is None:
            raise UsageError(f"The sample {self.keys[index]} in {self.path} has no member .{suffix}. Build the shards again.")
        return content


def _tables(rows: list[dict[str, tuple[int, int]]]) -> dict[str, npt.NDArray[np.int64]]:
    """Return for each suffix an array (samples, 2) of offset and size; -1 where the sample has no such member."""
    suffixes = sorted({suffix for row in rows for suffix in row})
    return {suffix: np.array([row.get(suffix, (-1, -1)) for row in rows], np.int64) for suffix in suffixes}


def tar_members(data: mmap.mmap | bytes) -> Iterator[tuple[str, int, int]]:
    """Walk the headers of an uncompressed tar: name, offset and size in bytes of each regular file.

    Reads ustar with the long names of GNU tar and of pax.

    Raises:
        ValueError: the tar ends early, a header is damaged, or a member is neither file nor directory.
    """
    offset = 0
    extra: dict[str, str] = {}
    while header := data[offset : offset + _BLOCK]:
        if header.count(0) == _BLOCK:
            return
        kind, start, size = header[156:157], offset + _BLOCK, _number(header[124:136], offset)
        if kind in (b"0", b"\0"):
            size = int(extra.get("size", size))
        offset = start + (size + _BLOCK - 1) // _BLOCK * _BLOCK
        if offset > len(data):
            raise ValueError(f"it ends inside the member at byte {start}")
        if kind in (b"0", b"\0"):
            yield extra.get("path") or _ustar_name(header), start, size
            extra = {}
        elif kind == b"L":
            extra["path"] = data[start : start + size].rstrip(b"\0").decode()
        elif kind == b"x":
            extra.update(_pax(data[start : start + size]))
        elif kind not in (b"5", b"g"):
            raise ValueError(f"the member at byte {start} is of type {kind!r}")
    raise ValueError("it ends without an end-of-archive block")


def _number(text: bytes, offset: int) -> int:
    """Read a size: octal digits, or base 256 where the first bit is set (files of 8 GiB and more)."""
    if text[:1] >= b"\x80":
        return int.from_bytes(text[1:], "big")
    try:
        return int(text.rstrip(b"\0 ") or b"0", 8)
    except ValueError as error:
        raise ValueError(f"the header at byte {offset} is damaged") from error


def _ustar_name(header: bytes) -> str:
    name, prefix = header[:100].split(b"\0", 1)[0], header[345:500].split(b"\0", 1)[0]
    # Only POSIX ustar has a prefix; GNU tar keeps times there.
    posix = header[257:263] == b"ustar\0"
    return (prefix + b"/" + name if posix and prefix else name).decode()


def _pax(records: bytes) -> dict[str, str]:
    """Read the `length key=value` lines of a pax header."""
    found = {}
    while records:
        length, _, _ = records.partition(b" ")
        key, _, value = records[len(length) + 1 : int(length) - 1].partition(b"=")
        if not len(length) < int(length) <= len(records):
            raise ValueError(f"a pax header is damaged: {records!r}")
        found[key.decode()] = value.decode()
        records = records[int(length) :]
    return found


def _allow_open_files(more: int) -> None:
    """Let this process hold more open files, as far as the system lets it: a mapped shard is one, and 1,024 are a usual limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + more
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


class Readers:
    """The shards of a split by number; each is opened when first asked for, in the process that asks."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        self._dataset = dataset
        self.shards = dataset.split(split)
        _allow_open_files(len(self.shards))
        self._open: dict[int, ShardReader] = {}

    def __getitem__(self, number: int) -> ShardReader:
        if number not in self._open:
            shard = self.shards[number]
            path = self._dataset.path(shard)
            check_shard(self._dataset, shard, path)
            self._open[number] = ShardReader(path, shard.samples, self._dataset.kept)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        # A file that is mapped in one process cannot be sent to another.
        return {**self.__dict__, "_open": {}}
