"""Which records of an archive are probably wrong, and in which quantity: how much better other values explain the pictures.

Of a picture v and a record r, the metadata-image loss (paper, eq. 2) makes the similarity s(v, r), times the learned scale, an
estimate of log p(r | v) / p(r) up to a number that is the same for all records. For one quantity of a record the score is

    log mean_c exp(s(v, r with c) - s(v, r)),

the logarithm of how much better another value explains the picture than the recorded one does, given the rest of the record.
Half of the weight have values c drawn from the archive, half the recorded value with a usual mistake undone, where there are such.
Of a whole record, c are other records of the archive. The score of a sample is the same mean over its quantities and the record as
a whole: the logarithm of how much better "something is wrong" explains the picture than "nothing is", all errors being as likely.

NOTE[DIFF] The paper audits nothing.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from satmip_data.records import Metadata
from satmip_train.joint_space.archive import Entry
from satmip_train.joint_space.candidates import candidates, mended, pool, spoken, varies
from satmip_train.joint_space.contradictions import contradictions
from satmip_train.joint_space.quantities import QUANTITIES, Quantity

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Encode = Callable[[Sequence[Metadata]], Vectors]
"""Records -> vectors of length 1 in the space that they share with images, (N, D); NaN where the network cannot read one."""

RECORD = "record"
"""What stands for the name of a quantity where a record is doubted as a whole."""
VALUES, RECORDS = 32, 2048
"""Candidates: values of a quantity, and whole records, at most."""
_AT_ONCE = 4096
"""Records that are encoded at a time, about."""


@dataclass(frozen=True)
class Judge:
    """A network, and pictures that it may judge the records of."""

    entries: tuple[Entry, ...]
    images: Vectors
    """Unit vectors of their pictures in the joint space, (N, D)."""
    encode: Encode
    scale: float
    """What similarities are multiplied by: 1 / temperature."""


@dataclass(frozen=True)
class Pools:
    """What recorded values are compared with; the same for all records of an archive."""

    values: Mapping[str, tuple[Any, ...]]
    """Of each quantity that varies."""
    records: Mapping[str, Metadata]
    """Whole records by their keys."""


@dataclass(frozen=True)
class Guess:
    """What the picture says instead."""

    value: Any
    """Of the quantity; of a whole record the key of another one."""
    text: str
    """The value, or what that other record says, in words."""
    reason: str


@dataclass(frozen=True)
class Scores:
    """Of some samples, how much better other values explain their pictures."""

    names: tuple[str, ...]
    """Quantities, and `RECORD`."""
    values: Numbers
    """(N, names), natural logarithms; NaN where the quantity is unknown, or the network cannot read the record."""
    guesses: tuple[tuple[Guess | None, ...], ...]
    """For each sample one of each name; None where the quantity is unknown."""


@dataclass(frozen=True)
class Suspect:
    """A sample whose record is doubted."""

    entry: Entry
    quantity: str
    """The most doubtful one, or `RECORD`."""
    score: float
    """Of the sample."""
    recorded: str
    guess: Guess | None
    """What the picture says; None where nothing of the record is known."""
    reason: str
    contradicts: bool
    """Whether a physical check failed."""

    @property
    def suggested(self) -> str:
        """What the picture says, in words; empty where it says nothing."""
        return "" if self.guess is None else self.guess.text


@dataclass(frozen=True)
class Audit:
    """The judgement of an archive."""

    entries: tuple[Entry, ...]
    scores: Scores
    """A row an entry."""
    suspects: tuple[Suspect, ...]
    """Every sample, the most suspect first."""


def make_pools(quantities: Sequence[Quantity], records: Mapping[str, Metadata], seed: int = 0) -> Pools:
    """Return what the records of an archive are compared with; their order changes nothing."""
    known = [quantity for quantity in quantities if varies(quantity, list(records.values()))]
    values = {quantity.name: pool(quantity, records, VALUES, seed) for quantity in known}
    chosen = sorted(records, key=lambda key: (_digest(key, seed), key))[:RECORDS]
    return Pools(values, {key: records[key] for key in sorted(chosen)})


def _digest(key: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/record/{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def score(judge: Judge, rows: Sequence[int], records: Sequence[Metadata], pools: Pools) -> Scores:
    """Return how much better other values explain some of a judge's pictures than the given records do.

    Args:
        judge: the network and its pictures
        rows: numbers of pictures, (n,)
        records: what is said of each of them, (n,)
        pools: other values
    """
    quantities = [QUANTITIES[name] for name in pools.values]
    others, names = judge.encode(list(pools.records.values())), (*pools.values, RECORD)
    values, guesses = [np.empty((0, len(names)))], list[tuple[Guess | None, ...]]()
    step = max(1, _AT_ONCE // (VALUES + 4))
    for start in range(0, len(rows), step):
        images, told = judge.images[list(rows[start : start + step])] * np.float32(judge.scale), records[start : start + step]
        own = (images * judge.encode(told)).sum(axis=1).astype(np.float64)
        columns = [_of_quantity(judge, images, told, own, quantity, pools.values[quantity.name]) for quantity in quantities]
        columns.append(_of_records(images, own, others, pools))
        values.append(np.stack([found for found, _ in columns], axis=1))
        guesses += zip(*(found for _, found in columns), strict=True)
    return Scores(names, np.concatenate(values), tuple(guesses))


def _of_quantity(
    judge: Judge, images: Vectors, records: Sequence[Metadata], own: Numbers, quantity: Quantity, pooled: Sequence[Any]
) -> tuple[Numbers, list[Guess | None]]:
    """Return the score of each record in one quantity, and the value that explains its picture best."""
    slips = [mended(quantity, record) for record in records]
    others = [candidates(quantity, record, pooled) for record in records]
    tried = [[*values, *usual.values()] for values, usual in zip(others, slips, strict=True)]
    flat = [record for row in tried for record in row]
    vectors = judge.encode(flat) if flat else np.empty((0, images.shape[1]), np.float32)
    values, guesses, start = np.full(len(records), np.nan), list[Guess | None](), 0
    for row, usual in enumerate(slips):
        better = (vectors[start : start + len(tried[row])] @ images[row]).astype(np.float64) - own[row]
        start += len(tried[row])
        drawn, undone = better[: len(others[row])], better[len(others[row]) :]
        values[row] = log_mean_exp(np.array([log_mean_exp(part) for part in (drawn, undone)]))
        if np.isfinite(values[row]):
            guesses.append(_guess(quantity, tried[row], drawn, undone, list(usual)))
        else:
            guesses.append(None)
    return values, guesses


def _guess(quantity: Quantity, tried: Sequence[Metadata], drawn: Numbers, undone: Numbers, slips: Sequence[str]) -> Guess:
    """Return the value that explains a picture best; a usual mistake undone is preferred where it brings half as much."""
    drawn, undone = (np.nan_to_num(part, nan=-np.inf) for part in (drawn, undone))
    best, reason = int(drawn.argmax()), "other values explain the picture better"
    if slips and undone.max() > max(0.0, drawn[best] / 2):
        best, reason = len(drawn) + int(undone.argmax()), slips[int(undone.argmax())]
    return Guess(quantity.read(tried[best]), spoken(quantity, tried[best]), reason)


def _of_records(images: Vectors, own: Numbers, others: Vectors, pools: Pools) -> tuple[Numbers, list[Guess | None]]:
    """Return the score of each record as a whole, and the record that explains its picture best."""
    better, keys = (images @ others.T).astype(np.float64) - own[:, None], list(pools.records)
    guesses: list[Guess | None] = [
        Guess(key, said(RECORD, pools.records[key], [*pools.values]), f"the record of {key} explains the picture better")
        for key in (keys[best] for best in np.nan_to_num(better, nan=-np.inf).argmax(axis=1))
    ]
    return np.array([log_mean_exp(row) for row in better]), guesses


def log_mean_exp(values: Numbers) -> float:
    """Return the logarithm of the mean of exponentials of those values that are no NaN; NaN where there are none."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan")
    highest = values.max()
    return float(highest + np.log(np.exp(values - highest).mean()))


