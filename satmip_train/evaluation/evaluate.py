"""Evaluation of trained networks by probes on frozen features, beside controls."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.stats

from satmip_data.names import counted, without_secrets
from satmip_train.choices import Larger, Modality, Precision
from satmip_train.config import FREE_SETTINGS
from satmip_train.data.dataset import Dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation import features
from satmip_train.evaluation.classifiers import Probe, primary_metric
from satmip_train.evaluation.features import Features
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import Model, image_features, metadata_features_of, models
from satmip_train.evaluation.tables import Result
from satmip_train.files import result_path, write_atomically
from satmip_train.runs import checkpoint

Progress = Callable[[str, int], None]
_log = logging.getLogger(__name__)


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
    modality: Modality = "image"
    backbones: tuple[str, ...] = ()
    """Controls without a run, see `models.control`."""
    folder: Path = Path(".")
    """Below it the features of these are kept."""
    larger_images: Larger = "resize"
    """Whether images larger than a view keep their size, see `models.evaluated_size`."""
    label_share: float = 1.0
    """Share of the train labels that a probe learns from, see `few_labels`."""

    def __post_init__(self) -> None:
        """Check that a probe can be tested on these splits.

        Raises:
            UsageError: the classes of the two differ, there are none, or they share shards.
        """
        if not self.train.classes:
            raise UsageError(
                f"A probe needs labels, and the shards in {self.train.root} have no classes. "
                "Use --shards with labelled ones (their dataset.json lists classes)"
            )
        if self.train.classes != self.test.classes:
            counts = f"{len(self.train.classes)} in {self.train.root}, {len(self.test.classes)} in {self.test.root}"
            single = sorted({*self.train.classes} ^ {*self.test.classes})
            which = f'only one has "{single[0]}"' if single else "they are in another order"
            raise UsageError(f"Train and test shards have different classes: {counts}; {which}. Use other --test-shards")
        shared = {s.sha256 for s in self.train.split(self.train_split)} & {s.sha256 for s in self.test.split(self.test_split)}
        if shared:
            raise UsageError(
                f"The probe would be tested on what it has learned from: both splits share {counted(len(shared), 'shard')}. "
                "Use another --test-split"
            )

    @property
    def splits(self) -> tuple[tuple[Dataset, str], tuple[Dataset, str]]:
        """Shards and split to learn from, and those to test on."""
        return (self.train, self.train_split), (self.test, self.test_split)

    @property
    def described(self) -> dict[str, Result]:
        """Description of the samples that the probe learns from, and of those it is tested on."""
        return {"train": describe_split(self.train, self.train_split), "test": describe_split(self.test, self.test_split)}


def protocol_models(runs: Sequence[Path], protocol: Protocol) -> list[Model]:
    """Return the models of the runs and their controls.

    Raises:
        UsageError: there are none, or they cannot be loaded.
    """
    if not runs and not protocol.backbones:
        raise UsageError("There is nothing to evaluate. Name folders that satmip-train wrote, or use --backbone")
    if protocol.backbones and protocol.modality != "image":
        raise UsageError(f"--backbone has features of images only. Leave it out, or --modality {protocol.modality}")
    found = list(
        models(
            runs,
            protocol.random_seeds,
            protocol.backbones,
            folder=protocol.folder,
            modality=protocol.modality,
        )
    )
    if not found:
        raise UsageError(
            "There is nothing to evaluate: --backbone has random weights and --random-seeds is empty. Use --random-seeds 0,1,2"
        )
    return found


def split_features(model: Model, protocol: Protocol, progress: Callable[[int], None]) -> tuple[Features, Features]:
    """Return a model's features of the train and the test split, from its cache where they were computed before.

    Images of both are normalised with the channel statistics of the train shards; the control, the tabular features themselves,
    is standardized and coded as in these. Of both modalities the features stand side by side, the image's first (section 4.4).

    Raises:
        UsageError: a sample has no label, or the shards cannot be read.
    """
    train, test = (_features(model, protocol, shards, split, progress) for shards, split in protocol.splits)
    check_labels(protocol, train.labels, test.labels)
    if protocol.label_share < 1.0:
        # Another draw for each seed, so that the spread over seeds is also that of the draw.
        kept = few_labels(train.labels, protocol.label_share, model.settings.seed)
        train = Features(train.vectors[kept], train.labels[kept], train.keys[kept])
    return train, test


def few_labels(labels: npt.NDArray[Any], share: float, seed: int) -> npt.NDArray[np.int64]:
    """Draw the samples whose labels a probe may learn from: of each class its share, rounded, and at least one.

    Of samples with several labels the draw does not look at these.
    NOTE[DIFF] The paper learns from all labels.

    Args:
        labels: of the train split, see `Features.labels`
        share: above 0, at most 1
        seed: of the draw

    Returns:
        Their numbers, ascending: (n,).
    """
    rng = np.random.default_rng(seed)
    classes = labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)
    groups = [np.flatnonzero(classes == name) for name in np.unique(classes)]
    return np.sort(np.concatenate([rng.permutation(group)[: max(1, round(share * len(group)))] for group in groups]))


def check_labels(protocol: Protocol, *labels: npt.NDArray[Any]) -> None:
    """Check that every sample can be learned from or tested on.

    Args:
        protocol: on what
        labels: of its train and of its test split, see `Features.labels`

    Raises:
        UsageError: a sample has no label, or those of one split have one and those of the other several.
    """
    for (shards, split), found in zip(protocol.splits, labels, strict=True):
        if found.ndim == 1 and (missing := int((found < 0).sum())):
            raise UsageError(
                f'A probe needs labels, and {missing:,} of {counted(len(found), "sample")} in the split "{split}" of {shards.root} '
                "have none. Use another split, or build the shards from a source with classes"
            )
    if labels[0].ndim != labels[1].ndim:
        raise UsageError("One split has one label a sample, and the other several. Use another --test-split")


def _features(model: Model, protocol: Protocol, shards: Dataset, split: str, progress: Callable[[int], None]) -> Features:
    running, parts = Running(protocol.precision, protocol.batch_size, protocol.workers, protocol.device, progress), []
    if protocol.modality != "metadata":
        parts.append(image_features(model, shards, split, running, protocol.train, protocol.larger_images))
    if protocol.modality != "image":
        parts.append(metadata_features_of(model, shards, split, running, protocol.train))
    return Features(np.concatenate([part.vectors for part in parts], axis=1), parts[0].labels, parts[0].keys)


def evaluate(runs: Sequence[Path], protocol: Protocol, probe: Probe, progress: Progress = lambda name, samples: None) -> Result:
    """Probe the runs and their controls; return everything that the numbers depend on, and the numbers.

    `progress` is told of a model's name and of samples whose features were computed.

    Raises:
        UsageError: the runs, the shards and the probe do not fit together.
    """
    results, metric, notes = [], "", tuple[str, ...]()
    for model in protocol_models(runs, protocol):
        progress(model.name, 0)
        train, test = split_features(model, protocol, lambda samples, name=model.name: progress(name, samples))  # type: ignore[misc]
        probe, said = probe.fit_to(len(train.vectors))
        notes = notes or said
        found = probe(train, test, protocol.train.classes, protocol.device)
        metric = primary_metric(protocol.train.source, test.labels)
        results.append({**describe_model(model), "features": train.vectors.shape[1], **found})
    return assemble(type(probe).__name__.lower(), protocol, asdict(probe), metric, results, notes)


def assemble(
    probe: str, protocol: Protocol, settings: dict[str, Any], metric: str, results: list[Result], notes: Sequence[str] = ()
) -> Result:
    """Return the results of models with everything that they depend on, as it is written.

    Args:
        probe: name of what was done, and of the file
        protocol: on what
        settings: of the probe
        metric: the one the paper prints for the set
        results: one a model
        notes: what a reader must know
    """
    few = {} if protocol.label_share == 1.0 else {"label_share": protocol.label_share}
    return {
        "probe": probe,
        "modality": protocol.modality,
        "metric": metric,
        "settings": {**settings, "precision": protocol.precision, "larger_images": protocol.larger_images, **few},
        **protocol.described,
        "classes": len(protocol.train.classes),
        "models": results,
        "summaries": summarise(results),
        "notes": list(notes),
        "versions": checkpoint.versions(),
    }


def describe_model(model: Model) -> Result:
    """Return what says which networks gave the features."""
    run = model.kind == "run"
    described = {
        "name": model.name,
        "kind": model.kind,
        "run": str(model.folder) if run else None,
        "objective": model.settings.objective if run else None,
        "seed": model.settings.seed,
        "fingerprint": model.fingerprint,
        "settings": model.settings.model_dump(mode="json") if run else model.architecture,
        "trained": model.trained or {},
    }
    if model.metadata is not None:
        weights = features.fingerprint(model.metadata.encoder, model.metadata.architecture)
        described["metadata"] = {
            "fields": list(model.metadata.fields),
            "fingerprint": None if model.kind == "identity" else weights,
        }
    return described


def describe_split(dataset: Dataset, split: str) -> Result:
    """Return what says which samples were evaluated."""
    return {
        "shards": without_secrets(dataset.root),
        "source": dataset.source,
        "split": split,
        "samples": dataset.splits[split],
        "fingerprint": dataset.fingerprint,
    }


def summarise(results: Sequence[Result]) -> list[Result]:
    """Return mean, standard deviation (of a sample, n - 1) and half of the 95% t-interval of each metric over equal models.

    Equal are those that differ only in seed; what has the same seed too, as two weight files of one network, is no sample of seeds.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        same = {name: value for name, value in result["settings"].items() if name not in {"seed", *FREE_SETTINGS}}
        groups.setdefault(json.dumps([result["kind"], same, result["trained"]], sort_keys=True), []).append(result)
    return [_summary(group) for group in groups.values() if 1 < len(group) == len({result["seed"] for result in group})]


