"""Geo: where an image lies, as a class to predict: one of the clusters of locations (Ayush et al. 2021; table 2)."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from satmip_train.config import Settings
from satmip_train.data.places import Places, Space, cluster_centres
from satmip_train.objectives.losses import cluster_loss
from satmip_train.objectives.term import Encoders, Inputs, Term


class Geo(Term):
    """Predicts the cluster of the first view by a linear layer on its projection after a ReLU, or on its features (`geo_input`).

    The projection is that of the first term that has one, before it is normalized; where none has, features are read.
    """

    part = "loss_geo"
    reads = frozenset({"geo_clusters", "geo_space", "geo_input"})
    weight = "geo_weight"
    batch_keys = frozenset({"location"})
    centres: Tensor | None
    """The clusters' centres in the space of `geo_space`, (clusters, 2 or 3); None before `fit`. Saved with the weights."""

    def __init__(self, settings: Settings, encoders: Encoders) -> None:
        super().__init__(settings, encoders)
        projection = encoders.projection if settings.geo_input == "projection" else None
        self._from_projection = projection is not None
        # A projection ends with a linear layer, to which another one alone would add nothing.
        first = nn.Identity() if projection is None else nn.ReLU()
        self.head = nn.Sequential(first, nn.Linear(projection or encoders.width, settings.geo_clusters))
        self.register_buffer("centres", None)

    def fit(self, places: Callable[[], Places]) -> None:
        """Find the clusters. Raises ValueError where there are fewer different locations than clusters."""
        self.fit_locations(places().location)

    def fit_locations(self, locations: npt.NDArray[np.float64]) -> None:
        """Find the clusters of locations, (N, 2) longitudes and latitudes in degrees, NaN where unknown. Raises as `fit`."""
        centres = cluster_centres(locations, self.settings.geo_clusters, self.settings.geo_space, self.settings.seed)
        self.centres = torch.tensor(centres, dtype=torch.float32)

    def labels(self, location: Tensor) -> Tensor:
        """Return the nearest cluster of each location, -1 where it is unknown. Shape: (B, 2) -> (B,) int64.

        Raises:
            ValueError: the clusters were not found yet.
        """
        if self.centres is None:
            raise ValueError("There are no clusters yet. Call fit before the first step.")
        distances = torch.cdist(_points(location, self.settings.geo_space), self.centres, compute_mode=_EXACT)
        return distances.argmin(dim=1).where(~location.isnan().any(dim=1), -1)

    def forward(self, inputs: Inputs) -> Tensor:
        """See `Term.forward`: the cross-entropy over the samples whose location is known."""
        read = inputs.projections[0] if self._from_projection else inputs.one
        return cluster_loss(self.head(read), self.labels(inputs.batch["location"]))

    def chance(self) -> float:
        """Return the loss of a model for which all clusters are alike."""
        return math.log(self.settings.geo_clusters)


_EXACT = "donot_use_mm_for_euclid_dist"
"""The other mode rounds away what tells two near centres apart."""


def _points(location: Tensor, space: Space) -> Tensor:
    """Return locations in the space in which distances are taken: (B, 2) degrees -> (B, 2), or (B, 3) on the unit sphere."""
    if space == "raw":
        return location
    lon, lat = location.deg2rad().unbind(dim=1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=1)
