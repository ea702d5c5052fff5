"""Other places where the log of a run goes: TensorBoard and Weights & Biases, both optional."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from satmip_data.errors import install
from satmip_train.errors import UsageError
from satmip_train.runs.log import Line
from satmip_train.training.reporter import Tracker


def scalars(line: Line) -> dict[str, float]:
    """Return the numbers of a line; what stands in a table of its own is named `table/name`."""
    flat: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, dict):
            flat.update({f"{name}/{part}": number for part, number in value.items()})
        elif name != "step":
            flat[name] = value
    return flat


class _TensorBoard:
    def __init__(self, run: Path, config: dict[str, Any], first: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"--report-to tensorboard needs tensorboard, which is not installed. Run: {install('tensorboard')}"
            ) from error
        # What a session that was killed logged after its last checkpoint comes again.
        self._writer = SummaryWriter(run / "tensorboard", purge_step=first)
        del config

    def log(self, line: Line) -> None:
        for name, value in scalars(line).items():
            self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, run: Path, config: dict[str, Any], first: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UsageError(f"--report-to wandb needs wandb, which is not installed. Run: {install('wandb')}") from error
        # The same folder is the same run there, also when it goes on after an interruption.
        name = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:12]
        self._run = wandb.init(project="satmip", name=run.name, id=name, resume="allow", dir=str(run), config=config)
        del first  # wandb keeps the first line of a step

    def log(self, line: Line) -> None:
        self._run.log(scalars(line), step=line["step"])

    def close(self) -> None:
        self._run.finish()


_TRACKERS: dict[str, Callable[[Path, dict[str, Any], int], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}


def open_trackers(names: Sequence[str], run: Path, config: dict[str, Any], first: int) -> list[Tracker]:
    """Return what takes the log lines of a run, by name.

    Args:
        first: the step whose line can come first; lines of it and of later steps that are there already are of no account

    Raises:
        UsageError: the package of one is not installed.
    """
    return [_TRACKERS[name](run, config, first) for name in names]
