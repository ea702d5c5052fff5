"""Contact sheets of the nearest chips."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.eval_world import COMMON, as_multilabel, call, write_run
from helpers.toy_shards import write_toy_shards
from PIL import Image, ImageFont

from satmip_train.data.dataset import open_dataset
from satmip_train.evaluation import gallery as gallery_module
from satmip_train.evaluation.gallery import Gallery
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import image_features, load_model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_run(root / "run", write_toy_shards(root / "shards", {"train": 30, "val": 12}), objective="simclr")
    return root


def gallery(world: Path, query_split: str) -> Gallery:
    dataset, model = open_dataset(world / "shards"), load_model(world / "run")
    found, queries = (image_features(model, dataset, split, Running()) for split in ("train", query_split))
    return Gallery(found, queries, dataset, dataset, "train", query_split)


@pytest.mark.parametrize("query_split", ["val", "train"])
def test_the_nearest_are_those_of_a_plain_loop(world: Path, query_split: str) -> None:
    searched = gallery(world, query_split)
    rows = gallery_module.find_neighbours(searched, [5, 2], 3)
    unit = [part.vectors / np.linalg.norm(part.vectors, axis=1, keepdims=True) for part in (searched.queries, searched.found)]
    for number, row in zip([5, 2], rows, strict=True):
        similarity = unit[1] @ unit[0][number]
        if query_split == "train":
            similarity[number] = -np.inf  # a chip is not its own neighbour
        order = np.argsort(-similarity, kind="stable")[:3]
        assert row.query.key == searched.queries.keys[number]
        assert [chip.key for chip, _ in row.nearest] == searched.found.keys[order].tolist()
        np.testing.assert_allclose([value for _, value in row.nearest], similarity[order], atol=1e-5)


def test_a_chip_is_not_its_own_neighbour_by_whatever_path_its_shards_are_named(world: Path) -> None:
    searched = gallery(world, "train")
    other = replace(searched, query_dataset=open_dataset(f"{world}/../{world.name}/shards"))
    (row,) = gallery_module.find_neighbours(other, [5], 3)
    assert row.query.key not in [chip.key for chip, _ in row.nearest]


def test_a_chip_is_left_out_of_its_own_neighbours_and_no_other_is(world: Path) -> None:
    searched = gallery(world, "train")
    total = len(searched.found.keys)
    alike = replace(searched.found, vectors=np.ones_like(searched.found.vectors))
    for number in (1, 9):
        (row,) = gallery_module.find_neighbours(replace(searched, found=alike, queries=alike), [number], 3)
        assert [chip.key for chip, _ in row.nearest] == [key for key in alike.keys if key != alike.keys[number]][:3]
    (row,) = gallery_module.find_neighbours(searched, [5], total + 7)
    assert len(row.nearest) == total - 1
    (row,) = gallery_module.find_neighbours(gallery(world, "val"), [5], total + 7)
    assert len(row.nearest) == total


def test_chips_of_other_shards_are_neighbours_whatever_their_splits_name(world: Path, tmp_path: Path) -> None:
    searched, other = gallery(world, "train"), open_dataset(write_toy_shards(tmp_path, {"train": 9}, seed=1))
    (row,) = gallery_module.find_neighbours(replace(searched, query_dataset=other), [5], 1)
    assert [chip.key for chip, _ in row.nearest] == [searched.found.keys[5]]


def test_a_query_without_a_class_frames_nothing_as_right_or_wrong() -> None:
    chip = gallery_module.Chip("a", Image.new("RGB", (8, 8)), "", None)
    sheet = gallery_module.contact_sheet([gallery_module.Row(chip, ((replace(chip, label="x"), 0.5),))], "title")
    assert sheet.getpixel((12 + 180 + 1, 39 + 1)) == sheet.getpixel((12 + 1, 39 + 1)) == (0x1C, 0x1C, 0x1C)


def test_a_sheet_has_no_query_twice(world: Path, tmp_path: Path) -> None:
    searched = gallery(world, "val")
    gallery_module.write_sheet(searched, [], 10 * len(searched.queries.keys), 1, "title", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == 39 + (168 + 42) * len(searched.queries.keys) + 12


def test_a_long_key_lacks_its_middle_and_keeps_its_ends() -> None:
    """Tiles of a scene differ in the last characters of their keys only."""
    font = ImageFont.load_default(12)
    assert gallery_module.fitted_text("scene_r0c1", 168, font) == "scene_r0c1"
    shown = gallery_module.fitted_text("santa-rosa-wildfire_00000215_post_disaster_r1c2", 168, font)
    assert shown.startswith("santa-rosa")
    assert shown.endswith("r1c2")
    assert "..." in shown
    assert font.getlength(shown) <= 168
    assert gallery_module.fitted_text("scene", 0, font) == "..."


def test_the_sheet_shows_a_row_a_query_and_frames_of_classes(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    got = call("neighbours", world / "run", "--shards", world / "shards", "--queries", "2", "--count", "4", "--out", out, *COMMON)
    assert got.exit_code == 0, got.output
    sheet = np.array(Image.open(out))
    side = 160 + 2 * 4
    assert sheet.shape[1] == 5 * (side + 12) + 12
    rows = gallery_module.find_neighbours(gallery(world, "val"), [0, 11], 4)
    colours = {True: (0x2A, 0x8A, 0x4A), False: (0xC0, 0x45, 0x3A)}
    for y, row in enumerate(rows):
        for x, (chip, _) in enumerate(row.nearest, start=1):
            at = sheet[39 + y * (side + 42) + 1, 12 + x * (side + 12) + 1]
            assert tuple(at) == colours[chip.label == row.query.label]


def test_queries_may_be_named(world: Path, tmp_path: Path) -> None:
    searched = gallery(world, "val")
    assert gallery_module.numbers_of(searched.queries, ["val_000003", "val_000001"]) == [
        searched.queries.keys.tolist().index(key) for key in ("val_000003", "val_000001")
    ]
    got = call(
        "neighbours", world / "run", "--shards", world / "shards", "--query", "nothing", "--out", tmp_path / "x.png", *COMMON
    )
    assert got.exit_code == 1
    assert "key nothing. Use a --query such as val_" in got.output
    got = call("neighbours", world / "run", "--shards", world / "shards", "--out", tmp_path / "x.jpg", *COMMON)
    assert "The sheet is a PNG" in got.output


def test_chips_of_a_multi_label_set_have_all_their_labels(tmp_path: Path) -> None:
    dataset = open_dataset(as_multilabel(write_toy_shards(tmp_path / "shards", {"train": 12})))
    labels = [chip.label for chip in gallery_module.read_chips(dataset, "train", range(12))]
    assert any(", " in label for label in labels if label)
