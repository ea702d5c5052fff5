"""Linear segmentation on painted images."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.eval_world import COMMON, call, damage, write_run
from helpers.painted import paint
from helpers.toy_shards import write_toy_shards
from PIL import Image
from sklearn.metrics import jaccard_score

from satmip_train.errors import UsageError
from satmip_train.evaluation import segment
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import load_model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    paint(root / "train", 12, seed=0)
    paint(root / "val", 6, seed=1)
    write_run(root / "run", write_toy_shards(root / "shards"), objective="simclr")
    return root


def test_areas_are_told_apart_and_ignored_pixels_do_not_count(world: Path, tmp_path: Path) -> None:
    folders = ["--train", world / "train", "--test", world / "val", "--epochs", "20", "--lr", "0.02"]
    got = call("segment", world / "run", *folders, "--random-seeds", "0,1", "--out", tmp_path, "--per-class", *COMMON)
    assert got.exit_code == 0, got.output
    result = json.loads((tmp_path / "segment.json").read_text())
    assert [model["kind"] for model in result["models"]] == ["run", "random", "random"]
    assert list(result["models"][0]["iou_per_class"]) == ["3", "9"]
    assert result["models"][0]["metrics"]["miou"] > 0.8
    assert (result["train"]["samples"], result["test"]["samples"], result["classes"]) == (12, 6, 2)
    pixels = np.concatenate([np.array(Image.open(path)).reshape(-1, 3) for path in (world / "train").rglob("*.jpg")]) / 255
    assert result["settings"]["mean"] == pytest.approx(pixels.mean(0).tolist())
    assert result["settings"]["std"] == pytest.approx(pixels.std(0).tolist())
    again = call("segment", world / "run", *folders, "--random-seeds", "0,1", "--out", tmp_path / "again", *COMMON)
    assert again.exit_code == 0
    assert json.loads((tmp_path / "again" / "segment.json").read_text()) == result


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 3, 500), rng.integers(0, 3, 500)
    counts = np.zeros((4, 4), np.int64)
    for a, b in zip(truth, predicted, strict=True):
        counts[a, b] += 1
    got = segment.scores(counts, (0, 1, 2, 7))
    expected = jaccard_score(truth, predicted, average=None)
    assert got["iou_per_class"] == {**{str(i): pytest.approx(v) for i, v in enumerate(expected)}, "7": None}
    assert got["metrics"]["miou"] == pytest.approx(expected.mean())
    assert got["metrics"]["pixel_accuracy"] == pytest.approx((truth == predicted).mean())


def test_patch_features_lie_where_the_patches_are() -> None:
    torch.manual_seed(0)
    backbone = timm.create_model(
        "vit_small_patch16_224", num_classes=0, img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=2
    ).eval()
    views = torch.randn(2, 3, 32, 32)
    grid = segment.patch_features(backbone, views)
    tokens = backbone.forward_features(views)
    assert grid.shape == (2, 48, 4, 4)
    assert torch.equal(grid[1, :, 2, 3], tokens[1, 1 + 2 * 4 + 3])
    resnet = timm.create_model("resnet10t", num_classes=0).eval()
    assert segment.patch_features(resnet, torch.randn(1, 3, 64, 64)).shape[2:] == (2, 2)


def test_the_backbone_looks_in_evaluation_mode(world: Path) -> None:
    model = load_model(world / "run")
    model.backbone.train()
    looked = segment._PatchReader(model, ((0.5,) * 3, (0.2,) * 3), Running(), lambda samples: None)
    assert len(list(looked.grids(segment.find_pairs(world / "val")))) == 6
    assert not model.backbone.training


def test_a_class_of_the_test_masks_alone_is_one_that_is_never_found(world: Path, tmp_path: Path) -> None:
    test = paint(tmp_path / "test", 2, seed=4)
    for path in (test / "masks").rglob("*.png"):
        mask = np.array(Image.open(path))
        mask[-8:] = 5
        Image.fromarray(mask).save(path)
    folders = segment.read_folders(world / "train", test)
    result = segment.segment([world / "run"], folders, segment.SegmentSettings(epochs=1), Running(), (), lambda name, samples: None)
    assert result["classes"] == 3
    assert result["models"][0]["iou_per_class"]["5"] == 0.0


def test_a_mask_made_smaller_holds_no_class_between_two() -> None:
    mask = np.repeat(np.array([3, 3, 3, 3, 3, 9, 9, 9, 9], np.uint8)[None], 9, 0)
    assert segment._target(mask, (3, 5, 9), 4).unique().tolist() == [0, 2]


def test_the_rate_falls_as_a_cosine_and_the_loss_is_that_of_the_last_epoch(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside an image of which nothing is known, which has no loss."""
    pairs = segment.find_pairs(paint(tmp_path / "some", 4, seed=6))
    Image.fromarray(np.full_like(segment.read_mask(pairs[0].mask), 255)).save(pairs[0].mask)
    looked = segment._PatchReader(load_model(world / "run"), ((0.5,) * 3, (0.2,) * 3), Running(), lambda samples: None)
    rates, losses = [], []
    step, measure = torch.optim.AdamW.step, torch.nn.functional.cross_entropy

    def noted(self: torch.optim.AdamW) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self)

    def measured(*arguments: object, **options: object) -> torch.Tensor:
        losses.append(measure(*arguments, **options))
        return losses[-1]

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", measured)
    _, loss = segment._fit(looked, pairs, (3, 9), segment.SegmentSettings(epochs=3, batch_size=1, lr=0.02))
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * number / 12)) for number in range(9)])
    assert loss == pytest.approx(sum(value.item() for value in losses[-3:]) / 3)


