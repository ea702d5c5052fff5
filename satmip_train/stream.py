"""Shards to batches: which samples a step gets, and how they are decoded."""

import atexit
import hashlib
import io
import json
import math
import multiprocessing
import signal
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as MapStyle

from satmip_data.names import FORMATS
from satmip_train.errors import UsageError
from satmip_train.metadata_mask import Hidden, MetadataMask
from satmip_train.places import Places
from satmip_train.shards import Dataset, Readers, ShardReader
from satmip_train.tokens import CaptionReader

Batch = dict[str, Any]
Position = tuple[int, int]
DEFAULT_COLUMN_FIELDS = ("gsd", "timestamp", "location")
PARTNER, HIDE = 3, 4
"""Uses of the random numbers of a step, beside those of `train`."""


def epoch_order(counts: Sequence[int], seed: int, epoch: int, block: int) -> npt.NDArray[np.int64]:
    """Return the order of an epoch's samples as rows (shard, index in the shard): a pure function of its arguments.

    The shards are shuffled and taken in blocks of `block`; the samples of a block are permuted. So an epoch reads each sample
    once, and at any time only `block` shards are being read.

    Shape:
        return: (sum of `counts`, 2) int64
    """
    generator = np.random.default_rng((seed, epoch))
    shards = generator.permutation(len(counts))
    blocks = []
    for start in range(0, len(counts), block):
        rows = [np.stack([np.full(counts[s], s), np.arange(counts[s])], axis=1) for s in shards[start : start + block]]
        blocks.append(generator.permutation(np.concatenate(rows)))
    return np.concatenate(blocks).astype(np.int64)


_last_order = lru_cache(maxsize=1)(epoch_order)
"""Steps ask for the order of one epoch after another."""


