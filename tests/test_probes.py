"""Probes against plain loops and scikit-learn."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from satmip_train import probes


def blobs(n: int, classes: int, dim: int, seed: int, spread: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(0).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return (centres[labels] + spread * rng.normal(size=(n, dim))).astype(np.float32), labels


def knn_loop(train: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int, temperature: float, classes: int) -> list[int]:
    """The definition, one test vector and one neighbour at a time, in float64."""
    answers = []
    for query in test.astype(float):
        similarities = []
        for index, vector in enumerate(train.astype(float)):
            norm = math.sqrt(sum(v * v for v in vector)) * math.sqrt(sum(v * v for v in query))
            similarities.append((-sum(a * b for a, b in zip(query, vector, strict=True)) / norm if norm else 0.0, index))
        votes = [0.0] * classes
        for negative, index in sorted(similarities)[:k]:
            votes[labels[index]] += math.exp(-negative / temperature)
        answers.append(max(range(classes), key=lambda c: (votes[c], -c)))
    return answers


def test_knn_is_the_plain_loop() -> None:
    train, labels = blobs(80, 4, 6, seed=1)
    test, _ = blobs(30, 4, 6, seed=2)
    got = probes.knn(train, labels, test, [1, 5, 20, 80], classes=4)
    assert list(got) == [1, 5, 20, 80]
    for k, predictions in got.items():
        assert predictions.tolist() == knn_loop(train, labels, test, k, 0.07, 4)


def test_knn_is_scikit_learns() -> None:
    train, labels = blobs(400, 7, 10, seed=3)
    test, _ = blobs(200, 7, 10, seed=4)
    for k in (1, 5, 20):
        for temperature in (0.07, 0.5):
            model = KNeighborsClassifier(
                k, weights=lambda d, t=temperature: np.exp((1 - d) / t), metric="cosine", algorithm="brute"
            )
            expected = model.fit(train, labels).predict(test)
            got = probes.knn(train, labels, test, [k], temperature=temperature, classes=7)[k]
            assert np.array_equal(got, expected)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12), n=st.integers(12, 40), chunk=st.sampled_from([1, 45, 10_000]))
def test_equal_neighbours_come_in_the_order_of_their_index(seed: int, k: int, n: int, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    # Along the axes all similarities are -1, 0 or 1, so most are equal.
    axes = np.concatenate([np.eye(3), -np.eye(3), np.zeros((1, 3))]).astype(np.float32)
    train, test = axes[rng.integers(0, 7, n)], axes[rng.integers(0, 7, 9)]
    whole, probes._SIMILARITIES = probes._SIMILARITIES, chunk
    try:
        indices, similarities = probes.neighbours(train, test, k)
    finally:
        probes._SIMILARITIES = whole
    expected = test @ train.T
    for row in range(9):
        order = sorted(range(n), key=lambda i: (-expected[row, i], i))[:k]
        assert indices[row].tolist() == order
        assert similarities[row].tolist() == expected[row, order].tolist()


def test_nearest_orders_all_floats() -> None:
    values = torch.tensor([[0.5, -0.0, 0.0, -1e-30, 1e-30, -1.0, 1.0, 0.5]])
    indices, got = probes._nearest(values, torch.arange(7, -1, -1), 8)
    assert indices.tolist() == [[6, 0, 7, 4, 1, 2, 3, 5]]
    assert torch.equal(got, values[:, indices[0]])


def test_knn_of_classes_missing_from_train_or_test() -> None:
    train, labels = blobs(60, 3, 5, seed=5)
    labels = labels * 2  # only 0, 2 and 4 of six classes
    got = probes.knn(train, labels, train[:10], [1, 3], classes=6)
    assert got[1].tolist() == labels[:10].tolist()
    assert set(got[3].tolist()) <= {0, 2, 4}


def test_a_small_temperature_is_the_nearest_neighbour() -> None:
    train, labels = blobs(60, 3, 5, seed=6)
    test, _ = blobs(20, 3, 5, seed=7)
    got = probes.knn(train, labels, test, [1, 50], temperature=1e-5, classes=3)
    assert np.array_equal(got[1], got[50])


@pytest.mark.parametrize("k", [0, 61])
def test_a_k_that_cannot_be_is_refused(k: int) -> None:
    train, labels = blobs(60, 3, 5, seed=6)
    with pytest.raises(ValueError, match=r"1\.\.60.*however: k="):
        probes.knn(train, labels, train, [k], classes=3)


def test_features_that_are_not_finite_are_refused() -> None:
    train, labels = blobs(60, 3, 5, seed=6)
    test = train.copy()
    test[3, 2] = np.nan
    with pytest.raises(ValueError, match="test features must be finite, however: 1 of 60"):
        probes.knn(train, labels, test, [1], classes=3)
    with pytest.raises(ValueError, match="test features must be finite"):
        probes.linear(train, labels, test)


@pytest.mark.parametrize(("classes", "iterations"), [(5, 200), (5, 7), (2, 200), (2, 4)])
def test_linear_is_scikit_learns_iterate_for_iterate(classes: int, iterations: int) -> None:
    train, labels = blobs(500, classes, 12, seed=8)
    test, _ = blobs(300, classes, 12, seed=9)
    model = LogisticRegression(C=np.inf, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train.astype(np.float64), labels)
    got = probes.linear(train, labels, test, max_iterations=iterations)
    assert got.iterations == model.n_iter_[0]
    assert np.array_equal(got.predictions, model.predict(test.astype(np.float64)))
    likelihood = model.predict_proba(train.astype(np.float64))[np.arange(500), labels]
    assert got.loss == pytest.approx(-np.log(likelihood).mean(), rel=1e-9)
    assert (got.gradient_norm <= 1e-4) == (iterations == 200)


def test_linear_takes_only_the_classes_it_saw() -> None:
    train, labels = blobs(200, 3, 6, seed=10, spread=0.3)
    got = probes.linear(train, labels * 10, train[:50])
    assert np.array_equal(got.predictions, labels[:50] * 10)
    with pytest.raises(ValueError, match="needs two classes"):
        probes.linear(train, np.zeros(200, np.int64), train)


def test_score_is_scikit_learns_and_plain_counting() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, 200), rng.integers(0, 4, 200)
    labels[labels == 1] = 0  # class 1 is only predicted, 4 only a label, 5 neither
    got = probes.score(labels, predictions, 6)
    assert got.macro_f1 == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert got.top1 == pytest.approx(sum(int(a == b) for a, b in zip(labels, predictions, strict=True)) / 200)
    for label in range(5):
        hits = sum(1 for a, b in zip(labels, predictions, strict=True) if a == b == label)
        total = int((labels == label).sum() + (predictions == label).sum())
        assert got.per_class[label] == pytest.approx(2 * hits / total)
    assert got.per_class[5] is None


def labelled(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and three labels each that follow from some of them; a fourth that none has and a fifth that all have."""
    x = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)
    noise = np.random.default_rng(seed + 1).normal(size=(n, 3))
    hot = (x[:, :3] + 0.5 * noise > np.array([0.0, 0.7, 1.2])).astype(np.uint8)
    return x, np.concatenate([hot, np.zeros((n, 1), np.uint8), np.ones((n, 1), np.uint8)], axis=1)


