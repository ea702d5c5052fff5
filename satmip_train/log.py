"""What a run tells while it goes: one JSON line a report in `log.jsonl`, and a progress bar or plain lines for people."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from satmip_train.files import write_atomically

NAME = "log.jsonl"
Line = dict[str, Any]
"""step (from 0), epoch (done after the step), lr, samples_per_second, data_wait (share of the time), chance, and what was measured:
the loss and its parts at this step; at some steps also knn (macro_f1, top1)."""
_KNOWN = ("step", "epoch", "lr", "samples_per_second", "data_wait", "chance", "knn")


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


class Clock:
    """Measures between two reports how long they took and how much of it the device stood idle for want of data."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._start = time.perf_counter()
        self._marks: list[tuple[Any, Any]] = []
        self._mark: Any = None
        self.worked = 0.0
        """Seconds of all readings in which the device did not wait."""

    def restart(self) -> None:
        """Leave out what happened since the last reading: an evaluation, a report."""
        self._start = time.perf_counter()

    def waits(self) -> None:
        """Say that all work is queued and the next batch is wanted."""
        self._mark = self._now()

    def works(self) -> None:
        """Say that the batch is here."""
        self._marks.append((self._mark, self._now()))

    def read(self) -> tuple[int, float, float]:
        """Return batches and seconds since the last reading and the seconds spent waiting; begin anew. The device must be done."""
        steps, seconds = len(self._marks), time.perf_counter() - self._start
        waited = min(sum(a.elapsed_time(b) / 1000 if self._cuda else b - a for a, b in self._marks), seconds)
        self.worked += seconds - waited
        self._start, self._marks = time.perf_counter(), []
        return steps, seconds, waited

    def _now(self) -> Any:
        # On a GPU the queue runs behind the host, so the device's own clock has to say when it ran dry.
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
