"""Tables: every cell becomes what it says or a reject that says why; nothing known is lost without a word."""

import datetime as dt
import gzip
import io
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyproj import Geod
from shapely.geometry import MultiPolygon, Polygon, box

from satmip_data.cli import commands
from satmip_data.errors import BuildError
from satmip_data.execution.engines import Local
from satmip_data.geometry import WGS84
from satmip_data.names import unsigned
from satmip_data.pipeline.build import build
from satmip_data.pipeline.index import Index, build_index
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import REASONS, Sample, Window
from satmip_data.sources.base import InvalidError, LayoutError
from satmip_data.sources.columns import COLUMNS
from satmip_data.sources.table import Table
from satmip_data.storage.parquet import parquet_bytes, read_parquet
from satmip_data.storage.store import Store
from satmip_data.validation import validate
from tests.data.archives.make import pixels, table_rows, write_raster, write_table_images

KEEP = BuildSettings(size=None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_table_images(tmp_path)
    return tmp_path


def read(root: Path, frame: pd.DataFrame | dict[str, list[Any]], **options: Any) -> Index:
    pd.DataFrame(frame).to_csv(root / "table.csv", index=False)
    return build_index(Table(**options), str(root / "table.csv"), KEEP, Local())


def only(index: Index) -> Sample:
    assert not index.rejects, index.rejects
    (sample,) = index.samples
    return sample


def test_a_csv_becomes_samples_with_all_it_knows(root: Path) -> None:
    index = read(root, table_rows())
    assert not index.rejects
    first, second, third = index.samples
    assert [sample.key for sample in index.samples] == ["images_one_000000", "images_one_000001", "images_two"]
    assert [sample.split for sample in index.samples] == ["train", "train", "val"]
    assert (first.category, second.category) == ("port", None)
    assert first.place == second.place == "images_one" != third.place
    assert (first.window, second.window) == (Window(0, 0, 20, 30), Window(20, 10, 20, 20))
    assert (first.scene_width, first.scene_height) == (40, 50)  # from the image's header
    metadata = first.metadata
    assert metadata.gsd == (0.5, 0.5)
    assert metadata.datetime == dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    assert second.metadata.datetime == dt.datetime(2020, 1, 2, 1, 4, 5, tzinfo=dt.UTC)
    assert (metadata.platform, metadata.off_nadir, metadata.sun_azimuth, metadata.sun_elevation) == (
        "WORLDVIEW02",
        0.0,
        350.0,
        45.0,
    )
    assert metadata.cloud_cover == 0.0  # known, and not missing
    assert metadata.location == pytest.approx((7.00025, 46.0007))  # the middle of the box, and not of the image
    for name in ("gsd", "datetime", "platform", "off_nadir", "sun_azimuth", "cloud_cover", "location"):
        assert getattr(third.metadata, name) is None
    assert third.footprint is None


def test_csv_parquet_and_geoparquet_say_the_same(root: Path) -> None:
    frame = table_rows()
    expected = read(root, frame)
    frame["datetime"] = pd.to_datetime(frame["datetime"], utc=True, format="ISO8601")
    frame.to_parquet(root / "table.parquet")
    assert build_index(Table(), str(root / "table.parquet"), KEEP, Local()) == expected
    shapes = [None if pd.isna(text) else box(*map(float, text.split(","))) for text in frame.pop("bbox")]
    geopandas.GeoDataFrame(frame, geometry=shapes, crs="EPSG:4326").to_parquet(root / "table.geoparquet")
    assert build_index(Table(table="table.geoparquet"), str(root), KEEP, Local()) == expected
    compressed = io.BytesIO()
    table_rows().to_csv(compressed, index=False, compression="gzip")
    (root / "table.csv.gz").write_bytes(compressed.getvalue())
    assert build_index(Table(), str(root / "table.csv.gz"), KEEP, Local()) == expected


def test_a_name_that_no_file_can_have_is_a_reject(root: Path) -> None:
    rows = {"image": ["images/o\0ne.png", "images/one.png"], "image_width": [40] * 2, "image_height": [50] * 2}
    pd.DataFrame(rows).to_parquet(root / "table.parquet")
    (reject,) = build_index(Table(), str(root / "table.parquet"), KEEP, Local()).rejects
    assert reject.reason == "metadata_invalid"
    assert r"images/o\x00ne.png" in reject.message


def test_a_build_from_a_table_is_proven(root: Path) -> None:
    table_rows().to_csv(root / "table.csv", index=False)
    build(BuildRequest(Table(), str(root / "table.csv"), str(root / "out"), BuildSettings(size=24)))
    assert validate.validate(str(root / "out")).problems == ()


@pytest.mark.parametrize(("crs", "name"), [(32632, "UTM zone 32N"), (4301, "Tokyo"), (4267, "NAD27")])
def test_shapes_in_metres_or_of_another_datum_are_refused(root: Path, crs: int, name: str) -> None:
    frame = geopandas.GeoDataFrame({"image": ["images/one.png"]}, geometry=[box(0, 0, 9, 9)], crs=crs)
    frame.to_parquet(root / "t.parquet")
    with pytest.raises(LayoutError, match=f"{name}.*WGS 84"):
        Table().list_items(str(root / "t.parquet"))


def test_shapes_in_geoarrow_are_told_as_such(root: Path) -> None:
    """GeoParquet may hold them, and a Parquet of GeoArrow's types; WKB in these is read, with the CRS of its type."""
    frame = geopandas.GeoDataFrame({"image": ["images/one.png"]}, geometry=[box(7, 46, 8, 47)], crs=4326)
    frame.to_parquet(root / "a.parquet", geometry_encoding="geoarrow", schema_version="1.1.0")
    pq.write_table(pa.table(frame.to_arrow(geometry_encoding="geoarrow", index=False)), root / "b.parquet")
    for name in ("a.parquet", "b.parquet"):
        with pytest.raises(LayoutError, match=r"GeoArrow's .polygon.*Write it .*geometry_encoding"):
            Table().list_items(str(root / name))
    pq.write_table(pa.table(frame.to_arrow(index=False)), root / "c.parquet")
    assert only(build_index(Table(), str(root / "c.parquet"), KEEP, Local())).metadata.location == pytest.approx((7.5, 46.5))
    pq.write_table(pa.table(frame.to_crs(4267).to_arrow(index=False)), root / "d.parquet")
    with pytest.raises(LayoutError, match="NAD27"):
        Table().list_items(str(root / "d.parquet"))


def test_a_crs_that_is_none_is_refused(root: Path) -> None:
    frame = geopandas.GeoDataFrame({"image": ["images/one.png"]}, geometry=[box(0, 0, 9, 9)], crs=4326)
    frame.to_parquet(root / "t.parquet")
    table = pq.read_table(root / "t.parquet")
    geo = json.loads(table.schema.metadata[b"geo"])
    geo["columns"]["geometry"]["crs"] = {"type": "no such"}
    pq.write_table(table.replace_schema_metadata({b"geo": json.dumps(geo)}), root / "t.parquet")
    with pytest.raises(LayoutError, match=r"CRS of geometry in t\.parquet"):
        Table().list_items(str(root / "t.parquet"))


@pytest.mark.parametrize("shape", [box(7, 46, 7.001, 46.001), MultiPolygon([box(7, 46, 7.001, 46.001)])])
def test_a_multipolygon_of_one_part_is_a_polygon(root: Path, shape: Any) -> None:
    geopandas.GeoDataFrame({"image": ["images/one.png"]}, geometry=[shape], crs=4326).to_parquet(root / "t.parquet")
    assert only(build_index(Table(), str(root / "t.parquet"), KEEP, Local())).metadata.location == pytest.approx((7.0005, 46.0005))


@pytest.mark.parametrize("crs", ["EPSG:4326", "OGC:CRS84", "EPSG:4258", "EPSG:4269", "EPSG:7844", "+proj=longlat", None])
def test_shapes_within_metres_of_wgs_84_are_read(root: Path, crs: str | None) -> None:
    frame = geopandas.GeoDataFrame({"image": ["images/one.png"]}, geometry=[box(7, 46, 7.001, 46.001)], crs=crs)
    frame.to_parquet(root / "t.parquet")
    assert only(build_index(Table(), str(root / "t.parquet"), KEEP, Local())).metadata.location == pytest.approx((7.0005, 46.0005))


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        ({"image": ["a"], "sensor": ["x"], "n": [1]}, {}, '"sensor".*--columns.*--extra-columns ignore'),
        ({"file": ["a"]}, {"extra_columns": "ignore"}, "no column image"),
        ({"image": ["a"], "x": [1], "y": [1]}, {}, "a box needs all of"),
        ({"image": ["a"]}, {"columns": "image=file"}, '"file" in --columns'),
        ({"image": ["a"], "lat": [1], "latitude": [1]}, {}, 'two columns "lat"'),
        ({"image": []}, {}, "no row"),
    ],
)
def test_columns_that_are_not_as_they_must_be(root: Path, frame: dict[str, list[Any]], options: Any, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        read(root, frame, **options)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("table.csv", "."), ("/table.csv", "/"), ("data/table.csv", "data"), ("s3://bucket/a/t.csv", "s3://bucket/a")],
)
def test_images_are_relative_to_the_folder_of_the_table(name: str, folder: str) -> None:
    assert Table()._split_root(name) == (folder, name.rpartition("/")[2])


