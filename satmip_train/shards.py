"""Read a shard directory: what `dataset.json` says, and where the bytes of a sample lie in its tar."""

import errno
import hashlib
import json
import mmap
import os
import re
import resource
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
from satmip_schemas import SCHEMA_VERSION, first_error

from satmip_train.errors import UsageError
from satmip_train.remote import is_remote, reaching

_BLOCK = 512
_MEMBER = re.compile(r"^((?:.*/|)[^./]+)\.([^/]*)$")
_DOWNLOADS = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of a shard directory, as `dataset.json` lists it."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `<key>.num.npy` or `<key>.cat.npy`."""

    name: str
    field: str
    cardinality: int
    """Categories with the unknown one (code 0); 0 for a numeric column."""
    mean: float = 0.0
    """Of a numeric column: what was subtracted, in the column's unit."""
    std: float = 1.0
    """Of a numeric column: what was divided by, in the column's unit."""
    values: tuple[str, ...] = ()
    """Of a categorical column: code i + 1 stands for value i."""
    known: int = 0
    """Of a numeric column: the samples that it was known of when it was standardized."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A complete shard directory."""

    root: str
    """Local path or fsspec URL."""
    cache: Path
    """Where shards of a remote directory are kept."""
    splits: dict[str, int]
    """Samples of each split."""
    shards: tuple[Shard, ...]
    numeric: tuple[Column, ...]
    categorical: tuple[Column, ...]
    caption_fields: tuple[str, ...]
    caption_style: str
    longest_caption: int | None
    """Tokens of the longest caption with start and end; None where the build had no tokenizer."""
    empty_captions: int
    """Samples of all splits whose caption is the empty string."""
    mean: tuple[float, float, float]
    """Of each channel of the train chips, in 0..1."""
    std: tuple[float, float, float]
    classes: tuple[str, ...]
    size: tuple[int, int] | None
    """(width, height) of every chip in pixels; None where chips keep sizes of their own."""
    source: str = ""
    """Name of the source that the shards were built from, as "fmow"."""
    licence: str = ""
    """Of the source."""

    @property
    def fingerprint(self) -> str:
        """The sha256 over the names and hashes of all shards: equal shards, equal fingerprint."""
        return hashlib.sha256("\n".join(f"{s.name} {s.sha256}" for s in self.shards).encode()).hexdigest()

    def split(self, name: str) -> tuple[Shard, ...]:
        """Return the shards of a split, in order.

        Raises:
            UsageError: there is no such split, or it holds no sample.
        """
        if not self.splits.get(name):
            raise UsageError(
                f"the split must be one of {[s for s, n in self.splits.items() if n]}, however: {name!r} in {self.root}"
            )
        return tuple(shard for shard in self.shards if shard.split == name)

    def path(self, shard: Shard) -> Path:
        """Return a local path of a shard; a remote one is fetched into the cache first.

        Raises:
            UsageError: what was fetched is not what `dataset.json` lists.
        """
        if not is_remote(self.root):
            return Path(self.root) / shard.name
        target = self.cache / f"{shard.sha256}.tar"
        if not (target.exists() and target.stat().st_size == shard.bytes):
            _fetch(f"{self.root}/{shard.name}", shard, target)
        return target

    def fetch(self, split: str) -> None:
        """Bring all shards of a split to this machine, several at a time; does nothing for a local directory."""
        if is_remote(self.root):
            with ThreadPoolExecutor(_DOWNLOADS) as pool:
                list(pool.map(self.path, self.split(split)))


def open_dataset(path: str | Path, cache_dir: str | Path | None = None) -> Dataset:
    """Open a shard directory by local path or fsspec URL and check that it is complete.

    Shards of a remote directory are fetched when first needed, into `cache_dir` (by default the user's cache).

    Raises:
        UsageError: there is no such folder, the build is unfinished, captions are being rewritten, `dataset.json` is of another
            version or damaged, or a shard is missing or has another size than listed.
    """
    root = str(path).removeprefix("file://").rstrip("/") or "/"
    with reaching(root):
        data = _read_dataset(root)
    cache = Path(cache_dir) if cache_dir is not None else _user_cache()
    dataset = _dataset(data, root, cache)
    if not is_remote(root):
        _check_sizes(dataset)
    return dataset


def _read_dataset(root: str) -> dict[str, Any]:
    fs, location = fsspec.core.url_to_fs(root)
    if not fs.exists(f"{location}/dataset.json"):
        if not fs.exists(location):
            raise UsageError(
                f"shards must be in a folder that `satmip-data build` wrote, however: there is no {root}. Pass the path of one"
            )
        raise UsageError(
            f"a shard directory must hold dataset.json, which a build writes last, however: there is none in {root}. "
            "Run the same `satmip-data build` again: it goes on where it stopped. Or pass the path of another folder"
        )
    if fs.exists(f"{location}/.caption"):
        raise UsageError(
            f"the shards must be at rest, however: their captions are being rewritten ({root}/.caption exists). "
            "Run the same `satmip-data caption` again: it goes on where it stopped"
        )
    return _checked(fs.cat_file(f"{location}/dataset.json"), root)


