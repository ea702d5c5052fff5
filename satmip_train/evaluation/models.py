"""Models under evaluation: trained runs and their baselines."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from satmip_train.choices import Larger, Modality
from satmip_train.config import Settings, load_recipe
from satmip_train.data.dataset import Dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation import features, metadata_features
from satmip_train.evaluation.features import Features, Input
from satmip_train.evaluation.metadata_features import MetadataModel, Running
from satmip_train.files import METADATA_WEIGHTS
from satmip_train.models.backbones import at_size, create_backbone
from satmip_train.objective_names import terms_of
from satmip_train.runs.checkpoint import saved_settings
from satmip_train.runs.export import load_backbone
from satmip_train.runs.external_forms import EXTERNALS

ARCHITECTURE = ("backbone", "backbone_args", "cls_token_std", "view_size")
"""Settings that make a backbone, without its weights."""
PIXELS = "pixels"
PIXELS_SIDE = 32

Kind = Literal["run", "random", "pixels", "identity"]


@dataclass(frozen=True)
class Model:
    """A model that turns samples into features."""

    name: str
    kind: Kind
    """A run; its architecture with random weights; the pixels themselves; the tabular features themselves."""
    folder: Path
    """Below it features are kept; of a run its own, or the file of its weights."""
    settings: Settings
    """Those of the run; of a random model only the architecture counts, and `seed` is that of its weights."""
    backbone: nn.Module
    metadata: MetadataModel | None = None
    """Needed to evaluate metadata."""
    trained: dict[str, Any] | None = None
    """Shards and step of the training, where it was trained."""

    @property
    def backbone_architecture(self) -> dict[str, Any]:
        """The settings that make the backbone."""
        if self.kind == "pixels":
            return {"backbone": PIXELS, "view_size": self.settings.view_size}
        return self.settings.model_dump(mode="json", include=set(ARCHITECTURE))

    @property
    def architecture(self) -> dict[str, Any]:
        """The settings that make the networks."""
        metadata = {} if self.metadata is None else {"metadata": self.metadata.architecture}
        return {**self.backbone_architecture, **metadata}

    @property
    def cache(self) -> Path:
        """Folder in which features are kept."""
        return (self.folder.parent if self.folder.is_file() else self.folder) / "features"

    @property
    def fingerprint(self) -> str:
        """The sha256 of architecture and weights of the backbone."""
        return features.fingerprint(self.backbone, self.backbone_architecture)


class Pixels(nn.Module):
    """The backbone that learns nothing: a view's values, one after the other."""

    def forward(self, views: Tensor) -> Tensor:
        """Shape: (B, 3, S, S) -> (B, 3 S S)."""
        return views.flatten(1)


def load_model(run: Path, modality: Modality = "image") -> Model:
    """Load the backbone that a finished run exported and, where metadata are evaluated, its metadata encoder.

    Args:
        run: its folder, or for images alone one of its files of weights, as `backbone-best.safetensors`
        modality: what is evaluated

    Raises:
        UsageError: the run has no exported backbone, it is damaged, or the run has gone on since; it learned nothing from metadata,
            or exported no encoder.
    """
    if modality != "image" and run.is_file():
        raise UsageError(f"Features of metadata need the folder of a run, and {run} is a file. Use {run.parent}")
    backbone, config = load_backbone(run)
    name = f"{run.resolve().parent.name}/{run.stem}" if run.is_file() else run.resolve().name
    trained = {"shards": config["dataset"]["fingerprint"], "step": config["step"]}
    settings = saved_settings(config, run)
    if modality == "image":
        return Model(name, "run", run, settings, backbone, None, trained)
    if not terms_of(settings.objective).learns_from_metadata and not (run / METADATA_WEIGHTS).is_file():
        raise UsageError(
            f"{run} learned nothing from metadata: {settings.objective} has no metadata encoder. Use runs of satmip or satmips"
        )
    return Model(name, "run", run, settings, backbone, metadata_features.load_metadata_model(run), trained)


def random_model(like: Model, seed: int, name: str = "random weights") -> Model:
    """Return the architecture of a model with random weights, drawn from `seed`."""
    settings = like.settings.model_copy(update={"seed": seed})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = create_backbone(settings)
    metadata = None if like.metadata is None else metadata_features.with_random_weights(like.metadata, seed)
    return replace(like, name=name, kind="random", settings=settings, backbone=backbone, metadata=metadata, trained=None)


