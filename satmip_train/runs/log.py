"""The log of a run: one JSON line a report in `log.jsonl`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from satmip_train.errors import UsageError
from satmip_train.files import write_atomically

NAME = "log.jsonl"
Line = dict[str, Any]
"""step (from 0), epoch (done after the step), lr, samples_per_second, data_wait (share of the time), chance, embeddings (deviation,
effective_rank; see `training.spread`; earlier versions lack them), and what was measured: the loss and its parts at this step; at
some steps also knn (macro_f1, top1)."""
_KNOWN = ("step", "epoch", "lr", "samples_per_second", "data_wait", "chance", "knn", "embeddings")


class _Logged(BaseModel):
    """What a run that goes on needs of a line."""

    model_config = ConfigDict(extra="allow", strict=True)
    step: int


class _Line(_Logged):
    """What curves and pages need."""

    __pydantic_extra__: dict[str, float]
    epoch: float
    lr: float
    samples_per_second: float
    data_wait: float
    chance: dict[str, float]
    knn: dict[str, float] | None = None
    embeddings: dict[str, float] | None = None


def measured(line: Line) -> list[str]:
    """Return the names of what the objective measured."""
    return [name for name in line if name not in _KNOWN]


def read_log(run: Path) -> list[Line]:
    """Return the lines of a run's log, none where there is no log. A last line that a crash cut short is left out.

    Raises:
        UsageError: a line is damaged.
    """
    return list(_lines(run, _Line.model_validate))


def _lines(run: Path, check: Callable[[Any], object]) -> Iterator[Line]:
    path = run / NAME
    content = path.read_bytes() if path.exists() else b""
    for number, text in enumerate(content.split(b"\n")[:-1], 1):
        try:
            line: Line = json.loads(text)
            check(line)
        except (ValueError, RecursionError) as error:
            problem = "its values are not those of a log" if isinstance(error, ValidationError) else str(error)
            raise UsageError(
                f"{path} is damaged in line {number}: {problem}. Delete this line: it reports a step, and no weight depends on it."
            ) from error
        yield line


def keep_lines(run: Path, steps: int) -> None:
    """Drop the lines of steps from `steps` on, so that a run that goes on from there logs each step once.

    Raises:
        UsageError: a line is damaged.
    """
    kept = "".join(f"{json.dumps(line)}\n" for line in _lines(run, _Logged.model_validate) if line["step"] < steps)
    write_atomically(run / NAME, lambda file: file.write(kept.encode()))
