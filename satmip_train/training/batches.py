"""The batches of a run: decoded from the shards as they are needed, or taken from a split held on the device.

Both give the same samples in the same order with the same views, so a run may change from one to the other when it goes on.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from satmip_train.data import transfer
from satmip_train.data.decoder import METADATA, Batch
from satmip_train.data.loader import TrainingStream, loader, ordered_batches
from satmip_train.data.memory import available_memory
from satmip_train.data.order import PARTNER
from satmip_train.data.places import Places, read_places
from satmip_train.data.tar import Readers
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.training.plan import RunPlan

DEVICE_SHARE, MEMORY_SHARE = 0.4, 0.25
"""The largest part of a GPU's or of the machine's free memory that a split takes by itself."""
_DECODE = 256
"""Samples that a loader process decodes at a time."""


@dataclass(frozen=True)
class DataPath:
    """Source of the batches, and the reason for it."""

    resident: bool
    reason: str

    def __str__(self) -> str:
        return f"{'resident' if self.resident else 'stream'}: {self.reason}"


def choose(plan: RunPlan, step: int, needed: int = 0) -> DataPath:
    """Decide where batches come from, the same on every rank; the networks must be on the device already.

    Args:
        step: steps done
        needed: bytes that the steps will take beside the networks, see `step_memory.check_memory`

    Raises:
        UsageError: a resident split was asked for and does not fit.
    """
    if plan.settings.data == "stream":
        return DataPath(False, "asked for")
    if plan.decoder.hiding is not None:
        return DataPath(False, "metadata are read anew each time, to hide some")
    samples, (width, height) = sum(plan.order.counts), plan.dataset.size or (0, 0)
    size, free = samples * width * height * 3, max(free_memory(plan.job) - needed, 0)
    share = DEVICE_SHARE if plan.job.device.type == "cuda" else MEMORY_SHARE
    sizes = f"the split is {size / 1e9:,.2f} GB, {free / 1e9:,.1f} GB are free on {plan.job.device} beside the steps"
    if plan.settings.data == "resident":
        if not plan.job.all_agree(size < free):
            raise UsageError(f"--data resident does not fit into memory: {sizes}, for each rank. Use --data stream.")
        return DataPath(True, f"asked for; {sizes}")
    if plan.last_step - step <= plan.order.steps_per_epoch:
        return DataPath(False, "each sample is read once at most")
    fits = plan.job.all_agree(size <= share * free)
    each = " on each rank" if plan.job.ranks > 1 else ""
    return DataPath(fits, f"{sizes}{each}, of which it takes {share:.0%} at most")


def free_memory(job: Job) -> int:
    """Return the free bytes of the GPU, or this rank's part of the memory that its machine, or its container, can still give."""
    if job.device.type == "cuda":
        return int(torch.cuda.mem_get_info(job.device)[0])
    return available_memory() // job.ranks_on_machine


def batches(plan: RunPlan, keys: frozenset[str], steps: range, path: DataPath, progress: Callable[[int], None]) -> Iterable[Batch]:
    """Return this rank's batches of the steps, on a GPU where there is one.

    Args:
        keys: what a batch holds, see `stream.Decoder`
        progress: told of the samples that became resident, each time some did
    """
    places = read_places(plan.dataset, plan.settings.split) if "partner" in keys else None
    strangers = _strangers(plan) if keys & METADATA else None
    trim, device = plan.settings.trim_tokens, plan.job.device
    if path.resident:
        split = Resident(plan, keys, places, progress, strangers)
        return (split.batch(step) for step in steps)
    readers = Readers(plan.dataset, plan.settings.split)
    stream = TrainingStream(readers, plan.order, replace(plan.decoder, keys=keys), places, strangers)
    streamed = loader(stream, steps, plan.settings.workers, pin=device.type == "cuda")
    trimmed = (_trimmed(batch) for batch in streamed) if trim else streamed
    return transfer.ahead(trimmed, device) if device.type == "cuda" else trimmed


def _strangers(plan: RunPlan) -> npt.NDArray[np.int64] | None:
    if not plan.settings.shuffle_metadata:
        return None
    try:
        return read_places(plan.dataset, plan.settings.split).strangers(plan.settings.seed)
    except ValueError as error:
        raise UsageError(str(error)) from error


