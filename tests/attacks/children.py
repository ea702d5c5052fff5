"""Work in a process of its own, which may be killed at any of the points that it passes."""

import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from attacks.outcome import PATIENCE

FILE_CALLS = frozenset(
    (
        "open",
        "close",
        "write",
        "flush",
        "fsync",
        "replace",
        "rename",
        "chmod",
        "unlink",
        "rmdir",
        "mkdir",
        "scandir",
        "flock",
        "stat",
    )
)
"""Names of the functions by which Python changes, or looks for, what lies on a disk."""


@dataclass(frozen=True, slots=True)
class Trail:
    """The points that a work passed: calls of functions, Python's and C's, and returns from them."""

    points: int
    files: tuple[int, ...]
    """Those before and behind a call that changes the disk."""
    marks: tuple[tuple[str, int], ...]
    """Stages, each with the point at which it began."""

    def stage(self, name: str) -> tuple[range, list[int]]:
        """Return all points of a stage, and those of them at the disk."""
        starts = [start for _, start in self.marks] + [self.points]
        number = [mark for mark, _ in self.marks].index(name)
        points = range(starts[number], starts[number + 1])
        return points, [point for point in self.files if point in points]


class Points:
    """Counts the points that this process passes, and kills it at one of them."""

    def __init__(self, kill_at: int | None = None) -> None:
        self._kill_at, self._count = kill_at, 0
        self._files: list[int] = []
        self._marks: list[tuple[str, int]] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Be told of a call or a return, by `sys.setprofile`."""
        self._count += 1
        if self._count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if event[0] == "c" and event[1] == "_" and argument.__name__ in FILE_CALLS:
            self._files.append(self._count)

    def mark(self, stage: str) -> None:
        """Note that a stage begins."""
        if stage not in (name for name, _ in self._marks):
            self._marks.append((stage, self._count))

    def save(self, path: Path) -> None:
        """Write down the trail."""
        path.write_text(json.dumps([self._count, self._files, self._marks]))


def read_trail(path: Path) -> Trail:
    """Return what `Points.save` wrote."""
    count, files, marks = json.loads(path.read_text())
    return Trail(count, tuple(files), tuple((name, start) for name, start in marks))


Work = Callable[[Points], object]


def start(work: Work, log: Path, kill_at: int | None = None, trail: Path | None = None, counted: bool = True) -> int:
    """Fork a process that does a work and return its number; it ends with 0, with 70 and its traceback in `log`, or by SIGKILL.

    Args:
        kill_at: number of the point at which it kills itself
        trail: where it writes the points that it passed
        counted: False lets the work run at its own speed, without points
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks beside threads
        pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        with log.open("w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        points = Points(kill_at)
        if counted:
            sys.setprofile(points)
        work(points)
        sys.setprofile(None)
        if trail is not None:
            points.save(trail)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.setprofile(None)
        traceback.print_exc()
    finally:
        for closing in (sys.stdout, sys.stderr):
            closing.flush()
        os._exit(code)


def wait(pid: int, patience: float = PATIENCE) -> int | None:
    """Return how a process ended, -9 for one that was killed; None for one that hung, which is then killed."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def run(work: Work, log: Path, kill_at: int | None = None, trail: Path | None = None, counted: bool = True) -> int | None:
    """Do a work in a process of its own and return how it ended; see `start` and `wait`."""
    return wait(start(work, log, kill_at, trail, counted))
