"""Shard directories: `dataset.json`, and shards fetched to a local cache."""

import hashlib
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import satmip_schemas

from satmip_data.names import unknown_name
from satmip_train.data.remote import is_remote, reaching
from satmip_train.errors import UsageError

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
class FeatureColumn:
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
    numeric: tuple[FeatureColumn, ...]
    categorical: tuple[FeatureColumn, ...]
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
    kept: frozenset[str] | None = None
    """Keys of the samples of a part, see `part`; None where it holds every sample of its shards."""

    @property
    def fingerprint(self) -> str:
        """The sha256 over the names and hashes of all shards and what is kept of them: equal samples, equal fingerprint."""
        lines = [*(f"{s.name} {s.sha256}" for s in self.shards), *self._kept_digest]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def hashes(self, split: str) -> list[str]:
        """Return what tells the samples of a split from any others: the hashes of its shards and of what is kept of them."""
        return [*(shard.sha256 for shard in self.split(split)), *self._kept_digest]

    @property
    def _kept_digest(self) -> list[str]:
        return [] if self.kept is None else [hashlib.sha256("\n".join(sorted(self.kept)).encode()).hexdigest()]

    def part(self, name: str, keys: Mapping[str, Collection[str]]) -> "Dataset":
        """Return a part of these shards as a dataset of the one split `name`; nothing is copied.

        Columns, classes and channel statistics stay those of the whole.

        Args:
            name: of the split
            keys: of the samples that are kept, by the name of their shard
        """
        shards = tuple(replace(s, split=name, samples=len(keys[s.name])) for s in self.shards if keys.get(s.name))
        kept = frozenset(key for of_shard in keys.values() for key in of_shard)
        return replace(self, shards=shards, splits={name: sum(s.samples for s in shards)}, kept=kept)

    def split(self, name: str) -> tuple[Shard, ...]:
        """Return the shards of a split, in order.

        Raises:
            UsageError: there is no such split, or it holds no sample.
        """
        if not self.splits.get(name):
            filled = [split for split, samples in self.splits.items() if samples]
            raise UsageError(unknown_name("split", name, filled, self.root))
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
            raise UsageError(f"There is no folder {root}. Name one that satmip-data build wrote, such as --shards out/shards.")
        raise UsageError(
            f"{root} holds no dataset.json, which a build writes last: it is not finished, or no shard directory. Run the same "
            "satmip-data build again, which goes on where it stopped, or name another folder."
        )
    if fs.exists(f"{location}/.caption"):
        raise UsageError(
            f"The captions of {root} are half rewritten ({root}/.caption exists). Run the same satmip-data caption again, which "
            "goes on where it stopped."
        )
    try:
        data: dict[str, Any] = satmip_schemas.read_dataset(fs.cat_file(f"{location}/dataset.json"), f"{root}/dataset.json")
    except satmip_schemas.ContractError as error:
        raise UsageError(str(error)) from error
    return data


def _dataset(data: dict[str, Any], root: str, cache: Path) -> Dataset:
    longest, caption, channels = data["caption"]["longest"], data["caption"], data["channels"]
    return Dataset(
        root=root,
        cache=cache,
        splits={name: split["samples"] for name, split in data["splits"].items()},
        shards=tuple(Shard(e["name"], e["split"], e["samples"], e["bytes"], e["sha256"]) for e in data["shards"]),
        numeric=tuple(FeatureColumn(c["name"], c["field"], 0, c["mean"], c["std"], known=c["known"]) for c in data["numeric"]),
        categorical=tuple(
            FeatureColumn(c["name"], c["field"], len(c["values"]) + 1, values=tuple(c["values"])) for c in data["categorical"]
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
            evidence = "is missing" if found is None else f"has {found} bytes instead of {shard.bytes}"
            raise UsageError(f"{path} {evidence}. Copy the shard again, or run the same satmip-data build again.")


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
                f"{url} is damaged: it has {size} bytes with the SHA-256 {digest.hexdigest()[:12]}..., and dataset.json says "
                f"{shard.bytes} bytes, {shard.sha256[:12]}... Copy the shard there again."
            )
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
