"""The spaces that metadata lie in: sphere, circles, lines, logarithms and categories, with distances and densities on them. Pure.

Values of a space are an array with a row each: numbers (N,), NaN where unknown; on the sphere longitude and latitude (N, 2) in
degrees; categories as text (N,), empty where unknown. A density lives on a `Support`, cells of equal size, so that masses of cells
rank as densities do and a sum over cells is an integral.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = npt.NDArray[np.float64]
Masses: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[Any]
"""Values of a space, a row each."""

EARTH_KM = 6371.0088
"""Mean radius of the Earth in kilometres (IUGG)."""
SPHERE_CELLS, CIRCLE_CELLS, LINE_CELLS = 4096, 120, 128
"""Cells of a support, at most on the sphere."""
MARGIN_KM = 1500.0
"""So far around the known places the sphere's support reaches."""


class Space(ABC):
    """Where the values of a quantity lie."""

    @abstractmethod
    def distance(self, one: Values, other: Values) -> Numbers:
        """Return how far values lie apart, one by one; arrays are broadcast. NaN where one is unknown."""

    def distances(self, one: Values, other: Values) -> Numbers:
        """Return how far each of some values lies from each of others. Shape: (N, ...), (M, ...) -> (N, M)."""
        return self.distance(one[:, None], other[None])

    def known(self, values: Values) -> npt.NDArray[np.bool_]:
        """Return which values are known. Shape: (N, ...) -> (N,)."""
        return np.isfinite(values)

    @abstractmethod
    def cells(self, values: Values) -> tuple[Values, float]:
        """Return the centres of equal cells over which known values spread, and how far apart neighbours lie."""

    def support(self, values: Values) -> "Support":
        """Return the cells for densities of such values. No value need be known.

        The order of the values changes nothing.
        """
        known = values[self.known(values)]
        return Support(self, *(self.cells(known) if len(known) else (known, 1.0)))


@dataclass(frozen=True)
class Line(Space):
    """Numbers that lie on a line."""

    def distance(self, one: Values, other: Values) -> Numbers:
        """Return the absolute difference."""
        return np.abs(np.asarray(one, np.float64) - other)

    def cells(self, values: Values) -> tuple[Values, float]:
        """Return `LINE_CELLS` cells from the smallest to the largest value and a little beyond; one where all are equal."""
        low, high = float(values.min()), float(values.max())
        if high <= low:
            return np.array([low]), 1.0
        step = (high - low) / (LINE_CELLS - 9)
        return np.linspace(low - 4 * step, high + 4 * step, LINE_CELLS), step


@dataclass(frozen=True)
class Logarithm(Space):
    """Positive numbers that are compared by their ratio; the distance is that of natural logarithms."""

    def distance(self, one: Values, other: Values) -> Numbers:
        """Return the absolute difference of the logarithms."""
        return np.asarray(np.abs(np.log(np.asarray(one, np.float64)) - np.log(np.asarray(other, np.float64))))

    def known(self, values: Values) -> npt.NDArray[np.bool_]:
        """Return which values are known and positive."""
        return np.isfinite(values) & (values > 0)

    def cells(self, values: Values) -> tuple[Values, float]:
        """Return cells that are equal in the logarithm, see `Line.cells`."""
        centres, step = Line().cells(np.log(values))
        return np.exp(centres), step


@dataclass(frozen=True)
class Circle(Space):
    """Numbers that come back to where they began: days of the year, hours, azimuths."""

    length: float

    def distance(self, one: Values, other: Values) -> Numbers:
        """Return the shorter way round."""
        apart = np.abs(np.asarray(one, np.float64) - other) % self.length
        return np.minimum(apart, self.length - apart)

    def cells(self, values: Values) -> tuple[Values, float]:
        """Return `CIRCLE_CELLS` cells round the whole circle, whatever the values."""
        step = self.length / CIRCLE_CELLS
        return (np.arange(CIRCLE_CELLS) + 0.5) * step, step


@dataclass(frozen=True)
class Sphere(Space):
    """Places on Earth as longitude and latitude in degrees; distances are kilometres along great circles of a sphere."""

    def distance(self, one: Values, other: Values) -> Numbers:
        """Return the great-circle distance by the haversine formula. Shape: (..., 2), (..., 2) -> (...)."""
        (lon, lat), (to_lon, to_lat) = (np.moveaxis(np.radians(np.asarray(part, np.float64)), -1, 0) for part in (one, other))
        half = np.sin((to_lat - lat) / 2) ** 2 + np.cos(lat) * np.cos(to_lat) * np.sin((to_lon - lon) / 2) ** 2
        return np.asarray(2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1))))

    def distances(self, one: Values, other: Values) -> Numbers:
        """Return the great-circle distances of all pairs, by one product of matrices; good to a metre."""
        cosines = np.clip(unit_vectors(one) @ unit_vectors(other).T, -1, 1)
        return np.asarray(EARTH_KM * np.arccos(cosines))

    def known(self, values: Values) -> npt.NDArray[np.bool_]:
        """Return which places are known. Shape: (N, 2) -> (N,)."""
        return np.asarray(np.isfinite(values).all(axis=-1))

    def cells(self, values: Values) -> tuple[Values, float]:
        """Return the points of an even grid that lie within `MARGIN_KM` of a value: at most `SPHERE_CELLS`.

        Where values keep to a part of the Earth, the grid is the finer.
        """
        reach = 2 * np.sin(MARGIN_KM / EARTH_KM / 2)
        for finer in (16, 4, 1):
            grid = fibonacci(SPHERE_CELLS * finer)
            near = grid[chords(unit_vectors(values), unit_vectors(grid))[0] <= reach]
            if len(near) <= SPHERE_CELLS:
                break
        return near, float(np.sqrt(4 * np.pi * EARTH_KM**2 / len(grid)))


