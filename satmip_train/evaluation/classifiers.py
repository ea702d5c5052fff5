"""The paper's two probes as values: from frozen features of two splits to a result (supplements C and D)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from satmip_data.names import counted
from satmip_train.evaluation import probes
from satmip_train.evaluation.features import Features
from satmip_train.evaluation.tables import Result
from satmip_train.evaluation_sets import set_named


@dataclass(frozen=True)
class Knn:
    """The kNN probe: a weighted vote for several k."""

    ks: tuple[int, ...] = (1, 5, 20, 100)
    fixed_k: int = 5
    temperature: float = 0.07

    def fit_to(self, samples: int) -> tuple["Knn", tuple[str, ...]]:
        """Return the probe with no k above the samples to learn from, and notes of what changed."""
        ks = tuple(dict.fromkeys(min(k, samples) for k in self.ks))
        fixed = min(self.fixed_k, samples)
        if (ks, fixed) == (self.ks, self.fixed_k):
            return self, ()
        largest = max(*self.ks, self.fixed_k)
        note = f"k={largest} was asked for; the train split has {counted(samples, 'sample')}, so k={samples}."
        return replace(self, ks=ks, fixed_k=fixed), (note,) if largest > samples else ()

    def __call__(self, train: Features, test: Features, classes: Sequence[str], device: str) -> Result:
        """Return the metrics at the fixed k, and those at the best k of each, chosen on the test split as the paper does."""
        ks = sorted({*self.ks, self.fixed_k})
        scored = self._scores(train, test, ks, len(classes), device)
        metrics, details = described(scored[self.fixed_k], classes)
        by_k = {k: described(scored[k], classes)[0] for k in ks}
        # `max` takes the first of equals: the smallest k.
        best = {metric: max(ks, key=lambda k, metric=metric: by_k[k][metric]) for metric in metrics}  # type: ignore[misc]
        return {
            "metrics": {**metrics, **{f"best_{metric}": by_k[k][metric] for metric, k in best.items()}},
            "best_k": best,
            "by_k": {str(k): by_k[k] for k in ks},
            **details,
        }

    def _scores(
        self, train: Features, test: Features, ks: list[int], classes: int, device: str
    ) -> dict[int, probes.Scores | probes.MultiLabelScores]:
        if train.labels.ndim == 2:
            votes = probes.knn_multilabel(
                train.vectors, train.labels, test.vectors, ks, temperature=self.temperature, device=device
            )
            return {k: probes.score_multilabel(test.labels, votes[k]) for k in ks}
        predictions = probes.knn(
            train.vectors, train.labels, test.vectors, ks, classes=classes, temperature=self.temperature, device=device
        )
        return {k: probes.score(test.labels, predictions[k], classes) for k in ks}


@dataclass(frozen=True)
class Linear:
    """The linear probe: logistic regression without regularisation, at most so many iterations of L-BFGS."""

    max_iterations: int = 200
    tolerance: float = 1e-4
    standardize: bool = False
    """Bring features to zero mean and unit variance on the train split first, as the paper does with both modalities."""

    def fit_to(self, samples: int) -> tuple["Linear", tuple[str, ...]]:
        """Return the probe itself: any number of samples will do."""
        return self, ()

    def __call__(self, train: Features, test: Features, classes: Sequence[str], device: str) -> Result:
        """Return the metrics and how the fit ended."""
        vectors = (train.vectors, test.vectors)
        x, z = probes.standardize(*vectors) if self.standardize else vectors
        options: dict[str, Any] = {"max_iterations": self.max_iterations, "tolerance": self.tolerance, "device": device}
        scored: probes.Scores | probes.MultiLabelScores
        fit: probes.LinearFit | probes.MultiLabelFit
        if train.labels.ndim == 2:
            fit = probes.linear_multilabel(x, train.labels, z, **options)
            scored = probes.score_multilabel(test.labels, fit.scores)
        else:
            fit = probes.linear(x, train.labels, z, **options)
            scored = probes.score(test.labels, fit.predictions, len(classes))
        metrics, details = described(scored, classes)
        return {
            "metrics": metrics,
            "iterations": fit.iterations,
            "gradient_norm": fit.gradient_norm,
            "train_loss": fit.loss,
            **details,
        }


Probe = Knn | Linear


def primary_metric(source: str, labels: npt.NDArray[np.generic]) -> str:
    """Return the metric that the paper prints for a data set: top-1 accuracy where it has none of that name.

    NOTE[DIFF] The paper has no multi-label set; there it is mean average precision, the mean over classes.
    """
    if labels.ndim == 2:
        return "macro_map"
    known = set_named(source)
    return "top1" if known is None else known.metric


def described(scores: probes.Scores | probes.MultiLabelScores, classes: Sequence[str]) -> tuple[dict[str, float], Result]:
    """Return metrics by name, and the values of single classes."""
    per_class = dict(zip(classes, scores.per_class, strict=True))
    if isinstance(scores, probes.Scores):
        return {"macro_f1": scores.macro_f1, "top1": scores.top1}, {"f1_per_class": per_class}
    return {"macro_map": scores.macro_map, "micro_map": scores.micro_map}, {"ap_per_class": per_class}
