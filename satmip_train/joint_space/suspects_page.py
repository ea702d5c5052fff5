"""The page of suspects: each picture beside what its record says and what the picture says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satmip_data.metadata.fields import FIELDS
from satmip_data.names import without_secrets
from satmip_data.pages import render
from satmip_data.pages.coastlines import land_path
from satmip_train.data.dataset import Dataset
from satmip_train.evaluation.gallery import Chip, read_chips
from satmip_train.evaluation.reading_page import Moment
from satmip_train.files import write_atomically
from satmip_train.joint_space.audit import Suspect

PAGE = "index.html"


@dataclass(frozen=True)
class Places:
    """The place that a record names and the one that its picture suggests, for the map."""

    truth: Moment
    found: tuple[Moment, ...]


def write_page(dataset: Dataset, suspects: Sequence[Suspect], about: Sequence[tuple[str, str]], out: Path) -> Path:
    """Write the page of some suspects into a folder and return its path.

    Args:
        dataset: the shards that the suspects are samples of
        suspects: the most suspect first
        about: facts about the audit, each with its name

    Raises:
        UsageError: a chip cannot be read.
    """
    chips = _chips(dataset, suspects)
    shown = [_shown(number, suspect, chips[suspect.entry.key]) for number, suspect in enumerate(suspects, start=1)]
    title = f"{len(shown):,} suspects" if len(shown) != 1 else "1 suspect"
    page = render(
        "suspects.html", root=without_secrets(dataset.root), about=list(about), title=title, suspects=shown, land=land_path()
    )
    path = out / PAGE
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def _chips(dataset: Dataset, suspects: Sequence[Suspect]) -> dict[str, Chip]:
    found: dict[str, Chip] = {}
    for split in {suspect.entry.split for suspect in suspects}:
        numbers = [suspect.entry.index for suspect in suspects if suspect.entry.split == split]
        found |= {chip.key: chip for chip in read_chips(dataset, split, numbers)}
    return found


def _shown(rank: int, suspect: Suspect, chip: Chip) -> dict[str, Any]:
    metadata = suspect.entry.metadata
    record = [(field.name, field.text(value)) for field in FIELDS if (value := field.value(metadata)) is not None]
    return {
        "rank": rank,
        "key": suspect.entry.key,
        "picture": chip.address,
        "quantity": suspect.quantity.replace("_", " "),
        "recorded": suspect.recorded or "nothing",
        "suggested": suspect.suggested,
        "score": "none" if math.isnan(suspect.score) else f"{suspect.score:.1f}",
        "reason": suspect.reason,
        "contradicts": suspect.contradicts,
        "record": record,
        "map": _map(suspect),
    }


def _map(suspect: Suspect) -> Places | None:
    location = suspect.entry.metadata.location
    if suspect.quantity != "location" or location is None or suspect.guess is None:
        return None
    there = suspect.guess.value
    return Places(_mark(location, suspect.recorded), (_mark(there, suspect.suggested),))


def _mark(location: Sequence[float], words: str) -> Moment:
    return Moment((words, "", "", ""), round(location[0], 1), round(-location[1], 1), math.nan)
