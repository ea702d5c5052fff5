"""Frozen features of the metadata of a split: metadata encoder + shards -> features, and the tabular features as they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from satmip_train import checkpoint
from satmip_train.checkpoint import Checkpoint
from satmip_train.config import Settings
from satmip_train.errors import UsageError
from satmip_train.features import Features, Precision, fingerprint, is_multilabel, keep, run_frozen
from satmip_train.metadata_encoders import CaptionEncoder, MetadataShape, TabularEncoder, create_metadata_encoder
from satmip_train.shards import Column, Dataset, open_dataset
from satmip_train.stream import DEFAULT_COLUMN_FIELDS, Batch, column_numbers, ordered_batches
from satmip_train.tokens import caption_reader

_ENCODER = "metadata_encoder."


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
class MetadataModel:
    """A metadata encoder under evaluation, and what it must know of the shards it was trained on."""

    encoder: CaptionEncoder | TabularEncoder
    settings: Settings
    shape: MetadataShape
    fields: tuple[str, ...]
    """Fields that it reads."""
    numeric: tuple[Column, ...]
    """Its numeric columns as the training shards standardized them; none for a textual encoder."""
    categorical: tuple[Column, ...]
    as_trained: bool
    """Whether the training shards were found as they were; else columns and fields are those of what their folder holds now."""

    @property
    def architecture(self) -> dict[str, Any]:
        """The settings that make the encoder, and the columns it reads."""
        prefixes = ("text_", "tabular_", "metadata_encoder")
        settings = {name: v for name, v in self.settings.model_dump(mode="json").items() if name.startswith(prefixes)}
        columns = [[c.name, c.mean, c.std, list(c.values)] for c in (*self.numeric, *self.categorical)]
        return {**settings, "fields": list(self.fields), "columns": columns, "context": self.shape.context}


def load_metadata_encoder(run: Path, at_hand: Sequence[Dataset] = ()) -> MetadataModel:
    """Load the metadata encoder of a run from its checkpoint.

    Numbers and codes of a tabular encoder mean what the training shards made them mean, and a textual one reads the fields of
    their captions. The training shards are looked for among those `at_hand`, then where they were.

    Raises:
        UsageError: the run has no checkpoint, it learned nothing from metadata, or its shards are gone.
    """
    saved = checkpoint.load(run)
    if saved is None:
        raise UsageError(
            f"metadata features need the checkpoint of a run, however: there is no {checkpoint.NAME} in {run}. "
            "Pass a folder of satmip-train, or --modality image"
        )
    settings = Settings.model_validate(saved["settings"])
    weights = {name.removeprefix(_ENCODER): value for name, value in saved["model"].items() if name.startswith(_ENCODER)}
    if not weights:
        raise UsageError(
            f"the run must have learned from metadata, however: {settings.objective=} of {run} has no metadata encoder. "
            "Pass runs of satmip or satmips"
        )
    shape = _shape(weights)
    trained, as_trained = _training_shards(saved, at_hand, run)
    numeric, categorical = _columns(trained, settings)
    if settings.metadata_encoder == "tabular" and (len(numeric), tuple(c.cardinality for c in categorical)) != (
        shape.numeric,
        shape.cardinalities,
    ):
        raise UsageError(
            f"the training shards must have the columns that the encoder reads, however: those of {trained.root} are others now. "
            "Build the training shards again as they were"
        )
    encoder = create_metadata_encoder(settings, shape)
    encoder.load_state_dict(weights)
    return MetadataModel(encoder.eval(), settings, shape, _fields(settings, trained), numeric, categorical, as_trained)


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


def identity(dataset: Dataset, split: str, fields: tuple[str, ...], *, batch_size: int = 4096, workers: int = 0) -> Features:
    """Return the tabular features of a split as they are: standardized numbers (0 where missing), then one-hot categories.

    A missing or unknown category has a column of its own.

    Raises:
        UsageError: the shards lack a field, or there is no such split.
    """
    numbers = column_numbers(dataset, fields)
    widths = [dataset.categorical[i].cardinality for i in numbers[1]]
    keys = {"numeric", "mask", "categorical", "key", label := _label_key(dataset, split)}
    parts, labels, names = [], [], []
    for batch in ordered_batches(dataset, split, keys, batch_size, workers, columns=numbers):
        hot = [nn.functional.one_hot(batch["categorical"][:, i], width) for i, width in enumerate(widths)]
        parts.append(torch.cat([torch.where(batch["mask"], batch["numeric"], 0.0), *hot], dim=1))
        labels.append(batch[label])
        names += batch["key"]
    return Features(torch.cat(parts).numpy().astype(np.float32), torch.cat(labels).numpy(), np.array(names))


def recode(batch: Batch, source: tuple[Sequence[Column], Sequence[Column]], model: MetadataModel) -> Batch:
    """Give a batch's numbers and codes the meaning they had in training: another standardization, another vocabulary.

    What the source shards know and the training vocabulary does not becomes 0, unknown.

    Args:
        batch: "numeric", "mask", "categorical" as the shards hold them
        source: the shards' numeric and categorical columns that stand in the batch, in order
        model: whose columns have the same names in the same order
    """
    changed = dict(batch)
    if source[0] != model.numeric:
        there, here = (_statistics(columns) for columns in (source[0], model.numeric))
        physical = batch["numeric"].double() * there[1] + there[0]
        changed["numeric"] = ((physical - here[0]) / here[1]).float()
    if source[1] != model.categorical:
        codes = [
            _codes(theirs, ours)[batch["categorical"][:, i]]
            for i, (theirs, ours) in enumerate(zip(source[1], model.categorical, strict=True))
        ]
        changed["categorical"] = torch.stack(codes, dim=1)
    return changed


def _extract(model: MetadataModel, dataset: Dataset, split: str, running: Running) -> Features:
    device = torch.device(running.device)
    encoder = model.encoder.to(device).eval()
    keys = {"key", label := _label_key(dataset, split), *encoder.batch_keys}
    columns, source = _matching_columns(dataset, model)
    captions = None
    if isinstance(encoder, CaptionEncoder):
        captions = replace(caption_reader(dataset, model.fields, model.settings.text_model), context=encoder.context)
    parts, labels, names = [], [], []
    for batch in ordered_batches(dataset, split, keys, running.batch_size, running.workers, captions=captions, columns=columns):
        inputs = recode(batch, source, model)
        moved = {key: inputs[key].to(device) for key in encoder.batch_keys}
        parts.append(run_frozen(encoder, moved, device, running.precision).cpu())
        labels.append(batch[label])
        names += batch["key"]
        running.progress(len(parts[-1]))
    return Features(torch.cat(parts).numpy(), torch.cat(labels).numpy(), np.array(names))


def _label_key(dataset: Dataset, split: str) -> str:
    return "labels" if is_multilabel(dataset, split) else "label"


def _reading(dataset: Dataset, model: MetadataModel) -> list[Any]:
    """Return what features depend on beside shards and weights: how the shards are to be read."""
    if isinstance(model.encoder, CaptionEncoder):
        return [list(dataset.caption_fields), dataset.caption_style]
    return [[c.name, c.mean, c.std, list(c.values)] for part in _matching_columns(dataset, model)[1] for c in part]


def _matching_columns(
    dataset: Dataset, model: MetadataModel
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[Column, ...], tuple[Column, ...]]]:
    """Return numbers and descriptions of the shards' columns that the model reads, in its order."""
    numbers, columns = [], []
    for wanted, there in ((model.numeric, dataset.numeric), (model.categorical, dataset.categorical)):
        place = {column.name: i for i, column in enumerate(there)}
        if missing := [column.name for column in wanted if column.name not in place]:
            raise UsageError(
                f"the shards must have the columns that the metadata encoder reads, however: {dataset.root} lacks {missing}. "
                "Build them again with this version of satmip-data"
            )
        numbers.append(tuple(place[column.name] for column in wanted))
        columns.append(tuple(there[i] for i in numbers[-1]))
    return (numbers[0], numbers[1]), (columns[0], columns[1])