def _summary(group: Sequence[Result]) -> Result:
    values = {metric: [result["metrics"][metric] for result in group] for metric in group[0]["metrics"]}
    std = {metric: float(np.std(v, ddof=1)) for metric, v in values.items()}
    half = float(scipy.stats.t.ppf(0.975, len(group) - 1)) / len(group) ** 0.5
    return {
        "name": group[0]["objective"] or group[0]["name"],
        "models": [result["name"] for result in group],
        "seeds": [result["seed"] for result in group],
        "mean": {metric: float(np.mean(v)) for metric, v in values.items()},
        "std": std,
        "interval": {metric: half * value for metric, value in std.items()},
    }


def check_result(path: Path, **parts: Result) -> None:
    """Check before anything is computed that no result on other samples is written over.

    Args:
        path: where the result will be written
        parts: "train" and "test" as the result will hold them, see `describe_split`

    Raises:
        UsageError: the file holds a result on another split, or on shards that lie elsewhere and are others.
    """
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        others = [(there[name], part) for name, part in parts.items() if not _same_samples(there[name], part)]
    except (OSError, KeyError, TypeError, ValueError):
        return  # there is none, or it is damaged
    if others:
        then, now = others[0]
        name = now["split"] if then["shards"] == now["shards"] else Path(now["shards"]).resolve().name
        raise UsageError(
            f'{path} was measured on the split "{then["split"]}" of {then["shards"]}, and would be written over by one on '
            f'"{now["split"]}" of {now["shards"]}. Use another --out, such as {path.parent / name}'
        )


