"""Probes: classifiers of frozen features, as pure functions of feature matrices (paper, section 4.2, supplements C and D)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize
import torch
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from satmip_data.names import counted
from satmip_train.errors import UsageError

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
MultiHot = npt.NDArray[np.uint8]
"""(N, classes), 1 for each class of a sample."""

_BLOCK = 1 << 11
"""Train vectors in one matrix product. A multiple of 64: in the last few columns of other products, and only there, BLAS may add
in another order, so that equal vectors would differ in their similarities."""
_SPAN = 1 << 17
"""Train vectors whose similarities are held at a time."""
_QUERIES = 1 << 8
"""Test vectors searched for at a time: with the span 128 MB of similarities."""
_GROUP, _SUBGROUP = 64, 8
"""Neighbouring similarities of which the greatest is looked at first."""
_ROWS = {"cpu": 1 << 10}
"""Train vectors of the linear probe worked on at a time: few on a CPU, so that they stay in cache, else 65,536."""


@dataclass(frozen=True)
class Scores:
    """How good predictions are; all values are in 0..1."""

    macro_f1: float
    """Mean F1 over the classes that occur among the labels or the predictions."""
    top1: float
    per_class: tuple[float | None, ...]
    """F1 of each class; None where it occurs neither among the labels nor among the predictions."""


@dataclass(frozen=True)
class MultiLabelScores:
    """How good the scores of a multi-label set are: average precisions, in 0..1."""

    macro_map: float
    """Mean average precision: the mean over the classes that a test sample has."""
    micro_map: float
    """Average precision of all pairs of a sample and a class as one ranking."""
    per_class: tuple[float | None, ...]
    """Average precision of each class; None where no test sample has it."""


@dataclass(frozen=True)
class LinearFit:
    """Predictions of a linear probe and how its fit ended."""

    predictions: Labels
    iterations: int
    gradient_norm: float
    """Largest absolute entry of the last gradient; the fit has converged where it is at most `tolerance`."""
    loss: float
    """Mean cross-entropy on the train features, in nats."""


@dataclass(frozen=True)
class MultiLabelFit:
    """Scores of one logistic regression a class, and how their fits ended."""

    scores: npt.NDArray[np.float64]
    """(M, classes), the logits; 0 for a class that all train samples have, or none."""
    iterations: int
    """Of the class that took most."""
    gradient_norm: float
    """Of the class that is farthest from converged."""
    loss: float
    """Mean over the fitted classes of the cross-entropy on the train features, in nats."""


def score(labels: Labels, predictions: Labels, classes: int) -> Scores:
    """Score predictions by macro-F1 and top-1 accuracy. Shape: labels, predictions (N,)."""
    present = np.union1d(labels, predictions)
    f1 = f1_score(labels, predictions, labels=present, average=None, zero_division=0.0)
    per_class: list[float | None] = [None] * classes
    for index, value in zip(present, f1, strict=True):
        per_class[index] = float(value)
    return Scores(float(np.mean(f1)), float(accuracy_score(labels, predictions)), tuple(per_class))


def score_multilabel(labels: MultiHot, scores: npt.NDArray[np.float64]) -> MultiLabelScores:
    """Score a multi-label set by average precision; UsageError where no sample has a class. Shape: labels, scores (N, classes)."""
    present = np.flatnonzero(labels.any(0))
    if not len(present):
        raise UsageError(f"None of {counted(len(labels), 'test sample')} has a class. Use another --test-split")
    found = average_precision_score(labels[:, present], scores[:, present], average=None)
    per_class: list[float | None] = [None] * labels.shape[1]
    for index, value in zip(present, np.atleast_1d(found), strict=True):
        per_class[index] = float(value)
    micro = average_precision_score(labels.ravel(), scores.ravel())
    return MultiLabelScores(float(np.mean(found)), float(micro), tuple(per_class))


def neighbours(
    train: Features, test: Features, k: int, device: torch.device | str = "cpu"
) -> tuple[Labels, npt.NDArray[np.float32]]:
    """Return the k nearest train vectors by cosine similarity, nearest first; of equal ones the lower index comes first.

    Equal train vectors have equal similarities. A vector of zeros has similarity 0 with all. Memory: a copy of the features, about
    300 MB for any number of train vectors, and for a k of hundreds about 30 bytes a neighbour.
    Shape: train (N, D), test (M, D) -> indices (M, k), similarities (M, k).

    Raises:
        ValueError: k is not in 1..N, or (a UsageError) a feature is not finite.
    """
    if not 1 <= k <= len(train):
        raise ValueError(f"k is {k}, and must lie in 1..{len(train)}, the number of train features")
    x, queries = _finite(train, "train", device), _finite(test, "test", device)
    blocks = [*torch.split(x, _BLOCK)]
    blocks[-1] = F.pad(blocks[-1], (0, 0, 0, _BLOCK - len(blocks[-1])))
    bank = [_factor(F.normalize(block, dim=1)) for block in blocks]
    held = x.new_empty(_QUERIES, min(len(bank) * _BLOCK, _SPAN))
    found = [torch.empty(0, k, dtype=torch.int64, device=x.device)]
    for start in range(0, len(queries), _QUERIES):
        found.append(_search(F.normalize(queries[start : start + _QUERIES], dim=1), bank, len(x), held, k))
    indices, similarities = _unpacked(torch.cat(found).cpu())
    return indices.numpy(), similarities.numpy()


def knn(
    train: Features,
    train_labels: Labels,
    test: Features,
    ks: Sequence[int],
    *,
    classes: int,
    temperature: float = 0.07,
    device: torch.device | str = "cpu",
) -> dict[int, Labels]:
    """Predict classes by a vote of the k nearest train vectors, each with weight exp(cosine similarity / temperature).

    The paper says "weighted vote" and leaves the temperature open; 0.07 is the value of the works it cites. Of classes with the
    same vote the lower one wins.
    Shape: train (N, D), train_labels (N,) in 0..classes - 1, test (M, D) -> for each k: (M,).

    Raises:
        ValueError: a k is not in 1..N, or (a UsageError) a feature is not finite.
    """
    indices, weights = _weighted_neighbours(train, test, max(ks), temperature, device)
    votes = np.zeros((len(test), classes))
    rows, predictions = np.arange(len(test)), {}
    for rank in range(max(ks)):
        votes[rows, train_labels[indices[:, rank]]] += weights[:, rank]
        if rank + 1 in ks:
            predictions[rank + 1] = votes.argmax(1)
    return {k: predictions[k] for k in ks}


def knn_multilabel(
    train: Features,
    train_labels: MultiHot,
    test: Features,
    ks: Sequence[int],
    *,
    temperature: float = 0.07,
    device: torch.device | str = "cpu",
) -> dict[int, npt.NDArray[np.float64]]:
    """Score each class by the share of the vote that it gets from the k nearest train vectors, weighted as in `knn`.

    NOTE[DIFF] The paper has no multi-label set; this is its vote, one class at a time.
    Shape: train (N, D), train_labels (N, classes), test (M, D) -> for each k: (M, classes) in 0..1.

    Raises:
        ValueError: a k is not in 1..N, or (a UsageError) a feature is not finite.
    """
    indices, weights = _weighted_neighbours(train, test, max(ks), temperature, device)
    votes, total, scores = np.zeros((len(test), train_labels.shape[1])), np.zeros((len(test), 1)), {}
    for rank in range(max(ks)):
        votes += weights[:, rank, None] * train_labels[indices[:, rank]]
        total += weights[:, rank, None]
        if rank + 1 in ks:
            scores[rank + 1] = votes / total
    return {k: scores[k] for k in ks}


def _weighted_neighbours(
    train: Features, test: Features, k: int, temperature: float, device: torch.device | str
) -> tuple[Labels, npt.NDArray[np.float64]]:
    """Return the k nearest and their weights exp(similarity / temperature), relative to the nearest. Shape: both (M, k)."""
    indices, similarities = neighbours(train, test, k, device)
    # Relative to the nearest neighbour the largest weight is 1, so that no temperature overflows.
    return indices, np.exp((similarities - similarities[:, :1]).astype(np.float64) / temperature)


def linear(
    train: Features,
    train_labels: Labels,
    test: Features,
    *,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    device: torch.device | str = "cpu",
) -> LinearFit:
    """Fit multinomial logistic regression without regularisation by L-BFGS and predict (supplement D).

    A fit that stops after 200 iterations may not have converged, so all that its answer depends on is fixed here: zero start, mean
    loss, float64, features as they are. It is scikit-learn's LogisticRegression(C=inf), iterate for iterate.
    Shape: train (N, D), train_labels (N,), test (M, D).

    Raises:
        UsageError: there are fewer than two classes among the train labels, or a feature is not finite.
    """
    present, targets = np.unique(train_labels, return_inverse=True)
    if len(present) < 2:
        raise UsageError(f"A linear probe needs two classes to learn from, and there is {len(present)}. Use another --train-split")
    x, y = _finite(train, "train", device), torch.from_numpy(targets).to(device)
    # Two classes have one column, for the second class: that is binary logistic regression.
    weights, fit = _fit(x, y, len(present) if len(present) > 2 else 1, max_iterations, tolerance)
    logits = _all_logits(_finite(test, "test", device), weights)
    return LinearFit(present[logits.argmax(0)], int(fit.nit), float(np.abs(fit.jac).max()), float(fit.fun))


def linear_multilabel(
    train: Features,
    train_labels: MultiHot,
    test: Features,
    *,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    device: torch.device | str = "cpu",
) -> MultiLabelFit:
    """Fit one binary logistic regression a class, independent of each other, each as in `linear`.

    NOTE[DIFF] The paper has no multi-label set; this is its linear probe, one class at a time.
    Shape: train (N, D), train_labels (N, classes), test (M, D).

    Raises:
        UsageError: no class divides the train samples, or a feature is not finite.
    """
    counts = train_labels.sum(0, dtype=np.int64)
    divide = np.flatnonzero((counts > 0) & (counts < len(train_labels)))
    if not len(divide):
        raise UsageError("No class is one that some train samples have and some have not. Use another --train-split")
    x, z = _finite(train, "train", device), _finite(test, "test", device)
    scores, fits = np.zeros((len(test), train_labels.shape[1])), []
    for index in divide:
        y = torch.from_numpy(train_labels[:, index].astype(np.int64)).to(device)
        weights, fit = _fit(x, y, 1, max_iterations, tolerance)
        scores[:, index] = _all_logits(z, weights)[1]
        fits.append(fit)
    gradient = max(float(np.abs(fit.jac).max()) for fit in fits)
    return MultiLabelFit(scores, max(int(fit.nit) for fit in fits), gradient, float(np.mean([fit.fun for fit in fits])))


def standardize(train: Features, test: Features) -> tuple[Features, Features]:
    """Bring each feature to zero mean and unit variance on the train vectors (supplement D); a constant one becomes 0.

    Shape: train (N, D), test (M, D) -> the same.
    """
    scaler = StandardScaler().fit(train.astype(np.float64))
    return scaler.transform(train).astype(np.float32), scaler.transform(test).astype(np.float32)


def _fit(x: Tensor, y: Tensor, columns: int, max_iterations: int, tolerance: float) -> tuple[Tensor, Any]:
    """Minimise the mean cross-entropy. Shape: x (N, D), y (N,) -> weights (columns, D + 1) in float64, and scipy's account."""

    def loss_and_gradient(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        loss, gradient = _cross_entropy(x, y, torch.tensor(flat, device=x.device).view(columns, -1))
        return loss.item(), gradient.flatten().cpu().numpy()

    fit = scipy.optimize.minimize(
        loss_and_gradient,
        np.zeros((x.shape[1] + 1) * columns),
        method="L-BFGS-B",
        jac=True,
        options={"maxiter": max_iterations, "maxls": 50, "gtol": tolerance, "ftol": 64 * np.finfo(np.float64).eps},
    )
    return torch.from_numpy(fit.x).to(x.device).view(columns, -1), fit


def _cross_entropy(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy and its gradient, (softmax - one-hot) times the features, both in float64.

    The rows are worked on in parts that stay in cache for both matrix products, and only a part is in float64 at a time. Classes
    come first, since BLAS is faster with the long side last.
    Shape: x (N, D), y (N,), weights (C, D + 1) -> (), (C, D + 1).
    """
    loss, gradient = weights.new_zeros(()), torch.zeros_like(weights)
    for part, targets in zip(_parts(x), _parts(y), strict=True):
        features, rows = part.double(), targets.unsqueeze(0)
        logits = _logits(features, weights)
        logits -= logits.amax(0)
        loss -= logits.gather(0, rows).sum()
        total = logits.exp_().sum(0)
        loss += total.log().sum()
        residual = logits.div_(total).scatter_add_(0, rows, -torch.ones_like(total).unsqueeze(0))[-len(weights) :]
        gradient[:, :-1].addmm_(residual, features)
        gradient[:, -1] += residual.sum(1)
    return loss / len(x), gradient / len(x)


def _logits(x: Tensor, weights: Tensor) -> Tensor:
    """Shape: x (N, D), weights (C, D + 1), bias last -> (C, N); a single class becomes the second of two."""
    logits = torch.addmm(weights[:, -1:], weights[:, :-1], x.mT)
    return F.pad(logits, (0, 0, 1, 0)) if len(weights) == 1 else logits


def _all_logits(x: Tensor, weights: Tensor) -> npt.NDArray[np.float64]:
    return torch.cat([_logits(part.double(), weights) for part in _parts(x)], 1).cpu().numpy()


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, _ROWS.get(x.device.type, 1 << 16))


def _finite(features: Features, name: str, device: torch.device | str) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)).to(device)
    unsure = x.sum(1).isfinite().logical_not()  # a quick look: the sum of a row with such a value is not finite either
    if bad := int(x[unsure].isfinite().all(1).logical_not().sum()):
        raise UsageError(
            f"{bad:,} of {counted(len(x), f'{name} feature')} hold values that are not finite. Use --precision fp32 or another run"
        )
    return x


def _factor(x: Tensor) -> Tensor:
    """Return the same in the layout of oneDNN on a CPU, as its products are up to twice as fast there as those of BLAS."""
    return x.to_mkldnn() if x.device.type == "cpu" and torch.backends.mkldnn.is_available() else x  # type: ignore[no-untyped-call]


def _search(queries: Tensor, bank: Sequence[Tensor], size: int, held: Tensor, k: int) -> Tensor:
    """Return the k nearest of each query as keys, greatest first.

    Shape: queries (M, D); bank: blocks (_BLOCK, D) of `_factor`, `size` rows in all being vectors; held: room for (>= M, >= span)
    similarities -> (M, k).
    """
    best = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    factor, blocks = _factor(queries), held.shape[1] // _BLOCK
    for first in range(0, len(bank), blocks):
        maxima = []
        for place, block in enumerate(bank[first : first + blocks]):
            product = F.linear(factor, block)
            similarity = product.to_dense() if product.is_mkldnn else product
            similarity[:, size - (first + place) * _BLOCK :] = -torch.inf  # what fills up the last block
            maxima.append(similarity.view(len(queries), -1, _GROUP).amax(2))
            held[: len(queries), place * _BLOCK : (place + 1) * _BLOCK] = similarity
        found = _nearest(held[: len(queries)], torch.cat(maxima, 1), first * _BLOCK, k)
        best = torch.cat([best, found], 1)
        best = best.topk(min(k, best.shape[1]), dim=1).values
    return best


def _nearest(similarity: Tensor, maxima: Tensor, start: int, k: int) -> Tensor:
    """Return keys of some similarities, the k nearest of each row among them, in any order.

    If a similarity is in none of the k groups with the greatest maxima, then each of those has a nearer one: a greater one, or an
    equal one of a lower index where the maxima are equal, as the group's indices are all lower. Few groups have to be looked into.
    Shape: similarity (M, >= groups * _GROUP), its first column being train vector `start`; maxima (M, groups) -> (M, some).
    """
    count, device = maxima.shape[1] * _GROUP, maxima.device
    firsts = torch.arange(start, start + count, _GROUP, device=device).expand(len(maxima), -1)
    values, firsts = _greatest_groups(similarity.view(len(maxima), -1, _GROUP), maxima, firsts, k)
    values = values.reshape(len(maxima), -1, _SUBGROUP)
    firsts = (firsts.unsqueeze(2) + torch.arange(0, _GROUP, _SUBGROUP, device=device)).flatten(1)
    values, firsts = _greatest_groups(values, values.amax(2), firsts, k)
    return _keys(values, firsts.unsqueeze(2) + torch.arange(_SUBGROUP, device=device)).flatten(1)


def _greatest_groups(values: Tensor, maxima: Tensor, firsts: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k groups with the greatest maxima, of equal ones those of lower index, and their first indices.

    Shape: values (M, >= groups, width); maxima, firsts (M, groups) -> (M, k, width), (M, k).
    """
    chosen = _keys(maxima, firsts).topk(min(k, maxima.shape[1]), dim=1, sorted=False).indices
    rows = torch.arange(len(values), device=values.device).unsqueeze(1) * values.shape[1]
    greatest = values.flatten(0, 1).index_select(0, (rows + chosen).flatten())  # five times as fast as indexing by pairs
    return greatest.view(*chosen.shape, -1), firsts.gather(1, chosen)


def _keys(similarity: Tensor, index: Tensor) -> Tensor:
    """Return integers that rise with the similarity first and fall with the index second, as `topk` promises no order among equals.

    The bits of a float, made monotone, are the upper half, the index from the end the lower half.
    """
    bits = (similarity + 0.0).view(torch.int32)  # the sum turns -0.0 into 0.0
    upper = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64).bitwise_left_shift_(32)
    return upper.bitwise_or_(0x7FFFFFFF - index)


def _unpacked(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index and the similarity of each of the keys."""
    bits = keys.bitwise_right_shift(32).to(torch.int32)
    return 0x7FFFFFFF - (keys & 0xFFFFFFFF), torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)
