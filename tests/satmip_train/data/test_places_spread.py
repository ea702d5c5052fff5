"""Whether a place is one spot on Earth or a region, in kilometres."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy_shards import write_toy_shards
from pyproj import Geod

from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.data.places import ONE_SPOT, Places, read_places
from satmip_train.distributed import Job
from satmip_train.training import train
from satmip_train.training.plan import plan_run


def places(place: list[int], location: list[tuple[float, float]]) -> Places:
    return Places(np.array([0, len(place)]), np.array(place), np.array(location, float))


def test_the_spread_is_the_distance_to_the_middle_also_across_the_antimeridian() -> None:
    nan = math.nan
    there = [(179.95, 10.0), (-179.95, 10.0), (5.0, 0.0), (nan, nan)]
    half = Geod(a=6371008.8, b=6371008.8).inv(179.95, 10.0, -179.95, 10.0)[2] / 2000
    assert places([0, 0, 1, 1], there).spread() == pytest.approx(half, rel=1e-3)
    assert half > ONE_SPOT


def test_one_spot_seen_twice_has_no_spread_and_single_samples_have_none_to_tell() -> None:
    assert places([0, 0, 1], [(7.0, 46.0), (7.0, 46.0), (8.0, 1.0)]).spread() == pytest.approx(0.0, abs=1e-6)
    assert math.isnan(places([0, 1], [(7.0, 46.0), (8.0, 1.0)]).spread())
    assert math.isnan(places([0, 0], [(math.nan, math.nan)] * 2).spread())


def test_a_training_of_temporal_positives_is_told_where_places_are_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(write_toy_shards(tmp_path / "shards", {"train": 16}))
    plan = plan_run(Settings(objective="simclr+tp", batch_size=8), dataset, Job(torch.device("cpu")))
    known = read_places(dataset, "train")
    for kilometres, told in ((0.0, False), (30.0, True)):
        step = np.array([kilometres / 111.2 * 2, 0.0])
        pairs = np.array([7.0, 0.0]) + np.arange(16)[:, None] % 2 * step
        moved = Places(known.starts, np.repeat(np.arange(8), 2), pairs)
        monkeypatch.setattr(train, "read_places", lambda *_, moved=moved: moved)
        assert (train.temporal_doubt(plan, ("image", "partner")) is not None) == told
        assert train.temporal_doubt(plan, ("image", "image")) is None
