"""Retrieval between images and metadata: how often the right one is found, and how wrong on the ground what is found is.

NOTE[DIFF] The paper reports no retrieval. It is what the metadata-image loss is trained for (section 3.1), and as metadata are
physical, an error is one in kilometres, days, hours and metres rather than a rank alone.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pyproj import Geod
from torch import Tensor
from torch.nn import functional as F

from satmip_data.metadata import clock
from satmip_train.data.dataset import Dataset
from satmip_train.data.tar import Readers
from satmip_train.evaluation import constants
from satmip_train.evaluation.evaluate import describe_model, describe_split
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import Model, image_features, load_model, metadata_features_of
from satmip_train.evaluation.tables import Result
from satmip_train.runs import checkpoint
from satmip_train.runs.export import Projections, load_projections

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

DEPTHS = (1, 5, 10)
DIRECTIONS = ("image_to_metadata", "metadata_to_image")
ERRORS = {
    "kilometres": "kilometres on the ground between the locations",
    "days": "days between the days of the year, of at most 183",
    "hours": "hours between the times of day (UTC), of at most 12",
    "years": "years between the times",
    "gsd_ratio": "ratio of the GSDs, the larger over the smaller",
}
_CHANCE_DRAWS = 32
_SIMILARITIES = 1 << 25


@dataclass(frozen=True)
class Physical:
    """True values of the samples of a split; NaN where unknown. Each (N,)."""

    longitude: Numbers
    latitude: Numbers
    """Degrees, EPSG:4326."""
    day: Numbers
    """Days since the start of the year, with fraction, of a mean year of 365.25 days."""
    hour: Numbers
    """Hours since midnight, UTC, with fraction."""
    year: Numbers
    """Years, with fraction."""
    gsd: Numbers
    """Metres: the geometric mean of those along x and y."""


def search(queries: Tensor, gallery: Tensor) -> tuple[Indices, Indices]:
    """Return by cosine similarity the rank, from 1, of each query's own partner, and the number of what is found first.

    The partner is the gallery's vector of the same number. Of equal similarities the lower number comes first, so a network that
    maps all to one vector is at chance.
    Shape: queries, gallery (N, D) -> (N,), (N,).
    """
    queries, gallery = F.normalize(queries.float(), dim=1), F.normalize(gallery.float(), dim=1)
    numbers = torch.arange(len(gallery), device=gallery.device)
    step = max(1, _SIMILARITIES // len(gallery))
    places, best = [], []
    for start in range(0, len(queries), step):
        similarity = queries[start : start + step] @ gallery.mT  # (B, N)
        own = numbers[start : start + len(similarity), None]
        value = similarity.gather(1, own)
        ahead = (similarity > value) | ((similarity == value) & (numbers < own))
        places.append(ahead.sum(1) + 1)
        # The first of equals; `argmax` promises no order.
        highest = similarity == similarity.amax(1, keepdim=True)
        best.append(torch.where(highest, numbers, len(gallery)).amin(1))
    return torch.cat(places).cpu().numpy(), torch.cat(best).cpu().numpy()


def rank_metrics(found: Indices) -> dict[str, float]:
    """Return R@1, R@5 and R@10 (in 0..1), and the median rank. Shape: ranks from 1, (N,)."""
    return {**{f"recall_{k}": float(np.mean(found <= k)) for k in DEPTHS}, "median_rank": float(np.median(found))}


def chance_metrics(samples: int) -> dict[str, float]:
    """Return what `rank_metrics` gives on average where the order is random."""
    return {**{f"recall_{k}": min(k / samples, 1.0) for k in DEPTHS}, "median_rank": (samples + 1) / 2}


def errors(truth: Physical, found: Indices) -> dict[str, Numbers]:
    """Return for each sample how far off the sample is that was found for it; NaN where one of the two is not known.

    Shape: found (N,), numbers of samples -> each (N,), in the units of `ERRORS`.
    """
    other = Physical(*(values[found] for values in vars(truth).values()))
    known = np.isfinite(truth.longitude) & np.isfinite(other.longitude)
    kilometres = np.full(len(found), np.nan)
    lon, lat, to_lon, to_lat = (values[known] for values in (truth.longitude, truth.latitude, other.longitude, other.latitude))
    _, _, metres = Geod(ellps="WGS84").inv(lon, lat, to_lon, to_lat)
    kilometres[known] = np.asarray(metres) / 1000
    return {
        "kilometres": kilometres,
        "days": _around(truth.day - other.day, clock.YEAR_DAYS),
        "hours": _around(truth.hour - other.hour, clock.DAY_HOURS),
        "years": np.abs(truth.year - other.year),
        "gsd_ratio": np.exp(np.abs(np.log(truth.gsd) - np.log(other.gsd))),
    }


def _around(difference: Numbers, whole: float) -> Numbers:
    """Return the distance on a circle of the given length."""
    part = np.abs(difference) % whole
    return np.minimum(part, whole - part)


def error_medians(truth: Physical, found: Indices) -> dict[str, float | None]:
    """Return the median of each error over the samples where it is known; None where it is known of none."""
    return {name: _median(values) for name, values in errors(truth, found).items()}


def chance_medians(truth: Physical, seed: int = 0) -> dict[str, float | None]:
    """Return the median of each error where a random sample is found, over 32 draws for each sample."""
    rng = np.random.default_rng(seed)
    draws = [errors(truth, rng.integers(0, len(truth.day), len(truth.day))) for _ in range(_CHANCE_DRAWS)]
    return {name: _median(np.concatenate([draw[name] for draw in draws])) for name in ERRORS}


def best_constants(truth: Physical) -> dict[str, float | None]:
    """Return the smallest median of each error that one answer to all samples has; of locations, one of the samples' own."""
    ratio = constants.best_constant(np.log(truth.gsd))
    return {
        "kilometres": constants.best_place(truth.longitude, truth.latitude),
        "days": constants.best_constant(truth.day, clock.YEAR_DAYS),
        "hours": constants.best_constant(truth.hour, clock.DAY_HOURS),
        "years": constants.best_constant(truth.year),
        "gsd_ratio": None if ratio is None else float(np.exp(ratio)),
    }


