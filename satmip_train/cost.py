"""What a training run cost: time, memory and, where the device tells it, energy. All of it is in the run's log."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from satmip_train.log import Line, read_log


@dataclass(frozen=True)
class Cost:
    """Of a whole run, over all its interruptions."""

    seconds: float
    """Wall time of the steps, waiting for data included."""
    devices: int
    """Devices that worked at the same time."""
    peak_bytes: int | None
    """Memory of the fullest device, or of the process on a CPU; None where it was not measured."""
    energy_joules: float | None
    """Of all devices; None where they did not tell it."""

    @property
    def device_seconds(self) -> float:
        """Wall time of all devices together."""
        return self.seconds * self.devices


def read_cost(run: Path) -> Cost | None:
    """Return the cost of a run from its `log.jsonl` and `run.json`; None where one of them is not there."""
    lines, described = read_log(run), run / "run.json"
    if not lines or not described.is_file():
        return None
    plan = json.loads(described.read_text(encoding="utf-8"))
    return cost_of(lines, plan["settings"]["batch_size"], plan["ranks"])


def cost_of(lines: list[Line], batch_size: int, devices: int) -> Cost:
    """Add up the lines of a log: each tells the rate of the steps since the one before it, and what they used."""
    steps = [-1, *(line["step"] for line in lines)]
    times = [
        (now - then) * batch_size / line["samples_per_second"] for (then, now), line in zip(pairwise(steps), lines, strict=True)
    ]
    memory = [line["peak_bytes"] for line in lines if line.get("peak_bytes") is not None]
    energy = [line.get("energy_joules") for line in lines]
    used = None if None in energy else float(sum(value for value in energy if value is not None))
    return Cost(sum(times), devices, max(memory, default=None), used)
