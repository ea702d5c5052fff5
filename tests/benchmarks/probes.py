"""The two probes at the paper's sizes on a CPU: the linear one held against scikit-learn, both with time and peak memory.

    python tests/benchmarks/probes.py                      # kNN on as many queries as fit into --seconds, the rest extrapolated
    python tests/benchmarks/probes.py --seconds 100000     # the whole of it

Features are synthetic: clusters of classes, as those of a network are, of fMoW's size (53,043 x 363,572 x 384, 62 classes) for
kNN and of a tenth of it (36,000 x 384 x 62) for the linear probe. Each part runs in a process of its own, whose peak memory is
printed.
"""

import argparse
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from satmip_train import probes

TRAIN, TEST, WIDTH, CLASSES = 363_572, 53_043, 384, 62
LINEAR = 36_000
CHUNK = 1024
"""Queries of the first measurement of kNN, from which the time of all follows."""


def features(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors and classes of clusters that overlap. Shape: (samples, 384) float32, (samples,)."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, WIDTH), np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, samples)
    return 0.15 * centres[labels] + rng.standard_normal((samples, WIDTH), np.float32), labels


def clock(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what the work gives, and its seconds on the clock and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, {"seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}


def peak() -> float:
    """Return the peak memory of this process in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10)))


def ours(samples: int) -> dict[str, Any]:
    """Fit the linear probe."""
    (train, labels), (test, _) = features(samples, 1), features(samples // 7, 2)
    before = peak()
    fit, took = clock(lambda: probes.linear(train, labels, test))
    parts = {"iterations": fit.iterations, "gradient": fit.gradient_norm, "loss": fit.loss, **took}
    return {**parts, "mb_before": before, "mb_peak": peak(), "predictions": fit.predictions.tolist()}


def theirs(samples: int) -> dict[str, Any]:
    """Fit scikit-learn's logistic regression on the same."""
    from sklearn.linear_model import LogisticRegression

    (train, labels), (test, _) = features(samples, 1), features(samples // 7, 2)
    x, model = train.astype(np.float64), LogisticRegression(C=np.inf, max_iter=200)
    before = peak()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, took = clock(lambda: model.fit(x, labels))
    loss = -np.log(model.predict_proba(x)[np.arange(samples), labels]).mean()
    parts = {"iterations": int(model.n_iter_[0]), "loss": float(loss), **took, "mb_before": before, "mb_peak": peak()}
    return {**parts, "predictions": model.predict(test.astype(np.float64)).tolist()}


def knn(train_size: int, test_size: int, seconds: float) -> dict[str, Any]:
    """Vote with k of 1, 5, 20 and 100, on so many queries as fit into the time."""
    (train, labels), (test, truth) = features(train_size, 3), features(test_size, 4)
    before = peak()
    chunk = min(CHUNK, test_size)
    vote = lambda count: probes.knn(train, labels, test[:count], [1, 5, 20, 100], classes=CLASSES)  # noqa: E731
    vote(8)
    _, first = clock(lambda: vote(chunk))
    count = int(min(test_size, max(chunk, chunk * seconds / max(first["cpu_seconds"], 0.1))))
    predictions, took = clock(lambda: vote(count))
    top1 = {k: round(float((found == truth[:count]).mean()), 4) for k, found in predictions.items()}
    whole = {name: round(value * test_size / count, 1) for name, value in took.items()}
    return {"queries_run": count, "of": test_size, **took, "whole": whole, "top1": top1, "mb_before": before, "mb_peak": peak()}


def main() -> None:
    """Run all parts and print one JSON object a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240, help="of CPU time, for the queries of kNN")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the samples; below 1 only to see that it works")
    chosen = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")

    def apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(work, *arguments).result()

    samples = int(LINEAR * chosen.scale)
    mine, oracle = apart(ours, samples), apart(theirs, samples)
    same = float(np.mean(np.equal(mine.pop("predictions"), oracle.pop("predictions"))))
    print(f"linear {samples:,} x {WIDTH} x {CLASSES}: same predictions {same:.6f}")
    print(json.dumps({"ours": mine, "scikit-learn": oracle}, indent=1))
    sizes = int(TRAIN * chosen.scale), int(TEST * chosen.scale)
    print(f"kNN {sizes[1]:,} x {sizes[0]:,} x {WIDTH}")
    print(json.dumps(apart(knn, *sizes, chosen.seconds), indent=1))


if __name__ == "__main__":
    main()
