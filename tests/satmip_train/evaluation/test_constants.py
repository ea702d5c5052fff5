"""The best constants, against all answers."""

import math

import numpy as np
import pytest
from pyproj import Geod

from satmip_train.evaluation import constants, retrieval
from satmip_train.evaluation.retrieval import Physical


def test_the_best_place_is_the_best_of_all_locations() -> None:
    rng = np.random.default_rng(0)
    lon, lat = np.r_[rng.uniform(-180, 180, 40), math.nan], np.r_[rng.uniform(-90, 90, 40), 0.0]
    sphere = Geod(a=6371.0088, b=6371.0088)
    medians = [np.median(sphere.inv(np.full(40, lon[i]), np.full(40, lat[i]), lon[:40], lat[:40])[2]) for i in range(40)]
    assert constants.best_place(lon, lat) == pytest.approx(min(medians))
    assert constants.best_place(np.array([math.nan]), np.array([0.0])) is None


def test_the_constants_of_a_split_are_no_worse_than_any_samples_own_values() -> None:
    rng = np.random.default_rng(1)
    columns = (rng.uniform(-20, 40, 31), rng.uniform(30, 60, 31), rng.uniform(0, 365, 31), rng.uniform(0, 24, 31),
               rng.uniform(2010, 2020, 31), rng.uniform(0.3, 20, 31))  # fmt: skip
    truth = Physical(*columns)
    found = retrieval.best_constants(truth)
    for number in range(31):
        own = retrieval.error_medians(truth, np.full(31, number))
        for name, best in found.items():
            assert best is not None
            assert best <= own[name] * (1.006 if name == "kilometres" else 1) + 1e-9, name
    assert set(retrieval.best_constants(Physical(*np.full((6, 2), math.nan))).values()) == {None}
