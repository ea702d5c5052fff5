"""Frozen features of the metadata of a split: metadata encoder + shards -> features, and the tabular features as they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from satmip_train.choices import Precision
from satmip_train.config import Settings
from satmip_train.data.captions import CaptionReader, caption_reader
from satmip_train.data.dataset import Dataset, FeatureColumn
from satmip_train.data.decoder import Batch, column_numbers
from satmip_train.data.loader import ordered_batches
from satmip_train.errors import UsageError
from satmip_train.evaluation.features import Features, fingerprint, keep, label_key, run_frozen
from satmip_train.models.metadata_encoders import CaptionEncoder, MetadataShape, TabularEncoder, create_metadata_encoder
from satmip_train.runs.export import load_metadata_encoder


@dataclass(frozen=True)
class Running:
    """How features are computed; only the precision changes them."""

    precision: Precision = "fp32"
    batch_size: int = 256
    workers: int = 0
    device: str = "cpu"
    progress: Callable[[int], None] = lambda samples: None
    """Is told of samples done."""


@dataclass(frozen=True)
class Columns:
    """Columns of tabular features, with what their numbers and codes mean."""

    numeric: tuple[FeatureColumn, ...]
    categorical: tuple[FeatureColumn, ...]


@dataclass(frozen=True)
class MetadataModel:
    """A metadata encoder under evaluation, and what it must know of the shards it was trained on."""

    encoder: CaptionEncoder | TabularEncoder
    settings: Settings
    shape: MetadataShape
    fields: tuple[str, ...]
    """Fields that it reads."""
    caption_style: str | None
    """Of the captions it learned from; None for a tabular encoder."""
    columns: Columns
    """Those that it reads, as in the training shards; none for a textual encoder."""

    @property
    def architecture(self) -> dict[str, Any]:
        """The settings that make the encoder, and what it reads."""
        prefixes = ("text_", "tabular_", "metadata_encoder")
        settings = {name: v for name, v in self.settings.model_dump(mode="json").items() if name.startswith(prefixes)}
        reads = {"fields": list(self.fields), "style": self.caption_style, "context": self.shape.context}
        return {**settings, **reads, "columns": _meanings((*self.columns.numeric, *self.columns.categorical))}


def load_metadata_model(run: Path) -> MetadataModel:
    """Load the metadata encoder that a finished run exported.

    Raises:
        UsageError: the run has none.
    """
    encoder, config = load_metadata_encoder(run)
    assert isinstance(encoder, CaptionEncoder | TabularEncoder)
    shape = MetadataShape(config["context"], config["numeric"], tuple(config["cardinalities"]))
    numeric = tuple(FeatureColumn(c["name"], c["field"], 0, c["mean"], c["std"]) for c in config["numeric_columns"])
    categorical = tuple(
        FeatureColumn(c["name"], c["field"], len(c["values"]) + 1, values=tuple(c["values"])) for c in config["categorical_columns"]
    )
    settings = Settings.model_validate(config["settings"])
    return MetadataModel(encoder, settings, shape, tuple(config["fields"]), config["caption_style"], Columns(numeric, categorical))


def with_random_weights(like: MetadataModel, seed: int) -> MetadataModel:
    """Return the architecture of a metadata encoder with random weights, drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = create_metadata_encoder(like.settings, like.shape)
    return replace(like, encoder=encoder.eval())


def cached(cache: Path, model: MetadataModel, dataset: Dataset, split: str, running: Running) -> Features:
    """Return the features of the metadata of a split in stored order, from the folder `cache` where they were computed before.

    They are the encoder's CLS token (supplement B), like that of the images.

    Raises:
        UsageError: the shards lack a field, a caption is longer than the encoder's context, or there is no such split.
    """
    depends = ["metadata", fingerprint(model.encoder, model.architecture), running.precision, *_reading(dataset, model)]
    return keep(cache, dataset, split, depends, lambda: _extract(model, dataset, split, running))


def identity(dataset: Dataset, split: str, fields: tuple[str, ...], running: Running, like: Dataset | None = None) -> Features:
    """Return the tabular features of a split as they are: standardized numbers (0 where missing), then one-hot categories.

    A missing or unknown category has a column of its own. Numbers are standardized and categories coded as those of `like` are,
    by default those of `dataset`, so that the features of two builds mean the same.

    Raises:
        UsageError: the shards lack a field or a column, or there is no such split.
    """
    wanted = _columns(like or dataset, fields)
    numbers, source = _matching_columns(dataset, wanted)
    keys = {"numeric", "mask", "categorical", "key", label := label_key(dataset, split)}
    parts, labels, names = [], [], []
    for batch in ordered_batches(dataset, split, keys, running.batch_size, running.workers, columns=numbers):
        inputs = recode(batch, source, wanted)
        hot = [
            nn.functional.one_hot(inputs["categorical"][:, i], column.cardinality) for i, column in enumerate(wanted.categorical)
        ]
        parts.append(torch.cat([torch.where(inputs["mask"], inputs["numeric"], 0.0), *hot], dim=1))
        labels.append(batch[label])
        names += batch["key"]
    return Features(torch.cat(parts).numpy().astype(np.float32), torch.cat(labels).numpy(), np.array(names))


