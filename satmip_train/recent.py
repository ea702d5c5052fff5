"""The steps since the last look at what they measured."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from satmip_train.errors import UsageError
from satmip_train.job import Job


class Recent:
    """What recent steps measured stays on the device until someone looks, so that no step waits for it."""

    def __init__(self, job: Job, run: Path) -> None:
        self._job, self._run = job, run
        self._steps: list[tuple[int, list[str], dict[str, Tensor]]] = []
        self._measured: dict[str, float] = {}

    def add(self, step: int, keys: list[str], parts: dict[str, Tensor]) -> None:
        """Remember a step."""
        self._steps.append((step, keys, parts))

    def check(self) -> dict[str, float]:
        """Return what the last step measured, as the mean over the ranks, and forget the steps.

        Raises:
            UsageError: a loss was not finite; the keys of its batch are saved.
        """
        if self._steps:
            names = list(self._steps[-1][2])
            rows = torch.stack([torch.stack([parts[name].float() for name in names]) for _, _, parts in self._steps])
            values = self._job.mean(rows).tolist()
            for (step, keys, _), row in zip(self._steps, values, strict=True):
                if not all(map(math.isfinite, row)):
                    self._give_up(step, keys, dict(zip(names, row, strict=True)))
            self._steps, self._measured = [], dict(zip(names, values[-1], strict=True))
        return self._measured

    def _give_up(self, step: int, keys: list[str], measured: dict[str, float]) -> None:
        path = self._run / f"nonfinite-rank{self._job.rank}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"step": step, "measured": measured, "keys": keys}, indent=1), encoding="utf-8")
        raise UsageError(
            f"the loss must stay finite, however: {measured} at step {step}. The keys of the batch are in {path}; the last "
            "checkpoint is from before. Look at these samples, or pass a smaller --lr-base, --precision fp32 and another --out"
        )
