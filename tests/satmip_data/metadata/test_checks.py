"""Physical checks: what is true passes, for any place and time; what is false is flagged, with the numbers."""

import datetime as dt
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pvlib.solarposition import get_solarposition

from satmip_data import geometry
from satmip_data.metadata import checks
from satmip_data.metadata.sun import sun_position
from satmip_data.records import Georeference, Metadata, Window

TIMES = st.datetimes(dt.datetime(2002, 1, 1), dt.datetime(2020, 1, 1)).map(lambda time: time.replace(tzinfo=dt.UTC))
LONS, LATS = st.floats(-180, 179.9), st.floats(-70, 75)
FOUNTAIN = Metadata(
    datetime=dt.datetime(2012, 4, 2, 10, 32, 22, tzinfo=dt.UTC),
    location=(8.5830818, 47.4490394778),
    sun_azimuth=159.207946777,
    sun_elevation=46.1834640503,
)


def sun_of(time: dt.datetime, lon: float, lat: float) -> tuple[float, float]:
    found = get_solarposition(pd.DatetimeIndex([time]), lat, lon).iloc[0]
    return float(found["azimuth"]), float(found["elevation"])


def vector(azimuth: float, elevation: float) -> tuple[float, float, float]:
    a, e = math.radians(azimuth), math.radians(elevation)
    return math.cos(e) * math.sin(a), math.cos(e) * math.cos(a), math.sin(e)


@given(st.tuples(st.floats(0, 360), st.floats(-90, 90)), st.tuples(st.floats(0, 360), st.floats(-90, 90)))
def test_the_arc_between_two_directions_is_that_of_their_vectors(first: tuple[float, float], second: tuple[float, float]) -> None:
    chord = math.dist(vector(*first), vector(*second))
    assert checks.arc_between(first, second) == pytest.approx(math.degrees(2 * math.asin(min(chord / 2, 1.0))), abs=1e-5)


def test_the_sun_stands_where_an_ephemeris_has_it() -> None:
    rng = np.random.default_rng(0)
    times = pd.date_range("2002-01-01", "2030-01-01", 150, tz="UTC") + pd.to_timedelta(rng.uniform(0, 24, 150), "h")
    places = rng.uniform((-180, -89), (180, 89), (150, 2)).tolist()
    off = [
        checks.arc_between(sun_position(time.to_pydatetime(warn=False), (lon, lat)), sun_of(time, lon, lat))
        for time, (lon, lat) in zip(times, places, strict=True)
    ]
    assert max(off) < 0.02
    assert np.mean(off) < 0.006


@given(TIMES, LONS, LATS)
@settings(max_examples=40)
def test_the_sun_of_an_ephemeris_passes(time: dt.datetime, lon: float, lat: float) -> None:
    azimuth, elevation = sun_of(time, lon, lat)
    assert checks.sun(Metadata(datetime=time, location=(lon, lat), sun_azimuth=azimuth, sun_elevation=elevation)) is None


@given(TIMES, LONS, LATS, st.floats(2, 6))
@settings(max_examples=40)
def test_a_sun_too_high_by_more_than_the_tolerance_is_flagged(time: dt.datetime, lon: float, lat: float, off: float) -> None:
    azimuth, elevation = sun_of(time, lon, lat)
    moved = Metadata(datetime=time, location=(lon, lat), sun_azimuth=azimuth, sun_elevation=elevation + off)
    if abs(off - checks.SUN_TOLERANCE) > 0.6:  # refraction near the horizon
        assert (checks.sun(moved) is not None) == (off > checks.SUN_TOLERANCE)


def test_a_real_record_passes_and_its_errors_do_not() -> None:
    def changed(**values: object) -> str | None:
        return checks.sun(Metadata(**{**{name: getattr(FOUNTAIN, name) for name in Metadata.__slots__}, **values}))  # type: ignore[arg-type]

    assert checks.sun(FOUNTAIN) is None
    assert FOUNTAIN.datetime is not None
    assert changed(datetime=FOUNTAIN.datetime + dt.timedelta(minutes=5)) is None
    for wrong in (
        {"datetime": FOUNTAIN.datetime + dt.timedelta(hours=1)},
        {"datetime": FOUNTAIN.datetime + dt.timedelta(days=10)},
        {"location": (8.58, 42.4)},
        {"location": (8.58, -47.45)},
        {"sun_azimuth": 200.8},
    ):
        assert changed(**wrong) is not None, wrong
    message = changed(sun_elevation=20.0)
    assert message is not None
    assert all(number in message for number in ("46.0", "159.2, elevation 20.0", "26."))
    for name in ("datetime", "location", "sun_azimuth", "sun_elevation"):
        assert changed(**{name: None}) is None


def square(lon: float, lat: float, width: int, stretch: float = 1.0) -> tuple[Georeference, int]:
    """Return the georeference of a footprint of 500 m (at the equator) that is square on the ground, and the image's height."""
    sine = math.sin(math.radians(lat)) ** 2
    ratio = math.cos(math.radians(lat)) * (1 - 0.00669437999014 * sine) / (1 - 0.00669437999014) * stretch
    degrees = 0.00449157642
    height = max(round(width * ratio), 1)
    pixel = (degrees / width, degrees * ratio / height)
    return Georeference((pixel[0], 0.0, lon - degrees / 2, 0.0, -pixel[1], lat + degrees * ratio / 2)), height


