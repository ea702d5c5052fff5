"""Run tasks on the cores of this machine. Tasks and results are small picklable values; no result depends on the workers."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process with threads (progress bar, file systems) can hang.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def run_ordered(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """Yield the results in the order of the tasks."""
    if workers <= 1 or len(tasks) <= 1:
        yield from map(function, tasks)
        return
    with _pool(min(workers, len(tasks))) as pool:
        yield from pool.map(function, tasks)


def run_unordered(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """Yield each result as soon as it is there. An exception of a task ends the run; tasks not yet started are dropped."""
    if workers <= 1 or len(tasks) <= 1:
        yield from map(function, tasks)
        return
    with _pool(min(workers, len(tasks))) as pool:
        futures: list[Future[Result]] = [pool.submit(function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
