"""The memory that a step will take, found before anything large is allocated.

A step is taken by tensors that have a shape and hold no numbers (torch's fake tensors), of the whole batch: it costs a second or
two, and counts each tensor that would be alive at the same time. On a CPU this matters most: there the system ends a process that
takes too much without a word.
"""

import weakref
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from satmip_train.config import Settings, resolve
from satmip_train.data.decoder import Batch
from satmip_train.data.places import Places
from satmip_train.data.tar import Readers
from satmip_train.distributed import alone
from satmip_train.errors import UsageError
from satmip_train.objectives import build_objective
from satmip_train.objectives.base import Objective
from satmip_train.training.batches import free_memory
from satmip_train.training.micro_batch import micro_batched
from satmip_train.training.plan import RunPlan
from satmip_train.training.state import adapt

_PREFETCHED = 2
"""Batches that each loader process makes ahead, as torch does by default."""
_PARTS = 4
"""More parts than these are not walked through: each takes a second, and what they add grows evenly."""
_SPARE, _LIBRARIES = 1.1, 150_000_000
"""Memory that the libraries use themselves: a share, and bytes; measured on a CPU (docs/benchmarks.md, memory)."""


@dataclass(frozen=True)
class StepMemory:
    """Memory of training on one rank, in bytes, besides the networks themselves."""

    optimizer: int
    """Averages that the optimizer keeps."""
    buckets: int
    """Gradients that DistributedDataParallel keeps from step to step; 0 for a single rank."""
    step: int
    """The most that is alive at one time in a step: batch, activations, gradients."""
    waiting: int
    """Batches that loader processes hold ready."""

    @property
    def total(self) -> int:
        """All of it."""
        return round((self.optimizer + self.buckets + self.step + self.waiting) * _SPARE) + _LIBRARIES


def check_memory(plan: RunPlan, restored: bool = False) -> int:
    """Refuse a run whose steps do not fit into the memory that is free; its networks must be on the device already.

    Args:
        restored: whether what the optimizer keeps is there already

    Returns:
        the bytes that training will take on this rank; 0 where that cannot be told beforehand

    Raises:
        UsageError: it does not fit; the message says what would.
    """
    if plan.compiled and plan.job.device.type == "cuda":
        return 0  # compiled networks take less, how much only their compiler knows, and a GPU that is full says so
    estimate = _Estimate(plan, restored)
    try:
        needed = estimate.needed(plan.settings)
    except UsageError:
        raise
    except Exception:  # a network that asks for a number of a tensor cannot be walked through without numbers
        needed = 0
    if plan.job.all_agree(needed <= estimate.free):
        return needed
    raise UsageError(estimate.refusal(needed))


