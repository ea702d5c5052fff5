"""fMoW: names, both forms of the records, vendor oddities, and one real record by its numbers."""

import copy
import dataclasses
import gc
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pvlib
import pytest
from helpers.fmow_tree import record, with_floats, write_fmow_tree
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shapely import GEOSException, from_wkt

from satmip_data import geometry
from satmip_data.pipeline.index import collector_paused
from satmip_data.records import REASONS, Aoi, Reject, Scene, Window
from satmip_data.sources import SOURCES
from satmip_data.sources.base import InvalidError, Item, parse_ring
from satmip_data.sources.fmow.source import Fmow

STEM = "train/fountain/fountain_514/fountain_514_1_rgb"
ITEM = Item(f"{STEM}.json", f"{STEM}.jpg")

# The numbers of the real record of fountain_514_1_rgb that the tests need.
BOX_RING = (
    "POLYGON ((8.5829783604202152 47.4491842338692322, 8.5833139643901841 47.4491842338692322, "
    "8.5833139643901841 47.4489085080230737, 8.5829783604202152 47.4489085080230737, 8.5829783604202152 47.4491842338692322))"
)
FOUNTAIN: dict[str, Any] = {
    "img_filename": "fountain_514_1_rgb.tif",
    "img_width": 977,
    "img_height": 663,
    "gsd": 0.468074887991,
    "multi_resolution_dbl": 1.87378120422,
    "mean_pixel_width": 4.597314657113e-06,
    "mean_pixel_height": 4.595430769222e-06,
    "raw_location": (
        "POLYGON ((8.5808360117899998 47.447516092500003, 8.5853275882099993 47.447516092500003, "
        "8.5853275882099993 47.450562863099996, 8.5808360117899998 47.450562863099996, 8.5808360117899998 47.447516092500003))"
    ),
    "utm": "32T",
    "country_code": "CHE",
    "cloud_cover": 0,
    "timestamp": "2012-04-02T10:32:22Z",
    "scan_direction": "Reverse",
    "approximate_wavelengths": [661, 545, 477],
    "sensor_platform_name": "GEOEYE01",
    "target_azimuth_dbl": 31.2082061768,
    "sun_azimuth_dbl": 159.207946777,
    "sun_elevation_dbl": 46.1834640503,
    "off_nadir_angle_dbl": 21.8978748322,
    "bounding_boxes": [
        {"ID": -1, "box": [466, 299, 72, 60], "category": "fountain", "crowd_rank": 0.662536, "raw_location": BOX_RING},
        {"ID": 47768, "box": [466, 299, 72, 60], "category": "fountain", "visible": "True"},
    ],
}


def read(root: Path, data: Any, source: Fmow | None = None, item: Item = ITEM) -> Scene | Reject:
    """Read one record that holds `data`."""
    (root / item.metadata).parent.mkdir(parents=True, exist_ok=True)
    (root / item.metadata).write_text(data if isinstance(data, str) else json.dumps(data))
    (found,) = (source or Fmow()).read_item(str(root), item)
    return found


def scene_of(found: Scene | Reject) -> Scene:
    assert isinstance(found, Scene), found
    return found


def changed(**values: Any) -> dict[str, Any]:
    return {**FOUNTAIN, **values}


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in FOUNTAIN.items() if key not in keys}


def check_fountain(scene: Scene) -> None:
    """What the issue says of this record, and what an ephemeris says of its sun."""
    (aoi,) = scene.aois
    assert aoi == Aoi(466, 299, 72, 60, "fountain")
    window = geometry.window_from_aoi(aoi, scene.width, scene.height)
    assert window == Window(466, 299, 72, 60)
    chip = geometry.chip_metadata(scene.metadata, scene.georeference, window, (224, 224))
    assert chip.gsd is not None
    assert [round(value, 4) for value in chip.gsd] == [0.1505, 0.1254]
    assert chip.location is not None
    west, south, east, north = from_wkt(BOX_RING).bounds
    assert abs(chip.location[0] - (west + east) / 2) <= 1.000001 * FOUNTAIN["mean_pixel_width"]
    assert abs(chip.location[1] - (south + north) / 2) <= 1.000001 * FOUNTAIN["mean_pixel_height"]
    assert scene.metadata.utm_zone == geometry.utm_zone(chip.location) == "32T"
    sun = pvlib.solarposition.get_solarposition(pd.DatetimeIndex([scene.metadata.datetime]), chip.location[1], chip.location[0])
    assert scene.metadata.sun_azimuth == pytest.approx(float(sun["azimuth"].iloc[0]), abs=0.5)
    assert scene.metadata.sun_elevation == pytest.approx(float(sun["elevation"].iloc[0]), abs=0.5)


