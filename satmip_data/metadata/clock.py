"""Times as positions in the year and in the day. Pure."""

from calendar import isleap
from datetime import UTC, datetime, timedelta

YEAR_DAYS = 365.25
"""Days of a mean year: the length of the circle of the seasons."""
DAY_HOURS = 24.0


def day_of_year(time: datetime) -> float:
    """Return the days since the start of the year, with fraction, of a mean year of 365.25 days.

    Days are parts of their own year, leap or not: else the last night of a year lay up to a day away from itself.
    """
    return _part_of_year(time) * YEAR_DAYS


def hour_of_day(time: datetime) -> float:
    """Return the hours since midnight, with fraction, in the zone of `time`."""
    return time.hour + time.minute / 60 + time.second / 3600


def year(time: datetime) -> float:
    """Return the year, with fraction."""
    return time.year + _part_of_year(time)


def at(whole_year: int, day: float, hour: float) -> datetime:
    """Return the time of a year's day, as `day_of_year` counts, at an hour of that date, UTC.

    What is no whole day in `day` only chooses the date.
    """
    days = 366 if isleap(whole_year) else 365
    number = min(int(day % YEAR_DAYS / YEAR_DAYS * days), days - 1)
    return datetime(whole_year, 1, 1, tzinfo=UTC) + timedelta(days=number, seconds=round(hour * 3600) % 86_400)


def _part_of_year(time: datetime) -> float:
    since = time - datetime(time.year, 1, 1, tzinfo=time.tzinfo)
    return since / timedelta(days=366 if isleap(time.year) else 365)
