"""Where an image lies, as a class to predict: clusters of locations (Ayush et al. 2021)."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from satmip_train.config import Settings
from satmip_train.data.places import Space, cluster_centres
from satmip_train.objectives.losses import cluster_loss


class GeoClassifier(nn.Module):
    """Predicts the cluster of locations of an image: a linear layer on its features, or on the ReLU of its projection."""

    centres: Tensor | None
    """The clusters' centres in the space of `geo_space`, (clusters, 2 or 3); None before `fit`. Saved with the weights."""

    def __init__(self, width: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        # A projection ends with a linear layer, to which another one alone would add nothing.
        first = nn.ReLU() if settings.geo_input == "projection" else nn.Identity()
        self.head = nn.Sequential(first, nn.Linear(width, settings.geo_clusters))
        self.register_buffer("centres", None)

    def fit(self, locations: npt.NDArray[np.float64]) -> None:
        """Find the clusters of locations, (N, 2) longitudes and latitudes in degrees, NaN where unknown.

        Raises:
            ValueError: there are fewer different locations than clusters.
        """
        centres = cluster_centres(locations, self.settings.geo_clusters, self.settings.geo_space, self.settings.seed)
        self.centres = torch.tensor(centres, dtype=torch.float32)

    def labels(self, location: Tensor) -> Tensor:
        """Return the nearest cluster of each location, -1 where it is unknown. Shape: (B, 2) -> (B,) int64.

        Raises:
            ValueError: the clusters were not found yet.
        """
        if self.centres is None:
            raise ValueError("the clusters must be fitted before the first step, however: there are none")
        distances = torch.cdist(_points(location, self.settings.geo_space), self.centres, compute_mode=_EXACT)
        return distances.argmin(dim=1).where(~location.isnan().any(dim=1), -1)

    def forward(self, inputs: Tensor, location: Tensor) -> Tensor:
        """Return the cross-entropy over the samples whose location is known. Shape: (B, width), (B, 2) -> () float32."""
        return cluster_loss(self.head(inputs), self.labels(location))

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