def test_the_fountain_record_is_where_and_when_it_says(tmp_path: Path) -> None:
    check_fountain(scene_of(read(tmp_path, FOUNTAIN)))


@pytest.mark.real
@pytest.mark.skipif("SATMIP_REAL_DATA" not in os.environ, reason="SATMIP_REAL_DATA does not name the real data")
def test_the_real_fountain_record_from_its_file(tmp_path: Path) -> None:
    (tmp_path / STEM).parent.mkdir(parents=True)
    shutil.copy(Path(os.environ["SATMIP_REAL_DATA"]) / "fmow" / "fountain_514_1_rgb.json", tmp_path / ITEM.metadata)
    pixels = np.random.default_rng(0).integers(0, 256, (663, 977, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / ITEM.image)
    assert Fmow().list_items(str(tmp_path)) == [ITEM]
    check_fountain(scene_of(Fmow().read_item(str(tmp_path), ITEM)[0]))


def test_whole_numbers_that_are_written_as_floats_are_whole(tmp_path: Path) -> None:
    scene = scene_of(read(tmp_path, with_floats(FOUNTAIN), Fmow(boxes="all")))
    assert scene == scene_of(read(tmp_path, FOUNTAIN, Fmow(boxes="all")))
    assert scene.aois[0].name == "b47768"
    assert (repr(scene.width), repr(scene.height)) == ("977", "663")
    assert isinstance(read(tmp_path, {**FOUNTAIN, "img_width": 977.5}), Reject)


def test_a_record_becomes_a_scene(tmp_path: Path) -> None:
    scene = scene_of(read(tmp_path, FOUNTAIN))
    metadata = scene.metadata
    assert (scene.key, scene.place, scene.split) == ("train_fountain_514_1_rgb", "train_fountain_514", "train")
    assert (scene.path, scene.width, scene.height) == (ITEM.image, 977, 663)
    assert metadata.gsd == (0.468074887991, 0.468074887991)
    assert metadata.multispectral_gsd == 1.87378120422
    assert metadata.pixel_size == (4.597314657113e-06, 4.595430769222e-06)
    assert metadata.datetime is not None
    assert metadata.datetime.isoformat() == "2012-04-02T10:32:22+00:00"
    assert metadata.location == pytest.approx((8.5830818, 47.4490394778), abs=1e-9)
    assert (metadata.utm_zone, metadata.country_code, metadata.cloud_cover) == ("32T", "CHE", 0.0)
    assert (metadata.scan_direction, metadata.wavelengths, metadata.platform) == ("Reverse", (661, 545, 477), "GEOEYE01")
    assert (metadata.target_azimuth, metadata.sun_azimuth) == (31.2082061768, 159.207946777)
    assert (metadata.sun_elevation, metadata.off_nadir) == (46.1834640503, 21.8978748322)
    assert scene.georeference is not None
    assert geometry.pixel_size(scene.georeference, 977, 663) == pytest.approx(metadata.pixel_size, rel=1e-9)


def test_the_challenge_form_has_no_place_on_earth(tmp_path: Path) -> None:
    box = {"ID": 47768, "box": [466, 299, 72, 60], "category": "fountain", "visible": "True"}
    scene = scene_of(read(tmp_path, changed(bounding_boxes=box, mean_pixel_width=-4.6e-06) | {"raw_location": None}))
    assert scene.georeference is None
    assert scene.metadata.location is None
    assert scene.metadata.pixel_size == (4.6e-06, 4.595430769222e-06)
    assert scene.aois == (Aoi(466, 299, 72, 60, "fountain"),)


@pytest.mark.parametrize("name", ["mean_pixel_width", "mean_pixel_height"])
def test_half_a_pixel_size_is_none(tmp_path: Path, name: str) -> None:
    half = {key: value for key, value in FOUNTAIN.items() if key != name}
    assert scene_of(read(tmp_path, half)).metadata.pixel_size is None


def test_what_a_record_does_not_say_is_missing_and_zero_is_not(tmp_path: Path) -> None:
    bare = {key: FOUNTAIN[key] for key in ("img_width", "img_height", "bounding_boxes")}
    metadata = scene_of(read(tmp_path, bare)).metadata
    assert all(getattr(metadata, name) is None for name in metadata.__slots__)
    zeros = dict.fromkeys(("cloud_cover", "target_azimuth_dbl", "sun_azimuth_dbl", "sun_elevation_dbl", "off_nadir_angle_dbl"), 0)
    metadata = scene_of(read(tmp_path, bare | zeros)).metadata
    assert (metadata.cloud_cover, metadata.target_azimuth, metadata.sun_azimuth) == (0, 0, 0)
    assert (metadata.sun_elevation, metadata.off_nadir) == (0, 0)


BOXES = [
    {"ID": -1, "box": [0, 0, 900, 600], "category": "zoo"},
    {"ID": 5, "box": [1, 1, 10, 10], "category": "zoo", "visible": "True"},
    {"ID": 9, "box": [2, 2, 50, 20], "category": "park", "visible": "False"},
    {"ID": 3, "box": [3, 3, 20, 50], "category": "zoo", "visible": "True"},
    {"ID": 8, "box": [0, 0, 900, 600], "category": "false_detection"},
]


def test_one_sample_an_image_is_its_largest_labelled_box_the_first_of_equals(tmp_path: Path) -> None:
    assert scene_of(read(tmp_path, changed(bounding_boxes=BOXES))).aois == (Aoi(2, 2, 50, 20, "park"),)


def test_all_boxes_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    def names(boxes: list[dict[str, Any]]) -> list[str]:
        return [aoi.name for aoi in scene_of(read(tmp_path, changed(bounding_boxes=boxes), Fmow(boxes="all"))).aois]

    assert names(BOXES) == ["b5", "b9", "b3"]
    assert names([BOXES[1], BOXES[1]]) == ["b0", "b1"]
    assert names([{"box": [1, 1, 2, 2]}, BOXES[1]]) == ["b0", "b1"]


@pytest.mark.parametrize("boxes", [[], [BOXES[0]], BOXES[0], [BOXES[0], BOXES[4]]])
def test_a_record_without_a_labelled_box_is_rejected(tmp_path: Path, boxes: Any) -> None:
    found = read(tmp_path, changed(bounding_boxes=boxes))
    assert isinstance(found, Reject)
    assert (found.reason, found.key) == ("no_aoi", "train_fountain_514_1_rgb")


@pytest.mark.parametrize(
    ("key", "value", "attribute", "expected"),
    [
        ("timestamp", "2012-04-02T10:32:22.123456Z", "datetime", "2012-04-02T10:32:22.123456+00:00"),
        ("timestamp", "2012-04-02T12:32:22+02:00", "datetime", "2012-04-02T10:32:22+00:00"),
        ("timestamp", "2012-04-02T10:32:22", "datetime", "2012-04-02T10:32:22+00:00"),
        ("scan_direction", "forward", "scan_direction", "Forward"),
        ("scan_direction", "REVERSE", "scan_direction", "Reverse"),
        ("country_code", "KO-", "country_code", "XKX"),
        ("country_code", "CA-", "country_code", None),
        ("utm", "05Q", "utm_zone", "5Q"),
        ("sun_azimuth_dbl", -0.5, "sun_azimuth", 359.5),
        ("target_azimuth_dbl", 360.0, "target_azimuth", 360.0),
        ("approximate_wavelengths", [], "wavelengths", None),
        ("approximate_wavelengths", [660.6, 545], "wavelengths", (661, 545)),
        ("sensor_platform_name", "", "platform", None),
    ],
)
def test_the_vendors_ways_of_writing_end_here(tmp_path: Path, key: str, value: Any, attribute: str, expected: Any) -> None:
    found = getattr(scene_of(read(tmp_path, changed(**{key: value}))).metadata, attribute)
    assert (found.isoformat() if attribute == "datetime" else found) == expected


def test_a_footprint_across_the_antimeridian_stays_whole(tmp_path: Path) -> None:
    ring = "POLYGON ((179.998 10, -179.998 10, -179.998 10.002, 179.998 10.002, 179.998 10))"
    scene = scene_of(read(tmp_path, changed(raw_location=ring)))
    assert scene.metadata.location == pytest.approx((-180.0, 10.001))
    assert scene.georeference is not None
    assert scene.georeference.affine[0] == pytest.approx(0.004 / 977)


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        ("", "metadata_unreadable", "readable JSON"),
        ("\udc80".encode("utf-8", "surrogateescape").decode("latin1"), "metadata_unreadable", "readable JSON"),
        ([], "metadata_invalid", "[] is not of type 'object'"),
        (without("img_width"), "metadata_invalid", "'img_width' is a required property"),
        (changed(img_width=0), "metadata_invalid", "$.img_width: 0 is less"),
        (changed(img_height="663"), "metadata_invalid", "$.img_height: '663' is not"),
        (changed(gsd=math.nan), "metadata_invalid", "$.gsd: 'NaN'"),
        (changed(gsd=0), "metadata_invalid", "$.gsd: 0 is"),
        (changed(cloud_cover=-999), "metadata_invalid", "$.cloud_cover: -999 is"),
        (changed(off_nadir_angle_dbl=math.inf), "metadata_invalid", "$.off_nadir_angle_dbl: 'Infinity'"),
        (changed(timestamp="2012-13-02T10:32:22Z"), "metadata_invalid", 'timestamp is "2012'),
        (changed(timestamp="0001-01-01T00:00:00Z"), "metadata_invalid", "the years 1800 to 2199"),
        (changed(timestamp="9999-12-31T00:00:00Z"), "metadata_invalid", "the years 1800 to 2199"),
        (changed(timestamp="0001-01-01T00:00:00+14:00"), "metadata_invalid", "timestamp is"),
        (changed(utm="61T"), "metadata_invalid", "$.utm: '61T'"),
        (changed(scan_direction="sideways"), "metadata_invalid", "$.scan_direction: 'sideways'"),
        (changed(raw_location="POLYGON ((1 2"), "metadata_invalid", 'raw_location is no WKT polygon: "POLYGON ((1 2"'),
        (changed(raw_location="POLYGON ((47 98, 48 98, 48 99, 47 98))"), "metadata_invalid", "raw_location holds no longitudes"),
        (changed(raw_location="POLYGON ((8 47, 8 48, 8 49, 8 47))"), "metadata_invalid", "raw_location spans no area"),
        (changed(raw_location="POLYGON ((8 nan, 8 48, 9 49, 8 nan))"), "metadata_invalid", "raw_location is"),
        (changed(bounding_boxes=[{"ID": 1, "box": [1, 2, 3]}]), "metadata_invalid", "[1, 2, 3] is too short"),
        (changed(bounding_boxes=[{"ID": 1, "box": [1, 2, math.inf, 3]}]), "metadata_invalid", "'Infinity'"),
    ],
)  # fmt: skip
def test_records_no_scene_can_have_are_rejected_with_key_and_value(tmp_path: Path, data: Any, reason: str, message: str) -> None:
    found = read(tmp_path, data)
    assert isinstance(found, Reject)
    assert (found.reason, found.stage, found.path) == (reason, "scan", ITEM.metadata)
    assert message in found.message


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "32T", "POLYGON ((0 0, 1 0, 1 1, 0 0))", "1-1"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["ID", "box", "category"]), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(FOUNTAIN)), VALUES, max_size=3), st.sampled_from(["one", "all"]))
def test_no_record_makes_the_source_raise(values: dict[str, Any], boxes: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = read(Path(folder), copy.deepcopy(FOUNTAIN) | values, Fmow(boxes=boxes))
    assert isinstance(found, Scene) or found.reason in REASONS


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("multi-unit_residential_12_3_rgb", "val_multi-unit_residential_12"),
        ("space_facility_9_141_rgb", "val_space_facility_9"),
        ("b_52_base_7_0_rgb", "val_b_52_base_7"),
    ],
)
def test_names_are_read_from_the_right(tmp_path: Path, name: str, place: str) -> None:
    stem = f"val/x/x_0/{name}"
    scene = scene_of(read(tmp_path, FOUNTAIN, item=Item(f"{stem}.json", f"{stem}.jpg")))
    assert (scene.key, scene.place) == (f"val_{name}", place)


