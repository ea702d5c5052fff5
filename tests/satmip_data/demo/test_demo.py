import dataclasses
import datetime as dt
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pvlib.solarposition import get_solarposition

from satmip_data.cli import commands
from satmip_data.demo import write_demo
from satmip_data.demo.draw import View, boxes_in_pixels, draw, make_view, shadow_heights
from satmip_data.demo.layouts import make_plan
from satmip_data.demo.physics import mean_temperature, season, style, sunlight
from satmip_data.demo.plan import Plan, Shape, frame, ring
from satmip_data.demo.towns import towns, wetness
from satmip_data.demo.world import CLASSES, HABITATS, PLATFORMS, make_acquisitions, make_places
from satmip_data.geometry import distance, utm_zone
from satmip_data.land import on_land
from satmip_data.metadata.sun import sun_position

PLACES = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world") / "fmow"
    return root, write_demo(root, seed=3, places=PLACES, workers=1)


@pytest.fixture(scope="module")
def records(world):
    return [(path, json.loads(path.read_text())) for path in sorted(world[0].rglob("*_rgb.json"))]


def bounds(wkt):
    assert wkt.startswith("POLYGON ((")
    points = [tuple(map(float, pair.split())) for pair in wkt[len("POLYGON ((") : -2].split(",")]
    assert len(points) == 5
    assert points[0] == points[-1]
    lons, lats = zip(*points, strict=True)
    return (min(lons), min(lats), max(lons), max(lats)), points


