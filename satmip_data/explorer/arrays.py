"""Columns of an index as arrays. Pure."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[np.float64]


def numbers(column: pa.ChunkedArray) -> Numbers:
    """Return numbers; NaN where unknown."""
    values: Numbers = pc.cast(column, pa.float64()).to_numpy()
    return values


def pairs(column: pa.ChunkedArray) -> Numbers:
    """Return lists of two as an array. Shape: (rows, 2); NaN where unknown."""
    array = column.combine_chunks()
    known = array.is_valid().to_numpy(zero_copy_only=False)
    found = np.full((len(array), 2), np.nan)
    found[known] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2)
    return found


def times(column: pa.ChunkedArray) -> npt.NDArray[np.datetime64]:
    """Return times in UTC; NaT where unknown."""
    found: npt.NDArray[np.datetime64] = pc.cast(column, pa.timestamp("us")).to_numpy()
    return found
