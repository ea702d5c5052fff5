"""Reading of pictures against plain loops."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.eval_world import COMMON, call, write_run
from helpers.toy_shards import write_toy_shards
from hypothesis import given
from hypothesis import strategies as st

from satmip_train.data.dataset import open_dataset
from satmip_train.evaluation import reading
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import image_features, load_model, metadata_features_of
from satmip_train.runs import checkpoint


def loop(values: list[float], answer: float, circle: float | None) -> float:
    """The median error of one answer to all."""
    turns = (-1, 0, 1) if circle is not None else (0,)
    return float(np.median([min(abs(value - answer + turn * (circle or 0)) for turn in turns) for value in values]))


@given(st.lists(st.integers(0, 23), min_size=1, max_size=9), st.sampled_from([None, 24.0]))
def test_no_constant_beats_the_best(values: list[int], circle: float | None) -> None:
    """The median error changes its slope at multiples of a quarter only, as values are whole: a grid finds the best."""
    known = [float(value) for value in values]
    best = min(loop(known, answer, circle) for answer in np.arange(0, 24, 0.25))
    assert reading.best_constant(np.array([*known, math.nan]), circle) == pytest.approx(best)


def test_what_is_unknown_has_no_baseline() -> None:
    unknown = np.full(3, math.nan)
    assert reading.best_constant(unknown) is reading.random_record(unknown, np.ones(3)) is None
    assert reading.random_record(np.array([0.0, math.nan]), np.array([350.0, 20.0, 20.0]), 365.0) == 20.0


def test_the_command_is_the_plain_loop(tmp_path: Path) -> None:
    shards = write_toy_shards(tmp_path / "shards", {"train": 24, "val": 20}, missing=0.1)
    write_run(tmp_path / "satmip", shards, objective="satmip", metadata_encoder="tabular")
    got = call("read", tmp_path / "satmip", "--shards", shards, "--out", tmp_path, *COMMON)
    assert got.exit_code == 0, got.output
    assert "best constant" in got.output
    assert "random record" in got.output
    result = json.loads((tmp_path / "reading.json").read_text())
    model, dataset = load_model(tmp_path / "satmip", "both"), open_dataset(shards)
    saved = checkpoint.load(tmp_path / "satmip")["model"]
    sides = []
    for features, split, side in ((image_features, "val", "image"), (metadata_features_of, "train", "metadata")):
        embedded = features(model, dataset, split, Running()).vectors @ saved[f"matching.{side}_projection.weight"].numpy().T
        sides.append(embedded / np.linalg.norm(embedded, axis=1, keepdims=True))
    found = (sides[0] @ sides[1].T).argmax(1)
    truth, records = (reading.read_records(dataset, split) for split in ("val", "train"))
    off = np.abs(truth.physical.latitude - records.physical.latitude[found])
    ratio = np.abs(np.log(truth.physical.gsd / records.physical.gsd[found]))
    assert result["models"][0]["errors"]["latitude"] == pytest.approx(np.nanmedian(off))
    assert result["models"][0]["errors"]["gsd"] == pytest.approx(np.nanmedian(ratio))
    assert result["best_constant"]["latitude"] < result["random_record"]["latitude"]
    assert (result["test"]["split"], result["settings"]["records"]) == ("val", "train")
