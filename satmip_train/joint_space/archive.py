"""The records of a shard directory, as `audit` judges them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import fsspec

from satmip_data.metadata.serialize import metadata_from_json
from satmip_data.records import Metadata
from satmip_data.storage.parquet import read_parquet
from satmip_train.data.dataset import Dataset
from satmip_train.data.remote import reaching
from satmip_train.data.tar import Readers


@dataclass(frozen=True)
class Entry:
    """A sample without its picture."""

    key: str
    split: str
    shard: str
    index: int
    """Its number in the split, from 0."""
    place: str
    metadata: Metadata
    """Of the chip."""
    flags: tuple[str, ...] = ()
    """What the build's physical checks found odd, see `satmip_data.metadata.checks.FLAGS`."""


def read_entries(dataset: Dataset, splits: Sequence[str]) -> list[Entry]:
    """Read the records of some splits, in stored order.

    Raises:
        UsageError: there is no such split, or a sample has no record.
    """
    flags = _read_flags(dataset)
    return [entry for split in splits for entry in _entries(dataset, split, flags)]


def _entries(dataset: Dataset, split: str, flags: dict[str, tuple[str, ...]]) -> Iterable[Entry]:
    readers, number = Readers(dataset, split), 0
    for shard_number, shard in enumerate(readers.shards):
        reader = readers[shard_number]
        for row, key in enumerate(reader.keys):
            record = json.loads(reader.read(row, "json"))
            metadata = metadata_from_json(record["metadata"])
            yield Entry(key, split, shard.name, number, record["place"], metadata, flags.get(key, ()))
            number += 1


def _read_flags(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Return the flags of the samples that have some; none where there is no index, as beside shards of other programs."""
    path = f"{dataset.root}/index.parquet"
    with reaching(dataset.root):
        fs, location = fsspec.core.url_to_fs(path)
        if not fs.exists(location):
            return {}
        table = read_parquet(fs.cat_file(location), ["key", "flags"])
    return {key: tuple(found) for key, found in zip(table["key"].to_pylist(), table["flags"].to_pylist(), strict=True) if found}


def part_of(dataset: Dataset, entries: Iterable[Entry], name: str) -> Dataset:
    """Return the samples of the entries as a dataset of the one split `name`, see `Dataset.part`."""
    keys: dict[str, list[str]] = {}
    for entry in entries:
        keys.setdefault(entry.shard, []).append(entry.key)
    return dataset.part(name, keys)
