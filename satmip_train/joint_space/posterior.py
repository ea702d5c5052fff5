"""From similarities to distributions: references count as their similarity says, and what they say spreads as densities. Pure.

NOTE[DIFF] The paper reads nothing off pictures. What it trains is the ratio that this rests on: at the minimum of the
metadata-image loss (section 3.1) exp(scale * similarity) is p(picture, record) / (p(picture) p(record)) but for a factor of the
picture (van den Oord et al. 2018, equation 5). So references that were drawn as records are, each weighed by that ratio, are a
sample of p(record | picture).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from satmip_data.records import Metadata
from satmip_train.joint_space.quantities import QUANTITIES
from satmip_train.joint_space.spaces import Indices, Masses, Support

Vectors: TypeAlias = npt.NDArray[np.float32]
CHUNK = 256
"""Pictures that are compared with all references at once: 100 MB of similarities for 100,000 references."""
BACKGROUND = 0.02
"""Share of every density that is spread evenly: no value is held for impossible because no reference has it."""


@dataclass(frozen=True)
class Layout:
    """The cells of each quantity, and which of the references lie in each."""

    supports: dict[str, Support]
    bins: dict[str, Any]
    """Of each quantity a sparse matrix (C, N) of ones: row the cell, column the reference."""

    @classmethod
    def of(cls, records: Sequence[Metadata], names: Sequence[str], supports: Mapping[str, Support] | None = None) -> "Layout":
        """Return the layout of reference records.

        Args:
            names: the quantities; those that no reference knows are left out
            supports: their cells, by default those that fit the records
        """
        found, bins = {}, {}
        for name in names:
            values = QUANTITIES[name].values(records)
            support = QUANTITIES[name].space.support(values) if supports is None else supports[name]
            index = support.index(values)
            if len(support) and (index >= 0).any():
                found[name], bins[name] = support, _ones(index, len(support))
        return cls(found, bins)

    def masses(self, name: str, weights: Masses, width: float) -> Masses:
        """Return the distribution of a quantity for each picture.

        References that do not know the quantity count for nothing. Shape: weights (N, B) -> (B, C), rows sum to 1.

        Args:
            width: of the kernel, see `Support.smoother`
        """
        return smoothed(self.binned(name, weights), self.supports[name].smoother(width))

    def binned(self, name: str, weights: Masses) -> Masses:
        """Return the weight in each cell, before it is spread. Shape: (N, B) -> (B, C), rows sum to 1."""
        found = np.asarray((self.bins[name] @ weights).T, np.float32)
        total = found.sum(axis=1, keepdims=True)
        even = np.float32(1 / found.shape[1])
        return np.where(total > 0, found / np.where(total > 0, total, 1), even)

    def prior(self, name: str) -> Masses:
        """Return how the references alone lie in the cells. Shape: (1, C)."""
        return self.binned(name, np.ones((self.bins[name].shape[1], 1), np.float32))


def smoothed(binned: Masses, smoother: Masses) -> Masses:
    """Return masses spread by a kernel, with the background. Shape: (B, C), (C, C) -> (B, C)."""
    return with_background(binned @ smoother, binned.shape[1])


def with_background(mass: Masses, cells: int) -> Masses:
    """Return masses of which a share is spread evenly over all cells."""
    return np.asarray((1 - BACKGROUND) * mass + BACKGROUND / cells, np.float32)


def chunks(pictures: int) -> Iterator[slice]:
    """Give parts of the pictures of which each is small enough to be compared with many references at once."""
    yield from (slice(start, min(start + CHUNK, pictures)) for start in range(0, pictures, CHUNK))


def _ones(index: Indices, cells: int) -> Any:
    from scipy.sparse import csr_matrix  # late: it takes a fifth of a second

    known = np.flatnonzero(index >= 0)
    return csr_matrix((np.ones(len(known), np.float32), (index[known], known)), shape=(cells, len(index)))


def similarities(references: Vectors, pictures: Vectors) -> Masses:
    """Return the cosines of references and pictures, which have length 1. Shape: (N, D), (B, D) -> (N, B)."""
    return np.asarray(references @ pictures.T, np.float32)


def weights(cosines: Masses, temperature: float) -> Masses:
    """Return what each reference counts for each picture: a softmax over the references. Shape: (N, B), columns sum to 1."""
    found = cosines / np.float32(temperature)
    found -= found.max(axis=0)
    np.exp(found, out=found)
    found /= found.sum(axis=0)
    return found


def mass_above(mass: Masses) -> Masses:
    """Return for each cell the mass of the cells that are denser: the smaller, the more plausible is the cell. Shape: (B, C).

    A region of highest density is where this is at most some level. Cells of equal density have equal values.
    """
    order = np.argsort(-mass, axis=1, kind="stable")
    ranked = np.take_along_axis(mass, order, axis=1)
    before = np.cumsum(ranked, axis=1, dtype=np.float64) - ranked
    fresh = np.concatenate([np.ones((len(mass), 1), bool), ranked[:, 1:] != ranked[:, :-1]], axis=1)
    first = np.maximum.accumulate(np.where(fresh, np.arange(mass.shape[1]), 0), axis=1)
    found = np.empty_like(mass)
    np.put_along_axis(found, order, np.take_along_axis(before, first, axis=1).astype(np.float32), axis=1)
    return found
