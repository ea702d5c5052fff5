"""Places of a split: samples that show the same spot, and their locations on Earth."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from satmip_data.names import counted
from satmip_train.data.dataset import Dataset
from satmip_train.data.tar import Readers

Space = Literal["raw", "sphere"]
ONE_SPOT = 1.0
"""Kilometres of `Places.spread` above which a place is no spot that is seen again, but a region."""
_EARTH = 6371.0088


@dataclass(frozen=True)
class Places:
    """The place and the location of each sample of a split, in stored order: about 40 bytes a sample."""

    starts: npt.NDArray[np.int64]
    """Number of the first sample of each shard, and of all samples at the end: (shards + 1,)."""
    place: npt.NDArray[np.int64]
    """Number of each sample's place, from 0: (N,)."""
    location: npt.NDArray[np.float64]
    """Longitude and latitude in degrees, NaN where unknown: (N, 2)."""

    @cached_property
    def _by_place(self) -> tuple[npt.NDArray[np.int64], ...]:
        """The samples sorted by place; of each place its size and the index of its first; of each sample its rank in its place."""
        order, counts = np.argsort(self.place, kind="stable"), np.bincount(self.place)
        firsts = np.cumsum(counts) - counts
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(firsts, counts)
        return order, counts, firsts, rank

    def partners(self, positions: npt.NDArray[np.int64], draws: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return for each sample another one of its place, or itself where there is none (SimCLR-TP; Ayush et al. 2021).

        All other samples of the place are as likely; the time between the two does not matter.

        Shape:
            positions: (B, 2), rows (shard, index in the shard)
            draws: (B,), uniform in [0, 1)
            return: (B, 2), as positions
        """
        order, counts, firsts, rank = self._by_place
        sample = self.starts[positions[:, 0]] + positions[:, 1]
        place = self.place[sample]
        others = counts[place] - 1
        # One of the others, counted on from the sample itself. The largest draw below 1 times their number still rounds down.
        step = (draws * others).astype(np.int64) + (others > 0)
        chosen = order[firsts[place] + (rank[sample] + step) % counts[place]]
        shard = np.searchsorted(self.starts, chosen, side="right") - 1
        return np.stack([shard, chosen - self.starts[shard]], axis=1)

    def spread(self) -> float:
        """Return the median distance in kilometres between a sample and the middle of its place: about 0 where a place is one spot.

        Of places with two known locations or more; NaN where there is none. Distances are those of a flat Earth, good for a place.
        """
        known = np.isfinite(self.location).all(axis=1)
        place, (lon, lat) = self.place[known], np.radians(self.location[known]).T
        counts = np.bincount(place)
        east, north = np.cos(lat) * _from_middle(lon, place, counts), _from_middle(lat, place, counts)
        apart = _EARTH * np.hypot(east, north)[counts[place] > 1]
        return float(np.median(apart)) if len(apart) else math.nan

    def strangers(self, seed: int) -> npt.NDArray[np.int64]:
        """Return for each sample one of another place: a permutation, the same for the same seed. Shape: (N,).

        Raises:
            ValueError: half of the samples or more are of one place.
        """
        counts = np.bincount(self.place)
        if 2 * (most := int(counts.max())) > len(self.place):
            raise ValueError(
                f"Metadata cannot be shuffled between places: one place has {most:,} of {counted(len(self.place), 'sample')}. "
                "Leave --shuffle-metadata out."
            )
        ranks = np.random.default_rng(seed).permutation(len(counts))
        order = np.argsort(ranks[self.place], kind="stable")  # place after place
        found = np.empty_like(order)
        found[order] = np.roll(order, -most)
        return found


def _from_middle(angles: npt.NDArray[np.float64], place: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> Any:
    """Return how far angles in radians are from the mean of their place, also across the antimeridian. Shape: (N,) -> (N,)."""
    middle = np.arctan2(*(np.bincount(place, part)[place] / counts[place] for part in (np.sin(angles), np.cos(angles))))
    return np.angle(np.exp(1j * (angles - middle)))


def cluster_centres(locations: npt.NDArray[np.float64], clusters: int, space: Space, seed: int) -> npt.NDArray[np.float64]:
    """Return the k-means centres of the known locations, the same for the same arguments.

    "raw" takes longitude and latitude as plain numbers, as Ayush et al. 2021 do, so clusters end at the date line and are narrow
    near the poles; "sphere" takes points on the unit sphere.

    Shape:
        locations: (N, 2), longitude and latitude in degrees, NaN where unknown
        return: (clusters, 2), or (clusters, 3) on the sphere (inside it, as means of points)

    Raises:
        ValueError: there are fewer different locations than clusters.
    """
    # Imported late: it takes a second and few runs need it.
    from sklearn.cluster import KMeans

    known = locations[~np.isnan(locations).any(axis=1)]
    if (different := len(np.unique(known, axis=0))) < clusters:
        advice = f"--geo-clusters {different}" if different > 1 else "an --objective without Geo"
        raise ValueError(
            f"Geo needs as many different locations as clusters, and the split has {different} for --geo-clusters {clusters}. "
            f"Use {advice}."
        )
    return np.asarray(
        KMeans(clusters, n_init=1, random_state=seed).fit(sphere(known) if space == "sphere" else known).cluster_centers_
    )


def sphere(locations: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return locations as points on the unit sphere. Shape: (N, 2), longitude and latitude in degrees -> (N, 3)."""
    lon, lat = np.radians(locations).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def read_places(dataset: Dataset, split: str) -> Places:
    """Read the places of a split: one pass over its JSON members, then from memory.

    Raises:
        UsageError: a sample has no JSON member.
    """
    key = (dataset.fingerprint, split)
    if key not in _PLACES:
        readers, names, locations = Readers(dataset, split), [], []
        for number, shard in enumerate(readers.shards):
            for index in range(shard.samples):
                record = json.loads(readers[number].read(index, "json"))
                names.append(record["place"])
                locations.append(record["metadata"]["location"] or (math.nan, math.nan))
        starts = np.cumsum([0, *(shard.samples for shard in readers.shards)])
        _PLACES[key] = Places(starts, np.unique(names, return_inverse=True)[1], np.array(locations, np.float64))
    return _PLACES[key]


_PLACES: dict[tuple[str, str], Places] = {}
