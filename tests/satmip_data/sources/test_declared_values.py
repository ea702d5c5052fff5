"""Scale and offset that rasters and items declare: the same ground looks the same, or the build is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from satmip_data.errors import BuildError
from satmip_data.imagery.scaling import ScalingError, UnitsError, declared, lines
from satmip_data.pipeline.build import build, plan_build
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.selection import Selection
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.sources.archive import Archive
from satmip_data.sources.geotiff import GeoTiff
from satmip_data.sources.imagefolder import ImageFolder
from satmip_data.sources.stac import Stac
from satmip_data.sources.table import Table
from satmip_data.validation import validate
from tests.data.archives.make import stac_item, write_raster

KEEP = BuildSettings(size=None)
GROUND = np.random.default_rng(0).integers(40, 200, (3, 16, 24)) * 12
SENTINEL2, BEFORE = (1e-4, -0.1), (1e-4, 0.0)
MINMAX = "minmax:0,3558"


def scene(path: Path, scale: Any = 1.0, offset: Any = 0.0, added: float = 0.0, dtype: str = "uint16", **profile: Any) -> None:
    """Write `GROUND` plus `added`, which declares scale and offset: one number, or one a band."""
    write_raster(path, (GROUND + added).astype(dtype), **profile)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (np.broadcast_to(value, 3).tolist() for value in (scale, offset))


def chips(source: Archive, root: Path, where: str = "") -> dict[str, np.ndarray]:
    """Return the chips of a build's samples as they are read."""
    plan = plan_build(BuildRequest(source, str(root), "unused", KEEP, selection=Selection(where=where)))
    assert not plan.index.rejects, plan.index.rejects
    sizes = {sample: (sample.window.width, sample.window.height) for sample in plan.index.samples}
    return {sample.key: np.asarray(source.read_chip(str(root), sample, size, 10**9)) for sample, size in sizes.items()}


def rejects(source: Archive, root: Path) -> str:
    with pytest.raises(BuildError) as error:
        plan_build(BuildRequest(source, str(root), "unused", KEEP))
    return str(error.value)