@pytest.mark.parametrize("name", ["x_rgb", "x_0_rgb", "x.y_0_0_rgb"])
def test_a_name_that_makes_no_key_is_rejected(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, FOUNTAIN, item=Item(f"val/x/x_0/{name}.json", f"val/x/x_0/{name}.jpg"))
    assert isinstance(found, Reject)
    assert "<category>_<n>_<T>_<product>" in found.message
    assert name in found.message


def test_a_tree_is_listed_by_product_and_split(tmp_path: Path) -> None:
    paths = write_fmow_tree(tmp_path, places=2, images=2)
    relative = [path.relative_to(tmp_path).as_posix() for path in paths]
    other = tmp_path / "val/airport/airport_0/airport_0_0_msrgb.jpg"
    other.touch()
    (tmp_path / "train" / "README.json").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "0000001_0_rgb.jpg").touch()
    items = Fmow().list_items(str(tmp_path))
    assert [item.image for item in items] == relative
    assert [item.metadata for item in items] == [path.replace(".jpg", ".json") for path in relative]
    scenes = [scene_of(found) for item in items for found in Fmow().read_item(str(tmp_path), item)]
    assert len({scene.key for scene in scenes}) == len(scenes) == 8
    assert {scene.split for scene in scenes} == {"train", "val"}
    (ms,) = Fmow(product="msrgb").list_items(str(tmp_path))
    assert ms == Item("", "val/airport/airport_0/airport_0_0_msrgb.jpg")


