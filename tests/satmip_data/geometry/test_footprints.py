"""Windows of rasters in any coordinate system on the ground: poles, world maps, long sides, what is off the Earth."""

import itertools
import math

import numpy as np
import pytest
from pyproj import Transformer
from shapely.geometry import MultiPolygon, Point, Polygon

from satmip_data import geometry
from satmip_data.records import Georeference, Window


def test_a_projected_image_lies_where_pyproj_puts_it() -> None:
    """UTM 32N on its central meridian, where a metre on the ground is 0.9996 of a metre of the map."""
    georeference = Georeference((10.0, 0.0, 499_000.0, 0.0, -10.0, 5_300_000.0), "EPSG:32632")
    window = Window(50, 20, 100, 200)
    to_degrees = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    assert geometry.window_centre(georeference, window) == pytest.approx(to_degrees.transform(500_000.0, 5_298_800.0))
    assert geometry.ground_gsd(georeference, window, (100, 200)) == pytest.approx((10 / 0.9996, 10 / 0.9996), rel=1e-6)
    ring = geometry.footprint(georeference, window)
    assert np.allclose(ring[0], to_degrees.transform(499_500.0, 5_297_800.0))
    assert Polygon(ring).contains(Point(geometry.window_centre(georeference, window)))


@pytest.mark.parametrize(("crs", "pole"), [("EPSG:3031", -90.0), ("EPSG:3995", 90.0)])
@pytest.mark.parametrize("height", [100, 92])
def test_a_footprint_over_a_pole_contains_it(crs: str, pole: float, height: int) -> None:
    georeference = Georeference((100.0, 0.0, -5000.0, 0.0, -100.0, 5000.0), crs)
    window = Window(0, 0, 100, height)
    lon, lat = geometry.window_centre(georeference, window)
    assert lat == pytest.approx(pole, abs=0.01)
    ring = geometry.footprint(georeference, window)
    assert ring[0] == ring[-1]
    assert Polygon(ring).is_valid
    assert Polygon(ring).exterior.is_ccw
    for meridian in range(-170, 180, 20):
        near, far = (math.copysign(edge, pole) for edge in (89.99, 89.9))
        inside = [Polygon(part) for part in geometry.split_ring(ring)]
        assert any(part.covers(Point(meridian, near)) for part in inside)
        assert not any(part.covers(Point(meridian, far)) for part in inside)
    assert any(Polygon(ring).intersects(Point(lon + turn, lat)) for turn in (0, 360))
    assert geometry.ground_gsd(georeference, window, (100, height)) == pytest.approx((100.0, 100.0), rel=0.04)


@pytest.mark.parametrize("crs", ["EPSG:3031", "EPSG:3413"])
@pytest.mark.parametrize(
    ("west", "north"), [(0, 0), (-100, 0), (0, 300), (-100, 300), (0, 77), (-33, 0), (-40, 150), (3, 150), (20, 310)]
)
def test_a_footprint_with_a_pole_on_it_or_beside_it_is_the_window(crs: str, west: int, north: int) -> None:
    """Mosaics of the polar regions are cut through the pole: it is a corner of tiles, or lies on a side."""
    georeference, window = Georeference((10.0, 0.0, 10.0 * west, 0.0, -10.0, 10.0 * north), crs), Window(0, 0, 100, 300)
    ring = geometry.footprint(georeference, window)
    assert Polygon(ring).is_valid
    assert Polygon(ring).exterior.is_ccw
    parts = MultiPolygon([Polygon(part) for part in geometry.split_ring(ring)])
    assert parts.area == pytest.approx(geometry.signed_area(ring))
    for col in (-40, -2, 2, 50, 98, 102, 140):
        for row in (-40, -2, 2, 150, 298, 302, 340):
            lon, lat = geometry.lonlat(georeference, col, row)
            assert parts.covers(Point(geometry.wrap_longitude(lon), lat)) == (0 < col < 100 and 0 < row < 300), (col, row)