def _checked(content: bytes, root: str) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except ValueError as error:
        raise UsageError(f"{root}/dataset.json must be JSON, however: {error}. Run `satmip-data build` again") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{root} must be a shard directory of version {SCHEMA_VERSION}, however: {version=}. "
            "Build it again with this version of satmip-data, or install the satmip that wrote it"
        )
    if (problem := first_error("dataset", data)) is not None:
        raise UsageError(f"{root}/dataset.json must follow its schema, however: {problem}. Run `satmip-data build` again")
    return dict(data)


def _dataset(data: dict[str, Any], root: str, cache: Path) -> Dataset:
    longest, caption, channels = data["caption"]["longest"], data["caption"], data["channels"]
    return Dataset(
        root=root,
        cache=cache,
        splits={name: split["samples"] for name, split in data["splits"].items()},
        shards=tuple(Shard(e["name"], e["split"], e["samples"], e["bytes"], e["sha256"]) for e in data["shards"]),
        numeric=tuple(Column(c["name"], c["field"], 0, c["mean"], c["std"], known=c["known"]) for c in data["numeric"]),
        categorical=tuple(
            Column(c["name"], c["field"], len(c["values"]) + 1, values=tuple(c["values"])) for c in data["categorical"]
        ),
        caption_fields=tuple(caption["fields"]),
        caption_style=caption["style"],
        longest_caption=None if longest is None else longest["tokens"],
        empty_captions=caption["empty"],
        mean=tuple(channels["mean"]),
        std=tuple(channels["std"]),
        classes=tuple(data["classes"]),
        size=None if data["size"] is None else tuple(data["size"]),
        source=data["source"]["name"],
        licence=data["source"]["licence"],
    )


def _check_sizes(dataset: Dataset) -> None:
    for shard in dataset.shards:
        path = Path(dataset.root) / shard.name
        found = path.stat().st_size if path.exists() else None
        if found != shard.bytes:
            evidence = "it is missing" if found is None else f"it has {found}"
            raise UsageError(
                f"{path} must have {shard.bytes} bytes, however: {evidence}. Copy the shard again, or run `satmip-data build` again"
            )


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "satmip" / "shards"


def _chunks(url: str) -> Iterator[bytes]:
    with reaching(url), fsspec.open(url, "rb") as source:
        while chunk := source.read(1 << 22):
            yield chunk


def _fetch(url: str, shard: Shard, target: Path) -> None:
    """Copy a remote shard under a temporary name, check it, and rename it, so that a file under its final name is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".part")
    try:
        digest, size = hashlib.sha256(), 0
        with os.fdopen(handle, "wb") as out:
            for chunk in _chunks(url):
                digest.update(chunk)
                size += out.write(chunk)
        if (size, digest.hexdigest()) != (shard.bytes, shard.sha256):
            raise UsageError(
                f"{url} must have {shard.bytes} bytes and sha256 {shard.sha256}, however: {size=}, {digest.hexdigest()}. "
                "Copy the shard there again"
            )
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


class ShardReader:
    """Random access to the samples of one tar: its headers are walked once, then a member is a slice of the mapped file.

    Members are grouped into samples by key, the name up to the first dot of its last part, as webdataset does.

    Raises:
        UsageError: the tar is gone or damaged, or its samples are not as many as listed.
    """

    def __init__(self, path: Path, samples: int) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            advice = "Copy the shard or build it again"
            if getattr(error, "errno", None) == errno.EMFILE:
                advice = "Raise the limit (ulimit -n), or build with more --samples-per-shard"
            raise UsageError(f"{path} must be readable, however: {error}. {advice}") from error
        self.keys: list[str] = []
        rows: list[dict[str, tuple[int, int]]] = []
        try:
            for name, start, size in tar_members(self._data):
                if (match := _MEMBER.match(name)) is None:
                    continue
                key, suffix = match.groups()
                if not self.keys or key != self.keys[-1]:
                    self.keys.append(key)
                    rows.append({})
                rows[-1][suffix.lower()] = (start, size)
        except ValueError as error:
            raise UsageError(f"{path} must be a whole tar of files, however: {error}. Copy the shard or build it again") from error
        if len(self.keys) != samples or len(set(self.keys)) != samples:
            found = f"{len(self.keys)} samples of {len(set(self.keys))} keys"
            raise UsageError(f"{path} must hold {samples} samples, however: {found}. Copy the shard or build it again")
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
            raise UsageError(f"every sample must have a .{suffix} member, however: {self.keys[index]!r} in {self.path} has none")
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
            self._open[number] = ShardReader(self._dataset.path(shard), shard.samples)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        # A file that is mapped in one process cannot be sent to another.
        return {**self.__dict__, "_open": {}}