def digest(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


def test_the_bytes_do_not_depend_on_the_number_of_workers(world, tmp_path):
    root, summary = world
    again = write_demo(tmp_path / "again", seed=3, places=PLACES, workers=2)
    assert digest(root) == digest(again.root)
    assert dataclasses.replace(again, root=root) == summary


def test_the_seed_chooses_the_world():
    assert make_places(0, PLACES) == make_places(0, PLACES)
    assert make_places(0, PLACES) != make_places(1, PLACES)


def test_the_summary_counts_what_was_written(world, records):
    root, summary = world
    assert sum(summary.images.values()) == len(records) == len(list(root.rglob("*.jpg")))
    assert summary.boxes == sum(len(record["bounding_boxes"]) - 1 for _, record in records)
    assert summary.places == len({path.parent for path, _ in records}) == PLACES
    assert summary.images["val"] == sum(path.relative_to(root).parts[0] == "val" for path, _ in records)


def test_the_tree_has_fmows_names(world, records):
    for path, record in records:
        split, category, place, name = path.relative_to(world[0]).with_suffix("").parts
        assert split in {"train", "val"}
        assert category in CLASSES
        assert place.rsplit("_", 1)[0] == category
        assert name.rsplit("_", 2)[0] == place
        assert name.endswith("_rgb")
        assert record["img_filename"] == name + ".tif"


def test_the_pictures_are_what_the_records_say(records):
    for path, record in records:
        with Image.open(path.with_suffix(".jpg")) as image:
            assert image.size == (record["img_width"], record["img_height"])
            assert image.mode == "RGB"
            assert image.layer[0][1:3] == (2, 2)  # 4:2:0
            assert len(set(image.quantization)) == 2


def test_footprints_are_square_on_the_ground_and_pixels_square_in_degrees(records):
    for _, record in records:
        (west, south, east, north), ring_ = bounds(record["raw_location"])
        assert ring_[0] == (west, south)  # counter-clockwise from the bottom left
        assert ring_[1] == (east, south)
        width, height = record["img_width"], record["img_height"]
        assert (east - west) / width == pytest.approx(record["mean_pixel_width"], rel=1e-9)
        assert (north - south) / height == pytest.approx(record["mean_pixel_height"], rel=1e-9)
        middle = ((west + east) / 2, (south + north) / 2)
        across, along = distance((west, middle[1]), (east, middle[1])), distance((middle[0], south), (middle[0], north))
        assert across == pytest.approx(along, rel=1e-4)
        # the ratio of the sides is N cos(lat) / M, to the half pixel that rounding takes
        sine = math.sin(math.radians(middle[1]))
        ratio = math.cos(math.radians(middle[1])) * (1 - 0.00669438 * sine**2) / (1 - 0.00669438)
        assert height == pytest.approx(width * ratio, abs=0.51)
        assert record["utm"] == utm_zone(middle)


def test_boxes_lie_in_their_images_and_on_their_ground(records):
    for _, record in records:
        raw, *labelled = record["bounding_boxes"]
        assert raw["ID"] == -1
        assert "visible" not in raw
        assert len(labelled) >= 1
        (west, south, east, north), ring_ = bounds(record["raw_location"])
        box, ring_ = bounds(raw["raw_location"])
        assert ring_[0] == (box[0], box[3])  # clockwise from the top left
        assert ring_[1] == (box[2], box[3])
        step_x, step_y = record["mean_pixel_width"], record["mean_pixel_height"]
        x, y, width, height = raw["box"]
        expected = (west + x * step_x, north - (y + height) * step_y, west + (x + width) * step_x, north - y * step_y)
        assert np.allclose(box, expected, atol=1.01 * step_x, rtol=0)  # the real boxes are a pixel off
        assert box[0] >= west - 4 * step_x
        assert box[2] <= east + 4 * step_x
        assert box[1] >= south - 4 * step_y - step_y
        assert box[3] <= north + 4 * step_y
        for entry in labelled:
            left, top, across, down = entry["box"]
            assert min(across, down) >= 12
            assert -3 <= left < left + across <= record["img_width"] + 3
            assert -3 <= top < top + down <= record["img_height"] + 3
            assert entry["visible"] in {"True", "False"}
            assert entry["category"] == raw["category"]


def test_the_sun_of_a_record_stands_where_its_time_and_place_put_it(records):
    for _, record in records:
        (west, south, east, north), _ = bounds(record["raw_location"])
        solar = get_solarposition(pd.DatetimeIndex([record["timestamp"]]), (south + north) / 2, (west + east) / 2).iloc[0]
        assert abs((solar["azimuth"] - record["sun_azimuth_dbl"] + 180) % 360 - 180) < 0.1
        assert record["sun_elevation_dbl"] == pytest.approx(solar["elevation"], abs=0.1)
        hour = (pd.Timestamp(record["timestamp"]).hour + pd.Timestamp(record["timestamp"]).minute / 60 + west / 15) % 24
        assert 8.5 < hour < 12.5
        for angle in ("sun_azimuth", "sun_elevation", "off_nadir_angle", "pan_resolution", "multi_resolution"):
            assert record[f"{angle}_min_dbl"] < record[f"{angle}_dbl"] < record[f"{angle}_max_dbl"]


def test_the_platform_decides_resolution_and_years(records):
    by_name = {platform.name: platform for platform in PLATFORMS}
    for _, record in records:
        platform = by_name[record["sensor_platform_name"]]
        assert record["gsd"] == record["pan_resolution_dbl"]
        assert platform.nadir_gsd <= record["gsd"] <= 1.36 * platform.nadir_gsd
        assert record["multi_resolution_dbl"] / record["pan_resolution_dbl"] == pytest.approx(4.003)
        time = pd.Timestamp(record["timestamp"])
        assert platform.first - 0.01 <= time.year + time.day_of_year / 365.25 <= platform.last + 0.01
    # a GeoEye-1 image at fountain_514_1's angle has its resolution
    assert 0.41 * math.cos(math.radians(21.8978748322)) ** -1.75 == pytest.approx(0.468074887991, rel=0.005)


KEYS = {
    "approximate_wavelengths", "bounding_boxes", "catalog_id", "cloud_cover", "country_code", "epsg", "gsd", "img_filename",
    "img_height", "img_width", "mean_pixel_height", "mean_pixel_width", "raw_location", "scan_direction",
    "sensor_platform_name", "spatial_reference", "timestamp", "utm",
    *(f"{a}{v}_dbl" for a in ("multi_resolution", "off_nadir_angle", "pan_resolution", "target_azimuth")
      for v in ("", "_end", "_max", "_min", "_start")),
    *(f"{a}{v}_dbl" for a in ("sun_azimuth", "sun_elevation") for v in ("", "_max", "_min")),
}  # fmt: skip


def test_records_have_every_key_of_the_ground_truth_form(records):
    for _, record in records:
        assert set(record) == KEYS
        assert record["timestamp"].endswith("Z")
        assert len(record["country_code"]) == 3


@pytest.mark.real
def test_records_have_the_keys_and_types_of_a_real_one(records):
    if "SATMIP_REAL_DATA" not in os.environ:
        pytest.skip("SATMIP_REAL_DATA is unset")
    real = json.loads((Path(os.environ["SATMIP_REAL_DATA"]) / "fmow" / "fountain_514_1_rgb.json").read_text())
    for _, record in records:
        assert {k: type(v) for k, v in record.items()} == {k: type(v) for k, v in real.items()}
        for mine, theirs in zip(record["bounding_boxes"], real["bounding_boxes"], strict=False):
            assert {k: type(v) for k, v in mine.items()} == {k: type(v) for k, v in theirs.items()}


@given(
    st.datetimes(dt.datetime(2002, 1, 1), dt.datetime(2020, 1, 1)),
    st.floats(-180, 180),
    st.floats(-70, 80),
)
@settings(max_examples=60, deadline=None)
def test_the_sun_agrees_with_pvlib(time, lon, lat):
    azimuth, elevation = sun_position(time.replace(tzinfo=dt.UTC), (lon, lat))
    solar = get_solarposition(pd.DatetimeIndex([time], tz="UTC"), lat, lon).iloc[0]
    assert elevation == pytest.approx(solar["elevation"], abs=0.05)
    if abs(elevation) < 85:  # near the zenith the azimuth turns quickly
        assert abs((azimuth - solar["azimuth"] + 180) % 360 - 180) < 0.1 / math.cos(math.radians(elevation))


@pytest.mark.parametrize(
    ("time", "location", "expected"),
    [
        ("2015-09-21T15:30:08+00:00", (-73.310776, -3.785814), (77.28, 70.44)),  # the paper's poster
        ("2012-04-02T10:32:22+00:00", (8.583, 47.449), (159.21, 46.18)),  # fountain_514_1
    ],
)
def test_the_sun_agrees_with_real_records(time, location, expected):
    assert sun_position(dt.datetime.fromisoformat(time), location) == pytest.approx(expected, abs=0.5)


def test_places_are_on_every_continent_and_every_class_is_in_both_splits():
    places = make_places(0, 320)
    assert {place.town.continent for place in places} == {"AF", "AS", "EU", "NA", "OC", "SA"}
    for number in (PLACES, 320):
        for split in ("train", "val"):
            assert {place.category for place in make_places(0, number) if place.split == split} == set(CLASSES)
    assert 0.18 < sum(place.split == "val" for place in places) / len(places) < 0.25
    assert max(abs(place.location[0]) for place in places) > 175
    assert max(place.location[1] for place in places) > 68
    assert min(place.location[1] for place in places) < -50


def test_no_place_is_twice_in_the_world():
    places = make_places(0, 320)
    assert len({(place.split, place.category, place.number) for place in places}) == len(places)
    assert len({place.location for place in places}) == len(places)


def test_places_lie_ashore_or_beside_their_town():
    for place in make_places(0, 320):
        lon, lat = place.location
        away = abs((lon - place.town.lon + 180) % 360 - 180) * math.cos(math.radians(lat)), abs(lat - place.town.lat)
        assert math.hypot(*away) < 2.9
        assert on_land(place.location) or max(away) <= 0.061


def test_land_is_told_from_sea():
    assert all(map(on_land, [(10, 50), (134, -24), (-60, -15), (0, 42.5), (178, 68), (-100, 40), (138, 36), (-42, 72)]))
    assert not any(map(on_land, [(-30, 0), (150, 10), (34, 43), (-150, 30), (-84, 60), (18, 34), (0, -70)]))


def test_land_is_as_wet_as_the_towns_around():
    for town in towns():
        alone = min(math.dist((t.lon, t.lat), (town.lon, town.lat)) for t in towns() if t != town) > 4
        if alone:
            assert wetness((town.lon, town.lat)) == pytest.approx(town.wet, abs=0.12)


def test_what_stands_where_follows_from_the_climate():
    """Compared are means over the places of a class, with climates drawn from the towns as the base."""
    places = make_places(0, 600)
    assert {c: sum(p.category == c for p in places) for c in CLASSES} == dict.fromkeys(CLASSES, 50)
    wet = {c: np.mean([p.wet for p in places if p.category == c]) for c in CLASSES}
    warm = {c: np.mean([mean_temperature(p.location[1]) for p in places if p.category == c]) for c in CLASSES}
    assert wet["solar_farm"] + 0.15 < wet["water_treatment_facility"] < wet["lake_or_pond"]
    assert warm["wind_farm"] + 5 < warm["solar_farm"]
    for name, habitat in HABITATS.items():
        inside = [habitat.suits(p.wet, mean_temperature(p.location[1])) for p in places if p.category == name]
        everywhere = np.mean([habitat.suits(t.wet, mean_temperature(t.lat)) for t in towns()])
        assert np.mean(inside) > everywhere + 0.02
    assert HABITATS["solar_farm"].suits(0.2, 20.0) == 1.0
    assert HABITATS["solar_farm"].suits(0.5, 20.0) == pytest.approx(math.exp(-0.5))


def test_temporal_indices_have_gaps_and_no_order():
    shots = [make_acquisitions(place) for place in make_places(0, 100)]
    assert all(1 <= len(s) <= 3 and len({a.index for a in s}) == len(s) for s in shots)
    assert any(max(a.index for a in s) >= len(s) for s in shots)
    assert any([a.time for a in sorted(s, key=lambda a: a.index)] != sorted(a.time for a in s) for s in shots)
    assert min(a.sun[1] for s in shots for a in s) >= 14


def test_boxes_come_in_several_small_and_at_the_border():
    counts, sides, crossing = [], [], 0
    for place in make_places(0, 120):
        shot = make_acquisitions(place)[0]
        boxes = boxes_in_pixels(make_plan(place), make_view(place, shot))
        counts.append(len(boxes))
        sides += [min(w, h) for _, _, w, h in boxes]
        crossing += any(x < 0 or y < 0 or x + w > shot.grid.width or y + h > shot.grid.height for x, y, w, h in boxes)
    assert counts.count(1) > 60
    assert max(counts) >= 3
    assert min(sides) < 40
    assert np.quantile(sides, 0.9) > 150
    assert 3 < crossing < 40


def bare(place, trees=0.0):
    """A plan of open land with nothing on it."""
    return Plan(np.random.default_rng(0), style(place.location, place.wet), 300.0, place.wet, trees=trees)


def lone_tower(azimuth, elevation):
    """Darkened pixels of a 12 m tower in the sun, as metres east and north of its foot."""
    place = next(p for p in make_places(0, 60) if abs(p.location[1]) < 35)
    shot = dataclasses.replace(make_acquisitions(place)[0], sun=(azimuth, elevation), cloud_cover=0, off_nadir=(0.0, 0.0, 0.0))
    view = make_view(place, shot)
    centre = np.array([(view.window[0] + view.window[2]) / 2, (view.window[1] + view.window[3]) / 2])
    plan, with_tower = bare(place), bare(place)
    plan.shapes.append(Shape(frame((400, 400)) + centre, "lawn"))
    with_tower.shapes += [*plan.shapes, Shape(ring(1.5, 1.5, 12) + centre, "lawn", height=12.0)]
    darker = draw(place, plan, shot).astype(float).mean(2) - draw(place, with_tower, shot).astype(float).mean(2)
    rows, cols = np.nonzero(darker > 15)
    east = view.window[0] + (cols + 0.5) * view.pixel[0] - centre[0]
    north = view.window[3] - (rows + 0.5) * view.pixel[1] - centre[1]
    return east, north


@pytest.mark.parametrize(("azimuth", "elevation"), [(180, 30), (135, 40), (62, 25), (300, 50), (10, 35)])
def test_shadows_fall_away_from_the_sun_and_as_long_as_its_elevation_makes_them(azimuth, elevation):
    east, north = lone_tower(azimuth, elevation)
    assert len(east) > 20
    direction = math.degrees(math.atan2(east.mean(), north.mean()))
    assert abs((direction - (azimuth + 180) + 180) % 360 - 180) < 6
    assert np.hypot(east, north).max() == pytest.approx(12 / math.tan(math.radians(elevation)), abs=3.0)


@pytest.mark.parametrize(("azimuth", "step"), [(180.0, (-1, 0)), (0.0, (1, 0)), (90.0, (0, -1)), (270.0, (0, 1))])
def test_shadow_heights_are_those_of_walking_towards_the_sun(azimuth, step):
    heights = np.random.default_rng(0).gamma(0.3, 5.0, (40, 50)).astype(np.float32)
    view = View((0, 0, 50, 40), (50, 40), (1.0, 1.0), (azimuth, 22.0), (0.0, 0.0))
    drop = math.tan(math.radians(22.0))
    expected = np.zeros_like(heights)
    for row in range(40):
        for col in range(50):
            for k in range(64):
                r, c = row - k * step[0], col - k * step[1]
                if 0 <= r < 40 and 0 <= c < 50:
                    expected[row, col] = max(expected[row, col], heights[r, c] - k * drop)
    # the sun in the south throws shadows up the picture: towards it is down
    assert np.allclose(np.maximum(shadow_heights(heights, view), 0), expected, atol=1e-3)


def test_roofs_lean_away_from_the_satellite():
    place = make_places(0, PLACES)[0]
    shot = make_acquisitions(place)[0]
    shot = dataclasses.replace(shot, off_nadir=(25.0,) * 3, target_azimuth=(90.0,) * 3)  # the satellite stands in the east
    east, north = make_view(place, shot).lean
    assert east == pytest.approx(-math.tan(math.radians(25)))
    assert north == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("cover", [10, 35, 70])
def test_clouds_cover_what_the_record_says(cover):
    place = next(p for p in make_places(0, 60) if p.wet > 0.6 and abs(p.location[1]) < 30)
    shot = dataclasses.replace(make_acquisitions(place)[0], cloud_cover=cover)
    white = draw(place, bare(place, trees=1.5), shot).min(2) > 150
    assert 100 * white.mean() == pytest.approx(cover, abs=6)


def test_seasons_turn_with_the_hemisphere():
    january, july = (dt.datetime(2015, month, 15, tzinfo=dt.UTC) for month in (1, 7))
    assert season(january, 65.0, 0.6).snow > 0.9
    assert season(july, 65.0, 0.6).snow == 0.0
    assert season(january, 48.0, 0.6).green < 0.2 < 0.8 < season(july, 48.0, 0.6).green
    assert season(january, -45.0, 0.6).temperature > season(july, -45.0, 0.6).temperature
    assert season(january, 0.0, 0.9).green > 0.9


def test_leaves_turn_in_the_autumn_of_each_hemisphere():
    april, october = (dt.datetime(2015, month, 20, tzinfo=dt.UTC) for month in (4, 10))
    assert season(october, 50.0, 0.6).autumn > 0.5 > season(april, 50.0, 0.6).autumn == 0.0
    assert season(april, -45.0, 0.6).autumn > 0.1 > season(october, -45.0, 0.6).autumn == 0.0
    assert season(october, 5.0, 0.6).autumn == 0.0


def test_spring_is_told_from_late_summer_where_there_is_a_winter():
    """On days of about one temperature."""
    spring, autumn = (season(dt.datetime(2015, month, day, tzinfo=dt.UTC), 50.0, 0.6) for month, day in ((4, 20), (10, 10)))
    assert spring.temperature == pytest.approx(autumn.temperature, abs=1.0)
    assert spring.fresh > 0.4 > autumn.fresh == 0.0
    assert spring.green > autumn.green + 0.05
    late, early = (season(dt.datetime(2015, month, 25, tzinfo=dt.UTC), 55.0, 0.6) for month in (3, 11))
    assert late.snow > early.snow + 0.02
    tropics = season(dt.datetime(2015, 4, 20, tzinfo=dt.UTC), 3.0, 0.6)
    assert (tropics.fresh, tropics.autumn, tropics.snow) == (0.0, 0.0, 0.0)


def test_low_suns_are_dimmer_and_warmer_and_their_shadows_softer():
    light = [sunlight(elevation) for elevation in (14.0, 25.0, 40.0, 60.0, 85.0)]
    assert sorted(light, key=lambda x: x.bright) == light == sorted(light, key=lambda x: (-x.ambient, -x.warm))
    assert sunlight(60.0).bright == pytest.approx(1.0)
    # the sky gives a tenth of the beam: a third of the picture's scale where the sun is at the zenith
    assert sunlight(90.0).ambient == pytest.approx((0.1 / 1.1) ** (1 / 2.2))
    # at air mass 2 the beam has 0.7 ** 1.6 of its strength (Meinel and Meinel)
    ratio = (0.6 * 0.7 ** (2**0.678)) / ((math.sqrt(3) / 2 + 0.1) * 0.7 ** ((2 / math.sqrt(3)) ** 0.678))
    assert sunlight(30.0).bright == pytest.approx(ratio ** (0.5 / 2.2))


def test_a_place_turns_white_in_winter_and_keeps_what_stands_there():
    place = next(p for p in make_places(0, 200) if p.location[1] > 55 and p.wet > 0.5 and p.category == "wind_farm")
    shot = dataclasses.replace(make_acquisitions(place)[0], cloud_cover=0)
    plan = make_plan(place)
    winter, summer = (
        draw(place, plan, dataclasses.replace(shot, time=dt.datetime(2015, m, 15, 9, tzinfo=dt.UTC))).astype(float) for m in (1, 7)
    )
    assert winter.mean() > summer.mean() + 25
    assert (summer[..., 1] - summer[..., 2]).mean() > (winter[..., 1] - winter[..., 2]).mean() + 5
    again = make_plan(place)
    assert all(np.array_equal(a.points, b.points) for a, b in zip(plan.shapes, again.shapes, strict=True))


def test_refusals_say_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match="5 places is too small"):
        write_demo(tmp_path / "a", places=5)
    with pytest.raises(ValueError, match="--workers is 0"):
        write_demo(tmp_path / "b", workers=0)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "file").write_text("")
    with pytest.raises(FileExistsError, match="empty folder"):
        write_demo(tmp_path / "c")