def test_images_and_records_without_each_other_are_told(tmp_path: Path) -> None:
    first, second = write_fmow_tree(tmp_path, places=1, images=1)
    first.unlink()
    second.with_suffix(".json").unlink()
    found = [f for item in Fmow().list_items(str(tmp_path)) for f in Fmow().read_item(str(tmp_path), item)]
    assert [(f.path, f.reason) for f in found if isinstance(f, Reject)] == [
        ("train/airport/airport_0/airport_0_0_rgb.json", "image_missing"),
        ("val/airport/airport_0/airport_0_0_rgb.jpg", "metadata_missing"),
    ]
    assert len(found) == 2


def test_a_tree_of_ground_truth_is_laid_over_the_images(tmp_path: Path) -> None:
    images, truth = tmp_path / "images", tmp_path / "truth"
    write_fmow_tree(images, places=1, images=1)
    for path in images.rglob("*.json"):
        record_ = json.loads(path.read_text())
        overlay = truth / path.relative_to(images)
        overlay.parent.mkdir(parents=True)
        overlay.write_text(json.dumps(record_))
        path.write_text(json.dumps({key: value for key, value in record_.items() if key != "raw_location"}))
    for source, placed in ((Fmow(), False), (Fmow(metadata=str(truth)), True)):
        scenes = [scene_of(f) for item in source.list_items(str(images)) for f in source.read_item(str(images), item)]
        assert [scene.georeference is not None for scene in scenes] == [placed, placed]
        assert all((images / scene.path).exists() for scene in scenes)


