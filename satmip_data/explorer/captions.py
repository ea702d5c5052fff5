"""Lengths of the captions of all rows, without writing each. Pure."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from satmip_data.explorer.arrays import Numbers, pairs, times
from satmip_data.metadata.captions import STYLES
from satmip_data.metadata.clip_tokens import token_counter
from satmip_data.metadata.fields import BY_NAME, Field


def caption_lengths(index: pa.Table, fields: Sequence[str], style: str) -> Numbers:
    """Return the CLIP tokens of each row's caption with start and end, or its characters where no tokenizer is installed.

    No token reaches over a space, so a caption has as many as its pieces, of which most are those of other rows too.
    """
    later = np.zeros(len(index), np.bool_)
    lengths = np.full(len(index), 0.0 if token_counter() is None else 2.0)
    for name in reversed(fields):
        known = pc.is_valid(index[name]).to_numpy()
        for ends, rows in ((True, known & ~later), (False, known & later)):
            if rows.any():
                lengths[rows] += _piece_lengths(
                    index[name].filter(pa.array(rows)), BY_NAME[name], style, "" if ends else _JOINTS[style]
                )
        later |= known
    return lengths


class _PieceCounter(dict[bytes, int]):
    """Tokens of pieces of captions, counted once for those that differ in digits alone: a digit is a token, whichever it is."""

    def count(self, text: str) -> int:
        """Return the tokens of a piece, or its characters where no tokenizer is installed."""
        return self[text.encode().translate(_DIGITS_ALIKE)]

    def __missing__(self, pattern: bytes) -> int:
        counter, text = token_counter(), pattern.decode()
        self[pattern] = found = len(text) if counter is None else counter(text) - 2
        return found


_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"0" * 9)
_JOINTS = {"key-value": ", ", "sentence": " "}
"""Separator between two pieces of a caption."""


def _piece_lengths(column: pa.ChunkedArray, field: Field, style: str, joint: str) -> Numbers:
    """Return the tokens of what known values of a field add to a caption."""
    count = _PieceCounter().count
    encoded = None
    if field.name == "timestamp":
        values = times(column).tolist()
    elif pa.types.is_list(column.type):
        values = column.to_pylist() if field.name == "wavelengths" else pairs(column).tolist()
    else:
        encoded = column.combine_chunks().dictionary_encode()
        values = encoded.dictionary.to_pylist()
    lengths = np.fromiter((count(STYLES[style]([(field, value)]) + joint) for value in values), np.float64, len(values))
    return lengths if encoded is None else lengths[encoded.indices.to_numpy()]
