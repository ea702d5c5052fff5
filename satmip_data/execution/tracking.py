"""Show the progress of a piece of work: a bar on the terminal, a run on Weights & Biases."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from satmip_data.errors import DataError, install
from satmip_data.execution.progress import Progress, Show
from satmip_data.names import counted


class TrackingError(DataError):
    """Progress cannot be sent where it was asked to go; the message says what to type."""


class Speeds:
    """The speed of every stage, counted from what stood when this process first heard of it: a resumed build must not boast."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the time in seconds from `clock`."""
        self._clock = clock
        self._begun: dict[str, tuple[float, int]] = {}

    def rate(self, progress: Progress) -> float:
        """Return samples a second of the stage of `progress`; 0 before any time has passed."""
        now = self._clock()
        start, samples = self._begun.setdefault(progress.stage, (now, progress.samples))
        return (progress.samples - samples) / (now - start) if now > start else 0.0


def describe(progress: Progress, rate: float) -> str:
    """Return samples, rate, bytes, rejects in one line."""
    parts = [counted(progress.samples, "sample")]
    if rate:
        parts.append(f"{rate:,.0f}/s")
    if progress.bytes:
        parts.append(f"{progress.bytes / 1e6:,.1f} MB")
    if progress.saved:
        parts.append(f"{progress.saved / 1e6:,.1f} MB not fetched")
    if progress.rejects:
        parts.append(counted(progress.rejects, "reject"))
    return ", ".join(parts)


@contextmanager
def progress_bar(hidden: bool = False) -> Iterator[Show]:
    """Give a function that shows how far the work has come, with rate and time left, on standard error; `hidden`, nothing."""
    columns = (
        TextColumn("{task.description:>8}"), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True), disable=hidden) as bars:
        rows: dict[str, Any] = {}
        speeds = Speeds()

        def show(progress: Progress) -> None:
            if progress.stage not in rows:
                rows[progress.stage] = bars.add_task(progress.stage, total=progress.total, note="")
            note = describe(progress, speeds.rate(progress))
            bars.update(rows[progress.stage], completed=progress.done, total=progress.total, note=note)

        yield show


@contextmanager
def wandb_run(project: str | None, config: dict[str, Any], show: Show) -> Iterator[Show]:
    """Give a function that calls `show` and logs to a run of the Weights & Biases project; without a project, `show` itself.

    Raises:
        TrackingError: wandb is not installed.
    """
    if project is None:
        yield show
        return
    try:
        import wandb
    except ImportError as error:
        raise TrackingError(f"--wandb needs wandb, which is not installed. Run: {install('wandb')}") from error
    run = wandb.init(project=project, job_type="satmip-data", config=config)
    speeds = Speeds()

    def log(progress: Progress) -> None:
        show(progress)
        values = {name: getattr(progress, name) for name in ("done", "total", "samples", "rejects", "bytes", "saved")}
        values["samples_per_second"] = speeds.rate(progress)
        run.log({f"{progress.stage}/{name}": value for name, value in values.items()})

    try:
        yield log
    finally:
        run.finish()
