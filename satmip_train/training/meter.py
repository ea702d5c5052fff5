"""Measures what a session of a run takes: time, memory and energy."""

import math
import resource
import sys
import time
from typing import Any

import torch

from satmip_train.distributed import Job, device_name


class Clock:
    """Measures between two reports how long they took and how much of it the device stood idle for want of data."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._start = time.perf_counter()
        self._marks: list[tuple[Any, Any]] = []
        self._mark: Any = None
        self.worked = 0.0
        """Seconds of all readings in which the device did not wait."""

    def restart(self) -> None:
        """Leave out what happened since the last reading: an evaluation, a report."""
        self._start = time.perf_counter()

    def waits(self) -> None:
        """Say that all work is queued and the next batch is wanted."""
        self._mark = self._now()

    def works(self) -> None:
        """Say that the batch is here."""
        self._marks.append((self._mark, self._now()))

    def read(self) -> tuple[int, float, float]:
        """Return batches and seconds since the last reading and the seconds spent waiting; begin anew. The device must be done."""
        steps, seconds = len(self._marks), time.perf_counter() - self._start
        waited = min(sum(a.elapsed_time(b) / 1000 if self._cuda else b - a for a, b in self._marks), seconds)
        self.worked += seconds - waited
        self._start, self._marks = time.perf_counter(), []
        return steps, seconds, waited

    def _now(self) -> Any:
        # On a GPU the queue runs behind the host, so the device's own clock has to say when it ran dry.
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def peak_bytes(job: Job) -> int:
    """Return the most memory that tensors took on the GPU, or this process on a CPU."""
    if job.device.type == "cuda":
        return torch.cuda.max_memory_allocated(job.device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def energy_joules(job: Job) -> float | None:
    """Return what the GPU has used since its driver was loaded; None on a CPU, without pynvml, or where the GPU does not count."""
    if job.device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(job.device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except pynvml.NVMLError:
        return None


class Meter:
    """Measures this session of a run; `cost.write_summary` adds up the sessions."""

    def __init__(self, job: Job, first: int) -> None:
        """Begin before the step `first`, from 0."""
        self._job, self._first = job, first
        self._start, self._energy = time.perf_counter(), energy_joules(job)

    def session(self, step: int, device_seconds: float) -> dict[str, Any]:
        """Return what the session took so far, over the ranks; every rank must call it.

        Args:
            step: steps of the run that are done
            device_seconds: how long a GPU worked on them; what is left of the wall time it waited or did something else
        """
        now, cuda = energy_joules(self._job), self._job.device.type == "cuda"
        used = math.nan if now is None or self._energy is None else now - self._energy
        mean_used, mean_peak = self._job.mean(torch.tensor([used, float(peak_bytes(self._job))], dtype=torch.float64)).tolist()
        return {
            "first": self._first,
            "steps": step - self._first,
            "wall_seconds": time.perf_counter() - self._start,
            "device_seconds": device_seconds if cuda else None,
            "peak_memory_bytes": round(mean_peak),
            "energy_joules": None if math.isnan(mean_used) else mean_used * self._job.ranks,
            "ranks": self._job.ranks,
            "device": device_name(self._job.device),
        }
