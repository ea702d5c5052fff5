"""How far off answers are on pictures of places that nothing was fitted on, beside baselines that see less or other things.

All answers are single values, and what is told is the median distance from the truth; of categories the share of wrong answers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from satmip_train.data.dataset import Dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation import probes
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import image_features, load_model
from satmip_train.joint_space import posterior
from satmip_train.joint_space.ask import Asker, held_out, pictures_of
from satmip_train.joint_space.calibration import LEVELS
from satmip_train.joint_space.posterior import Layout, Vectors
from satmip_train.joint_space.quantities import QUANTITIES
from satmip_train.joint_space.references import Collection
from satmip_train.joint_space.spaces import Categories, Circle, Logarithm, Numbers, Space, Sphere, Values, unit_vectors

NEIGHBOURS = (1, 5, 20, 100)
"""Numbers of nearest chips of which the best is chosen on the places that calibrate."""
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the ridge regression, times the number of references; the best is chosen likewise."""

Answers = dict[str, Values]
"""Quantity -> values for the pictures, a row each."""


@dataclass(frozen=True)
class Seen:
    """Features of a backbone: of the references, of the pictures that calibrate, and of those that test."""

    name: str
    references: Vectors
    calibrating: Vectors
    testing: Vectors


def trial(asker: Asker, run: Path, dataset: Dataset, beside: Path | None, running: Running) -> dict[str, Any]:
    """Measure answers and baselines on the test places.

    Args:
        dataset: shards of the references, whose other splits hold the test places
        beside: a run whose features stand beside, as of SimCLR; the run's own are always there

    Raises:
        UsageError: no picture of another place tests, or shards cannot be read.
    """
    found = held_out(run, dataset, asker.references, running, asker.references.source["networks"])
    test = None if found is None else pictures_of(found, "test")
    if found is None or test is None or not len(test):
        raise UsageError(
            f"{dataset.root} has no pictures of places beside those of {asker.references.source['split']}. Use --shards."
        )
    calibrating = _joined(pictures_of(found, "temperature"), pictures_of(found, "regions"))
    rows = {"chance (a random record)": _chance(asker, test), "the best constant": _constant(asker, test)}
    for one in dict.fromkeys(path for path in (beside, run) if path is not None):
        seen = _seen(one, dataset, asker.references, calibrating, test, running)
        rows[f"nearest chips, features of {seen.name}"] = _errors(asker, test, _nearest_chips(asker, seen, calibrating))
        rows[f"ridge, features of {seen.name}"] = _errors(asker, test, _ridge(asker, seen, calibrating))
    rows["the nearest record"] = _errors(asker, test, _nearest_record(asker, test))
    rows["ask"] = _errors(asker, test, _asked(asker, test))
    return {
        "tested": {"pictures": len(test), "places": len(set(test.places))},
        "references": len(asker.references),
        "units": {name: _unit(name) for name in asker.names},
        "errors": rows,
        "bits": _bits(asker, test),
        "coverage": {
            name: {str(level): asker.calibration.coverage[name].share[level] for level in LEVELS}
            for name in asker.names
            if name in asker.calibration.coverage
        },
        "temperature": asker.calibration.temperature,
    }


def _unit(name: str) -> str:
    space = QUANTITIES[name].space
    if isinstance(space, Categories):
        return "share wrong"
    return "difference of natural logarithms" if isinstance(space, Logarithm) else QUANTITIES[name].unit


def _joined(one: Collection, other: Collection) -> Collection:
    vectors = np.concatenate([one.vectors, other.vectors])
    return Collection(one.keys + other.keys, one.places + other.places, one.records + other.records, vectors, one.source)


def _errors(asker: Asker, test: Collection, answers: Answers) -> dict[str, float | None]:
    return {name: median_error(name, answers[name], QUANTITIES[name].values(test.records)) for name in asker.names}


