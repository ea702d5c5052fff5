"""The probes as an evaluation calls them: what is asked for reaches the arithmetic, and of several k the best is told."""

from dataclasses import replace

import numpy as np
import pytest

from satmip_train.evaluation import probes
from satmip_train.evaluation.classifiers import Knn, Linear, primary_metric
from satmip_train.evaluation.features import Features

CLASSES = ("a", "b", "c")


def features(rows: int, seed: int, multilabel: bool = False) -> Features:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    vectors = (np.eye(3)[labels] + rng.normal(0, 0.7, (rows, 3))).astype(np.float32)
    hot = (rng.random((rows, 3)) < 0.2 + 0.6 * np.eye(3)[labels]).astype(np.uint8)
    return Features(vectors, hot if multilabel else labels.astype(np.int64), np.array([str(row) for row in range(rows)]))


TRAIN, TEST = features(60, 0), features(40, 1)


@pytest.mark.parametrize("multilabel", [False, True])
def test_knn_votes_at_its_temperature_and_tells_the_fixed_k_and_the_best_of_each_metric(multilabel: bool) -> None:
    train, test = features(60, 0, multilabel), features(40, 1, multilabel)
    probe = Knn(ks=(1, 2, 3, 7, 20, 60), fixed_k=3, temperature=2.0)
    got = probe(train, test, CLASSES, "cpu")
    ks = list(probe.ks)
    if multilabel:
        votes = probes.knn_multilabel(train.vectors, train.labels, test.vectors, ks, temperature=2.0)
        scored = {k: probes.score_multilabel(test.labels, votes[k]) for k in ks}
    else:
        predictions = probes.knn(train.vectors, train.labels, test.vectors, ks, classes=3, temperature=2.0)
        scored = {k: probes.score(test.labels, predictions[k], 3) for k in ks}
    for metric in ("macro_map", "micro_map") if multilabel else ("macro_f1", "top1"):
        values = {k: getattr(scored[k], metric) for k in ks}
        assert got["by_k"] == {**got["by_k"], **{str(k): {**got["by_k"][str(k)], metric: value} for k, value in values.items()}}
        assert got["metrics"][metric] == values[3]
        assert got["metrics"][f"best_{metric}"] == max(values.values())
        assert got["best_k"][metric] == min(k for k in ks if values[k] == max(values.values()))
    colder = replace(probe, temperature=0.07)(train, test, CLASSES, "cpu")
    assert colder["by_k"]["60"] != got["by_k"]["60"]


def test_the_best_k_of_a_metric_is_that_of_its_own_values() -> None:
    """Of a class that is rare, a large k gives up the F1 and wins accuracy."""
    train = Features(
        np.array([[1, 0], [1, 0.01], [1, 0.02], [1, 0.3]], np.float32), np.array([0, 0, 0, 1]), np.array(["a", "b", "c", "d"])
    )
    near, far = [1, 0.0], [1, 0.29]
    test = Features(np.array([near] * 7 + [far] * 4, np.float32), np.array([0] * 7 + [0] * 3 + [1]), np.array(list("abcdefghijk")))
    got = Knn(ks=(1, 4), fixed_k=1, temperature=10.0)(train, test, ("x", "y"), "cpu")
    assert got["best_k"] == {"macro_f1": 1, "top1": 4}


@pytest.mark.parametrize(
    ("asked", "ks", "fixed", "notes"), [((1, 5, 20, 100), (1, 5, 7), 5, 1), ((1, 7), (1, 7), 5, 0), ((1, 5, 5), (1, 5), 5, 0)]
)
def test_no_k_is_above_the_samples(asked: tuple[int, ...], ks: tuple[int, ...], fixed: int, notes: int) -> None:
    probe, said = Knn(ks=asked).fit_to(7)
    assert (probe.ks, probe.fixed_k, len(said)) == (ks, fixed, notes)
    assert Knn(ks=asked).fit_to(3)[0].fixed_k == 3


def test_the_linear_probe_stops_where_it_is_told() -> None:
    whole = Linear()(TRAIN, TEST, CLASSES, "cpu")
    assert 3 < whole["iterations"] < 200
    assert whole["gradient_norm"] <= 1e-4
    assert Linear(max_iterations=3)(TRAIN, TEST, CLASSES, "cpu")["iterations"] == 3
    rough = Linear(tolerance=0.05)(TRAIN, TEST, CLASSES, "cpu")
    assert 1e-4 < rough["gradient_norm"] <= 0.05
    assert rough["train_loss"] > whole["train_loss"]


@pytest.mark.parametrize(
    ("source", "multilabel", "metric"),
    [
        ("fmow", False, "macro_f1"), ("fgsc23", False, "macro_f1"), ("eurosat", False, "top1"), ("bigearthnet", True, "macro_map"),
        ("fmow", True, "macro_map"),
    ],
)  # fmt: skip
def test_the_papers_metric_follows_from_the_set(source: str, multilabel: bool, metric: str) -> None:
    assert primary_metric(source, features(5, 0, multilabel).labels) == metric
