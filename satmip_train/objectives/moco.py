"""MoCo-v2 (Chen et al. 2020): a view attracts another that a slow copy of the networks embeds; baseline of Ayush et al. 2021."""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from satmip_train.config import Settings
from satmip_train.models.heads import moco_head
from satmip_train.objectives.base import MetadataShape, masked_pairs
from satmip_train.objectives.key_queue import KeyQueue
from satmip_train.objectives.losses import key_loss
from satmip_train.objectives.simclr import SimCLR


class MoCo(SimCLR):
    """SimCLR whose second view is a key: embedded by a copy that follows by momentum, told from keys of earlier steps.

    NOTE[DIFF] Batch norms see the global batch of queries, or of keys, where MoCo shuffles the samples over the ranks. Both keep
    a query and its key from being told by the statistics of a small part; only ours is the same for any number of ranks.
    NOTE[DIFF] The queue starts empty, not with random vectors: these would be most of the negatives of a short run on a small set.
    """

    reads = SimCLR.reads - {"negatives"} | {"queue_length", "key_momentum"}

    def __init__(self, settings: Settings, shape: MetadataShape) -> None:
        super().__init__(settings, shape)
        # Copied here, before compilation or work in parts replace the forward of the backbone, which a copy would share.
        self.key_backbone = deepcopy(self.backbone).requires_grad_(False)
        self.key_head = deepcopy(self.ssl_head).requires_grad_(False)
        self.queue = KeyQueue(settings)
        self._made: tuple[Tensor, Tensor | None] | None = None
        self._negatives = torch.tensor(settings.queue_length)

    @property
    def image_encoders(self) -> tuple[nn.Module, ...]:
        """See `Objective.image_encoders`."""
        return self.backbone, self.key_backbone

    def head(self, width: int) -> nn.Module:
        """See `SimCLR.head`."""
        return moco_head(width, self.settings.ssl_hidden, self.settings.ssl_dim)

    def project(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query's features, its projection and the key's, neither normalized; the key's has no gradient."""
        self.check_views(batch["views"])
        query, key = batch["views"]
        with torch.no_grad():
            keys = self.key_head(self.key_backbone(key))
        features = self.backbone(query)
        return features, self.ssl_head(features), keys

    def contrast(self, batch: Mapping[str, Any], one: Tensor, two: Tensor) -> dict[str, Tensor]:
        """See `SimCLR.contrast`. The keys enter the queue in `after_step`: the backward pass still needs it as it is."""
        excluded, unfilled = self.excluded(batch), self.queue.unfilled()
        negatives = unfilled if excluded is None else unfilled | excluded
        loss = key_loss(one, two, self.queue.keys, self.settings.temperature, negatives)
        self._made = two, batch["place"] if "place" in self.batch_keys else None
        self._negatives = self.queue.filled.clone()
        return {"loss": loss, "loss_views": loss.detach(), **masked_pairs(excluded)}

    def excluded(self, batch: Mapping[str, Any]) -> Tensor | None:
        """See `Objective.excluded`; the candidates are the rows of the queue."""
        return self.queue.same_place(batch["place"]) if "place" in self.batch_keys else None

    def after_step(self) -> None:
        """Let the copy follow the networks by momentum, and take the step's keys into the queue."""
        followers = [*self.key_backbone.parameters(), *self.key_head.parameters()]
        leaders = [*self.backbone.parameters(), *self.ssl_head.parameters()]
        follow = get_ema_multi_avg_fn(self.settings.key_momentum)  # type: ignore[no-untyped-call]
        follow(followers, leaders, None)
        if self._made is not None:
            self.queue.add(*self._made)
            self._made = None

    def chance(self) -> dict[str, float]:
        """See `Objective.chance`: of the last step; before the first one, with a full queue."""
        level = math.log(int(self._negatives) + 1)
        return {"loss": level, "loss_views": level}
