"""The progress of a piece of work. Pure."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work has come, for a display."""

    stage: str
    """"index", "pack", "caption" or "validate"."""
    done: int
    """Tasks: batches of items in the index, else shards."""
    total: int
    samples: int
    rejects: int
    bytes: int = 0
    """Written or checked so far."""
    saved: int = 0
    """Bytes of images that did not have to be fetched."""


Show = Callable[[Progress], None]


def no_show(progress: Progress) -> None:
    """Show nothing."""
