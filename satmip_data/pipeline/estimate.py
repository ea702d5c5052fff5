"""Estimate of a planned build: bytes, time and failing images, measured on a few samples."""

import time
from dataclasses import dataclass, replace
from tarfile import BLOCKSIZE

from satmip_data.pipeline.build import BuildPlan
from satmip_data.pipeline.pack import EncodedSample, Traffic, encode_samples
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.shard_plan import ShardPlan
from satmip_data.records import Reject, Sample

TRIED = 32
"""Samples that are read and encoded, none of them written."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Size and time of a build."""

    bytes: int
    """Of all shards."""
    seconds: float
    """For packing, on the workers of the request."""
    tried: int
    problems: tuple[Reject, ...]
    """Of the samples tried, those whose image gives no chip."""


def estimate(request: BuildRequest, plan: BuildPlan, tried: int = TRIED) -> Estimate:
    """Read and encode a few samples, spread over all image sizes: a few huge images take most of the time of an archive."""
    chosen = spread_by_size(plan.index.samples, tried)
    task = replace(plan.tasks(request)[0], shard=ShardPlan("estimate", "", chosen))
    problems: list[Reject] = []
    size = done = 0
    start = time.perf_counter()
    for _, encoded in encode_samples(task, Traffic()):
        if isinstance(encoded, EncodedSample):
            # A tar holds each member behind a block of its own, filled up to whole blocks.
            size += sum(BLOCKSIZE + -(-len(data) // BLOCKSIZE) * BLOCKSIZE for data in encoded.members.values())
            done += 1
        else:
            problems.append(encoded)
    seconds = time.perf_counter() - start
    total = len(plan.index.samples)
    return Estimate(
        bytes=round(size / max(done, 1) * total),
        seconds=seconds / len(chosen) * total / request.workers,
        tried=len(chosen),
        problems=tuple(problems),
    )


def spread_by_size(samples: tuple[Sample, ...], count: int) -> tuple[Sample, ...]:
    """Return at most `count` samples: the middle one of each of so many equal groups, ordered by the size of the image."""
    ordered = sorted(samples, key=lambda sample: (sample.scene_width * sample.scene_height, sample.key))
    count = min(count, len(ordered))
    return tuple(ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count))
