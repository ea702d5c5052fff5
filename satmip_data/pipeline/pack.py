"""Packing: the samples of one shard are read, cropped, encoded and written."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

from PIL import Image

from satmip_data.imagery import chips, decoders
from satmip_data.imagery.fetch import ImageFile, read_ahead
from satmip_data.metadata.captions import caption
from satmip_data.metadata.serialize import sample_to_json
from satmip_data.metadata.tabular import Standardizer
from satmip_data.pipeline.equal_chips import chip_digest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.pipeline.shard_plan import ShardPlan
from satmip_data.records import Reject, Sample, crash
from satmip_data.shards.members import Members, dump_json, multi_hot, npy_bytes
from satmip_data.shards.record import CaptionCount, ChannelSums, ShardRecord
from satmip_data.shards.tar import add_members, file_sha256, new_tar
from satmip_data.sources.base import ImageFiles, Source
from satmip_data.storage.limits import DEFAULT, Limits, using
from satmip_data.storage.store import Store


@dataclass(frozen=True, slots=True)
class PackTask:
    """One shard to be packed, with all it depends on."""

    shard: ShardPlan
    source: Source
    root: str
    out: Store
    settings: BuildSettings
    standardizer: Standardizer
    classes: tuple[str, ...]
    decoder: str = "auto"
    """One of `decoders.DECODERS`."""
    limits: Limits = DEFAULT
    """Limits for one file."""


@dataclass(slots=True)
class Traffic:
    """Bytes of images that came over a network, and bytes of the same images that did not have to."""

    fetched: int = 0
    saved: int = 0

    def add(self, image: ImageFile) -> None:
        """Count one image."""
        self.fetched += image.fetched
        self.saved += max(image.size - image.fetched, 0)


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """A packed sample: its members, its caption, and the chip before it became a JPEG."""

    members: Members
    text: str
    chip: Image.Image
    damaged: bool = False
    """Whether the data of its image are damaged."""


def pack_shard(task: PackTask) -> ShardRecord:
    """Read, crop, encode and write the samples of one shard; a sample whose pixels fail becomes a reject of the record."""
    captions, channels, traffic, count = CaptionCount(), ChannelSums(), Traffic(), 0
    rejects: list[Reject] = []
    damaged: list[str] = []
    digests: dict[str, str] = {}
    with task.out.staging(task.shard.name) as staged:
        with new_tar(staged) as tar:
            for sample, encoded in encode_samples(task, traffic):
                if isinstance(encoded, Reject):
                    rejects.append(encoded)
                    continue
                add_members(tar, sample.key, encoded.members)
                captions.add(sample.key, encoded.text)
                channels.add_image(encoded.chip)
                damaged += [sample.key] * encoded.damaged
                digests[sample.key] = chip_digest(encoded.chip)
                count += 1
        size, digest = staged.stat().st_size, file_sha256(staged)
    name, split = task.shard.name, task.shard.split
    counted = (count, size, digest, captions, channels, tuple(rejects), traffic.fetched, traffic.saved)
    return ShardRecord(name, split, *counted, digests, tuple(damaged))


def encode_samples(task: PackTask, traffic: Traffic) -> Iterator[tuple[Sample, EncodedSample | Reject]]:
    """Yield every sample of a shard with what is written of it, or with the reject where its image gives no chip."""
    with using(task.limits):
        yield from _encoded(task, traffic)


def _encoded(task: PackTask, traffic: Traffic) -> Iterator[tuple[Sample, EncodedSample | Reject]]:
    settings = task.settings
    for sample, read_chip in _chip_readers(task, traffic):
        size = (sample.window.width, sample.window.height) if settings.size is None else (settings.size, settings.size)
        try:
            with decoders.using(task.decoder, settings.keep_damaged) as reading:
                image = read_chip(size, settings.max_pixels)
        except chips.ImageError as error:
            yield sample, Reject(sample.path, "pack", error.reason, str(error), key=sample.key).unsigned()
            continue
        except MemoryError:
            raise
        except Exception as error:  # one image ends no build
            yield sample, crash(sample.path, "pack", error, sample.key).unsigned()
            continue
        yield sample, replace(_encode(sample, image, task), damaged=bool(reading.damage))


def _chip_readers(task: PackTask, traffic: Traffic) -> Iterator[tuple[Sample, Callable[[tuple[int, int], int], Image.Image]]]:
    """Yield every sample with what reads its chip, given its size and the limit on pixels; over a network, ahead of its turn."""
    source, samples = task.source, task.shard.samples
    plain = getattr(type(source), "read_chip", None) is ImageFiles.read_chip  # other ways to read a chip fetch for themselves
    if isinstance(source, ImageFiles) and plain and Store(task.root).remote:
        for sample, image in read_ahead(partial(source.fetch, task.root), samples):
            yield sample, partial(_fetched_chip, source, sample, image, traffic)
    else:
        for sample in samples:
            yield sample, partial(source.read_chip, task.root, sample)


def _fetched_chip(
    source: ImageFiles, sample: Sample, future: Future[ImageFile], traffic: Traffic, size: tuple[int, int], max_pixels: int
) -> Image.Image:
    image = future.result()
    try:
        return source.chip_of(image, sample, size, max_pixels)
    finally:
        traffic.add(image)


def _encode(sample: Sample, image: Image.Image, task: PackTask) -> EncodedSample:
    settings = task.settings
    text = caption(sample.metadata, settings.fields, settings.style)
    features = task.standardizer.transform(sample.metadata)
    members = {
        "jpg": chips.encode_jpeg(image, settings.quality, settings.subsampling),
        "txt": text.encode(),
        "json": dump_json(sample_to_json(sample)),
        "num.npy": npy_bytes(features.numeric),
        "cat.npy": npy_bytes(features.categorical),
        "mask.npy": npy_bytes(features.mask),
    }
    if sample.category is not None:
        members["cls"] = str(task.classes.index(sample.category)).encode()
    if sample.labels:
        members["labels.npy"] = npy_bytes(multi_hot(sample.labels, task.classes))
    return EncodedSample(members, text, image)
