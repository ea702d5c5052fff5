"""A few steps by the fast path give the losses of the reference path, see `benchmarks/same_learning.py`."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY

from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import same_learning


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_twenty_steps_by_the_fast_path_give_the_losses_of_the_reference(tmp_path: Path, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    toy = open_dataset(write_toy_shards(tmp_path, {"train": 37}, shards=3, size=(24, 24)))
    common: dict[str, Any] = {**TINY, "epochs": 5, "lr_base": 0.005}
    paths = {False: same_learning.REFERENCE, True: {**same_learning.FAST, "precision": "fp32"}}
    runs = [same_learning.train(toy, Settings(**{**common, **path}), torch.device(device), fast) for fast, path in paths.items()]
    assert len(runs[0]) == 20
    np.testing.assert_allclose(runs[1], runs[0], rtol=1e-4 if device == "cpu" else 1e-2)
    other = same_learning.train(toy, Settings(**{**common, **paths[True], "seed": 1}), torch.device(device), True)
    assert np.abs(other - runs[0]).max() > 0.1


def test_the_verdict_is_that_of_the_distances_and_the_deviation() -> None:
    one, two = same_learning.REFERENCES, same_learning.FASTS
    runs = {f"{one}0": np.full(120, 1.0), f"{one}1": np.full(120, 1.5), same_learning.ROUNDED: np.full(120, 1.1)}
    runs[f"{two}0"] = np.repeat([1.1, 0.7], 60)
    found = same_learning.verdict({**runs, f"{two}1": np.full(120, 1.6)})
    second = 0.8 * -0.3 + 0.2 * 0.1
    assert found["spread"] == pytest.approx([0.5, 0.5])
    assert found["reference"] == pytest.approx([1.25, 1.25])
    assert found["fast_path"] == pytest.approx([1.35, (1.0 + second + 1.6) / 2])
    assert found["standard_error"] == pytest.approx([0.0, abs(second - 0.1) / 2], abs=1e-12)
    assert found["drift"] == pytest.approx([0.1, (second + 0.1) / 2])
    # The mean over marks of each seed, and how these differ.
    assert found["mean_drift"] == pytest.approx(((0.1 + second) / 2 + 0.1) / 2)
    assert found["its_standard_error"] == pytest.approx(abs((0.1 + second) / 2 - 0.1) / 2)
    assert found["distance"] == pytest.approx(np.sqrt((3 * 0.1**2 + second**2) / 4))
    assert found["distance_by_rounding"] == pytest.approx(0.1)
    assert found["deviation_of_seeds"] == pytest.approx(np.std([1.0, 1.5], ddof=1))
    assert (found["marks_within_spread"], found["within"]) == (4, True)
    far = same_learning.verdict({**runs, f"{two}1": np.full(120, 2.1)})
    assert (far["marks_within_spread"], far["within"]) == (2, False)
