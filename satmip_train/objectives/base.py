"""The interface of an objective: the module that is trained, from a batch to a loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from satmip_train.config import Settings
from satmip_train.data.places import Places
from satmip_train.models.metadata_encoders import CaptionEncoder, MetadataShape, TabularEncoder
from satmip_train.objectives.losses import same_place

__all__ = ["MetadataShape", "Objective"]


class Objective(nn.Module, ABC):
    """The backbone, the networks that training needs besides it, and the loss."""

    batch_keys: frozenset[str]
    """Keys of the batch besides the views: some of "tokens", "numeric", "mask", "categorical", "place" and "location"."""
    view_sources: tuple[str, ...]
    """Of what image each view is made: "image", or "partner", that of another acquisition of the place (see `stream.Decoder`)."""
    backbone: nn.Module
    """The network that evaluation keeps: views (B, 3, S, S) -> features (B, width)."""
    start: str
    """Of what weights the backbone started, in words."""
    metadata_encoder: CaptionEncoder | TabularEncoder | None
    """Batch -> features (B, width); None where metadata are not learned from."""
    reads: frozenset[str] | None = None
    """The settings that it reads, of those that not every objective reads; None where it does not say."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.batch_keys = frozenset({"place"} if settings.mask_same_place else ())
        self.metadata_encoder = None

    @property
    def views(self) -> int:
        """Number of views of each sample."""
        return len(self.view_sources)

    @property
    def image_encoders(self) -> tuple[nn.Module, ...]:
        """The networks that take views: the backbone, and a copy of it where there is one."""
        return (self.backbone,)

    def fit(self, places: Callable[[], Places]) -> None:
        """Fit what follows from the whole split, once, before the first step; it is saved with the weights. By default nothing.

        Args:
            places: reads the places and locations of the split, which takes time, so it is called only where needed
        """

    @abstractmethod
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the loss and its parts.

        Shape:
            batch["views"]: tuple of `views` tensors (B, 3, S, S), normalized
            batch["tokens"]: (B, L) int64, CLIP BPE with start and end, padded with 0
            batch["numeric"], batch["mask"]: (B, F) float32 and bool
            batch["categorical"]: (B, C) int64
            batch["place"]: (B,) int64
            batch["location"]: (B, 2) float32, longitude and latitude in degrees, NaN where unknown
            returns: "loss", and parts to log, each () float32; only "loss" has a gradient
        """

    @abstractmethod
    def chance(self) -> dict[str, float]:
        """Return the loss and its parts as a model has them that tells no sample of a global batch from another."""

    def after_step(self) -> None:
        """Bring the parameters back into their bounds; called after each step of the optimizer."""

    def excluded(self, batch: Mapping[str, Any]) -> Tensor | None:
        """Return which samples of the global batch are no negatives, (B, K) bool; None where all others are."""
        return same_place(batch["place"]) if "place" in self.batch_keys else None

    def encode(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the backbone's features of each view.

        The views run as one batch, unless the backbone has batch norms: these see one view at a time.

        Shape:
            views: each (B, 3, S, S)
            returns: as many (B, width)
        """
        if len(views) == 1 or any(isinstance(part, _BatchNorm) for part in self.backbone.modules()):
            return tuple(self.backbone(view) for view in views)
        features: Tensor = self.backbone(torch.cat(tuple(views)))
        return features.chunk(len(views))

    def check_views(self, views: Sequence[Tensor]) -> None:
        """Check the number of views. Raises ValueError where there are more or fewer than `views`."""
        if len(views) != self.views:
            raise ValueError(f"A batch of this objective has {self.views} views, and this one has {len(views)}.")
