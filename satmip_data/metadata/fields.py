"""FIELDS: the one table of the 15 metadata fields. Captions, tabular columns, docs and the CLI all read it."""

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from satmip_data.names import did_you_mean
from satmip_data.records import Metadata

Number = float | None


@dataclass(frozen=True, slots=True)
class Column:
    """One tabular column of a field. `read` takes the field's value, never None."""

    name: str
    unit: str
    kind: Literal["numeric", "categorical"]
    read: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One metadata field: how it is called, written and counted."""

    name: str
    """The paper's name, as captions write it."""
    attribute: str
    """The attribute of `Metadata`."""
    aliases: tuple[str, ...]
    unit: str
    about: str
    text: Callable[[Any], str]
    """The value as the authors' poster writes it."""
    sentence: Callable[[Any], str]
    """The value as one natural sentence."""
    columns: tuple[Column, ...]

    def value(self, metadata: Metadata) -> Any:
        """Return the field's value in `metadata`; None where it is missing."""
        return getattr(metadata, self.attribute)


def _fixed(value: float, digits: int) -> str:
    """Write with a fixed number of decimals, without a minus before a zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0.0 else text


def _pair(digits: int) -> Callable[[tuple[float, float]], str]:
    return lambda pair: f"[{_fixed(pair[0], digits)}, {_fixed(pair[1], digits)}]"


def _decimals(digits: int) -> Callable[[float], str]:
    return lambda value: _fixed(value, digits)


def _iso(time: dt.datetime) -> str:
    return time.replace(microsecond=0, tzinfo=None).isoformat() + "Z"  # strftime writes the year 1 as "1"


_MONTHS = (
    "January February March April May June July August September October November December".split()  # locale-free
)
_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def _date_in_words(time: dt.datetime) -> str:
    day = f"{_WEEKDAYS[time.weekday()]} {time.day} {_MONTHS[time.month - 1]} {time.year}"
    return f"The image was taken on {day} at {time:%H:%M} UTC."


def _place_in_words(location: tuple[float, float]) -> str:
    lon, lat = location
    ns, ew = "north" if lat >= 0 else "south", "east" if lon >= 0 else "west"
    return f"It is centred at latitude {abs(lat):.4f} degrees {ns} and longitude {abs(lon):.4f} degrees {ew}."


def _numeric(name: str, unit: str, read: Callable[[Any], float] = float) -> Column:
    return Column(name, unit, "numeric", read)


def _categorical(name: str, read: Callable[[Any], str] = str) -> Column:
    return Column(name, "", "categorical", read)


def _xy(name: str, unit: str) -> tuple[Column, ...]:
    return _numeric(f"{name}_x", unit, lambda pair: pair[0]), _numeric(f"{name}_y", unit, lambda pair: pair[1])


def _angle(name: str, attribute: str, alias: str, about: str, words: str) -> Field:
    return Field(
        name, attribute, (alias,), "degree", about, _decimals(2),
        lambda value: f"{words} {value:.1f} degrees.", (_numeric(name, "degree"),),
    )  # fmt: skip


FIELDS: tuple[Field, ...] = (
    Field(
        "gsd", "gsd", (), "m", "ground sample distance of the chip along x and y", _pair(4),
        lambda v: f"Each pixel covers {v[0]:.2f} m by {v[1]:.2f} m on the ground.", _xy("gsd", "m"),
    ),
    Field(
        "multispectral_gsd", "multispectral_gsd", ("msgsd",), "m",
        "ground sample distance of the multispectral bands, scaled like the chip", _decimals(4),
        lambda v: f"The multispectral ground sample distance is {v:.2f} m.", (_numeric("multispectral_gsd", "m"),),
    ),
    Field(
        "pixel_size", "pixel_size", ("pixel",), "degree", "size of the chip's pixel along x and y",
        lambda v: f"[{v[0]:.2e}, {v[1]:.2e}]",
        lambda v: f"A pixel spans {v[0]:.2e} degrees of longitude and {v[1]:.2e} degrees of latitude.",
        _xy("pixel_size", "degree"),
    ),
    Field(
        "timestamp", "datetime", ("time",), "UTC", "time of acquisition", _iso, _date_in_words,
        (
            _numeric("year", "year", lambda t: t.year),
            _numeric("month", "month, 1 to 12", lambda t: t.month),
            _numeric("day", "day of the month, 1 to 31", lambda t: t.day),
            _numeric("hour", "hour, 0 to 23, UTC", lambda t: t.hour),
            _numeric("weekday", "day of the week, Monday 0 to Sunday 6", lambda t: t.weekday()),
        ),
    ),
    Field(
        "location", "location", ("loc",), "degree", "longitude and latitude of the footprint's centroid, EPSG:4326", _pair(6),
        _place_in_words,
        (_numeric("longitude", "degree", lambda v: v[0]), _numeric("latitude", "degree", lambda v: v[1])),
    ),
    Field(
        "utm_zone", "utm_zone", ("utm",), "", "UTM zone and latitude band", str,
        lambda v: f"It lies in UTM zone {v}.", (_categorical("utm_zone"),),
    ),
    Field(
        "country_code", "country_code", ("country",), "", "country, ISO 3166-1 alpha-3", str,
        lambda v: f"The country code is {v}.", (_categorical("country_code"),),
    ),
    Field(
        "cloud_cover", "cloud_cover", ("cloud",), "percent", "share of the scene under clouds", lambda v: f"{v:g}",
        lambda v: f"Clouds cover {v:g} percent of the scene.", (_numeric("cloud_cover", "percent"),),
    ),
    Field(
        "scan_direction", "scan_direction", ("scan",), "", "direction in which the sensor scanned", str,
        lambda v: f"The scan direction is {v.lower()}.", (_categorical("scan_direction"),),
    ),
    Field(
        "wavelengths", "wavelengths", ("wave",), "nm", "centre wavelengths of the channels",
        lambda v: "[" + ", ".join(map(str, v)) + "]",
        lambda v: "The bands are centred at " + ", ".join(map(str, v)) + " nm.",
        (_categorical("wavelengths", lambda v: "-".join(map(str, v))),),
    ),
    _angle("target_azimuth_angle", "target_azimuth", "target_azimuth",
           "azimuth of the satellite from the target, clockwise from north", "The target azimuth is"),
    _angle("sun_azimuth_angle", "sun_azimuth", "sun_azimuth",
           "azimuth of the sun, clockwise from north", "The sun stands at azimuth"),
    _angle("sun_elevation_angle", "sun_elevation", "sun_elevation",
           "elevation of the sun above the horizon", "The sun's elevation is"),
    _angle("off_nadir_angle", "off_nadir", "off_nadir", "angle of the line of sight from the nadir", "The view is off nadir by"),
    Field(
        "sensor_platform", "platform", ("sensor",), "", "sensor platform", str,
        lambda v: f"The sensor is {v}.", (_categorical("sensor_platform"),),
    ),
)  # fmt: skip
"""The 15 fields in the order of the authors' poster."""