@pytest.mark.parametrize(
    ("name", "message"), [("table.txt", r"no table: .*\.csv, .* --table NAME"), ("none.csv", "Cannot read the table none.csv")]
)
def test_a_table_that_is_none(root: Path, name: str, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        Table().list_items(str(root / name))


@pytest.mark.parametrize("row", ["images/one.png,7,46,7.1,46.1", "images/one.png,,"])
def test_cells_without_a_column_are_refused(root: Path, row: str) -> None:
    (root / "t.csv").write_text(f"image,bbox\n{row}\n{row}\n")
    with pytest.raises(LayoutError, match="more cells than its header"):
        Table().list_items(str(root / "t.csv"))


def test_other_names_and_extra_columns(root: Path) -> None:
    frame = {"file": ["images/one.png"], "label": ["port"], "remark": ["nice"]}
    sample = only(read(root, frame, columns="image=file, category=label", extra_columns="ignore"))
    assert (sample.path, sample.category) == ("images/one.png", "port")
    with pytest.raises(ValueError, match='"colour"'):
        Table(columns="colour=x")


@pytest.mark.parametrize(
    "text",
    [
        "2016-12-31T24:00:00Z", "2016-12-31 24:00", "20161231T240000Z", "2016-12-31T24:00:00.000+00:00", "2016-12-31T23:59:60Z",
        "2016-12-31T23:59:60.0+00:00", "20161231T235960",
    ],
)  # fmt: skip
def test_the_end_of_a_day_is_the_midnight_that_follows(root: Path, text: str) -> None:
    """As ISO 8601 writes it, with a leap second or without."""
    sample = only(read(root, {"image": ["images/one.png"], "datetime": [text]}))
    assert sample.metadata.datetime == dt.datetime(2017, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("gsd", "big"), ("gsd", "0"), ("gsd", "inf"), ("datetime", "yesterday"), ("datetime", "1577010212345"),
        ("datetime", "2020-01-31T24:00:01Z"), ("datetime", "2020-01-31T24:00:00.5Z"), ("datetime", "2020-01-31T24:30Z"),
        ("datetime", "2020-01-31T22:59:60Z"), ("datetime", "2016-12-31T23:59:61Z"), ("datetime", "2020-02-30T24:00:00Z"),
        ("datetime", "9999-12-31T24:00:00Z"),
        ("cloud_cover", "101"), ("off_nadir", "-1"),
        ("sun_elevation", "95"), ("lat", "91"), ("bbox", "1,2,3"), ("bbox", "1,2,1,2"), ("geometry", "POINT (1 2)"),
        ("bbox", "500000,4649000,500120,4649150"), ("bbox", "7,46,7.001,90.1"), ("bbox", "-361,46,7,46.001"),
        ("bbox", "1,2,1,3"), ("bbox", "1,2,3,2"), ("image_width", "3.5"), ("image_width", "0"),
        ("wavelengths", "red"), ("labels", "['sea', 'port']"),
    ],
)  # fmt: skip
def test_a_cell_that_cannot_be_is_a_reject(root: Path, column: str, cell: str) -> None:
    index = read(root, {"image": ["images/one.png", "images/two.png"], column: [cell, ""]})
    (reject,) = index.rejects
    assert reject.reason == "metadata_invalid"
    assert reject.message
    assert [sample.path for sample in index.samples] == ["images/two.png"]


