"""Errors of known kinds, put into the records of an archive in memory, to measure what finds them. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from satmip_data.metadata.clock import DAY_HOURS, YEAR_DAYS
from satmip_data.records import Metadata
from satmip_train.joint_space.candidates import quantities_of, swapped, varies
from satmip_train.joint_space.quantities import QUANTITIES

EXCHANGED = "records exchanged"
KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "longitude and latitude swapped": ("location", swapped),
    "sign lost": ("location", lambda location: (min(abs(location[0]), 179.999999), abs(location[1]))),
    "12 hours off": ("hour", lambda hour: (hour + DAY_HOURS / 2) % DAY_HOURS),
    "6 months off": ("day", lambda day: (day + YEAR_DAYS / 2) % YEAR_DAYS),
    "GSD doubled": ("gsd", lambda gsd: 2 * gsd),
}
"""Errors of one quantity: which, and the wrong value for the right one; None where there is none.

A lost sign is that of west or south.
"""


@dataclass(frozen=True)
class Injected:
    """Records with errors."""

    kind: str
    quantity: str | None
    """The one that is wrong; None where the whole record is."""
    records: dict[str, Metadata]
    """What the wrong ones say now, by key."""


def kinds_of(fields: Sequence[str], records: Sequence[Metadata]) -> tuple[str, ...]:
    """Return the kinds of errors that an archive can have: those in quantities that vary in it; an exchange needs one such."""
    varying = {quantity.name for quantity in quantities_of(fields) if varies(quantity, records)}
    return (*((EXCHANGED,) if varying else ()), *(kind for kind, (name, _) in KINDS.items() if name in varying))


def inject(kind: str, records: Mapping[str, Metadata], places: Mapping[str, str], share: float, seed: int) -> Injected:
    """Put an error into a share of the records, at least two.

    Which records it meets depends on their keys and the seed, and not on their order. Those that cannot have it, as a lost sign
    in the north-east, are passed over: the share is one of all records, or all that can have it where these are fewer.

    Args:
        kind: `EXCHANGED` or one of `KINDS`
        records: of the archive, by key
        places: of the records, by key: what is exchanged comes from another place
        share: of the records, in 0..1
        seed: of the draw

    Raises:
        ValueError: no two records can have the error.
    """
    wanted = max(2, round(share * len(records)))
    names = sorted(records)
    order = [names[number] for number in np.random.default_rng(seed).permutation(len(names))]
    if kind == EXCHANGED:
        return Injected(kind, None, _exchange(order, records, places, wanted))
    quantity, error = QUANTITIES[KINDS[kind][0]], KINDS[kind][1]
    found: dict[str, Metadata] = {}
    for key in order:
        value = quantity.read(records[key])
        wrong = None if value is None else error(value)
        if wrong is not None and wrong != value:
            found[key] = quantity.put(records[key], wrong)
        if len(found) == wanted:
            break
    if len(found) < 2:
        raise ValueError(f'{len(found)} of {len(records)} records can have the error "{kind}", and two are needed.')
    return Injected(kind, quantity.name, found)


def _exchange(order: list[str], records: Mapping[str, Metadata], places: Mapping[str, str], wanted: int) -> dict[str, Metadata]:
    """Give each of `wanted` records, all of different places, what the one before says."""
    first_of: dict[str, str] = {}
    for key in order:
        first_of.setdefault(places[key], key)
    chosen = list(first_of.values())[:wanted]
    if len(chosen) < 2:
        raise ValueError("All records are of one place, so none can be exchanged.")
    return {key: records[chosen[number - 1]] for number, key in enumerate(chosen)}
