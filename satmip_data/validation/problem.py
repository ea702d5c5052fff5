"""One finding of `validate`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be: where (file or sample key), which check, and what was found."""

    where: str
    check: str
    message: str