def _shape(weights: dict[str, Tensor]) -> MetadataShape:
    """Read off the weights what the encoder was built for."""
    positions, measured = weights.get("transformer.positional_embedding"), weights.get("caption_length")
    numeric = weights.get("transformer.cont_embeddings.weight")
    tables = [name for name in weights if name.startswith("transformer.cat_embeddings.embeddings.")]
    return MetadataShape(
        int(measured) if measured is not None else None if positions is None else len(positions),
        0 if numeric is None else len(numeric),
        tuple(len(weights[f"transformer.cat_embeddings.embeddings.{i}.weight"]) for i in range(len(tables))),
    )


def _training_shards(saved: Checkpoint, at_hand: Sequence[Dataset], run: Path) -> tuple[Dataset, bool]:
    """Return the shards a run was trained on, and whether they are as they were."""
    root, fingerprint_then = saved["dataset"]["root"], saved["dataset"]["fingerprint"]
    for dataset in at_hand:
        if dataset.fingerprint == fingerprint_then:
            return dataset, True
    try:
        dataset = open_dataset(root)
    except UsageError as error:
        raise UsageError(
            f"metadata features need the description of the shards that {run} was trained on, however: {error}. "
            f"Put them back to {root} (its dataset.json and tars), or pass --modality image"
        ) from error
    return dataset, dataset.fingerprint == fingerprint_then


def _columns(trained: Dataset, settings: Settings) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    if settings.metadata_encoder != "tabular":
        return (), ()
    numeric, categorical = column_numbers(trained, settings.fields)
    return tuple(trained.numeric[i] for i in numeric), tuple(trained.categorical[i] for i in categorical)


def _fields(settings: Settings, trained: Dataset) -> tuple[str, ...]:
    default = DEFAULT_COLUMN_FIELDS if settings.metadata_encoder == "tabular" else trained.caption_fields
    return default if settings.fields is None else settings.fields


def _statistics(columns: Sequence[Column]) -> tuple[Tensor, Tensor]:
    return torch.tensor([c.mean for c in columns], dtype=torch.float64), torch.tensor([c.std for c in columns], dtype=torch.float64)


def _codes(theirs: Column, ours: Column) -> Tensor:
    """Return for each code of one vocabulary that of the same value in another. Shape: (cardinality,) int64."""
    known = {value: code for code, value in enumerate(ours.values, start=1)}
    return torch.tensor([0, *(known.get(value, 0) for value in theirs.values)])
