"""Folders of classes and the evaluation sets: classes, splits of the paper's sizes, zips read where they lie."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from satmip_data.cli import commands
from satmip_data.execution.engines import Local
from satmip_data.pipeline.build import build
from satmip_data.pipeline.index import Index, build_index
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.shards.tar import read_samples
from satmip_data.sources import SOURCES
from satmip_data.sources.archive import MAX_KEY, make_key
from satmip_data.sources.base import LayoutError, Source
from satmip_data.sources.geotiff import GeoTiff
from satmip_data.sources.imagefolder import ImageFolder, match_class
from satmip_data.sources.splits import SplitFileError
from satmip_data.validation import validate
from tests.data.archives.make import pixels, write_class_folders, write_raster, zip_folder

KEEP = BuildSettings(size=None)
SETS = {"eurosat": (10, 20), "resisc45": (45, 20), "optimal31": (31, 20), "ucmerced": (21, 20)}
"""Set -> its classes and how many images a class the tests write."""


def index_of(source: Source, root: Path) -> Index:
    return build_index(source, str(root), KEEP, Local())


@pytest.mark.parametrize("name", SETS)
def test_the_sets_have_the_papers_classes_and_shares(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]()
    assert isinstance(source, ImageFolder)
    classes, images = SETS[name]
    assert len(set(source.classes)) == len(source.classes) == classes
    write_class_folders(tmp_path, source.classes, images, suffix="tif" if name == "ucmerced" else "png")
    index = index_of(source, tmp_path)
    assert not index.rejects
    counts = Counter((sample.category, sample.split) for sample in index.samples)
    shares = {"optimal31": {"train": 10, "test": 10}, "ucmerced": {"train": 12, "test": 8}}
    for category in source.classes:
        expected = shares.get(name, {"train": 12, "val": 4, "test": 4})
        assert {split: count for (found, split), count in counts.items() if found == category} == expected
    assert {sample.metadata.gsd for sample in index.samples} == {
        {"eurosat": (10.0, 10.0), "ucmerced": (0.3, 0.3)}.get(name)
    }  # fmt: skip


def test_classes_named_by_numbers_keep_their_images_apart(tmp_path: Path) -> None:
    for path in ("1/10.png", "10/10.png", "1/1.png", "1/1_5.png", "10/1.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), "red").save(tmp_path / path)
    index = index_of(SOURCES["imagefolder"](), tmp_path)
    assert not index.rejects
    assert {sample.path: sample.key for sample in index.samples} == {
        "1/1.png": "1", "1/10.png": "1_10", "1/1_5.png": "1_5", "10/1.png": "10_1", "10/10.png": "10",
    }  # fmt: skip


def test_a_zip_gives_the_bytes_of_its_folder_and_is_not_unpacked(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "set", ("a", "b"), 6)
    (tmp_path / "packed").mkdir()
    packed = zip_folder(tmp_path / "set", tmp_path / "packed/set.zip")
    shards = []
    for root, out in ((tmp_path / "set", "one"), (packed, "two")):
        dataset = build(BuildRequest(SOURCES["imagefolder"](), str(root), str(tmp_path / out), KEEP, workers=1))
        assert validate.validate(str(tmp_path / out)).problems == ()
        shards.append(dataset["channels"])
    assert shards[0] == shards[1]
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["set.zip"]


def test_chips_keep_the_size_and_pixels_of_small_images(tmp_path: Path) -> None:
    (path,) = write_class_folders(tmp_path / "in", ("a",), 1, suffix="png")
    source = SOURCES["imagefolder"](shares="train=1")
    (sample,) = index_of(source, tmp_path / "in").samples
    chip = source.read_chip(str(tmp_path / "in"), sample, (16, 16), 1000)
    assert np.array_equal(np.asarray(chip), np.asarray(Image.open(tmp_path / "in" / path)))


def test_split_folders_count_before_shares_and_a_users_list_before_both(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_class_folders(tmp_path / "set" / split, ("0", "1"), 3, suffix="png")
    source = SOURCES["fgsc23"]()
    index = index_of(source, tmp_path / "set")
    assert Counter(sample.split for sample in index.samples) == {"train": 6, "val": 6, "test": 6}
    assert len({sample.key for sample in index.samples}) == 18
    assert {sample.category for sample in index.samples} == {"0", "1"}
    lists = {"train": ["train/0/0_1.png"], "test": ["validation/1/1_2"]}
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    index = index_of(SOURCES["fgsc23"](split_file=str(tmp_path / "lists.json")), tmp_path / "set")
    assert {sample.path: sample.split for sample in index.samples} == {"train/0/0_1.png": "train", "validation/1/1_2.png": "test"}
    assert Counter(reject.reason for reject in index.rejects) == {"not_in_split_file": 16}


def test_images_of_a_split_without_a_class_are_rejects_and_no_class_of_that_name(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", ("bus", "train"), 4)
    write_class_folders(tmp_path, ("test",), 4)
    index = index_of(ImageFolder(), tmp_path)
    assert {(sample.category, sample.split) for sample in index.samples} == {("bus", "train"), ("train", "train")}
    assert [(reject.reason, reject.path.split("/")[0]) for reject in index.rejects] == [("metadata_invalid", "test")] * 4


def test_a_class_may_be_called_as_a_split(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("bus", "train"), 5)
    index = index_of(ImageFolder(), tmp_path)
    assert not index.rejects
    assert {sample.category for sample in index.samples} == {"bus", "train"}


def test_a_list_of_another_set_is_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "set", ("a",), 2)
    (tmp_path / "lists.txt").write_text("other_1.jpg train\n")
    with pytest.raises(SplitFileError, match=r"other_1\.jpg"):
        SOURCES["imagefolder"](split_file=str(tmp_path / "lists.txt")).list_items(str(tmp_path / "set"))


def test_what_is_wrong_becomes_a_reject(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("River", "Forest"), 2)
    write_class_folders(tmp_path, ("Rivers",), 1)
    (tmp_path / "River/River_7.jpg").write_bytes(b"no image")
    (tmp_path / "preview.png").write_bytes(b"")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX/._x.jpg").write_bytes(b"")
    index = index_of(SOURCES["eurosat"](), tmp_path)
    assert {reject.path: reject.reason for reject in index.rejects} == {
        "River/River_7.jpg": "image_unreadable", "Rivers/Rivers_0.jpg": "metadata_invalid", "preview.png": "metadata_invalid",
    }  # fmt: skip
    assert len(index.samples) == 4


@pytest.mark.parametrize("source", [ImageFolder(), GeoTiff()], ids=lambda source: source.name)
def test_files_that_a_source_does_not_read_are_counted(source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images of a kind that is not read may be among them."""
    write_raster(tmp_path / "sea/a.TIF", np.full((3, 8, 8), 9, np.uint8))
    assert len(index_of(source, tmp_path).samples) == 1
    assert not caplog.records
    for name in ("sea/a.GIF", "sea/b.gif", "sea/a.tfw", "LICENSE", ".DS_Store", "__MACOSX/sea/c.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert len(index_of(source, tmp_path).samples) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "Hidden files and folders passed over: 2", "Files that this source does not read: 2 .gif, 1 .tfw, 1 without an ending",
    ]  # fmt: skip


