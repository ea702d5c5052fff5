"""What is compared with what: the statistics of test chips, and which models are draws of one network."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.eval_world import write_run
from helpers.toy_shards import write_dataset_json, write_toy_shards

from satmip_train.data.dataset import open_dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation import features
from satmip_train.evaluation.evaluate import Protocol, Result, split_features, summarise
from satmip_train.evaluation.models import load_model


def test_test_images_are_normalised_with_the_statistics_of_the_train_shards(tmp_path: Path) -> None:
    train, other = write_toy_shards(tmp_path / "train", {"train": 8}), write_toy_shards(tmp_path / "other", {"val": 6}, seed=3)
    described = json.loads((other / "dataset.json").read_text())
    described["channels"].update(mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    write_dataset_json(other, described)
    model = load_model(write_run(tmp_path / "run", train, objective="simclr"))
    protocol = Protocol(open_dataset(train), open_dataset(other))
    _, test = split_features(model, protocol, lambda samples: None)
    how = features.Input(32, protocol.train.mean, protocol.train.std)
    expected = features.extract(model.backbone, protocol.test, "val", how)
    np.testing.assert_allclose(test.vectors, expected.vectors, atol=1e-5)


def test_classes_in_another_order_are_other_classes(tmp_path: Path) -> None:
    """Their numbers would stand for others."""
    train = open_dataset(write_toy_shards(tmp_path / "train", {"train": 4}))
    test = open_dataset(write_toy_shards(tmp_path / "other", {"val": 4}, seed=3))
    with pytest.raises(UsageError, match="they are in another order"):
        Protocol(train, replace(test, classes=test.classes[::-1]))


def result(seed: int, value: float, kind: str = "run", shards: str = "abc") -> Result:
    return {
        "name": f"{kind}{seed}", "kind": kind, "objective": "satmip", "seed": seed, "settings": {"epochs": 3, "seed": seed},
        "trained": {"shards": shards}, "metrics": {"top1": value},
    }  # fmt: skip


@pytest.mark.parametrize("other", [{"seed": 0}, {"kind": "external"}, {"shards": "xyz"}])
def test_only_models_that_differ_in_seed_are_draws_of_one(other: dict[str, object]) -> None:
    assert [summary["seeds"] for summary in summarise([result(0, 0.5), result(1, 0.7)])] == [[0, 1]]
    assert summarise([result(0, 0.5), result(**{"seed": 1, "value": 0.7, **other})]) == []
