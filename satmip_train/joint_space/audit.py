"""Which records of an archive are probably wrong, and in which quantity: how much better other values explain the pictures.

Of a picture v and a record r, the loss of the metadata-image term (paper, eq. 2) makes the similarity s(v, r), times the learned
scale, an estimate of log p(r | v) / p(r). For one quantity of a record the score is

    log mean_c exp s(v, r with the value c) - s(v, r),

over values c drawn from the archive: the logarithm of how much better a value drawn blindly explains the picture than the recorded
one does, given the rest of the record. Of a whole record, c are other records of the archive. Scores are then centred on the median
and divided by the deviation (of the median absolute deviation) of all judged samples, so that quantities can be compared.

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
"""Records -> vectors of length 1 in the space that they share with images, (N, D)."""

RECORD = "record"
"""What stands for the name of a quantity where a record is doubted as a whole."""
VALUES, RECORDS = 32, 2048
"""Candidates: values of a quantity, and whole records, at most."""
_AT_ONCE = 4096
"""Records that are encoded at a time."""
_DEVIATION = 1.4826
"""Times the median absolute deviation: the standard deviation of a normal distribution."""


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
    reason: str
    gain: float
    """Natural logarithm of how much better it explains the picture than what is recorded."""


@dataclass(frozen=True)
class Scores:
    """Of some samples, how much better other values explain their pictures."""

    names: tuple[str, ...]
    """Quantities, and `RECORD`."""
    gains: Numbers
    """(N, names), natural logarithms; NaN where the quantity is unknown."""
    guesses: tuple[tuple[Guess | None, ...], ...]
    """For each sample one of each name; None where the quantity is unknown."""


@dataclass(frozen=True)
class Suspect:
    """A sample whose record is doubted."""

    entry: Entry
    quantity: str
    score: float
    """Of its most doubtful quantity, in deviations above the median sample; NaN where nothing of it is known."""
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
    """The judgement of an archive; rows are samples, in the order of `entries`."""

    entries: tuple[Entry, ...]
    names: tuple[str, ...]
    gains: Numbers
    scores: Numbers
    """(N, names), gains in deviations above the median."""
    guesses: tuple[tuple[Guess | None, ...], ...]
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


def score(judge: Judge, rows: Sequence[int], records: Sequence[Metadata], quantities: Sequence[Quantity], pools: Pools) -> Scores:
    """Return how much better other values explain some of a judge's pictures than the given records do.

    Args:
        judge: the network and its pictures
        rows: numbers of pictures, (n,)
        records: what is said of each of them, (n,)
        quantities: those that records may be wrong in; such as have no pool are passed over
        pools: other values
    """
    quantities = [quantity for quantity in quantities if quantity.name in pools.values]
    others = judge.encode(list(pools.records.values()))
    gains, guesses = [], []
    step = max(1, _AT_ONCE // (VALUES + 4))
    for start in range(0, len(rows), step):
        images, told = judge.images[list(rows[start : start + step])] * judge.scale, records[start : start + step]
        own = np.einsum("nd,nd->n", images, judge.encode(told)).astype(np.float64)
        columns = [_of_quantity(judge, images, told, own, quantity, pools.values[quantity.name]) for quantity in quantities]
        columns.append(_of_records(images, own, others, list(pools.records)))
        gains.append(np.stack([gain for gain, _ in columns], axis=1))
        guesses += zip(*(guess for _, guess in columns), strict=True)
    names = (*(quantity.name for quantity in quantities), RECORD)
    return Scores(names, np.concatenate(gains) if gains else np.empty((0, len(names))), tuple(guesses))


def _of_quantity(
    judge: Judge, images: Vectors, records: Sequence[Metadata], own: Numbers, quantity: Quantity, values: Sequence[Any]
) -> tuple[Numbers, list[Guess | None]]:
    """Return the gain of each record's candidates in one quantity, and the best of them."""
    tried: list[Metadata] = []
    parts = []
    for record in records:
        usual = mended(quantity, record)
        others = candidates(quantity, record, values)
        parts.append((len(others), list(usual)))
        tried += [*others, *usual.values()]
    vectors = judge.encode(tried) if tried else np.empty((0, images.shape[1]), np.float32)
    gains, guesses, start = np.full(len(records), np.nan), list[Guess | None](), 0
    for row, (count, slips) in enumerate(parts):
        stop = start + count + len(slips)
        better = (vectors[start:stop] @ images[row]).astype(np.float64) - own[row]
        if count:
            gains[row] = _log_mean_exp(better[:count])
        guesses.append(_guess(quantity, better, tried[start:stop], count, slips) if count else None)
        start = stop
    return gains, guesses