def test_a_url_gives_what_a_folder_gives(tmp_path: Path) -> None:
    write_fmow_tree(tmp_path, places=2, images=1)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/archive", recursive=True)
    found = [
        [f for item in Fmow().list_items(root) for f in Fmow().read_item(root, item)]
        for root in (str(tmp_path), f"file://{tmp_path}", "memory://archive")
    ]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 4


def test_a_linked_split_is_followed(tmp_path: Path) -> None:
    write_fmow_tree(tmp_path / "disk", places=1, images=1)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "val").symlink_to(tmp_path / "disk" / "val")
    assert [item.image for item in Fmow().list_items(str(tmp_path / "root"))] == ["val/airport/airport_0/airport_0_0_rgb.jpg"]


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train/<category>/<place>/\*_rgb.jpg"):
        Fmow().list_items(str(tmp_path))


def test_made_records_are_valid_and_lie_where_their_ring_says(tmp_path: Path) -> None:
    made = record(np.random.default_rng(1), "airport", 100, 80, 5)
    scene = scene_of(read(tmp_path, made))
    assert scene.georeference is not None
    assert scene.georeference.affine[0] == pytest.approx(4.5e-6)


def test_every_source_states_its_name_licence_and_options() -> None:
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.licence
        assert all(option.metadata["help"] for option in dataclasses.fields(source))


NUMBERS = st.one_of(
    st.floats(-200, 200).map(lambda value: f"{value:.16f}"), st.sampled_from(["1", "-0", ".5", "2.", "1.2.3", "-", ""])
)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6), st.booleans(), st.sampled_from([", ", ",", " ,", ",,"]))
def test_a_ring_is_what_shapely_reads(points: list[tuple[str, str]], closed: bool, comma: str) -> None:
    text = f"POLYGON (({comma.join(f'{x} {y}' for x, y in points + points[:1] * closed)}))"
    try:
        expected = tuple((x, y) for x, y in from_wkt(text).exterior.coords)
    except GEOSException:
        with pytest.raises(InvalidError, match="no WKT polygon"):
            parse_ring("raw_location", text)
        return
    assert parse_ring("raw_location", text) == expected


def test_the_collector_of_cycles_runs_again_after_an_index() -> None:
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            with collector_paused():
                assert not gc.isenabled()
            assert gc.isenabled() == enabled
        finally:
            gc.enable()
