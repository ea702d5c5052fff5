"""Progress of a run for people and trackers, and the lines of its log."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from satmip_train.runs.log import NAME, Line, measured


class Tracker(Protocol):
    """Another place where the log goes, see `trackers`."""

    def log(self, line: Line) -> None:
        """Take one line."""

    def close(self) -> None:
        """Write what is left."""


class Reporter:
    """Writes the log of a run and shows its progress; on a terminal as a bar, else line by line."""

    def __init__(self, run: Path, console: Console, done: int, total: int, trackers: Sequence[Tracker] = ()) -> None:
        """Begin at step `done` of `total`; `trackers` get each line too."""
        self._trackers = trackers
        self._file = (run / NAME).open("a", encoding="utf-8")
        self._console = console
        self._total = total
        # Without its own thread the bar is drawn where the loop reports, and forked loader processes inherit no thread.
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", completed=done, total=total)

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

    def report(self, line: Line) -> None:
        """Log one line and show it."""
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.log(line)
        text = _in_words(line)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=line["step"] + 1, description=text, refresh=True)
        else:
            self._console.print(f"step {line['step'] + 1}/{self._total}  {text}", soft_wrap=True, highlight=False)


def _in_words(line: Line) -> str:
    chance = line["chance"]
    parts = [f"{name} {line[name]:.4f}" + (f" (chance {chance[name]:.2f})" if name in chance else "") for name in measured(line)]
    speed = f"{line['samples_per_second']:.0f} samples/s  data wait {line['data_wait']:.0%}"
    knn = [f"kNN macro-F1 {line['knn']['macro_f1']:.4f}"] if "knn" in line else []
    return "  ".join([f"epoch {line['epoch']:.2f}", *parts, *knn, f"lr {line['lr']:.2e}", speed])
