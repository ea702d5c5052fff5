"""MoCo-v2 (Chen et al. 2020): a view attracts another that a slow copy of the networks embeds; baseline of Ayush et al. 2021."""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from satmip_train.config import Settings
from satmip_train.models.heads import moco_head
from satmip_train.objectives.key_queue import KeyQueue
from satmip_train.objectives.losses import key_loss
from satmip_train.objectives.term import Encoders, Inputs, Term


class MoCo(Term):
    """The second view is a key: embedded by a copy that follows by momentum. The first is told from keys of earlier steps.

    NOTE[DIFF] Batch norms see the global batch of queries, or of keys, where MoCo shuffles the samples over the ranks. Both keep
    a query and its key from being told by the statistics of a small part; only ours is the same for any number of ranks.
    NOTE[DIFF] The queue starts empty, not with random vectors: these would be most of the negatives of a short run on a small set.
    """

    part = "loss_views"
    views = 2
    reads = frozenset({"ssl_hidden", "ssl_dim", "temperature", "queue_length", "key_momentum"})
    weight = "moco_weight"

    def __init__(self, settings: Settings, encoders: Encoders) -> None:
        super().__init__(settings, encoders)
        self.head = moco_head(encoders.width, settings.ssl_hidden, settings.ssl_dim)
        # Copied here, before compilation or work in parts replace the forward of the backbone, which a copy would share.
        self.key_backbone = deepcopy(encoders.backbone).requires_grad_(False)
        self.key_head = deepcopy(self.head).requires_grad_(False)
        self.queue = KeyQueue(settings)
        self.projection = settings.ssl_dim
        self._made: tuple[Tensor, Tensor | None] | None = None
        self._negatives = torch.tensor(settings.queue_length)

    @property
    def image_encoders(self) -> tuple[nn.Module, ...]:
        """See `Term.image_encoders`."""
        return (self.key_backbone,)

    def forward(self, inputs: Inputs) -> Tensor:
        """See `Term.forward`. The keys enter the queue in `after_step`: the backward pass still needs it as it is."""
        with torch.no_grad():
            keys = self.key_head(self.key_backbone(inputs.second_view))
        queries = self.head(inputs.one)
        inputs.projections.append(queries)
        places, negatives = None, self.queue.unfilled()
        if self.queue.places is not None:
            places = inputs.batch["place"]
            same = self.queue.same_place(places)
            inputs.leave_out(same)
            negatives = negatives | same
        self._made, self._negatives = (keys, places), self.queue.filled.clone()
        return key_loss(queries, keys, self.queue.keys, self.settings.temperature, negatives)

    def after_step(self, backbone: nn.Module) -> None:
        """Let the copy follow the networks by momentum, and take the step's keys into the queue."""
        followers = [*self.key_backbone.parameters(), *self.key_head.parameters()]
        leaders = [*backbone.parameters(), *self.head.parameters()]
        follow = get_ema_multi_avg_fn(self.settings.key_momentum)  # type: ignore[no-untyped-call]
        follow(followers, leaders, None)
        if self._made is not None:
            self.queue.add(*self._made)
            self._made = None

    def chance(self) -> float:
        """See `Term.chance`: of the last step; before the first one, with a full queue."""
        return math.log(int(self._negatives) + 1)
