"""The negatives of MoCo: keys of earlier steps (He et al. 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from satmip_train.config import Settings
from satmip_train.distributed import gather


class KeyQueue(nn.Module):
    """The newest keys of all ranks, the same on every rank. Saved with the weights.

    New keys come in at the end and push the oldest out at the front, so any length goes with any batch.
    """

    keys: Tensor
    """(K, ssl_dim) float32 of unit length, the newest last; zeros where there is none yet."""
    filled: Tensor
    """() int64: how many there are. A tensor, since a number would make the host wait for the device."""
    places: Tensor | None
    """(K,) int64: the place of each; None unless `mask_same_place`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        length = settings.queue_length
        self.register_buffer("keys", torch.zeros(length, settings.ssl_dim))
        self.register_buffer("filled", torch.tensor(0))
        self.register_buffer("places", torch.zeros(length, dtype=torch.int64) if settings.mask_same_place else None)

    def unfilled(self) -> Tensor:
        """Return which rows are no keys yet: (K,) bool."""
        length = len(self.keys)
        return torch.arange(length, device=self.keys.device) < length - self.filled

    def same_place(self, places: Tensor) -> Tensor:
        """Return which keys show the place of a query. Shape: (B,) int64 -> (B, K) bool.

        Raises:
            ValueError: places are not kept.
        """
        if self.places is None:
            raise ValueError("The queue keeps no places to compare, since mask_same_place is off. Turn it on.")
        return (places[:, None] == self.places) & ~self.unfilled()

    @torch.no_grad()
    def add(self, keys: Tensor, places: Tensor | None) -> None:
        """Take in the keys of a step, those of rank 0 first.

        Shape:
            keys: (B, ssl_dim), need not be normalized; this rank's own
            places: (B,) int64, where places are kept
        """
        new = gather(F.normalize(keys.float(), dim=1))
        _push(self.keys, new)
        if self.places is not None and places is not None:
            _push(self.places, gather(places))
        self.filled.add_(len(new)).clamp_(max=len(self.keys))


def _push(queue: Tensor, new: Tensor) -> None:
    queue.copy_(torch.cat([queue, new])[-len(queue) :])
