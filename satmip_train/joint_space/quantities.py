"""Quantities: what of a record is asked for, each with its space, how it is read off metadata and put into them. Pure."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from satmip_data.geometry import utm_zone, wrap_longitude
from satmip_data.metadata import clock
from satmip_data.metadata.sun import sun_position
from satmip_data.records import Metadata
from satmip_train.joint_space.spaces import Categories, Circle, Line, Logarithm, Space, Sphere, Values

Read = Callable[[Metadata], Any]
Put = Callable[[Metadata, Any], Metadata]


@dataclass(frozen=True)
class Quantity:
    """One thing that a record says."""

    name: str
    field: str
    """The metadata field that tells it."""
    space: Space
    unit: str
    """Of its values; of a distance where they are compared by difference."""
    read: Read
    """Gives the value; None where it is missing."""
    put: Put
    """Gives the record with another value and all else as it is. A record without a time takes no day, hour or year."""

    def values(self, records: Iterable[Metadata]) -> Values:
        """Return the values of records, unknown ones as the space writes them. Shape: (N,), on the sphere (N, 2)."""
        found = [self.read(record) for record in records]
        if isinstance(self.space, Categories):
            return np.array(["" if value is None else value for value in found], np.str_)
        unknown = (math.nan, math.nan) if isinstance(self.space, Sphere) else math.nan
        shape = (-1, 2) if isinstance(self.space, Sphere) else (-1,)
        return np.array([unknown if value is None else value for value in found], np.float64).reshape(shape)


def _time(part: Callable[[Any], float]) -> Read:
    return lambda record: None if record.datetime is None else part(record.datetime)


def _put_time(name: str) -> Put:
    def put(record: Metadata, value: Any) -> Metadata:
        if record.datetime is None:
            return record
        parts = {
            "year": record.datetime.year,
            "day": clock.day_of_year(record.datetime),
            "hour": clock.hour_of_day(record.datetime),
        }
        parts[name] = int(value) if name == "year" else float(value)
        return record.replaced(datetime=clock.at(int(parts["year"]), parts["day"], parts["hour"]))

    return put


def _pair(attribute: str) -> tuple[Read, Put]:
    """Return how the geometric mean of a pair is read, and put with the pair's ratio as it is."""

    def read(record: Metadata) -> float | None:
        pair = getattr(record, attribute)
        return None if pair is None else math.sqrt(pair[0] * pair[1])

    def put(record: Metadata, value: Any) -> Metadata:
        pair, now = getattr(record, attribute), read(record)
        scale = 1.0 if not now else value / now
        return record.replaced(**{attribute: (value, value) if not now else (pair[0] * scale, pair[1] * scale)})

    return read, put


def _plain(attribute: str) -> tuple[Read, Put]:
    return (lambda record: getattr(record, attribute)), (lambda record, value: record.replaced(**{attribute: value}))


def _put_place(record: Metadata, value: Any) -> Metadata:
    return record.replaced(location=(wrap_longitude(float(value[0])), float(value[1])))


def _wavelengths(record: Metadata) -> str | None:
    return None if record.wavelengths is None else "-".join(map(str, record.wavelengths))


def _put_wavelengths(record: Metadata, value: Any) -> Metadata:
    return record.replaced(wavelengths=tuple(int(part) for part in str(value).split("-")))


def _number(name: str, attribute: str, space: Space, unit: str) -> Quantity:
    read, put = _plain(attribute)
    return Quantity(name, name, space, unit, read, lambda record, value: put(record, float(value)))


