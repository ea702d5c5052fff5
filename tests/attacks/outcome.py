"""What came of the tries of one attack."""

import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

PATIENCE = 120
"""Seconds that one try may take; it needs few, but a busy machine may give it none for long."""

SHOWN = 2000
"""Characters of evidence that are kept of a failure."""


class NotHeld(Exception):
    """A try ended as none may: with other numbers in silence, a traceback, a lost file. The message is the evidence."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One try that did not hold."""

    number: int
    """Of the try: with the seed of the attack it gives the same one again."""
    what: str
    """What was attacked and how."""
    evidence: str


@dataclass(slots=True)
class Tally:
    """The tries of one attack. A try holds where it ends in a word for how: "refused", "rejected", "the same", ..."""

    attack: str
    limits: str = ""
    """What the attack does not show."""
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    skipped: str = ""
    """Why nothing was tried here."""
    seconds: float = 0.0

    @property
    def held(self) -> int:
        """How many tries held."""
        return self.outcomes.total()

    @property
    def tried(self) -> int:
        """How many tries there were."""
        return self.held + len(self.failures)

    def attempt(self, number: int, what: str, attack: Callable[[], str], patience: float = PATIENCE) -> None:
        """Run one try and count what came of it; whatever it raises is a failure."""
        start = time.monotonic()
        try:
            with _limited(patience):
                self.outcomes[attack()] += 1
        except NotHeld as failure:
            self.failures.append(Failure(number, what, str(failure)[-SHOWN:]))
        except Exception:
            self.failures.append(Failure(number, what, traceback.format_exc()[-SHOWN:]))
        self.seconds += time.monotonic() - start

    def to_json(self) -> dict[str, Any]:
        """Return what is kept of it."""
        return {
            "attack": self.attack,
            "tried": self.tried,
            "held": self.held,
            "outcomes": dict(sorted(self.outcomes.items())),
            "limits": self.limits,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 1),
            "failures": [{"number": f.number, "what": f.what, "evidence": f.evidence} for f in self.failures],
        }


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise where the block takes longer: a try that hangs is one that failed."""

    def give_up(_: int, __: FrameType | None) -> None:
        raise NotHeld(f"It took longer than {seconds:g} s.")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
