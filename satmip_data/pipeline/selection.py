"""Selections of the samples of an archive: by split, by category, by a condition over the columns of the index."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from satmip_data.pipeline.where import WhereError, parse
from satmip_data.records import Sample


class SelectionError(ValueError):
    """A selection that cannot be made; the message names what can be chosen."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a build takes; without any choice, everything.

    Raises:
        SelectionError: `where` is no condition.
    """

    splits: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    where: str = ""
    """A condition over the columns of the index, as "cloud_cover < 30 and year >= 2015": see `where`."""

    def __post_init__(self) -> None:
        if self.where.strip():
            try:
                parse(self.where)
            except WhereError as error:
                raise SelectionError(str(error)) from error

    def to_json(self) -> dict[str, Any]:
        """Return the selection as `dataset.json` and the resume check hold it."""
        return {**asdict(self), "splits": list(self.splits), "categories": list(self.categories)}


EVERYTHING = Selection()


def select(samples: Sequence[Sample], selection: Selection) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """Return the chosen samples in their order, and how many each choice dropped (the first that drops a sample counts it).

    Raises:
        SelectionError: a split or category is nowhere in the archive.
    """
    chosen, dropped = list(samples), {}
    for option, wanted in (("split", selection.splits), ("category", selection.categories)):
        if wanted:
            kept = [sample for sample in chosen if _among(sample, option, wanted)]
            _check_known(option, wanted, samples)
            chosen, dropped[option] = kept, len(chosen) - len(kept)
    if selection.where.strip():
        holds = parse(selection.where)
        kept = [sample for sample in chosen if holds(sample)]
        chosen, dropped["where"] = kept, len(chosen) - len(kept)
    return tuple(chosen), dropped


def _names(sample: Sample, option: str) -> set[str]:
    names = (sample.split,) if option == "split" else (sample.category, *sample.labels)
    return {name for name in names if name is not None}


def _among(sample: Sample, option: str, wanted: tuple[str, ...]) -> bool:
    return not _names(sample, option).isdisjoint(wanted)


def _check_known(option: str, wanted: tuple[str, ...], samples: Sequence[Sample]) -> None:
    known = sorted({name for sample in samples for name in _names(sample, option)})
    if unknown := [name for name in wanted if name not in known]:
        raise SelectionError(f"--{option} must be one of {', '.join(known)}; however: {', '.join(unknown)}")