@given(LONS, LATS, st.integers(100, 20000))
def test_a_footprint_square_on_the_ground_passes_and_a_stretched_one_does_not(lon: float, lat: float, width: int) -> None:
    placed, height = square(lon, lat, width)
    assert checks.footprint_shape(placed, width, height) is None
    for stretch in (0.9, 1.1):
        placed, height = square(lon, lat, width, stretch)
        message = checks.footprint_shape(placed, width, height)
        assert message is not None
        assert "not square" in message
    assert checks.footprint_shape(None, width, height) is None


@given(LONS, LATS, st.integers(100, 20000))
def test_pixel_sizes_are_compared_with_the_footprint(lon: float, lat: float, width: int) -> None:
    placed, height = square(lon, lat, width)
    pixel = (placed.affine[0], -placed.affine[4])
    assert checks.pixel_size(pixel, placed, width, height) is None
    assert checks.pixel_size((pixel[0] * 1.0001, pixel[1]), placed, width, height) is not None
    assert checks.pixel_size((pixel[0], pixel[1] * 4), placed, width, height) is not None
    assert checks.pixel_size(None, placed, width, height) is None
    assert checks.pixel_size(pixel, None, width, height) is None


@given(st.integers(1, 60), st.floats(-79, 71.9), st.sampled_from("CDEFGHJKLMNPQRSTUVWX"))
def test_a_zone_passes_where_the_place_lies_in_it(number: int, lat: float, band: str) -> None:
    expected = ""
    for index, letter in enumerate("CDEFGHJKLMNPQRSTUVW"):
        if -80 + 8 * index <= lat < -72 + 8 * index:
            expected = letter
    placed, height = square(-183.0 + 6 * number, lat, 500)
    # Within 250 m of the next band both will do.
    near = (lat + 80) % 8 < 0.01 or (lat + 80) % 8 > 7.99
    if not near:
        assert (checks.utm_zone(f"{number}{band}", placed, 500, height) is None) == (band == expected)
    assert checks.utm_zone(f"{number % 60 + 1}{expected}", placed, 500, height) is not None


@pytest.mark.parametrize(
    ("lon", "lat", "zone", "passes"),
    [
        (6.0, 50.0, "31U", True),  # across the edge of two zones
        (6.0, 50.0, "32U", True),
        (6.0, 50.0, "33U", False),
        (6.1, 50.0, "31U", False),
        (8.0, 48.0, "32T", True),  # across the edge of two bands
        (8.0, 48.0, "32U", True),
        (4.0, 60.0, "32V", True),  # Norway
        (4.0, 60.0, "31V", True),
        (20.0, 78.0, "33X", True),  # Svalbard
        (20.0, 78.0, "34X", True),
        (20.0, 78.0, "40X", False),
        (180.0, 10.0, "60P", True),
        (180.0, 10.0, "1P", True),
        (0.0, 85.0, "31X", True),  # beyond UTM: nothing to compare
        (0.0, 83.9999, "40X", True),  # its upper edge lies beyond
        (10.0, 48.0, None, True),
    ],
)
def test_zones_at_their_edges(lon: float, lat: float, zone: str | None, passes: bool) -> None:
    placed, height = square(lon, lat, 500)
    message = checks.utm_zone(zone, placed, 500, height)
    assert (message is None) == passes
    assert checks.utm_zone(zone, None, 500, height) is None


@pytest.mark.parametrize("zone", ["31T", "31U", "32T", "32U"])
def test_the_zone_of_any_corner_will_do(zone: str) -> None:
    placed, height = square(6.0, 48.0, 500)
    assert checks.utm_zone(zone, placed, 500, height) is None
    assert checks.utm_zone(f"33{zone[-1]}", placed, 500, height) is not None


def test_the_zone_of_a_wide_image_is_that_of_its_own_middle() -> None:
    """Two degrees from west to east, at 48.5 N: nothing of it lies in band T, a degree further south."""
    wide = Georeference((0.001, 0.0, 8.0, 0.0, -0.001, 48.5))
    assert checks.utm_zone("32U", wide, 2000, 10) is None
    assert checks.utm_zone("32T", wide, 2000, 10) is not None


def test_every_flag_has_a_meaning_and_a_normalised_country_is_no_reason_for_doubt() -> None:
    assert set(checks.FLAGS) > checks.SUSPECT
    assert set(checks.FLAGS) - checks.SUSPECT == {"country_code", "image_damaged"}
    assert all(checks.FLAGS.values())


@example(60.0, 0.5, 0.985, 5000, 5000)  # it would look square half a degree further north
@given(LATS, st.floats(1e-6, 2.0), st.floats(0.97, 1.03), st.integers(1, 5000), st.integers(1, 5000))
def test_the_short_way_to_a_square_says_what_geodesics_say(
    lat: float, side: float, stretch: float, width: int, height: int
) -> None:
    """Sides in degrees of latitude; the image is higher than wide by `stretch`."""
    across = side / math.cos(math.radians(lat - side / 2))
    placed = Georeference((across / width, 0.0, 10.0, 0.0, -side * stretch / height, lat))
    east, north = geometry.ground_gsd(placed, Window(0, 0, width, height), (1, 1))
    square = abs(east - north) <= checks.SHAPE_TOLERANCE * max(east, north) + max(east / width, north / height)
    assert (checks.footprint_shape(placed, width, height) is None) == square
