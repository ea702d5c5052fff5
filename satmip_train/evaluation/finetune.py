"""Fine-tuning: backbone and a linear classifier trained together on labels.

NOTE[DIFF] The paper leaves fine-tuning to future work (conclusion). This recipe is ours, plain on purpose: AdamW, warm-up and a
cosine, random resized crops with flips and right-angle rotations, no schedule by layers, no mixing of images.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from satmip_train.data.decoder import Decoder
from satmip_train.data.loader import TrainingStream, loader, ordered_batches
from satmip_train.data.order import Order
from satmip_train.data.tar import Readers
from satmip_train.errors import UsageError
from satmip_train.evaluation import features, probes
from satmip_train.evaluation.classifiers import described, primary_metric
from satmip_train.evaluation.evaluate import Protocol, assemble, check_labels, describe_model, protocol_models
from satmip_train.evaluation.features import autocast, label_key, read_labels
from satmip_train.evaluation.models import PIXELS, Model
from satmip_train.evaluation.tables import Result
from satmip_train.files import write_atomically
from satmip_train.models import weight_decay as weight_decay_module
from satmip_train.models.backbones import feature_dim
from satmip_train.policies import Policy
from satmip_train.views import apply, draws

_BLOCK = 16
"""Shards whose samples are permuted together."""


@dataclass(frozen=True)
class FinetuneSettings:
    """How a network is fine-tuned."""

    epochs: int = 30
    batch_size: int = 128
    lr: float = 1e-4
    """Highest learning rate of the backbone; the classifier's is ten times that."""
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    seed: int = 0
    """Of the classifier's weights, the order of samples and the views."""


def finetune(
    runs: Sequence[Path], protocol: Protocol, recipe: FinetuneSettings, out: Path, progress: Callable[[str, int], None]
) -> Result:
    """Fine-tune the backbones of the runs and their controls, and test them after the last epoch.

    What a stopped run needs is kept in `out`; the same call goes on after the last whole epoch. `progress` is told of a model's
    name and of samples learned from.

    Raises:
        UsageError: runs and shards do not fit together, the train split is smaller than a batch, or a sample has no label.
    """
    _check(protocol, recipe)
    results, metric = [], ""
    for model in protocol_models(runs, protocol):
        progress(model.name, 0)
        start = describe_model(model)  # before its weights change
        tuning = _Tuning(model, protocol, recipe, out, progress)
        losses = tuning.run()
        labels, scores = tuning.test()
        found = _score(labels, scores, len(protocol.train.classes))
        metric = primary_metric(protocol.train.source, labels)
        metrics, details = described(found, protocol.train.classes)
        weights = tuning.keep()
        results.append({**start, "weights": str(weights), "losses": losses, "metrics": metrics, **details})
    return assemble("finetune", protocol, asdict(recipe), metric, results)


def _check(protocol: Protocol, recipe: FinetuneSettings) -> None:
    chips = sum(shard.samples for shard in protocol.train.split(protocol.train_split))
    if chips < recipe.batch_size:
        raise UsageError(
            f"The batch of {recipe.batch_size} is larger than the split, which has {chips} chips. Use --batch-size {chips}"
        )
    if protocol.train.size is None:
        raise UsageError(
            f"The chips of {protocol.train.root} have different sizes. Build them with a fixed --size to train on them"
        )
    if PIXELS in protocol.backbones:
        raise UsageError(f"--backbone {PIXELS} has nothing to train. Leave it out")
    check_labels(protocol, *(read_labels(shards, split) for shards, split in protocol.splits))


def learning_rate(step: int, steps_per_epoch: int, recipe: FinetuneSettings) -> float:
    """Return the backbone's rate at a step, from 0: a linear rise to `lr` over the warm-up, then half a cosine to 0."""
    total, warmup = recipe.epochs * steps_per_epoch, round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1))) / 2


def policy(view_size: int) -> Policy:
    """Return the random views: crops of at least a fifth of the chip, flips, right-angle rotations; colours stay."""
    return Policy(view_size, scale=(0.2, 1.0), hflip_p=0.5, vflip_p=0.5, rot90_p=0.75)