@dataclass(frozen=True)
class Categories(Space):
    """Words of which one is as far from another as from any: the distance is 0 or 1."""

    def distance(self, one: Values, other: Values) -> Numbers:
        """Return 0 where words are the same, else 1; NaN where one is unknown."""
        apart = np.where(one == other, 0.0, 1.0)
        return np.where((one == "") | (other == ""), np.nan, apart)

    def known(self, values: Values) -> npt.NDArray[np.bool_]:
        """Return which words are known."""
        return np.asarray(values != "")

    def cells(self, values: Values) -> tuple[Values, float]:
        """Return the words, sorted."""
        return np.unique(values), 1.0


@dataclass(frozen=True)
class Support:
    """Cells of equal size on which densities of a space are given."""

    space: Space
    centres: Values
    """(C, ...)."""
    spacing: float
    """How far neighbours lie apart, in the unit of the space's distance."""

    def __len__(self) -> int:
        return len(self.centres)

    @cached_property
    def distances(self) -> Masses:
        """How far cells lie apart; on the sphere good to some kilometres. Shape: (C, C)."""
        if not isinstance(self.space, Sphere):
            return self.space.distances(self.centres, self.centres).astype(np.float32)
        points = unit_vectors(self.centres).astype(np.float32)  # in place and in single precision: a tenth of the time
        apart = points @ points.T
        np.clip(apart, -1, 1, out=apart)
        np.arccos(apart, out=apart)
        np.fill_diagonal(apart, 0)
        apart *= np.float32(EARTH_KM)
        return np.asarray(apart)

    def index(self, values: Values) -> Indices:
        """Return the cell of each value; -1 where it is unknown, or lies in none. Shape: (N, ...) -> (N,)."""
        found = np.full(len(values), -1, np.int64)
        known = self.space.known(values)
        if not len(self) or not known.any():
            return found
        if isinstance(self.space, Sphere):
            cell = chords(unit_vectors(self.centres), unit_vectors(values[known]))[1]
        else:
            cell = np.concatenate(
                [
                    self.space.distances(part, self.centres).argmin(axis=1)
                    for part in np.array_split(values[known], known.sum() // 4096 + 1)
                ]
            )
        off = self.space.distance(values[known], self.centres[cell])
        # On the even grid of the sphere no point is farther from the nearest one than 0.8 of the spacing.
        found[known] = np.where(off <= (self.spacing if len(self) > 1 else 1e-9), cell, -1)
        if isinstance(self.space, Categories):
            found[known] = np.where(off == 0, cell, -1)
        return found

    def smoother(self, width: float) -> Masses:
        """Return how a kernel of a width spreads the mass of each cell: rows are where it came from and sum to 1. Shape: (C, C).

        The kernel is a Gaussian of the distance; what would fall outside of the support stays inside. Categories do not spread.

        Args:
            width: standard deviation in the unit of the space's distance; 0 spreads nothing
        """
        if width <= 0 or isinstance(self.space, Categories):
            return np.eye(len(self), dtype=np.float32)
        kernel = np.exp(-0.5 * (self.distances / np.float32(width)) ** 2)
        kernel /= kernel.sum(axis=1, keepdims=True)
        return np.asarray(kernel, np.float32)

    def centre(self, mass: Masses) -> Indices:
        """Return the cell from which the mass lies least far on average; of categories the likeliest. Shape: (B, C) -> (B,)."""
        return np.asarray((mass @ self.distances).argmin(axis=1), np.int64)


def unit_vectors(places: Values) -> Numbers:
    """Return points of the unit sphere. Shape: (N, 2), longitude and latitude in degrees -> (N, 3)."""
    lon, lat = np.radians(np.asarray(places, np.float64)).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def fibonacci(points: int) -> Numbers:
    """Return an even grid of the sphere: longitude and latitude in degrees, from south to north. Shape: (points, 2).

    The Fibonacci lattice (Swinbank and Purser 2006, doi:10.1256/qj.05.227): each point stands for the same area.
    """
    number = np.arange(points)
    lat = np.degrees(np.arcsin((2 * number + 1) / points - 1))
    lon = (360.0 * number * 2 / (1 + 5**0.5) + 180.0) % 360.0 - 180.0
    return np.stack([lon, lat], axis=1)


def chords(points: Numbers, queries: Numbers) -> tuple[Numbers, Indices]:
    """Return for each query the nearest of some points of the unit sphere: the chord to it, and its number. Shape: (Q,) each."""
    from scipy.spatial import cKDTree  # late: it takes a third of a second

    chord, number = cKDTree(points).query(queries)
    return chord, number.astype(np.int64)