def trimmed_width(longest: int, context: int) -> int:
    """Return the columns that token rows need whose longest has `longest` ids: a multiple of 8, at most the context."""
    return min(-(-longest // 8) * 8, context)


def lengths(tokens: Tensor) -> Tensor:
    """Return the places up to the last id of each row: a 0 before it is CLIP's id of "!" in "?!?". Shape: (B, L) -> (B,)."""
    return torch.where(tokens != 0, torch.arange(1, tokens.shape[1] + 1), 0).amax(1)


def _trimmed(batch: Batch) -> Batch:
    if "tokens" not in batch:
        return batch
    tokens = batch["tokens"]
    width = trimmed_width(int(lengths(tokens).max()), tokens.shape[1])
    # Contiguous, since a copy to a GPU of anything else would be made dense in memory that is not pinned.
    return {**batch, "tokens": tokens[:, :width].contiguous()}


class Resident:
    """Every sample of a split, decoded once by the loader's processes and kept on the device."""

    def __init__(
        self,
        plan: RunPlan,
        keys: frozenset[str],
        places: Places | None,
        progress: Callable[[int], None],
        strangers: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Decode the split. `keys`: what a batch holds; `places` are needed where that is "partner"; see `TrainingStream`."""
        self._order, self._places, self._keys, self._strangers = plan.order, places, keys, strangers
        self._device, self._trim = plan.job.device, plan.settings.trim_tokens
        self._starts = np.cumsum([0, *plan.order.counts])
        self._values: dict[str, Any] = {}
        self._lengths = np.zeros(self._starts[-1], np.int64)
        decoder, start = plan.decoder, 0
        columns = decoder.numeric, decoder.categorical
        stored = (keys - {"partner"}) | {"image", "key"}
        for batch in ordered_batches(
            plan.dataset, plan.settings.split, stored, _DECODE, plan.settings.workers, captions=decoder.captions, columns=columns
        ):
            self._keep(start, batch)
            start += len(batch["key"])
            progress(len(batch["key"]))

    def _keep(self, start: int, batch: Batch) -> None:
        if "tokens" in batch:
            # On the host, so that a batch is cut to its longest caption without asking the device.
            self._lengths[start : start + len(batch["key"])] = lengths(batch["tokens"])
        for name, value in batch.items():
            if not isinstance(value, Tensor):
                self._values.setdefault(name, []).extend(value)
                continue
            # Chips stay rows of pixels in memory, as they were decoded.
            rows = value.permute(0, 2, 3, 1) if name == "image" else value
            if name not in self._values:
                self._values[name] = torch.empty((int(self._starts[-1]), *rows.shape[1:]), dtype=rows.dtype, device=self._device)
            self._values[name][start : start + len(rows)] = rows

    def batch(self, step: int) -> Batch:
        """Return what `TrainingStream` gives for this step, with its tensors on the device."""
        positions = self._order.share(step)
        rows = self._rows(positions)
        taken: Batch = {"key": [self._values["key"][row] for row in rows]}
        index = self._index(rows)
        told = rows if self._strangers is None else self._strangers[rows]
        record = index if self._strangers is None else self._index(told)
        for name in self._keys - {"key", "partner"}:
            taken[name] = self._values[name].index_select(0, record if name in METADATA else index)
        if self._places is not None:
            partners = self._places.partners(positions, self._order.draws(step, PARTNER)[:, 0])
            taken["partner"] = self._values["image"].index_select(0, self._index(self._rows(partners)))
        for name in ("image", "partner"):
            if name in taken:
                taken[name] = taken[name].permute(0, 3, 1, 2)
        if self._trim and "tokens" in taken:
            taken["tokens"] = taken["tokens"][:, : trimmed_width(int(self._lengths[told].max()), taken["tokens"].shape[1])]
        return taken

    def _rows(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return where samples lie in stored order. Shape: (B, 2) -> (B,)."""
        rows: npt.NDArray[np.int64] = self._starts[positions[:, 0]] + positions[:, 1]
        return rows

    def _index(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return transfer.to_device(torch.from_numpy(rows), self._device)