def test_a_pole_beside_a_window_is_no_point_of_its_footprint() -> None:
    """It lies a 300th of the side away: nearer than longitudes can be followed, and farther than rounding."""
    ring = geometry.footprint(Georeference((10.0, 0.0, 10.0, 0.0, -10.0, 1500.0), "EPSG:3413"), Window(0, 0, 100, 300))
    assert 89.999 < max(lat for _, lat in ring) < 90.0 - 1e-5


def test_a_window_of_half_the_earth_or_more_keeps_its_width() -> None:
    for width in (179, 180, 270, 360):
        ring = geometry.footprint(Georeference((1.0, 0.0, -180.0, 0.0, -1.0, 90.0)), Window(0, 0, width, 180))
        assert sorted(set(ring)) == [(-180.0, -90.0), (-180.0, 90.0), (width - 180.0, -90.0), (width - 180.0, 90.0)]


WORLDS = [("EPSG:3857", 20037508.342789244), ("EPSG:6933", 7314540.83), ("EPSG:4087", 10001965.729), ("EPSG:4269", 90.0)]


@pytest.mark.parametrize(("crs", "top"), [*WORLDS, ("EPSG:4326", 90.0)])
@pytest.mark.parametrize(("west", "width"), [(-180.0, 360.0), (0.0, 360.0), (-179.5, 359.0)])
def test_a_window_of_the_whole_world_is_as_large_as_that(crs: str, top: float, west: float, width: float) -> None:
    """Its left and right side lie at one place."""
    degree = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(1.0, 0.0)[0]
    georeference = Georeference((degree * width / 720, 0.0, degree * west, 0.0, -top / 180, top), crs)
    window = Window(0, 0, 720, 360)
    ring = geometry.footprint(georeference, window)
    latitude = geometry.lonlat(georeference, 0, 0)[1]
    assert geometry.signed_area(ring) == pytest.approx(2 * latitude * width)
    assert sum(map(geometry.signed_area, geometry.split_ring(ring))) == pytest.approx(2 * latitude * width)
    equator = 2 * math.pi * 6378137.0 * width / 360
    assert geometry.ground_gsd(georeference, window, (720, 360))[0] == pytest.approx(equator / 720)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4269", "EPSG:4087"])
@pytest.mark.parametrize("width", [1, 100, 180, 200, 300])
@pytest.mark.parametrize(("top", "height"), [(0, 180), (0, 75), (105, 75)])
def test_a_wide_window_that_ends_at_a_pole_keeps_its_width(crs: str, width: int, top: int, height: int) -> None:
    """In these a pole is a line as long as the equator. Where it lies in EPSG:4087 depends on the version of PROJ."""
    project = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform
    degree, pole = project(1.0, 0.0)[0], project(0.0, 90.0)[1]
    georeference = Georeference((degree, 0.0, -170.0 * degree, 0.0, -pole / 90, pole), crs)
    north, south = (geometry.lonlat(georeference, 0, row)[1] for row in (top, top + height))
    assert max(north, -south) == pytest.approx(90.0)
    ring = geometry.footprint(georeference, Window(0, top, width, height))
    assert Polygon(ring).is_valid
    assert geometry.signed_area(ring) == pytest.approx(width * (north - south))
    assert (min(lon for lon, _ in ring), max(lon for lon, _ in ring)) == pytest.approx((-170.0, width - 170.0))


def test_the_gsd_of_a_wide_window_is_that_of_its_rows() -> None:
    """At 60 degrees of latitude the shortest line from west to east lies far in the north of them."""
    georeference = Georeference((1.0, 0.0, -45.0, 0.0, -1.0, 60.5))
    parallel = math.pi / 2 * 6378137.0 * math.cos(math.radians(60)) / math.sqrt(1 - 0.00669438 * math.sin(math.radians(60)) ** 2)
    assert geometry.ground_gsd(georeference, Window(0, 0, 90, 1), (90, 1))[0] == pytest.approx(parallel / 90, rel=1e-4)


