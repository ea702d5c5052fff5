"""Cost of a training run: time, memory and, where the device reports it, energy. Kept in `summary.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from satmip_train.errors import UsageError
from satmip_train.files import write_atomically

NAME = "summary.json"


class _Session(BaseModel):
    model_config = ConfigDict(strict=True)
    steps: int = 0
    wall_seconds: float | None = None
    device_seconds: float | None = None
    energy_joules: float | None = None
    peak_memory_bytes: int | None = None
    ranks: int = 1
    first: int = 0


class _Best(BaseModel):
    step: int
    macro_f1: float
    top1: float


class _Summary(BaseModel):
    """The shape of `summary.json`, of any version."""

    model_config = ConfigDict(strict=True)
    step: int
    sessions: list[_Session]
    wall_seconds: float | None = None
    device_seconds: float | None = None
    energy_joules: float | None = None
    peak_memory_bytes: int | None = None
    best: _Best | None = None


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
    spent = [(session.get("wall_seconds"), session.get("ranks", 1)) for session in summary["sessions"]]
    together = _total([None if seconds is None else seconds * ranks for seconds, ranks in spent])
    seconds = summary.get("wall_seconds")
    if seconds is None or together is None:
        return None
    return Cost(seconds, together, summary.get("peak_memory_bytes"), summary.get("energy_joules"))


def read_summary(run: Path) -> dict[str, Any]:
    """Return `summary.json` of a run, empty where there is none.

    Raises:
        UsageError: it is damaged.
    """
    path = run / NAME
    if not path.exists():
        return {}
    try:
        summary: dict[str, Any] = json.loads(path.read_bytes())
        _Summary.model_validate(summary)
    except (ValueError, RecursionError) as error:
        problem = "its values are not those of a summary" if isinstance(error, ValidationError) else str(error)
        raise UsageError(
            f"{path} is damaged: {problem}. Delete it: what the run has cost so far is then not known, and all else stays."
        ) from error
    return summary


def write_summary(run: Path, session: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write a session into `summary.json` of a run; totals are over all sessions, and None where one of them does not know.

    It stands in for what was written of the same session before, and of sessions whose steps are taken anew. Sessions of an older
    version do not tell their first step.

    Args:
        facts: what is known of the whole run, such as its last loss
    """
    sessions = [*(s for s in read_summary(run).get("sessions", []) if s.get("first", 0) < session["first"]), session]
    totals: dict[str, Any] = {
        name: _total([s.get(name) for s in sessions]) for name in ("wall_seconds", "device_seconds", "energy_joules")
    }
    totals["peak_memory_bytes"] = max((s["peak_memory_bytes"] for s in sessions if s.get("peak_memory_bytes")), default=None)
    content = json.dumps({**facts, **totals, "sessions": sessions}, indent=1).encode()
    write_atomically(run / NAME, lambda file: file.write(content))


def accounted_steps(summary: dict[str, Any]) -> int:
    """Return the steps whose cost is known; fewer than `step` where a session ended before it could tell."""
    return sum(session.get("steps", 0) for session in summary["sessions"])


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
