"""kNN while a run goes: how well its features tell classes apart, on a part of the labelled chips."""

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from satmip_train.data.dataset import Dataset
from satmip_train.data.decoder import Decoder
from satmip_train.data.loader import BatchesOf, loader
from satmip_train.data.order import positions
from satmip_train.data.tar import Readers
from satmip_train.data.transfer import to_device, to_host
from satmip_train.evaluation import probes
from satmip_train.evaluation.features import is_multilabel, resize, run_frozen
from satmip_train.training.plan import RunPlan

TEST_SPLIT = "val"
NEIGHBOURS = 20
_BATCH = 256


def obstacle(plan: RunPlan) -> str | None:
    """Return why there is no kNN evaluation in a run, None where there is one."""
    if not plan.settings.knn_every:
        return "knn_every is 0"
    if not plan.dataset.classes or is_multilabel(plan.dataset, plan.settings.split):
        return "the chips have no class each"
    if not plan.dataset.splits.get(TEST_SPLIT) or plan.settings.split == TEST_SPLIT:
        return f"there is no other split {TEST_SPLIT!r} to test on"
    for split in (plan.settings.split, TEST_SPLIT):
        if not _any_label(plan.dataset, split, plan.settings.knn_samples):
            return f"none of the chips of {split!r} that it would take has a class"
    return None


def _any_label(dataset: Dataset, split: str, at_most: int) -> bool:
    """Return whether a chosen sample has a class; in most shards that is the first one."""
    readers = Readers(dataset, split)
    return any(
        readers[int(shard)].find(int(index), "cls") is not None for shard, index in positions(readers, _chosen(readers, at_most))
    )


def is_due(plan: RunPlan, step: int) -> bool:
    """Return whether features are evaluated after so many steps: every `knn_every` epochs, and at the end."""
    every = max(round(plan.settings.knn_every * plan.order.steps_per_epoch), 1)
    return step == plan.last_step or step % every == 0


def evaluate(plan: RunPlan, backbone: nn.Module) -> dict[str, float]:
    """Return macro-F1 and top-1 accuracy of a weighted vote of the 20 nearest chips, both in 0..1.

    At most `knn_samples` chips of each split are used, always the same ones; so the values of a run can be compared with one
    another, and those of `satmip-eval knn`, which uses all, differ a little.
    """
    train, train_labels = _features(plan, backbone, plan.settings.split)
    test, test_labels = _features(plan, backbone, TEST_SPLIT)
    k, classes = min(NEIGHBOURS, len(train)), len(plan.dataset.classes)
    predictions = probes.knn(train, train_labels, test, [k], classes=classes, device=plan.job.device)[k]
    scores = probes.score(test_labels, predictions, classes)
    return {"macro_f1": scores.macro_f1, "top1": scores.top1}


def _features(plan: RunPlan, backbone: nn.Module, split: str) -> tuple[probes.Features, probes.Labels]:
    device, size = plan.job.device, plan.settings.view_size
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (plan.dataset.mean, plan.dataset.std))
    labels = []
    readers, decoder = Readers(plan.dataset, split), Decoder(frozenset({"image", "label"}))
    stream = BatchesOf(readers, decoder, _BATCH, _chosen(readers, plan.settings.knn_samples))
    batches = loader(stream, range(len(stream)), plan.settings.workers, pin=device.type == "cuda")

    def vectors() -> Iterator[Tensor]:
        for batch in batches:
            views = resize(to_device(batch["image"], device), size).sub_(mean).div_(std)
            labels.append(batch["label"])
            yield run_frozen(backbone, views, device, plan.precision)

    was_training = backbone.training
    backbone.eval()
    try:
        # Not the compiled network: other shapes than a step's would be compiled too, for longer than they run.
        with torch.compiler.set_stance("force_eager") if plan.compiled else nullcontext():
            parts = list(to_host(vectors()))
    finally:
        backbone.train(was_training)
    known = torch.cat(labels) >= 0
    return torch.cat(parts)[known].numpy(), torch.cat(labels)[known].numpy()


def chosen(samples: int, at_most: int) -> npt.NDArray[np.int64]:
    """Return the numbers of at most `at_most` of the samples, spread evenly over the stored order."""
    return np.arange(min(samples, at_most)) * samples // min(samples, at_most)


def _chosen(readers: Readers, at_most: int) -> npt.NDArray[np.int64]:
    return chosen(sum(shard.samples for shard in readers.shards), at_most)
