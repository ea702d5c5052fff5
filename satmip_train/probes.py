"""Probes: classifiers of frozen features, as pure functions of feature matrices (paper, section 4.2 and supplement C)."""

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

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
MultiHot = npt.NDArray[np.uint8]
"""(N, classes), 1 for each class of a sample."""

_SIMILARITIES = 1 << 25
"""Similarities held at a time; the search needs about 30 bytes for each."""


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
    """Score a multi-label set by average precision. Shape: labels, scores (N, classes); one label at least is 1."""
    present = np.flatnonzero(labels.any(0))
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

    Works through the test vectors in chunks, so memory stays bounded by the train features and about 1 GB. A vector of
    zeros has similarity 0 with all.
    Shape: train (N, D), test (M, D) -> indices (M, k), similarities (M, k).

    Raises:
        ValueError: k is not in 1..N, or a feature is not finite.
    """
    if not 1 <= k <= len(train):
        raise ValueError(f"k must be in 1..{len(train)}, the number of train features, however: {k=}")
    bank, queries = _unit(train, "train", device), _unit(test, "test", device)
    reverse = torch.arange(len(bank) - 1, -1, -1, device=bank.device)
    step = max(1, _SIMILARITIES // len(bank))
    parts = [_nearest(queries[start : start + step] @ bank.mT, reverse, k) for start in range(0, len(queries), step)]
    indices = torch.cat([index for index, _ in parts]) if parts else torch.empty(0, k, dtype=torch.int64)
    similarities = torch.cat([similarity for _, similarity in parts]) if parts else torch.empty(0, k)
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
        ValueError: a k is not in 1..N, or a feature is not finite.
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
        ValueError: a k is not in 1..N, or a feature is not finite.
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
    """Fit multinomial logistic regression without regularisation by L-BFGS and predict (supplement C).

    A fit that stops after 200 iterations may not have converged, so all that its answer depends on is fixed here: zero start, mean
    loss, float64, features as they are. It is scikit-learn's LogisticRegression(C=inf), iterate for iterate.
    Shape: train (N, D), train_labels (N,), test (M, D).

    Raises:
        ValueError: there are fewer than two classes among the train labels, or a feature is not finite.
    """
    present, targets = np.unique(train_labels, return_inverse=True)
    if len(present) < 2:
        raise ValueError(f"a linear probe needs two classes among the train labels, however: {present=}")
    x, y = _finite(train, "train", device).double(), torch.from_numpy(targets).to(device)
    # Two classes have one column, for the second class: that is binary logistic regression.
    weights, fit = _fit(x, y, len(present) if len(present) > 2 else 1, max_iterations, tolerance)
    logits = _logits(_finite(test, "test", device).double(), weights)
    return LinearFit(present[logits.cpu().numpy().argmax(1)], int(fit.nit), float(np.abs(fit.jac).max()), float(fit.fun))


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
        ValueError: no class divides the train samples, or a feature is not finite.
    """
    counts = train_labels.sum(0, dtype=np.int64)
    divide = np.flatnonzero((counts > 0) & (counts < len(train_labels)))
    if not len(divide):
        raise ValueError(f"a linear probe needs a class that some train samples have and some not, however: {counts=}")
    x, z = _finite(train, "train", device).double(), _finite(test, "test", device).double()
    scores, fits = np.zeros((len(test), train_labels.shape[1])), []
    for index in divide:
        y = torch.from_numpy(train_labels[:, index].astype(np.int64)).to(device)
        weights, fit = _fit(x, y, 1, max_iterations, tolerance)
        scores[:, index] = _logits(z, weights)[:, 1].cpu().numpy()
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
    """Minimise the mean cross-entropy. Shape: x (N, D) float64, y (N,) -> weights (D + 1, columns), and scipy's account."""

    def loss_and_gradient(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights = torch.tensor(flat, device=x.device, requires_grad=True)
        loss = F.cross_entropy(_logits(x, weights.view(-1, columns)), y)
        (gradient,) = torch.autograd.grad(loss, weights)
        return loss.item(), gradient.cpu().numpy()

    fit = scipy.optimize.minimize(
        loss_and_gradient,
        np.zeros((x.shape[1] + 1) * columns),
        method="L-BFGS-B",
        jac=True,
        options={"maxiter": max_iterations, "maxls": 50, "gtol": tolerance, "ftol": 64 * np.finfo(np.float64).eps},
    )
    return torch.from_numpy(fit.x).to(x.device).view(-1, columns), fit


def _finite(features: Features, name: str, device: torch.device | str) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)).to(device)
    if not (finite := x.isfinite().all(1)).all():
        raise ValueError(f"{name} features must be finite, however: {int((~finite).sum())} of {len(x)} are not")
    return x


def _unit(features: Features, name: str, device: torch.device | str) -> Tensor:
    return F.normalize(_finite(features, name, device), dim=1)


def _nearest(similarity: Tensor, reverse: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values of the k largest of each row, on the CPU; of equal ones the lower index comes first.

    `topk` promises no order among equal values. Therefore it gets integers that rise with the similarity first and fall with the
    index second: the bits of a float, made monotone, in the upper half, the index from the end in the lower half.
    Shape: similarity (M, N) float32; reverse (N,): N - 1 down to 0 -> (M, k), (M, k).
    """
    bits = (similarity + 0.0).view(torch.int32)  # the sum turns -0.0 into 0.0
    keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64).bitwise_left_shift_(32).bitwise_or_(reverse)
    indices = len(reverse) - 1 - (keys.topk(k, dim=1).values & 0xFFFFFFFF)
    return indices.cpu(), similarity.gather(1, indices).cpu()


def _logits(x: Tensor, weights: Tensor) -> Tensor:
    """Shape: x (N, D), weights (D + 1, C), the last row being the bias -> (N, C); a single column becomes the second of two."""
    logits = torch.addmm(weights[-1], x, weights[:-1])
    return F.pad(logits, (1, 0)) if weights.shape[1] == 1 else logits