@pytest.mark.parametrize("side", ["train", "val"])
def test_masks_that_tell_nothing_are_refused(world: Path, tmp_path: Path, side: str) -> None:
    """Once a train folder without a class was a traceback, and a test folder without one gave a score of NaN."""
    empty = paint(tmp_path / "empty", 2, seed=2)
    for path in (empty / "masks").rglob("*.png"):
        Image.fromarray(np.full_like(np.array(Image.open(path)), 255)).save(path)
    train, test = (empty if name == side else world / name for name in ("train", "val"))
    got = call("segment", world / "run", "--train", train, "--test", test, "--out", tmp_path, *COMMON)
    assert got.exit_code == 1
    assert re.search(r"two classes, .* 255 is ignored", got.output.replace("\n", " "))


@pytest.mark.parametrize("how", ["the same", "inside", "a copy"])
def test_the_images_that_were_learned_from_are_not_tested_on(world: Path, tmp_path: Path, how: str) -> None:
    train = test = world / "train"
    if how == "inside":
        train, test = tmp_path / "some", world / "train"
        for kind in ("images", "masks"):
            shutil.copytree(paint(tmp_path / "more", 2, seed=5) / kind, train / kind)
            (train / kind / "linked").mkdir()
            for path in sorted((test / kind).rglob("tile_0.*")):
                (train / kind / "linked" / path.name).symlink_to(path)
    if how == "a copy":
        test = shutil.copytree(train, tmp_path / "copy")
    got = call("segment", world / "run", "--train", train, "--test", test, "--out", tmp_path, *COMMON)
    count = 1 if how == "inside" else 12
    assert got.exit_code == 1
    found = " ".join(got.output.split())
    assert f"{test} shares {count} image" in found


def test_what_is_no_pair_of_image_and_mask_is_refused(world: Path, tmp_path: Path) -> None:
    folder = paint(tmp_path / "broken", 2, seed=2)
    (folder / "masks/area1/tile_1.png").unlink()
    got = call("segment", world / "run", "--train", folder, "--test", world / "val", "--out", tmp_path, *COMMON)
    assert got.exit_code == 1
    assert re.search(r"Masks are missing: 1.*tile_1\.png", got.output.replace("\n", ""))
    Image.new("RGB", (48, 48)).save(folder / "masks/area1/tile_1.png")
    with pytest.raises(UsageError, match=r"RGB.*one channel of 8 bits"):
        segment.read_mask(folder / "masks/area1/tile_1.png")


def test_a_damaged_mask_is_an_error_whatever_pillow_makes_of_it(tmp_path: Path) -> None:
    """Of a chunk within the pixels that has no known type it makes a SyntaxError."""
    path = tmp_path / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)).save(path)
    damage(path)
    with pytest.raises(UsageError, match=r"mask\.png: .*Remove or replace it"):
        segment.read_mask(path)
