"""Features in two dimensions, confusions and intervals, against what is computed otherwise."""

import re
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from satmip_data.pages.charts import Scatter
from satmip_train.evaluation.confusion import confusion, most_confused
from satmip_train.evaluation.feature_map import map_features
from satmip_train.evaluation.retrieval import Physical
from satmip_train.evaluation.tables import wilson

CLASSES = [f"class {number}" for number in range(8)]


def physical(count: int, **changes: np.ndarray) -> Physical:
    rng = np.random.default_rng(1)
    values = {
        "longitude": rng.uniform(-180, 180, count), "latitude": rng.uniform(-90, 90, count), "day": rng.uniform(0, 365.25, count),
        "hour": rng.uniform(0, 24, count), "year": rng.uniform(2000, 2020, count), "gsd": rng.lognormal(0, 1, count),
    }  # fmt: skip
    return Physical(**(values | changes))


def places(chart: Scatter) -> dict[str, list[tuple[float, float]]]:
    """The dots of each group, upwards."""
    return {group.name: [(float(x), -float(y)) for x, y in re.findall(r"M(\S+) (\S+?)h0", group.path)] for group in chart.groups}


def test_a_map_shows_each_picture_once_a_colour_along_the_principal_components() -> None:
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, 8, 300))
    vectors = rng.normal(size=(300, 16)).astype(np.float32) + 3
    found = map_features(vectors, labels, CLASSES, physical(300))
    assert [chart.title for chart in found.charts] == ["By class", "By GSD, m", "By latitude, degrees", "By season"]
    for chart in found.charts:
        assert sum(map(len, places(chart).values())) == found.points == 300
    unit = vectors.astype(float) / np.linalg.norm(vectors, axis=1, keepdims=True)
    _, values, axes = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    assert found.explained == pytest.approx(tuple(values[:2] ** 2 / (values**2).sum()))
    expected = (unit - unit.mean(0)) @ axes[:2].T
    by_class = places(found.charts[0])
    largest = np.bincount(labels).argmax()
    mine = np.array(by_class[CLASSES[largest]])
    for axis in (0, 1):
        assert abs(np.corrcoef(mine[:, axis], expected[labels == largest, axis])[0, 1]) > 0.999
    assert len(by_class) == 7
    assert len(by_class["other classes"]) == sum(sorted(np.bincount(labels))[:2])


def test_levels_hold_as_many_pictures_each_and_unknown_ones_are_told() -> None:
    gsd = np.arange(1.0, 101.0)
    gsd[:10] = np.nan
    found = map_features(np.eye(100, dtype=np.float32), np.zeros(100, np.int64), CLASSES[:1], physical(100, gsd=gsd))
    levels = places(next(chart for chart in found.charts if "GSD" in chart.title))
    assert [len(dots) for dots in levels.values()] == [10, 18, 18, 18, 18, 18]
    assert "By class" not in [chart.title for chart in found.charts]  # one class has one colour


@pytest.mark.parametrize("vectors", [np.zeros((5, 4)), np.ones((5, 1)), np.eye(3)])
def test_features_without_two_directions_have_a_map_too(vectors: np.ndarray) -> None:
    count = len(vectors)
    unknown = {name: np.full(count, np.nan) for name in ("gsd", "day", "latitude")}
    found = map_features(vectors.astype(np.float32), np.arange(count) % 2, CLASSES[:2], physical(count, **unknown))
    assert [chart.title for chart in found.charts] == ["By class"]
    assert all(0 <= share <= 1 for share in found.explained)


def test_confusions_are_those_of_the_predictions() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, (2, 400))
    counts = confusion(labels, predictions, 5)
    assert (counts == confusion_matrix(labels, predictions, labels=range(5))).all()
    names = list("abcde")
    rows = list(most_confused(counts, names, 100))
    assert {(true, taken): times for true, taken, times, _ in rows} == {
        (names[i], names[j]): counts[i, j] for i, j in product(range(5), repeat=2) if i != j and counts[i, j]
    }
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
    assert all(share == pytest.approx(times / (labels == names.index(true)).sum()) for true, _, times, share in rows)
    assert list(most_confused(np.diag([3, 0, 2]), names[:3], 9)) == []


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (3, 7), (329, 573), (1, 1)])
def test_wilson_is_the_interval_of_scipy(hits: int, count: int) -> None:
    expected = binomtest(hits, count).proportion_ci(0.95, "wilson")
    assert wilson(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-6)
