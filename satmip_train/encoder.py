"""A trained encoder for use from Python: `satmip_train.load(run)`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from satmip_data.imagery.scaling import SameUnits
from satmip_data.metadata.captions import caption
from satmip_data.metadata.fields import CATEGORICAL, NUMERIC
from satmip_data.metadata.serialize import read_metadata
from satmip_data.metadata.tabular import read_column
from satmip_data.records import Metadata
from satmip_train.choices import Precision
from satmip_train.data.captions import CaptionReader, token_ids
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.data.image_files import Rendering, add_units, as_rgb, parse_rendering, read_picture
from satmip_train.errors import UsageError
from satmip_train.evaluation.embed import Network, load_network, vectors_of
from satmip_train.evaluation.features import resize, run_frozen
from satmip_train.evaluation.metadata_features import MetadataModel, Running, load_metadata_model
from satmip_train.files import METADATA_WEIGHTS
from satmip_train.joint_space.ask import Answer, Asker, open_asker
from satmip_train.joint_space.description import parse as parse_description
from satmip_train.joint_space.references import Collection
from satmip_train.models.metadata_encoders import CaptionEncoder
from satmip_train.runs.export import Projections, load_projections
from satmip_train.runs.hub import PREFIX, fetch

Vectors: TypeAlias = npt.NDArray[np.float32]
"""(N, D), a row for each image or record, in order."""
Item = TypeVar("Item")


@runtime_checkable
class HasImage(Protocol):
    """A sample with an image, as those of `satmip_data.open_shards`."""

    @property
    def image(self) -> Image.Image: ...


@runtime_checkable
class HasMetadata(Protocol):
    """A sample with metadata, as those of `satmip_data.open_shards`."""

    @property
    def metadata(self) -> Metadata: ...


AnyImage: TypeAlias = str | Path | Image.Image | npt.NDArray[np.uint8] | HasImage
"""A path, a Pillow image, an array of bytes (H, W, 3) or (H, W), or a sample."""
AnyRecord: TypeAlias = Metadata | Mapping[str, Any] | HasMetadata
"""Metadata, a mapping of their fields by the paper's names (missing ones left out or None), or a sample."""


