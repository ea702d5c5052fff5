"""How far a piece of work has come, and how fast it goes. Pure."""

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


@dataclass(slots=True)
class Speed:
    """Samples a second of one stage, counted from what stood when this process began: a resumed build must not boast."""

    start: float
    samples: int

    def rate(self, now: float, samples: int) -> float:
        """Return samples a second at time `now` in seconds; 0 before any time has passed."""
        return (samples - self.samples) / (now - self.start) if now > self.start else 0.0