def _word(name: str, attribute: str) -> Quantity:
    read, put = _plain(attribute)
    return Quantity(name, name, Categories(), "", read, lambda record, value: put(record, str(value)))


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("location", "location", Sphere(), "km", lambda record: record.location, _put_place),
        Quantity("day", "timestamp", Circle(clock.YEAR_DAYS), "days", _time(clock.day_of_year), _put_time("day")),
        Quantity("hour", "timestamp", Circle(clock.DAY_HOURS), "hours UTC", _time(clock.hour_of_day), _put_time("hour")),
        Quantity("year", "timestamp", Line(), "years", _time(clock.year), _put_time("year")),
        Quantity("gsd", "gsd", Logarithm(), "m", *_pair("gsd")),
        _number("multispectral_gsd", "multispectral_gsd", Logarithm(), "m"),
        Quantity("pixel_size", "pixel_size", Logarithm(), "degrees", *_pair("pixel_size")),
        _number("cloud_cover", "cloud_cover", Line(), "percent"),
        _number("target_azimuth_angle", "target_azimuth", Circle(360.0), "degrees"),
        _number("sun_azimuth_angle", "sun_azimuth", Circle(360.0), "degrees"),
        _number("sun_elevation_angle", "sun_elevation", Line(), "degrees"),
        _number("off_nadir_angle", "off_nadir", Line(), "degrees"),
        _word("utm_zone", "utm_zone"),
        _word("country_code", "country_code"),
        _word("scan_direction", "scan_direction"),
        Quantity("wavelengths", "wavelengths", Categories(), "", _wavelengths, _put_wavelengths),
        _word("sensor_platform", "platform"),
    )
}
"""Everything that can be asked, by name: `day` is that of the year, 0 to 365.25; of `gsd` and `pixel_size` the geometric mean."""


def with_values(record: Metadata, values: Mapping[str, Any]) -> Metadata:
    """Return a record with other values and with what follows from them, so that it stays one that could be.

    Of what follows only what was known is changed: the sun's angles follow from place and time, the UTM zone from the place, GSDs
    and the pixel size from one another; the country of another place is unknown. A date given for a record without a time needs
    day and year; without an hour it is noon, UTC.

    Args:
        values: quantity -> value
    """
    found = record
    if found.datetime is None and {"day", "year"} <= values.keys():
        found = found.replaced(datetime=clock.at(int(values["year"]), values["day"], values.get("hour", 12.0)))
    for name, value in values.items():
        found = QUANTITIES[name].put(found, value)
    return _consistent(record, found, values.keys())


def _consistent(before: Metadata, after: Metadata, told: Iterable[str]) -> Metadata:
    told = set(told)
    changes: dict[str, Any] = {}
    if after.location is not None and (after.location != before.location or after.datetime != before.datetime):
        if after.datetime is not None and before.sun_azimuth is not None and "sun_azimuth_angle" not in told:
            changes["sun_azimuth"] = sun_position(after.datetime, after.location)[0]
        if after.datetime is not None and before.sun_elevation is not None and "sun_elevation_angle" not in told:
            changes["sun_elevation"] = sun_position(after.datetime, after.location)[1]
    if after.location is not None and after.location != before.location:
        if before.country_code is not None and "country_code" not in told:
            changes["country_code"] = None
        if before.utm_zone is not None and "utm_zone" not in told:
            changes["utm_zone"] = utm_zone(after.location) if -80.0 <= after.location[1] <= 84.0 else None
    return after.replaced(**changes, **_scaled(before, after, told))


def _scaled(before: Metadata, after: Metadata, told: set[str]) -> dict[str, Any]:
    """Return the multispectral GSD and the pixel size that suit another GSD and latitude."""
    changes: dict[str, Any] = {}
    ratio = 1.0 if before.gsd is None or after.gsd is None else after.gsd[0] / before.gsd[0]
    if ratio != 1.0 and after.multispectral_gsd is not None and "multispectral_gsd" not in told:
        changes["multispectral_gsd"] = after.multispectral_gsd * ratio
    if after.pixel_size is None or "pixel_size" in told:
        return changes
    narrow = 1.0
    if before.location is not None and after.location is not None:
        cosines = [max(math.cos(math.radians(place[1])), 1e-3) for place in (before.location, after.location)]
        narrow = cosines[0] / cosines[1]
    if (ratio, narrow) != (1.0, 1.0):
        changes["pixel_size"] = (after.pixel_size[0] * ratio * narrow, after.pixel_size[1] * ratio)
    return changes
