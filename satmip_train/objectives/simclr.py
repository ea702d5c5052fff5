"""SimCLR: two views of an image attract, the paper's baseline (section 3.2, eq. 3)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from satmip_train.config import Settings
from satmip_train.models.backbones import feature_dim
from satmip_train.models.heads import ssl_head
from satmip_train.models.pretrained import start_backbone
from satmip_train.objectives.base import MetadataShape, Objective, masked_pairs
from satmip_train.objectives.losses import chance_level, view_loss


class SimCLR(Objective):
    """Image-image learning alone. Metadata are not read."""

    view_sources = ("image", "image")
    reads = frozenset({"ssl_hidden", "ssl_dim", "temperature", "negatives"})

    def __init__(self, settings: Settings, shape: MetadataShape) -> None:
        super().__init__(settings)
        self.backbone, self.start = start_backbone(settings)
        self.ssl_head = self.head(feature_dim(self.backbone))

    def head(self, width: int) -> nn.Module:
        """Return the projection head, with fresh weights: (B, width) -> (B, ssl_dim)."""
        return ssl_head(width, self.settings.ssl_hidden, self.settings.ssl_dim)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return "loss", and "loss_views", the same."""
        _, one, two = self.project(batch)
        return self.contrast(batch, one, two)

    def project(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features of the first view, (B, width), and the projections of both, not normalized, each (B, ssl_dim)."""
        one, two = self.encode(batch["views"])
        # The head's batch norms see each view separately.
        return one, self.ssl_head(one), self.ssl_head(two)

    def contrast(self, batch: Mapping[str, Any], one: Tensor, two: Tensor) -> dict[str, Tensor]:
        """Return the loss of the projections and its parts."""
        excluded = self.excluded(batch)
        loss = view_loss(one, two, self.settings.temperature, self.settings.negatives, excluded)
        return {"loss": loss, "loss_views": loss.detach(), **masked_pairs(excluded)}

    def chance(self) -> dict[str, float]:
        """See `Objective.chance`."""
        level = chance_level(self.settings.batch_size, self.settings.negatives)
        return {"loss": level, "loss_views": level}