class _Tuning:
    """One model being fine-tuned."""

    def __init__(
        self, model: Model, protocol: Protocol, recipe: FinetuneSettings, out: Path, progress: Callable[[str, int], None]
    ) -> None:
        self._model, self._protocol, self._recipe, self._progress = model, protocol, recipe, progress
        self._label = label_key(protocol.train, protocol.train_split)
        self._device = torch.device(protocol.device)
        self._mean, self._std = (torch.tensor(v, device=self._device) for v in (protocol.train.mean, protocol.train.std))
        generator = torch.Generator().manual_seed(recipe.seed)
        classifier = nn.Linear(feature_dim(model.backbone), len(protocol.train.classes))
        nn.init.trunc_normal_(classifier.weight, std=0.01, generator=generator)
        nn.init.zeros_(classifier.bias)
        self._network = nn.ModuleDict({"backbone": model.backbone, "classifier": classifier}).to(self._device)
        self._depends = {
            "recipe": asdict(recipe),
            "start": model.fingerprint,
            "shards": [shard.sha256 for shard in protocol.train.split(protocol.train_split)],
            "precision": protocol.precision,
        }
        digest = hashlib.sha256(json.dumps(self._depends).encode()).hexdigest()[:12]
        # A name may hold dots, so that endings are added to it and replace nothing.
        self._path = out / "finetuned" / f"{model.name.replace(' ', '-').replace('/', '-')}-{digest}"
        self._optimizer = self._build_optimizer()
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=protocol.precision == "fp16")

    def _build_optimizer(self) -> torch.optim.AdamW:
        spared = weight_decay_module.undecayed(self._network, "timm")
        groups: list[dict[str, Any]] = []
        for factor, part in ((1.0, "backbone."), (10.0, "classifier.")):
            for without, decay in ((False, self._recipe.weight_decay), (True, 0.0)):
                chosen = [p for n, p in self._network.named_parameters() if n.startswith(part) and (n in spared) == without]
                groups.append({"params": chosen, "weight_decay": decay, "factor": factor})
        return torch.optim.AdamW(groups, lr=self._recipe.lr)

    def run(self) -> list[float]:
        """Train to the end, from the last whole epoch on; return the mean loss of each epoch."""
        train, recipe = self._protocol.train, self._recipe
        counts = tuple(shard.samples for shard in train.split(self._protocol.train_split))
        order = Order(counts, recipe.batch_size, recipe.seed, _BLOCK)
        decoder = Decoder(frozenset({"image", self._label}))
        stream = TrainingStream(Readers(train, self._protocol.train_split), order, decoder)
        losses = self._restore()
        steps = range(len(losses) * order.steps_per_epoch, recipe.epochs * order.steps_per_epoch)
        self._network.train()
        recent: list[Tensor] = []
        for step, batch in zip(steps, loader(stream, steps, self._protocol.workers), strict=True):
            recent.append(self._step(step, batch, order.steps_per_epoch))
            self._progress(self._model.name, recipe.batch_size)
            if len(recent) == order.steps_per_epoch:
                losses.append(float(torch.stack(recent).mean()))
                if not math.isfinite(losses[-1]):
                    raise UsageError(
                        f"The loss is {losses[-1]} in epoch {len(losses)} of {self._model.name}. "
                        "Use a smaller --lr or --weight-decay, or --precision fp32"
                    )
                recent = []
                self._save(losses)
        return losses

    def _step(self, step: int, batch: dict[str, Any], steps_per_epoch: int) -> Tensor:
        images = batch["image"].to(self._device)
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence((self._recipe.seed, step)).generate_state(1)[0]))
        views = policy(self._model.settings.view_size)
        params = draws.draw(views, len(images), generator, (images.shape[2], images.shape[3])).to(self._device)
        torch.manual_seed(step)  # dropout, where the backbone has any
        with autocast(self._device, self._protocol.precision):
            logits = self._logits(apply.apply(images, params, views, self._mean, self._std))
        loss = self._loss(logits.float(), batch)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        rate = learning_rate(step, steps_per_epoch, self._recipe)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.detach()

    def _logits(self, views: Tensor) -> Tensor:
        logits: Tensor = self._network["classifier"](self._network["backbone"](views))
        return logits

    def _loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        if self._label == "labels":
            return F.binary_cross_entropy_with_logits(logits, batch["labels"].to(logits))
        return F.cross_entropy(logits, batch["label"].to(self._device))

    def test(self) -> tuple[Any, Any]:
        """Return labels and logits of the test split, its chips resized whole. Shape: (M,) or (M, classes), and (M, classes)."""
        protocol, keys = self._protocol, {"image", self._label}
        self._network.eval()
        labels, scores = [], []
        for batch in ordered_batches(protocol.test, protocol.test_split, keys, protocol.batch_size, protocol.workers):
            views = features.resize(batch["image"].to(self._device), self._model.settings.view_size)
            views = views.sub_(self._mean.view(3, 1, 1)).div_(self._std.view(3, 1, 1))
            with torch.inference_mode(), autocast(self._device, protocol.precision):
                scores.append(self._logits(views).float().cpu())
            labels.append(batch[self._label])
        return torch.cat(labels).numpy(), torch.cat(scores).double().numpy()

    def _file(self, ending: str) -> Path:
        return self._path.with_name(self._path.name + ending)

    def _restore(self) -> list[float]:
        path = self._file(".pt")
        if not path.exists():
            return []
        try:
            # Onto the CPU, where AdamW keeps its counts of steps: it would ask a GPU for each of them in each step.
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for damaged files
            raise UsageError(f"{path} is no state of a fine-tuning ({error}). Delete it to begin again") from error
        self._network.load_state_dict(saved["network"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self._scaler.load_state_dict(saved["scaler"])
        return list(saved["losses"])

    def _save(self, losses: list[float]) -> None:
        state = {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "losses": losses,
        }
        write_atomically(self._file(".pt"), lambda file: torch.save(state, file))

    def keep(self) -> Path:
        """Write the fine-tuned weights, with what they depend on, and return the path."""
        weights = {name: value.detach().cpu().contiguous() for name, value in self._network.state_dict().items()}
        content = save(weights, metadata={"format": "pt", "satmip": json.dumps(self._depends)})
        path = self._file(".safetensors")
        write_atomically(path, lambda file: file.write(content))
        return path


def _score(labels: Any, scores: Any, classes: int) -> probes.Scores | probes.MultiLabelScores:
    if labels.ndim == 2:
        return probes.score_multilabel(labels, scores)
    return probes.score(labels, scores.argmax(1), classes)
