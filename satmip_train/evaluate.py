"""Evaluation of trained backbones by probes on frozen features, beside the same architectures with random weights."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from satmip_train import checkpoint, features, probes
from satmip_train.backbones import create_backbone
from satmip_train.checkpoint import FREE_SETTINGS, write_atomically
from satmip_train.config import Settings
from satmip_train.errors import UsageError
from satmip_train.export import load_backbone
from satmip_train.features import Features, Input, Precision
from satmip_train.shards import Dataset

ARCHITECTURE = ("backbone", "backbone_args", "cls_token_std", "view_size")
"""Settings that make a backbone, without its weights."""

Result = dict[str, Any]
"""`name`, what was evaluated, `metrics` (name -> value in 0..1) and details of the probe."""


@dataclass(frozen=True)
class Protocol:
    """On what models are compared: a probe learns from the features of one split and is tested on those of another."""

    train: Dataset
    test: Dataset
    train_split: str = "train"
    test_split: str = "val"
    random_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the random weights that every architecture is compared with."""
    precision: Precision = "fp32"
    batch_size: int = 256
    workers: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check that a probe can be tested on these splits.

        Raises:
            UsageError: the classes of the two differ, there are none, or they share shards.
        """
        if not self.train.classes:
            raise UsageError(
                f"a probe needs labels, however: the shards in {self.train.root} have no classes. "
                "Pass --shards with labelled ones (their dataset.json lists classes)"
            )
        if self.train.classes != self.test.classes:
            counts = f"{len(self.train.classes)} in {self.train.root}, {len(self.test.classes)} in {self.test.root}"
            raise UsageError(f"train and test shards must have the same classes, however: {counts}. Pass other --test-shards")
        shared = {s.sha256 for s in self.train.split(self.train_split)} & {s.sha256 for s in self.test.split(self.test_split)}
        if shared:
            raise UsageError(
                f"a probe is tested on what it has not seen, however: {len(shared)} shards are in both. Pass another --test-split"
            )


@dataclass(frozen=True)
class Model:
    """A backbone under evaluation."""

    name: str
    run: Path
    """The run whose weights, or whose architecture with random weights, it has."""
    settings: Settings
    """Those of the run; of a random model only the architecture counts, and `seed` is that of its weights."""
    backbone: nn.Module
    random: bool
    trained: Result
    """Shards and step of the training, where it was trained."""

    @property
    def architecture(self) -> dict[str, Any]:
        """The settings that make the backbone."""
        return self.settings.model_dump(mode="json", include=set(ARCHITECTURE))

    @property
    def fingerprint(self) -> str:
        """The sha256 of architecture and weights."""
        return features.fingerprint(self.backbone, self.architecture)


def load_model(run: Path) -> Model:
    """Load the backbone that a finished run exported.

    Raises:
        UsageError: the run has no exported backbone, or it is damaged.
    """
    backbone, config = load_backbone(run)
    trained = {"shards": config["dataset"]["fingerprint"], "step": config["step"]}
    return Model(run.resolve().name, run, Settings.model_validate(config["settings"]), backbone, False, trained)


def random_model(like: Model, seed: int) -> Model:
    """Return the architecture of a model with random weights, drawn from `seed`."""
    settings = like.settings.model_copy(update={"seed": seed})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = create_backbone(settings)
    return Model("random weights", like.run, settings, backbone, True, {})


def models(runs: Sequence[Path], random_seeds: Sequence[int]) -> Iterator[Model]:
    """Give the runs' models, all loaded first, then each of their architectures with random weights, kept with its first run."""
    loaded = [load_model(run) for run in runs]
    yield from loaded
    architectures: dict[str, Model] = {}
    for model in loaded:
        architectures.setdefault(json.dumps(model.architecture, sort_keys=True), model)
    for model in architectures.values():
        yield from (random_model(model, seed) for seed in random_seeds)


def split_features(model: Model, protocol: Protocol, progress: Callable[[int], None]) -> tuple[Features, Features]:
    """Return a model's features of the train and the test split, from the run's cache where they were computed before.

    Both are normalised with the channel statistics of the train shards.

    Raises:
        UsageError: a sample has no label, or the shards cannot be read.
    """
    dataset = protocol.train
    how = Input(model.settings.view_size, dataset.mean, dataset.std, protocol.precision)
    found = []
    for shards, split in ((dataset, protocol.train_split), (protocol.test, protocol.test_split)):
        part = features.cached(
            model.run / "features", model.backbone, model.architecture, shards, split, how,
            batch_size=protocol.batch_size, workers=protocol.workers, device=protocol.device, progress=progress,
        )  # fmt: skip
        if missing := int((part.labels < 0).sum()):
            raise UsageError(
                f"every sample must have a label for a probe, however: {missing} of {len(part.labels)} in {split!r} of "
                f"{shards.root} have none. Pass another split, or build the shards from a source with classes"
            )
        found.append(part)
    return found[0], found[1]


