"""Captions to token ids: CLIP's byte pair encoding, as open_clip ships it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from satmip_train.errors import UsageError
from satmip_train.shards import Dataset, Readers


@cache
def _tokenizer() -> Any:
    # Imported late: open_clip takes seconds to import and runs without text need none of it.
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def token_ids(text: str) -> list[int]:
    """Return the ids of a text between start and end of text; the empty text gives just these two."""
    tokenizer = _tokenizer()
    return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]


@dataclass(frozen=True)
class CaptionReader:
    """Turns a stored caption into token ids, of all its fields or of some."""

    keep: tuple[str, ...]
    """Fields that are read."""
    stored: tuple[str, ...]
    """Fields that the stored captions hold."""
    context: int = 0
    """Length of the token rows."""

    def text(self, caption: str) -> str:
        """Return the caption cut down to the fields that are kept, in its own order.

        Raises:
            UsageError: the caption does not start with a field's name.
        """
        if self.keep == self.stored or not caption:
            return caption
        # Values hold commas and colons of their own, so the cut is at the known names only.
        parts = re.split(rf"(?:^|, )(?=(?:{'|'.join(map(re.escape, self.stored))}): )", caption)
        if parts[0]:
            raise UsageError(f"a caption must read `field: value, field: value` with fields of {self.stored}, however: {caption!r}")
        return ", ".join(part for part in parts[1:] if part.split(": ", 1)[0] in self.keep)

    def tokens(self, caption: str) -> npt.NDArray[np.int64]:
        """Return the token ids of a caption, padded with 0 to (context,) int64.

        Raises:
            UsageError: the caption is longer than the context; it is never cut.
        """
        ids = token_ids(self.text(caption))
        if len(ids) > self.context:
            raise UsageError(
                f"a caption must fit into the context of {self.context} tokens, however: {len(ids)} tokens in {caption!r}"
            )
        row = np.zeros(self.context, np.int64)
        row[: len(ids)] = ids
        return row


def caption_reader(dataset: Dataset, fields: tuple[str, ...] | None) -> CaptionReader:
    """Return what reads the given fields out of the shards' captions (None: all of them); its context is still 0.

    Raises:
        UsageError: the captions lack a field, or are sentences, out of which a field cannot be cut.
    """
    stored = dataset.caption_fields
    if fields is None or set(fields) == set(stored):
        return CaptionReader(stored, stored)
    advice = f"Run: satmip-data caption {dataset.root} --fields {','.join(fields)}"
    if missing := [name for name in fields if name not in stored]:
        raise UsageError(
            f"the captions must hold the fields {list(fields)}, however: they hold {list(stored)}, not {missing}. {advice}"
        )
    if dataset.caption_style != "key-value":
        raise UsageError(
            f"only key-value captions can be cut down to the fields {list(fields)}, however: these are of style "
            f"{dataset.caption_style!r} with fields {list(stored)}. {advice}"
        )
    return CaptionReader(tuple(name for name in stored if name in fields), stored)


def captions(dataset: Dataset, split: str) -> Iterable[str]:
    """Read the stored captions of a split, in order."""
    readers = Readers(dataset, split)
    for number, shard in enumerate(readers.shards):
        reader = readers[number]
        for index in range(shard.samples):
            yield reader.read(index, "txt").decode()


@dataclass(frozen=True, slots=True)
class CaptionStatistics:
    """What a split's captions are like, read with a `CaptionReader`."""

    longest: int
    """Tokens of the longest, with start and end."""
    empty: int
    """Captions that know none of the fields."""


def caption_statistics(dataset: Dataset, split: str, reader: CaptionReader) -> CaptionStatistics:
    """Return the statistics: those of all splits from `dataset.json` where it has them, else by one pass over the split."""
    if reader.keep == reader.stored and dataset.longest_caption is not None:
        return CaptionStatistics(dataset.longest_caption, dataset.empty_captions)
    key = (dataset.fingerprint, split, reader.keep)
    if key not in _STATISTICS:
        lengths = [len(token_ids(reader.text(caption))) for caption in captions(dataset, split)]
        _STATISTICS[key] = CaptionStatistics(max(lengths), lengths.count(2))
    return _STATISTICS[key]


_STATISTICS: dict[tuple[str, str, tuple[str, ...]], CaptionStatistics] = {}
