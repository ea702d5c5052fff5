"""The best constant: the one answer to all samples that errs least. It sees no picture, so a model should err less."""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

_EARTH = 6371.0088
"""Mean radius in kilometres: distances here are off by up to half a percent from those on the ellipsoid."""
_BLOCK = 1 << 9


def distances(one: Numbers, other: Numbers, circle: float | None) -> Numbers:
    """Return how far values lie apart, on a circle of the given length where there is one."""
    apart = np.abs(one - other)
    return apart if circle is None else np.minimum(apart % circle, circle - apart % circle)


def best_constant(values: Numbers, circle: float | None = None) -> float | None:
    """Return the smallest median error that one answer to all can have; None where no value is known.

    It is the answer in the middle of the shortest interval that holds half of the values, which none can beat.
    """
    known = np.sort(values[np.isfinite(values)])
    count = len(known)
    if not count:
        return None
    wide = known if circle is None else np.concatenate([known, known + circle])
    most = count // 2 + 1  # with the last of which the median is reached, also as the mean of two
    starts = range(len(wide) - most + 1 if circle is None else count)
    middles = np.array([(wide[i] + wide[i + most - 1]) / 2 for i in starts])
    return float(min(np.median(distances(known, middle, circle)) for middle in middles))


def best_place(longitude: Numbers, latitude: Numbers) -> float | None:
    """Return the smallest median distance in kilometres that one place, as the answer to all, has; None where none is known.

    Answers tried are the samples' own locations, as what a model finds is one of them. Distances are on the sphere.
    Shape: (N,) each, degrees, NaN where unknown.
    """
    points = np.radians(np.stack([longitude, latitude], axis=1)[np.isfinite(longitude) & np.isfinite(latitude)])
    if not len(points):
        return None
    medians = [np.median(_apart(points[i : i + _BLOCK, None], points[None]), axis=1) for i in range(0, len(points), _BLOCK)]
    return float(np.concatenate(medians).min())


def _apart(one: Numbers, other: Numbers) -> Numbers:
    """Return the great-circle distances in kilometres (haversine). Shape: (..., 2), longitude and latitude in radians -> (...)."""
    half = np.sin((one - other) / 2) ** 2
    return np.asarray(2 * _EARTH * np.arcsin(np.sqrt(half[..., 1] + np.cos(one[..., 1]) * np.cos(other[..., 1]) * half[..., 0])))
