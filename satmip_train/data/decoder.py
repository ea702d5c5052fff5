"""Decoding of samples into the tensors of a batch."""

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import get_worker_info

from satmip_data.errors import cause
from satmip_data.names import FORMATS, unknown_name
from satmip_train.data.captions import CaptionReader
from satmip_train.data.dataset import Dataset
from satmip_train.data.metadata_mask import Hidden, MetadataMask
from satmip_train.data.order import Position
from satmip_train.data.tar import Readers, ShardReader
from satmip_train.errors import UsageError

Batch = dict[str, Any]
METADATA = frozenset({"tokens", "numeric", "mask", "categorical"})
"""Keys of a batch that hold what a sample's record says."""
Value = TypeVar("Value")
DEFAULT_COLUMN_FIELDS = ("gsd", "timestamp", "location")


@dataclass(frozen=True)
class Decoder:
    """What of a sample is read: `image`, `label`, `labels`, `key`, and what an objective asks for.

    Keys:
        image: (B, 3, H, W) uint8, in channels-last memory
        partner: the like, of another sample of the same place
        tokens: (B, context) int64
        numeric, mask: (B, F) float32, bool; the columns of the chosen fields
        categorical: (B, C) int64
        place: (B,) int64, a hash of the place's name
        location: (B, 2) float32, longitude and latitude in degrees, NaN where unknown
        label: (B,) int64, -1 where there is none
        labels: (B, classes) uint8, 1 for each class of a sample, in multi-label sets
        key: list of B strings
    """

    keys: frozenset[str]
    captions: CaptionReader | None = None
    numeric: tuple[int, ...] = ()
    categorical: tuple[int, ...] = ()
    hiding: MetadataMask | None = None
    """What of the metadata training hides."""

    def batch(
        self,
        readers: Readers,
        positions: Iterable[Position],
        partners: Iterable[Position] = (),
        hidden: Hidden | None = None,
        records: Iterable[Position] | None = None,
    ) -> Batch:
        """Decode the samples at the given (shard, index) positions.

        Args:
            partners: positions of their partners, where these are asked for
            hidden: (B, fields), the fields that `hiding` leaves out of each sample's metadata
            records: positions of the samples whose metadata they get; None: their own

        Raises:
            UsageError: a sample lacks a member or holds a damaged one, or the chips differ in size.
        """
        samples, others = _samples(readers, positions), _samples(readers, partners)
        told = samples if records is None else _samples(readers, records)
        decoded = {
            key: getattr(self, f"_{key}")(told if key in METADATA else samples) for key in sorted(self.keys - {"partner", "tokens"})
        }
        if "tokens" in self.keys:
            decoded["tokens"] = self._tokens(told, hidden)
        if "partner" in self.keys:
            decoded["partner"] = self._image(others)
        return decoded if hidden is None or self.hiding is None else self.hiding.hide(decoded, hidden)

    def _image(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        chips = None
        for row, (reader, index) in enumerate(samples):
            chip = _decode(reader, index)
            if chips is None:
                chips = _pixels((len(samples), *chip.shape))
            if chips.shape[1:] != chip.shape:
                found = f"{chips.shape[2]} x {chips.shape[1]} and {chip.shape[1]} x {chip.shape[0]}"
                raise UsageError(
                    f"The chips of a batch have several sizes, {found} ({reader.keys[index]} in {reader.path}). Build the shards "
                    "with a fixed --size."
                )
            chips[row] = torch.from_numpy(chip)
        assert chips is not None
        # Decoders give rows of pixels; permuting the strides saves a copy.
        return chips.permute(0, 3, 1, 2)

    def _tokens(self, samples: list[tuple[ShardReader, int]], hidden: Hidden | None) -> torch.Tensor:
        assert self.captions is not None
        without = [()] * len(samples) if hidden is None else hidden.tolist()
        texts = (self.captions.text(partial(r.read, i), out) for (r, i), out in zip(samples, without, strict=True))
        return torch.from_numpy(np.stack([self.captions.tokens(text) for text in texts]))

    def _numeric(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        return _columns(samples, "num.npy", self.numeric)

    def _mask(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        return _columns(samples, "mask.npy", self.numeric)

    def _categorical(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        return _columns(samples, "cat.npy", self.categorical)

    def _place(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        return torch.tensor(_parsed(samples, "json", lambda text: place_id(json.loads(text)["place"])))

    def _location(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        locations = _parsed(samples, "json", lambda text: json.loads(text)["metadata"]["location"] or (math.nan, math.nan))
        return torch.tensor(locations, dtype=torch.float32)

    def _label(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        labelled = [sample for sample in samples if sample[0].find(sample[1], "cls") is not None]
        labels = dict(zip(labelled, _parsed(labelled, "cls", int), strict=True))
        return torch.tensor([labels.get(sample, -1) for sample in samples])

    def _labels(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        return torch.from_numpy(np.stack(_arrays(samples, "labels.npy")))

    def _key(self, samples: list[tuple[ShardReader, int]]) -> list[str]:
        return [reader.keys[index] for reader, index in samples]


def _samples(readers: Readers, positions: Iterable[Position]) -> list[tuple[ShardReader, int]]:
    return [(readers[int(shard)], int(index)) for shard, index in positions]


def place_id(place: str) -> int:
    """Return a stable 63-bit number for the name of a place."""
    return int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "big") >> 1


def _decode(reader: ShardReader, index: int) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(reader.read(index, "jpg")), formats=FORMATS) as image:
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        evidence = "it is of no known format" if isinstance(error, UnidentifiedImageError) else cause(error)
        raise UsageError(
            f"Cannot decode the chip {reader.keys[index]} in {reader.path}: {evidence}. Copy the shard again; satmip-data validate "
            "finds every damaged one."
        ) from error


def _pixels(shape: tuple[int, ...]) -> torch.Tensor:
    """Return bytes to be filled.

    A worker takes them from the memory that it shares with the main process, to which they go in any case: filled on its own heap,
    they were seen to make it grow with the shards that it opens.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]  # as default_collate does
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def _arrays(samples: list[tuple[ShardReader, int]], suffix: str) -> list[npt.NDArray[Any]]:
    return _parsed(samples, suffix, lambda content: np.load(io.BytesIO(content), allow_pickle=False))


def _parsed(samples: list[tuple[ShardReader, int]], suffix: str, parse: Callable[[bytes], Value]) -> list[Value]:
    """Return what `parse` makes of a member of each sample.

    Raises:
        UsageError: a sample lacks it, or it is damaged.
    """
    values = []
    for reader, index in samples:
        content = reader.read(index, suffix)
        try:
            values.append(parse(content))
        except Exception as error:  # numpy and json have many for damaged bytes
            raise UsageError(
                f"Cannot read {reader.keys[index]}.{suffix} in {reader.path}: {error}. Copy the shard again; "
                "`satmip-data validate` finds all that are damaged."
            ) from error
    return values


def _columns(samples: list[tuple[ShardReader, int]], suffix: str, columns: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.stack(_arrays(samples, suffix))[:, list(columns)])


def column_numbers(dataset: Dataset, fields: tuple[str, ...] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return which numeric and which categorical columns the given fields have (None: those of gsd, timestamp and location).

    Raises:
        UsageError: the shards have no column of a field.
    """
    chosen = DEFAULT_COLUMN_FIELDS if fields is None else fields
    known = {column.field for column in (*dataset.numeric, *dataset.categorical)}
    if missing := [name for name in chosen if name not in known]:
        raise UsageError(f"{unknown_name('field', missing[0], sorted(known), dataset.root)} Use other --fields, or build again.")
    numeric = tuple(i for i, column in enumerate(dataset.numeric) if column.field in chosen)
    return numeric, tuple(i for i, column in enumerate(dataset.categorical) if column.field in chosen)