@dataclass(frozen=True)
class Knn:
    """The kNN probe: macro-F1 and top-1 of a weighted vote for several k."""

    ks: tuple[int, ...] = (1, 5, 20, 100)
    fixed_k: int = 5
    temperature: float = 0.07

    def check(self, samples: int) -> None:
        """Raise UsageError where the split to learn from has too few samples."""
        largest = max(*self.ks, self.fixed_k)
        if largest > samples:
            raise UsageError(
                f"k must not exceed the samples to learn from, however: k={largest} of {samples}. Pass smaller --k and --fixed-k"
            )

    def __call__(self, train: Features, test: Features, classes: Sequence[str], device: str) -> Result:
        """Return the metrics at the fixed k, and those at the best k of each, chosen on the test split as the paper does."""
        ks = sorted({*self.ks, self.fixed_k})
        predictions = probes.knn(
            train.vectors, train.labels, test.vectors, ks, classes=len(classes), temperature=self.temperature, device=device
        )
        scores = {k: probes.score(test.labels, predictions[k], len(classes)) for k in ks}
        # `max` takes the first of equals: the smallest k.
        best_f1, best_top1 = max(ks, key=lambda k: scores[k].macro_f1), max(ks, key=lambda k: scores[k].top1)
        fixed = scores[self.fixed_k]
        return {
            "metrics": {
                "macro_f1": fixed.macro_f1,
                "top1": fixed.top1,
                "best_macro_f1": scores[best_f1].macro_f1,
                "best_top1": scores[best_top1].top1,
            },
            "best_k": {"macro_f1": best_f1, "top1": best_top1},
            "by_k": {str(k): {"macro_f1": scores[k].macro_f1, "top1": scores[k].top1} for k in ks},
            "f1_per_class": dict(zip(classes, fixed.per_class, strict=True)),
        }


@dataclass(frozen=True)
class Linear:
    """The linear probe: logistic regression without regularisation, at most so many iterations of L-BFGS."""

    max_iterations: int = 200
    tolerance: float = 1e-4

    def check(self, samples: int) -> None:
        """Any number of samples will do."""

    def __call__(self, train: Features, test: Features, classes: Sequence[str], device: str) -> Result:
        """Return the metrics and how the fit ended."""
        fit = probes.linear(
            train.vectors, train.labels, test.vectors, max_iterations=self.max_iterations, tolerance=self.tolerance, device=device
        )
        scores = probes.score(test.labels, fit.predictions, len(classes))
        return {
            "metrics": {"macro_f1": scores.macro_f1, "top1": scores.top1},
            "iterations": fit.iterations,
            "gradient_norm": fit.gradient_norm,
            "train_loss": fit.loss,
            "f1_per_class": dict(zip(classes, scores.per_class, strict=True)),
        }


def evaluate(
    runs: Sequence[Path], protocol: Protocol, probe: Knn | Linear, progress: Callable[[str, int], None] = lambda name, samples: None
) -> Result:
    """Probe the runs and random weights; return everything that the numbers depend on, and the numbers.

    `progress` is told of a model's name and of samples whose features were computed.

    Raises:
        UsageError: the runs, the shards and the probe do not fit together.
    """
    probe.check(protocol.train.splits.get(protocol.train_split, 0))
    results = []
    for model in models(runs, protocol.random_seeds):
        progress(model.name, 0)
        train, test = split_features(model, protocol, lambda samples, name=model.name: progress(name, samples))  # type: ignore[misc]
        found = probe(train, test, protocol.train.classes, protocol.device)
        results.append({**_describe_model(model), **found})
    return {
        "probe": type(probe).__name__.lower(),
        "settings": {**asdict(probe), "precision": protocol.precision},
        "train": _describe_split(protocol.train, protocol.train_split),
        "test": _describe_split(protocol.test, protocol.test_split),
        "classes": len(protocol.train.classes),
        "models": results,
        "summaries": summarise(results),
        "versions": checkpoint.versions(),
    }


def _describe_model(model: Model) -> Result:
    return {
        "name": model.name,
        "run": None if model.random else str(model.run),
        "objective": None if model.random else model.settings.objective,
        "seed": model.settings.seed,
        "fingerprint": model.fingerprint,
        "settings": model.architecture if model.random else model.settings.model_dump(mode="json"),
        "trained": model.trained,
    }


def _describe_split(dataset: Dataset, split: str) -> Result:
    return {"shards": dataset.root, "split": split, "samples": dataset.splits[split], "fingerprint": dataset.fingerprint}


def summarise(results: Sequence[Result]) -> list[Result]:
    """Return mean and standard deviation (of a sample, n - 1) of each metric over the models that differ only in seed."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        same = {name: value for name, value in result["settings"].items() if name not in {"seed", *FREE_SETTINGS}}
        groups.setdefault(json.dumps([same, result["trained"]], sort_keys=True), []).append(result)
    return [
        {
            "name": group[0]["objective"] or group[0]["name"],
            "models": [result["name"] for result in group],
            "seeds": [result["seed"] for result in group],
            "mean": {metric: float(np.mean([r["metrics"][metric] for r in group])) for metric in group[0]["metrics"]},
            "std": {metric: float(np.std([r["metrics"][metric] for r in group], ddof=1)) for metric in group[0]["metrics"]},
        }
        for group in groups.values()
        if len(group) > 1
    ]


def write_result(result: Result, folder: Path) -> Path:
    """Write a result as `knn.json` or `linear.json` into a folder and return its path."""
    path = folder / f"{result['probe']}.json"
    content = json.dumps(result, indent=1).encode()
    write_atomically(path, lambda file: file.write(content))
    return path
