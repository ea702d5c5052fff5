"""Every form of fMoW: trees, the archive of the ground truth, test and seq, JPEG and TIFF, flagged records; golden records."""

import bz2
import csv
import gzip
import json
import logging
import os
import tarfile
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from satmip_schemas import first_error

from satmip_data.imagery import raster
from satmip_data.imagery.chips import ImageError
from satmip_data.metadata.serialize import sample_to_json
from satmip_data.pipeline import index
from satmip_data.pipeline.build import build
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import Reject, Sample, Scene
from satmip_data.sources.base import InvalidError, Item, LayoutError
from satmip_data.sources.fmow.names import SPLITS, TRUTH, FmowName, parse_name
from satmip_data.sources.fmow.source import BANDS, Fmow
from satmip_data.storage.store import Store
from satmip_data.validation import validate
from tests.data.fmow import make

RECORDS = sorted(path for path in make.HERE.glob("*.json") if not path.name.endswith(".golden.json"))
STEM = "val/airport/airport_0/airport_0_0_rgb"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of fmow-rgb (rgb/) and fmow-full (full/), the ground truth as a tree (truth/) and as archives."""
    root = tmp_path_factory.mktemp("fmow")
    make.write_images(root / "rgb")
    make.write_images(root / "full", full=True)
    make.write_truth(root / "truth")
    make.write_images(root / "merged")
    make.write_truth(root / "merged")
    make.write_archive(root / "groundtruth.tar.bz2")
    make.write_archive(root / "nested.tar.gz", prefix="./groundtruth/", mode="w:gz")
    return root


def read_all(root: Path | str, source: Fmow) -> list[Scene | Reject]:
    return [found for item in source.list_items(str(root)) for found in source.read_item(str(root), item)]


def scenes_of(root: Path | str, source: Fmow) -> list[Scene]:
    found = read_all(root, source)
    assert all(isinstance(scene, Scene) for scene in found), found
    return [scene for scene in found if isinstance(scene, Scene)]


def request(root: Path, out: Path, source: Fmow, **settings: Any) -> BuildRequest:
    return BuildRequest(source, str(root), str(out), BuildSettings(**{"size": 16, **settings}))


# Names


def kind_of(path: str) -> str | None:
    """Return what kind of file of a fMoW bucket a path names; None for one of another sort.

    Images and records are only those that `parse_name` reads, in the folders that their names ask for.
    """
    inner = PurePosixPath(path)
    if inner.name.endswith("_gt_mapping.json"):
        return "mapping"
    if inner.name in ("manifest.json", "manifest.json.bz2"):
        return "manifest"
    if inner.name.endswith((".tar", ".tar.bz2", ".tar.gz")):
        return "archive"
    if len(inner.parts) == 1 and (inner.suffix in (".md", ".pdf", ".txt") or inner.name == "LICENSE"):
        return "document"
    if inner.parts[0] not in {*SPLITS, *TRUTH.values()} or inner.suffix not in (".jpg", ".tif", ".json"):
        return None
    try:
        name = parse_name(path)
    except InvalidError:
        return None
    folders = (name.place,) if name.category is None else (name.category, name.place)
    if inner.parts[1:-1] != folders:
        return None
    return "record" if inner.suffix == ".json" else "image"


def test_names_tell_split_category_place_acquisition_and_product() -> None:
    assert parse_name("val/multi-unit_residential/multi-unit_residential_12/multi-unit_residential_12_141_msrgb.json") == FmowName(
        "val", "multi-unit_residential", "12", 141, "msrgb"
    )
    assert parse_name("test/0011978/0011978_0_rgb.jpg") == FmowName("test", None, "0011978", 0, "rgb")
    assert parse_name("test_gt/airport/airport_0/airport_0_3_ms.json").place == "airport_0"
    assert parse_name("test/0011978/0011978_0_rgb.jpg").place == "0011978"
    for wrong in ("test/dam_0/dam_0_1_rgb.jpg", "train/0/0_0_rgb.jpg", "train/a/a_0/a_0_rgb.jpg", "train/a/a_0/a_0_1_pan.tif"):
        with pytest.raises(InvalidError, match="not of the form <"):
            parse_name(wrong)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("train/dam/dam_1/dam_1_0_rgb.jpg", "image"),
        ("train/dam/dam_1/dam_1_0_ms.tif", "image"),
        ("seq/0000002/0000002_7_rgb.json", "record"),
        ("seq_gt/zoo/zoo_3/zoo_3_7_rgb.json", "record"),
        ("train/dam/dam_1/dam_2_0_rgb.jpg", None),
        ("train/dam/dam_1/dam_1_0_rgb.png", None),
        ("test_gt_mapping.json", "mapping"),
        ("manifest.json.bz2", "manifest"),
        ("groundtruth.tar.bz2", "archive"),
        ("LICENSE", "document"),
        ("train/dam/notes.txt", None),
    ],
)
def test_every_file_of_a_bucket_is_of_a_kind(path: str, kind: str | None) -> None:
    assert kind_of(path) == kind


@pytest.mark.real
@pytest.mark.skipif("SATMIP_REAL_DATA" not in os.environ, reason="SATMIP_REAL_DATA does not name the real data")
def test_all_paths_of_the_val_sample_parse_with_nothing_left_over() -> None:
    with gzip.open(Path(os.environ["SATMIP_REAL_DATA"]) / "fmow/fmow-rgb_val_sample_filelist.csv.gz", "rt") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    kinds = Counter(kind_of(path) for path in paths)
    assert kinds == {"image": 14890, "record": 14890, "document": 4, "archive": 1}
    assert len(paths) == 29785
    names = [(path, parse_name(path)) for path in paths if kind_of(path) in ("image", "record")]
    for path, name in names:
        suffix = path.rpartition(".")[2]
        place = f"{name.category}_{name.number}"
        assert path == f"{name.split}/{name.category}/{place}/{place}_{name.acquisition}_{name.product}.{suffix}"
    assert {name.split for _, name in names} == {"val"}
    assert Counter(name.product for _, name in names) == {"rgb": 14890, "msrgb": 14890}
    assert len({name.category for _, name in names}) == 62
    assert (len({name.place for _, name in names}), max(name.acquisition for _, name in names)) == (1559, 30)


# Golden records


def golden_of(folder: Path, raw: Path, source: Fmow) -> Any:
    """Return what becomes of one raw record: its samples, or its reject."""
    product = "msrgb" if raw.stem.endswith("msrgb") else "rgb"
    (folder / STEM).parent.mkdir(parents=True, exist_ok=True)
    item = Item(STEM.replace("rgb", product) + ".json", STEM.replace("rgb", product) + ".jpg")
    (folder / item.metadata).write_bytes(raw.read_bytes())
    rows: list[Any] = []
    for found in replace(source, product=product).read_item(str(folder), item):
        for sample in [found] if isinstance(found, Reject) else index.samples_of(found, BuildSettings()):
            if isinstance(sample, Reject):
                rows.append({"reject": sample.reason, "key": sample.key, "message": sample.message})
            else:
                rows.append({**sample_to_json(sample), "flags": list(sample.flags)})
    return rounded(rows)


def rounded(value: Any) -> Any:
    """Round floats to 12 digits: the last bits of a sine differ between machines."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


