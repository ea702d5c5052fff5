"""What an objective is, for those who load no networks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """What tells objectives apart beside their losses."""

    learns_from_metadata: bool = False
    """Whether it aligns images with their metadata."""
    compares_views: bool = True
    """Whether it compares views of images with one another."""


_OF_METADATA = {"satmip": Traits(True, compares_views=False), "satmips": Traits(True)}


def traits_of(objective: str) -> Traits:
    """Return what an objective is; others' backbones count as learned from images alone."""
    return _OF_METADATA.get(objective, Traits())
