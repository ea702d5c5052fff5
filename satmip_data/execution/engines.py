"""Engines that run tasks on the cores of this machine or on a Ray cluster. No result depends on the engine or its workers.

Tasks and results are small picklable values.
"""

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, parent_process, resource_tracker
from threading import Thread
from types import FrameType
from typing import Any, TypeVar

from satmip_data.errors import DataError, install

Task = TypeVar("Task")
Result = TypeVar("Result")


class EngineError(DataError):
    """An engine that cannot be had, or that lost a worker; the message says what to type."""


@dataclass(frozen=True, slots=True)
class Local:
    """Processes of this machine; with one worker, this process itself."""

    workers: int = 1

    def ordered(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield the results in the order of the tasks."""
        if self.workers <= 1 or len(tasks) <= 1:
            yield from map(function, tasks)
            return
        with self._pool(len(tasks)) as pool:
            with _uninterrupted():
                results = pool.map(function, tasks)
            yield from results

    def unordered(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield each result as soon as it is there. An exception of a task ends the run; tasks not yet started are dropped."""
        if self.workers <= 1 or len(tasks) <= 1:
            yield from map(function, tasks)
            return
        with self._pool(len(tasks)) as pool:
            with _uninterrupted():
                futures: list[Future[Result]] = [pool.submit(function, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    @contextmanager
    def _pool(self, tasks: int) -> Iterator[ProcessPoolExecutor]:
        # Spawned, not forked: a fork of a process with threads (progress bar, file systems) can hang.
        with ProcessPoolExecutor(min(self.workers, tasks), get_context("spawn"), initializer=_end_with_parent) as pool:
            try:
                yield pool
            except BrokenProcessPool as error:
                raise EngineError(
                    f"A worker was killed, probably because memory ran out. Run again with fewer than --workers {self.workers}"
                ) from error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Have Ctrl-C wait, here and in processes started here: in the midst of its first imports each would show a traceback."""
    resource_tracker.ensure_running()  # which ends the waiting where it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is killed, and without a traceback where both are interrupted.

    It would go on with the tasks that it was sent, beside the processes of the next run in the same folder, and then wait for ever.
    """
    standing = signal.signal(signal.SIGINT, signal.SIG_IGN)  # forgets a Ctrl-C of `_uninterrupted`: the parent has it too
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if standing is not signal.SIG_IGN:  # as it is behind nohup
        signal.signal(signal.SIGINT, _leave)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@dataclass(frozen=True, slots=True)
class Ray:
    """A Ray cluster, one core a task. Its machines need this package, the source and the destination at the same paths or URLs."""

    address: str = "local"
    """Of the cluster, as "auto" or "ray://host:10001"; "local" starts one on this machine."""
    workers: int = 1
    """Cores of a cluster that is started here."""

    def ordered(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield the results in the order of the tasks. An exception of a task ends the run; the tasks under way are dropped."""
        ray, submit, ahead = self._connect(function)
        waiting: deque[Any] = deque()
        try:
            for task in tasks:
                waiting.append(submit(task))
                if len(waiting) >= ahead:
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())
        finally:
            _cancel(ray, waiting)

    def unordered(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield each result as soon as it is there. An exception of a task ends the run; the tasks under way are dropped."""
        ray, submit, ahead = self._connect(function)
        following = iter(tasks)
        waiting = [submit(task) for task in islice(following, ahead)]
        try:
            while waiting:
                done, waiting = ray.wait(waiting, num_returns=1)
                yield ray.get(done[0])
                waiting += [submit(task) for task in islice(following, 1)]
        finally:
            _cancel(ray, waiting)

    def _connect(self, function: Callable[[Task], Result]) -> tuple[Any, Callable[[Task], Any], int]:
        """Return Ray, what submits a task, and how many tasks to have under way; one session serves the whole process."""
        try:
            import ray
        except ImportError as error:
            raise EngineError(f"--engine ray needs Ray, which is not installed. Run: {install('ray')}") from error
        here = {"num_cpus": self.workers, "include_dashboard": False} if self.address == "local" else {}
        try:
            if not ray.is_initialized():
                ray.init(address=self.address, log_to_driver=False, logging_level=logging.WARNING, **here)
        except ConnectionError as error:
            raise EngineError(
                f"There is no Ray cluster at {self.address}: {error}\n"
                "Start one with: ray start --head   and pass --ray-address auto; without --ray-address one is started here."
            ) from error
        cores = int(ray.cluster_resources().get("CPU", 1))
        return ray, ray.remote(num_cpus=1)(function).remote, 2 * cores


def _cancel(ray: Any, references: Iterable[Any]) -> None:
    for reference in references:
        ray.cancel(reference)


Engine = Local | Ray