def test_the_gsd_beside_a_pole_is_that_of_the_shortest_lines() -> None:
    """A window of 2.5 km that has all longitudes there: its rows are straight, and adding up parts of them would only round."""
    georeference, window = Georeference((10.0, 0.0, -1000.0, 0.0, -10.0, 2000.0), "EPSG:3031"), Window(0, 0, 256, 256)
    places = [geometry.lonlat(georeference, *point) for point in ((0, 128), (256, 128), (128, 0), (128, 256))]
    sides = geometry.distance(*places[:2]) / 224, geometry.distance(*places[2:]) / 224
    assert geometry.ground_gsd(georeference, window, (224, 224)) == sides


def test_a_sliver_beyond_the_antimeridian_is_no_part() -> None:
    """The intersection of what is narrower than the digits hold is a polygon without points."""
    georeference = Georeference((6.123233995736766e-16, 10.0, 0.0, 10.0, -6.123233995736766e-16, -86.01814494480462), "EPSG:3995")
    parts = geometry.split_ring(geometry.footprint(georeference, Window(0, 0, 10, 10)))
    assert [geometry.signed_area(part) > 0.0 for part in parts] == [True]


def test_rounding_past_a_pole_is_put_back_on_it() -> None:
    assert geometry.lonlat(Georeference((1e-3, 0, 10.0, 0, -1e-3, 90.0)), 0, -1e-9)[1] == 90.0


def test_a_grid_with_pixels_on_the_poles_ends_at_them() -> None:
    """As weather models have: 0.25 degrees a pixel, the first centred on the pole."""
    world = Georeference((0.25, 0, -180.125, 0, -0.25, 90.125))
    assert geometry.lonlat(world, 0, 0) == (-180.125, 90.0)


@pytest.mark.parametrize("affine", [(10.0, 0, 500_000.0, 0, -10.0, 5_000_000.0), (10.0, 0, 500_000.0, 0, -10.0, 5.0)])
def test_metres_are_no_degrees(affine: tuple[float, ...]) -> None:
    with pytest.raises(geometry.OffEarthError, match=r"column 3, row 1 .*500030"):
        geometry.lonlat(Georeference(affine), 3, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("crs", "affine", "width", "height", "corners"),
    [
        ("EPSG:32633", (10.0, 0.0, 399_960.0, 0.0, -10.0, 5_300_040.0), 10_980, 10_980, False),
        ("EPSG:32633", (10.0, 0.0, 399_960.0, 0.0, -10.0, 7_900_020.0), 10_980, 10_980, False),
        ("EPSG:32633", (7.0, 7.0, 4e5, 7.0, -7.0, 7e6), 7000, 7000, False),
        ("EPSG:3035", (1000.0, 0.0, 2_777_193.0, 0.0, -1000.0, 3_408_387.0), 29, 375, False),
        ("EPSG:3031", (100.0, 0.0, 1e6, 0.0, -100.0, 1e6), 3000, 3000, False),
        ("EPSG:32633", (50.0, 0.0, 399_960.0, 0.0, -1.0, 7_900_020.0), 2000, 9000, False),  # half of the shorter side of a pixel
        ("EPSG:32633", (0.5, 0.0, 5e5, 0.0, -0.5, 5.3e6), 2000, 2000, True),
        ("EPSG:3857", (10.0, 0.0, 1e6, 0.0, -10.0, 6e6), 9000, 9000, True),
    ],
)
def test_the_sides_of_a_footprint_are_those_of_the_window(
    crs: str, affine: tuple[float, ...], width: int, height: int, corners: bool
) -> None:
    """To half a pixel, however long they are; where its corners alone are as good, there is nothing between them."""
    ring = geometry.footprint(Georeference(affine, crs), Window(0, 0, width, height))  # type: ignore[arg-type]
    a, b, c, d, e, f = affine
    to_map = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    share = np.linspace(0, 1, 17)[:, None]
    on_map = np.stack(to_map.transform(*np.concatenate([p + (np.subtract(q, p)) * share for p, q in itertools.pairwise(ring)]).T))
    col, row = np.linalg.inv([[a, b], [d, e]]) @ (on_map - [[c], [f]])
    assert np.all((col > -1) & (col < width + 1) & (row > -1) & (row < height + 1))
    beside = np.min(np.abs([col, col - width, row, row - height]), axis=0)
    assert beside.max() < 0.6
    assert (len(ring) == 5) == corners
