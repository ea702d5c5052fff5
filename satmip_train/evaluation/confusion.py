"""Which classes are taken for which. Pure."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt


def confusion(labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int64]:
    """Return how often each class was taken for each. Shape: (N,), (N,) -> (classes, classes), a row a true class."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def most_confused(counts: npt.NDArray[np.int64], classes: Sequence[str], most: int) -> Iterator[tuple[str, str, int, float]]:
    """Yield true class, class it was taken for, how often, and the share of its pictures, the most frequent first."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    for place in np.argsort(-wrong, axis=None, kind="stable")[:most].tolist():
        true, taken = divmod(place, len(classes))
        if wrong[true, taken]:
            yield classes[true], classes[taken], int(wrong[true, taken]), float(wrong[true, taken] / counts[true].sum())
