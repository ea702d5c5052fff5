"""kNN and the linear probe on a CPU at fMoW's size, beside faiss, scikit-learn and the matrix products alone.

    OMP_NUM_THREADS=1 python tests/benchmarks/probes.py            # 1,024 queries of 53,043, a tenth of the linear probe
    OMP_NUM_THREADS=2 python tests/benchmarks/probes.py --whole    # then the whole of both, too: the targets

Threads are those of OMP_NUM_THREADS. With one, CPU time is measured, else the clock. Features are made up: clusters of classes that
overlap, some directions a thousand times as wide as others, so that the linear probe does not converge in 200 iterations. Every
way gets the features as they are and makes of them what it needs. What runs whole does so in a process of its own, whose peak
memory is printed; --whole takes about 8 GB.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import timing
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from satmip_train.evaluation import probes

TRAIN, TEST, WIDTH, CLASSES, NEAREST = 363_572, 53_043, 384, 62, 100
ITERATIONS = 200
FEW = 20
"""Iterations of the linear probe in a round."""


def features(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors and classes. Shape: (samples, WIDTH) float32, (samples,)."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, WIDTH), np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, samples)
    vectors = rng.standard_normal((samples, WIDTH), np.float32)
    for start in range(0, samples, 10_000):
        vectors[start : start + 10_000] += 0.15 * centres[labels[start : start + 10_000]]
    vectors *= np.logspace(1, -2, WIDTH, dtype=np.float32)
    return vectors, labels


def clock() -> Callable[[], float]:
    """Return what tells the time: of the CPU for one thread, where it says as much and is steadier, else of the wall."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def by_faiss(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the nearest and their similarities."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    bank, queries, index = train.copy(), test.copy(), faiss.IndexFlatIP(WIDTH)
    faiss.normalize_L2(bank)
    faiss.normalize_L2(queries)
    index.add(bank)
    similarities, indices = index.search(queries, NEAREST)
    return indices, similarities