def test_half_a_box_is_a_reject(root: Path) -> None:
    boxes = {"x": ["1", ""], "y": ["1", ""], "width": ["5", ""], "height": ["", ""]}
    index = read(root, {"image": ["images/one.png", "images/two.png"], **boxes})
    assert [(reject.reason, reject.message) for reject in index.rejects] == [
        ("metadata_invalid", "The row has x, y, width; a box needs all of x, y, width, height")
    ]
    assert [sample.path for sample in index.samples] == ["images/two.png"]


@pytest.mark.parametrize(("lat", "sense"), [(89.9995, True), (-89.9995, True), (89.9985, False), (-89.9985, False)])
def test_a_centre_near_a_pole_places_no_image_over_it(root: Path, lat: float, sense: bool) -> None:
    """The 50 rows of 4 m reach 100 m from the centre; a degree is 111.7 km there."""
    index = read(root, {"image": ["images/one.png"], "gsd": [4.0], "lon": [10.0], "lat": [lat]})
    assert ["over a pole" in reject.message for reject in index.rejects] == [True] * sense
    assert len(index.samples) == (not sense)


def test_a_gsd_alone_is_known_of_an_image_that_lies_nowhere(root: Path) -> None:
    frame: dict[str, list[Any]] = {"image": ["images/one.png"], "gsd": [2.0]}
    for more in ({}, {"lon": [7.0]}, {"lat": [46.0]}):
        metadata = only(read(root, {**frame, **more})).metadata
        assert (metadata.gsd, metadata.location) == ((2.0, 2.0), None)


