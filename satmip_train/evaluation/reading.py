"""Reading of pictures: the record that lies nearest to each picture in the joint space, and how far off it is.

The picture is of a split that the network has not seen; the records are those of the split it learned from. So nothing can be found
but what the picture shows of its place and time. Beside the networks stand two baselines that see no picture.

NOTE[DIFF] The paper reads nothing off pictures; see `retrieval`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from satmip_train.data.dataset import Dataset
from satmip_train.data.tar import Readers
from satmip_train.evaluation.constants import best_constant, distances
from satmip_train.evaluation.evaluate import describe_model, describe_split
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import image_features, load_model, metadata_features_of
from satmip_train.evaluation.retrieval import Physical, physical_row
from satmip_train.evaluation.tables import Result
from satmip_train.runs import checkpoint
from satmip_train.runs.export import load_projections

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

QUANTITIES: dict[str, tuple[str, float | None]] = {
    "gsd": ("difference of the natural logarithms of the GSDs", None),
    "latitude": ("degrees between the latitudes", None),
    "day": ("days between the days of the year, of at most 183", 365.25),
    "sun_elevation": ("degrees between the elevations of the sun", None),
}
"""Quantities that are read: the words for the error, and the period of cyclic ones."""


@dataclass(frozen=True)
class Records:
    """True values of the samples of a split; NaN where unknown."""

    physical: Physical
    sun_elevation: Numbers
    """Degrees, (N,)."""

    @property
    def values(self) -> dict[str, Numbers]:
        """The quantities of `QUANTITIES`, each (N,); the GSD as its logarithm."""
        of = self.physical
        return {"gsd": np.log(of.gsd), "latitude": of.latitude, "day": of.day, "sun_elevation": self.sun_elevation}


def read_records(dataset: Dataset, split: str) -> Records:
    """Read the records of a split, in stored order.

    Raises:
        UsageError: there is no such split, or a sample has no metadata.
    """
    readers = Readers(dataset, split)
    found = [
        json.loads(readers[number].read(index, "json"))["metadata"]
        for number, shard in enumerate(readers.shards)
        for index in range(shard.samples)
    ]
    sun = [row.get("sun_elevation_angle") for row in found]
    physical = Physical(*np.array([physical_row(row) for row in found], np.float64).T)
    return Records(physical, np.array([np.nan if value is None else value for value in sun], np.float64))


def random_record(truth: Numbers, records: Numbers, circle: float | None = None) -> float | None:
    """Return the median error over all pairs of a picture and a record; None where no pair is known."""
    one, other = (values[np.isfinite(values)] for values in (truth, records))
    return float(np.median(distances(one[:, None], other[None], circle))) if len(one) and len(other) else None


def nearest_records(run: Path, dataset: Dataset, splits: tuple[str, str], running: Running, count: int) -> tuple[Indices, Numbers]:
    """Return for each picture of the first split the `count` records of the second that are nearest, and their similarities.

    Shape: (pictures, count) each, the nearest first.

    Raises:
        UsageError: the run did not learn from metadata, or a split cannot be read.
    """
    model, sides = load_model(run, "both"), load_projections(run)
    pictures = image_features(model, dataset, splits[0], running)
    records = metadata_features_of(model, dataset, splits[1], running)
    one = F.normalize(sides.image(torch.from_numpy(pictures.vectors)).float(), dim=1)
    other = F.normalize(sides.metadata(torch.from_numpy(records.vectors)).float(), dim=1)
    similarity, found = (one @ other.mT).topk(min(count, len(other)), dim=1)
    return found.numpy(), similarity.double().numpy()


def read(
    runs: Sequence[Path], dataset: Dataset, splits: tuple[str, str], running: Running, progress: Callable[[str, int], None]
) -> Result:
    """Read the pictures of the first split by the records of the second, with the two projections of each run.

    Raises:
        UsageError: a run did not learn from metadata, or a split cannot be read.
    """
    truth, records = (read_records(dataset, split).values for split in splits)
    models = []
    for run in runs:
        progress(run.name, 0)
        told = replace(running, progress=partial(progress, run.name))
        found = nearest_records(run, dataset, splits, told, 1)[0][:, 0]
        medians = {name: _median(distances(truth[name], records[name][found], circle)) for name, (_, circle) in QUANTITIES.items()}
        models.append({**describe_model(load_model(run)), "errors": medians})
    return {
        "probe": "reading",
        "units": {name: text for name, (text, _) in QUANTITIES.items()},
        "settings": {"precision": running.precision, "records": splits[1]},
        "test": describe_split(dataset, splits[0]),
        "models": models,
        "random_record": {n: random_record(truth[n], records[n], circle) for n, (_, circle) in QUANTITIES.items()},
        "best_constant": {n: best_constant(truth[n], circle) for n, (_, circle) in QUANTITIES.items()},
        "versions": checkpoint.versions(),
    }


def _median(values: Numbers) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
