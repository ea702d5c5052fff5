"""Stop requests: SIGINT and SIGTERM end a run after the step under way."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from satmip_train.distributed import Job


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
