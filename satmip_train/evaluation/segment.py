"""Semantic segmentation by a linear classifier of frozen patch features.

NOTE[DIFF] The paper leaves dense prediction to future work (conclusion). This protocol is ours: one linear layer on the patch
tokens of the whole image, no augmentation, AdamW with a cosine; logits are brought to the mask's size bilinearly.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from satmip_data.names import FORMATS, counted
from satmip_train.data.image_files import Rendering, find_images, read_picture
from satmip_train.errors import UsageError
from satmip_train.evaluation import features
from satmip_train.evaluation.evaluate import describe_model, summarise
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import Model, models
from satmip_train.evaluation.tables import Result
from satmip_train.runs import checkpoint

IGNORED = 255
"""Value of a mask's pixels that belong to no class."""

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """An image and its mask: a picture with one channel of 8 bits that holds class numbers."""

    image: Path
    mask: Path


@dataclass(frozen=True)
class Folders:
    """Pairs to learn from, and others to test on."""

    train: list[Pair]
    test: list[Pair]
    described: dict[str, Result]
    """Descriptions of "train" and "test"."""


@dataclass(frozen=True)
class SegmentSettings:
    """How the linear classifier is fitted."""

    epochs: int = 20
    batch_size: int = 16
    lr: float = 1e-3
    seed: int = 0


def find_pairs(folder: Path) -> list[Pair]:
    """Return the images below FOLDER/images with the masks of the same names (ending in .png) below FOLDER/masks.

    Raises:
        UsageError: there is no image, or one has no mask.
    """
    images, masks = folder / "images", folder / "masks"
    found = find_images(images)
    pairs = [Pair(image, (masks / image.relative_to(images)).with_suffix(".png")) for image in found]
    if missing := [pair for pair in pairs if not pair.mask.is_file()]:
        raise UsageError(f"Masks are missing: {len(missing):,}. Add them; the first is {missing[0].mask}")
    return pairs


def read_folders(train: Path, test: Path) -> Folders:
    """Find what is learned from and what is tested on.

    Raises:
        UsageError: one of the folders holds no pairs, or an image is in both.
    """
    pairs, tested = find_pairs(train), find_pairs(test)
    described = {"train": _describe(train, pairs), "test": _describe(test, tested)}
    # A copy of the whole folder is none either; single images may be equal, as those without data are.
    copied = described["train"]["fingerprint"] == described["test"]["fingerprint"]
    shared = {pair.image.resolve() for pair in pairs} & {pair.image.resolve() for pair in tested}
    if shared or copied:
        raise UsageError(
            f"{test} shares {counted(len(tested) if copied else len(shared), 'image')} with {train}, so the classifier would be "
            "tested on what it has learned from. Use another --test"
        )
    return Folders(pairs, tested, described)


def read_mask(path: Path) -> Mask:
    """Read class numbers. Shape: (H, W).

    Raises:
        UsageError: it is damaged, or has several channels.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode not in ("L", "P"):
                raise UsageError(f"The mask {path} has the mode {image.mode}. Convert it to one channel of 8 bits")
            return np.array(image)
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # on broken bytes Pillow's readers raise nearly anything
        raise UsageError(f"Cannot read the mask {path}: {error}. Remove or replace it") from error


def patch_features(backbone: nn.Module, views: Tensor) -> Tensor:
    """Return a grid of features: the patch tokens of a ViT's last layer, or the last map of a convolutional network.

    Shape: (B, 3, S, S) -> (B, D, h, w).

    Raises:
        UsageError: the backbone gives neither.
    """
    network: Any = backbone
    found: Tensor = network.forward_features(views)
    embedding = getattr(network, "patch_embed", None)
    if found.ndim == 3 and embedding is not None:
        return found[:, network.num_prefix_tokens :].mT.reshape(len(found), -1, *embedding.grid_size)
    if found.ndim == 4 and found.shape[1] == network.num_features:
        return found
    raise UsageError(
        f"The backbone {type(backbone).__name__} gives features of shape {tuple(found.shape)}, which are no grid. Use another run"
    )


def segment(
    runs: Sequence[Path],
    folders: Folders,
    recipe: SegmentSettings,
    running: Running,
    random_seeds: Sequence[int],
    progress: Callable[[str, int], None],
) -> Result:
    """Fit and test a linear classifier of patch features for each run, and for its architecture with random weights.

    Raises:
        UsageError: the masks hold too few classes or cannot be read, or a run cannot be loaded.
    """
    pairs, tested = folders.train, folders.test
    learned, asked = _classes(pairs), _classes(tested)
    if len(learned) < 2 or not asked:
        train, test = (folders.described[part]["shards"] for part in ("train", "test"))
        raise UsageError(
            f"The masks to learn from need two classes, and those to test on one: {train} has {len(learned)}, {test} {len(asked)}. "
            "Class numbers are 0 to 254, and 255 is ignored"
        )
    values = tuple(sorted(learned | asked))
    statistics = channel_statistics(pairs)
    results = []
    for model in models(runs, random_seeds):
        progress(model.name, 0)
        reader = _PatchReader(model, statistics, running, lambda samples, name=model.name: progress(name, samples))  # type: ignore[misc]
        classifier, loss = _fit(reader, pairs, values, recipe)
        counts = _confusion(reader, classifier, tested, values)
        results.append({**describe_model(model), "train_loss": loss, **scores(counts, values)})
    return {
        "probe": "segment",
        "modality": "image",
        "metric": "miou",
        "settings": {**asdict(recipe), "precision": running.precision, "mean": statistics[0], "std": statistics[1]},
        **folders.described,
        "classes": len(values),
        "models": results,
        "summaries": summarise(results),
        "notes": [],
        "versions": checkpoint.versions(),
    }


def _classes(pairs: Sequence[Pair]) -> set[int]:
    return {int(value) for pair in pairs for value in np.unique(read_mask(pair.mask))} - {IGNORED}


def scores(counts: npt.NDArray[np.int64], values: Sequence[int]) -> Result:
    """Return mean IoU (over classes that occur among masks or predictions), pixel accuracy, and the IoU of each class.

    Shape: counts (classes, classes): pixels by true class and prediction.
    """
    hits, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    iou = [float(hit / all_) if all_ else None for hit, all_ in zip(hits, union, strict=True)]
    metrics = {"miou": float(np.mean([v for v in iou if v is not None])), "pixel_accuracy": float(hits.sum() / counts.sum())}
    return {"metrics": metrics, "iou_per_class": dict(zip(map(str, values), iou, strict=True))}


def channel_statistics(pairs: Sequence[Pair]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel over all pixels of the images, for values in 0..1."""
    count, total, squares = 0, np.zeros(3), np.zeros(3)
    for pair in pairs:
        pixels = read_picture(pair.image, Rendering()).pixels.reshape(-1, 3) / 255
        count, total, squares = count + len(pixels), total + pixels.sum(0), squares + (pixels**2).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    return tuple(map(float, mean)), tuple(map(float, std))


