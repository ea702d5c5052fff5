"""Probes against plain loops and scikit-learn."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from satmip_train.errors import UsageError
from satmip_train.evaluation import probes


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


@contextmanager
def parts_of(**sizes: Any) -> Iterator[None]:
    """Work in smaller parts, so that few vectors are several of them."""
    before = {name: getattr(probes, name) for name in sizes}
    try:
        for name, size in sizes.items():
            setattr(probes, name, size)
        yield
    finally:
        for name, size in before.items():
            setattr(probes, name, size)


SPANS = [(64, 64), (64, 128), (128, 512), (1 << 11, 1 << 17)]
"""Sizes of block and span."""


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 200),
    n=st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 128, 300])),
    queries=st.sampled_from([1, 4, 256]),
    sizes=st.sampled_from(SPANS),
)
def test_equal_neighbours_come_in_the_order_of_their_index(seed: int, k: int, n: int, queries: int, sizes: tuple[int, int]) -> None:
    rng, k = np.random.default_rng(seed), min(k, n)
    # Along the axes all similarities are -1, 0 or 1, so most are equal.
    axes = np.concatenate([np.eye(3), -np.eye(3), np.zeros((1, 3))]).astype(np.float32)
    train, test = axes[rng.integers(0, 7, n)], axes[rng.integers(0, 7, 9)]
    with parts_of(_BLOCK=sizes[0], _SPAN=sizes[1], _QUERIES=queries):
        indices, similarities = probes.neighbours(train, test, k)
    expected = test @ train.T
    for row in range(9):
        order = sorted(range(n), key=lambda i: (-expected[row, i], i))[:k]
        assert indices[row].tolist() == order
        assert similarities[row].tolist() == expected[row, order].tolist()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 500),
    copies=st.integers(1, 60),
    width=st.sampled_from([1, 3, 17, 64, 100]),
    queries=st.sampled_from([1, 5, 256]),
    sizes=st.sampled_from(SPANS),
)
def test_equal_vectors_have_equal_similarities_wherever_they_lie(
    seed: int, n: int, copies: int, width: int, queries: int, sizes: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    distinct = rng.normal(size=(1 + n // copies, width)).astype(np.float32)
    which = rng.integers(0, len(distinct), n)
    train, test = distinct[which], rng.normal(size=(7, width)).astype(np.float32)
    with parts_of(_BLOCK=sizes[0], _SPAN=sizes[1], _QUERIES=queries):
        indices, similarities = probes.neighbours(train, test, n)
        first = {k: probes.neighbours(train, test, k) for k in {1, (n + 1) // 2}}
    unit, unit_test = (v.astype(float) / np.linalg.norm(v.astype(float), axis=1, keepdims=True) for v in (train, test))
    for row in range(7):
        of = dict(zip(indices[row].tolist(), similarities[row].tolist(), strict=True))
        assert indices[row].tolist() == sorted(range(n), key=lambda i: (-of[i], i))
        assert len(set(zip(which.tolist(), [of[i] for i in range(n)], strict=True))) == len(set(which.tolist()))
        np.testing.assert_allclose([of[i] for i in range(n)], unit @ unit_test[row], atol=1e-6)
    for k, (some, values) in first.items():
        assert np.array_equal(some, indices[:, :k])
        assert np.array_equal(values, similarities[:, :k])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("queries", [1, 3, 70, 300])
def test_one_vector_many_times_is_found_from_the_start(threads: int, queries: int) -> None:
    rng, before = np.random.default_rng(queries), torch.get_num_threads()
    train = np.repeat(rng.normal(size=(1, 384)), 4 * probes._BLOCK + 5, axis=0).astype(np.float32)
    try:
        torch.set_num_threads(threads)
        indices, similarities = probes.neighbours(train, rng.normal(size=(queries, 384)).astype(np.float32), 120)
    finally:
        torch.set_num_threads(before)
    assert (indices == np.arange(120)).all()
    assert (similarities == similarities[:, :1]).all()


def test_keys_order_all_floats_and_give_them_back() -> None:
    values = torch.tensor([0.5, -0.0, 0.0, -1e-30, 1e-30, -1.0, 1.0, 0.5, -torch.inf])
    indices, got = probes._unpacked(probes._keys(values, torch.arange(9)).sort(descending=True).values)
    assert indices.tolist() == [6, 0, 7, 4, 1, 2, 3, 5, 8]
    assert torch.equal(got, values[indices])


def test_no_test_vectors_have_no_neighbours() -> None:
    train, _ = blobs(60, 3, 5, seed=6)
    indices, similarities = probes.neighbours(train, train[:0], 4)
    assert indices.shape == similarities.shape == (0, 4)


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
    with pytest.raises(ValueError, match=r"1\.\.60"):
        probes.knn(train, labels, train, [k], classes=3)


def test_features_that_are_not_finite_are_refused() -> None:
    train, labels = blobs(60, 3, 5, seed=6)
    test = train.copy()
    test[3, 2] = np.nan
    with pytest.raises(ValueError, match="1 of 60 test features"):
        probes.knn(train, labels, test, [1], classes=3)
    with pytest.raises(ValueError, match="test features hold values that are not finite"):
        probes.linear(train, labels, test)
    test[9], test[3, 2], test[4, :2] = 3e38, 0, (np.inf, -np.inf)  # the first is finite, though its sum is not
    with pytest.raises(ValueError, match="1 of 60 test features"):
        probes.knn(train, labels, test, [1], classes=3)


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


@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("rows", [1, 7, 50, 1024])
def test_cross_entropy_and_its_gradient_are_autograds(columns: int, rows: int) -> None:
    train, labels = blobs(50, max(columns, 2), 6, seed=8)
    # Logits of hundreds: probabilities are 0 and 1 to the last bit.
    for scale in (0.1, 300.0):
        start = scale * np.random.default_rng(0).normal(size=(columns, 7))
        weights = torch.tensor(start, requires_grad=True)
        x, y = torch.from_numpy(train).double(), torch.from_numpy(labels)
        logits = x @ weights[:, :-1].mT + weights[:, -1]
        logits = torch.cat([torch.zeros(50, 1), logits], 1) if columns == 1 else logits
        expected = torch.nn.functional.cross_entropy(logits, y)
        expected.backward()
        with parts_of(_ROWS={"cpu": rows}):
            loss, gradient = probes._cross_entropy(torch.from_numpy(train), y, torch.from_numpy(start))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        torch.testing.assert_close(gradient, weights.grad, rtol=1e-12, atol=1e-13 * scale)


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
    alone = [probes.linear_multilabel(train, labels[:, index : index + 1], test).gradient_norm for index in range(3)]
    assert got.gradient_norm == pytest.approx(max(alone))
    for index in range(3):
        model = LogisticRegression(C=np.inf, max_iter=200).fit(train.astype(np.float64), labels[:, index])
        np.testing.assert_allclose(got.scores[:, index], model.decision_function(test.astype(np.float64)), rtol=1e-6, atol=1e-8)
        iterations.append(int(model.n_iter_[0]))
        chosen = model.predict_proba(train.astype(np.float64))[np.arange(300), labels[:, index]]
        losses.append(-np.log(chosen).mean())
    assert got.iterations == max(iterations)
    assert got.loss == pytest.approx(np.mean(losses), rel=1e-8)
    assert not got.scores[:, 3:].any()
    with pytest.raises(ValueError, match="some train samples have and some have not"):
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


def test_without_a_class_among_the_test_samples_there_is_no_average_precision() -> None:
    with pytest.raises(UsageError, match=r"None of 5 test samples has a class.*--test-split"):
        probes.score_multilabel(np.zeros((5, 3), np.uint8), np.zeros((5, 3)))
