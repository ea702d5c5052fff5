"""Records of finished shards: counts, hash and channel sums."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from satmip_data.metadata.clip_tokens import token_counter
from satmip_data.records import Reject


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
    """Record of a finished shard; written after it, so that its presence means that the shard is whole."""

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
    chips: dict[str, str] = field(default_factory=dict)
    """Key of each sample -> what tells its pixels apart; of shards that stood before, none."""
    damaged: tuple[str, ...] = ()
    """Keys of the samples whose images are damaged, and kept."""

    def entry(self) -> dict[str, Any]:
        """Return the shard's line of `dataset.json`."""
        names = ("name", "split", "samples", "bytes", "sha256", "captions", "channels")
        found = {name: value for name, value in asdict(self).items() if name in names}
        return {**found, "damaged": list(self.damaged)} if self.damaged else found

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
        nested["damaged"] = tuple(data.get("damaged", ()))
        return cls(**{**data, **nested})
