"""Copies between the host and a GPU for which neither waits."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on the device; a copy to a GPU is queued and the host goes on.

    Only a copy out of pinned memory is queued in every case: out of other memory the driver may wait for the device first.
    """
    if device.type == "cpu" or value.device.type != "cpu":
        return value.to(device)
    return (value if value.is_pinned() else value.pin_memory()).to(device, non_blocking=True)


def ahead(batches: Iterable[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """Give the batches on the GPU; while one is worked on, the next is copied on a stream of its own."""
    side, waiting = torch.cuda.Stream(device), None  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(side):
            moved = {key: to_device(value, device) if isinstance(value, Tensor) else value for key, value in batch.items()}
            done = side.record_event()
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = moved, done
    if waiting is not None:
        yield _arrived(*waiting)


def _arrived(batch: dict[str, Any], done: Any) -> dict[str, Any]:
    stream = torch.cuda.current_stream()
    stream.wait_event(done)
    for value in batch.values():
        if isinstance(value, Tensor):
            value.record_stream(stream)
    return batch


def to_host(results: Iterable[Tensor]) -> Iterator[Tensor]:
    """Give what a GPU computes on the host, each result after the work for the next is queued: so the GPU never runs dry."""
    waiting = None
    for result in results:
        # Queued right behind its own work: behind that for the next result, it would wait for that too.
        copied = _copied(result)
        if waiting is not None:
            yield _landed(*waiting)
        waiting = copied
    if waiting is not None:
        yield _landed(*waiting)


def _copied(result: Tensor) -> tuple[Tensor, Any]:
    """Queue a copy to pinned memory; return it, and what says when it is there (None where it is)."""
    if result.device.type != "cuda":
        return result.cpu(), None
    copy, done = result.to("cpu", non_blocking=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()
    return copy, done


def _landed(copy: Tensor, done: Any) -> Tensor:
    if done is None:
        return copy
    done.synchronize()
    return copy.clone()  # into ordinary memory: whoever keeps all results would pin as much
