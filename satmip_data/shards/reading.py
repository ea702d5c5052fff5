"""A finished shard directory, for use from Python: splits, index, samples."""

import io
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from satmip_data.errors import ShardError
from satmip_data.metadata.serialize import sample_from_json
from satmip_data.names import counted
from satmip_data.records import Metadata, Sample
from satmip_data.shards.dataset import CAPTION_JOURNAL, read_dataset
from satmip_data.shards.members import Members
from satmip_data.shards.tar import read_samples
from satmip_data.storage.parquet import read_parquet
from satmip_data.storage.store import Store

_KEPT = 2


@dataclass(frozen=True, slots=True, eq=False)
class ShardSample:
    """One sample of a shard: what the trainer reads of it, decoded."""

    image: Image.Image
    """The chip, RGB."""
    caption: str
    """Empty where the metadata know none of its fields."""
    record: Sample
    """Key, split, place, class, window, scene and footprint."""
    numeric: npt.NDArray[np.float32]
    """(F,), standardized numbers of the columns of `Shards.numeric`; 0 where missing."""
    mask: npt.NDArray[np.bool_]
    """(F,), True where the number is known."""
    categorical: npt.NDArray[np.int64]
    """(C,), codes of the columns of `Shards.categorical`; 0 is unknown."""

    @property
    def key(self) -> str:
        """Its name, unique in the directory."""
        return self.record.key

    @property
    def metadata(self) -> Metadata:
        """Of the chip."""
        return self.record.metadata

    @property
    def category(self) -> str | None:
        """Its class; None where it has none, or several (`record.labels`)."""
        return self.record.category


@dataclass(frozen=True)
class Split(Sequence[ShardSample]):
    """The samples of a split in stored order, read when they are asked for.

    Iterating reads each shard once; the last few shards that were read are kept in memory.
    """

    name: str
    _store: Store
    _shards: tuple[tuple[str, int], ...]
    """Name and samples of each."""
    _kept: OrderedDict[str, list[Members]] = field(default_factory=OrderedDict, repr=False, compare=False)

    def __len__(self) -> int:
        return sum(samples for _, samples in self._shards)

    @overload
    def __getitem__(self, index: int) -> ShardSample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ShardSample]: ...
    def __getitem__(self, index: int | slice) -> ShardSample | Sequence[ShardSample]:
        """Return a sample, or a list of them.

        Raises:
            IndexError: there is none of this number.
            ShardError: its shard is damaged.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        left = index + len(self) if index < 0 else index
        if left >= 0:
            for name, samples in self._shards:
                if left < samples:
                    return self._read(name, left)
                left -= samples
        raise IndexError(f"The split {self.name} has {counted(len(self), 'sample')}, so there is no sample {index}.")

    def __iter__(self) -> Iterator[ShardSample]:
        for name, samples in self._shards:
            for number in range(samples):
                yield self._read(name, number)

    def _read(self, name: str, number: int) -> ShardSample:
        try:
            return _decode(self._members(name)[number])
        except ShardError:
            raise
        except Exception as error:  # tarfile, Pillow and numpy raise many kinds on broken bytes
            raise ShardError(
                f"Cannot read sample {number} of {self._store.path(name)}: {error}. Copy the shard again; "
                "satmip-data validate finds all that are damaged."
            ) from error

    def _members(self, name: str) -> list[Members]:
        if name not in self._kept:
            while len(self._kept) >= _KEPT:
                self._kept.popitem(last=False)
            self._kept[name] = [members for _, members in read_samples(self._store.read(name))]
        self._kept.move_to_end(name)
        return self._kept[name]


def _decode(members: Members) -> ShardSample:
    with Image.open(io.BytesIO(members["jpg"])) as image:
        image.load()
        arrays = (np.load(io.BytesIO(members[f"{name}.npy"]), allow_pickle=False) for name in ("num", "mask", "cat"))
        return ShardSample(image.convert("RGB"), members["txt"].decode(), sample_from_json(json.loads(members["json"])), *arrays)


@dataclass(frozen=True)
class Shards(Mapping[str, Split]):
    """A finished shard directory: a mapping of its splits by name."""

    path: str
    """A folder of this machine or an fsspec URL."""
    dataset: dict[str, Any] = field(repr=False)
    """Its `dataset.json`: source, settings, classes, columns, statistics, shards."""

    @property
    def splits(self) -> dict[str, int]:
        """How many samples each split has."""
        return {name: split["samples"] for name, split in self.dataset["splits"].items()}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where samples have no labels."""
        return tuple(self.dataset["classes"])

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names of the columns of `ShardSample.numeric`."""
        return tuple(column["name"] for column in self.dataset["numeric"])

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the columns of `ShardSample.categorical`."""
        return tuple(column["name"] for column in self.dataset["categorical"])

    @cached_property
    def index(self) -> pd.DataFrame:
        """A row a sample, in stored order: names, window, the 15 fields of chip and scene, footprint.

        It is a `geopandas.GeoDataFrame` where geopandas is installed; else `geometry` holds WKB. EPSG:4326.
        """
        return _frame(self._table("index.parquet"))

    @cached_property
    def rejects(self) -> pd.DataFrame:
        """A row for every scene or box that gave no sample, with the reason."""
        return self._table("rejects.parquet")

    def __getitem__(self, name: str) -> Split:
        """Return a split.

        Raises:
            KeyError: there is none of this name.
        """
        if name not in self.splits:
            near = get_close_matches(name, self.splits, 1)
            raise KeyError(f"no split {name}" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(self.splits)}"))
        shards = tuple((entry["name"], entry["samples"]) for entry in self.dataset["shards"] if entry["split"] == name)
        return Split(name, Store(self.path), shards)

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)

    def _table(self, name: str) -> pd.DataFrame:
        frame: pd.DataFrame = read_parquet(Store(self.path).read(name)).to_pandas()
        return frame


def _frame(table: pd.DataFrame) -> pd.DataFrame:
    try:
        import geopandas
    except ImportError:
        return table
    frame: pd.DataFrame = geopandas.GeoDataFrame(table, geometry=geopandas.GeoSeries.from_wkb(table["geometry"]), crs="EPSG:4326")
    return frame


def open_shards(path: str | Path) -> Shards:
    """Open a shard directory that `satmip_data.build` or `satmip-data build` has finished.

    Args:
        path: a folder or any fsspec URL

    Raises:
        BuildError: there is no finished build.
        ShardError: its captions are being rewritten.
    """
    store = Store(str(path))
    dataset = read_dataset(store)
    if store.exists(CAPTION_JOURNAL):
        raise ShardError(f"The captions of {path} are half rewritten. Run the same satmip-data caption again: it finishes them.")
    return Shards(str(path), dataset)