def test_multilabel_linear_is_one_scikit_learn_fit_a_class() -> None:
    (train, labels), (test, _) = labelled(300, 1), labelled(80, 2)
    got = probes.linear_multilabel(train, labels, test)
    iterations, losses = [], []
    for index in range(3):
        model = LogisticRegression(C=np.inf, max_iter=200).fit(train.astype(np.float64), labels[:, index])
        np.testing.assert_allclose(got.scores[:, index], model.decision_function(test.astype(np.float64)), rtol=1e-6, atol=1e-8)
        iterations.append(int(model.n_iter_[0]))
        chosen = model.predict_proba(train.astype(np.float64))[np.arange(300), labels[:, index]]
        losses.append(-np.log(chosen).mean())
    assert got.iterations == max(iterations)
    assert got.loss == pytest.approx(np.mean(losses), rel=1e-8)
    assert not got.scores[:, 3:].any()
    with pytest.raises(ValueError, match="some train samples have and some not"):
        probes.linear_multilabel(train, labels[:, 3:], test)


def test_multilabel_knn_is_the_plain_loop() -> None:
    (train, labels), (test, _) = labelled(40, 3), labelled(9, 4)
    got = probes.knn_multilabel(train, labels, test, [1, 4, 40], temperature=0.2)
    for row, query in enumerate(test.astype(float)):
        similarity = [float(query @ v / np.linalg.norm(query) / np.linalg.norm(v)) for v in train.astype(float)]
        for k, scores in got.items():
            near = sorted(range(40), key=lambda i: -similarity[i])[:k]
            weights = [math.exp(similarity[i] / 0.2) for i in near]
            expected = [sum(w * labels[i, c] for w, i in zip(weights, near, strict=True)) / sum(weights) for c in range(5)]
            np.testing.assert_allclose(scores[row], expected, rtol=1e-5)


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """The definition: the mean, over the positives, of the precision among all that score at least as high."""
    found = []
    for score in scores[labels == 1]:
        kept = labels[scores >= score]
        found.append(sum(kept) / len(kept))
    return float(np.mean(found))


def test_multilabel_scores_are_average_precisions() -> None:
    _, labels = labelled(120, 5)
    scores = np.round(labels + np.random.default_rng(6).normal(size=labels.shape), 1)  # with ties
    got = probes.score_multilabel(labels, scores)
    for index in (0, 1, 2, 4):
        assert got.per_class[index] == pytest.approx(average_precision(labels[:, index], scores[:, index]))
    assert got.per_class[3] is None
    assert got.macro_map == pytest.approx(np.mean([v for v in got.per_class if v is not None]))
    assert got.micro_map == pytest.approx(average_precision(labels.ravel(), scores.ravel()))


def test_standardized_features_have_no_mean_and_unit_variance_on_train() -> None:
    train, _ = blobs(200, 3, 5, seed=1)
    test, _ = blobs(50, 3, 5, seed=2)
    train[:, 2] = test[:, 2] = 7.5
    x, z = probes.standardize(train, test)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), [1, 1, 0, 1, 1], atol=1e-5)
    np.testing.assert_allclose(z[:, 0], (test[:, 0] - train[:, 0].mean()) / train[:, 0].std(), rtol=1e-4, atol=1e-5)
    assert x.dtype == z.dtype == np.float32