def _median(values: Numbers) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def read_physical(dataset: Dataset, split: str) -> Physical:
    """Read what the samples of a split are in the world, in stored order.

    Raises:
        UsageError: there is no such split, or a sample has no metadata.
    """
    readers = Readers(dataset, split)
    rows = [
        physical_row(json.loads(readers[number].read(index, "json"))["metadata"])
        for number, shard in enumerate(readers.shards)
        for index in range(shard.samples)
    ]
    return Physical(*np.array(rows, np.float64).T)


def physical_row(metadata: dict[str, Any]) -> tuple[float, ...]:
    """Return the numbers of `Physical`."""
    unknown = float("nan")
    longitude, latitude = metadata["location"] or (unknown, unknown)
    gsd = metadata["gsd"]
    day = hour = year = unknown
    if metadata["timestamp"] is not None:
        time = datetime.fromisoformat(metadata["timestamp"])
        day, hour, year = clock.day_of_year(time), clock.hour_of_day(time), clock.year(time)
    return longitude, latitude, day, hour, year, unknown if gsd is None else float(np.sqrt(gsd[0] * gsd[1]))


def retrieve(runs: Sequence[Path], dataset: Dataset, split: str, running: Running, progress: Callable[[str, int], None]) -> Result:
    """Retrieve metadata by images and images by metadata with the two projections of each run.

    Raises:
        UsageError: a run did not learn from metadata, or the split cannot be read.
    """
    loaded = [(load_model(run, "both"), load_projections(run)) for run in runs]
    truth = read_physical(dataset, split)
    results = []
    for model, projections in loaded:
        progress(model.name, 0)
        image, metadata = _embeddings(model, projections, dataset, split, running, progress)
        found = dict(zip(DIRECTIONS, ((image, metadata), (metadata, image)), strict=True))
        results.append({**describe_model(model), **{name: _direction(truth, *pair) for name, pair in found.items()}})
    samples = len(truth.day)
    return {
        "probe": "retrieval",
        "units": ERRORS,
        "settings": {"precision": running.precision, "depths": list(DEPTHS)},
        "test": describe_split(dataset, split),
        "models": results,
        "chance": {"metrics": chance_metrics(samples), "errors": chance_medians(truth)},
        "best_constant": best_constants(truth),
        "versions": checkpoint.versions(),
    }


def _embeddings(
    model: Model,
    projections: Projections,
    dataset: Dataset,
    split: str,
    running: Running,
    progress: Callable[[str, int], None],
) -> tuple[Tensor, Tensor]:
    """Return images and metadata in their common space, on the device. Shape: (N, embed_dim) each."""
    running = replace(running, progress=lambda samples: progress(model.name, samples))
    image, metadata = image_features(model, dataset, split, running), metadata_features_of(model, dataset, split, running)
    found = [
        projection.to(running.device)(torch.from_numpy(part.vectors).to(running.device))
        for part, projection in zip((image, metadata), (projections.image, projections.metadata), strict=True)
    ]
    return found[0], found[1]


def _direction(truth: Physical, queries: Tensor, gallery: Tensor) -> Result:
    places, found = search(queries, gallery)
    return {"metrics": rank_metrics(places), "errors": error_medians(truth, found)}