def test_images_that_cannot_be_read_are_rejects(root: Path) -> None:
    (root / "images/bad.png").write_bytes(b"bad")
    index = read(root, {"image": ["images/bad.png", "images/none.png", ""]})
    assert [reject.reason for reject in index.rejects] == ["image_unreadable", "image_unreadable", "metadata_invalid"]
    assert {reject.reason for reject in index.rejects} <= REASONS.keys()


def test_decimals_are_numbers_and_bytes_are_shapes_or_text(root: Path) -> None:
    frame = pd.DataFrame(
        {
            "image": [b"images/one.png"], "gsd": [Decimal("0.50")], "bbox": [[Decimal(corner) for corner in (7, 46, 8, 47)]],
            "sun_azimuth": [Decimal("NaN")], "category": [dt.time(12, 30)],
        }
    )  # fmt: skip
    frame.to_parquet(root / "t.parquet")
    sample = only(build_index(Table(), str(root / "t.parquet"), KEEP, Local()))
    assert (sample.path, sample.metadata.gsd, sample.category) == ("images/one.png", (0.5, 0.5), "12:30:00")
    assert sample.metadata.location == pytest.approx((7.5, 46.5))


def test_a_geoparquets_column_of_bounds_is_a_bbox_and_no_number_is_infinite(root: Path) -> None:
    bounds = {"xmin": 7.0, "ymin": 46.0, "xmax": 8.0, "ymax": 47.0}
    frame = pd.DataFrame({"image": ["images/one.png", "images/two.png"], "bbox": [bounds] * 2, "gsd": [0.5, math.inf]})
    frame.to_parquet(root / "t.parquet")
    index = build_index(Table(), str(root / "t.parquet"), KEEP, Local())
    (sample,), (reject,) = index.samples, index.rejects
    assert sample.metadata.location == pytest.approx((7.5, 46.5))
    assert reject.reason == "metadata_invalid"
    assert "inf" in reject.message


def test_a_column_of_bytes_can_be_ignored_and_never_ends_in_a_traceback(root: Path) -> None:
    frame = pd.DataFrame({"image": ["images/one.png"], "thumbnail": [b"\xff\xd8\xff"]})
    frame.to_parquet(root / "t.parquet")
    only(build_index(Table(extra_columns="ignore"), str(root / "t.parquet"), KEEP, Local()))
    frame.rename(columns={"thumbnail": "category"}).to_parquet(root / "t.parquet")
    with pytest.raises(LayoutError, match=r"column .category. holds bytes"):
        build_index(Table(), str(root / "t.parquet"), KEEP, Local())


@given(
    st.sampled_from(sorted(COLUMNS)), st.one_of(st.text(max_size=8), st.floats(), st.integers(), st.lists(st.floats(), max_size=3))
)
def test_no_cell_raises_anything_else_and_no_nan_passes(column: str, cell: Any) -> None:
    try:
        value = COLUMNS[column](column, cell)
    except InvalidError:
        return
    numbers = value if isinstance(value, tuple) else (value,)
    assert not any(isinstance(number, float) and not math.isfinite(number) for number in numbers)


