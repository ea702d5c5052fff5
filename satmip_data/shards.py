"""Write and read shards. A shard is a plain tar in WebDataset's form and a pure function of its plan."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from satmip_data import decoders, imagery
from satmip_data.captions import caption
from satmip_data.plan import ShardPlan
from satmip_data.records import Reject, Sample
from satmip_data.remote import ImageFile, read_ahead
from satmip_data.serialize import metadata_from_json, sample_to_json
from satmip_data.settings import BuildSettings
from satmip_data.sources.base import ImageFiles, Source
from satmip_data.storage import Store
from satmip_data.tabular import Standardizer
from satmip_data.tokens import token_counter

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

Members = dict[str, bytes]
"""Suffix -> bytes of one sample, as "jpg", "num.npy"."""


@dataclass(slots=True)
class ChannelSums:
    """Whole-number sums over pixels, so that the statistics do not depend on the order of the shards."""

    pixels: int = 0
    total: list[int] = field(default_factory=lambda: [0, 0, 0])
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])

    def add_image(self, image: Image.Image) -> None:
        """Add the pixels of one chip, which is RGB."""
        counts, levels = np.array(image.histogram(), np.int64).reshape(3, 256), np.arange(256)
        self.pixels += image.width * image.height
        for channel in range(3):
            self.total[channel] += int(counts[channel] @ levels)
            self.squares[channel] += int(counts[channel] @ levels**2)

    def add(self, other: "ChannelSums") -> None:
        """Add the sums of other pixels."""
        self.pixels += other.pixels
        self.total = [a + b for a, b in zip(self.total, other.total, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, other.squares, strict=True)]

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel, in 0..1. Without pixels they are 0.5 and 0.25."""
        if self.pixels == 0:
            return [0.5] * 3, [0.25] * 3
        means, stds = [], []
        for total, squares in zip(self.total, self.squares, strict=True):
            variance = (squares * self.pixels - total**2) / self.pixels**2
            means.append(total / self.pixels / 255)
            stds.append(max(variance**0.5, 0.5) / 255)  # a constant channel must not divide by zero
        return means, stds


@dataclass(slots=True)
class CaptionCount:
    """The longest caption seen and how many were empty."""

    tokens: int | None = None
    key: str = ""
    empty: int = 0

    def add(self, key: str, text: str) -> None:
        """Count one caption. Of equally long ones the first key in alphabetical order is kept."""
        self.empty += not text
        counter = token_counter()
        if counter is not None:
            self.merge(CaptionCount(counter(text), key))

    def merge(self, other: "CaptionCount") -> None:
        """Add what another shard counted."""
        self.empty += other.empty
        if other.tokens is not None and (self.tokens is None or (-other.tokens, other.key) < (-self.tokens, self.key)):
            self.tokens, self.key = other.tokens, other.key

    def to_json(self) -> dict[str, Any]:
        """Return the counts as `dataset.json` holds them."""
        longest = None if self.tokens is None else {"tokens": self.tokens, "key": self.key}
        return {"longest": longest, "empty": self.empty}


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What is known of a finished shard; written after it, so that its presence means that the shard is whole."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str
    captions: CaptionCount
    channels: ChannelSums
    rejects: tuple[Reject, ...]
    fetched: int = 0
    """Bytes of images that came over a network."""
    saved: int = 0
    """Bytes of the same images that did not have to."""

    def entry(self) -> dict[str, Any]:
        """Return the shard's line of `dataset.json`."""
        names = ("name", "split", "samples", "bytes", "sha256", "captions", "channels")
        return {name: value for name, value in asdict(self).items() if name in names}

    @classmethod
    def from_entry(cls, entry: dict[str, Any]) -> "ShardRecord":
        """Read back what `entry` gave, of a shard that lost no sample."""
        return cls.from_json({**entry, "rejects": ()})

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ShardRecord":
        """Read back what `to_json` wrote."""
        rejects = tuple(Reject(**reject) for reject in data["rejects"])
        nested = {"captions": CaptionCount(**data["captions"]), "channels": ChannelSums(**data["channels"]), "rejects": rejects}
        return cls(**{**data, **nested})


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
    """What is written of a sample: its members, its caption, and the chip before it became a JPEG."""

    members: Members
    text: str
    chip: Image.Image


def pack_shard(task: PackTask) -> ShardRecord:
    """Read, crop, encode and write the samples of one shard; a sample whose pixels fail becomes a reject of the record."""
    captions, channels, traffic, rejects, count = CaptionCount(), ChannelSums(), Traffic(), [], 0
    with task.out.staging(task.shard.name) as staged:
        with tarfile.open(staged, "w|") as tar:
            for sample, encoded in encode_samples(task, traffic):
                if isinstance(encoded, Reject):
                    rejects.append(encoded)
                    continue
                _add(tar, sample.key, encoded.members)
                captions.add(sample.key, encoded.text)
                channels.add_image(encoded.chip)
                count += 1
        size, digest = staged.stat().st_size, file_sha256(staged)
    name, split = task.shard.name, task.shard.split
    return ShardRecord(
        name, split, count, size, digest, captions, channels, tuple(rejects), traffic.fetched, traffic.saved
    )  # fmt: skip


