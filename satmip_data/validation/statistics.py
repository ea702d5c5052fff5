"""Checks of `dataset.json` against its shards and samples. Pure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from satmip_data.metadata.tabular import ROUNDING
from satmip_data.names import counted
from satmip_data.shards.dataset import TRAIN
from satmip_data.shards.record import CaptionCount, ChannelSums
from satmip_data.validation.problem import Problem

DATASET = "dataset.json"


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums of the known numeric features of some samples. Shape of each: (F,)."""

    known: np.ndarray[Any, np.dtype[np.float64]]
    total: np.ndarray[Any, np.dtype[np.float64]]
    squares: np.ndarray[Any, np.dtype[np.float64]]

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.known + other.known, self.total + other.total, self.squares + other.squares)


def check_dataset(dataset: dict[str, Any]) -> list[Problem]:
    """Return where the totals of `dataset.json` do not follow from its shards."""
    found = list(_check_splits(dataset))
    for check, follows in (("channels", _channels), ("caption", _caption)):
        try:
            wanted = follows(dataset)
        except (TypeError, ValueError, KeyError) as error:
            found.append(Problem(DATASET, check, f"The {check} of its shards cannot be read: {error!r}"))
            continue
        stated = {name: dataset[check][name] for name in wanted}
        if stated != wanted:
            found.append(Problem(DATASET, check, f"{check} is {stated}, and from its shards follows {wanted}"))
    return found


def _check_splits(dataset: dict[str, Any]) -> Iterator[Problem]:
    shards = dataset["shards"]
    for shard in shards:
        if not shard["name"].startswith(f"{shard['split']}/") or shard["split"] not in dataset["splits"]:
            yield Problem(DATASET, "counts", f"The shard {shard['name']} is listed for the split {shard['split']!r}")
    for split, entry in dataset["splits"].items():
        own = [shard["samples"] for shard in shards if shard["split"] == split]
        if (sum(own), len(own)) != (entry["samples"], entry["shards"]):
            told = f"{counted(entry['samples'], 'sample')} in {counted(entry['shards'], 'shard')}"
            yield Problem(DATASET, "counts", f"The split {split} is told to have {told}; its shards have {sum(own)} in {len(own)}")


def _channels(dataset: dict[str, Any]) -> dict[str, Any]:
    """Return the statistics of the channels that follow from the sums of the train shards; nothing where these are not there."""
    train = [shard for shard in dataset["shards"] if shard["split"] == TRAIN]
    if not train or not all("channels" in shard for shard in train):
        return {}
    sums = ChannelSums()
    for shard in train:
        sums.add(ChannelSums(**shard["channels"]))
    mean, std = sums.mean_std()
    return {"mean": mean, "std": std, "samples": sum(shard["samples"] for shard in train)}


def _caption(dataset: dict[str, Any]) -> dict[str, Any]:
    """Return what the captions are counted as, from the counts of the shards; nothing where these are not there."""
    if not all("captions" in shard for shard in dataset["shards"]):
        return {}
    counts = CaptionCount()
    for shard in dataset["shards"]:
        counts.merge(CaptionCount(**shard["captions"]))
    return counts.to_json()


def moments_of(rows: list[tuple[Any, Any]], columns: int) -> Moments:
    """Return the sums over (values, mask) of samples, each of shape (columns,)."""
    if not rows:
        zero = np.zeros(columns)
        return Moments(zero, zero, zero)
    values = np.stack([row[0] for row in rows]).astype(np.float64)
    mask = np.stack([row[1] for row in rows])
    values = np.where(mask, values, 0.0)
    return Moments(mask.sum(0).astype(np.float64), values.sum(0), (values**2).sum(0))


def check_standardized(dataset: dict[str, Any], train: list[Moments]) -> Iterator[Problem]:
    """Check mean 0 and deviation 1 over the train split, of which every sample is there."""
    if not train:
        return
    sums = train[0]
    for moments in train[1:]:
        sums = sums + moments
    for i, column in enumerate(dataset["numeric"]):
        known = sums.known[i]
        if known != column["known"]:
            yield Problem(
                "dataset.json", "statistics", f"{column['name']} is known {known:g} times; dataset.json says {column['known']}"
            )
            continue
        if known == 0:
            continue
        mean = sums.total[i] / known
        std = math.sqrt(max(sums.squares[i] / known - mean**2, 0.0))
        constant = column["std"] == 1.0 and std <= ROUNDING * abs(column["mean"]) + 1e-6
        if abs(mean) > 1e-4 or not (abs(std - 1) < 1e-3 or constant):
            found = f"mean {mean:.2e} and deviation {std:.6f}"
            yield Problem("dataset.json", "statistics", f"{column['name']} has {found} over the train split, instead of 0 and 1")