@pytest.mark.parametrize("raw", RECORDS, ids=lambda path: path.stem)
def test_a_raw_record_becomes_its_golden_samples(raw: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    found = golden_of(tmp_path, raw, Fmow(boxes="all"))
    golden = raw.with_suffix(".golden.json")
    if pytestconfig.getoption("--update-golden"):
        make.dump(golden, found)
        pytest.fail(f"{golden} was written anew: look at the difference, then run again without --update-golden")
    assert found == json.loads(golden.read_text())


def test_the_raw_records_are_those_of_the_script() -> None:
    made = make.raw_records()
    assert {path.stem for path in RECORDS} == set(made)
    for path in RECORDS:
        record = json.loads(path.read_text())
        assert first_error("fmow", record) is None
        assert rounded(record) == rounded(json.loads(json.dumps(made[path.stem])))


# Ground truth over images


def test_without_ground_truth_a_build_that_needs_locations_is_refused_at_once(tree: Path, tmp_path: Path) -> None:
    for settings in ({}, {"fields": ("gsd",), "gsd": "ground"}):
        with pytest.raises(LayoutError, match=r"None of the 6 records tried has raw_location.*--metadata groundtruth\.tar\.bz2"):
            build(request(tree / "rgb", tmp_path / "out", Fmow(), **settings))
    assert not (tmp_path / "out").exists()
    dataset = build(request(tree / "rgb", tmp_path / "out", Fmow(), fields=("gsd", "timestamp")))
    assert {split: entry["samples"] for split, entry in dataset["splits"].items()} == {"train": 3, "val": 1, "test": 1, "seq": 1}
    assert dataset["classes"] == ["airport", "fountain", "multi-unit_residential"]  # test and seq have no labels


def test_one_record_with_gps_among_many_is_enough(tree: Path) -> None:
    source = Fmow(metadata=str(tree / "truth"))
    items = source.list_items(str(tree / "rgb"))
    bare = [Item(item.image.replace(".jpg", ".json"), item.image, json.dumps(make.challenge(make.SHOTS[0]))) for item in items]
    source.check_location(str(tree / "rgb"), [*bare, items[0]])
    with pytest.raises(LayoutError, match="None of the 6 records"):
        source.check_location(str(tree / "rgb"), bare)
    source.check_location(str(tree / "rgb"), [Item("", "x.jpg")])  # nothing but rejects says nothing of locations


@pytest.mark.parametrize("metadata", ["truth", "groundtruth.tar.bz2", "nested.tar.gz"])
@pytest.mark.parametrize("product", ["rgb", "msrgb"])
def test_ground_truth_is_laid_over_images_as_a_tree_or_as_the_archive_that_holds_it(
    tree: Path, metadata: str, product: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        scenes = scenes_of(tree / "rgb", Fmow(product=product, metadata=str(tree / metadata)))
    assert [record.getMessage() for record in caplog.records] == [
        f"{tree / metadata}: records of this product without an image here: 1"
    ]
    expected = {shot.stem(product, truth=False): shot for shot in make.SHOTS}
    assert {scene.path.removesuffix(".jpg") for scene in scenes} == set(expected)
    for scene in scenes:
        shot = expected[scene.path.removesuffix(".jpg")]
        assert (scene.split, [aoi.category for aoi in scene.aois]) == (shot.split, [shot.category])
        assert scene.metadata.location == pytest.approx((shot.lon, shot.lat), abs=1e-6)
        assert scene.place == f"{shot.split}_{shot.numbered or shot.place}"
        with Image.open(tree / "rgb" / scene.path) as image:
            assert image.size == (scene.width, scene.height)
        assert scene.flags == ()


def test_tree_archive_and_merged_tree_give_the_same_scenes(tree: Path) -> None:
    found = [scenes_of(tree / "rgb", Fmow(metadata=str(tree / name))) for name in ("truth", "groundtruth.tar.bz2", "nested.tar.gz")]
    found.append(scenes_of(tree / "merged", Fmow(metadata=str(tree / "merged"))))
    assert found[0] == found[1] == found[2] == found[3]


def test_records_without_an_image_are_counted(tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One has none from the start."""
    make.write_images(tmp_path)
    images = sorted(tmp_path.glob("*/*/*/*_rgb.jpg"))
    for gone, unused in ((images[:0], 1), (images[:2], 3)):
        for path in gone:
            path.unlink()
        for name in ("truth", "groundtruth.tar.bz2", "nested.tar.gz"):
            caplog.clear()
            assert len(Fmow(metadata=str(tree / name)).list_items(str(tmp_path))) == 6 - len(gone)
            (record,) = caplog.records
            assert record.getMessage() == f"{tree / name}: records of this product without an image here: {unused}"


def test_images_and_archive_may_lie_behind_any_url(tree: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(tree / "full"), "/fmow-full", recursive=True)
    memory.put(str(tree / "groundtruth.tar.bz2"), "/fmow-full/groundtruth.tar.bz2")
    here = Fmow(product="ms", metadata=str(tree / "groundtruth.tar.bz2"))
    there = Fmow(product="ms", metadata="memory://fmow-full/groundtruth.tar.bz2")
    assert scenes_of(tree / "full", here) == scenes_of("memory://fmow-full", there)
    for sample in samples_of(tree / "full", here):
        chips = [
            source.read_chip(root, sample, (9, 9), 10**6)
            for source, root in ((here, str(tree / "full")), (there, "memory://fmow-full"))
        ]
        assert np.array_equal(chips[0], chips[1])


def test_a_buckets_manifest_is_its_list_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.write_images(tmp_path)
    files = Fmow().list_items(str(tmp_path))
    manifest = tmp_path / "manifest.json.bz2"

    def write(paths: list[str]) -> None:
        manifest.write_bytes(bz2.compress(json.dumps(paths).encode()))

    write([path for item in files[2:] for path in (item.metadata, item.image)])
    assert Fmow().list_items(str(tmp_path)) == files  # a folder here is looked at
    assert Fmow(listing="manifest").list_items(str(tmp_path)) == files[2:]
    monkeypatch.setattr(Store, "remote", property(lambda _: True))
    assert Fmow().list_items(str(tmp_path)) == files[2:]
    assert Fmow(listing="files").list_items(str(tmp_path)) == files
    write(["fmow-rgb/train/airport/airport_0/airport_0_0_rgb.jpg"])  # of another root
    assert Fmow().list_items(str(tmp_path)) == files
    manifest.write_bytes(b"{}")
    with pytest.raises(LayoutError, match=r"no list of paths.* Add: --listing files"):
        Fmow().list_items(str(tmp_path))


def test_an_image_without_its_ground_truth_is_told(tree: Path, tmp_path: Path) -> None:
    make.write_images(tmp_path)
    strange = tmp_path / "test/0000099/0000099_0_rgb.jpg"
    strange.parent.mkdir()
    (tmp_path / "train/airport/airport_0/airport_0_0_rgb.jpg").rename(strange)
    nameless = tmp_path / "train/airport/airport_0/airport_rgb.jpg"
    nameless.write_bytes(strange.read_bytes())
    for name in ("truth", "groundtruth.tar.bz2"):
        found = read_all(tmp_path, Fmow(metadata=str(tree / name)))
        assert [(f.reason, f.path) for f in found if isinstance(f, Reject)] == [
            ("metadata_missing", path.relative_to(tmp_path).as_posix()) for path in (strange, nameless)
        ]
        assert len(found) == 7
    alone = tmp_path / "alone/train/airport/airport_0/airport_rgb.jpg"
    alone.parent.mkdir(parents=True)
    nameless.rename(alone)
    (reject,) = read_all(tmp_path / "alone", Fmow(metadata=str(tree / "truth")))
    assert isinstance(reject, Reject)
    assert reject.reason == "metadata_missing"


def test_an_archives_bad_record_is_rejected_as_a_trees_is(tmp_path: Path) -> None:
    make.write_images(tmp_path / "images")
    make.write_truth(tmp_path / "truth")
    texts = ("", "[" * 200_000, "[]", "NaN", '{"img_width": NaN}', '{"img_width": 5, "img_height": 5, "bounding_boxes": []}')
    for shot, text in zip(make.SHOTS, texts, strict=True):
        (tmp_path / "truth" / f"{shot.stem('rgb', truth=True)}.json").write_text(text)
    with tarfile.open(tmp_path / "truth.tar", "w") as archive:
        archive.add(tmp_path / "truth", arcname=".")
    found = [read_all(tmp_path / "images", Fmow(metadata=str(tmp_path / name))) for name in ("truth", "truth.tar")]
    assert [f.key for f in found[0] if isinstance(f, Reject)] == [f.key for f in found[1] if isinstance(f, Reject)]
    assert [f.reason for f in found[0] if isinstance(f, Reject)] == [f.reason for f in found[1] if isinstance(f, Reject)]
    assert Counter(f.reason for f in found[0] if isinstance(f, Reject)) == {
        "metadata_unreadable": 2,
        "metadata_invalid": 3,
        "no_aoi": 1,
    }


def test_ground_truth_that_is_not_what_it_must_be_is_refused(tree: Path, tmp_path: Path) -> None:
    def refuse(metadata: Path, message: str) -> None:
        with pytest.raises(FileNotFoundError, match=message):
            Fmow(metadata=str(metadata)).list_items(str(tree / "rgb"))

    refuse(tree / "nowhere", r"train/<category>/<place>/\*_rgb.json.*groundtruth.tar.bz2")
    refuse(tree / "nowhere.tar.bz2", "nowhere.tar.bz2")
    whole = (tree / "groundtruth.tar.bz2").read_bytes()
    (tmp_path / "half.tar.bz2").write_bytes(whole[: len(whole) // 2])
    refuse(tmp_path / "half.tar.bz2", "is no whole archive of records: ")
    (tmp_path / "text.tar.bz2").write_text("no archive at all")
    refuse(tmp_path / "text.tar.bz2", "is no whole archive of records: ")
    make.write_truth(tmp_path / "truth")
    mapping = tmp_path / "truth" / "seq_gt_mapping.json"
    for text, message in (("[1]", "no list of input and output"), ("{", "no readable JSON")):
        mapping.write_text(text)
        refuse(tmp_path / "truth", f"seq_gt_mapping.json is {message}")
    mapping.unlink()
    refuse(tmp_path / "truth", 'split "seq" needs seq_gt_mapping.json')


# Every form builds, and what is built is proven


@pytest.mark.parametrize(
    ("images", "source", "fields"),
    [
        ("rgb", Fmow(), ("gsd", "timestamp")),
        ("rgb", Fmow(metadata="groundtruth.tar.bz2"), ("gsd", "timestamp", "location")),
        ("rgb", Fmow(metadata="truth", product="msrgb"), ("location",)),
        ("merged", Fmow(metadata="merged"), ("location",)),
        ("full", Fmow(metadata="nested.tar.gz"), ("location",)),
        ("full", Fmow(metadata="groundtruth.tar.bz2", product="ms"), ("location",)),
        ("full", Fmow(metadata="truth", product="ms", tiff_stretch="minmax:0,2047", boxes="all"), ("location",)),
    ],
)
def test_every_form_builds_and_validates(tree: Path, tmp_path: Path, images: str, source: Fmow, fields: tuple[str, ...]) -> None:
    if source.metadata:
        source = replace(source, metadata=str(tree / source.metadata))
    dataset = build(request(tree / images, tmp_path, source, fields=fields))
    assert {split: entry["samples"] for split, entry in dataset["splits"].items()} == {"train": 3, "val": 1, "test": 1, "seq": 1}
    assert dataset["rejects"] == dataset["flags"] == {}
    assert validate.validate(str(tmp_path)).problems == ()


# TIFF


def samples_of(root: Path, source: Fmow) -> list[Sample]:
    found = [sample for scene in scenes_of(root, source) for sample in index.samples_of(scene, BuildSettings())]
    return [sample for sample in found if isinstance(sample, Sample)]


def pixels_of(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return np.asarray(file.read())


@pytest.mark.parametrize("stretch", ["percentile:2,98", "minmax:0,2047"])
def test_a_multispectral_tiff_shows_red_green_and_blue_stretched_to_8_bits(tree: Path, stretch: str) -> None:
    source = Fmow(product="ms", metadata=str(tree / "truth"), tiff_stretch=stretch)
    counts = Counter()
    for sample in samples_of(tree / "full", source):
        window = sample.window
        values = pixels_of(tree / "full" / sample.path)
        counts[len(values)] += 1
        red, green, blue = (5, 3, 2) if len(values) == 8 else (3, 2, 1)
        chip = np.asarray(source.read_chip(str(tree / "full"), sample, (window.width, window.height), 10**6))
        for channel, band in enumerate((red, green, blue)):
            whole = values[band - 1].astype(float)
            low, high = (0.0, 2047.0) if stretch.startswith("minmax") else np.percentile(whole, (2, 98))
            part = whole[window.y : window.y + window.height, window.x : window.x + window.width]
            expected = np.rint(np.clip((part - low) / (high - low), 0, 1) * 255)
            assert np.array_equal(chip[..., channel], expected)
    assert counts == {8: 3, 4: 3}


def test_a_pansharpened_tiff_of_8_bits_is_left_as_it_is(tree: Path) -> None:
    source = Fmow(metadata=str(tree / "truth"))
    for sample in samples_of(tree / "full", source):
        window = sample.window
        chip = np.asarray(source.read_chip(str(tree / "full"), sample, (window.width, window.height), 10**6))
        values = pixels_of(tree / "full" / sample.path).transpose(1, 2, 0)
        assert np.array_equal(chip, values[window.y : window.y + window.height, window.x : window.x + window.width])


def test_a_jpeg_is_read_where_an_image_is_there_twice(tree: Path, tmp_path: Path) -> None:
    make.write_images(tmp_path)
    make.write_images(tmp_path, full=True)
    assert all(item.image.endswith(".jpg") for item in Fmow().list_items(str(tmp_path)))
    assert all(item.image.endswith(".tif") for item in Fmow(product="ms").list_items(str(tmp_path)))


def test_tiffs_that_give_no_chip_become_rejects(tree: Path, tmp_path: Path) -> None:
    make.write_images(tmp_path / "full", full=True)
    rng = np.random.default_rng(0)
    stems = [tmp_path / "full" / f"{shot.stem('ms', truth=False)}.tif" for shot in make.SHOTS]
    height, width = pixels_of(stems[0]).shape[1:]
    make.without_strip_offsets(stems[0])
    make.tiff(stems[1], rng.integers(1, 2048, (5, *pixels_of(stems[1]).shape[1:]), dtype=np.uint16))
    make.tiff(stems[2], rng.integers(1, 2048, (8, height + 1, width), dtype=np.uint16))
    make.tiff(stems[3], np.zeros((4, *pixels_of(stems[3]).shape[1:]), dtype=np.uint16))
    stems[4].write_bytes(b"")
    source = Fmow(product="ms", metadata=str(tree / "groundtruth.tar.bz2"))
    dataset = build(request(tmp_path / "full", tmp_path / "out", source))
    assert dataset["rejects"] == {"image_empty": 1, "image_unreadable": 3, "size_mismatch": 1}
    rows = pq.read_table(tmp_path / "out/rejects.parquet").to_pylist()
    messages = {row["path"]: row["message"] for row in rows}
    assert 'missing required "StripOffsets"' in messages[stems[0].relative_to(tmp_path / "full").as_posix()]
    assert "5 bands" in messages[stems[1].relative_to(tmp_path / "full").as_posix()]
    sample = next(sample for sample in samples_of(tmp_path / "full", source) if sample.split == "seq")
    with pytest.raises(ImageError, match="allows 3"):
        source.read_chip(str(tmp_path / "full"), sample, (4, 4), 3)


def test_the_stretch_is_checked_before_anything_is_read() -> None:
    assert set(BANDS) == {8, 4, 3}
    assert raster.parse_stretch(Fmow().tiff_stretch) == raster.Stretch("percentile", 2.0, 98.0)
    for text in ("none", "minmax:9,1", "gamma"):
        with pytest.raises(ValueError, match="stretch"):
            Fmow(tiff_stretch=text)


# Boxes and flags


def aois_of(record: str, tmp_path: Path, **options: Any) -> list[tuple[str | None, str, float]]:
    (tmp_path / STEM).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / f"{STEM}.json").write_bytes((make.HERE / f"{record}.json").read_bytes())
    (found,) = Fmow(**options).read_item(str(tmp_path), Item(f"{STEM}.json", f"{STEM}.jpg"))
    return [(aoi.category, aoi.name, aoi.width) for aoi in found.aois] if isinstance(found, Scene) else []


def test_false_detections_are_no_labels_unless_they_are_kept(tmp_path: Path) -> None:
    several = aois_of("several_boxes", tmp_path, boxes="all")
    assert [name for _, name, _ in several] == ["b3", "b5", "b8", "b9"]
    assert aois_of("several_boxes", tmp_path, boxes="all", false_detections="keep") == [*several, ("false_detection", "b11", 90)]
    # The largest box is a false detection, which never goes before a label.
    assert aois_of("several_boxes", tmp_path, false_detections="keep") == [("airport", "", 26)]
    assert aois_of("false_detection_alone", tmp_path) == []
    assert aois_of("false_detection_alone", tmp_path, false_detections="keep") == [("false_detection", "", 90)]


def test_boxes_across_the_border_are_clipped_and_those_beyond_it_rejected(tmp_path: Path) -> None:
    raw = make.HERE / "several_boxes.json"
    record = json.loads(raw.read_text())
    rows = golden_of(tmp_path, raw, Fmow(boxes="all"))
    found = {row["key"].rpartition("_")[2]: row.get("window") or row["reject"] for row in rows}
    assert found == {"b3": [0, 0, 21, 16], "b5": [70, 60, 26, 35], "b8": "aoi_outside", "b9": "aoi_tiny"}
    assert (record["img_width"], record["img_height"]) == (70 + 26, 96)


def flagged_tree(root: Path) -> None:
    """Six images, each with another single record."""
    make.write_images(root)
    raws = ("suspect_utm", "suspect_sun", "suspect_shape", "country_kosovo", "country_caspian", "ground_truth")
    records = make.raw_records()
    for shot, raw in zip(make.SHOTS, raws, strict=True):
        stem = root / shot.stem("rgb", truth=False)
        record = records[raw] | {"img_width": 96}
        Image.new("RGB", (96, record["img_height"]), (9, 80, 200)).save(f"{stem}.jpg")
        make.dump(stem.with_suffix(".json"), record)


def test_suspect_records_are_kept_with_their_flags(tmp_path: Path) -> None:
    flagged_tree(tmp_path / "images")
    dataset = build(request(tmp_path / "images", tmp_path / "out", Fmow()))
    assert dataset["flags"] == {"country_code": 2, "footprint_shape": 1, "pixel_size": 1, "sun_position": 1, "utm_zone": 1}
    assert dataset["rejects"] == {}
    rows = pd.read_parquet(tmp_path / "out/index.parquet").set_index("key")
    found = {key: list(flags) for key, flags in rows["flags"].items() if len(flags)}
    assert found == {
        "train_airport_0_0_rgb": ["utm_zone"],
        "train_airport_0_3_rgb": ["sun_position"],
        "train_multi-unit_residential_12_1_rgb": ["footprint_shape", "pixel_size"],
        "val_fountain_514_1_rgb": ["country_code"],
        "test_0000017_2_rgb": ["country_code"],
    }
    assert rows.loc["val_fountain_514_1_rgb", "country_code"] == "XKX"
    assert pd.isna(rows.loc["test_0000017_2_rgb", "country_code"])


def test_suspect_records_are_dropped_as_rejects_that_say_why(tmp_path: Path) -> None:
    flagged_tree(tmp_path / "images")
    dataset = build(request(tmp_path / "images", tmp_path / "out", Fmow(flagged="drop")))
    assert dataset["flags"] == {"country_code": 2}
    assert dataset["rejects"] == {"suspect": 3}
    rows = pq.read_table(tmp_path / "out/rejects.parquet").to_pylist()
    messages = {row["key"]: row["message"] for row in rows}
    assert "utm_zone is 32T" in messages["train_airport_0_0_rgb"]
    assert "18M" in messages["train_airport_0_0_rgb"]
    assert "the sun at azimuth" in messages["train_airport_0_3_rgb"]
    assert "pixel size" in messages["train_multi-unit_residential_12_1_rgb"]
