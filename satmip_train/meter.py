"""What a run costs: time, memory and energy, over all its interruptions."""

import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from satmip_train.checkpoint import write_atomically
from satmip_train.job import Job, device_name

NAME = "summary.json"


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
    """Measures this session of a run; `summary.json` adds up the sessions."""

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


def read_summary(run: Path) -> dict[str, Any]:
    """Return `summary.json` of a run, empty where there is none."""
    path = run / NAME
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def write_summary(run: Path, session: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write a session into `summary.json` of a run; totals are over all sessions, and None where one of them does not know.

    It stands in for what was written of the same session before, and of sessions whose steps are taken anew. Sessions of an older
    version do not tell their first step.

    Args:
        facts: what is known of the whole run, such as its last loss
    """
    sessions = [*(s for s in read_summary(run).get("sessions", []) if s.get("first", 0) < session["first"]), session]
    totals: dict[str, Any] = {
        name: _total([s[name] for s in sessions]) for name in ("wall_seconds", "device_seconds", "energy_joules")
    }
    totals["peak_memory_bytes"] = max(s["peak_memory_bytes"] for s in sessions)
    content = json.dumps({**facts, **totals, "sessions": sessions}, indent=1).encode()
    write_atomically(run / NAME, lambda file: file.write(content))


def accounted_steps(summary: dict[str, Any]) -> int:
    """Return the steps whose cost is known; fewer than `step` where a session ended before it could tell."""
    return sum(session["steps"] for session in summary["sessions"])


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
