"""Captions to token ids: CLIP's byte pair encoding, as open_clip ships it, or the tokenizer of a pretrained sentence encoder."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from satmip_train.data.dataset import Dataset
from satmip_train.data.fields import OPENINGS
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
        raise UsageError(f"text_model needs transformers, however: {error}. Run: pip install 'satmip[train,hf]'") from error
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UsageError(f"text_model must be a model of the hub or a folder with one, however: {model!r}: {error}") from error


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
    """Turns a stored caption into token ids, of all its fields or of some."""

    keep: tuple[str, ...]
    """Fields that are read."""
    stored: tuple[str, ...]
    """Fields that the stored captions hold."""
    context: int = 0
    """Length of the token rows."""
    sentences: bool = False
    """Whether captions are sentences, one a field, instead of `field: value`."""
    model: str | None = None
    """Pretrained sentence encoder that reads the captions; None: one over CLIP's tokens."""

    def text(self, caption: str, hidden: Sequence[bool] = ()) -> str:
        """Return the caption cut down to the fields that are kept, in its own order.

        Args:
            hidden: for each of these fields whether it is left out; of sentences, whether the first is left out, the second ...

        Raises:
            UsageError: the caption does not start with a field's name, or as a field's sentence does.
        """
        out = {name for name, hide in zip(self.keep, hidden, strict=False) if hide}
        if (self.keep == self.stored and not out) or not caption:
            return caption
        if self.sentences:
            # Which sentences are left out follows from their order: fields are hidden all alike.
            parts = self._parts(caption, r"(?<=\.) ", [f"{OPENINGS[name]} " for name in self.stored])
            return " ".join(part for part, hide in zip(parts, hidden, strict=False) if not hide)
        parts = self._parts(caption, ", ", [f"{name}: " for name in self.stored])
        return ", ".join(part for part in parts if (name := part.split(": ", 1)[0]) in self.keep and name not in out)

    @staticmethod
    def _parts(caption: str, between: str, openings: Sequence[str]) -> list[str]:
        """Return what a caption says of each of its fields. Values hold commas, colons and full stops of their own."""
        first, *parts = re.split(rf"(?:^|{between})(?=(?:{'|'.join(map(re.escape, openings))}))", caption)
        if first:
            raise UsageError(
                f"a caption must read what begins with some of {openings}, one after the other, however: {caption!r}. "
                "Write captions anew: satmip-data caption SHARDS"
            )
        return parts

    def tokens(self, caption: str, hidden: Sequence[bool] = ()) -> npt.NDArray[np.int64]:
        """Return the token ids of a caption without its hidden fields (see `text`), padded with 0 to (context,) int64.

        Raises:
            UsageError: the caption is longer than the context; it is never cut.
        """
        ids = token_ids(self.text(caption, hidden), self.model)
        if len(ids) > self.context:
            raise UsageError(
                f"A caption has {len(ids)} tokens and the encoder reads {self.context}, as many as the longest of its training: "
                f'"{caption}". Leave out a field of it, or train on shards with captions as long.'
            )
        row = np.zeros(self.context, np.int64)
        row[: len(ids)] = ids
        return row


def caption_reader(dataset: Dataset, fields: tuple[str, ...] | None, model: str | None = None) -> CaptionReader:
    """Return what reads the given fields out of the shards' captions (None: all of them); its context is still 0.

    `model` is the pretrained sentence encoder that shall read them, if one shall.

    Raises:
        UsageError: the captions lack a field, or are sentences, out of which a field cannot be cut.
    """
    stored = dataset.caption_fields
    sentences = dataset.caption_style == "sentence"
    if fields is None or set(fields) == set(stored):
        return CaptionReader(stored, stored, sentences=sentences, model=model)
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
    return CaptionReader(tuple(name for name in stored if name in fields), stored, model=model)


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
    captions: int
    """How many were read."""


def caption_statistics(dataset: Dataset, split: str, reader: CaptionReader) -> CaptionStatistics:
    """Return the statistics: those of all splits from `dataset.json` where it has them, else by one pass over the split."""
    if reader.keep == reader.stored and dataset.longest_caption is not None and reader.model is None:
        return CaptionStatistics(dataset.longest_caption, dataset.empty_captions, sum(dataset.splits.values()))
    key = (dataset.fingerprint, split, reader)
    if key not in _STATISTICS:
        texts = [reader.text(caption) for caption in captions(dataset, split)]
        longest = max(len(token_ids(text, reader.model)) for text in texts)
        _STATISTICS[key] = CaptionStatistics(longest, texts.count(""), len(texts))
    return _STATISTICS[key]


_STATISTICS: dict[tuple[str, str, CaptionReader], CaptionStatistics] = {}
