"""From boxes to windows, and from windows to the ground: properties, brute force and points known from maps."""

import itertools
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely.geometry import Point, Polygon

from satmip_data import geometry
from satmip_data.geometry import OutsideError
from satmip_data.records import Aoi, Georeference, Metadata, Window

SIDES = st.integers(1, 400)


@st.composite
def boxes_in_scenes(draw: st.DrawFn) -> tuple[Aoi, int, int]:
    """A scene and a box with fractions of a pixel that may cross its border, but meets it by a hundredth of a pixel or more."""
    width, height = draw(SIDES), draw(SIDES)
    x, y = draw(st.integers(-5000, 100 * width - 1)) / 100, draw(st.integers(-5000, 100 * height - 1)) / 100
    w, h = draw(st.integers(1, 50000)) / 100, draw(st.integers(1, 50000)) / 100
    assume(x + w >= 0.01 and y + h >= 0.01)
    return Aoi(x, y, w, h), width, height


@st.composite
def places(draw: st.DrawFn) -> tuple[Georeference, Window]:
    """A window of a north-up image of square or oblong pixels in degrees, anywhere up to 89.9 degrees of latitude."""
    a, e = draw(st.floats(1e-7, 1e-4)), draw(st.floats(1e-7, 1e-4))
    west, north = draw(st.floats(-180, 180)), draw(st.floats(-89.8, 89.9))
    window = Window(draw(st.integers(0, 500)), draw(st.integers(0, 500)), draw(SIDES), draw(SIDES))
    return Georeference((a, 0.0, west, 0.0, -e, north)), window


def touched(start: float, length: float, limit: int) -> list[int]:
    """The pixels of [0, limit) that share more than a rounding error with a span, one by one."""
    return [i for i in range(limit) if min(start + length, i + 1) - max(start, i) > 1e-6]


@given(boxes_in_scenes())
def test_a_stretched_window_is_the_pixels_the_box_touches(case: tuple[Aoi, int, int]) -> None:
    aoi, width, height = case
    window = geometry.window_from_aoi(aoi, width, height)
    assert list(range(window.x, window.x + window.width)) == touched(aoi.x, aoi.width, width)
    assert list(range(window.y, window.y + window.height)) == touched(aoi.y, aoi.height, height)


@settings(max_examples=500)
@given(boxes_in_scenes(), st.sampled_from([0.0, 0.1, 0.25, 1.0]), st.sampled_from(["stretch", "square"]))
def test_a_window_lies_in_its_scene_and_holds_the_clipped_box(
    case: tuple[Aoi, int, int], context: float, fit: geometry.Fit
) -> None:
    aoi, width, height = case
    window = geometry.window_from_aoi(aoi, width, height, context, fit)
    assert window.x + window.width <= width
    assert window.y + window.height <= height
    assert window.x <= max(aoi.x, 0) + 1e-6
    assert window.y <= max(aoi.y, 0) + 1e-6
    assert window.x + window.width >= min(aoi.x + aoi.width, width) - 1e-6
    assert window.y + window.height >= min(aoi.y + aoi.height, height) - 1e-6


@settings(max_examples=500)
@given(boxes_in_scenes(), st.sampled_from([0.0, 0.5]))
def test_square_fit_is_square_where_the_scene_can_hold_it(case: tuple[Aoi, int, int], context: float) -> None:
    aoi, width, height = case
    stretched = geometry.window_from_aoi(aoi, width, height, context)
    square = geometry.window_from_aoi(aoi, width, height, context, "square")
    side = max(stretched.width, stretched.height)
    assert (square.width, square.height) == (min(side, width), min(side, height))


@pytest.mark.parametrize(
    ("aoi", "window"),
    [
        (Aoi(40, 30, 20, 10), Window(40, 25, 20, 20)),
        (Aoi(40, 30, 10, 21), Window(35, 30, 21, 21)),
        (Aoi(90, 20, 10, 50), Window(50, 20, 50, 50)),
        (Aoi(20, 70, 50, 10), Window(20, 30, 50, 50)),
        (Aoi(0, 20, 10, 50), Window(0, 20, 50, 50)),
        (Aoi(20, -5, 50, 10), Window(20, 0, 50, 50)),
        (Aoi(3, 70, 94, 10), Window(3, 0, 94, 80)),
    ],
)
def test_a_square_stays_about_the_boxs_centre_unless_the_scene_ends(aoi: Aoi, window: Window) -> None:
    assert geometry.window_from_aoi(aoi, 100, 80, fit="square") == window