def _add(tar: tarfile.TarFile, key: str, members: Members) -> None:
    """Append the members of a sample, byte for byte as webdataset's own writer does, whose import would bring torch."""
    for suffix in sorted(members):
        entry = tarfile.TarInfo(f"{key}.{suffix}")
        entry.size, entry.mode, entry.uname, entry.gname = len(members[suffix]), 0o444, "satmip", "satmip"
        tar.addfile(entry, io.BytesIO(members[suffix]))


def encode_samples(task: PackTask, traffic: Traffic) -> Iterator[tuple[Sample, EncodedSample | Reject]]:
    """Yield every sample of a shard with what is written of it, or with the reject where its image gives no chip."""
    settings = task.settings
    for sample, read_chip in _chip_readers(task, traffic):
        size = (sample.window.width, sample.window.height) if settings.size is None else (settings.size, settings.size)
        try:
            with decoders.using(task.decoder):
                image = read_chip(size, settings.max_pixels)
        except imagery.ImageError as error:
            yield sample, Reject(sample.path, "pack", error.reason, str(error), key=sample.key).unsigned()
            continue
        yield sample, _encode(sample, image, task)


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
        "jpg": imagery.encode_jpeg(image, settings.quality, settings.subsampling),
        "txt": text.encode(),
        "json": dump_json(sample_to_json(sample)),
        "num.npy": _npy(features.numeric),
        "cat.npy": _npy(features.categorical),
        "mask.npy": _npy(features.mask),
    }
    if sample.category is not None:
        members["cls"] = str(task.classes.index(sample.category)).encode()
    if sample.labels:
        members["labels.npy"] = _npy(multi_hot(sample.labels, task.classes))
    return EncodedSample(members, text, image)


def multi_hot(labels: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Return 1 for each class that is among the labels, else 0. Shape: (classes,)."""
    return np.array([name in labels for name in classes], np.uint8)


def dump_json(data: object) -> bytes:
    """Write compact JSON, the same bytes for the same content; NaN is refused."""
    return _JSON.encode(data).encode()


def _npy(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a local file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_samples(data: bytes) -> Iterator[tuple[str, Members]]:
    """Yield (key, members) of a shard in stored order.

    Raises:
        tarfile.TarError: the archive is damaged.
    """
    key, members = "", Members()
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for entry in tar:
            name, _, suffix = entry.name.partition(".")
            if name != key and members:
                yield key, members
                members = {}
            key = name
            stream = tar.extractfile(entry)
            members[suffix] = b"" if stream is None else stream.read()
    if members:
        yield key, members


@dataclass(frozen=True, slots=True)
class CaptionRewrite:
    """The captions that every shard is to hold."""

    fields: tuple[str, ...]
    style: str


class ShardError(Exception):
    """A shard does not hold what `dataset.json` says."""


def recaption_shard(out: Store, standing: CaptionRewrite, rewrite: CaptionRewrite, entry: dict[str, Any]) -> ShardRecord:
    """Write a shard again with other captions and everything else unchanged, byte for byte.

    Args:
        out: the shard directory.
        standing: the captions of `dataset.json`.
        rewrite: the captions to write.
        entry: the shard's line of `dataset.json`.

    Raises:
        ShardError: it is neither the shard of `dataset.json` nor that shard with other captions, as a rewriting that was stopped
            leaves it; it stays as it is.
    """
    name, sha256 = entry["name"], entry["sha256"]
    data, counts, count = out.read(name), CaptionCount(), 0
    found = hashlib.sha256(data).hexdigest()
    if found != sha256 and _hash_with(data, standing) != sha256:
        raise ShardError(
            f"{name} must hash to {sha256}, as dataset.json says, however: {found}. It is damaged. See what is lost with: "
            f"satmip-data validate {quote(out.url)}   and build again into another folder"
        )
    with out.staging(name) as staged:
        with tarfile.open(staged, "w|") as tar:
            for key, members in _recaptioned(data, rewrite):
                _add(tar, key, members)
                counts.add(key, members["txt"].decode())
                count += 1
        size, digest = staged.stat().st_size, file_sha256(staged)
    return ShardRecord(name, name.partition("/")[0], count, size, digest, counts, ChannelSums(), ())


def _recaptioned(data: bytes, rewrite: CaptionRewrite) -> Iterator[tuple[str, Members]]:
    for key, members in read_samples(data):
        text = caption(metadata_from_json(json.loads(members["json"])["metadata"]), rewrite.fields, rewrite.style)
        yield key, {**members, "txt": text.encode()}


def _hash_with(data: bytes, rewrite: CaptionRewrite) -> str | None:
    """Return the SHA-256 that a shard would have with other captions; None where it cannot be read."""
    stream = io.BytesIO()
    try:
        with tarfile.open(fileobj=stream, mode="w|") as tar:
            for key, members in _recaptioned(data, rewrite):
                _add(tar, key, members)
    except Exception:  # whatever a damaged archive provokes
        return None
    return hashlib.sha256(stream.getbuffer()).hexdigest()
