"""Assignment of samples to shards. Pure: it follows from the samples' names and the seed alone, on any machine and version."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from satmip_data.records import Sample


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard to be written: its samples in their final order."""

    name: str
    """"train/000000.tar"."""
    split: str
    samples: tuple[Sample, ...]


def plan_shards(samples: Iterable[Sample], seed: int, samples_per_shard: int) -> tuple[ShardPlan, ...]:
    """Deal samples to shards: shuffled over the whole split, samples of one place spread apart, shards equal to within one sample.

    Archives come sorted by class and place, and a contrastive batch wants neither together.
    """
    by_split: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_split[sample.split].append(sample)
    shards = []
    for split in sorted(by_split):
        order = spread(by_split[split], seed)
        count = -(-len(order) // samples_per_shard)
        bounds = [len(order) * i // count for i in range(count + 1)]
        shards += [ShardPlan(f"{split}/{i:06d}.tar", split, tuple(order[bounds[i] : bounds[i + 1]])) for i in range(count)]
    return tuple(shards)


def spread(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Return the samples shuffled so that the m samples of a place stand evenly, one in each m-th of the order.

    Each place draws one offset u in [0, 1) and a random order of its samples; sample i of them stands at (i + u) / m.
    """
    places: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        places[sample.place].append(sample)
    position: dict[str, float] = {}
    for place, members in places.items():
        offset = _uniform(seed, "place", place)
        shuffled = sorted(members, key=lambda sample: _uniform(seed, "sample", sample.key))
        for i, sample in enumerate(shuffled):
            position[sample.key] = (i + offset) / len(members)
    return sorted(samples, key=lambda sample: (position[sample.key], sample.key))


def _uniform(seed: int, kind: str, name: str) -> float:
    """Return a number in [0, 1) that follows from the words alone: a hash, since library generators change with their versions."""
    digest = hashlib.blake2b(f"{seed}/{kind}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
