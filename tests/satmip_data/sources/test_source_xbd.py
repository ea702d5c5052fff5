"""xBD: the georeference is the fit of the building corners, and nothing is lost without a reason."""

import copy
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fmow_tree import with_floats
from hypothesis import given
from hypothesis import strategies as st
from shapely import from_wkt

from satmip_data import geometry
from satmip_data.records import REASONS, Reject, Scene, Window
from satmip_data.sources.base import Item
from satmip_data.sources.xbd import UnplacedError, Xbd, _corners, fit_affine, worst_residual
from tests.data.xbd.make import AFFINE, house, record, to_lonlat, write_xbd_tree

RNG = np.random.default_rng(7)
HOUSES = [house(RNG) for _ in range(12)]
NAME = "made-up-fire_00000000_pre_disaster"
ITEM = Item(f"labels/{NAME}.json", f"images/{NAME}.png")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_xbd_tree(tmp_path)
    return tmp_path


def read(root: Path, data: Any, source: Xbd | None = None, item: Item = ITEM) -> Scene | Reject:
    """Read one label file that holds `data`."""
    (root / item.metadata).parent.mkdir(parents=True, exist_ok=True)
    (root / item.metadata).write_text(data if isinstance(data, str) else json.dumps(data))
    (found,) = (source or Xbd()).read_item(str(root), item)
    return found


def scene_of(found: Scene | Reject) -> Scene:
    assert isinstance(found, Scene), found
    return found


def changed(**metadata: Any) -> dict[str, Any]:
    data = record(HOUSES, f"{NAME}.png")
    data["metadata"] |= metadata
    return data


def test_a_tree_becomes_scenes_of_places_seen_twice(tree: Path) -> None:
    source = Xbd(val_fraction=0.5)
    items = source.list_items(str(tree))
    scenes = [scene_of(found) for item in items for found in source.read_item(str(tree), item)]
    assert [scene.key for scene in scenes] == sorted(scene.key for scene in scenes)
    assert len({scene.key for scene in scenes}) == 8
    assert {scene.place for scene in scenes} == {f"made-up-fire_{i:08d}" for i in range(4)}
    assert len({(scene.place, scene.split) for scene in scenes}) == 4
    assert (tree / scenes[0].path).exists()


def test_metadata_are_the_records_and_the_gsd_is_the_fits(tmp_path: Path) -> None:
    scene = scene_of(read(tmp_path, record(HOUSES, f"{NAME}.png")))
    metadata = scene.metadata
    assert metadata.gsd == pytest.approx((0.445, 0.444), abs=0.002)
    assert metadata.multispectral_gsd == 1.8769937
    assert metadata.pixel_size == pytest.approx((5.1e-06, 4.0e-06), rel=2e-5)
    assert metadata.location == pytest.approx(to_lonlat(64, 64), abs=1e-9)
    assert metadata.datetime is not None
    assert metadata.datetime.isoformat() == "2017-10-11T19:19:41+00:00"
    assert (metadata.platform, metadata.off_nadir, metadata.target_azimuth) == ("GEOEYE01", 21.352135, 109.77001)
    assert (metadata.sun_azimuth, metadata.sun_elevation) == (166.999, 43.562)
    missing = (metadata.utm_zone, metadata.country_code, metadata.cloud_cover, metadata.scan_direction, metadata.wavelengths)
    assert missing == (None,) * 5


def test_whole_numbers_that_are_written_as_floats_are_whole(tmp_path: Path) -> None:
    scene = scene_of(read(tmp_path, with_floats(record(HOUSES, f"{NAME}.png"))))
    assert scene == scene_of(read(tmp_path, record(HOUSES, f"{NAME}.png")))
    assert {type(side) for side in (scene.width, scene.height, *(box.x for box in scene.aois))} == {int}


def test_the_fit_finds_the_affine_the_houses_were_made_with(tmp_path: Path) -> None:
    scene = scene_of(read(tmp_path, record(HOUSES, f"{NAME}.png")))
    assert scene.georeference is not None
    for column, row in ((0, 0), (128, 0), (0, 128), (128, 128)):
        found = geometry.lonlat(scene.georeference, column, row)
        assert geometry.distance(found, to_lonlat(column, row)) < 1e-3


