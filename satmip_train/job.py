"""The processes of a run: which device this one has, which rank it is, and whether the run was asked to stop."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from satmip_train.errors import UsageError

Decision = TypeVar("Decision")


@dataclass(frozen=True, slots=True)
class Job:
    """This process among those of a run."""

    device: torch.device
    rank: int = 0
    ranks: int = 1
    first_on_machine: bool = True
    ranks_on_machine: int = 1
    patient: Any = None
    """The group in which ranks wait for one that works alone, longer than collectives may take."""

    @property
    def main(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.ranks > 1:
            dist.barrier(self.patient)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over the ranks."""
        if self.ranks > 1:
            dist.all_reduce(values)
        return values / self.ranks

    def all_agree(self, answer: bool) -> bool:
        """Return whether every rank answers yes."""
        if self.ranks == 1:
            return answer
        votes = torch.tensor(int(answer))
        dist.all_reduce(votes, dist.ReduceOp.MIN)
        return bool(votes)

    def decided(self, decide: Callable[[], Decision]) -> Decision:
        """Return what the main rank decides, on every rank.

        Raises:
            UsageError: it could not, on the others; on the main rank whatever `decide` raises.
        """
        if self.ranks == 1:
            return decide()
        told: list[Decision | None] = [None]
        try:
            if self.main:
                told = [decide()]
        finally:  # also where it fails, so that no rank waits for it
            dist.broadcast_object_list(told, 0, self.patient)
        if told[0] is None:
            raise UsageError("the main rank must decide for all, however: it failed. Its own message says why")
        return told[0]

    def same(self, number: int) -> bool:
        """Return whether every rank has the same number."""
        if self.ranks == 1:
            return True
        ends = torch.tensor([number, -number])
        dist.all_reduce(ends, dist.ReduceOp.MIN)
        return bool(ends[0] == -ends[1])


@contextmanager
def join_job(device: str = "auto") -> Iterator[Job]:
    """Join the run that torchrun's environment describes (without one: a run of its own) and leave it at the end.

    Args:
        device: "auto" (a GPU where there is one) or a torch device such as "cpu"

    Raises:
        UsageError: there is no such device.
    """
    ranks, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        # By default torch rounds the factors of float32 convolutions to TF32, though not those of products.
        torch.backends.cudnn.allow_tf32 = False
    if ranks == 1:
        yield Job(chosen)
        return
    # CPU tensors (the agreement to stop) go over gloo, also on GPUs.
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
        # A rank may fetch a split for hours, while by default the others give up after half an hour.
        patient = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        yield Job(chosen, dist.get_rank(), ranks, local == 0, here, patient)
    finally:
        dist.destroy_process_group()


def _device(name: str, local: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{local}" if name == "cuda" else name)
        torch.zeros(1, device=device).item()  # "meta" holds no numbers
    except Exception as error:  # torch raises many kinds for devices that are not there, some with pages of its tables
        evidence = next(iter(str(error).splitlines()), repr(error))
        raise UsageError(f"--device must be a device of this machine, however: {name!r}: {evidence}. Pass auto or cpu") from error
    return device


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


class Stopped(Exception):
    """The run was asked to stop, and every rank knows."""


class StopRequest:
    """While it is entered, SIGINT and SIGTERM are noted instead of killing; a second Ctrl-C kills a run of one process.

    In a thread other than the main one nothing is noted: there Python lets nobody say what a signal does.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._before: dict[int, Any] = {}
        self.signal: int | None = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:  # else an interrupt has changed it since
                signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is None and self._job.main:
            again = "" if self._job.ranks > 1 else " Ctrl-C again stops at once, without saving."
            with suppress(OSError):
                # To standard error, and not by print, which may be what the signal came into.
                os.write(2, f"\nStopping after the step under way.{again}\n".encode())
        self.signal = number
        if self._job.ranks == 1:  # torchrun passes on what its ranks got from the terminal already
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])

    def agreed(self) -> bool:
        """Whether some rank was asked to stop; every rank gets the same answer at the same step."""
        if self._job.ranks == 1:
            return self.signal is not None
        noted = torch.tensor(self.signal or 0)
        dist.all_reduce(noted, dist.ReduceOp.MAX)
        self.signal = int(noted) or None
        return self.signal is not None
