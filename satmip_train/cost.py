"""What a training run cost: time, memory and, where the device tells it, energy."""

from dataclasses import dataclass
from pathlib import Path

from satmip_train.meter import accounted_steps, read_summary


@dataclass(frozen=True)
class Cost:
    """Of a whole run, over all its interruptions."""

    seconds: float
    """Wall time of training, waiting for data included."""
    device_seconds: float
    """The same, of all devices together."""
    peak_bytes: int | None
    """Memory of a device, or of the process on a CPU; None where it was not measured."""
    energy_joules: float | None
    """Of all devices; None where they did not tell it."""


def read_cost(run: Path) -> Cost | None:
    """Return the cost of a run from its `summary.json`; None where there is none, or it does not account for every step."""
    summary = read_summary(run)
    if not summary or accounted_steps(summary) != summary["step"]:
        return None
    together = sum(session["wall_seconds"] * session["ranks"] for session in summary["sessions"])
    return Cost(summary["wall_seconds"], together, summary.get("peak_memory_bytes"), summary.get("energy_joules"))
