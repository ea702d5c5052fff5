"""Vectors of images as GeoParquet."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from helpers.eval_world import COMMON, call, damage, rewrite, write_run
from helpers.toy_shards import write_toy_shards
from PIL import Image
from pyproj import Transformer
from rasterio.transform import Affine

from satmip_data.execution.engines import Local
from satmip_data.pipeline.index import build_index
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.sources.geotiff import GeoTiff
from satmip_train.data.dataset import open_dataset
from satmip_train.data.image_files import Rendering, find_images, parse_rendering, read_picture
from satmip_train.encoder import load
from satmip_train.errors import UsageError
from satmip_train.evaluation import features
from satmip_train.runs.export import load_backbone

TURNED = Affine(10, 2, 500_000, 1, -10, 5_400_000)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_run(root / "run", write_toy_shards(root / "shards", {"train": 12, "val": 7}), objective="simclr")
    folder, rng = root / "images", np.random.default_rng(0)
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / "a.png")
    Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(folder / "sub" / "gray.jpg")
    (folder / "notes.txt").write_text("no image")
    profile = {"driver": "GTiff", "width": 50, "height": 30, "transform": TURNED, "crs": "EPSG:32632"}
    with rasterio.open(folder / "b.tif", "w", count=3, dtype="uint8", **profile) as out:
        out.write(rng.integers(0, 256, (3, 30, 50), np.uint8))
    with rasterio.open(root / "deep.tif", "w", count=4, dtype="uint16", nodata=0, **profile) as out:
        out.write(rng.integers(100, 4000, (4, 30, 50), np.uint16))
    return root


def expected(world: Path, pixels: np.ndarray) -> np.ndarray:
    backbone, config = load_backbone(world / "run")
    view = features.resize(torch.from_numpy(pixels).permute(2, 0, 1)[None], config["view_size"])
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        return backbone((view - mean) / std)[0].numpy()


def test_a_folder_of_pictures_and_rasters(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.parquet"
    got = call("embed", world / "run", "--images", world / "images", "--out", out, "--batch-size", "2", *COMMON)
    assert got.exit_code == 0, got.output
    assert got.stdout.strip() == f"3 vectors of 48 numbers: {out}"
    table = geopandas.read_parquet(out)
    assert table["path"].tolist() == ["a.png", "b.tif", "sub/gray.jpg"]
    assert table["geometry"].isna().tolist() == [True, False, True]
    pixels = [
        np.array(Image.open(world / "images/a.png")),
        rasterio.open(world / "images/b.tif").read().transpose(1, 2, 0),
        np.array(Image.open(world / "images/sub/gray.jpg").convert("RGB")),
    ]
    for vector, array in zip(table["vector"], pixels, strict=True):
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, expected(world, array), atol=1e-4)
    to_degrees = Transformer.from_crs(32632, 4326, always_xy=True)
    corners = [to_degrees.transform(*(TURNED @ corner)) for corner in ((0, 0), (0, 30), (50, 30), (50, 0))]
    np.testing.assert_allclose(sorted(table["geometry"][1].exterior.coords[:-1]), sorted(corners), atol=1e-9)
    kept = json.loads(pq.read_schema(out).metadata[b"satmip"])
    assert kept["run"] == str(world / "run")
    assert kept["source"]["folder"] == str(world / "images")
    assert len(kept["fingerprint"]) == 64


def test_a_split_of_shards(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "val.parquet"
    got = call("embed", world / "run", "--shards", world / "shards", "--split", "val", "--out", out, "--batch-size", "3", *COMMON)
    assert got.exit_code == 0, got.output
    table = pq.read_table(out)
    assert table.schema.field("vector").type.list_size == 48
    dataset = open_dataset(world / "shards")
    backbone, _ = load_backbone(world / "run")
    direct = features.extract(backbone, dataset, "val", features.Input(32, dataset.mean, dataset.std))
    assert table["key"].to_pylist() == direct.keys.tolist()
    np.testing.assert_allclose(np.stack(table["vector"].to_pylist()), direct.vectors, atol=1e-5)


def test_vectors_of_chips_lie_where_their_metadata_say(world: Path, tmp_path: Path) -> None:
    rings: dict[str, list[tuple[int, int]] | None] = {}

    def place(name: str, content: bytes) -> tuple[str, bytes]:
        if name.endswith(".json"):
            west = len(rings)
            rings[name] = None if west == 3 else [(west, 0), (west, 1), (west + 1, 1), (west, 0)]
            content = json.dumps({**json.loads(content), "footprint": rings[name]}).encode()
        return name, content

    shards = rewrite(write_toy_shards(tmp_path / "shards", {"val": 7}), place)
    out = tmp_path / "val.parquet"
    got = call("embed", world / "run", "--shards", shards, "--split", "val", "--out", out, "--batch-size", "3", *COMMON)
    assert got.exit_code == 0, got.output
    table = geopandas.read_parquet(out)
    assert table.crs == "OGC:CRS84"
    for key, shape in zip(table["key"], table["geometry"], strict=True):
        assert (None if shape is None else list(shape.exterior.coords)) == rings[f"{key}.json"]


def test_deep_rasters_need_a_stretch_and_bands(world: Path) -> None:
    path = world / "deep.tif"
    with pytest.raises(UsageError, match=r"deep\.tif.* band 5.* 1 to 4") as error:
        read_picture(path, parse_rendering("3,5,1", "none"))
    assert "Add" not in str(error.value)
    with pytest.raises(UsageError, match=r"4 bands .*Add: --bands R,G,B"):
        read_picture(path, Rendering())
    with pytest.raises(UsageError, match=r"uint16.*--stretch minmax:LOW,HIGH"):
        read_picture(path, parse_rendering("3,2,1", "none"))
    got = read_picture(path, parse_rendering("3,2,1", "minmax:0,4000")).pixels
    values = rasterio.open(path).read([3, 2, 1]).transpose(1, 2, 0)
    np.testing.assert_array_equal(got, np.round(values / 4000 * 255).astype(np.uint8))
    low, high = np.percentile(values[..., 0], [2, 98])
    stretched = read_picture(path, parse_rendering("3,2,1", "percentile")).pixels[..., 0]
    np.testing.assert_array_equal(stretched, np.round(((values[..., 0] - low) / (high - low)).clip(0, 1) * 255).astype(np.uint8))


def test_rasters_are_drawn_as_a_build_draws_them_by_what_they_declare(world: Path, tmp_path: Path) -> None:
    ground = np.random.default_rng(0).integers(100, 3000, (3, 30, 50))
    profile = {
        "driver": "GTiff",
        "width": 50,
        "height": 30,
        "transform": TURNED,
        "crs": "EPSG:32632",
        "count": 3,
        "dtype": "uint16",
    }
    (tmp_path / "in").mkdir()
    for name, scale, offset, added in (("a", 1e-4, 0.0, 0), ("b", 1e-4, -0.1, 1000)):
        with rasterio.open(tmp_path / f"in/{name}.tif", "w", **profile) as file:
            file.write((ground + added).astype(np.uint16))
            file.scales, file.offsets = (scale,) * 3, (offset,) * 3
    expected = np.rint(np.clip(ground / 3558, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    for rendering in (parse_rendering("auto", "minmax:0,3558"), parse_rendering("auto", "minmax:0,0.3558", apply_scale=True)):
        for name in "ab":
            assert np.array_equal(read_picture(tmp_path / f"in/{name}.tif", rendering).pixels, expected)
    index = build_index(GeoTiff(stretch="minmax:0,3558"), str(tmp_path / "in"), BuildSettings(size=None), Local())
    chip = GeoTiff(stretch="minmax:0,3558").read_chip(str(tmp_path / "in"), index.samples[1], (50, 30), 10**6)
    assert np.array_equal(np.asarray(chip), expected)

    with rasterio.open(tmp_path / "in/c.tif", "w", **profile) as file:
        file.write(ground.astype(np.uint16))
        file.scales = (0.5,) * 3
    command = ("embed", world / "run", "--images", tmp_path / "in", "--out", tmp_path / "vectors.parquet", *COMMON)
    mixed = call(*command, "--stretch", "minmax:0,3558")
    assert (mixed.exit_code, "c.tif" in mixed.output, "--apply-scale" in mixed.output) == (1, True, True)
    assert not (tmp_path / "vectors.parquet").exists()
    assert call(*command, "--stretch", "minmax:0,0.3558", "--apply-scale").exit_code == 0
    assert call(*command, "--stretch", "percentile").exit_code == 0
    assert "--stretch" in call(*command, "--apply-scale").output
    encoder, paths = load(world / "run"), [tmp_path / f"in/{name}.tif" for name in "abc"]
    with pytest.raises(UsageError, match="--apply-scale"):
        encoder.embed(paths, stretch="minmax:0,3558")
    assert len(encoder.embed(paths, stretch="minmax:0,0.3558", apply_scale=True)) == 3


def test_numbers_of_colours_are_no_brightness(tmp_path: Path) -> None:
    path = tmp_path / "classes.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8", crs="EPSG:32632", transform=TURNED
    ) as out:
        out.write(np.full((1, 4, 4), 3, np.uint8))
        out.write_colormap(1, {3: (200, 10, 10, 255)})
    with pytest.raises(UsageError, match=r"classes\.tif.*numbers of colours.*--bands 1"):
        read_picture(path, Rendering())
    assert (read_picture(path, parse_rendering("1", "none")).pixels == 3).all()


def test_a_raster_in_metres_that_claims_degrees_has_no_footprint(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8", crs="EPSG:4326", transform=TURNED
    ) as out:
        out.write(np.ones((1, 4, 4), np.uint8))
    assert read_picture(path, Rendering()).footprint is None


@pytest.mark.parametrize("workers", ["0", "1"])
def test_images_that_cannot_be_read_are_counted_and_listed_and_the_others_embedded(
    world: Path, tmp_path: Path, workers: str
) -> None:
    """Once the first of them ended the command, and the vectors of all before it were lost."""
    images, out = shutil.copytree(world / "images", tmp_path / "images"), tmp_path / "vectors.parquet"
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(noise).save(images / "a0.png")
    damage(images / "a0.png")
    (images / "b0.tif").write_bytes((images / "b.tif").read_bytes()[:300])
    shutil.copy(world / "deep.tif", images / "deep.tif")
    (images / os.fsdecode(b"\xff.png")).write_bytes((images / "a.png").read_bytes())
    asked = ["embed", world / "run", "--images", images, "--out", out, "--batch-size", "2", "--device", "cpu", "--workers", workers]
    got = call(*asked)
    assert got.exit_code == 0, got.output
    first, second = got.output.splitlines()
    assert first == f"3 vectors of 48 numbers: {out}"
    assert second.startswith("Warning: 4 of 7 images gave no vector")
    assert f"{tmp_path}/vectors.rejects.parquet" in second
    assert pq.read_table(out)["path"].to_pylist() == ["a.png", "b.tif", "sub/gray.jpg"]
    rejects = {row["path"]: row["message"] for row in pq.read_table(tmp_path / "vectors.rejects.parquet").to_pylist()}
    assert list(rejects) == ["a0.png", "b0.tif", "deep.tif", r"\udcff.png"]
    assert "a0.png" in rejects["a0.png"]
    assert "Add: --bands R,G,B" in rejects["deep.tif"]
    assert "Rename the file" in rejects[r"\udcff.png"]
    for name in ("a0.png", "b0.tif", "deep.tif", os.fsdecode(b"\xff.png")):
        (images / name).unlink()
    got = call(*asked)
    assert got.output == f"{first}\n"
    assert list(tmp_path.glob("*.parquet")) == [out]


def test_hidden_copies_are_passed_over_and_each_file_is_read_once(tmp_path: Path) -> None:
    for name in ("a/x.png", "a/.ipynb_checkpoints/x.png", "a/._x.png", "@eaDir/x.png", "__MACOSX/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "latest").symlink_to("a")
    (tmp_path / "again.png").symlink_to("a/x.png")
    assert find_images(tmp_path) == [tmp_path / "a/x.png"]


def test_small_files_that_would_take_the_machine_are_refused(tmp_path: Path) -> None:
    size = {"width": 150_000, "height": 150_000, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", tiled=True, sparse_ok=True, transform=Affine(1, 0, 5, 0, -1, 5), **size):
        pass
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", progressive=True)
    head, scans, tail = (tmp_path / "a.jpg").read_bytes().partition(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(head + (scans + tail[:-2]) * 150 + tail[-2:])
    for name, word in (("a.tif", "pixels"), ("a.jpg", "scans")):
        with pytest.raises(UsageError, match=word):
            read_picture(tmp_path / name, parse_rendering("auto", "none"))


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "x.png")
    assert find_images(tmp_path) == [tmp_path / "a/x.png", tmp_path / "b/x.png"]
    scandir = os.scandir

    def closed(folder: Any) -> Any:
        if Path(folder).name == "b":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UsageError, match=r"Permission denied: .*/b'"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("bands", "stretch"), [("1,2", "none"), ("0,1,2", "none"), ("auto", "minmax:5"), ("auto", "percentile:2,101")]
)
def test_a_rendering_that_is_none_is_refused(bands: str, stretch: str) -> None:
    with pytest.raises(UsageError, match=r"Cannot|bands|stretch|8 bits|pixels|holds no"):
        parse_rendering(bands, stretch)


def test_a_footprint_across_the_date_line_is_continuous(tmp_path: Path) -> None:
    path = tmp_path / "fiji.tif"
    place = Affine(0.01, 0, 179.8, 0, -0.01, -17)
    with rasterio.open(
        path, "w", driver="GTiff", width=40, height=30, count=1, dtype="uint8", crs="EPSG:4326", transform=place
    ) as out:
        out.write(np.zeros((1, 30, 40), np.uint8))
    assert read_picture(path, Rendering()).footprint.bounds == pytest.approx((179.8, -17.3, 180.2, -17.0))


def test_a_picture_above_the_limit_of_pillow_is_refused_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "scene.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UsageError, match=r"scene.png is too large.*4096 pixels.*save it as GeoTIFF"):
        read_picture(tmp_path / "scene.png", Rendering())


def test_what_cannot_be_embedded_is_refused(world: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = [
        ([], "either --images FOLDER or --shards DIRECTORY"),
        (["--images", world / "images", "--shards", world / "shards"], "either --images FOLDER or --shards DIRECTORY"),
        (["--images", tmp_path / "empty", "--out", tmp_path / "a.parquet"], "holds no image.* .jpg"),
        (["--images", world / "images", "--out", tmp_path / "a.csv"], "Parquet. Use --out .*a.parquet"),
    ]
    for arguments, message in cases:
        got = call("embed", world / "run", *arguments, *COMMON)
        assert got.exit_code != 0
        assert re.search(message, got.output.replace("\n", " ")), got.output
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"no picture")
    got = call("embed", world / "run", "--images", tmp_path / "broken", "--out", tmp_path / "b.parquet", *COMMON)
    assert got.exit_code == 1
    assert re.search(r"None of 1 image gives a vector\. First: Cannot read the image .*/x\.png: ", got.output.replace("\n", " "))
    assert list(tmp_path.glob("*.parquet")) == []
