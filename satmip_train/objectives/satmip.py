"""SatMIP: an image and its metadata attract (section 3.1, eq. 2)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from satmip_train.config import Settings
from satmip_train.models.backbones import feature_dim
from satmip_train.models.metadata_encoders import CaptionEncoder, TabularEncoder, create_metadata_encoder
from satmip_train.models.pretrained import start_backbone
from satmip_train.objectives.base import MetadataShape, Objective, masked_pairs
from satmip_train.objectives.metadata_image import MetadataImageMatching


class SatMIP(Objective):
    """Metadata-image learning alone, from one view."""

    metadata_encoder: CaptionEncoder | TabularEncoder
    view_sources: tuple[str, ...] = ("image",)
    reads = frozenset({"fields", "embed_dim", "projection_bias", "loss_gather"}).union(
        name for name in Settings.model_fields if name.startswith(("metadata_", "text_", "tabular_"))
    )

    def __init__(self, settings: Settings, shape: MetadataShape) -> None:
        super().__init__(settings)
        self.backbone, self.start = start_backbone(settings)
        self.metadata_encoder = create_metadata_encoder(settings, shape)
        self.batch_keys |= self.metadata_encoder.batch_keys
        self.matching = MetadataImageMatching(feature_dim(self.backbone), self.metadata_encoder.width, settings)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return "loss", "loss_metadata", the same, and "temperature" (tau of eq. 1)."""
        (features,) = self.encode(batch["views"])
        excluded = self.excluded(batch)
        loss = self.matching(features, self.metadata_encoder(batch), excluded)
        parts = {"loss": loss, "loss_metadata": loss.detach(), "temperature": self.matching.temperature()}
        return {**parts, **masked_pairs(excluded)}

    def chance(self) -> dict[str, float]:
        """See `Objective.chance`."""
        level = self.matching.chance()
        return {"loss": level, "loss_metadata": level}

    def after_step(self) -> None:
        """Keep the temperature within [0.01, 1]."""
        self.matching.clamp()