@dataclass(frozen=True)
class Order:
    """Which samples each step of a run gets. The samples of an epoch that fill no batch are left out, other ones each epoch."""

    counts: tuple[int, ...]
    """Samples of each shard."""
    batch_size: int
    """Over all ranks."""
    seed: int
    block: int
    rank: int = 0
    ranks: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return sum(self.counts) // self.batch_size

    @property
    def dropped(self) -> int:
        """Samples of an epoch that fill no batch."""
        return sum(self.counts) % self.batch_size

    def share(self, step: int) -> npt.NDArray[np.int64]:
        """Return this rank's samples of a step. Shape: (batch_size / ranks, 2), rows (shard, index in the shard)."""
        epoch, step = divmod(step, self.steps_per_epoch)
        size = self.batch_size // self.ranks
        start = step * self.batch_size + self.rank * size
        return _last_order(self.counts, self.seed, epoch, self.block)[start : start + size]

    def draws(self, step: int, use: int, columns: int = 1) -> npt.NDArray[np.float64]:
        """Return random numbers for this rank's samples of a step, uniform in [0, 1).

        They are drawn for the global batch, so the number of ranks changes none. `use` (such as `PARTNER`) tells draws apart.

        Shape:
            return: (batch_size / ranks, columns)
        """
        size = self.batch_size // self.ranks
        drawn = np.random.default_rng((self.seed, step, use)).random((self.batch_size, columns))
        return drawn[self.rank * size : (self.rank + 1) * size]


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
        self, readers: Readers, positions: Iterable[Position], partners: Iterable[Position] = (), hidden: Hidden | None = None
    ) -> Batch:
        """Decode the samples at the given (shard, index) positions.

        Args:
            partners: positions of their partners, where these are asked for
            hidden: (B, fields), the fields that `hiding` leaves out of each sample's metadata

        Raises:
            UsageError: a sample lacks a member or holds a damaged one, or the chips differ in size.
        """
        samples, others = _samples(readers, positions), _samples(readers, partners)
        decoded = {key: getattr(self, f"_{key}")(samples) for key in sorted(self.keys - {"partner", "tokens"})}
        if "tokens" in self.keys:
            decoded["tokens"] = self._tokens(samples, hidden)
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
                    f"the chips of a batch must be of one size, however: {found} ({reader.keys[index]!r} in {reader.path}). "
                    "Build the shards with a fixed --size"
                )
            chips[row] = torch.from_numpy(chip)
        assert chips is not None
        # Decoders give rows of pixels; permuting the strides saves a copy.
        return chips.permute(0, 3, 1, 2)

    def _tokens(self, samples: list[tuple[ShardReader, int]], hidden: Hidden | None) -> torch.Tensor:
        assert self.captions is not None
        without = [()] * len(samples) if hidden is None else hidden.tolist()
        texts = (reader.read(index, "txt").decode() for reader, index in samples)
        return torch.from_numpy(np.stack([self.captions.tokens(text, out) for text, out in zip(texts, without, strict=True)]))

    def _numeric(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        return _columns(samples, "num.npy", self.numeric)

    def _mask(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        return _columns(samples, "mask.npy", self.numeric)

    def _categorical(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        return _columns(samples, "cat.npy", self.categorical)

    def _place(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        return torch.tensor([place_id(json.loads(reader.read(index, "json"))["place"]) for reader, index in samples])

    def _location(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        records = (json.loads(reader.read(index, "json")) for reader, index in samples)
        return torch.tensor([record["metadata"]["location"] or (math.nan, math.nan) for record in records], dtype=torch.float32)

    def _label(self, samples: list[tuple[ShardReader, int]]) -> torch.Tensor:
        return torch.tensor([int(reader.find(index, "cls") or -1) for reader, index in samples])

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
        evidence = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise UsageError(
            f"a chip must be an image, however: {reader.keys[index]!r} in {reader.path}: {evidence}. Copy the shard again; "
            "`satmip-data validate` finds all that are damaged"
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
    return [np.load(io.BytesIO(reader.read(index, suffix)), allow_pickle=False) for reader, index in samples]


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
        raise UsageError(
            f"the fields must be of {sorted(known)}, however: {missing}. Pass other --fields, or build the shards again"
        )
    numeric = tuple(i for i, column in enumerate(dataset.numeric) if column.field in chosen)
    return numeric, tuple(i for i, column in enumerate(dataset.categorical) if column.field in chosen)


class TrainingStream(MapStyle[Batch]):
    """A rank's batches by global step, so that one loader serves a whole run and a resumed run just starts at its step."""

    def __init__(self, readers: Readers, order: Order, decoder: Decoder, places: Places | None = None) -> None:
        """`places`, those of the split, are needed where the decoder's keys hold "partner"."""
        self._readers, self._order, self._decoder, self._places = readers, order, decoder, places

    def __getitem__(self, step: int) -> Batch:
        positions = self._order.share(step)
        partners = () if self._places is None else self._places.partners(positions, self._order.draws(step, PARTNER)[:, 0])
        hiding = self._decoder.hiding
        hidden = None if hiding is None else hiding.hidden(self._order.draws(step, HIDE, len(hiding.fields)))
        return self._decoder.batch(self._readers, positions, partners, hidden)


def positions(readers: Readers, samples: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where samples of a split lie, given their numbers in stored order. Shape: (n,) -> (n, 2), as `epoch_order`'s rows."""
    starts = np.cumsum([0, *(shard.samples for shard in readers.shards)])
    shards = np.searchsorted(starts, samples, side="right") - 1
    return np.stack([shards, samples - starts[shards]], axis=1)


class BatchesOf(MapStyle[Batch]):
    """Samples of a split, given by their numbers in stored order, in batches; the last one may be short."""

    def __init__(self, readers: Readers, decoder: Decoder, batch_size: int, samples: Sequence[int] | npt.NDArray[np.int64]) -> None:
        self._readers, self._decoder, self._batch_size, self._samples = readers, decoder, batch_size, samples

    def __len__(self) -> int:
        return -(-len(self._samples) // self._batch_size)

    def __getitem__(self, number: int) -> Batch:
        samples = self._samples[number * self._batch_size : (number + 1) * self._batch_size]
        return self._decoder.batch(self._readers, positions(self._readers, samples))


def ordered_batches(
    dataset: Dataset,
    split: str,
    keys: Collection[str],
    batch_size: int,
    workers: int = 0,
    *,
    captions: CaptionReader | None = None,
    columns: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
    pin: bool = False,
) -> Iterator[Batch]:
    """Return the batches of a split for evaluation: stored order, every sample once, the last batch short.

    `captions` (with its context) and `columns` (see `column_numbers`) are needed where the keys ask for tokens or columns; `pin`
    where the batches go to a GPU.
    """
    decoder = Decoder(frozenset(keys), captions, *columns)
    readers = Readers(dataset, split)
    stream = BatchesOf(readers, decoder, batch_size, range(sum(shard.samples for shard in readers.shards)))
    return loader(stream, range(len(stream)), workers, pin=pin)


def loader(stream: MapStyle[Batch], steps: range, workers: int, *, pin: bool = False) -> Iterator[Batch]:
    """Give the batches of the steps in order, made by `workers` processes (0: by this one).

    Raises:
        UsageError: what the stream raises, in its own words, also where another process met it; or that process was killed.
    """
    if workers:
        _end_workers_at_exit()
    batches = DataLoader(
        _Telling(stream),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_leave_signals_to_the_parent,
    )
    with loader_errors():
        for batch in batches:
            if isinstance(batch, UsageError):
                raise batch
            yield batch


@contextmanager
def loader_errors() -> Iterator[None]:
    """Tell what to do where a loader's process was killed; torch says it wherever this process happens to be, as a signal handler.

    Raises:
        UsageError: a process of a loader was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the processes that read shards must live, however: {reason} If memory or shared memory (/dev/shm) ran out, pass "
            "fewer --workers, or 0, and run the same command again"
        ) from error


class _Telling(MapStyle[Batch | UsageError]):
    """Gives what the user can put right instead of raising it, since a loader adds a traceback to what its processes raise."""

    def __init__(self, stream: MapStyle[Batch]) -> None:
        self._stream = stream

    def __getitem__(self, step: int) -> Batch | UsageError:
        try:
            return self._stream[step]
        except UsageError as error:
            return error


def _leave_signals_to_the_parent(_: int) -> None:
    """Ignore what asks the run to stop: the training process finishes its step and then ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@cache
def _end_workers_at_exit() -> None:
    """Kill the loader's processes that an error left, once for all loaders.

    Python ends them by SIGTERM when it exits, which they ignore, and would wait for them for ever.
    """
    atexit.register(_kill_daemons)


def _kill_daemons() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would call it an error
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
