"""Retrieval against plain loops."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.eval_world import COMMON, call, write_run
from helpers.toy_shards import write_toy_shards
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

from satmip_train.data.dataset import open_dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation import retrieval
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import image_features, load_model, metadata_features_of
from satmip_train.evaluation.retrieval import Physical
from satmip_train.runs import checkpoint
from satmip_train.runs.export import export_run, load_metadata_encoder, load_projections


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    shards = write_toy_shards(root / "shards", {"train": 24, "val": 20}, missing=0.1)
    write_run(root / "satmip", shards, objective="satmip", metadata_encoder="tabular")
    write_run(root / "simclr", shards, objective="simclr")
    return root


def loop(queries: np.ndarray, gallery: np.ndarray) -> tuple[list[int], list[int]]:
    """Ranks of the partners and the nearest, one pair at a time; of equals the lower number comes first."""
    ranks, found = [], []
    for i, query in enumerate(queries):
        similarity = [float(np.dot(query, v)) for v in gallery]
        order = sorted(range(len(gallery)), key=lambda j: (-similarity[j], j))
        ranks.append(order.index(i) + 1)
        found.append(order[0])
    return ranks, found


@given(seed=st.integers(0, 1000), count=st.integers(1, 12), chunk=st.sampled_from([1, 30, 10_000]))
def test_ranks_are_the_plain_loops_also_among_equals(seed: int, count: int, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    axes = np.concatenate([np.eye(3), -np.eye(3)])  # similarities of -1, 0 and 1 only
    queries, gallery = axes[rng.integers(0, 6, count)], axes[rng.integers(0, 6, count)]
    whole, retrieval._SIMILARITIES = retrieval._SIMILARITIES, chunk
    try:
        places, found = retrieval.search(torch.from_numpy(queries), torch.from_numpy(gallery))
    finally:
        retrieval._SIMILARITIES = whole
    assert (places.tolist(), found.tolist()) == loop(queries, gallery)


def test_a_network_that_tells_nothing_apart_is_at_chance() -> None:
    same = torch.ones(40, 8)
    got = retrieval.rank_metrics(retrieval.search(same, same)[0])
    assert got == retrieval.chance_metrics(40) == {"recall_1": 1 / 40, "recall_5": 1 / 8, "recall_10": 1 / 4, "median_rank": 20.5}


def world_of(rows: list[tuple[float, ...]]) -> Physical:
    return Physical(*np.array(rows, float).T)


def test_errors_go_round_the_year_the_day_and_the_globe() -> None:
    nan = math.nan
    truth = world_of(
        [
            # longitude, latitude, day, hour, year, gsd
            (179.5, 0.0, 364.0, 23.5, 2015.99, 0.5),
            (-179.5, 0.0, 2.25, 1.0, 2016.01, 2.0),
            (2.35, 48.86, 200.0, 12.0, 2010.5, 1.0),
            (-74.0, 40.7, 20.0, 0.0, 2012.0, 1.0),
            (nan, nan, nan, nan, nan, nan),
        ]
    )
    got = retrieval.errors(truth, np.array([1, 0, 3, 2, 0]))
    assert got["days"][:3] == pytest.approx([3.5, 3.5, 180.0])
    assert got["hours"][:3] == pytest.approx([1.5, 1.5, 12.0])
    assert got["years"][:3] == pytest.approx([0.02, 0.02, 1.5])
    assert got["gsd_ratio"][:3] == pytest.approx([4.0, 4.0, 1.0])
    assert got["kilometres"][0] == pytest.approx(111.32, abs=0.01)  # one degree of the equator
    assert got["kilometres"][2] == pytest.approx(5_852, rel=0.005)  # Paris to New York
    assert all(math.isnan(values[4]) for values in got.values())
    medians = retrieval.error_medians(truth, np.array([1, 0, 3, 2, 0]))
    assert medians["days"] == pytest.approx(np.median([3.5, 3.5, 180, 180]))
    assert set(retrieval.error_medians(world_of([(nan,) * 6]), np.array([0])).values()) == {None}


def test_the_last_and_the_first_minutes_of_a_year_are_near() -> None:
    """Once they were up to 0.75 days apart, as every year was 365.25 days long."""
    times = ["2016-12-31T23:59:00Z", "2017-01-01T00:01:00Z", "2015-12-31T23:59:00Z", "2016-01-01T00:01:00Z"]
    truth = world_of([retrieval.physical_row({"location": None, "gsd": None, "timestamp": time}) for time in times])
    got = retrieval.errors(truth, np.array([1, 0, 3, 2]))
    assert got["days"] == pytest.approx([2 / 1440] * 4, rel=0.01)
    assert got["years"] == pytest.approx([2 / 1440 / 365.25] * 4, rel=0.01)
    assert got["hours"] == pytest.approx([2 / 60] * 4)


def test_the_numbers_of_a_sample_are_those_of_its_metadata() -> None:
    row = retrieval.physical_row({"location": [7.5, -46.0], "gsd": [1.0, 4.0], "timestamp": "2016-07-01T12:30:36Z"})
    part = (182 + 12.51 / 24) / 366  # of the leap year
    assert row == pytest.approx((7.5, -46.0, part * 365.25, 12.51, 2016 + part, 2.0), rel=1e-12)


@given(st.floats(0, 400), st.floats(0, 400))
def test_a_circle_has_no_longer_way_than_half(a: float, b: float) -> None:
    got = float(retrieval._around(np.array(a - b), 365.25))
    assert 0 <= got <= 365.25 / 2
    assert got == pytest.approx(min(abs(a - b - 365.25 * turn) for turn in range(-3, 4)), abs=1e-9)


def test_chance_is_that_of_random_pairs(world: Path) -> None:
    truth = retrieval.read_physical(open_dataset(world / "shards"), "val")
    assert np.isnan(truth.longitude).sum() == np.isnan(truth.gsd).sum() > 0
    got = retrieval.chance_medians(truth)
    known = np.flatnonzero(np.isfinite(truth.gsd))
    ratios = [max(a / b, b / a) for a in truth.gsd[known] for b in truth.gsd[known]]
    assert got["gsd_ratio"] == pytest.approx(np.median(ratios), rel=0.1)
    assert retrieval.chance_medians(truth) == got


def test_the_command_is_the_plain_loop(world: Path, tmp_path: Path) -> None:
    run = world / "satmip"
    got = call("retrieve", run, "--shards", world / "shards", "--out", tmp_path, *COMMON)
    assert got.exit_code == 0, got.output
    assert "chance" in got.output
    assert "km: kilometres on the ground" in " ".join(got.output.split())  # explained by the words that head the columns
    assert "GSD ratio: ratio of the GSDs" in " ".join(got.output.split())
    result = json.loads((tmp_path / "retrieval.json").read_text())
    model, dataset = load_model(run, "both"), open_dataset(world / "shards")
    image, metadata = (f(model, dataset, "val", Running()).vectors for f in (image_features, metadata_features_of))
    saved = checkpoint.load(run)["model"]
    sides = []
    for vectors, side in ((image, "image"), (metadata, "metadata")):
        embedded = vectors @ saved[f"matching.{side}_projection.weight"].numpy().T
        sides.append(embedded / np.linalg.norm(embedded, axis=1, keepdims=True))
    truth = retrieval.read_physical(dataset, "val")
    for name, queries, gallery in (("image_to_metadata", *sides), ("metadata_to_image", *sides[::-1])):
        ranks, found = loop(queries, gallery)
        mine = result["models"][0][name]
        assert mine["metrics"]["recall_5"] == pytest.approx(np.mean([rank <= 5 for rank in ranks]))
        assert mine["metrics"]["median_rank"] == np.median(ranks)
        pairs = [(i, j) for i, j in enumerate(found) if not np.isnan(truth.longitude[[i, j]]).any()]
        geod = Geod(ellps="WGS84")
        metres = [geod.inv(truth.longitude[i], truth.latitude[i], truth.longitude[j], truth.latitude[j])[2] for i, j in pairs]
        assert mine["errors"]["kilometres"] == pytest.approx(np.median(metres) / 1000)
    assert result["chance"]["metrics"]["recall_10"] == 0.5
    assert result["test"]["samples"] == 20


def test_projections_keep_their_bias_where_they_have_one(world: Path, tmp_path: Path) -> None:
    saved = checkpoint.load(world / "satmip")
    assert saved is not None
    kept = load_projections(world / "satmip")
    plain = kept.image, kept.metadata
    assert [layer.bias for layer in plain] == [None, None]
    for side, value in (("image", 2.0), ("metadata", 3.0)):
        saved["model"][f"matching.{side}_projection.bias"] = torch.full((plain[0].out_features,), value)
    checkpoint.save(tmp_path, saved)
    found = load_projections(tmp_path)
    for before, after, value in zip(plain, (found.image, found.metadata), (2.0, 3.0), strict=True):
        vectors = torch.randn(4, before.in_features)
        torch.testing.assert_close(after(vectors), before(vectors) + value)


def test_an_export_older_than_the_checkpoint_is_refused_with_advice(world: Path, tmp_path: Path) -> None:
    """Its features are of another step than the projections."""
    write_run(tmp_path / "run", world / "shards", objective="satmip", metadata_encoder="tabular")
    checkpoint.save(tmp_path / "run", {**checkpoint.load(tmp_path / "run"), "step": 9})
    for command in (["retrieve", "--split", "val"], ["knn"]):
        got = call(command[0], tmp_path / "run", "--shards", world / "shards", *command[1:], "--out", tmp_path, *COMMON)
        assert got.exit_code == 1
        assert re.search(
            r"step 7 and last\.pt of step 9\. Run: satmip-train export",
            " ".join(got.output.split()),
        )
    with pytest.raises(UsageError, match=r"metadata\.safetensors is of step 7"):
        load_metadata_encoder(tmp_path / "run")
    export_run(tmp_path / "run")
    assert load_model(tmp_path / "run", "both").trained["step"] == 9


def test_a_run_without_projections_is_refused(world: Path, tmp_path: Path) -> None:
    got = call("retrieve", world / "simclr", "--shards", world / "shards", "--out", tmp_path, *COMMON)
    assert got.exit_code == 1
    assert re.search(r"simclr .*Use runs of satmip or satmips", got.output.replace("\n", " "))
    assert not (tmp_path / "retrieval.json").exists()
