"""Loader processes: batches of decoded samples in a given order."""

import atexit
import multiprocessing
import shutil
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapStyle

from satmip_train.data.captions import CaptionReader
from satmip_train.data.dataset import Dataset
from satmip_train.data.decoder import Batch, Decoder
from satmip_train.data.memory import memory_in_use
from satmip_train.data.order import HIDE, PARTNER, Order, positions
from satmip_train.data.places import Places
from satmip_train.data.tar import Readers
from satmip_train.errors import UsageError


class TrainingStream(MapStyle[Batch]):
    """A rank's batches by global step, so that one loader serves a whole run and a resumed run just starts at its step."""

    def __init__(
        self,
        readers: Readers,
        order: Order,
        decoder: Decoder,
        places: Places | None = None,
        strangers: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """`places`, those of the split, are needed where the decoder's keys hold "partner".

        `strangers` are the numbers of the samples whose metadata each sample gets, see `Places.strangers`; None: its own.
        """
        self._readers, self._order, self._decoder, self._places = readers, order, decoder, places
        self._strangers = strangers

    def __getitem__(self, step: int) -> Batch:
        share = self._order.share(step)
        partners = () if self._places is None else self._places.partners(share, self._order.draws(step, PARTNER)[:, 0])
        records = None
        if self._strangers is not None:
            starts = np.cumsum([0, *self._order.counts])
            records = positions(self._readers, self._strangers[starts[share[:, 0]] + share[:, 1]])
        hiding = self._decoder.hiding
        hidden = None if hiding is None else hiding.hidden(self._order.draws(step, HIDE, len(hiding.fields)))
        return self._decoder.batch(self._readers, share, partners, hidden, records)


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
        _ErrorsAsItems(stream),
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
        raise UsageError(f"{_death(str(error))} Use fewer --workers, or 0, and run the same command again.") from error


def _death(reason: str) -> str:
    """Return how a process of a loader died, from what torch says of it: the name of the signal, or its exit code."""
    if "Bus error" in reason:  # a page of shared memory could not be had
        room = shutil.disk_usage("/dev/shm")
        use = f"{room.used / 1e9:.1f} of {room.total / 1e9:.1f} GB in use"
        return f"A data worker was killed, since shared memory ran out (/dev/shm: {use})."
    if "Killed" in reason or "exited unexpectedly" in reason:  # torch tells the signal only where it comes to ask in time
        return f"A data worker was killed, probably because memory ran out ({memory_in_use()})."
    return f"A data worker ended: {' '.join(reason.split()).rstrip('.')}."


class _ErrorsAsItems(MapStyle[Batch | UsageError]):
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
