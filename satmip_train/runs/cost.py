"""Cost of a training run: time, memory and, where the device reports it, energy. Kept in `summary.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satmip_train.files import write_atomically

NAME = "summary.json"


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
