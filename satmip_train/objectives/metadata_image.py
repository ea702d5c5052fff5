"""SatMIP: an image and its metadata attract (section 3.1, eq. 2)."""

import math

import torch
from torch import Tensor, nn

from satmip_train.config import Settings
from satmip_train.models.heads import linear_projection
from satmip_train.objectives.losses import chance_level, metadata_image_loss, sigmoid_chance_level, sigmoid_loss
from satmip_train.objectives.term import Encoders, Inputs, Term

MAX_LOGIT_SCALE = math.log(100)
"""Upper bound of the logit scale, as in CLIP; the lower bound is 0. The temperature stays within [0.01, 1]."""


class MetadataImage(Term):
    """Projects the features of images and of their metadata into one space and compares them at a learned temperature.

    NOTE[DIFF] `metadata_loss="siglip"` replaces the paper's softmax over the batch by a sigmoid for each pair (SigLIP, Zhai et
    al. 2023), with that paper's start of temperature and bias.
    """

    part = "loss_metadata"
    learns_from_metadata = True
    reads = frozenset(
        {
            "fields",
            "shuffle_metadata",
            "embed_dim",
            "projection_bias",
            "loss_gather",
            "metadata_encoder",
            "metadata_loss",
            "metadata_mask",
        }
    ).union(name for name in Settings.model_fields if name.startswith(("text_", "tabular_")))
    weight = "metadata_weight"
    weights_as = "matching"

    def __init__(self, settings: Settings, encoders: Encoders) -> None:
        super().__init__(settings, encoders)
        assert encoders.metadata is not None
        self.image_projection = linear_projection(encoders.width, settings.embed_dim, settings.projection_bias)
        self.metadata_projection = linear_projection(encoders.metadata.width, settings.embed_dim, settings.projection_bias)
        siglip = settings.metadata_loss == "siglip"
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if siglip else 1 / 0.07)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if siglip else None

    def forward(self, inputs: Inputs) -> Tensor:
        """See `Term.forward`. Logs "temperature", tau of eq. 1."""
        image, metadata = self.image_projection(inputs.image), self.metadata_projection(inputs.metadata)
        inputs.logged["temperature"] = self.temperature()
        scale = self.logit_scale.exp()
        if self.logit_bias is not None:
            return sigmoid_loss(image, metadata, scale, self.logit_bias, inputs.excluded)
        return metadata_image_loss(image, metadata, scale, self.settings.loss_gather, inputs.excluded)

    def temperature(self) -> Tensor:
        """Return tau of eq. 1, to log. Shape: ()."""
        return (-self.logit_scale.detach()).exp()

    def chance(self) -> float:
        """See `Term.chance`."""
        return (chance_level if self.logit_bias is None else sigmoid_chance_level)(self.settings.batch_size)

    @torch.no_grad()
    def after_step(self, backbone: nn.Module) -> None:
        """Keep the temperature within [0.01, 1]."""
        self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
