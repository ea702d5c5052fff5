"""SimCLR: two views of an image attract, the paper's baseline (section 3.2, eq. 3)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from satmip_train.backbones import create_backbone, feature_dim
from satmip_train.config import Settings
from satmip_train.heads import ssl_head
from satmip_train.losses import chance_level, view_loss
from satmip_train.objectives.base import MetadataShape, Objective


class SimCLR(Objective):
    """Image-image learning alone. Metadata are not read."""

    def __init__(self, settings: Settings, shape: MetadataShape) -> None:
        super().__init__()
        self.settings = settings
        self.view_sources = ("image", "image")
        self.backbone = create_backbone(settings)
        self.ssl_head = ssl_head(feature_dim(self.backbone), settings.ssl_hidden, settings.ssl_dim)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return "loss", and "loss_views", the same."""
        one, two = self.encode(batch["views"])
        # The head's batch norms see each view separately.
        loss = view_loss(self.ssl_head(one), self.ssl_head(two), self.settings.temperature, self.settings.negatives)
        return {"loss": loss, "loss_views": loss.detach()}

    def chance(self) -> dict[str, float]:
        """See `Objective.chance`."""
        level = chance_level(self.settings.batch_size, self.settings.negatives)
        return {"loss": level, "loss_views": level}
