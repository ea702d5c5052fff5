"""SatMIP: an image and its metadata attract (section 3.1, eq. 2)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from satmip_train.backbones import create_backbone, feature_dim
from satmip_train.config import Settings
from satmip_train.heads import clamp_logit_scale, linear_projection, new_logit_scale
from satmip_train.losses import chance_level, metadata_image_loss
from satmip_train.metadata_encoders import TabularEncoder, TextEncoder, create_metadata_encoder
from satmip_train.objectives.base import MetadataShape, Objective


class SatMIP(Objective):
    """Metadata-image learning alone, from one view."""

    metadata_encoder: TextEncoder | TabularEncoder

    def __init__(self, settings: Settings, shape: MetadataShape) -> None:
        super().__init__()
        self.settings = settings
        self.views = 1
        self.backbone = create_backbone(settings)
        self.metadata_encoder = create_metadata_encoder(settings, shape)
        self.batch_keys = self.metadata_encoder.batch_keys
        self.image_projection = linear_projection(feature_dim(self.backbone), settings.embed_dim)
        self.metadata_projection = linear_projection(self.metadata_encoder.width, settings.embed_dim)
        self.logit_scale = new_logit_scale()

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return "loss", "loss_metadata", the same, and "temperature" (tau of eq. 1)."""
        (features,) = self.encode(batch["views"])
        image = self.image_projection(features)
        metadata = self.metadata_projection(self.metadata_encoder(batch))
        scale = self.logit_scale.exp()
        loss = metadata_image_loss(image, metadata, scale, self.settings.loss_gather)
        return {"loss": loss, "loss_metadata": loss.detach(), "temperature": 1 / scale.detach()}

    def chance(self) -> dict[str, float]:
        """See `Objective.chance`."""
        level = chance_level(self.settings.batch_size)
        return {"loss": level, "loss_metadata": level}

    def after_step(self) -> None:
        """Keep the temperature within [0.01, 1]."""
        clamp_logit_scale(self.logit_scale)
