"""The members of a sample, as bytes."""

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

Members = dict[str, bytes]
"""Suffix -> bytes of one sample, as "jpg", "num.npy"."""


def multi_hot(labels: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Return 1 for each class that is among the labels, else 0. Shape: (classes,)."""
    return np.array([name in labels for name in classes], np.uint8)


def dump_json(data: object) -> bytes:
    """Write compact JSON, the same bytes for the same content; NaN is refused."""
    return _JSON.encode(data).encode()


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """Return an array in the .npy format."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