def recode(batch: Batch, source: Columns, wanted: Columns) -> Batch:
    """Give a batch's numbers and codes the meaning they have in other shards: another standardization, another vocabulary.

    What the source's vocabulary knows and the wanted one does not becomes 0, unknown.

    Args:
        batch: "numeric", "mask", "categorical" as the shards hold them
        source: the shards' columns that stand in the batch, in order
        wanted: columns of the same names in the same order
    """
    changed = dict(batch)
    if source.numeric != wanted.numeric:
        there, here = (_statistics(columns) for columns in (source.numeric, wanted.numeric))
        physical = batch["numeric"].double() * there[1] + there[0]
        changed["numeric"] = ((physical - here[0]) / here[1]).float()
    if source.categorical != wanted.categorical:
        codes = [
            _codes(theirs, ours)[batch["categorical"][:, i]]
            for i, (theirs, ours) in enumerate(zip(source.categorical, wanted.categorical, strict=True))
        ]
        changed["categorical"] = torch.stack(codes, dim=1)
    return changed


def _extract(model: MetadataModel, dataset: Dataset, split: str, running: Running) -> Features:
    device = torch.device(running.device)
    encoder = model.encoder.to(device).eval()
    keys = {"key", label := label_key(dataset, split), *encoder.batch_keys}
    columns, source = _matching_columns(dataset, model.columns)
    captions = None
    if isinstance(encoder, CaptionEncoder):
        captions = replace(_reader(dataset, model), context=encoder.context)
    parts, labels, names = [], [], []
    for batch in ordered_batches(dataset, split, keys, running.batch_size, running.workers, captions=captions, columns=columns):
        inputs = recode(batch, source, model.columns)
        moved = {key: inputs[key].to(device) for key in encoder.batch_keys}
        parts.append(run_frozen(encoder, moved, device, running.precision).cpu())
        labels.append(batch[label])
        names += batch["key"]
        running.progress(len(parts[-1]))
    return Features(torch.cat(parts).numpy(), torch.cat(labels).numpy(), np.array(names))


def _reading(dataset: Dataset, model: MetadataModel) -> list[Any]:
    """Return what features depend on beside shards and weights: how the shards are to be read."""
    if isinstance(model.encoder, CaptionEncoder):
        return [list(dataset.caption_fields), dataset.caption_style]
    source = _matching_columns(dataset, model.columns)[1]
    return [_meanings(source.numeric), _meanings(source.categorical)]


def _meanings(columns: Sequence[FeatureColumn]) -> list[Any]:
    """Return what numbers and codes of columns mean, as JSON."""
    return [[column.name, column.mean, column.std, list(column.values)] for column in columns]


def _reader(dataset: Dataset, model: MetadataModel) -> CaptionReader:
    return caption_reader(dataset, model.fields, model.settings.text_model, model.caption_style)


def _columns(dataset: Dataset, fields: tuple[str, ...]) -> Columns:
    """Return the columns that the shards have of the given fields."""
    numeric, categorical = column_numbers(dataset, fields)
    return Columns(tuple(dataset.numeric[i] for i in numeric), tuple(dataset.categorical[i] for i in categorical))


def _matching_columns(dataset: Dataset, wanted: Columns) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], Columns]:
    """Return numbers and descriptions of the shards' columns that have the names of the wanted ones, in their order."""
    numbers, columns = [], []
    for names, there in ((wanted.numeric, dataset.numeric), (wanted.categorical, dataset.categorical)):
        place = {column.name: i for i, column in enumerate(there)}
        if missing := [column.name for column in names if column.name not in place]:
            raise UsageError(
                f"{dataset.root} lacks the columns {', '.join(missing)} of the shards that were learned from. "
                "Build them again with this version of satmip-data"
            )
        numbers.append(tuple(place[column.name] for column in names))
        columns.append(tuple(there[i] for i in numbers[-1]))
    return (numbers[0], numbers[1]), Columns(*columns)


def _statistics(columns: Sequence[FeatureColumn]) -> tuple[Tensor, Tensor]:
    return torch.tensor([c.mean for c in columns], dtype=torch.float64), torch.tensor([c.std for c in columns], dtype=torch.float64)


def _codes(theirs: FeatureColumn, ours: FeatureColumn) -> Tensor:
    """Return for each code of one vocabulary that of the same value in another. Shape: (cardinality,) int64."""
    known = {value: code for code, value in enumerate(ours.values, start=1)}
    return torch.tensor([0, *(known.get(value, 0) for value in theirs.values)])
