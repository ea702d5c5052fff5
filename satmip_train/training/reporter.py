"""Progress of a run for people and trackers, and the lines of its log."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from satmip_train.runs.log import NAME, Line, measured

REDRAWN = 0.2
"""Seconds between two drawings of the bar."""
MANY = 10_000_000
"""Samples that are counted in millions, so that the line fits 80 columns."""


class Tracker(Protocol):
    """Another place where the log goes, see `trackers`."""

    def log(self, line: Line) -> None:
        """Take one line."""

    def close(self) -> None:
        """Write what is left."""


class Reporter:
    """Writes the log of a run and shows its progress; on a terminal as a bar, else line by line."""

    def __init__(
        self, run: Path, console: Console, done: int, total: int, trackers: Sequence[Tracker] = (), batch_size: int = 1
    ) -> None:
        """Begin at step `done` of `total`, of `batch_size` samples each; `trackers` get each line too."""
        self._trackers = trackers
        self._file = (run / NAME).open("a", encoding="utf-8")
        self._console = console
        self._total = total
        self._batch_size, self._first = batch_size, done
        self._began = self._drawn = time.monotonic()
        self._loss = ""
        self._rate: float | None = None
        # Without its own thread the bar is drawn where the loop reports, and forked loader processes inherit no thread.
        self._bar = Progress(
            BarColumn(bar_width=6),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            auto_refresh=False,
        )
        self._task = self._bar.add_task(self._live(done), completed=done, total=total)

    def __enter__(self) -> "Reporter":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()
        self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def advance(self, step: int) -> None:
        """Show that so many steps are done, a few times a second at most; the device is not waited for."""
        now = time.monotonic()
        if self._console.is_terminal and now - self._drawn >= REDRAWN:
            self._drawn = now
            self._bar.update(self._task, completed=step, description=self._live(step), refresh=True)

    def _live(self, step: int) -> str:
        """Return samples, their rate and the loss, in at most 60 characters."""
        seconds = time.monotonic() - self._began
        rate = self._rate or ((step - self._first) * self._batch_size / seconds if step > self._first and seconds else 0.0)
        done, total = step * self._batch_size, self._total * self._batch_size
        samples = f"{done:,}/{total:,} samples" if total < MANY else f"{done / 1e6:.2f}/{total / 1e6:.2f} M samples"
        return "  ".join(filter(None, [samples, f"{rate:,.0f}/s" if rate else "", self._loss]))

    def report(self, line: Line) -> None:
        """Log one line and show it."""
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.log(line)
        text = _in_words(line)
        if self._console.is_terminal:
            step, chance = line["step"] + 1, line["chance"].get("loss")
            self._loss = f"loss {line['loss']:.3f}" + (f" (chance {chance:.2f})" if chance is not None else "")
            self._rate = line["samples_per_second"]
            if "knn" in line:
                self._console.print(f"epoch {line['epoch']:.2f}  kNN macro-F1 {line['knn']['macro_f1']:.4f}")
            self._bar.update(self._task, completed=step, description=self._live(step), refresh=True)
        else:
            self._console.print(f"step {line['step'] + 1}/{self._total}  {text}", soft_wrap=True, highlight=False)


def _in_words(line: Line) -> str:
    chance = line["chance"]
    parts = [f"{name} {line[name]:.4f}" + (f" (chance {chance[name]:.2f})" if name in chance else "") for name in measured(line)]
    speed = f"{line['samples_per_second']:.0f} samples/s  data wait {line['data_wait']:.0%}"
    knn = [f"kNN macro-F1 {line['knn']['macro_f1']:.4f}"] if "knn" in line else []
    return "  ".join([f"epoch {line['epoch']:.2f}", *parts, *knn, f"lr {line['lr']:.2e}", speed])
