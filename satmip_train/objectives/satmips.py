"""SatMIPS: SatMIP and SimCLR with one backbone (section 3.2, eq. 4)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from satmip_train.backbones import create_backbone, feature_dim
from satmip_train.config import Settings
from satmip_train.heads import clamp_logit_scale, linear_projection, new_logit_scale, ssl_head
from satmip_train.losses import chance_level, metadata_image_loss, view_loss
from satmip_train.metadata_encoders import TabularEncoder, TextEncoder, create_metadata_encoder
from satmip_train.objectives.base import MetadataShape, Objective


class SatMIPS(Objective):
    """Metadata-image and image-image learning together.

    Coupled, the first of two views serves both (the paper's method). Decoupled, the metadata have a view of their own, the
    first of three, as in SLIP.
    """

    metadata_encoder: TextEncoder | TabularEncoder

    def __init__(self, settings: Settings, shape: MetadataShape) -> None:
        super().__init__()
        self.settings = settings
        self.views = 2 if settings.coupled else 3
        self.backbone = create_backbone(settings)
        self.metadata_encoder = create_metadata_encoder(settings, shape)
        self.batch_keys = self.metadata_encoder.batch_keys
        self.image_projection = linear_projection(feature_dim(self.backbone), settings.embed_dim)
        self.metadata_projection = linear_projection(self.metadata_encoder.width, settings.embed_dim)
        self.logit_scale = new_logit_scale()
        self.ssl_head = ssl_head(feature_dim(self.backbone), settings.ssl_hidden, settings.ssl_dim)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return "loss", its parts "loss_metadata" and "loss_views" (without their weight), and "temperature" (tau of eq. 1)."""
        features = self.encode(batch["views"])
        image = self.image_projection(features[0])
        metadata = self.metadata_projection(self.metadata_encoder(batch))
        scale = self.logit_scale.exp()
        loss_metadata = metadata_image_loss(image, metadata, scale, self.settings.loss_gather)
        # The head's batch norms see each view separately.
        one, two = (self.ssl_head(view) for view in features[-2:])
        loss_views = view_loss(one, two, self.settings.temperature, self.settings.negatives)
        return {
            "loss": loss_metadata + self.settings.simclr_weight * loss_views,
            "loss_metadata": loss_metadata.detach(),
            "loss_views": loss_views.detach(),
            "temperature": 1 / scale.detach(),
        }

    def chance(self) -> dict[str, float]:
        """See `Objective.chance`."""
        metadata = chance_level(self.settings.batch_size)
        views = chance_level(self.settings.batch_size, self.settings.negatives)
        return {"loss": metadata + self.settings.simclr_weight * views, "loss_metadata": metadata, "loss_views": views}

    def after_step(self) -> None:
        """Keep the temperature within [0.01, 1]."""
        clamp_logit_scale(self.logit_scale)
