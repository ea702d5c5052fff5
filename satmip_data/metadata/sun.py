"""Position of the sun over a place at a time. Pure."""

import datetime as dt
import math

from satmip_data.records import Point


def sun_position(time: dt.datetime, location: Point) -> Point:
    """Return azimuth (degrees clockwise from north, 0 to 360) and true elevation (degrees) of the sun's centre.

    The low-precision series of Meeus, *Astronomical Algorithms*, chapter 25, as used by NOAA's solar calculator; good to 0.02
    degree over the years of the satellites. Refraction is left out: it is under 0.1 degree above 10 degrees of elevation.

    Args:
        time: moment with its time zone.
        location: longitude and latitude, degrees.
    """
    days = time.timestamp() / 86400.0 - 10957.5  # since noon of 2000-01-01
    century = days / 36525.0
    mean_longitude = 280.46646 + century * (36000.76983 + century * 0.0003032)
    anomaly = math.radians(357.52911 + century * (35999.05029 - century * 0.0001537))
    centre = (
        math.sin(anomaly) * (1.914602 - century * (0.004817 + century * 0.000014))
        + math.sin(2 * anomaly) * (0.019993 - century * 0.000101)
        + math.sin(3 * anomaly) * 0.000289
    )
    node = math.radians(125.04 - 1934.136 * century)
    longitude = math.radians(mean_longitude + centre - 0.00569 - 0.00478 * math.sin(node))
    obliquity = math.radians(23.4392911 - century * 0.0130042 + 0.00256 * math.cos(node))
    declination = math.asin(math.sin(obliquity) * math.sin(longitude))
    ascension = math.atan2(math.cos(obliquity) * math.sin(longitude), math.cos(longitude))
    sidereal = 280.46061837 + 360.98564736629 * days + century * century * 0.000387933
    hour = math.radians(sidereal + location[0]) - ascension
    lat = math.radians(location[1])
    sine = math.sin(lat) * math.sin(declination) + math.cos(lat) * math.cos(declination) * math.cos(hour)
    azimuth = math.atan2(math.sin(hour), math.cos(hour) * math.sin(lat) - math.tan(declination) * math.cos(lat))
    return (math.degrees(azimuth) + 180.0) % 360.0, math.degrees(math.asin(min(max(sine, -1.0), 1.0)))
