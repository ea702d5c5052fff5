"""Images larger than a view at their own size, as the paper evaluates them (supplement A)."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from helpers.eval_world import COMMON, call, write_run
from helpers.toy_shards import write_toy_shards
from sklearn.metrics import accuracy_score
from torch import nn

from satmip_train.config import Settings
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.evaluation import features, models, probes
from satmip_train.evaluation.models import Model, evaluated_size


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_run(root / "run", write_toy_shards(root / "shards", {"train": 60, "val": 20}))
    return root


@pytest.mark.parametrize(("side", "seen"), [(48, 48), (24, 32)])
def test_larger_images_keep_their_size_where_asked(side: int, seen: int, world: Path, tmp_path: Path) -> None:
    """Supplement A: images are resized to the views' size, or keep theirs if that is larger."""
    other = write_toy_shards(tmp_path / "other", {"train": 24, "val": 12}, size=(side, side))
    run, keep = world / "run", ["--larger-images", "keep"]
    got = call("knn", run, "--shards", other, "--k", "1,5", "--backbone", "pixels", "--out", tmp_path, *keep, *COMMON)
    assert got.exit_code == 0, got.output
    said = "Images larger than a view keep their size, as in the paper, where all have one square size."
    assert said in " ".join(got.output.split())
    result, dataset = json.loads((tmp_path / "knn.json").read_text()), open_dataset(other)
    backbone = models.load_model(run).backbone
    if seen != 32:
        backbone.set_input_size(img_size=(seen, seen))  # type: ignore[operator]
    how = features.Input(seen, dataset.mean, dataset.std)
    train, test = (features.extract(backbone, dataset, split, how) for split in ("train", "val"))
    expected = probes.knn(train.vectors, train.labels, test.vectors, [5], classes=4)[5]
    assert result["models"][0]["metrics"]["top1"] == pytest.approx(accuracy_score(test.labels, expected))
    assert result["models"][0]["settings"]["view_size"] == 32
    assert result["settings"]["larger_images"] == "keep"
    caches = {path.name for path in (run / "features").iterdir()}
    call("knn", run, "--shards", other, "--k", "1,5", "--out", tmp_path, *keep, *COMMON)
    assert caches == {path.name for path in (run / "features").iterdir()}


def test_pixels_scale_mae_and_images_without_one_square_size_keep_to_the_view() -> None:
    """Supplement A: Scale-MAE is evaluated at 128 pixels on every set."""
    settings = Settings(view_size=128, objective="scale-mae")
    scale_mae = Model("scale-mae", "run", Path(), settings, nn.Identity())
    ours = replace(scale_mae, settings=Settings())
    sets = {size: SimpleNamespace(size=size) for size in ((256, 256), (256, 300), None, (64, 64))}
    assert [evaluated_size(ours, cast("Dataset", found)) for found in sets.values()] == [256, 224, 224, 224]
    assert evaluated_size(scale_mae, cast("Dataset", sets[256, 256])) == 128
    assert evaluated_size(replace(ours, kind="pixels", settings=Settings(view_size=32)), cast("Dataset", sets[256, 256])) == 32


def test_a_network_made_for_one_size_says_what_to_pass(world: Path, tmp_path: Path) -> None:
    arguments = {"depth": 1, "img_size": 32}
    run = write_run(tmp_path / "cait", world / "shards", objective="simclr", backbone="cait_xxs24_224", backbone_args=arguments)
    other = write_toy_shards(tmp_path / "other", {"train": 24, "val": 12}, size=(48, 48))
    got = call("knn", run, "--shards", other, "--k", "1", "--larger-images", "keep", "--out", tmp_path, *COMMON)
    assert got.exit_code == 1
    assert "Pass --larger-images resize" in got.output


def test_of_metadata_alone_nothing_is_said_of_images(world: Path, tmp_path: Path) -> None:
    got = call(
        "linear", world / "run", "--shards", world / "shards", "--modality", "metadata", "--random-seeds", "",
        "--max-iterations", "2", "--larger-images", "keep", "--out", tmp_path, *COMMON,
    )  # fmt: skip
    assert got.exit_code == 0, got.output
    assert "Images larger" not in got.output