def result_folder(
    typed: Path | None, base: str, parts: dict[str, Result], probe: str, modality: str = "image", name: str = "", share: float = 1.0
) -> Path:
    """Return the folder that a result is written to, and check before anything is computed that it holds none on other samples.

    Args:
        typed: by the user; None for one below `base` that is the set's own
        base: the folder of all sets
        parts: "train" and "test" as the result will hold them, see `describe_split`
        probe: whose result it is, see `files.result_path`
        modality: of the features
        name: of the set; "" for that of the folder of the shards that are tested
        share: of the train labels

    Raises:
        UsageError: the folder that was typed holds a result on other samples.
    """
    if typed is not None:
        check_result(result_path(typed, probe, modality, share), **parts)
        return typed
    name = name or set_name(parts["test"]["shards"])
    for folder in (name, f"{name}-{parts['test']['split']}"):  # another split, or another set whose folder has the same name
        with suppress(UsageError):
            check_result(result_path(Path(base, folder), probe, modality, share), **parts)
            return Path(base, folder)
    samples = json.dumps({part: (known["split"], known["fingerprint"]) for part, known in sorted(parts.items())})
    return Path(base, f"{name}-{hashlib.sha256(samples.encode()).hexdigest()[:8]}")


def set_name(shards: str) -> str:
    """Return what a set is called by the folder of its shards."""
    return Path(shards).resolve().name or "shards"


def _same_samples(one: Result, other: Result) -> bool:
    """Whether two descriptions are of one split, also where its shards were built again or moved."""
    return bool(one["split"] == other["split"] and any(one[key] == other[key] for key in ("fingerprint", "shards")))


def write_result(result: Result, folder: Path) -> Path:
    """Write a result into a folder and return its path, see `result_path`.

    One that is there and holds models which this one does not is kept beside it, as `knn-1a2b3c4d.json`; `results` reads all of
    them, and of two results of one model the newer.
    """
    share = result["settings"].get("label_share", 1.0)
    path = result_path(folder, result["probe"], result.get("modality", "image"), share)
    content = json.dumps(result, indent=1).encode()

    def write(file: Any) -> None:
        file.write(content)
        _keep_others(path, result)  # not before the new one is written: a full disk must leave the old one where it is

    write_atomically(path, write)
    return path


def _keep_others(path: Path, result: Result) -> None:
    """Move the result that is there, unless all of its models are measured again."""
    try:
        there = _measured(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return  # there is none, or it is damaged
    if not there <= _measured(result):
        # Named after its models: the next result of the same ones takes its place.
        digest = hashlib.sha256(json.dumps(sorted(there)).encode()).hexdigest()
        kept = path.replace(path.with_name(f"{path.stem}-{digest[:8]}.json"))
        _log.warning("What was in %s is kept as %s, as it holds other models too", path, kept)


def _measured(result: Result) -> set[str]:
    return {json.dumps([model["run"], model["name"], model["seed"]]) for model in result["models"]}
