"""Frozen features of a split, computed once: backbone + shards -> features."""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from satmip_train.choices import Precision
from satmip_train.data.dataset import Dataset
from satmip_train.data.loader import ordered_batches
from satmip_train.data.tar import Readers
from satmip_train.data.transfer import to_device, to_host
from satmip_train.files import replace_file
from satmip_train.views import resize as resize_module

_log = logging.getLogger(__name__)
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Features:
    """Features of a split in stored order."""

    vectors: npt.NDArray[np.float32]
    """(N, D)."""
    labels: npt.NDArray[Any]
    """(N,) int64, class indices, -1 where a sample has none; in multi-label sets (N, classes) uint8, 1 for each of its classes."""
    keys: npt.NDArray[np.str_]
    """(N,), the samples' keys."""


@dataclass(frozen=True)
class Input:
    """How chips are brought to a backbone."""

    image_size: int
    """Side in pixels to which chips are resized, with the same antialiased filter as views."""
    mean: tuple[float, float, float]
    """Of each channel, in 0..1: what is subtracted."""
    std: tuple[float, float, float]
    """Of each channel, in 0..1: what is divided by."""
    precision: Precision = "fp32"
    """Of the backbone's arithmetic; features are float32 always."""


def is_multilabel(dataset: Dataset, split: str) -> bool:
    """Whether the samples of a split have several labels."""
    return Readers(dataset, split)[0].find(0, "labels.npy") is not None


def label_key(dataset: Dataset, split: str) -> str:
    """Return what a batch calls the labels of a split: "labels" where a sample has several, else "label"."""
    return "labels" if is_multilabel(dataset, split) else "label"


def read_labels(dataset: Dataset, split: str) -> npt.NDArray[Any]:
    """Return the labels of a split in stored order, see `Features.labels`.

    Raises:
        UsageError: there is no such split, or the shards cannot be read.
    """
    label = label_key(dataset, split)
    labels: npt.NDArray[Any] = torch.cat([batch[label] for batch in ordered_batches(dataset, split, {label}, 256)]).numpy()
    return labels


def extract(
    backbone: nn.Module,
    dataset: Dataset,
    split: str,
    how: Input,
    *,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda samples: None,
) -> Features:
    """Return the features of every sample of a split, in stored order; a ViT's are its CLS tokens (supplement C).

    The backbone is moved to the device and used in evaluation mode; its mode is restored. `progress` is told of samples done.

    NOTE[DIFF] The paper keeps every image larger than a view at its own size; here all images of a set have one, as batches need:
    a view's or, with `--larger-images keep`, that of larger chips, where all of them share it.

    Raises:
        UsageError: there is no such split, or a chip cannot be read.
    """
    was_training, device = backbone.training, torch.device(device)
    backbone.to(device).eval()
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (how.mean, how.std))
    labels, keys, label = [], [], label_key(dataset, split)
    batches = ordered_batches(dataset, split, {"image", label, "key"}, batch_size, workers, pin=device.type == "cuda")

    def vectors() -> Iterator[Tensor]:
        for batch in batches:
            views = resize(to_device(batch["image"], device), how.image_size).sub_(mean).div_(std)
            labels.append(batch[label])
            keys.extend(batch["key"])
            yield run_frozen(backbone, views, device, how.precision)

    parts = []
    try:
        for part in to_host(vectors()):
            parts.append(part)
            progress(len(part))
    finally:
        backbone.train(was_training)
    return Features(torch.cat(parts).numpy(), torch.cat(labels).numpy(), np.array(keys))


def resize(images: Tensor, size: int) -> Tensor:
    """Resize whole images as the views' crops are. Shape: uint8 (B, 3, H, W) -> float32 (B, 3, size, size) in 0..1."""
    rows, columns = (_whole(images, side, size) for side in images.shape[2:])
    return resize_module.resample(images, rows, columns).contiguous()


def _whole(images: Tensor, side: int, size: int) -> Tensor:
    """Return the weights that resize whole lines. Shape: (1, size, side), for all images of a batch."""
    # Made on the device: copying a number to it would wait for all work before.
    start = torch.zeros(1, dtype=torch.int64, device=images.device)
    weights = resize_module.resize_weights(start, start + side, start > 0, side, size)
    return weights.expand(len(images), -1, -1)


def cached(
    cache: Path, backbone: nn.Module, architecture: dict[str, Any], dataset: Dataset, split: str, how: Input, **options: Any
) -> Features:
    """Return `extract`'s features from the folder `cache`, or compute and keep them there.

    The file's name is a hash of all they depend on: the weights, the architecture (heads do not show in weights), the split's
    shards and how chips are brought to the backbone. `options` are those of `extract` that change nothing.
    """
    depends = [fingerprint(backbone, architecture), how.image_size, how.mean, how.std, how.precision]
    return keep(cache, dataset, split, depends, lambda: extract(backbone, dataset, split, how, **options))


def keep(cache: Path, dataset: Dataset, split: str, depends: Sequence[Any], compute: Callable[[], Features]) -> Features:
    """Return the features of a split from the folder `cache`, or compute and keep them there.

    The file's name is a hash of the split's shards and of what else the features depend on, which must be JSON. Where it cannot be
    written, the log tells it.
    """
    parts = [dataset.hashes(split), *depends]
    path = cache / f"{split}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.npz"
    if (kept := _read(path)) is not None:
        return kept
    features = compute()
    try:
        replace_file(path, lambda file: np.savez(file, **vars(features)))
    except OSError as error:
        _warn(cache, error.strerror or str(error))
    return features


def _read(path: Path) -> Features | None:
    """Return kept features; None where there are none, or the file is damaged."""
    try:
        # Opened here: numpy leaves a file open that it finds damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Features(arrays["vectors"], arrays["labels"], arrays["keys"])
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile):
        return None


@functools.cache
def _warn(folder: Path, problem: str) -> None:
    """Say once for a folder that features cannot be kept there; without a cache they only take time."""
    _log.warning("Features are not kept in %s, so that the next command computes them again: %s", folder, problem)


def fingerprint(backbone: nn.Module, architecture: dict[str, Any]) -> str:
    """Return the sha256 of a backbone's architecture and weights: equal backbones, equal fingerprint."""
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def run_frozen(network: Callable[[Any], Tensor], inputs: Any, device: torch.device, precision: Precision) -> Tensor:
    """Return the features of a batch as float32, whatever the arithmetic."""
    with torch.inference_mode(), autocast(device, precision):
        return network(inputs).float()


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which networks run at a precision."""
    return torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision != "fp32")