def by_sklearn(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same, of what KNeighborsClassifier does but for its vote."""
    model = NearestNeighbors(n_neighbors=NEAREST, metric="cosine", algorithm="brute").fit(train)
    distances, indices = model.kneighbors(test)
    return indices, 1 - distances


def by_satmip(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same."""
    return probes.neighbours(train, test, NEAREST)


def products(factor: Callable[[torch.Tensor], torch.Tensor], train: np.ndarray, test: np.ndarray) -> Callable[[], None]:
    """Return the matrix products of the search and nothing else."""
    bank = [factor(part) for part in torch.from_numpy(train).split(probes._BLOCK)]
    queries = [factor(part) for part in torch.from_numpy(test).split(probes._QUERIES)]

    def work() -> None:
        for part in queries:
            for block in bank:
                F.linear(part, block)

    return work


def knn(report: timing.Report, train_size: int, queries: int, rounds: int) -> None:
    """Hold the search for the nearest against what finds the same, by part of the queries."""
    (train, _), (test, _) = features(train_size, 3), features(queries, 4)
    found = {name: way(train, test[:64]) for name, way in (("satmip", by_satmip), ("faiss", by_faiss))}
    same = float((found["satmip"][0] == found["faiss"][0]).mean())
    works = {
        "satmip": lambda: by_satmip(train, test),
        "faiss, IndexFlatIP": lambda: by_faiss(train, test),
        "scikit-learn, brute force": lambda: by_sklearn(train, test),
        "matrix products alone, of oneDNN": products(probes._factor, train, test),
        "matrix products alone, of torch's BLAS": products(lambda x: x, train, test),
    }
    seconds = timing.in_turns(works, rounds, clock())
    report.table(f"kNN: {NEAREST} nearest, {queries:,} x {train_size:,} x {WIDTH}, {named()}: their time against satmip's")
    for name, took in seconds.items():
        target = timing.Target("at least", 1.0) if name.startswith(("faiss", "scikit")) else None
        report.row(name, 1e9 / timing.rate(queries * train_size, took), "ns a pair", timing.ratios(took, seconds["satmip"]), target)
    report.row("neighbours that are the same as faiss's, of 64 queries", 100 * same, "%")


def linear(report: timing.Report, samples: int, rounds: int) -> None:
    """Hold the linear probe against scikit-learn's, and its evaluations against their matrix products."""
    (train, labels), (test, _) = features(samples, 1), features(samples // 7, 2)
    found: dict[str, Any] = {}

    def ours() -> None:
        found["satmip"] = probes.linear(train, labels, test, max_iterations=FEW)

    def theirs() -> None:
        model = LogisticRegression(C=np.inf, max_iter=FEW).fit(train.astype(np.float64), labels)
        found["scikit-learn"] = model.predict(test.astype(np.float64))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        seconds = timing.in_turns({"satmip": ours, "scikit-learn": theirs}, rounds, clock())
    report.table(f"Linear probe: {samples:,} x {WIDTH} x {CLASSES}, {FEW} iterations, {named()}: its time against satmip's")
    report.row("satmip", 1e3 / timing.rate(FEW, seconds["satmip"]), "ms an iteration")
    took = seconds["scikit-learn"]
    ratios, target = timing.ratios(took, seconds["satmip"]), timing.Target("at least", 1.0)
    report.row("scikit-learn", 1e3 / timing.rate(FEW, took), "ms an iteration", ratios, target)
    same = float(np.mean(found["satmip"].predictions == found["scikit-learn"]))
    report.row("predictions that are the same", 100 * same, "%")
    evaluation(report, train, labels, rounds)


def evaluation(report: timing.Report, train: np.ndarray, labels: np.ndarray, rounds: int) -> None:
    """Hold one evaluation of loss and gradient against its two matrix products, and both against the machine's rate."""
    x, y = torch.from_numpy(train), torch.from_numpy(labels)
    weights = torch.zeros(CLASSES, WIDTH + 1, dtype=torch.float64)
    square = torch.ones(1024, 1024, dtype=torch.float64)
    parts = x.double().split(probes._ROWS["cpu"])
    residual = torch.ones(CLASSES, len(parts[0]), dtype=torch.float64)

    def both() -> None:
        for part in parts:
            weights[:, :-1] @ part.mT
            residual[:, : len(part)] @ part

    works = {"whole": lambda: probes._cross_entropy(x, y, weights), "products": both, "square": lambda: square @ square}
    seconds = timing.in_turns(works, max(rounds, 5), clock())
    work = 4 * WIDTH * CLASSES / 1e9
    report.table(f"Loss and gradient of {len(x):,} x {WIDTH} x {CLASSES} in float64, {named()}")
    report.row("satmip", work * timing.rate(len(x), seconds["whole"]), "GFLOP/s")
    report.row("its two matrix products alone", work * timing.rate(len(x), seconds["products"]), "GFLOP/s")
    report.row("product of squares of 1,024", 2 * 1.024**3 * timing.rate(1, seconds["square"]), "GFLOP/s")


def whole_knn(way: str, train_size: int, test_size: int) -> dict[str, float]:
    """Find the nearest of all queries once, in this process."""
    (train, _), (test, _) = features(train_size, 3), features(test_size, 4)
    return measured(lambda: {"satmip": by_satmip, "faiss": by_faiss}[way](train, test))


def whole_linear(samples: int) -> dict[str, float]:
    """Fit the linear probe once, in this process."""
    (train, labels), (test, _) = features(samples, 1), features(samples // 7, 2)
    fits: list[probes.LinearFit] = []
    took = measured(lambda: fits.append(probes.linear(train, labels, test, max_iterations=ITERATIONS, tolerance=0.0)))
    return {**took, "iterations": fits[0].iterations}


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """Return the seconds on the clock, and the peak memory of this process before and after."""
    before, start = timing.memory_mb("VmHWM"), time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - start, "before": before, "peak": timing.memory_mb("VmHWM")}


def whole(report: timing.Report, scale: float) -> None:
    """Run both probes at their true size, on the clock, each in a process of its own."""
    train, test = int(TRAIN * scale), int(TEST * scale)
    report.table(
        f"Whole, on the clock: kNN {test:,} x {train:,} x {WIDTH}; linear probe {train:,} x {WIDTH} x {CLASSES}; {named()}"
    )
    ours, theirs = timing.apart(whole_knn, "satmip", train, test), timing.apart(whole_knn, "faiss", train, test)
    report.row("kNN", ours["seconds"], "s", target=timing.Target("at most", 300))
    report.row("kNN of faiss", theirs["seconds"], "s", [theirs["seconds"] / ours["seconds"]], timing.Target("at least", 1.0))
    fit = timing.apart(whole_linear, train)
    report.row(f"linear probe, {fit['iterations']} iterations", fit["seconds"], "s", target=timing.Target("at most", 480))
    for name, found in (("kNN", ours), ("kNN of faiss", theirs), ("linear probe", fit)):
        report.row(f"peak of {name}, of it {found['before']:,.0f} MB before the work", found["peak"], "MB")


def named() -> str:
    """Return the threads and what is measured of them."""
    threads = torch.get_num_threads()
    return "1 thread, CPU time" if threads == 1 else f"{threads} threads, the clock"


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1024, help="of kNN in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the samples; below 1 only to see that it works")
    parser.add_argument("--whole", action="store_true", help="run both probes at their true size, too")
    chosen = parser.parse_args()
    report = timing.Report("probes", ("torch", "faiss-cpu", "scikit-learn", "scipy", "numpy"))
    knn(report, int(TRAIN * chosen.scale), chosen.queries, chosen.rounds)
    linear(report, int(TRAIN * chosen.scale / 10), chosen.rounds)
    if chosen.whole:
        whole(report, chosen.scale)
    report.save()


if __name__ == "__main__":
    main()
