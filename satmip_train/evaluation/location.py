"""What the place alone tells: the classes of the nearest locations, without a picture.

NOTE[DIFF] The paper has no such row. Near places are alike, so where test samples lie beside train samples, a model that only
recognises the place looks good. This is what it would reach.
"""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import KNeighborsClassifier

from satmip_train.data.places import read_places
from satmip_train.errors import UsageError
from satmip_train.evaluation import probes
from satmip_train.evaluation.classifiers import described, primary_metric
from satmip_train.evaluation.evaluate import Protocol, assemble, check_labels
from satmip_train.evaluation.features import read_labels
from satmip_train.evaluation.tables import Result

Numbers = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """How many nearest locations vote, each with the same weight; of classes with the same vote the lower one wins."""

    k: int = 5


def by_location(train: Numbers, labels: Labels, test: Numbers, k: int) -> Labels:
    """Predict for each point the class that most of the k nearest train points have, by great-circle distance.

    Train points without a location are left out; a test point without one gets the class that most train points have.
    Shape: train (N, 2), longitude and latitude in degrees, NaN where unknown; labels (N,); test (M, 2) -> (M,).

    Raises:
        UsageError: no train point has a location.
    """
    located, asked = (np.isfinite(points).all(axis=1) for points in (train, test))
    if not located.any():
        raise UsageError("No train sample has a location. Use shards with locations (satmip-data fields: location)")
    predictions = np.full(len(test), np.bincount(labels).argmax())
    model = KNeighborsClassifier(min(k, int(located.sum())), metric="haversine", algorithm="ball_tree")
    model.fit(_radians(train[located]), labels[located])
    if asked.any():
        predictions[asked] = model.predict(_radians(test[asked]))
    return predictions


def _radians(points: Numbers) -> Numbers:
    """Return latitude and longitude in radians, as scikit-learn's haversine wants them."""
    return np.radians(points[:, ::-1])


def locate(protocol: Protocol, settings: Settings) -> Result:
    """Classify the test split by the locations of the train split.

    Raises:
        UsageError: a sample has no label or has several, or no train sample has a location.
    """
    labels = [read_labels(shards, split) for shards, split in protocol.splits]
    check_labels(protocol, *labels)
    if labels[0].ndim == 2:
        raise UsageError("Classes by location need one label a sample, and these shards have several. Use satmip-eval linear")
    points = [read_places(shards, split).location for shards, split in protocol.splits]
    found = probes.score(labels[1], by_location(points[0], labels[0], points[1], settings.k), len(protocol.train.classes))
    metrics, details = described(found, protocol.train.classes)
    model = {"name": f"location alone, {settings.k} nearest", "kind": "location", "run": None, "objective": None, "seed": None,
             "fingerprint": None, "settings": {}, "trained": {}, "features": 2, "metrics": metrics, **details}  # fmt: skip
    return assemble("location", protocol, asdict(settings), primary_metric(protocol.train.source, labels[1]), [model])