def median_error(name: str, answers: Values, truth: Values) -> float | None:
    """Return the median distance of answers from the truth, of categories the mean; None where nothing is known."""
    space = QUANTITIES[name].space
    known = space.known(truth)
    if not known.any():
        return None
    off = space.distance(answers[known], truth[known])
    return float(np.mean(off) if isinstance(space, Categories) else np.median(off))


def _chance(asker: Asker, test: Collection) -> dict[str, float | None]:
    """Return the error where a random reference is the answer, over 32 draws for each picture."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(asker.references), len(test)) for _ in range(32)]
    found: dict[str, float | None] = {}
    for name in asker.names:
        values, truth = QUANTITIES[name].values(asker.references.records), QUANTITIES[name].values(test.records)
        drawn, true = values[np.concatenate(draws)], np.concatenate([truth] * 32)
        known = QUANTITIES[name].space.known(drawn)
        found[name] = median_error(name, drawn[known], true[known])
    return found


def _constant(asker: Asker, test: Collection) -> dict[str, float | None]:
    """Return the smallest error that one cell, given for all pictures, can have on the test pictures themselves."""
    found: dict[str, float | None] = {}
    for name in asker.names:
        space, truth = QUANTITIES[name].space, QUANTITIES[name].values(test.records)
        truth = truth[space.known(truth)]
        if not len(truth):
            found[name] = None
            continue
        off = space.distances(asker.layout.supports[name].centres, truth)
        found[name] = float((off.mean(axis=1) if isinstance(space, Categories) else np.median(off, axis=1)).min())
    return found


def _asked(asker: Asker, test: Collection) -> Answers:
    parts: dict[str, list[Values]] = {name: [] for name in asker.names}
    for part in posterior.chunks(len(test)):
        for name, mass in asker.densities(test.vectors[part])[0].items():
            support = asker.layout.supports[name]
            parts[name].append(support.centres[support.centre(mass)])
    return {name: np.concatenate(found) for name, found in parts.items()}


def _nearest_record(asker: Asker, test: Collection) -> Answers:
    best = np.concatenate(
        [
            posterior.similarities(asker.references.vectors, test.vectors[part]).argmax(axis=0)
            for part in posterior.chunks(len(test))
        ]
    )
    return {name: QUANTITIES[name].values(asker.references.records)[best] for name in asker.names}


def _bits(asker: Asker, test: Collection) -> dict[str, float]:
    """Return by how many bits a picture narrows a quantity: the mean of log2 of the truth's density over that of the prior."""
    sums: dict[str, list[Numbers]] = {name: [] for name in asker.names}
    priors = {name: _prior(asker, name) for name in asker.names}
    for part in posterior.chunks(len(test)):
        for name, mass in asker.densities(test.vectors[part])[0].items():
            index = asker.layout.supports[name].index(QUANTITIES[name].values(test.records[part]))
            known = np.flatnonzero(index >= 0)
            sums[name].append(np.log2(mass[known, index[known]] / priors[name][index[known]]).astype(np.float64))
    return {name: float(np.concatenate(found).mean()) for name, found in sums.items() if sum(map(len, found))}


def _prior(asker: Asker, name: str) -> Any:
    support = asker.layout.supports[name]
    return posterior.smoothed(asker.layout.prior(name), support.smoother(asker.calibration.widths[name]))[0]


def _seen(run: Path, dataset: Dataset, references: Collection, calibrating: Collection, test: Collection, running: Running) -> Seen:
    """Return the features of a run's backbone of all pictures, each brought to unit deviation over the references."""
    model = load_model(run)
    vectors: dict[str, Any] = {}
    for split, samples in dataset.splits.items():
        if samples:
            found = image_features(model, dataset, split, running)
            vectors |= dict(zip(map(str, found.keys), found.vectors, strict=True))
    parts = [np.stack([vectors[key] for key in some.keys]) for some in (references, calibrating, test)]
    mean, deviation = parts[0].mean(axis=0), parts[0].std(axis=0) + 1e-6
    return Seen(model.name, *((part - mean) / deviation for part in parts))