def test_an_archive_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("a",), 1)
    with pytest.raises(LayoutError, match="AnnualCrop"):
        SOURCES["eurosat"]().list_items(str(tmp_path))
    with pytest.raises(LayoutError):
        SOURCES["imagefolder"]().list_items(str(tmp_path / "nothing"))


def test_eurosat_with_13_bands_knows_where_it_lies(tmp_path: Path) -> None:
    values = pixels(np.random.default_rng(0), 64, 64, 13, 1, 4000).astype(np.uint16)
    write_raster(tmp_path / "River/River_1.tif", values)
    (reject,) = index_of(SOURCES["eurosat"](), tmp_path).rejects
    assert reject.reason == "unscaled"
    (sample,) = index_of(SOURCES["eurosat"](stretch="minmax:0,3558"), tmp_path).samples
    assert sample.metadata.gsd == pytest.approx((10, 10), rel=1e-3)
    assert sample.metadata.location is not None
    assert sample.footprint is not None


def test_the_command_keeps_small_images_unless_asked(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "in", ("a", "b"), 5)
    for size, expected in (((), [16, 16]), (("--size", "32"), [32, 32])):
        out = tmp_path / f"out{len(size)}"
        arguments = ["build", "--source", "imagefolder", str(tmp_path / "in"), str(out), "--workers", "1", *size]
        result = CliRunner().invoke(commands.main, arguments)
        assert result.exit_code == 0, result.output
        dataset = json.loads((out / "dataset.json").read_text())
        assert dataset["size"] == expected
        assert dataset["classes"] == ["a", "b"]
        members = next(read_samples((out / "train/000000.tar").read_bytes()))[1]
        assert {"cls", "jpg"} <= members.keys()
        assert "labels.npy" not in members
        assert json.loads(members["json"])["labels"] == []