def image_features(
    model: Model,
    dataset: Dataset,
    split: str,
    running: Running,
    normalized_by: Dataset | None = None,
    larger: Larger = "resize",
) -> Features:
    """Return a model's features of the images of a split, from its cache where they were computed before.

    Images are normalised with the channel statistics of `normalized_by`, by default those of `dataset` (supplement A).

    Args:
        larger: what becomes of images larger than a view; the paper keeps their size (supplement A), see `evaluated_size`

    Raises:
        UsageError: there is no such split, the shards cannot be read, or the backbone cannot take images of their size.
    """
    statistics = normalized_by or dataset
    size = evaluated_size(model, dataset) if larger == "keep" else model.settings.view_size
    try:
        backbone = model.backbone if size == model.settings.view_size else at_size(model.backbone, size)
    except ValueError as error:
        raise UsageError(f"{error}. Pass --larger-images resize") from error
    how = Input(size, statistics.mean, statistics.std, running.precision)
    options: dict[str, Any] = {"batch_size": running.batch_size, "workers": running.workers}
    options |= {"device": running.device, "progress": running.progress}
    return features.cached(model.cache, backbone, model.backbone_architecture, dataset, split, how, **options)


def evaluated_size(model: Model, dataset: Dataset) -> int:
    """Return the side of the images that a model sees where larger ones keep their size: the chips' own, or at least a view's.

    Pixels as they are and Scale-MAE stay at their size, the latter as in the paper. So do images of different sizes, which make
    no batch, and of unequal sides.
    """
    known = EXTERNALS.get(model.settings.objective)
    if model.kind == "pixels" or (known is not None and known.scaled_positions) or dataset.size is None:
        return model.settings.view_size
    width, height = dataset.size
    return max(width, model.settings.view_size) if width == height else model.settings.view_size


def metadata_features_of(
    model: Model, dataset: Dataset, split: str, running: Running, standardized_by: Dataset | None = None
) -> Features:
    """Return a model's features of the metadata of a split, from its cache where they were computed before.

    The control, the tabular features themselves, is standardized and coded as in `standardized_by`, by default `dataset`; an
    encoder knows what its training shards were.

    Raises:
        UsageError: there is no such split, or the shards do not hold what the model reads.
    """
    assert model.metadata is not None
    if model.kind == "identity":
        return metadata_features.identity(dataset, split, model.metadata.fields, running, standardized_by)
    return metadata_features.cached(model.cache, model.metadata, dataset, split, running)


def control(name: str, folder: Path) -> Model:
    """Return a model without a run: "pixels", the chip itself resized to 32 pixels, or the architecture of a recipe, untrained.

    Raises:
        UsageError: there is neither.
    """
    if name == PIXELS:
        settings = Settings.model_validate({"view_size": PIXELS_SIDE})
        return Model(f"raw pixels, {PIXELS_SIDE} x {PIXELS_SIDE}", "pixels", folder, settings, Pixels())
    try:
        settings = Settings.model_validate(load_recipe(name))
        return Model(name, "random", folder, settings, create_backbone(settings))
    except ValueError as error:
        raise UsageError(f"--backbone is neither {PIXELS} nor a recipe: {error}") from error


def models(
    runs: Sequence[Path],
    random_seeds: Sequence[int],
    backbones: Sequence[str] = (),
    *,
    folder: Path = Path("."),
    modality: Modality = "image",
) -> Iterator[Model]:
    """Give the runs' models, all loaded first, then what they are compared with.

    That is the tabular features as they are (where metadata alone are evaluated), the pixels (where asked for), and each
    architecture with random weights, kept with its first run and named after it where there are several.
    """
    loaded = [load_model(run, modality) for run in runs]
    controls = [control(name, folder) for name in backbones]
    yield from loaded
    if modality == "metadata":
        yield from _identities(loaded)
    yield from (model for model in controls if model.kind == "pixels")
    architectures: dict[str, Model] = {}
    for model in (*loaded, *(model for model in controls if model.kind == "random")):
        architectures.setdefault(json.dumps(model.architecture, sort_keys=True), model)
    for model in architectures.values():
        alone = len(architectures) == 1 and model.kind == "run"
        name = "random weights" if alone else f"random weights of {model.name}"
        yield from (random_model(model, seed, name) for seed in random_seeds)


def _identities(loaded: Sequence[Model]) -> Iterator[Model]:
    """Give one control for each choice of fields."""
    seen = set()
    for model in loaded:
        assert model.metadata is not None
        if model.metadata.fields not in seen:
            seen.add(model.metadata.fields)
            name = f"tabular features as they are ({', '.join(model.metadata.fields)})"
            yield replace(model, name=name, kind="identity", trained=None)
