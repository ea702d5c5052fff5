"""SatMIPS: SatMIP and SimCLR with one backbone (section 3.2, eq. 4)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from satmip_train.config import Settings
from satmip_train.models.backbones import feature_dim
from satmip_train.models.heads import ssl_head
from satmip_train.objectives.base import MetadataShape, masked_pairs
from satmip_train.objectives.losses import chance_level, view_loss
from satmip_train.objectives.satmip import SatMIP
from satmip_train.objectives.simclr import SimCLR


class SatMIPS(SatMIP):
    """Metadata-image and image-image learning together.

    Coupled, the first of two views serves both (the paper's method). Decoupled, the metadata have a view of their own, the
    first of three, as in SLIP.
    """

    reads = SatMIP.reads | SimCLR.reads | {"coupled", "simclr_weight"}

    def __init__(self, settings: Settings, shape: MetadataShape) -> None:
        super().__init__(settings, shape)
        self.view_sources = ("image",) * (2 if settings.coupled else 3)
        self.ssl_head = ssl_head(feature_dim(self.backbone), settings.ssl_hidden, settings.ssl_dim)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return "loss", its parts "loss_metadata" and "loss_views" (without their weight), and "temperature" (tau of eq. 1)."""
        features = self.encode(batch["views"])
        excluded = self.excluded(batch)
        loss_metadata = self.matching(features[0], self.metadata_encoder(batch), excluded)
        # The head's batch norms see each view separately.
        one, two = (self.ssl_head(view) for view in features[-2:])
        loss_views = view_loss(one, two, self.settings.temperature, self.settings.negatives, excluded)
        return {
            "loss": loss_metadata + self.settings.simclr_weight * loss_views,
            "loss_metadata": loss_metadata.detach(),
            "loss_views": loss_views.detach(),
            "temperature": self.matching.temperature(),
            **masked_pairs(excluded),
        }

    def chance(self) -> dict[str, float]:
        """See `Objective.chance`."""
        metadata = self.matching.chance()
        views = chance_level(self.settings.batch_size, self.settings.negatives)
        return {"loss": metadata + self.settings.simclr_weight * views, "loss_metadata": metadata, "loss_views": views}