def _nearest_chips(asker: Asker, seen: Seen, calibrating: Collection) -> Answers:
    """Return what the records of the visually nearest chips say on average; nearest by cosine of standardized features."""

    def answers(queries: Vectors) -> Iterator[Answers]:
        most = min(max(NEIGHBOURS), len(seen.references))
        near, _ = probes.neighbours(seen.references, queries, most)
        for count in NEIGHBOURS:
            yield _of_records(asker.layout, asker.names, near[:, :count], len(seen.references))

    return _best_of(asker, calibrating, answers(seen.calibrating), answers(seen.testing))


def _of_records(layout: Layout, names: tuple[str, ...], chosen: Any, references: int) -> Answers:
    weights = np.zeros((references, len(chosen)), np.float32)
    np.put_along_axis(weights, chosen.T, 1.0, axis=0)
    return {name: layout.supports[name].centres[layout.supports[name].centre(layout.binned(name, weights))] for name in names}


def _ridge(asker: Asker, seen: Seen, calibrating: Collection) -> Answers:
    """Return what a ridge regression of the quantities on features says, each fitted where its value is known."""
    solved = {name: _solutions(seen.references, QUANTITIES[name].values(asker.references.records), name) for name in asker.names}

    def answers(queries: Vectors) -> Iterator[Answers]:
        for number in range(len(PENALTIES)):
            yield {name: back(with_one(queries) @ found[number]) for name, (found, back) in solved.items()}

    return _best_of(asker, calibrating, answers(seen.calibrating), answers(seen.testing))


def _solutions(features: Vectors, values: Values, name: str) -> tuple[list[Numbers], Callable[[Numbers], Values]]:
    space = QUANTITIES[name].space
    known = space.known(values)
    targets, back = coordinates(space, values[known])
    x = with_one(features[known])
    gram, right = x.T @ x, x.T @ targets
    # The constant, the last column, is not held down.
    held = np.diag([*np.ones(x.shape[1] - 1), 0.0])
    return [np.asarray(np.linalg.solve(gram + penalty * len(x) * held, right), np.float64) for penalty in PENALTIES], back


def with_one(features: Vectors) -> Numbers:
    """Return features with a constant behind them."""
    return np.concatenate([features.astype(np.float64), np.ones((len(features), 1))], axis=1)


def coordinates(space: Space, values: Values) -> tuple[Numbers, Callable[[Numbers], Values]]:
    """Return values as numbers to regress on, (N, K), and what makes values of such numbers again."""
    if isinstance(space, Sphere):
        return unit_vectors(values), _places
    if isinstance(space, Circle):
        turn = 2 * np.pi / space.length
        there = np.stack([np.cos(values * turn), np.sin(values * turn)], axis=1)
        return there, lambda at: np.asarray((np.arctan2(at[:, 1], at[:, 0]) / turn) % space.length)
    if isinstance(space, Categories):
        words, codes = np.unique(values, return_inverse=True)
        return np.eye(len(words))[codes], lambda at: words[at.argmax(axis=1)]
    if isinstance(space, Logarithm):
        return np.log(values)[:, None], lambda at: np.exp(at[:, 0])
    return values[:, None], lambda at: at[:, 0]


def _places(points: Numbers) -> Values:
    lon, lat = np.arctan2(points[:, 1], points[:, 0]), np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    return np.asarray(np.degrees(np.stack([lon, lat], axis=1)))


def _best_of(asker: Asker, calibrating: Collection, there: Iterator[Answers], here: Iterator[Answers]) -> Answers:
    """Return of each quantity the answers of the setting with the smallest error on the places that calibrate."""
    chosen: dict[str, tuple[float, Values]] = {}
    truth = {name: QUANTITIES[name].values(calibrating.records) for name in asker.names}
    for known, asked in zip(there, here, strict=True):
        for name in asker.names:
            off = median_error(name, known[name], truth[name]) if len(calibrating) else 0.0
            if name not in chosen or (off is not None and off < chosen[name][0]):
                chosen[name] = (np.inf if off is None else off), asked[name]
    return {name: values for name, (_, values) in chosen.items()}
