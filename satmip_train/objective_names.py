"""Objectives by name: sums of terms such as "satmip+simclr+tp". Needs no torch, so that settings and tables know them at once."""

from dataclasses import dataclass

TEMPORAL = "tp"
"""No term of its own: the second view shows another acquisition of the place."""
_ORDER = ("satmip", "simclr", "moco", "geo")
"""In which terms are built, and written; terms of one's own follow by their names."""
_FROM_METADATA, _TWO_VIEWS = frozenset({"satmip"}), frozenset({"simclr", "moco"})
NAMES = {
    "simclr": "simclr",
    "simclr-geo": "simclr+geo",
    "simclr-tp": "simclr+tp",
    "simclr-geo-tp": "simclr+geo+tp",
    "moco": "moco",
    "moco-geo": "moco+geo",
    "moco-tp": "moco+tp",
    "moco-geo-tp": "moco+geo+tp",
    "satmip": "satmip",
    "satmips": "satmip+simclr",
}
"""Sums that have a name of their own, and their terms. The name is the one that is kept with a run."""
_SHORT = {terms: name for name, terms in NAMES.items()}
KNOWN_OBJECTIVES = (*NAMES, "geo", *(f"satmips+{name}" for name in ("geo", "tp", "geo+tp")))
"""Objectives that a shell completes; any other sum is one too."""


@dataclass(frozen=True, slots=True)
class TermNames:
    """The terms that the name of an objective stands for."""

    terms: tuple[str, ...]
    """In the order in which they are built."""
    temporal: bool = False
    """Whether the second view shows another acquisition of the place."""

    @property
    def learns_from_metadata(self) -> bool:
        """Whether one of our own terms does."""
        return not _FROM_METADATA.isdisjoint(self.terms)

    @property
    def compares_views(self) -> bool:
        """Whether one of our own terms does, that is, whether it needs two views."""
        return not _TWO_VIEWS.isdisjoint(self.terms)

    def __str__(self) -> str:
        """Return the one name of the objective, whatever the order in which its terms were typed."""
        name = "+".join([*self.terms, *([TEMPORAL] if self.temporal else [])])
        return _SHORT.get(name, name)


def unknown_terms(objective: str) -> list[str]:
    """Return the words of an objective that are none of satmip's own terms; they may be terms of the user's."""
    return [word for word in terms_of(objective).terms if word not in _ORDER]


def terms_of(objective: str) -> TermNames:
    """Return the terms of an objective. Names of sums may be parts of longer ones: satmips+tp is satmip+simclr+tp.

    A name that is no sum, as "satmae++", counts as one term.

    Raises:
        ValueError: a term stands there twice.
    """
    words = "+".join(NAMES.get(word.strip(), word.strip()) for word in objective.split("+")).split("+")
    if "" in words:
        return TermNames((objective,))
    if twice := next((word for word in words if words.count(word) > 1), None):
        raise ValueError(f'The objective "{objective}" has the term "{twice}" twice. Leave one out.')
    own = sorted(set(words) - {*_ORDER, TEMPORAL})
    return TermNames((*(word for word in _ORDER if word in words), *own), TEMPORAL in words)
