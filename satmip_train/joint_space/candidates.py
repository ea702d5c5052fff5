"""Candidates: for a record and one of its quantities, the same record with other plausible values of it. Pure."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from satmip_data.metadata.clock import DAY_HOURS, YEAR_DAYS
from satmip_data.records import Metadata, Point
from satmip_train.joint_space import words
from satmip_train.joint_space.quantities import QUANTITIES, Quantity

Slip = Callable[[Any], Any]
"""A usual mistake undone: value -> the value that was meant; None where the mistake cannot give this value."""


def swapped(location: Point) -> Point | None:
    """Return longitude and latitude in exchanged roles; None where the longitude is no latitude."""
    lon, lat = location
    return (lat, lon) if abs(lon) <= 90 else None


def _mirrored(east: int, north: int) -> Slip:
    return lambda location: (location[0] * east, location[1] * north)


SLIPS: dict[str, dict[str, Slip]] = {
    "location": {
        "longitude and latitude swapped": swapped,
        "sign of the latitude wrong": _mirrored(1, -1),
        "sign of the longitude wrong": _mirrored(-1, 1),
        "both signs wrong": _mirrored(-1, -1),
    },
    "day": {"six months off": lambda day: (day + YEAR_DAYS / 2) % YEAR_DAYS},
    "hour": {"twelve hours off": lambda hour: (hour + DAY_HOURS / 2) % DAY_HOURS},
    "gsd": {"twice too large": lambda gsd: gsd / 2, "half of the true one": lambda gsd: gsd * 2},
}
"""Usual mistakes of quantities, by what is said of a record in which one was found."""


def quantities_of(fields: Sequence[str]) -> tuple[Quantity, ...]:
    """Return what records of the given fields say: of a time its day of the year, hour and year, of others the field itself."""
    return tuple(quantity for quantity in QUANTITIES.values() if quantity.field in fields)


def spoken(quantity: Quantity, record: Metadata) -> str:
    """Return what a record says of a quantity in a few words; empty where it says nothing."""
    value, time = quantity.read(record), record.datetime
    if value is None:
        return ""
    if quantity.name == "location":
        lon, lat = value
        return f"{abs(lat):.2f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.2f}° {'E' if lon >= 0 else 'W'}"
    if quantity.field == "timestamp":
        assert time is not None
        return {"day": f"{time.day} {time:%B}", "hour": f"{time:%H:%M} UTC", "year": str(time.year)}[quantity.name]
    return words.value(quantity.name, value)


def varies(quantity: Quantity, records: Sequence[Metadata]) -> bool:
    """Return whether a quantity has more than one value, in the words of `spoken`, among those records that know it."""
    return len({spoken(quantity, record) for record in records} - {""}) > 1


def pool(quantity: Quantity, records: Mapping[str, Metadata], count: int, seed: int = 0) -> tuple[Any, ...]:
    """Return `count` values at most of records that know the quantity: each is as likely as it is in the archive.

    Which ones depends on the records' keys and the seed, and not on their order.
    """

    def drawn(key: str) -> bytes:
        return hashlib.blake2b(f"{seed}/{quantity.name}/{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()

    known = sorted((key for key, record in records.items() if quantity.read(record) is not None), key=drawn)
    return tuple(quantity.read(records[key]) for key in known[:count])


def candidates(quantity: Quantity, record: Metadata, values: Sequence[Any]) -> list[Metadata]:
    """Return the record with each of the values in the place of its own and all else as it is; none where it knows none."""
    return [] if quantity.read(record) is None else [quantity.put(record, value) for value in values]


def mended(quantity: Quantity, record: Metadata) -> dict[str, Metadata]:
    """Return the record with each usual mistake undone, by the mistake's name, where that changes the value."""
    value = quantity.read(record)
    if value is None:
        return {}
    meant = {name: slip(value) for name, slip in SLIPS.get(quantity.name, {}).items()}
    return {name: quantity.put(record, other) for name, other in meant.items() if other is not None and other != value}