def test_a_world_that_is_there_is_left_alone_and_another_is_refused(tmp_path: Path) -> None:
    first = write_demo(tmp_path / "world", seed=1, places=24, workers=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "world").rglob("*")}
    assert write_demo(tmp_path / "world", seed=1, places=24, workers=1) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "world").rglob("*")} == before
    with pytest.raises(FileExistsError, match="holds another world"):
        write_demo(tmp_path / "world", seed=2, places=24, workers=1)


@pytest.mark.parametrize("text", ["{", "[1]", '{"type": "Topology"}'])
def test_a_users_own_world_json_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "world.json").write_text(text)
    with pytest.raises(FileExistsError, match="holds other files"):
        write_demo(tmp_path, places=24, workers=1)


def test_a_link_to_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "world").symlink_to("disk")
    assert write_demo(tmp_path / "world", places=24, workers=1).root == tmp_path / "world"
    assert (tmp_path / "world").is_symlink()
    assert (tmp_path / "disk/world.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "world"]


def test_a_place_that_cannot_be_written_is_told_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--places", "24", "--workers", "1"]
    result = CliRunner().invoke(commands.main, ["demo", ".", *options])
    assert "a folder of its own" in " ".join(result.output.split())
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(commands.main, ["demo", "file/world", *options])
    assert "Error: [Errno 20] Not a directory" in result.output


def test_a_world_stopped_half_way_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / ".world.part" / "train").mkdir(parents=True)
    (tmp_path / "world.part").mkdir()  # the user's
    write_demo(tmp_path / "world", seed=1, places=24, workers=1)
    assert not (tmp_path / ".world.part").exists()
    assert (tmp_path / "world.part").exists()