@given(st.integers(0, 1000), st.floats(-180, 180), st.floats(-80, 80), st.floats(0, 0.02))
def test_the_fit_is_the_least_squares_of_the_normal_equations(seed: int, lon: float, lat: float, noise: float) -> None:
    """Also across the antimeridian, where the points' longitudes jump."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0, 1024, (40, 2))
    degrees = pixels @ np.array([[5e-6, -1e-8], [2e-8, -4e-6]]) + [lon, lat] + rng.normal(0, noise * 5e-6, (40, 2))
    wrapped = tuple((geometry.wrap_longitude(float(x)), float(y)) for x, y in degrees)
    found = fit_affine(tuple(map(tuple, pixels.tolist())), wrapped, 1.0)
    columns = np.column_stack([pixels - 512.0, np.ones(40)])
    matrix = np.linalg.solve(columns.T @ columns, columns.T @ (degrees - [lon, lat]))
    for pixel in ((0.0, 0.0), (1024.0, 1024.0)):
        expected = np.array([pixel[0] - 512.0, pixel[1] - 512.0, 1.0]) @ matrix + [lon, lat]
        x, y = geometry.lonlat(found, *pixel)
        assert math.remainder(x - expected[0], 360.0) == pytest.approx(0.0, abs=1e-11)
        assert y == pytest.approx(expected[1], abs=1e-11)


def test_polygons_of_which_one_form_has_other_corners_are_left_out() -> None:
    def shape(uid: str, wkt: str) -> dict[str, Any]:
        return {"properties": {"uid": uid}, "wkt": wkt}

    triangle, square = "POLYGON ((1 2, 3 2, 3 4, 1 2))", "POLYGON ((1 2, 3 2, 3 4, 1 4, 1 2))"
    features = {
        "xy": [shape("a", triangle), shape("b", triangle), shape("d", triangle)],
        "lng_lat": [shape("a", square), shape("b", triangle), shape("c", triangle)],
    }
    ring = ((1.0, 2.0), (3.0, 2.0), (3.0, 4.0), (1.0, 2.0))
    assert _corners(features) == (ring, ring)


def test_points_on_both_sides_of_the_antimeridian_are_fitted_as_one() -> None:
    pixels = ((0.0, 0.0), (1000.0, 0.0), (1000.0, 1000.0), (0.0, 1000.0))
    degrees = tuple((geometry.wrap_longitude(179.998 + 5e-6 * x), 10.0 - 5e-6 * y) for x, y in pixels)
    found = fit_affine(pixels, degrees, 1.0)
    assert found.affine == pytest.approx((5e-6, 0.0, 179.998, 0.0, -5e-6, 10.0), abs=1e-12)


def test_too_few_points_or_points_on_a_line_place_nothing() -> None:
    with pytest.raises(UnplacedError, match="needs 3 points"):
        fit_affine((), (), 1.0)
    line = tuple((float(i), 2.0 * i) for i in range(30))
    with pytest.raises(UnplacedError, match="on one line"):
        fit_affine(line, tuple(to_lonlat(*point) for point in line), 1.0)


def test_a_point_a_few_metres_off_is_no_georeference(tmp_path: Path) -> None:
    data = record(HOUSES, f"{NAME}.png")
    moved = [to_lonlat(x + 30, y) for x, y in HOUSES[0]]
    data["features"]["lng_lat"][0] = record([HOUSES[0]], NAME)["features"]["lng_lat"][0]
    ring = ", ".join(f"{x:.12f} {y:.12f}" for x, y in [*moved, moved[0]])
    data["features"]["lng_lat"][0]["wkt"] = f"POLYGON (({ring}))"
    found = read(tmp_path, data)
    assert isinstance(found, Reject)
    assert found.reason == "no_georeference"
    assert "allows 1 m" in found.message
    assert isinstance(read(tmp_path, data, Xbd(max_residual=20.0)), Scene)


def test_a_tile_without_buildings_has_no_georeference(tmp_path: Path) -> None:
    found = read(tmp_path, record([], f"{NAME}.png"))
    assert isinstance(found, Reject)
    assert (found.path, found.stage, found.reason, found.key) == (ITEM.metadata, "scan", "no_georeference", NAME)
    assert "3 points" in found.message


@given(st.integers(1, 300), st.integers(1, 90), st.integers(1, 90))
def test_the_grid_shows_every_pixel_and_none_outside(tile: int, width: int, height: int) -> None:
    seen = np.zeros((height, width), dtype=int)
    aois = Xbd(tile=tile)._aois(width, height, [])
    for aoi in aois:
        window = geometry.window_from_aoi(aoi, width, height)
        assert (window.width, window.height) == (min(tile, width), min(tile, height))
        seen[window.y : window.y + window.height, window.x : window.x + window.width] += 1
    assert seen.min() == 1
    assert len({aoi.name for aoi in aois}) == len(aois) == -(-width // min(tile, width)) * -(-height // min(tile, height))


def test_boxes_are_named_by_row_and_column_and_labelled_by_their_buildings(tmp_path: Path) -> None:
    def row_of_houses(count: int, x: float, y: float) -> list[list[tuple[float, float]]]:
        return [[(x + 4 * i, y), (x + 4 * i + 3, y), (x + 4 * i + 3, y + 3)] for i in range(count)]

    houses = row_of_houses(9, 2, 2) + row_of_houses(10, 66, 70)
    scene = scene_of(read(tmp_path, record(houses, NAME), Xbd(tile=64)))
    assert [(aoi.name, aoi.category) for aoi in scene.aois] == [
        ("r0c0", "few"), ("r0c1", "none"), ("r1c0", "none"), ("r1c1", "many"),
    ]  # fmt: skip
    unlabelled = scene_of(read(tmp_path, record(houses, NAME), Xbd(tile=64, label="none")))
    assert {aoi.category for aoi in unlabelled.aois} == {None}


def test_a_building_on_the_border_of_tiles_counts_once() -> None:
    for building in ((32.0, 10.0), (10.0, 32.0), (32.0, 32.0), (0.0, 0.0)):
        labels = [aoi.category for aoi in Xbd(tile=32)._aois(64, 64, [building])]
        assert sorted(labels, key=str) == ["few", "none", "none", "none"], building


def test_folders_name_the_splits_and_a_flat_tree_is_split_by_place(tmp_path: Path) -> None:
    write_xbd_tree(tmp_path / "tier3", tiles=1)
    write_xbd_tree(tmp_path / "test", tiles=1, seed=1)
    items = Xbd().list_items(str(tmp_path))
    assert [scene_of(found).split for item in items for found in Xbd().read_item(str(tmp_path), item)] == ["tier3"] * 2 + [
        "test"
    ] * 2
    split = Xbd()._split
    assert {Xbd(val_fraction=0.0)._split("images/a.png", f"a_{i}") for i in range(50)} == {"train"}
    assert {Xbd(val_fraction=1.0)._split("images/a.png", f"a_{i}") for i in range(50)} == {"val"}
    share = sum(split("images/a.png", f"a_{i}") == "val" for i in range(2000)) / 2000
    assert share == pytest.approx(0.2, abs=0.03)


def test_images_and_label_files_without_each_other_are_told(tree: Path) -> None:
    (tree / "labels" / f"{NAME}.json").unlink()
    other = "made-up-fire_00000001_pre_disaster"
    (tree / "images" / f"{other}.png").unlink()
    items = Xbd().list_items(str(tree))
    assert len(items) == 8
    rejects = [found for item in items for found in Xbd().read_item(str(tree), item) if isinstance(found, Reject)]
    assert [(r.path, r.reason) for r in rejects] == [
        (f"images/{NAME}.png", "metadata_missing"),
        (f"labels/{other}.json", "image_missing"),
    ]


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"images/\*.png"):
        Xbd().list_items(str(tmp_path))


@pytest.mark.parametrize("options", [{"tile": 0}, {"val_fraction": 1.5}, {"max_residual": 0.0}, {"max_residual": math.nan}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"--(tile|val-fraction|max-residual) is"):
        Xbd(**options)


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        ("{", "metadata_unreadable", "readable JSON"),
        ("[" * 100_000, "metadata_unreadable", "nested too deep"),
        ([], "metadata_invalid", "is not of type 'object'"),
        ({"metadata": {}}, "metadata_invalid", "is a required property"),
        (changed(width=0), "metadata_invalid", "$.metadata.width: 0 is less"),
        (changed(gsd=math.nan), "metadata_invalid", "$.metadata.gsd: 'NaN'"),
        (changed(gsd=10**400), "metadata_invalid", "is greater than the maximum"),
        (json.dumps(changed(gsd=1.5)).replace("1.5,", "1e999,"), "metadata_invalid", "$.metadata.gsd: inf"),
        (changed(capture_date="yesterday"), "metadata_invalid", 'capture_date is "yesterday"'),
        (changed(sun_elevation=91.0), "metadata_invalid", "$.metadata.sun_elevation: 91.0"),
    ],
)
def test_bad_label_files_are_rejected_with_key_and_value(tmp_path: Path, data: Any, reason: str, message: str) -> None:
    found = read(tmp_path, data)
    assert isinstance(found, Reject)
    assert (found.reason, found.stage, found.key) == (reason, "scan", NAME)
    assert message in found.message


@pytest.mark.parametrize("wkt", ["POLYGON ((", "POINT (1 2)", "POLYGON EMPTY", "POLYGON ((0 95, 1 95, 1 96, 0 95))"])
def test_a_polygon_that_is_none_or_off_the_earth_is_rejected(tmp_path: Path, wkt: str) -> None:
    data = record(HOUSES, NAME)
    data["features"]["lng_lat"][3]["wkt"] = wkt
    found = read(tmp_path, data)
    assert isinstance(found, Reject)
    assert found.reason == "metadata_invalid"
    assert found.message.startswith("wkt of uid-3 ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "POLYGON ((0 0, 1 0, 1 1, 0 0))", "2017-01-01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "wkt", "properties"]), inner, max_size=2),
    max_leaves=5,
)
BASE = record(HOUSES[:3], NAME)


@given(st.sampled_from(["metadata", "features"]), st.data())
def test_no_label_file_makes_the_source_raise(part: str, data: st.DataObject) -> None:
    record_ = copy.deepcopy(BASE)
    key = data.draw(st.sampled_from(sorted(record_[part])))
    record_[part][key] = data.draw(JSON)
    with tempfile.TemporaryDirectory() as folder:
        found = read(Path(folder), record_)
    assert isinstance(found, Scene) or found.reason in REASONS


def test_the_affine_of_the_made_tiles_is_square_on_the_ground() -> None:
    gsd = geometry.ground_gsd(geometry.Georeference(AFFINE), Window(0, 0, 128, 128), (128, 128))
    assert gsd[0] == pytest.approx(gsd[1], rel=0.01)


@pytest.mark.real
@pytest.mark.skipif("SATMIP_REAL_DATA" not in os.environ, reason="SATMIP_REAL_DATA does not name the real data")
def test_every_real_pair_is_placed_to_centimetres() -> None:
    root = Path(os.environ["SATMIP_REAL_DATA"]) / "xbd"
    items = Xbd().list_items(str(root))
    assert len(items) == 18
    for item in items:
        scene = scene_of(Xbd().read_item(str(root), item)[0])
        assert scene.georeference is not None
        assert scene.metadata.gsd is not None
        assert 0.40 < min(scene.metadata.gsd) <= max(scene.metadata.gsd) < 0.55
        shapes = json.loads((root / item.metadata).read_text())["features"]["lng_lat"]
        xy = {s["properties"]["uid"]: s for s in json.loads((root / item.metadata).read_text())["features"]["xy"]}
        outline = geometry.footprint(scene.georeference, Window(0, 0, scene.width, scene.height))
        for one in shapes:
            degrees, pixels = from_wkt(one["wkt"]), from_wkt(xy[one["properties"]["uid"]]["wkt"])
            assert from_wkt(f"POLYGON (({', '.join(f'{x:.15g} {y:.15g}' for x, y in outline)}))").contains(degrees.centroid)
            assert worst_residual(scene.georeference, tuple(pixels.exterior.coords), tuple(degrees.exterior.coords)) < 0.05
