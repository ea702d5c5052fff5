"""Classes by the nearest locations, against a plain loop over all pairs."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.eval_world import as_multilabel, call
from helpers.toy_shards import write_toy_shards
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

from satmip_train.data.dataset import open_dataset
from satmip_train.data.places import read_places
from satmip_train.errors import UsageError
from satmip_train.evaluation.features import read_labels
from satmip_train.evaluation.location import by_location


def loop(train: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int) -> list[int]:
    """The vote of the k nearest on a sphere, one point at a time; of equal votes the lower class."""
    sphere, found = Geod(a=1.0, b=1.0), []
    for point in test:
        apart = sphere.inv(*np.broadcast_to(point, train.shape).T, *train.T)[2]
        votes = Counter(labels[np.argsort(apart, kind="stable")[:k]].tolist())
        found.append(min(votes, key=lambda name: (-votes[name], name)))
    return found


@given(seed=st.integers(0, 500), k=st.integers(1, 7))
def test_the_nearest_are_those_of_a_plain_loop_also_across_the_antimeridian_and_the_poles(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    train, test = (np.stack([rng.uniform(-180, 180, n), rng.uniform(-90, 90, n)], axis=1) for n in (30, 8))
    labels = rng.integers(0, 3, 30)
    assert by_location(train, labels, test, k).tolist() == loop(train, labels, test, k)


def test_unknown_locations_neither_vote_nor_fail() -> None:
    nan = np.nan
    train = np.array([[0.0, 0.0], [nan, nan], [nan, nan], [50.0, 0.0]])
    labels = np.array([1, 2, 2, 0])
    assert by_location(train, labels, np.array([[1.0, 0.0], [49.0, 0.0], [nan, nan]]), 1).tolist() == [1, 0, 2]
    with pytest.raises(UsageError, match="No train sample has a location"):
        by_location(train[1:3], labels[1:3], train, 1)


def test_the_command_gives_what_the_loop_gives(tmp_path: Path) -> None:
    shards = write_toy_shards(tmp_path / "shards", {"train": 24, "val": 12})
    printed = call("location", "--shards", shards, "--out", tmp_path / "eval", "--k", 3)
    assert printed.exit_code == 0, printed.output
    result = json.loads((tmp_path / "eval" / "location.json").read_text())
    dataset = open_dataset(shards)
    train, test = (read_places(dataset, split).location for split in ("train", "val"))
    labels, truth = (read_labels(dataset, split) for split in ("train", "val"))
    assert result["models"][0]["metrics"]["top1"] == pytest.approx(np.mean(loop(train, labels, test, 3) == truth))
    several = call("location", "--shards", as_multilabel(shards), "--out", tmp_path / "other")
    assert several.exit_code == 1
    assert "linear" in several.output
