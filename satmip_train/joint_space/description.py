"""Descriptions such as "lat=45..47,month=7,gsd<1": conditions on quantities, and records that fulfil them.

A description is a list of conditions with commas between them: NAME=VALUE, NAME=LOW..HIGH, NAME<VALUE or NAME>VALUE. Names are
those of `QUANTITIES`, and `lat`, `lon`, `month` and `datetime`.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from satmip_data.metadata import clock
from satmip_data.names import did_you_mean
from satmip_data.records import Metadata
from satmip_train.errors import UsageError
from satmip_train.joint_space.quantities import QUANTITIES, with_values
from satmip_train.joint_space.spaces import Categories, Circle, Logarithm, Values

PARTS = ("lat", "lon", "month", "datetime")
"""Names beside those of the quantities."""
NEAR = 0.05
"""By which share of itself a value may differ from one that is asked for and still fit."""
_CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|=|<|>)\s*(.+?)\s*$")
_DATE = re.compile(r"(\d{4})(?:-(\d\d?))?(?:-(\d\d?))?(?:[T ](\d\d?)(?::(\d\d))?(?::(\d\d))?Z?)?$")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; on a circle the way from `low` up to `high`. An open end is infinite."""

    low: float
    high: float
    length: float = math.inf
    """Of the circle."""

    @property
    def way(self) -> float:
        """How far it is from end to end."""
        straight = self.high - self.low
        return straight if straight in (0.0, self.length) or math.isinf(self.length) else straight % self.length

    def holds(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which numbers lie in it; of a single number, those that differ by no more than `NEAR`. NaN lies in none."""
        slack = NEAR * abs(self.low) if self.low == self.high else 0.0
        if math.isfinite(self.length):
            return np.asarray((values - self.low + slack) % self.length <= self.way + 2 * slack)
        return np.asarray((values >= self.low - slack) & (values <= self.high + slack))

    def draw(self, share: float) -> float:
        """Return the number at a share of the way; where an end is open, the other one."""
        if not math.isfinite(self.low) or not math.isfinite(self.high):
            return self.low if math.isfinite(self.low) else self.high
        at = self.low + share * self.way
        return at % self.length if math.isfinite(self.length) else at


@dataclass(frozen=True)
class Condition:
    """What a quantity shall be."""

    name: str
    """Of the quantity."""
    holds: Callable[[Values], npt.NDArray[np.bool_]]
    """Tells which values fit; unknown ones do not."""
    draw: Callable[[float, float], Any]
    """Gives a value that fits from two numbers in [0, 1)."""
    point: bool
    """Whether just one value is meant."""


@dataclass(frozen=True)
class Description:
    """Conditions that all hold."""

    text: str
    conditions: tuple[Condition, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The quantities that it speaks of."""
        return tuple(condition.name for condition in self.conditions)

    def fits(self, records: Sequence[Metadata]) -> npt.NDArray[np.bool_]:
        """Return which records fit. Shape: (N,)."""
        found = np.ones(len(records), bool)
        for condition in self.conditions:
            found &= condition.holds(QUANTITIES[condition.name].values(records))
        return found

    def fulfilled(self, records: Sequence[Metadata], among: Sequence[Metadata]) -> list[Metadata]:
        """Return the records, changed where they do not fit, with what follows from the change (see `with_values`).

        A quantity that does not fit becomes that of a record of `among` that fits, drawn at random; where none does, or one value
        is meant, a value of the condition. The same for the same arguments.
        """
        rng = np.random.default_rng(0)
        changes: list[dict[str, Any]] = [{} for _ in records]
        for condition in self.conditions:
            quantity = QUANTITIES[condition.name]
            mine, others = quantity.values(records), quantity.values(among)
            fitting = np.flatnonzero(condition.holds(others))
            fine = condition.holds(mine) & (not condition.point)
            draws, pair = rng.random(len(records)), rng.random((len(records), 2))
            for number in np.flatnonzero(~fine):
                if len(fitting) and not condition.point:
                    value = others[fitting[int(draws[number] * len(fitting))]]
                else:
                    value = condition.draw(*pair[number])
                changes[number][condition.name] = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        return [with_values(record, change) if change else record for record, change in zip(records, changes, strict=True)]


def parse(text: str) -> Description:
    """Return what a description says.

    Raises:
        UsageError: it cannot be read, with the part that is wrong.
    """
    ranges: dict[str, Range] = {}
    words: dict[str, str] = {}
    for part in text.split(","):
        name, sign, value = _split(part, text)
        if name == "datetime":
            if sign != "=":
                raise UsageError(f'"{part.strip()}" compares a time. Use a time as datetime=2016-07-01, or year>2014.')
            _date(value, ranges, text)
        elif isinstance(_space(name), Categories):
            words[name] = value
        else:
            key = "day" if name == "month" else name
            ranges[key] = _range(name, sign, value, text)
    if "location" in ranges:
        raise UsageError(f'A location has two parts, in "{text}". Use lat=45,lon=7.')
    conditions = [_place(ranges.pop("lat", None), ranges.pop("lon", None))] if {"lat", "lon"} & ranges.keys() else []
    conditions += [_number(name, found) for name, found in ranges.items()]
    conditions += [Condition(n, lambda v, w=w: np.asarray(v == w), lambda _, __, w=w: w, point=True) for n, w in words.items()]  # type: ignore[misc]
    return Description(text, tuple(conditions))


def _split(part: str, text: str) -> tuple[str, str, str]:
    match = _CONDITION.match(part)
    if match is None:
        raise UsageError(
            f'"{part.strip()}" is no condition, in "{text}". Use NAME=VALUE, NAME=LOW..HIGH, NAME<VALUE or NAME>VALUE.'
        )
    name, sign, value = match.groups()
    name = {"date": "datetime", "timestamp": "datetime", "time": "datetime"}.get(name, name)
    if name not in QUANTITIES and name not in PARTS:
        known = [*PARTS, *(other for other in QUANTITIES if other != "location")]
        raise UsageError(f'Unknown name "{name}" in "{text}".{did_you_mean(name, known)} Names are {", ".join(known[:10])} ...')
    if sign != "=" and isinstance(_space(name), Categories):
        raise UsageError(f'"{part.strip()}" compares words. Use {name}=WORD.')
    return name, sign.rstrip("=") or "=", value


def _space(name: str) -> Any:
    return QUANTITIES[name].space if name in QUANTITIES else None


def _range(name: str, sign: str, value: str, text: str) -> Range:
    """Return the numbers that are meant; a whole month, year or hour is all of it."""
    low, dots, high = value.partition("..")
    try:
        first, last = float(low), float(high if dots else low)
    except ValueError as error:
        raise UsageError(f'"{value}" is no number, in "{text}". Use {name}=1 or {name}=1..2.') from error
    if not (math.isfinite(first) and math.isfinite(last)):
        raise UsageError(f'"{value}" is not finite, in "{text}". Leave the condition out, or use {name}<1 or {name}>1.')
    _check(name, first, last, text)
    if name == "month":
        first, last = _month(int(first))[0], _month(int(last))[1]
    whole = name in ("year", "hour") and first.is_integer() and last.is_integer()
    if whole and sign == "=":
        last += 1 - 1e-6
    space = _space(name)
    length = (
        space.length if isinstance(space, Circle) else clock.YEAR_DAYS if name == "month" else 360.0 if name == "lon" else math.inf
    )
    if sign == "=":
        if last < first and not math.isfinite(length):
            raise UsageError(f'"{value}" goes down, in "{text}". Use {name}={high}..{low}.')
        return Range(first, last, length)
    if math.isfinite(length):
        start = -180.0 if name == "lon" else 0.0
        return Range(start, first, length) if sign == "<" else Range(first, start + length - 1e-9, length)
    return Range(-math.inf, first) if sign == "<" else Range(first, math.inf)


def _check(name: str, first: float, last: float, text: str) -> None:
    limits = {"lat": (-90.0, 90.0), "lon": (-180.0, 180.0), "month": (1, 12), "day": (0, 366), "hour": (0, 24)}.get(name)
    if limits is not None and not all(limits[0] <= number <= limits[1] for number in (first, last)):
        raise UsageError(f'{name} is from {limits[0]:g} to {limits[1]:g}, which "{text}" leaves.')
    if isinstance(_space(name), Logarithm) and first <= 0:
        raise UsageError(f'{name} is above 0, and "{text}" asks for {first:g}.')


def _month(number: int) -> tuple[float, float]:
    """Return the first and the last position of a month in a mean year."""
    begin = (date(2001, number, 1) - date(2001, 1, 1)).days
    end = (date(2002, 1, 1) if number == 12 else date(2001, number + 1, 1)) - date(2001, 1, 1)
    return begin / 365 * clock.YEAR_DAYS, end.days / 365 * clock.YEAR_DAYS - 1e-6


def _date(value: str, ranges: dict[str, Range], text: str) -> None:
    """Add the ranges that a date stands for: a year, a month of it, a day of it, or a moment."""
    match = _DATE.match(value)
    try:
        if match is None:
            raise ValueError("it has another form")
        year, month, day, *rest = (None if part is None else int(part) for part in match.groups())
        assert year is not None
        ranges["year"] = Range(year, year + 1 - 1e-6)
        if month is None:
            return
        if day is None:
            ranges["day"] = Range(*_month(date(year, month, 1).month), clock.YEAR_DAYS)
            return
        start = datetime(year, month, day, tzinfo=UTC)
        first, last = clock.day_of_year(start), clock.day_of_year(start + timedelta(hours=23, minutes=59, seconds=59))
        ranges["day"] = Range(first, last, clock.YEAR_DAYS)
        if rest[0] is not None:
            moment = datetime(year, month, day, rest[0], rest[1] or 0, rest[2] or 0, tzinfo=UTC)
            ranges["hour"] = Range(clock.hour_of_day(moment), clock.hour_of_day(moment), clock.DAY_HOURS)
    except ValueError as error:
        raise UsageError(
            f'"{value}" is no time, in "{text}": {error}. Use 2016, 2016-07, 2016-07-01 or 2016-07-01T10:30Z.'
        ) from error


def _number(name: str, found: Range) -> Condition:
    logarithm = isinstance(QUANTITIES[name].space, Logarithm)
    inner = Range(math.log(found.low), math.log(found.high)) if logarithm and found.low > 0 and math.isfinite(found.high) else found

    def draw(share: float, _: float) -> float:
        return math.exp(inner.draw(share)) if inner is not found else found.draw(share)

    return Condition(name, found.holds, draw, point=found.low == found.high)


def _place(lat: Range | None, lon: Range | None) -> Condition:
    """Return the condition on both parts of the location; of a missing part any number fits."""
    lat, lon = lat or Range(-90.0, 90.0), lon or Range(-180.0, 180.0)

    def draw(share: float, other: float) -> tuple[float, float]:
        # Even on the sphere: the sine of the latitude is.
        sines = [math.sin(math.radians(max(-90.0, min(90.0, end)))) for end in (lat.low, lat.high)]
        north = math.degrees(math.asin(sines[0] + share * (sines[1] - sines[0])))
        east = lon.draw(other)
        return (east + 180.0) % 360.0 - 180.0, lat.low if lat.low == lat.high else north

    return Condition(
        "location", lambda v: lat.holds(v[:, 1]) & lon.holds(v[:, 0]), draw, point=lat.low == lat.high and lon.low == lon.high
    )