BY_NAME = {field.name: field for field in FIELDS}
NUMERIC = tuple(column for field in FIELDS for column in field.columns if column.kind == "numeric")
CATEGORICAL = tuple(column for field in FIELDS for column in field.columns if column.kind == "categorical")
DEFAULT_FIELDS = ("gsd", "timestamp", "location")

ALIASES: dict[str, tuple[str, ...]] = {
    **{alias: (field.name,) for field in FIELDS for alias in field.aliases},
    "angles": tuple(f.name for f in FIELDS if f.name.endswith("_angle")),
    "all": tuple(f.name for f in FIELDS),
}
"""Short names and groups, each with the fields it stands for."""


def parse_fields(text: str) -> tuple[str, ...]:
    """Return the field names that a list such as "gsd,time,loc" stands for; see `expand_fields`."""
    return expand_fields(word.strip() for word in text.split(",") if word.strip())


def expand_fields(words: Iterable[str]) -> tuple[str, ...]:
    """Return the field names that names and aliases stand for, each once, in the table's order.

    Raises:
        ValueError: a name is neither a field nor an alias, or there is none.
    """
    words = tuple(word.lower() for word in words)
    known = [*BY_NAME, *ALIASES]
    for word in words:
        if word not in known:
            guess = did_you_mean(word, known)
            raise ValueError(f'Unknown field "{word}" in "{",".join(words)}".{guess} All fields: satmip-data fields')
    if not words:
        raise ValueError("No field is named. Name some, for example gsd,time,loc. All fields: satmip-data fields")
    chosen = {name for word in words for name in ALIASES.get(word, (word,))}
    return tuple(field.name for field in FIELDS if field.name in chosen)