def _guess(quantity: Quantity, better: Numbers, tried: Sequence[Metadata], count: int, slips: Sequence[str]) -> Guess:
    """Return the value that explains a picture best; a usual mistake undone is preferred where it brings half as much."""
    best = int(better[:count].argmax())
    reason = "other values explain the picture better"
    if slips:
        slip = count + int(better[count:].argmax())
        if better[slip] > max(0.0, better[best] / 2):
            best, reason = slip, slips[slip - count]
    value = quantity.read(tried[best])
    return Guess(value, spoken(quantity, value), reason, float(better[best]))


def _of_records(images: Vectors, own: Numbers, others: Vectors, keys: Sequence[str]) -> tuple[Numbers, list[Guess | None]]:
    better = (images @ others.T).astype(np.float64) - own[:, None]
    best = better.argmax(axis=1)
    guesses: list[Guess | None] = [
        Guess(keys[number], f"as {keys[number]}", "records of other pictures explain this one better", float(better[row, number]))
        for row, number in enumerate(best)
    ]
    return np.array([_log_mean_exp(row) for row in better]), guesses


def _log_mean_exp(values: Numbers) -> float:
    highest = values.max()
    return float(highest + np.log(np.exp(values - highest).mean()))


def standardized(gains: Numbers) -> Numbers:
    """Return gains in robust deviations above the median of each column; NaN stays. Shape: (N, names) -> (N, names)."""
    found = np.full(gains.shape, np.nan)
    for column in range(gains.shape[1]):
        known = np.isfinite(gains[:, column])
        if known.any():
            values = gains[known, column]
            off = values - np.median(values)
            deviation = _DEVIATION * np.median(np.abs(off))
            found[known, column] = off / deviation if deviation > 0 else off
    return found


def judge_records(judges: Sequence[Judge], quantities: Sequence[Quantity], pools: Pools) -> Audit:
    """Judge every sample of some judges by its record, and rank them.

    Scores are standardized for each judge by itself, as networks differ. Neither the order of the samples nor that of the judges
    changes a score or a rank.
    """
    found = [
        score(judge, range(len(judge.entries)), [entry.metadata for entry in judge.entries], quantities, pools) for judge in judges
    ]
    names = found[0].names
    entries = tuple(entry for judge in judges for entry in judge.entries)
    gains, scores = (np.concatenate(parts) for parts in ([f.gains for f in found], [standardized(f.gains) for f in found]))
    guesses = tuple(row for scored in found for row in scored.guesses)
    return Audit(entries, names, gains, scores, guesses, tuple(_ranked(entries, names, scores, guesses)))


def overall(scores: Numbers) -> Numbers:
    """Return the score of each sample: that of its most doubtful quantity; NaN where none is known. Shape: (N, names) -> (N,)."""
    known = np.isfinite(scores).any(axis=1)
    return np.where(known, np.where(np.isfinite(scores), scores, -np.inf).max(axis=1), np.nan)


def _ranked(
    entries: Sequence[Entry],
    names: Sequence[str],
    scores: Numbers,
    guesses: Sequence[Sequence[Guess | None]],
) -> Iterator[Suspect]:
    """Give every sample, the most suspect first: those that contradict themselves, then by score, then by key."""
    highest = overall(scores)
    refuted = [contradictions(entry.metadata, entry.flags) for entry in entries]

    def order(row: int) -> tuple[bool, float, str]:
        value = highest[row]
        return not refuted[row], np.inf if np.isnan(value) else -float(value), entries[row].key

    for row in sorted(range(len(entries)), key=order):
        entry = entries[row]
        column = 0 if np.isnan(highest[row]) else int(np.nanargmax(scores[row]))
        guess = guesses[row][column]
        reason = "nothing of it is known" if guess is None else guess.reason
        if refuted[row]:
            reason = "; ".join(why for _, why in refuted[row])
        recorded = said(names[column], entry.metadata, names)
        yield Suspect(entry, names[column], float(highest[row]), recorded, guess, reason, bool(refuted[row]))


def said(name: str, metadata: Metadata, names: Sequence[str]) -> str:
    """Return what a record says of a quantity in words; of `RECORD`, all that it says of the quantities of `names`."""
    asked = [QUANTITIES[other] for other in (names if name == RECORD else (name,)) if other != RECORD]
    values = [(quantity, quantity.read(metadata)) for quantity in asked]
    return ", ".join(spoken(quantity, value) for quantity, value in values if value is not None)
