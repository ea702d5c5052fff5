"""SimCLR-Geo: SimCLR that also predicts where an image lies, as one of the clusters of locations (Ayush et al. 2021; table 2)."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from satmip_train.config import Settings
from satmip_train.data.places import Places
from satmip_train.models.backbones import feature_dim
from satmip_train.objectives.base import MetadataShape
from satmip_train.objectives.geo import GeoClassifier
from satmip_train.objectives.simclr import SimCLR

GEO = frozenset({"geo_clusters", "geo_space", "geo_weight", "geo_input"})


class SimCLRGeo(SimCLR):
    """SimCLR, and a classifier of clusters of locations on the projection of the first view, or its features (`geo_input`).

    NOTE[DIFF] The paper gives no detail of its version "on top of SimCLR". As in Ayush et al. there are 100 clusters, the
    classifier reads the projection before it is normalized, only the first view is classified, and both losses weigh 1.
    """

    reads = SimCLR.reads | GEO

    def __init__(self, settings: Settings, shape: MetadataShape) -> None:
        super().__init__(settings, shape)
        self.batch_keys |= {"location"}
        self.geo = GeoClassifier(settings.ssl_dim if settings.geo_input == "projection" else feature_dim(self.backbone), settings)

    def fit(self, places: Callable[[], Places]) -> None:
        """Find the clusters. Raises ValueError where there are fewer locations than clusters."""
        self.geo.fit(places().location)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return "loss" and its parts "loss_views" and "loss_geo" (without its weight)."""
        features, one, two = self.project(batch)
        parts = self.contrast(batch, one, two)
        loss_geo = self.geo(one if self.settings.geo_input == "projection" else features, batch["location"])
        return {**parts, "loss": parts["loss"] + self.settings.geo_weight * loss_geo, "loss_geo": loss_geo.detach()}

    def chance(self) -> dict[str, float]:
        """See `Objective.chance`."""
        views, geo = super().chance()["loss_views"], self.geo.chance()
        return {"loss": views + self.settings.geo_weight * geo, "loss_views": views, "loss_geo": geo}