class _PatchReader:
    """A frozen backbone that looks at image files."""

    def __init__(
        self, model: Model, statistics: tuple[tuple[float, ...], tuple[float, ...]], running: Running, done: Callable[[int], None]
    ) -> None:
        self.device = torch.device(running.device)
        self._backbone, self._running, self._done = model.backbone.to(self.device), running, done
        self.side = model.settings.view_size
        self._mean, self._std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in statistics)

    def grids(self, pairs: Sequence[Pair]) -> Iterator[Tensor]:
        """Give the patch features of each image. Shape: (D, h, w), on the device."""
        self._backbone.eval()
        for start in range(0, len(pairs), self._running.batch_size):
            part = pairs[start : start + self._running.batch_size]
            pixels = [torch.from_numpy(read_picture(pair.image, Rendering()).pixels).permute(2, 0, 1)[None] for pair in part]
            images = torch.cat([features.resize(image.to(self.device), self.side) for image in pixels])
            views = images.sub_(self._mean).div_(self._std)
            found = features.run_frozen(partial(patch_features, self._backbone), views, self.device, self._running.precision)
            self._done(len(part))
            yield from found


def _fit(reader: _PatchReader, pairs: Sequence[Pair], values: Sequence[int], recipe: SegmentSettings) -> tuple[nn.Conv2d, float]:
    """Return the fitted classifier and the mean loss of the last epoch."""
    grids = torch.stack(list(reader.grids(pairs))).clone()
    side = reader.side
    targets = torch.stack([_target(read_mask(pair.mask), values, side) for pair in pairs])
    generator = torch.Generator().manual_seed(recipe.seed)
    classifier = nn.Conv2d(grids.shape[1], len(values), 1)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(torch.as_tensor(classifier.bias))
    classifier.to(reader.device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=recipe.lr)
    steps = math.ceil(len(pairs) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * steps)
    losses: list[Tensor] = []
    for _ in range(recipe.epochs):
        losses = []
        for chosen in torch.split(torch.randperm(len(pairs), generator=generator), recipe.batch_size):
            logits = F.interpolate(classifier(grids[chosen.to(grids.device)]), (side, side), mode="bilinear", align_corners=False)
            target = targets[chosen].to(reader.device)
            if not (target != IGNORED).any():
                continue
            loss = F.cross_entropy(logits, target.long(), ignore_index=IGNORED)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
    return classifier, float(torch.stack(losses).mean())


def _target(mask: Mask, values: Sequence[int], side: int) -> Tensor:
    """Return class indices at the size of a view. Shape: (H, W) -> (side, side) uint8."""
    small = Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST)
    return torch.from_numpy(_indices(np.array(small), values))


def _indices(mask: Mask, values: Sequence[int]) -> Mask:
    table = np.full(256, IGNORED, np.uint8)
    table[list(values)] = np.arange(len(values))
    return table[mask]


def _confusion(reader: _PatchReader, classifier: nn.Conv2d, pairs: Sequence[Pair], values: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return pixels by true class and prediction, each mask at its own size. Shape: (classes, classes)."""
    counts = np.zeros((len(values), len(values)), np.int64)
    for pair, grid in zip(pairs, reader.grids(pairs), strict=True):
        truth = _indices(read_mask(pair.mask), values)
        with torch.inference_mode():
            logits = F.interpolate(classifier(grid[None]), truth.shape, mode="bilinear", align_corners=False)
        predicted = logits[0].argmax(0).cpu().numpy()
        known = truth != IGNORED
        if known.any():
            counts += confusion_matrix(truth[known], predicted[known], labels=range(len(values)))
    return counts


def _describe(folder: Path, pairs: Sequence[Pair]) -> Result:
    digest = hashlib.sha256()
    for pair in pairs:
        for path in (pair.image, pair.mask):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return {
        "shards": str(folder),
        "source": "folder",
        "split": folder.name,
        "samples": len(pairs),
        "fingerprint": digest.hexdigest(),
    }
