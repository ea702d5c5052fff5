"""The steps since the last look at what they measured."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from satmip_train.distributed import Job
from satmip_train.errors import UsageError

_Step = tuple[int, list[str], dict[str, Tensor]]
"""Number, keys of the batch, what was measured."""


class StepMetrics:
    """Measurements of recent steps. They stay on the device until they are read, so that no step waits for them."""

    def __init__(self, job: Job, run: Path) -> None:
        self._job, self._run = job, run
        self._steps: list[_Step] = []
        self._last: _Step | None = None
        """The last step that was looked at."""
        self._measured: dict[str, float] = {}

    def add(self, step: int, keys: list[str], parts: dict[str, Tensor]) -> None:
        """Remember a step."""
        self._steps.append((step, keys, parts))

    def check(self) -> dict[str, float]:
        """Return what the last step measured, as the mean over the ranks, and forget the steps before it.

        Raises:
            UsageError: a loss was not finite, on every rank alike; each saves the keys of its part of the first such batch.
        """
        if self._steps:
            names = list(self._steps[-1][2])
            rows = torch.stack([torch.stack([parts[name].float() for name in names]) for _, _, parts in self._steps])
            values = self._job.mean(rows).tolist()
            for number, row in enumerate(values):
                if not all(map(math.isfinite, row)):
                    before = self._steps[number - 1] if number else self._last
                    self._give_up("loss", self._steps[number], dict(zip(names, row, strict=True)), before)
            self._last, self._measured = self._steps[-1], dict(zip(names, values[-1], strict=True))
            self._steps = []
        return self._measured

    def check_weights(self, module: nn.Module) -> None:
        """Check before weights are saved that the last step left them finite, since its gradient may not have been.

        Raises:
            UsageError: a weight is not finite; the keys of the last batch are saved.
        """
        if self._last is not None and not all_finite(parameter.detach() for parameter in module.parameters()):
            self._give_up("weights", self._last, self._measured, None)

    def _give_up(self, what: str, bad: _Step, measured: dict[str, float], before: _Step | None) -> NoReturn:
        step, keys, _ = bad
        path = self._run / f"nonfinite-rank{self._job.rank}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "step": step,
            "measured": {name: value if math.isfinite(value) else str(value) for name, value in measured.items()},
            "keys": keys,
            "before": None if before is None else {"step": before[0], "keys": before[1]},
        }
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        shown = ", ".join(f"{name} {value:g}" for name, value in measured.items())
        raise UsageError(
            f"The {what} became NaN or infinite at step {step}: {shown}. The keys of its batch are in {path}, with those of the "
            "step before, whose gradient may be the cause; the last checkpoint is from before. Look at these samples, or use a "
            "smaller --lr-base, --precision fp32 and another --out."
        )


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all values of all tensors are finite, by one look at the device."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
