"""STAC items: properties by their definitions, assets on their own georeference, whatever is missing a reject."""

import copy
import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyproj import CRS, Transformer

from satmip_data.execution.engines import Local
from satmip_data.pipeline.build import build
from satmip_data.pipeline.index import Index, build_index
from satmip_data.pipeline.journal import Journal
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import REASONS, Sample
from satmip_data.sources.base import LayoutError
from satmip_data.sources.stac import Stac
from satmip_data.storage.store import Store
from satmip_data.validation import validate
from tests.data.archives.make import pixels, stac_item, write_control_points, write_raster

KEEP = BuildSettings(size=None)
ASSET = {"href": "./images/scene.tif", "roles": ["data"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    values = pixels(np.random.default_rng(0), 40, 60, 3, 1, 255).astype(np.uint8)
    write_raster(tmp_path / "images/scene.tif", values)
    Image.fromarray(values.transpose(1, 2, 0)).save(tmp_path / "images/scene.png")
    return tmp_path


def read(root: Path, *items: Any, **options: Any) -> Index:
    (root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    return build_index(Stac(**options), str(root / "items.json"), KEEP, Local())


def only(index: Index) -> Sample:
    assert not index.rejects, index.rejects
    (sample,) = index.samples
    return sample


def changed(**changes: Any) -> dict[str, Any]:
    item = copy.deepcopy(stac_item(1, ASSET))
    for name, value in changes.items():
        (item["properties"] if ":" in name or name in item["properties"] else item)[name] = value
    return item


def test_an_item_becomes_a_sample_with_all_it_knows(root: Path) -> None:
    sample = only(read(root, stac_item(1, ASSET)))
    metadata = sample.metadata
    assert (sample.key, sample.place, sample.path) == ("scene-1", "scene-1", "images/scene.tif")
    assert metadata.datetime == dt.datetime(2021, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
    assert (metadata.platform, metadata.cloud_cover, metadata.off_nadir) == ("sentinel-2a", 0.0, 3.5)
    assert (metadata.sun_azimuth, metadata.sun_elevation) == (150.0, 40.0)
    assert metadata.target_azimuth == 280.0  # STAC looks from the satellite's foot to the scene
    assert metadata.gsd == pytest.approx((10, 10), rel=1e-3)  # measured on the raster
    assert metadata.location == pytest.approx((9.0038, 45.1516), abs=1e-3)  # UTM zone 32, 300 m east of its middle


def test_an_asset_without_a_georeference_is_placed_by_the_item(root: Path) -> None:
    picture = {"href": "images/scene.png"}
    projected = only(
        read(root, {**stac_item(1, {**picture, "proj:code": "EPSG:32632", "proj:transform": [20, 0, 500000, 0, -20, 5000000]})})
    )
    assert projected.metadata.gsd == pytest.approx((20, 20), rel=1e-3)
    bounds = only(read(root, stac_item(1, picture)))
    assert bounds.metadata.gsd == (10.0, 10.0)  # as the item says: its bounds are a guess
    assert bounds.metadata.location == pytest.approx((11.005, 45.005))
    assert bounds.footprint is not None
    longitudes = [lon for lon, _ in bounds.footprint]
    assert (min(longitudes), max(longitudes)) == pytest.approx((11.0, 11.01))
    without = {**stac_item(1, picture), "bbox": None}
    assert only(read(root, without)).footprint == pytest.approx(np.array(bounds.footprint))
    (reject,) = read(root, {**without, "geometry": None}).rejects
    assert reject.reason == "metadata_invalid"


@pytest.mark.parametrize("level", ["item", "asset", "item, with the asset's own shape"])
def test_a_transform_is_that_of_its_shape_and_not_of_any_asset(root: Path, level: str) -> None:
    """The picture has 60 x 40 pixels; the transform is that of 600 x 200."""
    stated = {"proj:code": "EPSG:32632", "proj:transform": [1, 0, 500000, 0, -2, 5000000], "proj:shape": [200, 600]}
    picture: dict[str, Any] = {"href": "images/scene.png"}
    if level == "asset":
        item = stac_item(1, {**picture, **stated})
    else:
        item = stac_item(1, picture if level == "item" else {**picture, "proj:shape": [40, 60]})
        item["properties"] |= stated
    sample = only(read(root, item))
    assert sample.metadata.gsd == pytest.approx((10, 10), rel=1e-3)
    assert sample.metadata.location == pytest.approx((9.0038, 45.1516), abs=1e-3)


UTM = CRS(32632)
OTHER = CRS.from_proj4("+proj=sinu +R=6371007.181 +units=m")  # MODIS's, which has no code
GRID = {"proj:transform": [20, 0, 500000, 0, -20, 5000000]}


@pytest.mark.parametrize("level", ["item", "asset", "asset, against the item's"])
@pytest.mark.parametrize("crs", [UTM, OTHER], ids=["utm", "sinusoidal"])
def test_a_crs_is_read_from_a_code_from_wkt_and_from_projjson(root: Path, crs: CRS, level: str) -> None:
    written = {"proj:wkt2": crs.to_wkt(), "proj:projjson": crs.to_json_dict()}
    if crs.to_epsg():
        written["proj:code"] = f"EPSG:{crs.to_epsg()}"
    places = set()
    for name, value in written.items():
        stated = {**GRID, "proj:code": None, name: value}
        item = stac_item(1, {"href": "images/scene.png", **(stated if level != "item" else {})})
        item["properties"] |= stated if level == "item" else {"proj:epsg": 3857} if "against" in level else {}
        sample = only(read(root, item))
        places.add((sample.footprint, sample.metadata.gsd))
    assert len(places) == 1
    lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(500600, 4999600)
    assert sample.metadata.location == pytest.approx((lon, lat), abs=1e-6)


@pytest.mark.parametrize(
    "stated",
    [
        GRID,
        {**GRID, "proj:code": None, "proj:wkt2": None},
        {**GRID, "proj:code": "EPSG:None"},
        {**GRID, "proj:wkt2": "PROJCRS[]"},
        {**GRID, "proj:projjson": {"type": "ProjectedCRS"}},
        {**GRID, "proj:code": "EPSG:32632", "proj:shape": [60, 40]},  # the picture has 40 rows of 60
        {**GRID, "proj:code": "EPSG:32632", "proj:shape": [40, 61 * 60]},
    ],
)
def test_a_transform_that_places_nothing_is_a_reject(root: Path, stated: dict[str, Any]) -> None:
    (reject,) = read(root, stac_item(1, {"href": "images/scene.png", **stated})).rejects
    assert (reject.reason, "proj:" in reject.message) == ("metadata_invalid", True)
    assert only(read(root, stac_item(1, {**ASSET, **stated}))).metadata.gsd == pytest.approx((10, 10), rel=1e-3)  # its own


def test_an_asset_is_what_its_type_says_or_its_first_bytes(root: Path) -> None:
    shutil.copy(root / "images/scene.tif", root / "images/raster")
    shutil.copy(root / "images/scene.tif", root / "images/raster.png")
    shutil.copy(root / "images/scene.png", root / "images/picture.tif")
    (root / "images/other").write_text("{}")
    cog = "image/tiff; application=geotiff; profile=cloud-optimized"
    for href, kind in (("raster", cog), ("raster", None), ("raster.png", "image/png"), ("raster", "application/octet-stream")):
        sample = only(read(root, stac_item(1, {"href": f"images/{href}", "type": kind})))
        assert sample.metadata.gsd == pytest.approx((10, 10), rel=1e-3)  # measured, not the item's
        assert Stac().read_chip(str(root / "items.json"), sample, (60, 40), 10**6).size == (60, 40)
    sample = only(read(root, stac_item(1, {"href": "images/picture.tif"})))
    assert sample.metadata.gsd == (10.0, 10.0)
    assert Stac().read_chip(str(root / "items.json"), sample, (60, 40), 10**6).size == (60, 40)
    both = changed(assets={"a": {"href": "images/raster"}, "b": {"href": "images/other"}, "c": {"href": "x", "type": "text/html"}})
    assert only(read(root, both)).path == "images/raster"
    assert "c" in read(root, changed(assets={"c": {"href": "images/raster", "type": "text/html"}})).rejects[0].message


def test_an_asset_whose_control_points_fit_no_grid_is_a_reject_and_not_laid_into_its_bbox(root: Path) -> None:
    write_control_points(root / "images/scene.tif", 0.0)
    assert only(read(root, stac_item(1, ASSET))).metadata.gsd == pytest.approx((20, 20), rel=1e-3)
    write_control_points(root / "images/scene.tif", 10.0)
    (reject,) = read(root, stac_item(1, ASSET)).rejects
    assert reject.reason == "no_georeference"


def control_points(form: str, bent: float = 0.0) -> Any:
    """Return the points of an image of 60 x 40 pixels of 20 m as programs print them."""
    places = [(0, 0), (0, 60), (40, 0), (40, 60), (20, 30)]
    points = [{"row": row, "col": col, "x": 500_000 + 20 * col, "y": 5_000_000 - 20 * row, "z": 0} for row, col in places]
    points[-1]["x"] += 20 * bent
    if form == "gdal":
        listed = [{"pixel": point["col"], "line": point["row"], "x": point["x"], "y": point["y"]} for point in points]
        return {"coordinateSystem": {"wkt": UTM.to_wkt()}, "gcpList": listed}
    return {"points": points, "crs": "EPSG:32632"} if form == "rasterio" else points


@pytest.mark.parametrize("level", ["asset", "item"])
@pytest.mark.parametrize("form", ["gdal", "rasterio", "plain"])
def test_control_points_of_an_item_place_its_image_where_they_fit_a_grid(root: Path, form: str, level: str) -> None:
    def found(bent: float, **stated: Any) -> Index:
        fields = {"proj:gcps": control_points(form, bent), **({"proj:code": "EPSG:32632"} if form == "plain" else {}), **stated}
        item = stac_item(1, {"href": "images/scene.png", **(fields if level == "asset" else {})})
        item["properties"] |= fields if level == "item" else {}
        return read(root, item)

    sample = only(found(0.0))
    grid = {"proj:code": "EPSG:32632", **GRID}
    assert sample.footprint == only(read(root, stac_item(1, {"href": "images/scene.png", **grid}))).footprint
    assert sample.metadata.gsd == pytest.approx((20, 20), rel=1e-3)
    smaller = only(found(0.0, **{"proj:shape": [80, 120]}))  # the points are those of an image of twice the size
    assert smaller.metadata.gsd == pytest.approx((40, 40), rel=1e-3)
    (reject,) = found(10.0).rejects
    assert (reject.reason, "pixels" in reject.message) == ("no_georeference", True)


@pytest.mark.parametrize(
    "stated",
    [
        {"proj:gcps": control_points("plain")},  # no CRS
        {"proj:gcps": control_points("rasterio")["points"][:3], "proj:code": "EPSG:32632"},
        {"proj:gcps": [{"row": 0, "x": 1, "y": 2}] * 4, "proj:code": "EPSG:32632"},
        {"proj:gcps": [{"row": 0, "col": "a", "x": 1, "y": 2}] * 4, "proj:code": "EPSG:32632"},
        {"proj:gcps": [{"row": float("inf"), "col": 1, "x": 1, "y": 2}] * 4, "proj:code": "EPSG:32632"},
        {"proj:gcps": "many", "proj:code": "EPSG:32632"},
        {"proj:gcps": {"points": 5, "crs": "EPSG:32632"}},
        {"gcps": {"points": control_points("plain"), "crs": "EPSG:nowhere"}},
    ],
)
def test_control_points_that_tell_nothing_make_the_item_a_reject(root: Path, stated: dict[str, Any]) -> None:
    (reject,) = read(root, stac_item(1, {"href": "images/scene.png", **stated})).rejects
    assert reject.reason in ("metadata_invalid", "no_georeference")


def test_items_of_two_collections_may_share_an_id_and_none_is_lost(root: Path) -> None:
    items = [{**stac_item(1, ASSET), "collection": name} for name in ("L1", "l2", "l2")]
    index = read(root, *items, {**stac_item(1, ASSET)}, shares="train=1")
    assert [sample.key for sample in index.samples] == ["l1_scene-1", "l2_scene-1", "scene-1"]
    assert [(reject.reason, reject.key) for reject in index.rejects] == [("duplicate_key", "l2_scene-1")]
    (root / "lists.txt").write_text("Scene-1 val\n")
    assert {sample.split for sample in read(root, *items, split_file=str(root / "lists.txt")).samples} == {"val"}


def test_a_signed_url_is_the_image_of_an_item(root: Path) -> None:
    bucket = Store("memory://bucket")
    bucket.write("scene.tif?signature=a.b", (root / "images/scene.tif").read_bytes())
    bucket.write("item.json", json.dumps(stac_item(1, {"href": "memory://bucket/scene.tif?signature=a.b"})).encode())
    sample = only(build_index(Stac(), "memory://bucket/item.json", KEEP, Local()))
    assert sample.metadata.gsd == pytest.approx((10, 10), rel=1e-3)


@pytest.mark.parametrize("href", ["../scene.tif", "%2e%2e/scene.tif", "a/%2E%2E/%2E%2E/scene.tif"])
def test_an_asset_outside_the_source_needs_the_users_word(root: Path, tmp_path: Path, href: str) -> None:
    (root / "items").mkdir()
    (root / "images/scene.tif").rename(root / "scene.tif")
    assert [reject.reason for reject in read(root / "items", stac_item(1, {"href": href})).rejects] == ["image_outside"]
    only(read(root / "items", stac_item(1, {"href": href}), allow_outside=True))


def test_an_asset_is_cut_on_the_grid_and_proven(root: Path) -> None:
    (root / "items.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": [stac_item(1, ASSET), stac_item(2, ASSET)]})
    )
    dataset = build(BuildRequest(Stac(tile=20, shares="train=1"), str(root / "items.json"), str(root / "out"), KEEP))
    assert dataset["splits"]["train"]["samples"] == 12
    assert validate.validate(str(root / "out")).problems == ()


def test_a_stopped_build_inside_its_source_is_finished(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its journal is JSON, too."""
    for number in range(8):
        (root / f"{number}.json").write_text(json.dumps(stac_item(number, ASSET)))

    def stop(journal: Journal, record: object) -> None:
        raise KeyboardInterrupt

    request = BuildRequest(Stac(), str(root), str(root / "out"), BuildSettings(size=32))
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            build(request)
    assert (root / "out/.build/intent.json").exists()
    dataset = build(request)
    assert sum(split["samples"] for split in dataset["splits"].values()) == 8
    assert dataset["rejects"] == {}


def test_shards_inside_their_source_are_no_items(root: Path) -> None:
    """As --retry-rejects reads it again, and a build that was stopped while it was sealed."""
    for number in range(3):
        (root / f"{number}.json").write_text(json.dumps(stac_item(number, ASSET)))
    items = Stac().list_items(str(root))
    build(BuildRequest(Stac(), str(root), str(root / "out"), BuildSettings(size=32)))
    assert (root / "out/dataset.json").exists()
    assert Stac().list_items(str(root)) == items


def test_a_folder_of_items_is_the_same_as_their_collection(root: Path) -> None:
    expected = read(root, *(stac_item(number, ASSET) for number in range(3)), shares="train=1").samples
    (root / "items.json").unlink()
    (root / "a").mkdir()
    (root / "catalog.json").write_text(json.dumps({"type": "Catalog"}))
    for number in range(3):
        asset = {**ASSET, "href": "../images/scene.tif"}
        (root / f"a/{number}.json").write_text(json.dumps(stac_item(number, asset)))
    index = build_index(Stac(shares="train=1"), str(root), KEEP, Local())
    assert not index.rejects
    assert index.samples == expected


@pytest.mark.parametrize("name", ["catalog.json", "collection.json"])
def test_a_file_named_like_one_of_links_is_what_it_holds(root: Path, name: str) -> None:
    """Of links it stays passed over, also before version 1.0, where it has no type; and it moves no item to another split."""
    for number in range(3):
        (root / f"{number}.json").write_text(json.dumps(stac_item(number, ASSET)))
    items = Stac().list_items(str(root))
    for links in ({"type": "Collection", "links": []}, {"type": "Catalog", "links": []}, {"id": "old", "links": []}):
        (root / name).write_text(json.dumps(links))
        assert Stac().list_items(str(root)) == items
    for held in ({"type": "FeatureCollection", "features": [stac_item(8, ASSET), stac_item(9, ASSET)]}, stac_item(8, ASSET)):
        (root / name).write_text(json.dumps(held))
        index = build_index(Stac(), str(root), KEEP, Local())
        assert not index.rejects
        assert [sample.key for sample in index.samples][3:] == [f"scene-{n}" for n in (8, 9)][: len(held.get("features", [held]))]
    (root / name).write_text("{")
    assert [(reject.path, reject.reason) for reject in build_index(Stac(), str(root), KEEP, Local()).rejects] == [
        (name, "metadata_unreadable")
    ]


@pytest.mark.parametrize("other", [{"type": "Style"}, {"version": 8}, [], None, 1])
def test_json_that_is_no_item_is_a_reject_and_a_catalog_is_none(root: Path, other: Any) -> None:
    (root / "a").mkdir()
    (root / "a/0.json").write_text(json.dumps(stac_item(1, {**ASSET, "href": "../images/scene.tif"})))
    (root / "a/1.json").write_text(json.dumps({"type": "Catalog", "links": []}))
    (root / "a/2.json").write_text(json.dumps(other))
    (root / "a/3.json").write_text(json.dumps({"type": "FeatureCollection", "features": [other]}))
    index = build_index(Stac(), str(root), KEEP, Local())
    assert [(reject.path, reject.reason) for reject in index.rejects] == [
        ("a/2.json", "metadata_invalid"), ("a/3.json", "metadata_invalid"),
    ]  # fmt: skip
    assert [sample.key for sample in index.samples] == ["scene-1"]
    assert [reject.reason for reject in read(root, stac_item(1, ASSET), other).rejects] == ["metadata_invalid"]


@pytest.mark.parametrize("place", ["relative", "absolute", "file://"])
def test_a_reference_may_have_percent_signs_for_other_signs(root: Path, place: str) -> None:
    """What a file is really called goes first."""
    (root / "images/scene.tif").rename(root / "images/my scène.tif")
    start = {"relative": "images/", "absolute": f"{root}/images/", "file://": f"file://{root}/images/"}[place]
    item = stac_item(1, {"href": f"{start}my%20sc%C3%A8ne.tif"})
    assert only(read(root, item)).path == f"{start}my scène.tif"
    (root / "images/my scène.tif").rename(root / "images/my%20sc%C3%A8ne.tif")
    assert only(read(root, item)).path == f"{start}my%20sc%C3%A8ne.tif"


def test_wavelengths_are_those_of_the_bands_that_are_read(root: Path) -> None:
    bands = [{"name": "red", "center_wavelength": 0.665}, {"center_wavelength": 0.56}, {"center_wavelength": 0.49}]
    assert only(read(root, stac_item(1, {**ASSET, "eo:bands": bands}))).metadata.wavelengths == (665, 560, 490)
    assert only(read(root, stac_item(1, {**ASSET, "eo:bands": bands}), bands="3,2,1")).metadata.wavelengths == (490, 560, 665)
    assert only(read(root, changed(**{"eo:bands": bands}))).metadata.wavelengths is None  # of which asset, the item does not say
    newer = [{"eo:center_wavelength": 0.665}, {"eo:center_wavelength": 0.56}, {}]
    assert only(read(root, stac_item(1, {**ASSET, "bands": newer}))).metadata.wavelengths is None


@pytest.mark.parametrize(
    "item",
    [
        {"type": "Feature"},
        {"type": "Feature", "id": "x", "assets": {"a": {}}},
        {"type": "Feature", "id": "x", "assets": []},
        changed(**{"eo:cloud_cover": 130}),
        changed(datetime="once"),
        changed(**{"view:azimuth": "north"}),
        changed(properties=[1]),
        changed(assets={"a": {"href": "x.tif"}, "b": {"href": "y.tif"}}),
        changed(assets={"a": {"href": 3}}),
        changed(bbox=[500000, 4649000, 500600, 4649400], assets={"a": {"href": "images/scene.png"}}),
    ],
)
def test_an_item_that_is_not_as_it_must_be_is_a_reject(root: Path, item: Any) -> None:
    (reject,) = read(root, item).rejects
    assert reject.reason == "metadata_invalid"
    assert reject.message


def test_an_item_of_several_images_asks_for_the_asset_by_name(root: Path) -> None:
    """Thumbnails and what is no image are no choice."""
    small, other = {"href": "t.png", "roles": ["thumbnail"]}, {"href": "meta.xml"}
    item = changed(assets={"visual": ASSET, "analytic": ASSET, "small": small, "meta": other})
    (reject,) = read(root, item).rejects
    assert "several images among its assets: visual, analytic. Add: --asset KEY" in reject.message
    (reject,) = read(root, item, asset="rgb").rejects
    assert 'Unknown asset "rgb"' in reject.message
    assert "visual, analytic, small, meta" in reject.message


def test_a_missing_asset_is_a_reject_and_a_named_one_is_read(root: Path) -> None:
    item = changed(assets={"a": {"href": "none.tif"}, "b": ASSET})
    (reject,) = read(root, item, asset="a").rejects
    assert reject.reason == "image_unreadable"
    assert reject.reason in REASONS
    assert only(read(root, item, asset="b")).path == "images/scene.tif"


def test_what_is_no_collection_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(LayoutError):
        read(root)
    (root / "items.json").write_text("{")
    with pytest.raises(LayoutError, match="readable JSON"):
        Stac().list_items(str(root / "items.json"))
    (root / "items.json").write_text('{"type": "FeatureCollection", "features": null}')
    with pytest.raises(LayoutError, match="no list of features"):
        Stac().list_items(str(root / "items.json"))
    (reject,) = build_index(Stac(), str(root), KEEP, Local()).rejects
    assert reject.reason == "metadata_unreadable"
    with pytest.raises(LayoutError):
        Stac().list_items(str(tmp_path / "nothing"))
