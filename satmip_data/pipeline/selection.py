"""Selections of the samples of an archive: by split, by category, by a condition over the columns of the index."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from satmip_data.errors import DataError
from satmip_data.names import unknown_name, unsigned
from satmip_data.pipeline.where import WhereError, parse
from satmip_data.records import Sample
from satmip_data.storage.store import Store


class SelectionError(DataError, ValueError):
    """A selection that cannot be made; the message names what can be chosen."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Selection of samples for a build; without any choice, all of them.

    Raises:
        SelectionError: `where` is no condition.
    """

    splits: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    where: str = ""
    """A condition over the columns of the index, as "cloud_cover < 30 and year >= 2015": see `where`."""
    exclude: frozenset[str] = frozenset()
    """Keys and paths of samples that are left out."""
    sample: int | None = None
    """At most so many samples, drawn so that each class of each split keeps its share; None takes all."""

    def __post_init__(self) -> None:
        if self.where.strip():
            try:
                parse(self.where)
            except WhereError as error:
                raise SelectionError(str(error)) from error

    def to_json(self) -> dict[str, Any]:
        """Return the selection as `dataset.json` and the resume check hold it."""
        chosen: dict[str, Any] = {"splits": list(self.splits), "categories": list(self.categories), "where": self.where}
        if self.exclude:
            names = "\n".join(sorted(self.exclude)).encode("utf-8", "surrogatepass")
            chosen["exclude"] = hashlib.blake2b(names, digest_size=16).hexdigest()
        if self.sample is not None:
            chosen["sample"] = self.sample
        return chosen


EVERYTHING = Selection()


def read_exclusions(url: str) -> frozenset[str]:
    """Return the keys and paths that a file lists, one a line; comments begin with # or, behind a name, " # ".

    Raises:
        SelectionError: it cannot be read, or lists nothing.
    """
    folder, name = os.path.split(url)
    try:
        lines = Store(folder or ".").read(name).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SelectionError(f"Cannot read the list {url} of --exclude: {error}") from error
    names = frozenset(line.partition(" # ")[0].strip() for line in lines if line.strip() and not line.startswith("#"))
    if not names:
        raise SelectionError(f"The list {url} of --exclude names nothing. Write one key or path a line.")
    return names


def select(samples: Sequence[Sample], selection: Selection, seed: int = 0) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """Return the chosen samples in their order, and how many each choice dropped (the first that drops a sample counts it).

    Args:
        samples: of the index.
        selection: what is chosen.
        seed: of the drawing of `Selection.sample`.

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
    if selection.exclude:
        kept = [sample for sample in chosen if selection.exclude.isdisjoint((sample.key, sample.path, unsigned(sample.path)))]
        if len(kept) == len(chosen):
            raise SelectionError("No sample has a key or path that --exclude lists. Write keys of index.parquet, one a line.")
        chosen, dropped["exclude"] = kept, len(chosen) - len(kept)
    if selection.sample is not None:
        kept = _drawn(chosen, selection.sample, seed)
        chosen, dropped["sample"] = kept, len(chosen) - len(kept)
    return tuple(chosen), dropped


def _drawn(samples: list[Sample], count: int, seed: int) -> list[Sample]:
    """Return `count` of the samples in their order: every n-th, where those of a split and a class stand together, shuffled."""

    def shuffled(number: int) -> tuple[str, str, bytes]:
        sample = samples[number]
        digest = hashlib.blake2b(f"{seed}/draw/{sample.key}".encode(), digest_size=8).digest()
        return sample.split, sample.category or "|".join(sample.labels), digest

    order = sorted(range(len(samples)), key=shuffled)
    count = min(count, len(order))
    taken = sorted(order[(2 * i + 1) * len(order) // (2 * count)] for i in range(count))
    return [samples[number] for number in taken]


def _names(sample: Sample, option: str) -> set[str]:
    names = (sample.split,) if option == "split" else (sample.category, *sample.labels)
    return {name for name in names if name is not None}


def _among(sample: Sample, option: str, wanted: tuple[str, ...]) -> bool:
    return not _names(sample, option).isdisjoint(wanted)


def _check_known(option: str, wanted: tuple[str, ...], samples: Sequence[Sample]) -> None:
    known = sorted({name for sample in samples for name in _names(sample, option)})
    for name in wanted:
        if name not in known:
            raise SelectionError(unknown_name(option, name, known, f"--{option}"))
