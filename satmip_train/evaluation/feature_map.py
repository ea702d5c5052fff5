"""Features of pictures in the two dimensions in which they differ most, coloured by what is known of the pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from satmip_data.pages.charts import Scatter, scatter
from satmip_train.evaluation.retrieval import Physical

_POINTS = 1500
"""Drawn, at most."""
_CLASSES = 6
"""With a colour of their own, at most; the others are grey."""
_LEVELS = 5
_SEASONS = ("January to March", "April to June", "July to September", "October to December")

Numbers = npt.NDArray[np.float64]
Groups = list[tuple[str, str, Sequence[int]]]


@dataclass(frozen=True)
class FeatureMap:
    """One map, drawn once for each thing that colours it."""

    charts: tuple[Scatter, ...]
    points: int
    explained: tuple[float, float]
    """Share of the variance of the features along each of the two axes."""


def map_features(
    vectors: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], classes: Sequence[str], physical: Physical, seed: int = 0
) -> FeatureMap:
    """Return the first two principal components of normalized features, of some pictures drawn at random.

    Args:
        vectors: features, (N, D).
        labels: class of each picture, (N,).
        classes: their names.
        physical: what the pictures are in the world, each (N,).
        seed: of the draw.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:_POINTS])
    chosen = vectors[rows].astype(np.float64)
    chosen /= np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
    axes, values, _ = np.linalg.svd(chosen - chosen.mean(axis=0), full_matrices=False)
    places, shares = np.zeros((len(rows), 2)), np.zeros(2)
    count = min(2, len(values))
    places[:, :count] = (axes * values)[:, :count]
    shares[:count] = values[:count] ** 2 / max(float(values @ values), 1e-30)
    points = [(float(x), float(y)) for x, y in places]
    colours = (
        ("class", _by_class(labels[rows], classes)),
        ("GSD, m", _by_level(physical.gsd[rows])),
        ("latitude, degrees", _by_level(physical.latitude[rows])),
        ("season", _by_season(physical.day[rows])),
    )
    charts = tuple(scatter(f"By {name}", points, groups) for name, groups in colours if len(groups) > 1)
    return FeatureMap(charts, len(rows), (float(shares[0]), float(shares[1])))


def _by_class(labels: npt.NDArray[np.int64], classes: Sequence[str]) -> Groups:
    """Return the pictures of the most frequent classes, and last those of all others, which are drawn first."""
    order = np.argsort(-np.bincount(labels, minlength=len(classes)), kind="stable")[:_CLASSES]
    groups = [(classes[number], f"c{place}", np.flatnonzero(labels == number).tolist()) for place, number in enumerate(order)]
    others = np.flatnonzero(~np.isin(labels, order)).tolist()
    return _present([("other classes", "none", others), *groups])


def _by_level(values: Numbers) -> Groups:
    """Return the pictures in five equally large groups from the smallest to the largest value."""
    known = np.isfinite(values)
    if not known.any():
        return []
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, _LEVELS + 1)))
    level = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    groups = [
        (f"{low:.3g} to {high:.3g}", f"q{number}", np.flatnonzero(known & (level == number)).tolist())
        for number, (low, high) in enumerate(pairwise(edges.tolist()))
    ]
    return _present([("unknown", "none", np.flatnonzero(~known).tolist()), *groups])


def _by_season(days: Numbers) -> Groups:
    quarter = np.floor(np.where(np.isfinite(days), days, -1) / 365.25 * 4).clip(-1, 3)
    groups = [(name, f"c{number}", np.flatnonzero(quarter == number).tolist()) for number, name in enumerate(_SEASONS)]
    return _present([("unknown", "none", np.flatnonzero(quarter < 0).tolist()), *groups])


def _present(groups: Groups) -> Groups:
    return [group for group in groups if len(group[2])]
