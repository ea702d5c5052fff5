"""The metadata-image part of SatMIP and SatMIPS: what stands between the two encoders and the loss (section 3.1)."""

import math

import torch
from torch import Tensor, nn

from satmip_train.config import Settings
from satmip_train.models.heads import linear_projection
from satmip_train.objectives.losses import chance_level, metadata_image_loss, sigmoid_chance_level, sigmoid_loss

MAX_LOGIT_SCALE = math.log(100)
"""Upper bound of the logit scale, as in CLIP; the lower bound is 0. The temperature stays within [0.01, 1]."""


class MetadataImageMatching(nn.Module):
    """Projects the features of images and of their metadata into one space and compares them at a learned temperature.

    NOTE[DIFF] `metadata_loss="siglip"` replaces the paper's softmax over the batch by a sigmoid for each pair (SigLIP, Zhai et
    al. 2023), with that paper's start of temperature and bias.
    """

    def __init__(self, image_width: int, metadata_width: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.image_projection = linear_projection(image_width, settings.embed_dim, settings.projection_bias)
        self.metadata_projection = linear_projection(metadata_width, settings.embed_dim, settings.projection_bias)
        siglip = settings.metadata_loss == "siglip"
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if siglip else 1 / 0.07)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if siglip else None

    def forward(self, image: Tensor, metadata: Tensor, excluded: Tensor | None = None) -> Tensor:
        """Return the metadata-image loss of features, without the excluded candidates.

        Shape:
            image: (B, image_width)
            metadata: (B, metadata_width)
            excluded: (B, K) bool, see `losses.same_place`
            returns: () float32
        """
        image, metadata = self.image_projection(image), self.metadata_projection(metadata)
        scale = self.logit_scale.exp()
        if self.logit_bias is not None:
            return sigmoid_loss(image, metadata, scale, self.logit_bias, excluded)
        return metadata_image_loss(image, metadata, scale, self.settings.loss_gather, excluded)

    def temperature(self) -> Tensor:
        """Return tau of eq. 1, to log. Shape: ()."""
        return (-self.logit_scale.detach()).exp()

    def chance(self) -> float:
        """Return the loss of a model that tells no pair of a global batch from another."""
        return (chance_level if self.logit_bias is None else sigmoid_chance_level)(self.settings.batch_size)

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the temperature within [0.01, 1]."""
        self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
