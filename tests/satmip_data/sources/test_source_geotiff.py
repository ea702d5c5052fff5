"""Rasters: pixels against numpy, ground against pyproj, nodata, stretches, and the real files where they are."""

import datetime as dt
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from pyproj import Geod, Transformer
from rasterio.transform import Affine

from satmip_data import geometry
from satmip_data.errors import BuildError
from satmip_data.execution.engines import Local
from satmip_data.imagery import raster
from satmip_data.imagery.chips import ImageError
from satmip_data.pipeline.build import build
from satmip_data.pipeline.index import build_index
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import REASONS, Georeference, Sample, Window
from satmip_data.sources.archive import placed
from satmip_data.sources.base import LayoutError
from satmip_data.sources.geotiff import GeoTiff
from satmip_data.storage.store import Store
from satmip_data.validation import validate
from tests.data.archives.make import pixels, write_control_points, write_raster, write_rasters

KEEP = BuildSettings(size=None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_rasters(tmp_path / "rasters")
    return tmp_path / "rasters"


def samples(source: GeoTiff, root: Path) -> dict[str, Sample]:
    index = build_index(source, str(root), KEEP, Local())
    assert not index.rejects, index.rejects
    return {sample.key: sample for sample in index.samples}


def chip(source: GeoTiff, root: Path, sample: Sample) -> np.ndarray:
    size = (sample.window.width, sample.window.height)
    return np.asarray(source.read_chip(str(root), sample, size, 10**9))


def test_every_pixel_is_in_a_window_and_no_window_leaves_the_raster(root: Path) -> None:
    found = samples(GeoTiff(tile=32, stretch="percentile"), root)
    for path, (width, height) in {"a/town_20200102T030405.tif": (100, 70), "b/field_20201112T131415.tif": (64, 40)}.items():
        seen = np.zeros((height, width), int)
        for sample in found.values():
            if sample.path == path:
                window = sample.window
                assert (window.width, window.height) == (32, 32)
                seen[window.y : window.y + 32, window.x : window.x + 32] += 1
        assert seen.shape == (height, width)
        assert seen.min() == 1
    assert len(found) == 4 * 3 + 2 * 2 + 2 * 2


def test_a_small_raster_is_one_sample_of_its_own_size(root: Path) -> None:
    found = samples(GeoTiff(stretch="percentile"), root)
    assert set(found) == {"a_town_20200102t030405", "a_sea_20200607t080910", "b_field_20201112t131415"}
    assert found["a_town_20200102t030405"].window == Window(0, 0, 100, 70)


def test_only_the_windows_off_the_earth_are_rejects(tmp_path: Path) -> None:
    """The Earth's disc as a geostationary satellite sees it: the raster's corners show space."""
    disc = (110_000.0, 0.0, -5_500_000.0, 0.0, -110_000.0, 5_500_000.0)
    values = pixels(np.random.default_rng(0), 100, 100, 3, 1, 255).astype(np.uint8)
    write_raster(tmp_path / "in/disc.tif", values, "+proj=geos +h=35785831 +lon_0=0 +sweep=y +ellps=WGS84", disc)
    source = GeoTiff(tile=10, shares="train=1")
    index = build_index(source, str(tmp_path / "in"), KEEP, Local())
    assert len(index.samples) + len(index.rejects) == 100
    assert {sample.key for sample in index.samples} >= {f"disc_r{row}c{column}" for row in range(2, 8) for column in range(2, 8)}
    assert {reject.key for reject in index.rejects} >= {"disc_r0c0", "disc_r0c9", "disc_r9c0", "disc_r9c9"}
    assert {(reject.reason, reject.stage) for reject in index.rejects} == {
        ("no_georeference", "scan"),
        ("no_georeference", "index"),
    }
    assert all(reject.message for reject in index.rejects)
    build(BuildRequest(source, str(tmp_path / "in"), str(tmp_path / "out"), KEEP))
    assert validate.validate(str(tmp_path / "out")).problems == ()


def test_location_and_gsd_are_those_on_the_ground(root: Path) -> None:
    """A plain loop with pyproj: metres between the middles of the window's sides."""
    geod = Geod(ellps="WGS84")
    for sample in samples(GeoTiff(tile=32, stretch="percentile"), root).values():
        with rasterio.open(root / sample.path) as file:
            to_lonlat = Transformer.from_crs(file.crs, "EPSG:4326", always_xy=True)
            window, corner = sample.window, file.transform

            def ground(col: float, row: float, corner: Affine = corner, to_lonlat: Transformer = to_lonlat) -> tuple[float, float]:
                return to_lonlat.transform(corner.c + corner.a * col, corner.f + corner.e * row)

            col, row = window.x + window.width / 2, window.y + window.height / 2
            across = geod.inv(*ground(window.x, row), *ground(window.x + window.width, row))[2]
            down = geod.inv(*ground(col, window.y), *ground(col, window.y + window.height))[2]
            assert sample.metadata.location == pytest.approx(ground(col, row), abs=1e-9)
            assert sample.metadata.gsd == pytest.approx((across / window.width, down / window.height), rel=1e-6)
    degrees = samples(GeoTiff(tile=8, stretch="percentile"), root)
    first, last = (degrees[f"b_field_20201112t131415_r{row}c0"].metadata.gsd for row in (0, 4))
    assert first is not None
    assert last is not None
    assert first[0] < last[0]  # pixels in degrees grow towards the equator


def test_pixels_of_8_bits_stay_and_others_are_stretched_as_said(root: Path) -> None:
    found = samples(GeoTiff(stretch="minmax:0,4000"), root)
    with rasterio.open(root / "a/sea_20200607T080910.tif") as file:
        values = file.read([4, 3, 2]).astype(float)
    expected = np.rint(np.clip(values / 4000, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    assert np.array_equal(chip(GeoTiff(stretch="minmax:0,4000"), root, found["a_sea_20200607t080910"]), expected)

    got = chip(GeoTiff(stretch="percentile:5,90"), root, found["a_sea_20200607t080910"])
    for band in range(3):
        low, high = np.percentile(values[band], (5, 90))
        assert np.array_equal(got[..., band], np.rint(np.clip((values[band] - low) / (high - low), 0, 1) * 255).astype(np.uint8))

    with rasterio.open(root / "a/town_20200102T030405.tif") as file:
        eight = file.read().transpose(1, 2, 0)
    assert np.array_equal(chip(GeoTiff(), root, found["a_town_20200102t030405"]), eight)
    assert np.array_equal(chip(GeoTiff(bands="3,3,1"), root, found["a_town_20200102t030405"]), eight[..., [2, 2, 0]])


def test_windows_of_one_raster_share_its_percentiles(root: Path) -> None:
    whole = chip(GeoTiff(stretch="percentile"), root, samples(GeoTiff(stretch="percentile"), root)["a_sea_20200607t080910"])
    source = GeoTiff(stretch="percentile", tile=32)
    part = samples(source, root)["a_sea_20200607t080910_r1c1"]
    assert np.array_equal(chip(source, root, part), whole[32:, 32:])


def test_16_bits_without_a_stretch_are_refused_with_what_to_type(root: Path, tmp_path: Path) -> None:
    index = build_index(GeoTiff(), str(root), KEEP, Local())
    assert [reject.reason for reject in index.rejects] == ["unscaled", "unscaled"]
    assert "--stretch percentile" in index.rejects[0].message
    (root / "a/town_20200102T030405.tif").unlink()
    with pytest.raises(BuildError, match=r"2 x unscaled.*--stretch"):
        build(BuildRequest(GeoTiff(), str(root), str(tmp_path / "out"), KEEP))


def test_numbers_of_colours_are_no_picture(tmp_path: Path) -> None:
    write_raster(tmp_path / "classes.tif", np.full((1, 16, 16), 9, np.uint8), photometric="PALETTE")
    for stretch in ("none", "percentile"):
        (reject,) = build_index(GeoTiff(stretch=stretch), str(tmp_path), KEEP, Local()).rejects
        assert reject.reason == "unscaled"
        assert "-expand rgb" in reject.message
    assert samples(GeoTiff(bands="1"), tmp_path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_scan_whose_zero_is_white_is_no_negative(tmp_path: Path, dtype: str) -> None:
    most = np.iinfo(dtype).max
    values = np.linspace(0, most, 64).astype(dtype).reshape(1, 8, 8)
    write_raster(tmp_path / "in/a.tif", values, photometric="MINISWHITE")
    source = GeoTiff(stretch="none" if dtype == "uint8" else f"minmax:0,{most}")
    (sample,) = samples(source, tmp_path / "in").values()
    expected = np.rint((most - values[0].astype(float)) / most * 255).astype(np.uint8)
    assert np.array_equal(chip(source, tmp_path / "in", sample), np.stack([expected] * 3, axis=-1))


def test_bands_that_nobody_can_guess_must_be_named(tmp_path: Path) -> None:
    values = pixels(np.random.default_rng(0), 32, 32, 5, 1, 255).astype(np.uint8)
    write_raster(tmp_path / "five.tif", values, photometric="MINISBLACK")
    (reject,) = build_index(GeoTiff(), str(tmp_path), KEEP, Local()).rejects
    assert reject.reason == "unscaled"
    assert "--bands" in reject.message
    assert samples(GeoTiff(bands="5,4,1"), tmp_path)
    (reject,) = build_index(GeoTiff(bands="6"), str(tmp_path), KEEP, Local()).rejects
    assert "--bands" in reject.message


def test_a_zero_in_one_band_is_data_and_in_all_bands_is_none(tmp_path: Path) -> None:
    values = np.full((3, 4, 4), 50, np.int16)
    values[0, 0], values[:, 1] = 0, 0
    write_raster(tmp_path / "in/a.tif", values)
    source = GeoTiff(stretch="minmax:-100,100")
    (sample,) = samples(source, tmp_path / "in").values()
    got = chip(source, tmp_path / "in", sample)
    assert (got[0] == (128, 191, 191)).all()
    assert (got[1] == 0).all()


@pytest.mark.parametrize("cover", [None, "alpha", "mask"])
@pytest.mark.parametrize("nodata", [None, 0, 255, 7])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_pixel_is_missing_where_all_its_bands_are_or_where_the_mask_says_so(
    tmp_path: Path, dtype: str, nodata: int | None, cover: str | None
) -> None:
    rng = np.random.default_rng(0)
    values = rng.choice(np.array([0, 7, 90, 255], dtype), (3, 24, 24))
    if dtype == "float32":
        values[rng.random(values.shape) < 0.1] = np.nan
    shown = rng.random((24, 24)) < 0.7
    bands = values if cover != "alpha" else np.concatenate([values, (shown * 200)[None].astype(dtype)])
    profile = {"photometric": "RGB", **({"alpha": "YES"} if cover == "alpha" else {})}
    path = write_raster(tmp_path / "in/a.tif", bands, nodata=nodata, **profile)
    if cover == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.write_mask(shown)
    expected = np.zeros((24, 24, 3), np.uint8)
    for row, column in np.ndindex(24, 24):
        pixel = values[:, row, column]
        missing = (pixel == 0).all() or (cover != "mask" and nodata is not None and (pixel == nodata).all())
        if not missing and (cover is None or shown[row, column]):
            expected[row, column] = np.nan_to_num(pixel)
    source = GeoTiff(stretch="none" if dtype == "uint8" else "minmax:0,255")
    (sample,) = samples(source, tmp_path / "in").values()
    assert np.array_equal(chip(source, tmp_path / "in", sample), expected)


def test_nodata_is_black_and_a_window_without_data_is_a_reject(tmp_path: Path) -> None:
    values = pixels(np.random.default_rng(0), 64, 64, 3, 100, 3000).astype(np.float32)
    values[:, :, 32:] = -9999
    values[:, 32:, :32] = np.nan
    write_raster(tmp_path / "in/half.tif", values, nodata=-9999)
    dataset = build(BuildRequest(GeoTiff(tile=32, stretch="minmax:0,3000"), str(tmp_path / "in"), str(tmp_path / "out"), KEEP))
    assert dataset["rejects"] == {"image_empty": 3}
    source = GeoTiff(stretch="percentile")
    whole = chip(source, tmp_path / "in", samples(source, tmp_path / "in")["half"])
    assert not whole[:, 32:].any()
    assert not whole[32:].any()
    low, high = np.percentile(values[0, :32, :32], (2, 98))  # nodata has no part in the percentiles
    expected = np.rint(np.clip((values[0, :32, :32].astype(float) - low) / (high - low), 0, 1) * 255)
    assert np.array_equal(whole[:32, :32, 0], expected.astype(np.uint8))


def test_what_cannot_be_placed_or_read_is_a_reject(root: Path) -> None:
    write_raster(root / "c/lost.tif", np.full((3, 16, 16), 9, np.uint8), crs=None)
    write_raster(root / "c/nowhere.tif", np.full((3, 16, 16), 9, np.uint8), transform=(10.0, 0.0, 1e12, 0.0, -10.0, 1e12))
    (root / "c/noise.tif").write_bytes(b"II*\0" + bytes(100))
    index = build_index(GeoTiff(stretch="percentile"), str(root), KEEP, Local())
    reasons = {reject.path: reject.reason for reject in index.rejects}
    assert reasons == {"c/lost.tif": "no_georeference", "c/nowhere.tif": "no_georeference", "c/noise.tif": "image_unreadable"}
    assert set(reasons.values()) <= REASONS.keys()
    assert len(index.samples) == 3


def test_control_points_place_a_raster_where_they_fit_a_grid(tmp_path: Path) -> None:
    for name, bent, corners in (("plain", 0.0, 5), ("near", 1.0, 5), ("bent", 20.0, 5), ("few", 0.0, 3)):
        write_control_points(tmp_path / f"{name}.tif", bent, corners)
    index = build_index(GeoTiff(), str(tmp_path), KEEP, Local())
    assert {reject.key: reject.reason for reject in index.rejects} == dict.fromkeys(("bent", "few"), "no_georeference")
    plain, near = sorted(index.samples, key=lambda sample: sample.key, reverse=True)
    lon, lat = Transformer.from_crs(32632, 4326, always_xy=True).transform(500_600, 4_999_600)
    assert plain.metadata.location == pytest.approx((lon, lat), abs=1e-9)
    assert plain.metadata.gsd == pytest.approx((20, 20), rel=1e-3)
    assert near.metadata.location != plain.metadata.location


def test_a_raster_that_changed_since_the_scan_is_a_reject(root: Path) -> None:
    source = GeoTiff(stretch="percentile")
    sample = samples(source, root)["a_town_20200102t030405"]
    write_raster(root / sample.path, np.full((3, 16, 16), 9, np.uint8))
    with pytest.raises(ImageError, match=r"16 x 16 .*100 x 70") as caught:
        source.read_chip(str(root), sample, (8, 8), 10**9)
    assert caught.value.reason == "size_mismatch"
    with pytest.raises(ImageError, match="allows 10"):
        source.read_chip(str(root), sample, (8, 8), 10)


@pytest.mark.parametrize(
    ("name", "pattern", "time"),
    [
        ("S2A_20170613T101031_0_45", "%Y%m%d", "2017-06-13"),
        ("12345678_20170613", "%Y%m%d", "2017-06-13"),  # no month 56
        ("1234567820170613", "%Y%m%d", None),  # a longer number
        ("00010101-20200229", "%Y%m%d", "2020-02-29"),  # no picture was taken in the year 1
        ("99991231", "%Y%m%d", None),
        ("tile_30_2019_x", "%Y", "2019-01-01"),
        ("20190229_20190301", "%Y%m%d", "2019-03-01"),
        ("a2019-02-28b", "%Y-%m-%d", "2019-02-28"),
        ("LC08_2019123", "%Y%j", "2019-05-03"),
        ("9_2019", "_%Y", "2019-01-01"),
        ("2019-02-2019-03-04", "%Y-%m-%d", "2019-03-04"),
    ],
)
def test_the_time_in_a_name_is_its_first_date_that_is_one(tmp_path: Path, name: str, pattern: str, time: str | None) -> None:
    write_raster(tmp_path / f"{name}.tif", np.full((3, 8, 8), 9, np.uint8))
    index = build_index(GeoTiff(time_pattern=pattern), str(tmp_path), KEEP, Local())
    assert [sample.metadata.datetime.date().isoformat() for sample in index.samples] == ([time] if time else [])


def test_time_comes_from_the_name_or_a_tag(root: Path, tmp_path: Path) -> None:
    named = samples(GeoTiff(stretch="percentile", time_pattern="%Y%m%dT%H%M%S"), root)
    assert named["a_town_20200102t030405"].metadata.datetime == dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    assert samples(GeoTiff(stretch="percentile"), root)["a_town_20200102t030405"].metadata.datetime is None
    write_raster(tmp_path / "t/x.tif", np.full((3, 16, 16), 9, np.uint8), tags={"TIFFTAG_DATETIME": "2019:03:04 05:06:07"})
    tagged = samples(GeoTiff(time_tag="TIFFTAG_DATETIME"), tmp_path / "t")
    assert tagged["x"].metadata.datetime == dt.datetime(2019, 3, 4, 5, 6, 7, tzinfo=dt.UTC)
    (reject,) = build_index(GeoTiff(time_pattern="%Y"), str(tmp_path / "t"), KEEP, Local()).rejects
    assert reject.reason == "metadata_invalid"


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("ACQUISITIONDATETIME", "2013-04-20 03:12:21"),  # as GDAL's readers write it
        ("ACQUISITIONDATETIME", "2013-04-20T03:12:21Z"),
        ("ACQUISITIONDATETIME", "2013-04-20T05:12:21+02:00"),
        ("TIFFTAG_DATETIME", "2013:04:20 03:12:21"),  # as TIFF has it
    ],
)
def test_a_tags_time_is_gdals_iso_or_tiffs(tmp_path: Path, tag: str, text: str) -> None:
    write_raster(tmp_path / "x.tif", np.full((3, 16, 16), 9, np.uint8), tags={tag: text})
    assert samples(GeoTiff(time_tag=tag), tmp_path)["x"].metadata.datetime == dt.datetime(2013, 4, 20, 3, 12, 21, tzinfo=dt.UTC)


def test_a_tags_time_that_is_none_is_a_reject(tmp_path: Path) -> None:
    write_raster(tmp_path / "x.tif", np.full((3, 16, 16), 9, np.uint8), tags={"ACQUISITIONDATETIME": "20 April"})
    (reject,) = build_index(GeoTiff(), str(tmp_path), KEEP, Local()).rejects
    assert 'ACQUISITIONDATETIME is "20 April"' in reject.message


@pytest.mark.parametrize(
    "options",
    [
        {"tile": 0}, {"bands": "1,2"}, {"bands": "0"}, {"bands": "1,-1,2"}, {"stretch": "minmax:5,5"}, {"stretch": "minmax:0,inf"},
        {"stretch": "minmax:5"}, {"stretch": "gamma"}, {"stretch": "gamma:2,98"}, {"stretch": "percentile:2,101"},
        {"stretch": "percentile:-1,98"}, {"stretch": "percentile:98,2"}, {"time_pattern": "%Q"},
    ],
)  # fmt: skip
def test_options_that_no_build_can_have(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"--tile|bands|stretch|--time-pattern"):
        GeoTiff(**options)  # type: ignore[arg-type]


def test_a_stretch_may_be_any_that_rises() -> None:
    texts = ["none", "percentile", "percentile:0,100", "percentile:5,95", "minmax:-1,1e4"]
    limits = [(stretch.kind, stretch.low, stretch.high) for stretch in map(raster.parse_stretch, texts) if stretch.kind != "none"]
    assert limits == [("percentile", 2, 98), ("percentile", 0, 100), ("percentile", 5, 95), ("minmax", -1, 1e4)]


@pytest.mark.parametrize(
    ("count", "colours", "bands", "chosen"),
    [
        (1, None, None, (1, 1, 1)),
        (2, None, None, (1, 1, 1)),  # gray and alpha
        (3, None, None, (1, 2, 3)),
        (4, (3, 2, 1), None, (3, 2, 1)),
        (12, None, None, (4, 3, 2)),  # Sentinel-2
        (13, None, None, (4, 3, 2)),
        (4, (3, 2, 1), (4, 1, 2), (4, 1, 2)),
        (4, None, (4,), (4, 4, 4)),
        (4, None, None, None),
        (11, None, None, None),
        (3, None, (1, 2, 4), None),
    ],
)
def test_bands_are_those_said_or_those_a_raster_tells(count: int, colours: Any, bands: Any, chosen: Any) -> None:
    header = raster.Header(8, 8, count, ("uint8",) * count, colours, False, None, "", {}, (1.0,) * count, (0.0,) * count)
    if chosen is None:
        with pytest.raises(raster.ScaleError, match="--bands"):
            raster.choose_bands(header, bands, raster.Stretch("none"))
    else:
        assert raster.choose_bands(header, bands, raster.Stretch("none")) == chosen


def test_a_window_that_is_black_after_the_stretch_is_a_reject() -> None:
    known = np.ones((3, 4, 4), np.bool_)
    with pytest.raises(ImageError, match="every pixel is 0 after the stretch"):
        raster.compose(raster.Layers(np.zeros((3, 4, 4), np.uint8), known), (4, 4))


def test_what_a_georeference_measures_is_measured_at_the_window() -> None:
    """Along the Greenwich meridian of Antarctica, where a degree of longitude is ever shorter."""
    georeference, window = Georeference((1000.0, 0.0, -50_000.0, 0.0, -1000.0, 2_000_000.0), "EPSG:3031"), Window(10, 1500, 80, 40)
    metadata = placed({"cloud_cover": 3.0}, georeference, window)
    a, b, c, d, e, f = georeference.affine
    moved = Georeference((a, b, c + a * window.x, d, e, f + e * window.y), georeference.crs)
    assert metadata.pixel_size == pytest.approx(geometry.pixel_size(moved, window.width, window.height))
    assert metadata.gsd == pytest.approx(geometry.ground_gsd(moved, Window(0, 0, 80, 40), (80, 40)))
    assert metadata.location == pytest.approx(geometry.window_centre(moved, Window(0, 0, 80, 40)))
    assert metadata.cloud_cover == 3.0


def test_windows_of_a_raster_stay_in_one_split_and_folders_name_it(tmp_path: Path) -> None:
    for number in range(10):
        write_raster(tmp_path / f"{number}.tif", np.full((3, 32, 32), 9, np.uint8))
    write_raster(tmp_path / "test/x.tif", np.full((3, 32, 32), 9, np.uint8))
    found = samples(GeoTiff(tile=16), tmp_path).values()
    splits = {sample.place: {other.split for other in found if other.place == sample.place} for sample in found}
    assert all(len(split) == 1 for split in splits.values())
    counts = [next(iter(split)) for split in splits.values()]
    assert (counts.count("train"), counts.count("val"), counts.count("test")) == (8, 2, 1)


def test_a_folder_without_rasters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"\.tif"):
        GeoTiff().list_items(str(tmp_path))


def test_links_are_followed_and_each_file_read_once(root: Path, tmp_path: Path) -> None:
    """Else one raster would stand in two splits, and, by links that lead back, be read forty times."""
    (root / "b/c").mkdir()
    for link, target in {"a/b": "../b", "b/c/a": "../../a", "here": ".", "up": "../..", "gone": "nowhere"}.items():
        (root / link).symlink_to(target)
    (tmp_path / "elsewhere").mkdir()
    write_raster(tmp_path / "elsewhere/x.tif", np.full((3, 8, 8), 9, np.uint8))
    for link in ("other", "other2"):
        (root / link).symlink_to(tmp_path / "elsewhere")
    (root / "a/copy.tif").symlink_to("../b/field_20201112T131415.tif")
    paths = [item.image for item in GeoTiff().list_items(str(root))]
    town, sea, field = "town_20200102T030405.tif", "sea_20200607T080910.tif", "field_20201112T131415.tif"
    assert paths == sorted([f"a/{town}", f"a/{sea}", f"b/{field}", "other/x.tif"])


def test_rasters_are_read_from_elsewhere_by_windows(root: Path) -> None:
    memory = Store("memory://rasters")
    for path in root.rglob("*.tif"):
        memory.write(str(path.relative_to(root)), path.read_bytes())
    source = GeoTiff(stretch="percentile", tile=32)
    here = samples(source, root)
    index = build_index(source, "memory://rasters", KEEP, Local())
    assert not index.rejects
    assert {sample.key: sample for sample in index.samples} == here
    sample = here["a_sea_20200607t080910_r1c1"]
    assert np.array_equal(np.asarray(source.read_chip("memory://rasters", sample, (32, 32), 10**9)), chip(source, root, sample))


def test_8_bits_of_a_constant_band_do_not_divide_by_zero() -> None:
    values = np.array([[[3.0, 3.0, 5.0]]])
    got = raster.to_8_bits(values, np.array([[[True, True, False]]]), [(3.0, 3.0)])
    assert got.tolist() == [[[0, 0, 0]]]


def test_a_large_window_becomes_8_bits_in_little_more_memory_than_it_has() -> None:
    """A worker that stretches a scene of Sentinel-2 whole must not take ten times its size."""
    values = np.arange(3 * 1000 * 200, dtype=np.uint16).reshape(3, 1000, 200)
    known = values % 7 > 0
    tracemalloc.start()
    try:
        got = raster.to_8_bits(values, known, [(100.0, 60000.0)] * 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    expected = np.where(known, np.rint(np.clip((values - 100.0) / 59900.0 * 255.0, 0.0, 255.0)), 0.0)
    assert np.array_equal(got, expected)
    assert peak < 3 * values.nbytes


@pytest.mark.real
def test_the_real_rasters(tmp_path: Path) -> None:
    if "SATMIP_REAL_DATA" not in os.environ:
        pytest.skip("SATMIP_REAL_DATA is unset")
    root = Path(os.environ["SATMIP_REAL_DATA"]) / "geotiff"
    settings = BuildSettings(size=None)
    dataset = build(BuildRequest(GeoTiff(tile=128, stretch="percentile"), str(root), str(tmp_path), settings))
    assert sum(split["samples"] for split in dataset["splits"].values()) == 4 * 4 + 12
    assert not dataset["rejects"]
    assert validate.validate(str(tmp_path)).problems == ()
    found = samples(GeoTiff(stretch="percentile"), root)
    for key in ("70541", "252161", "502692", "770287"):
        assert found[f"sentinel2_patch_{key}"].metadata.gsd == pytest.approx((10, 10), rel=1e-3)
    airport = found["fmow-sentinel_airport_0_1_r0c0"].metadata
    assert airport.location == pytest.approx((-73.7855, -42.4830), abs=1e-3)
    assert airport.gsd == pytest.approx((10 * np.cos(np.radians(42.48)), 10), rel=5e-3)
    assert Image.fromarray(chip(GeoTiff(stretch="percentile"), root, found["sentinel2_patch_252161"])).size == (256, 256)