@dataclass(frozen=True, repr=False)
class Encoder:
    """What a run learned: a network for images and, where it learned from metadata, one for these, with their common space."""

    network: Network
    """The backbone, the size of its views, and the channel statistics of what it learned from."""
    metadata: MetadataModel | None
    """The metadata encoder, the fields that it reads and what their numbers mean; None where the run learned from images alone."""
    projections: Projections | None
    """Into the common space; None where the run has none."""
    running: Running
    """Device, precision and images a batch."""

    def __repr__(self) -> str:
        reads = f"; metadata: {', '.join(self.fields)}" if self.fields else ""
        side = self.network.view_size
        return f"<Encoder of {self.network.provenance['run']}: images of {side} x {side} to {self.width} numbers{reads}>"

    @property
    def width(self) -> int:
        """Numbers of a vector of `embed`."""
        return self.network.width

    @property
    def fields(self) -> tuple[str, ...]:
        """The metadata fields that it reads; none where the run learned from images alone."""
        return () if self.metadata is None else self.metadata.fields

    def embed(
        self,
        images: AnyImage | Iterable[AnyImage],
        *,
        joint: bool = False,
        bands: str = "auto",
        stretch: str = "none",
        apply_scale: bool = False,
    ) -> Vectors:
        """Return the vectors of images, any number of them: those of `satmip-eval embed`.

        Each image is resized whole to the view, by the filter of the training's views. Images are read as they are needed, a
        batch at a time.

        Args:
            images: one, or an iterable; of any sizes
            joint: give instead the vectors of the space that images share with metadata, of length 1
            bands: of rasters, as of `satmip-eval embed --bands`
            stretch: of rasters, as of `satmip-eval embed --stretch`
            apply_scale: of rasters, as of `satmip-eval embed --apply-scale`

        Shape:
            returns: (N, width), or (N, embed_dim) where `joint`

        Raises:
            UsageError: an image cannot be read or is of another kind, rasters declare different scales, or the run has no joint
                space.
        """
        rendering, same = parse_rendering(bands, stretch, apply_scale), SameUnits()
        projection = self._joint().image if joint else None
        pictures = _batches(_images(images), self.running.batch_size)
        parts = (vectors_of(self.network, self._views(batch, rendering, same), self.running) for batch in pictures)
        return self._stacked(parts, projection, self.width)

    def encode_metadata(self, records: AnyRecord | Iterable[AnyRecord], *, joint: bool = False) -> Vectors:
        """Return the vectors of metadata, any number of records: those of which `satmip-eval linear --modality metadata` learns.

        A field that a record does not know is left out of its caption, or enters as missing.

        Args:
            records: one, or an iterable
            joint: give instead the vectors of the space that metadata share with images, of length 1

        Shape:
            returns: (N, width of the metadata encoder), or (N, embed_dim) where `joint`

        Raises:
            UsageError: the run learned from no metadata, or a record has an unknown field or a value that it cannot have.
        """
        model, device = self._model(), torch.device(self.running.device)
        projection = self._joint().metadata if joint else None
        batches = _batches(_records(records), self.running.batch_size)
        network = model.encoder.to(device).eval()

        def encoded() -> Iterator[Tensor]:
            for batch in batches:
                inputs = _inputs(model, [_metadata(record) for record in batch])
                moved = {name: inputs[name].to(device) for name in network.batch_keys}
                yield run_frozen(network, moved, device, self.running.precision).cpu()

        return self._stacked(encoded(), projection, network.width)

    def reads(self, record: AnyRecord) -> bool:
        """Return whether `encode_metadata` takes a record: a caption must be no longer than the longest that the run learned from.

        Raises:
            UsageError: the run learned from no metadata, or the record has an unknown field or a value that it cannot have.
        """
        model = self._model()
        if not isinstance(model.encoder, CaptionEncoder):
            return True
        text = caption(_metadata(record), model.fields, model.caption_style or "key-value")
        return len(token_ids(text, model.settings.text_model)) <= model.encoder.context

    def similarity(self, images: AnyImage | Iterable[AnyImage], records: AnyRecord | Iterable[AnyRecord]) -> Vectors:
        """Return how well metadata suit images: cosines in their common space, 1 at most. Shape: (images, records).

        The training's loss compares them multiplied by `projections.logit_scale`.

        Raises:
            UsageError: see `embed` and `encode_metadata`.
        """
        cosines: Vectors = self.embed(images, joint=True) @ self.encode_metadata(records, joint=True).T
        return cosines

    def ask(
        self,
        images: AnyImage | Iterable[AnyImage],
        *,
        given: str | None = None,
        shards: str | Path | None = None,
        bands: str = "auto",
        stretch: str = "none",
        apply_scale: bool = False,
    ) -> list[Answer]:
        """Return where, when and how images were taken, as `satmip-eval ask` says, an answer for each.

        References and calibration are those kept in the run's folder, or made of the shards that it learned from.

        Args:
            images: one, or an iterable; of any sizes
            given: what is known of all of them, as "datetime=2016-07-01,gsd=0.5"
            shards: directory whose records are the references instead
            bands: of rasters, as of `satmip-eval embed --bands`
            stretch: of rasters, as of `satmip-eval embed --stretch`
            apply_scale: of rasters, as of `satmip-eval embed --apply-scale`

        Raises:
            UsageError: the run learned nothing from metadata, there are no references, or an image cannot be read.
        """
        items = list(_images(images))
        names = tuple(str(item) if isinstance(item, (str, Path)) else f"image {number}" for number, item in enumerate(items))
        known = tuple(item.metadata if isinstance(item, HasMetadata) else Metadata() for item in items)
        asker = self._asker if shards is None else self._asked_of(open_dataset(shards))
        if given is not None:
            asker = asker.told(parse_description(given))
        vectors = self.embed(items, joint=True, bands=bands, stretch=stretch, apply_scale=apply_scale)
        return list(asker.ask(Collection(names, names, known, vectors, {})))

    @cached_property
    def _asker(self) -> Asker:
        return self._asked_of(None)

    def _asked_of(self, dataset: Dataset | None) -> Asker:
        self._joint()
        return open_asker(self, Path(self.network.provenance["run"]), dataset, self.running)

    def _views(self, images: list[AnyImage], rendering: Rendering, same: SameUnits) -> Tensor:
        pixels = (torch.from_numpy(_pixels(image, rendering, same)).permute(2, 0, 1)[None] for image in images)
        return torch.cat([resize(image, self.network.view_size) for image in pixels])

    def _stacked(self, parts: Iterable[Tensor], projection: nn.Linear | None, width: int) -> Vectors:
        if projection is not None:
            parts, width = (F.normalize(projection(part), dim=1) for part in parts), projection.out_features
        vectors: Vectors = torch.cat([torch.empty(0, width), *parts]).numpy()
        return vectors

    def _model(self) -> MetadataModel:
        if self.metadata is None:
            raise UsageError("This run learned from images alone. Load a run of satmip or satmips to compare with metadata.")
        return self.metadata

    def _joint(self) -> Projections:
        self._model()
        if self.projections is None:
            raise UsageError("This run has no space that images and metadata share. Load a run of satmip or satmips.")
        return self.projections