@pytest.mark.parametrize("missing", ["", "NaN", "null", "None", "N/A"])
def test_a_missing_cell_is_missing(root: Path, missing: str) -> None:
    sample = only(read(root, {"image": ["images/one.png"], "gsd": [missing], "platform": [missing], "sun_azimuth": [missing]}))
    assert (sample.metadata.gsd, sample.metadata.platform, sample.metadata.sun_azimuth) == (None, None, None)


@pytest.mark.parametrize(("lon", "lat"), [(7.0, 46.0), (-70.0, -33.0), (179.9999, 10.0), (-180.0, 0.0)])
def test_a_centre_with_a_gsd_places_the_whole_image(root: Path, lon: float, lat: float) -> None:
    sample = only(read(root, {"image": ["images/one.png"], "gsd": [2.0], "lon": [lon], "lat": [lat]}))
    assert sample.metadata.location == pytest.approx((lon, lat), abs=1e-9)
    assert sample.metadata.gsd == (2.0, 2.0)
    assert sample.footprint is not None
    west, south = sample.footprint[0]
    east, north = sample.footprint[2]
    geod = Geod(ellps="WGS84")
    assert geod.inv(west, lat, east, lat)[2] == pytest.approx(40 * 2.0, rel=1e-5)
    assert geod.inv(lon, south, lon, north)[2] == pytest.approx(50 * 2.0, rel=1e-3)


def test_a_centre_alone_is_a_location_of_the_whole_image_and_of_no_box(root: Path) -> None:
    frame: dict[str, list[Any]] = {"image": ["images/one.png"], "longitude": [200.0], "latitude": [5.0]}
    sample = only(read(root, frame))
    assert sample.metadata.location == (-160.0, 5.0)
    assert sample.footprint is None
    build(BuildRequest(Table(), str(root / "table.csv"), str(root / "out"), BuildSettings(size=16)))
    assert validate.validate(str(root / "out")).problems == ()
    boxed = only(read(root, {**frame, "x": [0], "y": [0], "width": [9], "height": [9]}))
    assert boxed.metadata.location is None


def test_gsd_is_measured_where_the_sides_are_known_and_said_where_it_is_said(root: Path) -> None:
    bounds = only(read(root, {"image": ["images/one.png"], "bbox": ["7,46,7.001,46.001"]})).metadata
    assert bounds.gsd is not None
    assert bounds.gsd[0] == pytest.approx(WGS84.inv(7, 46.0005, 7.001, 46.0005)[2] / 40)
    leaning = Polygon([(7.0, 46.0005), (7.0005, 46.0), (7.001, 46.0005), (7.0005, 46.001)]).wkt
    guessed = only(read(root, {"image": ["images/one.png"], "geometry": [leaning]})).metadata
    assert guessed.gsd is None  # the bounds of a leaning footprint are not the image's sides
    assert guessed.location == pytest.approx((7.0005, 46.0005))
    said = only(read(root, {"image": ["images/one.png"], "bbox": ["7,46,7.001,46.001"], "gsd_x": [0.3], "gsd_y": [0.4]})).metadata
    assert said.gsd == (0.3, 0.4)


def test_a_bbox_across_the_antimeridian_stays_whole(root: Path) -> None:
    sample = only(read(root, {"image": ["images/one.png"], "bbox": ["179.999,10,-179.999,10.002"]}))
    assert sample.metadata.location == pytest.approx((-180.0, 10.001))
    assert sample.footprint is not None
    assert max(lon for lon, _ in sample.footprint) - min(lon for lon, _ in sample.footprint) == pytest.approx(0.002)


@pytest.mark.parametrize("name", ["scene.tif", "SCENE.TIF"])
def test_rasters_place_themselves(root: Path, name: str) -> None:
    values = pixels(np.random.default_rng(0), 32, 48, 3, 1, 255).astype(np.uint8)
    write_raster(root / name, values)
    sample = only(read(root, {"image": [name], "image_width": [48], "image_height": [32]}))
    assert sample.metadata.gsd == pytest.approx((10, 10), rel=1e-3)
    chip = Table().read_chip(str(root / "table.csv"), sample, (48, 32), 10**6)
    assert np.array_equal(np.asarray(chip), values.transpose(1, 2, 0))


