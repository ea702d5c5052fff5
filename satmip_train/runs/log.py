"""The log of a run: one JSON line a report in `log.jsonl`."""

import json
from pathlib import Path
from typing import Any

from satmip_train.files import write_atomically

NAME = "log.jsonl"
Line = dict[str, Any]
"""step (from 0), epoch (done after the step), lr, samples_per_second, data_wait (share of the time), chance, embeddings (deviation,
effective_rank; see `training.spread`; earlier versions lack them), and what was measured: the loss and its parts at this step; at
some steps also knn (macro_f1, top1)."""
_KNOWN = ("step", "epoch", "lr", "samples_per_second", "data_wait", "chance", "knn", "embeddings")


def measured(line: Line) -> list[str]:
    """Return the names of what the objective measured."""
    return [name for name in line if name not in _KNOWN]


def read_log(run: Path) -> list[Line]:
    """Return the lines of a run's log, none where there is no log. A last line that a crash cut short is left out."""
    path = run / NAME
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def keep_lines(run: Path, steps: int) -> None:
    """Drop the lines of steps from `steps` on, so that a run that goes on from there logs each step once."""
    kept = "".join(f"{json.dumps(line)}\n" for line in read_log(run) if line["step"] < steps)
    write_atomically(run / NAME, lambda file: file.write(kept.encode()))