def load(run: str | Path, *, device: str = "auto", precision: Precision = "fp32", batch_size: int = 256) -> Encoder:
    """Return the encoder of a run from what it exported.

    Args:
        run: its folder; a repository of the Hugging Face hub, as "hf-hub:USER/MODEL"; or, for images alone, a file of weights of
            the folder, as `backbone-best.safetensors`
        device: "cpu", "cuda", "cuda:1" ...; "auto" is a GPU where there is one
        precision: of the networks' arithmetic; vectors are float32 always
        batch_size: images or records that go through a network at once

    Raises:
        UsageError: there is no export, it is damaged, or the run has gone on since.
    """
    if batch_size < 1:
        raise UsageError(f"A batch of {batch_size} images is none. Use a batch_size of 1 or more.")
    path = fetch(str(run)) if str(run).startswith(PREFIX) else Path(run)
    if not path.exists():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, 1)
        raise UsageError(f"There is no run {run}." + (f" Did you mean {path.parent / near[0]}?" if near else ""))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network, metadata, projections = load_network(path), None, None
    if (path / METADATA_WEIGHTS).is_file():
        metadata = load_metadata_model(path)
        projections = load_projections(path)
    return Encoder(network, metadata, projections, Running(precision, batch_size, device=device))


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _images(images: AnyImage | Iterable[AnyImage]) -> Iterable[AnyImage]:
    if isinstance(images, (str, Path, Image.Image, HasImage)) or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [images]
    return images


def _records(records: AnyRecord | Iterable[AnyRecord]) -> Iterable[AnyRecord]:
    return [records] if isinstance(records, (Metadata, Mapping, HasMetadata)) else records


def _pixels(image: AnyImage, rendering: Rendering, same: SameUnits) -> npt.NDArray[np.uint8]:
    """Return 8-bit RGB. Shape: (H, W, 3)."""
    if isinstance(image, (str, Path)):
        if not Path(image).exists():
            raise UsageError(f"There is no image {image}.")
        if Path(image).is_dir():
            raise UsageError(f"{image} is a folder. Pass the paths of its images.")
        picture = read_picture(Path(image), rendering)
        if not rendering.apply_scale:
            add_units(same, str(image), picture.scaling, picture.platform)
        return picture.pixels
    if isinstance(image, Image.Image):
        return as_rgb(image, "the image")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or not image.size:
            raise UsageError(
                f"An array of {image.dtype} of the shape {' x '.join(map(str, image.shape))} is no image. Pass bytes (uint8), "
                "height x width x 3 or height x width."
            )
        return np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2))
    if isinstance(image, HasImage):
        return _pixels(image.image, rendering, same)
    raise UsageError(f"A {type(image).__name__} is no image. Pass a path, a Pillow image or an array of bytes (height, width, 3).")


def _metadata(record: AnyRecord) -> Metadata:
    if isinstance(record, Metadata):
        return record
    if isinstance(record, Mapping):
        try:
            return read_metadata(record)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if isinstance(record, HasMetadata):
        return record.metadata
    raise UsageError(f"A {type(record).__name__} is no record. Pass a mapping of fields, Metadata, or a sample.")


def _inputs(model: MetadataModel, records: list[Metadata]) -> dict[str, Tensor]:
    """Return what the metadata encoder reads of records, as shards would hold it. Shapes: see `Decoder`."""
    if isinstance(model.encoder, CaptionEncoder):
        reader = CaptionReader(model.fields, stored=False, context=model.encoder.context, model=model.settings.text_model)
        style = model.caption_style or reader.style
        return {"tokens": torch.from_numpy(np.stack([reader.tokens(caption(known, model.fields, style)) for known in records]))}
    columns = {column.name: column for column in (*NUMERIC, *CATEGORICAL)}
    try:
        numbers = [[read_column(record, columns[c.name]) for c in model.columns.numeric] for record in records]
        words = [[read_column(record, columns[c.name]) for c in model.columns.categorical] for record in records]
    except KeyError as error:
        raise UsageError(
            f"The run reads a column {error} that this version does not know. Use the satmip that wrote it."
        ) from error
    mask = [[value is not None for value in row] for row in numbers]
    numeric = [
        [0.0 if value is None else (value - c.mean) / c.std for value, c in zip(row, model.columns.numeric, strict=True)]
        for row in numbers
    ]
    codes = [
        [c.values.index(word) + 1 if word in c.values else 0 for word, c in zip(row, model.columns.categorical, strict=True)]
        for row in words
    ]
    rows = len(records)
    return {
        "numeric": torch.tensor(numeric, dtype=torch.float32).view(rows, -1),
        "mask": torch.tensor(mask, dtype=torch.bool).view(rows, -1),
        "categorical": torch.tensor(codes, dtype=torch.int64).view(rows, -1),
    }
