"""The order of training samples, a pure function of seed and step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from satmip_train.data.tar import Readers

Position = tuple[int, int]
PARTNER, HIDE = 3, 4
"""Uses of the random numbers of a step, beside those of `train`."""


def epoch_order(counts: Sequence[int], seed: int, epoch: int, block: int) -> npt.NDArray[np.int64]:
    """Return the order of an epoch's samples as rows (shard, index in the shard): a pure function of its arguments.

    The shards are shuffled and taken in blocks of `block`; the samples of a block are permuted. So an epoch reads each sample
    once, and at any time only `block` shards are being read.

    Shape:
        return: (sum of `counts`, 2) int64
    """
    generator = np.random.default_rng((seed, epoch))
    shards = generator.permutation(len(counts))
    blocks = []
    for start in range(0, len(counts), block):
        rows = [np.stack([np.full(counts[s], s), np.arange(counts[s])], axis=1) for s in shards[start : start + block]]
        blocks.append(generator.permutation(np.concatenate(rows)))
    return np.concatenate(blocks).astype(np.int64)


_last_order = lru_cache(maxsize=1)(epoch_order)
"""Steps ask for the order of one epoch after another."""


@dataclass(frozen=True)
class Order:
    """Which samples each step of a run gets. The samples of an epoch that fill no batch are left out, other ones each epoch."""

    counts: tuple[int, ...]
    """Samples of each shard."""
    batch_size: int
    """Over all ranks."""
    seed: int
    block: int
    rank: int = 0
    ranks: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return sum(self.counts) // self.batch_size

    @property
    def dropped(self) -> int:
        """Samples of an epoch that fill no batch."""
        return sum(self.counts) % self.batch_size

    def share(self, step: int) -> npt.NDArray[np.int64]:
        """Return this rank's samples of a step. Shape: (batch_size / ranks, 2), rows (shard, index in the shard)."""
        epoch, step = divmod(step, self.steps_per_epoch)
        size = self.batch_size // self.ranks
        start = step * self.batch_size + self.rank * size
        return _last_order(self.counts, self.seed, epoch, self.block)[start : start + size]

    def draws(self, step: int, use: int, columns: int = 1) -> npt.NDArray[np.float64]:
        """Return random numbers for this rank's samples of a step, uniform in [0, 1).

        They are drawn for the global batch, so the number of ranks changes none. `use` (such as `PARTNER`) tells draws apart.

        Shape:
            return: (batch_size / ranks, columns)
        """
        size = self.batch_size // self.ranks
        drawn = np.random.default_rng((self.seed, step, use)).random((self.batch_size, columns))
        return drawn[self.rank * size : (self.rank + 1) * size]


def positions(readers: Readers, samples: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where samples of a split lie, given their numbers in stored order. Shape: (n,) -> (n, 2), as `epoch_order`'s rows."""
    starts = np.cumsum([0, *(shard.samples for shard in readers.shards)])
    shards = np.searchsorted(starts, samples, side="right") - 1
    return np.stack([shards, samples - starts[shards]], axis=1)
