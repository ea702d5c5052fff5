"""Distances and densities on the spaces of metadata, against what geometry says."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

from satmip_data.metadata.sun import sun_position
from satmip_data.records import Metadata
from satmip_train.joint_space.quantities import QUANTITIES, with_values
from satmip_train.joint_space.spaces import (
    EARTH_KM,
    MARGIN_KM,
    SPHERE_CELLS,
    Categories,
    Circle,
    Line,
    Logarithm,
    Space,
    Sphere,
    fibonacci,
    unit_vectors,
)

LONGITUDE, LATITUDE = st.floats(-180, 179.999), st.floats(-90, 90)
RNG = np.random.default_rng(0)


@given(st.tuples(LONGITUDE, LATITUDE), st.tuples(LONGITUDE, LATITUDE))
def test_the_sphere_agrees_with_a_geodesic_library(one: tuple[float, float], other: tuple[float, float]) -> None:
    metres = Geod(a=EARTH_KM * 1000, b=EARTH_KM * 1000).inv(*one, *other)[2]
    pair = np.array([one]), np.array([other])
    assert Sphere().distance(*pair)[0] == pytest.approx(metres / 1000, abs=1e-3)
    assert Sphere().distances(*pair)[0, 0] == pytest.approx(metres / 1000, abs=1.0)


def test_neighbours_across_the_seams() -> None:
    """The date line, the poles and the new year separate nothing."""
    places = np.array([[179.9, 10.0], [-179.9, 10.0], [0.0, 90.0], [123.0, 90.0]])
    assert Sphere().distance(places[0], places[1]) < 25
    assert Sphere().distance(places[2], places[3]) < 1e-6
    assert Circle(365.25).distance(np.array([365.0]), np.array([0.5]))[0] == pytest.approx(0.75)
    assert Circle(24.0).distance(np.array([1.0]), np.array([49.0]))[0] == 0
    assert Logarithm().distance(np.array([0.5]), np.array([2.0]))[0] == pytest.approx(np.log(4))
    assert Categories().distance(np.array(["a", "a", ""]), np.array(["a", "b", "a"])).tolist()[:2] == [0, 1]


def test_the_grid_of_the_sphere_is_even() -> None:
    grid = unit_vectors(fibonacci(4096))
    assert np.abs(grid.mean(axis=0)).max() < 1e-3
    everywhere = RNG.normal(size=(3000, 3))
    everywhere /= np.linalg.norm(everywhere, axis=1, keepdims=True)
    counts = np.bincount((everywhere @ grid.T).argmax(axis=1), minlength=4096)
    away = EARTH_KM * np.arccos((everywhere @ grid.T).max(axis=1))
    assert away.max() < 0.8 * np.sqrt(4 * np.pi * EARTH_KM**2 / 4096)
    assert counts.max() <= 7  # of 0.7 on average


SPREAD: dict[str, tuple[Space, np.ndarray]] = {
    "line": (Line(), RNG.normal(size=300)),
    "logarithm": (Logarithm(), np.exp(RNG.normal(size=300))),
    "circle": (Circle(24.0), RNG.uniform(0, 24, 300)),
    "sphere": (Sphere(), np.stack([RNG.uniform(-180, 180, 300), RNG.uniform(-60, 80, 300)], axis=1)),
    "categories": (Categories(), RNG.choice(["a", "b", "c"], 300)),
}


@pytest.mark.parametrize(("space", "values"), SPREAD.values(), ids=SPREAD)
def test_supports(space: Space, values: np.ndarray) -> None:
    """Every value lies in the nearest cell, smoothing keeps mass, and the order of values changes nothing."""
    support = space.support(values)
    index = support.index(values)
    assert (index == space.distances(values, support.centres).argmin(axis=1)).all()
    spread = support.smoother(3 * support.spacing)
    assert spread.sum(axis=1) == pytest.approx(np.ones(len(support)), abs=1e-5)
    again = space.support(values[::-1])
    assert (again.centres == support.centres).all()
    mass = np.eye(len(support), dtype=np.float32)[[3 % len(support)]]
    assert support.centre(mass) == [3 % len(support)]


def test_a_support_keeps_to_where_values_are() -> None:
    europe = np.stack([RNG.uniform(-10, 30, 500), RNG.uniform(36, 60, 500)], axis=1)
    fine, world = Sphere().support(europe), Sphere().support(fibonacci(2000))
    assert fine.spacing < world.spacing / 1.9
    assert len(world) == SPHERE_CELLS
    assert Sphere().distances(fine.centres, europe).min(axis=1).max() <= MARGIN_KM + 1
    assert fine.index(np.array([[-70.0, -50.0], [np.nan, np.nan], [10.0, 50.0]])).tolist()[:2] == [-1, -1]


def test_missing_and_constant_values() -> None:
    assert Line().support(np.array([np.nan, 3.0, 3.0])).centres.tolist() == [3.0]
    assert len(Sphere().support(np.full((4, 2), np.nan))) == 0
    assert Line().support(np.array([0.0, 1.0])).index(np.array([np.nan, 0.0, 5.0])).tolist()[::2] == [-1, -1]
    assert Categories().support(np.array(["", "b", "a"])).index(np.array(["a", "c", ""])).tolist() == [0, -1, -1]


RECORD = Metadata(
    gsd=(0.5, 0.6), multispectral_gsd=2.0, pixel_size=(5e-6, 5e-6), datetime=dt.datetime(2016, 2, 29, 10, 30, tzinfo=dt.UTC),
    location=(7.5, 45.0), utm_zone="32T", country_code="ITA", cloud_cover=0.0, scan_direction="Forward", wavelengths=(660, 545),
    target_azimuth=10.0, sun_azimuth=150.0, sun_elevation=30.0, off_nadir=0.0, platform="GEOEYE01",
)  # fmt: skip


@pytest.mark.parametrize("name", QUANTITIES)
def test_what_is_put_is_read(name: str) -> None:
    quantity = QUANTITIES[name]
    value = quantity.read(RECORD)
    usual = f"other {value}" if isinstance(value, str) else np.multiply(value, 0.5)
    changed = {"year": 2012, "wavelengths": "1-2"}.get(name, usual)
    read = quantity.read(quantity.put(RECORD, changed))
    tolerance = {"day": 1.0, "year": 1.0}.get(name, 1e-3)
    assert read == pytest.approx(changed, abs=tolerance) if not isinstance(changed, str) else read == changed
    assert quantity.space.known(quantity.values([RECORD, Metadata()])).tolist() == [True, False]
    others = [other for other in QUANTITIES.values() if other.field != quantity.field]
    assert all(other.read(quantity.put(RECORD, changed)) == other.read(RECORD) for other in others)


def test_what_follows_from_values_follows() -> None:
    south = with_values(RECORD, {"location": (147.0, -42.0), "gsd": 1.0})
    assert (south.country_code, south.utm_zone, south.cloud_cover) == (None, "55G", 0.0)
    assert (south.sun_azimuth, south.sun_elevation) == sun_position(RECORD.datetime, (147.0, -42.0))
    assert south.multispectral_gsd == pytest.approx(2.0 / np.sqrt(0.3))
    assert with_values(RECORD, {}) == RECORD
    assert with_values(Metadata(), {"location": (1.0, 2.0)}) == Metadata(location=(1.0, 2.0))
    assert with_values(Metadata(), {"day": 0.0, "year": 2015}).datetime == dt.datetime(2015, 1, 1, 12, tzinfo=dt.UTC)
    assert with_values(Metadata(), {"day": 0.0}) == Metadata()