class _Estimate:
    def __init__(self, plan: RunPlan, restored: bool) -> None:
        self._plan, self._restored = plan, restored
        self.free = free_memory(plan.job)

    @cached_property
    def _one(self) -> Batch:
        """A batch of one sample, for its shapes."""
        plan = self._plan
        metadata = {"numeric", "mask", "categorical"} if plan.decoder.captions is None else {"tokens"}
        decoder = replace(plan.decoder, keys=frozenset({"image", "place", "location"} | metadata), hiding=None)
        return decoder.batch(Readers(plan.dataset, plan.settings.split), [(0, 0)])

    def needed(self, settings: Settings) -> int:
        """Return the bytes that a run with other settings of its batch would need on this rank."""
        rows, part = settings.batch_size // self._plan.job.ranks, settings.micro_batch
        if part is None or rows <= _PARTS * part:
            return self._walk(settings, rows).total
        few, more = (self._walk(settings, n * part).total for n in (_PARTS // 2, _PARTS))
        return more + (more - few) * (rows - _PARTS * part) // (_PARTS * part - _PARTS // 2 * part)

    def _walk(self, settings: Settings, rows: int) -> StepMemory:
        job, one = self._plan.job, self._one
        objective = _networks(settings, self._plan)
        learning = sum(p.nbytes for p in objective.parameters() if p.requires_grad)
        mode = FakeTensorMode()
        objective._apply(mode.from_tensor)  # type: ignore[no-untyped-call]
        live = _Live([tensor.untyped_storage() for tensor in (*objective.parameters(), *objective.buffers())])
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._plan.precision)
        with alone(), mode, live:
            shapes = {key: one["image" if key == "partner" else key] for key in {*objective.batch_keys, *objective.view_sources}}
            batch: dict[str, Any] = {k: torch.empty((rows, *v.shape[1:]), dtype=v.dtype) for k, v in shapes.items()}
            size = sum(tensor.nbytes for tensor in batch.values())
            side = settings.view_size
            views = tuple(torch.empty((rows, 3, side, side)) for _ in objective.view_sources)
            with sdpa_kernel(SDPBackend.MATH) if settings.attention == "math" else nullcontext():
                with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                    loss = objective({**batch, "views": views})["loss"]
                loss.backward()
        averages = 0 if self._restored else (1 if settings.optimizer == "sgd" else 2)
        return StepMemory(
            optimizer=averages * learning,
            buckets=learning if job.ranks > 1 else 0,
            step=live.peak,
            waiting=_PREFETCHED * settings.workers * size if job.device.type == "cpu" else 0,
        )

    def refusal(self, needed: int) -> str:
        """Return what to tell: how much is needed, how much is free, and what would fit."""
        settings, ranks = self._plan.settings, self._plan.job.ranks
        who = "This run needs" if ranks == 1 else f"Each of the {ranks} ranks needs"
        advice = [f"--batch-size {batch}"] if (batch := self._fitting_batch()) else []
        advice += [f"--micro-batch {part}"] if (part := self._fitting_part(needed)) else []
        advice += ["--recipe tiny"] if settings.backbone_args != resolve("tiny", {}).backbone_args else []
        use = _either(advice or ["a smaller --backbone"])
        return f"{who} about {_gigabytes(needed)} and {_gigabytes(self.free)} are free. Use {use}."

    def _fitting_batch(self) -> int | None:
        settings, ranks = self._plan.settings, self._plan.job.ranks
        rows = 1 << (settings.batch_size // ranks - 1).bit_length() - 1
        while rows * ranks >= 2:
            if self.needed(settings.model_copy(update={"batch_size": rows * ranks})) <= self.free:
                return rows * ranks
            rows //= 2
        return None

    def _fitting_part(self, needed: int) -> int | None:
        """Return rows for --micro-batch, beginning near what is left of a whole batch; None where that is none, or not possible."""
        settings = self._plan.settings
        rows = (settings.micro_batch or settings.batch_size // self._plan.job.ranks) // 2
        nearest = 1 << max(min(rows, rows * self.free // needed), 0).bit_length()
        try:
            for part in (nearest // 2, nearest // 4, nearest // 8):
                if part and self.needed(settings.model_copy(update={"micro_batch": part})) <= self.free:
                    return part
        except UsageError:  # batch norms see whole batches
            pass
        return None


def _networks(settings: Settings, plan: RunPlan) -> Objective:
    """Return networks like those of the run; their numbers do not matter."""
    try:
        with torch.random.fork_rng(devices=[]):
            objective = build_objective(settings.model_copy(update={"init": "random", "init_heads": None}), plan.shape)
        objective.fit(lambda: _some_places(settings.geo_clusters))
        adapt(objective, settings)
        if settings.micro_batch is not None:
            micro_batched(objective, settings.micro_batch)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return objective


def _some_places(count: int) -> Places:
    locations = np.linspace(-89, 89, 2 * count).reshape(count, 2)
    return Places(np.array([0, count]), np.arange(count), locations)


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as they live."""

    def __init__(self, known: list[torch.UntypedStorage]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = {storage._cdata for storage in known}
        self._now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self._now -= size


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.{0 if size >= 1e10 else 1}f} GB"


def _either(options: list[str]) -> str:
    *others, last = options
    return f"{', '.join(others)}{',' if len(others) > 1 else ''} or {last}" if others else last