def test_images_may_lie_outside_where_the_user_says_so(root: Path) -> None:
    (root / "tables").mkdir()
    images = [str(root / "images/two.png"), f"file://{root}/images/one.png", "../images/one.png"]
    refused, taken = (read(root / "tables", {"image": images}, allow_outside=allowed) for allowed in (False, True))
    assert [reject.reason for reject in refused.rejects] == ["image_outside"] * 3
    assert not taken.rejects, taken.rejects
    for sample, name in zip(taken.samples, ("two", "one", "one"), strict=True):
        size = (sample.scene_width, sample.scene_height)
        chip = Table(allow_outside=True).read_chip(str(root / "tables/table.csv"), sample, size, 10**6)
        assert np.array_equal(np.asarray(chip), np.asarray(Image.open(root / f"images/{name}.png")))


def test_a_signed_url_names_a_raster_too(root: Path) -> None:
    values = pixels(np.random.default_rng(0), 32, 48, 3, 1, 255).astype(np.uint8)
    write_raster(root / "scene.tif", values)
    bucket = Store("memory://bucket")
    bucket.write("scene.tif?expires=1&signature=a.b", (root / "scene.tif").read_bytes())
    bucket.write("table.csv", b"image\nmemory://bucket/scene.tif?expires=1&signature=a.b\n")
    sample = only(build_index(Table(), "memory://bucket/table.csv", KEEP, Local()))
    assert sample.metadata.gsd == pytest.approx((10, 10), rel=1e-3)
    chip = Table().read_chip("memory://bucket/table.csv", sample, (48, 32), 10**6)
    assert np.array_equal(np.asarray(chip), values.transpose(1, 2, 0))


def test_what_signs_a_url_is_written_nowhere_and_may_change_until_a_build_is_finished(root: Path) -> None:
    write_raster(root / "a.tif", pixels(np.random.default_rng(0), 32, 48, 3, 1, 255).astype(np.uint8))
    write_raster(root / "black.tif", np.zeros((3, 32, 48), np.uint8))
    out = root / "out"
    for day, most in (("1", 0), ("2", None)):
        query = f"?expires={day}&signature=SE%2FCRET"
        for name in ("a.tif", "black.tif"):
            Store("memory://signed").write(name + query, (root / name).read_bytes())
        urls = [f"memory://signed/{name}{query}" for name in ("a.tif", "black.tif", "none.tif", "a.tif")]
        pd.DataFrame({"image": urls, "key": list("abca"), "place": list("abca"), "split": "train"}).to_csv(root / "table.csv")
        Store("memory://signed").write("table.csv", (root / "table.csv").read_bytes())
        source = Table(extra_columns="ignore")
        request = BuildRequest(source, "memory://signed/table.csv", str(out), BuildSettings(size=32), max_rejects=most)
        if most is not None:
            with pytest.raises(BuildError, match="--max-rejects"):
                build(request)
        else:
            assert build(request)["rejects"] == {"duplicate_key": 1, "image_empty": 1, "image_unreadable": 1}
        for path in filter(Path.is_file, out.rglob("*")):
            data = path.read_bytes()
            text = str(read_parquet(data).to_pylist()).encode() if path.suffix == ".parquet" else data
            assert b"signature" not in text, path
            assert b"CRET" not in text, path
    assert validate.validate(str(out)).problems == ()
    assert [row["path"] for row in read_parquet((out / "index.parquet").read_bytes()).to_pylist()] == ["memory://signed/a.tif"]


def test_what_signs_a_url_is_in_no_key_and_deals_no_split(root: Path) -> None:
    urls = [f"https://host/{name}" for name in ("a.tif?sig=1", "a.tif?sig=2", "get?id=1", "get?id=2")]
    size = {"image_width": [40] * 2, "image_height": [50] * 2}
    found = []
    for pair in (["https://host/a.jpg?sig=1", "https://host/b.jpg"], ["https://host/a.jpg?sig=2", "https://host/b.jpg?sig=2"]):
        samples = read(root, {"image": pair, **size}, shares="train=50,val=50").samples
        found.append([(sample.key, sample.place, sample.split) for sample in samples])
    assert found[0] == found[1]
    assert [key for key, _, _ in found[0]] == ["host_a", "host_b"]
    assert [unsigned(url).rpartition("/")[2] for url in urls] == ["a.tif", "a.tif", "get?id=1", "get?id=2"]
    # Where nothing else tells two images apart, it does.
    samples = read(root, {"image": [f"https://host/map.png?x={n}" for n in (1, 2)], **size}).samples
    assert [sample.key for sample in samples] == ["host_map_png_x_1", "host_map_png_x_2"]
    assert len({sample.place for sample in samples}) == 2