def test_context_widens_each_side_by_its_share() -> None:
    assert geometry.window_from_aoi(Aoi(100, 100, 40, 20), 500, 500, context=0.25) == Window(90, 95, 60, 30)


@pytest.mark.parametrize(
    ("side", "length"), [(98, 294), (100, 200), (198, 396), (200, 300), (300, 390), (400, 480), (520, 598), (800, 920)]
)
def test_the_context_of_fmows_baseline_is_larger_for_smaller_boxes(side: int, length: int) -> None:
    """fMoW's baseline adds 2, 1, 0.5, 0.3, 0.2 or 0.15 of a box's side, for boxes below 0.1, 0.2 ... 0.5 of their image's."""
    window = geometry.window_from_aoi(Aoi((1000 - side) / 2, 480, side, 40), 1000, 1000, "fmow")
    assert (window.x, window.width) == ((1000 - length) // 2, length)
    assert (window.y, window.height) == (440, 120)


def pixels_as_run(start: int, length: int, side: int, other_side: int) -> list[int]:
    """The pixels of an axis that fMoW's baseline reads, in whole percents: a box of under 10 % of the OTHER side gets 200 % ..."""
    steps = ((10, 200), (20, 100), (30, 50), (40, 30), (50, 20), (10**9, 15))
    both = next(both for below, both in steps if 100 * length < below * other_side)
    margin = both * length // 200
    return [pixel for pixel in range(side) if start - margin <= pixel < start + length + margin]


@given(st.data(), SIDES, SIDES)
@settings(max_examples=300, deadline=None)
def test_the_rule_as_the_baselines_code_ran_takes_shares_of_the_other_side(data: st.DataObject, width: int, height: int) -> None:
    x, y = data.draw(st.integers(-20, width - 1)), data.draw(st.integers(-20, height - 1))
    w, h = data.draw(st.integers(max(1, 1 - x), 2 * width + 20)), data.draw(st.integers(max(1, 1 - y), 2 * height + 20))
    window = geometry.window_from_aoi(Aoi(x, y, w, h), width, height, "fmow-as-run")
    assert [*range(window.x, window.x + window.width)] == pixels_as_run(x, w, width, height)
    assert [*range(window.y, window.y + window.height)] == pixels_as_run(y, h, height, width)


def test_the_rule_as_it_ran_differs_by_the_slip() -> None:
    """A box of 90 x 90 in 1000 x 500: 9 % of the width and 18 % of the height, which the code takes for each other."""
    aoi = Aoi(400, 200, 90, 90)
    assert geometry.window_from_aoi(aoi, 1000, 500, "fmow") == Window(310, 155, 270, 180)
    assert geometry.window_from_aoi(aoi, 1000, 500, "fmow-as-run") == Window(355, 110, 180, 270)


@pytest.mark.parametrize(
    "aoi", [Aoi(10, 0, 5, 5), Aoi(-5, 0, 5, 5), Aoi(0, 10, 5, 5), Aoi(0, -5, 5, 5), Aoi(2, 2, 0, 5), Aoi(2, 2, 5, -1)]
)
@pytest.mark.parametrize("context", [0.0, 1.0])
def test_a_box_off_the_scene_has_no_window_whatever_its_context(aoi: Aoi, context: float) -> None:
    with pytest.raises(OutsideError, match=r"outside.* 10 x 10"):
        geometry.window_from_aoi(aoi, 10, 10, context)


def test_a_box_smaller_than_rounding_reads_one_pixel() -> None:
    assert geometry.window_from_aoi(Aoi(5, 5, 1e-9, 1e-9), 10, 10) == Window(5, 5, 1, 1)


@given(places(), st.integers(1, 512), st.integers(1, 512), st.floats(0.01, 30), st.floats(0.01, 30))
def test_the_ground_a_window_covers_does_not_depend_on_the_chips_size(
    place: tuple[Georeference, Window], columns: int, rows: int, gsd_x: float, gsd_y: float
) -> None:
    georeference, window = place
    scene = Metadata(gsd=(gsd_x, gsd_y), multispectral_gsd=4 * gsd_x, pixel_size=(1e-5, 2e-5), cloud_cover=0.0, platform="X")
    chip = geometry.chip_metadata(scene, georeference, window, (columns, rows))
    assert chip.gsd is not None
    assert chip.gsd[0] * columns == pytest.approx(gsd_x * window.width)
    assert chip.gsd[1] * rows == pytest.approx(gsd_y * window.height)
    assert chip.pixel_size == pytest.approx((1e-5 * window.width / columns, 2e-5 * window.height / rows))
    assert chip.multispectral_gsd == pytest.approx(4 * gsd_x * (window.width / columns + window.height / rows) / 2)
    assert (chip.cloud_cover, chip.platform, chip.datetime) == (0.0, "X", None)


def test_missing_metadata_stay_missing_in_the_chip() -> None:
    assert geometry.chip_metadata(Metadata(), None, Window(0, 0, 5, 5), (10, 10), "ground") == Metadata()


def test_ground_mode_replaces_the_nominal_gsd() -> None:
    georeference = Georeference((1e-5, 0, 8.0, 0, -1e-5, 60.0))
    chip = geometry.chip_metadata(Metadata(gsd=(1.0, 1.0)), georeference, Window(0, 0, 100, 100), (50, 50), "ground")
    # A degree of longitude at 60 N is 55.80 km, a degree of latitude 111.41 km.
    assert chip.gsd == pytest.approx((2 * 0.5580, 2 * 1.1141), rel=1e-3)


@given(places())
def test_ground_gsd_is_the_ellipsoids_radii_times_the_angle(place: tuple[Georeference, Window]) -> None:
    georeference, window = place
    a, f = 6378137.0, 1 / 298.257223563
    e2 = f * (2 - f)
    lat = math.radians(geometry.window_centre(georeference, window)[1])
    normal = a / math.sqrt(1 - e2 * math.sin(lat) ** 2)
    meridian = a * (1 - e2) / (1 - e2 * math.sin(lat) ** 2) ** 1.5
    across = math.radians(georeference.affine[0] * window.width) * normal * math.cos(lat)
    along = math.radians(-georeference.affine[4] * window.height) * meridian
    ground = geometry.ground_gsd(georeference, window, (10, 20))
    assert ground == pytest.approx((across / 10, along / 20), rel=1e-3)


@given(places())
def test_a_footprint_is_closed_counter_clockwise_and_contains_its_centroid(place: tuple[Georeference, Window]) -> None:
    georeference, window = place
    ring = geometry.footprint(georeference, window)
    assert ring[0] == ring[-1]
    assert len(ring) == 5
    assert Polygon(ring).exterior.is_ccw
    assert -180.0 <= min(lon for lon, _ in ring) < 180.0
    lon, lat = geometry.window_centre(georeference, window)
    assert -180.0 <= lon < 180.0
    assert any(Polygon(ring).contains(Point(lon + turn, lat)) for turn in (0.0, 360.0))
    centroid = Polygon(ring).centroid
    assert math.remainder(centroid.x - lon, 360.0) == pytest.approx(0.0, abs=1e-9)
    assert centroid.y == pytest.approx(lat, abs=1e-9)


@given(places(), st.floats(-720, 720))
def test_nothing_but_longitude_changes_when_the_earth_is_turned(place: tuple[Georeference, Window], turn: float) -> None:
    georeference, window = place
    a, b, c, d, e, f = georeference.affine
    turned = Georeference((a, b, c + turn, d, e, f))
    lon, lat = geometry.window_centre(georeference, window)
    turned_lon, turned_lat = geometry.window_centre(turned, window)
    assert turned_lat == lat
    assert math.remainder(turned_lon - lon - turn, 360.0) == pytest.approx(0.0, abs=1e-9)
    assert geometry.ground_gsd(turned, window, (7, 9)) == pytest.approx(geometry.ground_gsd(georeference, window, (7, 9)), rel=1e-4)
    one, other = geometry.footprint(georeference, window), geometry.footprint(turned, window)
    for (x1, y1), (x2, y2) in zip(one, other, strict=True):
        assert y1 == y2
        assert math.remainder(x2 - x1 - turn, 360.0) == pytest.approx(0.0, abs=1e-9)


@given(places())
def test_the_parts_of_a_split_ring_lie_on_the_map_and_sum_to_its_area(place: tuple[Georeference, Window]) -> None:
    ring = geometry.footprint(*place)
    parts = geometry.split_ring(ring)
    assert all(-180.0 <= lon <= 180.0 for part in parts for lon, _ in part)
    assert all(geometry.signed_area(part) > 0 for part in parts)
    assert sum(map(geometry.signed_area, parts)) == pytest.approx(geometry.signed_area(ring), rel=1e-5)


def test_a_ring_across_the_antimeridian_is_cut_there() -> None:
    ring = geometry.footprint(Georeference((0.01, 0, 179.5, 0, -0.01, 10.0)), Window(0, 0, 100, 100))
    east, west = geometry.split_ring(ring)
    assert (min(x for x, _ in east), max(x for x, _ in east)) == pytest.approx((179.5, 180.0))
    assert (min(x for x, _ in west), max(x for x, _ in west)) == pytest.approx((-180.0, -179.5))


def test_every_part_of_a_concave_ring_is_kept() -> None:
    """A U whose two arms, and not its base, pass the antimeridian."""
    ring = (
        (179.0, 0.0),
        (181.0, 0.0),
        (181.0, 1.0),
        (179.5, 1.0),
        (179.5, 2.0),
        (181.0, 2.0),
        (181.0, 3.0),
        (179.0, 3.0),
        (179.0, 0.0),
    )
    parts = geometry.split_ring(ring)
    assert len(parts) == 3
    assert sum(map(geometry.signed_area, parts)) == pytest.approx(geometry.signed_area(ring))


@given(st.lists(st.tuples(st.floats(-180, 180), st.floats(-90, 90)), min_size=1, max_size=6))
def test_unwrapping_changes_whole_turns_and_leaves_no_jump(points: list[tuple[float, float]]) -> None:
    ring = geometry.unwrap(tuple(points))
    assert all(abs(b[0] - a[0]) <= 180.0 + 1e-9 for a, b in itertools.pairwise(ring))
    assert all(
        math.remainder(new[0] - old[0], 360.0) == pytest.approx(0.0, abs=1e-9) for new, old in zip(ring, points, strict=True)
    )


@given(st.floats(-1e6, 1e6))
def test_a_wrapped_longitude_is_the_same_meridian(lon: float) -> None:
    wrapped = geometry.wrap_longitude(lon)
    assert -180.0 <= wrapped < 180.0
    assert math.remainder(wrapped - lon, 360.0) == pytest.approx(0.0, abs=1e-6)


@given(places(), st.booleans())
def test_bounds_give_the_affine_back_whatever_the_rings_order(place: tuple[Georeference, Window], flip: bool) -> None:
    georeference, window = place
    whole = Window(0, 0, window.width, window.height)
    ring = tuple((geometry.wrap_longitude(lon), lat) for lon, lat in geometry.footprint(georeference, whole))
    found = geometry.georeference_from_bounds(ring[::-1] if flip else ring, whole.width, whole.height)
    for col, row in ((0, 0), (whole.width, whole.height), (whole.width / 3, 0)):
        (lon, lat), (expected_lon, expected_lat) = geometry.lonlat(found, col, row), geometry.lonlat(georeference, col, row)
        assert math.remainder(lon - expected_lon, 360.0) == pytest.approx(0.0, abs=1e-9)
        assert lat == pytest.approx(expected_lat, abs=1e-9)


@given(places())
def test_pixel_size_is_the_affines_in_degrees(place: tuple[Georeference, Window]) -> None:
    georeference, window = place
    size = geometry.pixel_size(georeference, window.width, window.height)
    assert size == (georeference.affine[0], -georeference.affine[4])  # to the last bit: noise would become a feature


@pytest.mark.parametrize("turn", [0.0, 30.0, 90.0, 180.0])
@pytest.mark.parametrize(("crs", "x", "y", "step"), [("EPSG:4326", 9.0, 0.0, 1e-4), ("EPSG:32632", 500_000.0, 0.0, 10.0)])
def test_a_turned_image_has_pixels_as_large(turn: float, crs: str, x: float, y: float, step: float) -> None:
    """At the equator, where a degree is as long to the east as to the north."""
    cos, sin = step * math.cos(math.radians(turn)), step * math.sin(math.radians(turn))
    size = geometry.pixel_size(Georeference((cos, sin, x, sin, -cos, y), crs), 8, 8)
    assert size == pytest.approx((1e-4 if crs == "EPSG:4326" else 9e-5,) * 2, rel=0.01)


KNOWN_ZONES = {
    "Zurich": (8.55, 47.37, "32T"),
    "Quito": (-78.5, -0.2, "17M"),
    "Stavanger, widened 32V": (5.73, 58.97, "32V"),
    "west of Norway": (2.9, 58.97, "31V"),
    "where 32V begins": (3.0, 56.0, "32V"),
    "where 32V ends": (12.0, 58.97, "33V"),
    "south of the exception": (5.73, 55.9, "31U"),
    "where X begins, and its 31": (0.0, 72.0, "31X"),
    "west of Svalbard": (-0.1, 78.0, "30X"),
    "Svalbard 31": (8.9, 78.0, "31X"),
    "Svalbard 33 west": (9.0, 78.0, "33X"),
    "Svalbard 33 east": (20.9, 78.0, "33X"),
    "Svalbard 35": (21.0, 78.0, "35X"),
    "Svalbard 37": (41.9, 78.0, "37X"),
    "east of Svalbard": (42.0, 78.0, "38X"),
    "Fiji": (178.4, -18.1, "60K"),
    "east of the antimeridian": (-180.0, 0.0, "1N"),
    "the antimeridian itself": (180.0, 0.0, "1N"),
    "past the antimeridian": (181.0, 0.0, "1N"),
    "northernmost": (0.0, 84.0, "31X"),
    "southernmost": (3.0, -80.0, "31C"),
    "a hair west of the antimeridian": (math.nextafter(180.0, 0.0), 5.0, "60N"),
}


@pytest.mark.parametrize(("lon", "lat", "zone"), KNOWN_ZONES.values(), ids=KNOWN_ZONES.keys())
def test_utm_zones_known_from_maps(lon: float, lat: float, zone: str) -> None:
    assert geometry.utm_zone((lon, lat)) == zone


@given(st.integers(-18000, 17999), st.integers(-8000, 8399))
def test_utm_zone_is_found_by_walking_its_borders(hundredths_lon: int, hundredths_lat: int) -> None:
    lon, lat = hundredths_lon / 100, hundredths_lat / 100
    assume(not (56 <= lat < 64 and 0 <= lon < 12) and lat < 72)
    zone, west = 1, -180.0
    while lon >= west + 6:
        zone, west = zone + 1, west + 6
    bands, south = "CDEFGHJKLMNPQRSTUVWX", -80.0
    while lat >= south + 8:
        bands, south = bands[1:], south + 8
    assert geometry.utm_zone((lon, lat)) == f"{zone}{bands[0]}"


@pytest.mark.parametrize("lat", [84.1, -80.1])
def test_utm_ends_before_the_poles(lat: float) -> None:
    with pytest.raises(ValueError, match="UTM"):
        geometry.utm_zone((0.0, lat))


@pytest.mark.parametrize("sides", [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0)])
def test_a_window_is_at_least_a_pixel_inside_its_image(sides: tuple[int, int, int, int]) -> None:
    Window(0, 0, 1, 1)
    with pytest.raises(ValueError, match="window"):
        Window(*sides)
