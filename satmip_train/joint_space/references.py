"""Records of a shard directory with their vectors in the joint space: what pictures are compared with, and what calibrates.

References are kept beside the run, records and vectors in one file, so that they are computed once and a run can be asked where its
shards are not at hand.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from satmip_data.metadata.serialize import metadata_from_json, metadata_to_json
from satmip_data.names import without_secrets
from satmip_data.records import Metadata
from satmip_train.data.dataset import Dataset
from satmip_train.data.tar import Readers
from satmip_train.errors import UsageError
from satmip_train.evaluation.features import fingerprint
from satmip_train.evaluation.metadata_features import MetadataModel, Running
from satmip_train.evaluation.models import image_features, load_model, metadata_features_of
from satmip_train.files import replace_file
from satmip_train.joint_space.posterior import Vectors
from satmip_train.runs.export import Projections, load_projections

FOLDER = "ask"
"""Of a run: where references and calibrations are kept."""
_log = logging.getLogger(__name__)


class Joint(Protocol):
    """What is needed of a trained encoder, as `satmip_train.Encoder` has it."""

    @property
    def fields(self) -> tuple[str, ...]: ...
    @property
    def metadata(self) -> MetadataModel | None: ...
    @property
    def projections(self) -> Projections | None: ...
    def encode_metadata(self, records: Any, *, joint: bool = False) -> Vectors: ...


@dataclass(frozen=True)
class Collection:
    """Samples of a split: what is known of them, and vectors of length 1 in the joint space."""

    keys: tuple[str, ...]
    places: tuple[str, ...]
    records: tuple[Metadata, ...]
    vectors: Vectors
    """(N, D): of the metadata, or of the pictures."""
    source: dict[str, Any]
    """Root and fingerprint of the shards, split, and fingerprint of the networks."""

    def __len__(self) -> int:
        return len(self.keys)

    def some(self, numbers: Sequence[int] | npt.NDArray[Any]) -> "Collection":
        """Return some of the samples, by number or as a mask."""
        chosen = np.arange(len(self))[np.asarray(numbers)]
        keys, places = (tuple(values[i] for i in chosen) for values in (self.keys, self.places))
        return Collection(keys, places, tuple(self.records[i] for i in chosen), self.vectors[chosen], self.source)


def read_samples(dataset: Dataset, split: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Metadata, ...]]:
    """Return keys, places and records of a split, in stored order.

    Raises:
        UsageError: there is no such split, or a sample has no metadata.
    """
    readers = Readers(dataset, split)
    rows = [
        json.loads(readers[number].read(index, "json"))
        for number, shard in enumerate(readers.shards)
        for index in range(shard.samples)
    ]
    records = tuple(metadata_from_json(row["metadata"]) for row in rows)
    return tuple(row["key"] for row in rows), tuple(row["place"] for row in rows), records


def encoder_fingerprint(encoder: Joint) -> str:
    """Return the sha256 of the metadata encoder and both projections: references of another network do not fit.

    Raises:
        UsageError: the run learned nothing from metadata.
    """
    if encoder.metadata is None or encoder.projections is None:
        raise UsageError("This run learned from images alone, so it knows nothing of metadata. Use a run of satmip or satmips.")
    parts = [
        fingerprint(encoder.metadata.encoder, encoder.metadata.architecture),
        fingerprint(encoder.projections.image, {}),
        fingerprint(encoder.projections.metadata, {}),
    ]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def describe(dataset: Dataset, split: str, networks: str) -> dict[str, Any]:
    """Return what a collection depends on."""
    return {"root": without_secrets(dataset.root), "shards": dataset.fingerprint, "split": split, "networks": networks}


def pictures(run: Path, dataset: Dataset, split: str, running: Running, networks: str) -> Collection:
    """Return the samples of a split with the vectors of their pictures, which are kept as features of the run.

    Raises:
        UsageError: there is no such split, or a chip cannot be read.
    """
    found = image_features(load_model(run), dataset, split, running)
    return Collection(
        *read_samples(dataset, split), _joint(load_projections(run).image, found.vectors), describe(dataset, split, networks)
    )


def references(run: Path, dataset: Dataset, split: str, running: Running, networks: str) -> Collection:
    """Return the samples of a split with the vectors of their metadata, from the run's folder where they are kept.

    Raises:
        UsageError: there is no such split, or the shards lack a field that the run reads.
    """
    source = describe(dataset, split, networks)
    path = kept_path(run, source)
    if (kept := read(path)) is not None and kept.source == source:
        return kept
    found = metadata_features_of(load_model(run, "both"), dataset, split, running)
    made = Collection(*read_samples(dataset, split), _joint(load_projections(run).metadata, found.vectors), source)
    keep(made, path)
    return made


def kept_path(run: Path, source: dict[str, Any]) -> Path:
    """Return where references are kept."""
    name = hashlib.sha256(json.dumps([source["shards"], source["split"], source["networks"]]).encode()).hexdigest()[:12]
    return run / FOLDER / f"references-{name}.npz"


def last_kept(run: Path, networks: str) -> Collection | None:
    """Return the references of these networks that were kept last; None where there are none."""
    paths = sorted((run / FOLDER).glob("references-*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    found = (read(path) for path in paths)
    return next((kept for kept in found if kept is not None and kept.source["networks"] == networks), None)


def _joint(projection: torch.nn.Linear, vectors: Vectors) -> Vectors:
    with torch.inference_mode():
        found: Vectors = F.normalize(projection.cpu()(torch.from_numpy(vectors)), dim=1).numpy()
    return found


def keep(made: Collection, path: Path) -> None:
    """Write a collection to a file; where that is refused, the log tells it."""
    lines = [
        json.dumps({"key": k, "place": p, "metadata": metadata_to_json(r)})
        for k, p, r in zip(made.keys, made.places, made.records, strict=True)
    ]
    text = np.frombuffer("\n".join(lines).encode("utf-8", "surrogatepass"), np.uint8)
    source = np.frombuffer(json.dumps(made.source).encode(), np.uint8)
    try:
        replace_file(path, lambda file: np.savez(file, vectors=made.vectors, samples=text, source=source))
    except OSError as error:
        _log.warning("References are not kept in %s, so that the next command reads them again: %s", path.parent, error.strerror)


def read(path: Path) -> Collection | None:
    """Return kept references; None where there are none, or the file is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            rows = [json.loads(line) for line in arrays["samples"].tobytes().decode("utf-8", "surrogatepass").split("\n")]
            vectors, source = arrays["vectors"], json.loads(arrays["source"].tobytes())
        records = tuple(metadata_from_json(row["metadata"]) for row in rows)
        return Collection(tuple(row["key"] for row in rows), tuple(row["place"] for row in rows), records, vectors, source)
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile):
        return None


def with_records(collection: Collection, records: Sequence[Metadata], encoder: Joint) -> Collection:
    """Return the same samples with other records, encoded anew."""
    return replace(collection, records=tuple(records), vectors=encoder.encode_metadata(records, joint=True))