def test_bad_options_are_said_without_a_traceback(tmp_path: Path) -> None:
    arguments = ["build", "--source", "imagefolder", str(tmp_path), str(tmp_path / "out"), "--shares", "half"]
    result = CliRunner().invoke(commands.main, arguments)
    assert result.exit_code == 2
    assert "--shares" in result.output


def test_names_of_classes_match_whatever_their_hyphens() -> None:
    assert match_class("Baseball Diamond", ("baseball_diamond",)) == "baseball_diamond"
    assert match_class("baseballdiamonds", ("baseball_diamond",)) is None


def test_keys_are_short_plain_and_different() -> None:
    assert make_key("A b/c.d", "e") == "a_b_c_d_e"
    assert make_key("x" * 70) == f"{'x' * 51}_ba5f08609b65"  # written down: a change of the rule would rename everyone's samples
    names = ["东京", "北京", "Zürich", "Zérich", "Z rich", "🛰", "\udcff", "é" * 100, "é" * 101]
    keys = [make_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,64}", key) for key in keys), keys
    assert make_key("Zu\u0308rich") == make_key("Z\u00fcrich")  # the same name, as two file systems write it
    long = [make_key("x" * 200, str(number)) for number in range(3)]
    assert all(len(key) == MAX_KEY for key in long)
    assert len(set(long)) == 3
    assert make_key("...") == "_"


@pytest.mark.real
def test_the_real_eurosat_zip(tmp_path: Path) -> None:
    if "SATMIP_REAL_DATA" not in os.environ:
        pytest.skip("SATMIP_REAL_DATA is unset")
    root = Path(os.environ["SATMIP_REAL_DATA"]) / "EuroSAT_RGB.zip"
    items = SOURCES["eurosat"]().list_items(str(root))
    assert Counter(json.loads(item.record)["split"] for item in items) == {"train": 16_200, "val": 5_400, "test": 5_400}
    dataset = build(BuildRequest(SOURCES["eurosat"](), str(root), str(tmp_path), KEEP, limit=300))
    assert sum(split["samples"] for split in dataset["splits"].values()) == 300
    assert validate.validate(str(tmp_path)).problems == ()


def test_different_images_are_different_samples_whatever_their_names(tmp_path: Path) -> None:
    """In folders, signs, the case of letters, endings, and what a key joins; the first keeps the key that it has alone."""
    names = ["berlin/forest/0.jpg", "munich/forest/0.jpg", "forest/0.jpeg", "forest/b c.jpg", "forest/b+c.jpg", "forest/B c.jpg",
             "river/river_bank_1.jpg", "river_bank/1.jpg", f"forest/{'x' * 70}.jpg", f"a/forest/{'x' * 70}.jpg"]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    (tmp_path / "table.csv").write_text("\n".join(["image", *names, "forest/0.jpeg"]))
    for source, root in (("imagefolder", tmp_path), ("table", tmp_path / "table.csv")):
        found = build_index(SOURCES[source](), str(root), KEEP, Local())
        assert not found.rejects
        keys, places = [[getattr(sample, name) for sample in found.samples] for name in ("key", "place")]
        assert len(set(keys)) == len(keys) == len(names) + (source == "table")
        assert len(set(places)) == len(names)
        assert all(re.fullmatch("[a-z0-9_-]{1,64}", key) for key in keys)
        alone = {"imagefolder": "forest_b_c", "table": "forest_b_c"}[source]
        assert alone in keys
        assert sum(key.startswith(alone) for key in keys) == 3