def overall(values: Numbers) -> Numbers:
    """Return the scores of samples from those of their quantities; NaN where none is known. Shape: (N, names) -> (N,)."""
    return np.array([log_mean_exp(row) for row in values])


def judge_records(judges: Sequence[Judge], pools: Pools) -> Audit:
    """Judge every sample of some judges by its record, and rank them.

    Neither the order of the samples nor that of the judges changes a score or a rank.
    """
    found = [score(judge, range(len(judge.entries)), [entry.metadata for entry in judge.entries], pools) for judge in judges]
    entries = tuple(entry for judge in judges for entry in judge.entries)
    guesses = tuple(row for scored in found for row in scored.guesses)
    scores = Scores((*pools.values, RECORD), np.concatenate([scored.values for scored in found]), guesses)
    return Audit(entries, scores, tuple(_ranked(entries, scores)))


def _ranked(entries: Sequence[Entry], scores: Scores) -> Iterator[Suspect]:
    """Give every sample, the most suspect first: those that contradict themselves, then by score, then by key."""
    totals = overall(scores.values)
    refuted = [contradictions(entry.metadata, entry.flags) for entry in entries]

    def order(row: int) -> tuple[bool, float, str]:
        return not refuted[row], np.inf if np.isnan(totals[row]) else -float(totals[row]), entries[row].key

    for row in sorted(range(len(entries)), key=order):
        entry, values = entries[row], scores.values[row]
        column = 0 if np.isnan(totals[row]) else int(np.nanargmax(values))
        guess, name = scores.guesses[row][column], scores.names[column]
        reason = "the network can say nothing of it" if guess is None else guess.reason
        if refuted[row]:
            reason = "; ".join(why for _, why in refuted[row])
        recorded = said(name, entry.metadata, scores.names)
        yield Suspect(entry, name, float(totals[row]), recorded, guess, reason, bool(refuted[row]))


def said(name: str, metadata: Metadata, names: Sequence[str]) -> str:
    """Return what a record says of a quantity in words; of `RECORD`, all that it says of the quantities of `names`."""
    asked = [QUANTITIES[other] for other in (names if name == RECORD else (name,)) if other != RECORD]
    return ", ".join(text for quantity in asked if (text := spoken(quantity, metadata)))
