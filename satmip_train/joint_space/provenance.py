"""What a run has learned from, so that no record is judged by a network that trained on it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satmip_train.config import Settings
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.errors import UsageError
from satmip_train.files import METADATA_WEIGHTS
from satmip_train.joint_space.archive import Entry, read_entries
from satmip_train.runs.checkpoint import saved_settings

FOLDS = "Use --folds 5 to train networks that have not seen what they judge"


@dataclass(frozen=True)
class Seen:
    """Samples that a run has trained on, as far as names tell."""

    keys: frozenset[str]
    places: frozenset[str]
    how: str
    """How that is known, in a sentence."""

    def of(self, entry: Entry) -> str | None:
        """Return why a run that has seen these must not judge a sample: "trained" or "place"; None where it may."""
        return "trained" if entry.key in self.keys else "place" if entry.place in self.places else None


@dataclass(frozen=True)
class Division:
    """Samples that a network may judge, and those that it may not."""

    judged: tuple[Entry, ...]
    trained: tuple[Entry, ...]
    """It has trained on them."""
    places: tuple[Entry, ...]
    """It has trained on others of their places."""

    @property
    def left_out(self) -> str | None:
        """What is not judged and why, in a sentence; None where all are."""
        parts = [
            f"{len(found):,} {what}"
            for found, what in ((self.trained, "it has trained on"), (self.places, "of places that it has trained on"))
            if found
        ]
        return f"Left out, since the network must not judge them: {', '.join(parts)}." if parts else None


def read_training(run: Path) -> tuple[Settings, dict[str, Any]]:
    """Return the settings of a finished run, and what its export says of the shards it learned from.

    Raises:
        UsageError: it has learned nothing from metadata, or its export is damaged.
    """
    path = (run / METADATA_WEIGHTS).with_suffix(".json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return saved_settings(config, path), config["dataset"]
    except OSError as error:
        raise UsageError(
            f"{run} cannot judge records, since it has no encoder of metadata ({path.name}). Use a run of satmip or satmips."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged: {error}. Run: satmip-train export {run}") from error


def seen_by(run: Path, dataset: Dataset, trained_on: str | None, unrelated: bool = False) -> Seen:
    """Return what a run has trained on: the samples and places of the split that it learned from.

    Args:
        run: folder of a finished run
        dataset: the shards whose records shall be judged
        trained_on: shards that the run learned from, where they lie elsewhere now
        unrelated: the user states that the run has seen nothing of the archive

    Raises:
        UsageError: nobody can tell; the message says why and what to do.
    """
    settings, said = read_training(run)
    if unrelated:
        return Seen(frozenset(), frozenset(), "Stated by --unrelated: the run has trained on none of these records.")
    if settings.init not in ("random", "timm"):
        raise UsageError(
            f"{run} began with the weights of {settings.init}, and nothing tells what those had learned from. "
            f"{FOLDS}, or --unrelated where you know that it was none of these records."
        )
    source = _shards_of(run, said, dataset, trained_on)
    entries = read_entries(source, [settings.split])
    same = "these shards" if source is dataset else source.root
    how = f'The run has trained on the split "{settings.split}" of {same}: {len(entries):,} samples, compared by key and place.'
    return Seen(frozenset(entry.key for entry in entries), frozenset(entry.place for entry in entries), how)


def _shards_of(run: Path, said: dict[str, Any], dataset: Dataset, trained_on: str | None) -> Dataset:
    if said["fingerprint"] == dataset.fingerprint:
        return dataset
    root = said["root"] if trained_on is None else trained_on
    try:
        source = open_dataset(root)
    except (UsageError, OSError) as error:
        if trained_on is not None:
            raise
        raise UsageError(
            f"Nothing tells whether {run} has trained on these records: the shards that it learned from, {root}, are not there. "
            f"Use --trained-on to say where they are. {FOLDS}, or --unrelated where you know that it has not."
        ) from error
    if source.fingerprint != said["fingerprint"]:
        raise UsageError(
            f"Nothing tells whether {run} has trained on these records: {root} holds other shards than it learned from "
            f"(fingerprint {source.fingerprint[:12]}, the run's is {said['fingerprint'][:12]}). "
            f"Use --trained-on to say where those are. {FOLDS}, or --unrelated where you know that it has not."
        )
    return source


def divide(entries: Sequence[Entry], seen: Seen) -> Division:
    """Tell the samples that a network may judge from those that it may not."""
    why = [seen.of(entry) for entry in entries]
    chosen = (tuple(e for e, reason in zip(entries, why, strict=True) if reason == which) for which in (None, "trained", "place"))
    return Division(*chosen)


def folds(entries: Sequence[Entry], count: int, seed: int = 0) -> list[tuple[Entry, ...]]:
    """Return the samples in `count` parts of about equal size; samples of a place stay together.

    Which part a place falls into depends on the names and sizes of the places and on the seed, not on the order of the samples.

    Raises:
        UsageError: there are fewer places than parts.
    """
    places: dict[str, list[Entry]] = {}
    for entry in entries:
        places.setdefault(entry.place, []).append(entry)
    if len(places) < count:
        raise UsageError(f"{count} folds need as many places, and there are {len(places)}. Use --folds {max(len(places), 2)}.")

    def order(place: str) -> tuple[int, bytes]:
        digest = hashlib.blake2b(f"{seed}/fold/{place}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return -len(places[place]), digest

    sizes, fold_of = [0] * count, {}
    for place in sorted(places, key=order):
        fold_of[place] = sizes.index(min(sizes))
        sizes[fold_of[place]] += len(places[place])
    return [tuple(entry for entry in entries if fold_of[entry.place] == number) for number in range(count)]


def fold_settings(run: Path, samples: int) -> Settings:
    """Return the settings by which a network is trained on the samples of other folds: those of a run.

    Raises:
        UsageError: the run began with weights that may have seen the archive, or its batch is larger than what is left to train on.
    """
    settings, _ = read_training(run)
    if settings.init not in ("random", "timm"):
        raise UsageError(
            f"{run} began with the weights of {settings.init}, and so would the network of each fold; nothing tells what those had "
            "learned from. Use a run that began with --init random"
        )
    if settings.batch_size > samples:
        raise UsageError(
            f"The batch of {settings.batch_size} is larger than the {samples:,} samples that a fold trains on. Use a run with a "
            "smaller --batch-size"
        )
    return settings