def test_places_stay_in_one_split(root: Path) -> None:
    frame = {"image": ["images/one.png"] * 40, "place": [f"p{i // 4}" for i in range(40)], "key": [f"k{i}" for i in range(40)]}
    samples = read(root, frame, shares="train=50,val=50").samples
    by_place = {sample.place: {other.split for other in samples if other.place == sample.place} for sample in samples}
    assert all(len(splits) == 1 for splits in by_place.values())
    assert sum(sample.split == "val" for sample in samples) == 20


@pytest.mark.parametrize("places", [[0, 1], ["12.5", "12,5"], ["A1", "a1"]])
def test_every_place_is_one_of_its_own_and_in_one_split(root: Path, places: list[Any]) -> None:
    size = {"image_width": [40] * 40, "image_height": [50] * 40}
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(40)], "place": [places[i // 20] for i in range(40)], **size})
    frame.to_parquet(root / "t.parquet")
    index = build_index(Table(shares="train=50,val=50"), str(root / "t.parquet"), KEEP, Local())
    assert {sample.place for sample in index.samples} == set(map(str, places))
    assert len({(sample.place, sample.split) for sample in index.samples}) == 2


def test_splits_have_one_name_each(root: Path) -> None:
    words = ["Train", "TRAINING", " valid", "Validation", "Testing", "fold_3"]
    frame = {"image": ["images/one.png"] * 6, "place": list("abcdef"), "split": words}
    assert [sample.split for sample in read(root, frame).samples] == ["train", "train", "val", "val", "test", "fold_3"]


@pytest.mark.parametrize("split", ["..", "a/b", ".build", "train set", "/tmp/x"])
def test_a_split_that_is_no_word_is_refused_before_any_work(root: Path, split: str) -> None:
    with pytest.raises(LayoutError, match=r"split is a word .*row 2"):
        read(root, {"image": ["images/one.png", "images/two.png"], "split": ["train", split]})


def test_a_place_in_two_splits_is_refused(root: Path) -> None:
    frame = {"image": ["images/one.png"] * 3, "place": ["a", "a", "b"], "key": ["x", "y", "z"]}
    with pytest.raises(LayoutError, match='"a" stands in two splits'):
        read(root, {**frame, "split": ["train", "val", ""]})
    assert [sample.split for sample in read(root, {**frame, "split": ["test", "", "val"]}).samples] == ["test", "test", "val"]


def test_a_split_file_names_images_whatever_their_places(root: Path) -> None:
    (root / "lists.txt").write_text("one.png train\nimages/two.png test\n")
    frame = {"image": ["images/one.png", "images/two.png"], "place": ["p", "p"], "split": ["val", "no word"]}
    samples = read(root, frame, split_file=str(root / "lists.txt")).samples
    assert [(sample.split, sample.place) for sample in samples] == [("train", "p"), ("test", "p")]
    (root / "lists.txt").write_text("one.png train\n")
    (reject,) = read(root, frame, split_file=str(root / "lists.txt")).rejects
    assert (reject.path, reject.reason, reject.key) == ("images/two.png", "not_in_split_file", "images_two")


def test_a_build_without_a_train_split_says_so(root: Path) -> None:
    pd.DataFrame({"image": ["images/one.png"], "split": ["Test"]}).to_csv(root / "t.csv", index=False)
    arguments = ["build", "--source", "table", str(root / "t.csv"), str(root / "out"), "--workers", "1"]
    for extra in (["--dry-run"], []):
        result = CliRunner().invoke(commands.main, [*arguments, *extra])
        assert "No split is called train, so features are not standardized" in " ".join(result.output.split())


def test_labels_become_several_classes(root: Path) -> None:
    frame = {"image": ["images/one.png", "images/two.png"], "labels": ["sea|port|sea", "port"], "split": ["train", "train"]}
    pd.DataFrame(frame).to_csv(root / "table.csv", index=False)
    dataset = build(BuildRequest(Table(), str(root / "table.csv"), str(root / "out"), KEEP))
    assert dataset["classes"] == ["port", "sea"]
    assert validate.validate(str(root / "out")).problems == ()


def test_labels_may_be_a_list_in_parquet() -> None:
    assert COLUMNS["labels"]("labels", ["sea", " port", "sea", ""]) == COLUMNS["labels"]("labels", "sea|port") == ("sea", "port")


@pytest.mark.parametrize("cell", ["661|545|477", "[661, 545, 477]", "661 545 477"])
def test_wavelengths_are_written_as_captions_write_them_too(root: Path, cell: str) -> None:
    assert only(read(root, {"image": ["images/one.png"], "wavelengths": [cell]})).metadata.wavelengths == (661, 545, 477)


def test_an_empty_list_of_wavelengths_is_missing(root: Path) -> None:
    pd.DataFrame({"image": ["images/one.png"], "wavelengths": [np.array([], int)]}).to_parquet(root / "t.parquet")
    assert only(build_index(Table(), str(root / "t.parquet"), KEEP, Local())).metadata.wavelengths is None


def test_the_command_says_which_column_it_does_not_know(root: Path) -> None:
    (root / "t.csv").write_text("image,angle\nimages/one.png,3\n")
    arguments = ["build", "--source", "table", str(root / "t.csv"), str(root / "out"), "--workers", "1"]
    result = CliRunner().invoke(commands.main, arguments)
    assert result.exit_code == 1
    assert "angle" in result.output
    assert "--extra-columns ignore" in result.output
    result = CliRunner().invoke(commands.main, [*arguments, "--extra-columns", "ignore"])
    assert result.exit_code == 0, result.output


def test_a_footprint_is_the_windows(root: Path) -> None:
    row = {"image": ["images/one.png"], "x": [10], "y": [0], "width": [20], "height": [25], "bbox": ["7,46,7.004,46.005"]}
    sample = only(read(root, row))
    assert sample.footprint is not None
    lons, lats = zip(*sample.footprint, strict=True)
    assert (min(lons), max(lons)) == pytest.approx((7.001, 7.003))
    assert (min(lats), max(lats)) == pytest.approx((46.0025, 46.005))


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("a.csv", b"image,category\n", "no rows"),
        ("a.csv", b"image;lat;lon\na.png;46,5;7,5\n", "semicolons"),
        ("a.csv.gz", gzip.compress(b"image\na.png\n", mtime=0)[:-6] + b"\0\0\0\0\0\0", "a.csv.gz is no whole"),
        ("a.csv.gz", gzip.compress(b"image\na.png\n", mtime=0)[:-9], "a.csv.gz is no whole"),
        ("a.csv.gz", b"<html>", "a.csv.gz is no whole"),
        ("a.parquet", b"PAR1<html>PAR1", "a.parquet is no whole"),
        ("a.parquet", parquet_bytes(pa.table({"image": [{"bytes": b"x", "path": "a.png"}]})), "images themselves"),
        ("a.parquet", parquet_bytes(pa.table({"image": ["a" * 50] * 99}))[:40] + b"\xff" * 30, "a.parquet is no whole"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_by_its_name_and_cause(root: Path, name: str, data: bytes, word: str) -> None:
    (root / name).write_bytes(data)
    with pytest.raises(LayoutError, match=word):
        Table().list_items(str(root / name))


def test_rfc_3339_has_small_letters_too(root: Path) -> None:
    found = only(read(root, {"image": ["images/one.png"], "datetime": ["2020-01-02t03:04:05z"]}))
    assert found.metadata.datetime == dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def test_classes_are_stripped_whole_and_told_of_where_they_are_words_for_missing(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = str(next(root.rglob("*.png")).relative_to(root))
    words = [" forest", "forest ", "forest", "none", "NA", "NA", ""]
    index = read(root, {"image": [image] * 7, "category": words})
    assert [sample.category for sample in index.samples] == ["forest"] * 3 + [None] * 4
    (told,) = [record.getMessage() for record in caplog.records if "category" in record.getMessage()]
    assert '"NA" 2 x' in told
    assert '"none" 1 x' in told
    caplog.clear()
    pd.DataFrame({"image": [image] * 4, "category": [1.0, 10.0, None, 2.5]}).to_parquet(root / "t.parquet")
    found = build_index(Table(), str(root / "t.parquet"), KEEP, Local()).samples
    assert [sample.category for sample in found] == ["1", "10", None, "2.5"]
    assert not [record for record in caplog.records if "category" in record.getMessage()]