def shown(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return what a linear stretch gives, from bands first to bands last."""
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_sentinel2_looks_the_same_before_and_after_its_offset(tmp_path: Path, dtype: str) -> None:
    scene(tmp_path / "in/before.tif", *BEFORE, dtype=dtype)
    scene(tmp_path / "in/after.tif", *SENTINEL2, added=1000, dtype=dtype)
    found = chips(GeoTiff(stretch=MINMAX), tmp_path / "in")
    assert np.array_equal(found["before"], shown(GROUND, 0, 3558))
    assert np.array_equal(found["after"], found["before"])
    physical = chips(GeoTiff(stretch="minmax:0,0.3558", apply_scale=True), tmp_path / "in")
    assert all(np.array_equal(found[key], physical[key]) for key in found)
    percentile = chips(GeoTiff(stretch="percentile"), tmp_path / "in")
    assert np.array_equal(percentile["after"], percentile["before"])


def test_a_platform_says_sentinel2_too(tmp_path: Path) -> None:
    """One that declares nothing and one that declares its offset in other units; by the tag, the table and the set."""
    tags = {"SATELLITEID": "S2B"}
    scene(tmp_path / "in/class/plain.tif", tags=tags)
    scene(tmp_path / "in/class/other.tif", 1.0, -900.0, 900, tags=tags)
    (tmp_path / "in/rows.csv").write_text("image,platform\nclass/plain.tif,Sentinel-2A\nclass/other.tif,sentinel-2c\n")
    for source, root in (
        (GeoTiff(stretch=MINMAX), "in"),
        (Table(stretch=MINMAX), "in/rows.csv"),
    ):
        first, second = chips(source, tmp_path / root).values()
        assert np.array_equal(first, shown(GROUND, 0, 3558))
        assert np.array_equal(first, second)
    with pytest.raises(UnitsError):
        chips(ImageFolder(stretch=MINMAX), tmp_path / "in")  # knows no platform


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0.1, 0.0), (0.01, 0.0)),
        ((2.75e-5, -0.2), (2.75e-5, 0.0)),
        ((1.0, 0.0), (0.01, 0.0)),
        ((1.0, 0.0), SENTINEL2),
        (([0.1, 0.1, 0.1], 0.0), ([0.1, 0.1, 0.2], 0.0)),
        ((1.0, [0.0, 0.0, 5.0]), (1.0, 0.0)),
    ],
)
def test_rasters_that_declare_different_values_are_refused_unless_physical_units_are_asked_for(
    tmp_path: Path, first: Any, second: Any
) -> None:
    scene(tmp_path / "in/a.tif", *first)
    scene(tmp_path / "in/b.tif", *second)
    with pytest.raises(UnitsError, match=r"a\.tif.*b\.tif.*--apply-scale"):
        chips(GeoTiff(stretch=MINMAX), tmp_path / "in")
    assert len(chips(GeoTiff(stretch=MINMAX), tmp_path / "in", "key == 'a'")) == 1  # of what is taken
    assert len(chips(GeoTiff(stretch="percentile"), tmp_path / "in")) == 2
    found = chips(GeoTiff(stretch="minmax:-1,30", apply_scale=True), tmp_path / "in")
    for key, (scale, offset) in {"a": first, "b": second}.items():
        scales, offsets = (np.broadcast_to(value, 3)[:, None, None] for value in (scale, offset))
        assert np.abs(found[key] - shown(GROUND * scales + offsets, -1, 30).astype(int)).max() <= 1


def test_rasters_that_declare_the_same_keep_limits_in_their_numbers(tmp_path: Path) -> None:
    """As before: Landsat's, whose users give limits in numbers."""
    for name in ("a", "b"):
        scene(tmp_path / f"in/{name}.tif", 2.75e-5, -0.2)
    found = chips(GeoTiff(stretch=MINMAX), tmp_path / "in")
    assert all(np.array_equal(chip, shown(GROUND, 0, 3558)) for chip in found.values())


def test_what_is_missing_is_told_by_numbers_and_not_by_values(tmp_path: Path) -> None:
    values = (GROUND + 1000).astype(np.uint16)
    values[:, 0], values[:, 1] = 0, 77
    for nodata, rows in ((None, 1), (77, 2)):
        write_raster(tmp_path / "in/a.tif", values, nodata=nodata)
        with rasterio.open(tmp_path / "in/a.tif", "r+") as file:
            file.scales, file.offsets = (1e-4,) * 3, (-0.2,) * 3
        found = chips(GeoTiff(stretch="minmax:-0.5,0.5", apply_scale=True), tmp_path / "in")["a"]
        assert not found[:rows].any()
        assert found[rows:].all()


def test_a_negative_scale_turns_bright_to_dark(tmp_path: Path) -> None:
    scene(tmp_path / "in/up.tif", 0.1)
    scene(tmp_path / "down/down.tif", -0.1)
    for stretch, mirrored in (("percentile", "percentile"), ("minmax:0,240", "minmax:-240,0")):
        up = chips(GeoTiff(stretch=stretch, apply_scale=True), tmp_path / "in")["up"].astype(int)
        down = chips(GeoTiff(stretch=mirrored, apply_scale=True), tmp_path / "down")["down"]
        assert np.abs(255 - up - down).max() <= 1


@pytest.mark.parametrize(("scale", "offset"), [(0.0, 0.0), (np.nan, 0.0), (1.0, np.inf), ([1.0, 0.0, 1.0], 0.0)])
def test_values_that_no_raster_can_have_are_rejects(tmp_path: Path, scale: Any, offset: Any) -> None:
    scene(tmp_path / "in/a.tif", scale, offset)
    assert "unscaled" in rejects(GeoTiff(stretch=MINMAX), tmp_path / "in")
    assert len(chips(GeoTiff(stretch="percentile"), tmp_path / "in")) == 1  # needs none


def test_physical_units_need_limits() -> None:
    with pytest.raises(ValueError, match="--stretch"):
        GeoTiff(apply_scale=True)


def read_item(root: Path, asset: dict[str, Any], properties: dict[str, Any] | None = None, **options: Any) -> np.ndarray:
    item = stac_item(1, {"href": "images/scene.tif", **asset})
    item["properties"] |= {"platform": "other", **(properties or {})}
    (root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    (chip,) = chips(Stac(**options), root / "items.json").values()
    return chip


STATED: dict[str, dict[str, Any]] = {
    "raster:bands": {"raster:bands": [{"scale": 1e-4, "offset": -0.1}] * 3},
    "bands": {"bands": [{"raster:scale": 1e-4, "raster:offset": -0.1}] * 3},
    "the asset": {"raster:scale": 1e-4, "raster:offset": -0.1, "bands": [{"name": "red"}]},
    "one a band": {"raster:scale": 1e-4, "bands": [{"raster:offset": -0.1}, {"raster:offset": -0.1}, {"raster:offset": -0.1}]},
}


@pytest.mark.parametrize("asset", STATED.values(), ids=STATED)
def test_an_item_declares_like_its_raster(tmp_path: Path, asset: dict[str, Any]) -> None:
    for own in ((1.0, 0.0), SENTINEL2):
        scene(tmp_path / "images/scene.tif", *own, added=1000)
        assert np.array_equal(read_item(tmp_path, asset, stretch=MINMAX), shown(GROUND, 0, 3558))
    applied = {"earthsearch:boa_offset_applied": True}
    scene(tmp_path / "images/scene.tif")
    assert np.array_equal(read_item(tmp_path, asset, applied, stretch=MINMAX), shown(GROUND, 0, 3558))


@pytest.mark.parametrize(
    "asset",
    [
        {"raster:bands": [{"scale": 1e-4, "offset": 0.0}] * 3},
        {"raster:bands": [{"scale": 2e-4}] * 3},
        {"raster:bands": [{}, {}, {"scale": 2e-4}]},
        {"raster:bands": [{"scale": 0}] * 3},
        {"raster:bands": [{"scale": "much"}] * 3},
        {"raster:bands": 5},
    ],
)
def test_an_item_that_contradicts_its_raster_is_a_reject(tmp_path: Path, asset: dict[str, Any]) -> None:
    scene(tmp_path / "images/scene.tif", *SENTINEL2)
    with pytest.raises(BuildError, match="metadata_invalid"):
        read_item(tmp_path, asset, stretch=MINMAX)


def test_a_build_says_what_was_applied_and_does_not_mix(tmp_path: Path) -> None:
    scene(tmp_path / "in/a.tif", *SENTINEL2, added=1000)
    for name, options, applied in (
        ("offset", {"stretch": MINMAX}, "offset"),
        ("physical", {"stretch": "minmax:0,0.3", "apply_scale": True}, "scale and offset"),
    ):
        source = GeoTiff(shares="train=1", **options)
        dataset = build(BuildRequest(source, str(tmp_path / "in"), str(tmp_path / name), KEEP))
        assert dataset["scaling"] == {"applied": applied, "declared": [{"scale": [1e-4] * 3, "offset": [-0.1] * 3}]}
        assert dataset["source"]["options"].get("apply_scale", False) is source.apply_scale
        assert validate.validate(str(tmp_path / name)).problems == ()
    with pytest.raises(BuildError, match="other settings"):
        build(BuildRequest(GeoTiff(stretch=MINMAX, shares="train=1"), str(tmp_path / "in"), str(tmp_path / "physical"), KEEP))
    scene(tmp_path / "plain/a.tif", 0.5, 0.0)
    dataset = build(BuildRequest(GeoTiff(stretch=MINMAX), str(tmp_path / "plain"), str(tmp_path / "nothing"), KEEP))
    assert dataset["scaling"]["applied"] == "nothing"


def test_pixels_that_an_offset_changes_are_another_plan(tmp_path: Path) -> None:
    plans = []
    for offset in (0.0, -0.1):
        scene(tmp_path / "in/a.tif", 1e-4, offset)
        plans.append(plan_build(BuildRequest(GeoTiff(stretch=MINMAX), str(tmp_path / "in"), "unused", KEEP)).fingerprint)
    assert plans[0] != plans[1]


def test_numbers_of_32_bits_are_the_numbers_meant() -> None:
    found = declared([float(np.float32(1e-4))] * 3, [float(np.float32(-0.1))] * 3)
    assert found == declared([1e-4] * 3, [-0.1] * 3)
    assert lines(found, None, apply_scale=False) == ((1.0, -1000.0),) * 3
    with pytest.raises(ScalingError):
        declared([1.0], [np.nan])
