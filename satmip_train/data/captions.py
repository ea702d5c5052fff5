"""Captions to token ids: CLIP's byte pair encoding, as open_clip ships it, or the tokenizer of a pretrained sentence encoder."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from satmip_data.errors import cause, install
from satmip_data.metadata.captions import caption
from satmip_data.metadata.fields import BY_NAME
from satmip_data.metadata.serialize import metadata_from_json
from satmip_data.names import counted
from satmip_train.data.dataset import Dataset
from satmip_train.data.tar import Readers
from satmip_train.errors import UsageError


@cache
def _tokenizer() -> Any:
    # Imported late: open_clip takes seconds to import and runs without text need none of it.
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@cache
def pretrained_tokenizer(model: str) -> Any:
    """Return the tokenizer of a model of the Hugging Face hub, or of a folder with one.

    Raises:
        UsageError: there is none, or the package transformers is missing.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UsageError(f"--text-model needs transformers: {cause(error)}. Run: {install('transformers')}") from error
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UsageError(
            f'Cannot load the tokenizer of --text-model "{model}", which is no model of the hub and no folder with one: '
            f"{cause(error)}"
        ) from error


def token_ids(text: str, model: str | None = None) -> list[int]:
    """Return the ids of a text between start and end of text; the empty text gives just these two.

    Args:
        model: pretrained sentence encoder whose tokenizer is used; None: CLIP's. Its ids count from 1, so that 0 is padding
            whatever its own is.
    """
    if model is not None:
        return [number + 1 for number in pretrained_tokenizer(model)(text, verbose=False)["input_ids"]]
    tokenizer = _tokenizer()
    return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]


@dataclass(frozen=True)
class CaptionReader:
    """Reads or writes the caption of a sample and turns it into token ids."""

    fields: tuple[str, ...]
    """Fields that are read."""
    stored: bool
    """Whether the captions in the shards hold just these fields; else captions are written from the samples' metadata."""
    context: int = 0
    """Length of the token rows."""
    style: str = "key-value"
    """How captions are written, one of `satmip_data.metadata.captions.STYLES`."""
    model: str | None = None
    """Pretrained sentence encoder that reads the captions; None: one over CLIP's tokens."""

    def text(self, read: Callable[[str], bytes], hidden: Sequence[bool] = ()) -> str:
        """Return the caption of a sample.

        Args:
            read: gives the sample's member of a suffix
            hidden: for each of the fields whether it is left out
        """
        if self.stored and not any(hidden):
            return read("txt").decode()
        shown = [name for name, out in zip_longest(self.fields, hidden, fillvalue=False) if not out]
        return caption(metadata_from_json(json.loads(read("json"))["metadata"]), map(str, shown), self.style)

    def tokens(self, text: str) -> npt.NDArray[np.int64]:
        """Return the token ids of a caption, padded with 0 to (context,) int64.

        Raises:
            UsageError: the caption is longer than the context; it is never cut.
        """
        ids = token_ids(text, self.model)
        if len(ids) > self.context:
            raise UsageError(
                f'The caption "{text}" has {counted(len(ids), "token")}, and the context holds {self.context}. Leave out a field, '
                "or write the captions of the shards anew: satmip-data caption SHARDS"
            )
        row = np.zeros(self.context, np.int64)
        row[: len(ids)] = ids
        return row


def caption_reader(
    dataset: Dataset, fields: tuple[str, ...] | None, model: str | None = None, style: str | None = None
) -> CaptionReader:
    """Return what gives captions of the given fields and style (None: those of the shards' captions); its context is still 0.

    `model` is the pretrained sentence encoder that shall read them, if one shall.
    """
    stored, style = dataset.caption_fields, style or dataset.caption_style
    chosen = stored if fields is None or set(fields) == set(stored) else tuple(name for name in BY_NAME if name in fields)
    return CaptionReader(chosen, (chosen, style) == (stored, dataset.caption_style), style=style, model=model)


def captions(dataset: Dataset, split: str, reader: CaptionReader) -> Iterator[str]:
    """Yield the captions of a split, in order."""
    readers = Readers(dataset, split)
    for number, shard in enumerate(readers.shards):
        for index in range(shard.samples):
            yield reader.text(partial(readers[number].read, index))


@dataclass(frozen=True, slots=True)
class CaptionStatistics:
    """What a split's captions are like, read with a `CaptionReader`."""

    longest: int
    """Tokens of the longest, with start and end."""
    empty: int
    """Captions that know none of the fields."""
    captions: int
    """How many were read."""


def caption_statistics(dataset: Dataset, split: str, reader: CaptionReader) -> CaptionStatistics:
    """Return the statistics: those of all splits from `dataset.json` where it has them, else by one pass over the split."""
    if reader.stored and dataset.longest_caption is not None and reader.model is None:
        return CaptionStatistics(dataset.longest_caption, dataset.empty_captions, sum(dataset.splits.values()))
    key = (dataset.fingerprint, split, reader)
    if key not in _STATISTICS:
        texts = [*captions(dataset, split, reader)]
        longest = max(len(token_ids(text, reader.model)) for text in texts)
        _STATISTICS[key] = CaptionStatistics(longest, texts.count(""), len(texts))
    return _STATISTICS[key]


_STATISTICS: dict[tuple[str, str, CaptionReader], CaptionStatistics] = {}
