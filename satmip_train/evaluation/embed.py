"""Vectors of images, with their places on Earth, as one GeoParquet file."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import torch
from pyproj import CRS
from shapely import Polygon
from torch import Tensor, nn
from torch.utils.data import Dataset as MapStyle

from satmip_data.names import counted
from satmip_train.data.dataset import Dataset
from satmip_train.data.decoder import Batch
from satmip_train.data.image_files import Picture, Rendering, check_units, find_images, read_picture
from satmip_train.data.loader import loader, ordered_batches
from satmip_train.data.tar import Readers
from satmip_train.errors import UsageError
from satmip_train.evaluation import features
from satmip_train.evaluation.evaluate import describe_split
from satmip_train.evaluation.features import run_frozen
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.tables import Result
from satmip_train.files import write_atomically
from satmip_train.runs import checkpoint
from satmip_train.runs.export import load_backbone


@dataclass(frozen=True)
class Network:
    """A backbone, and how images are brought to it."""

    backbone: nn.Module
    view_size: int
    width: int
    """Of its features."""
    mean: tuple[float, ...]
    """Of each channel of the images it learned from."""
    std: tuple[float, ...]
    provenance: Result


@dataclass(frozen=True)
class Reject:
    """An image that gave no vector."""

    path: str
    message: str


@dataclass(frozen=True)
class Rows:
    """A batch of what is written."""

    names: list[str]
    images: Tensor
    """(B, 3, S, S), 0..1."""
    footprints: list[Polygon | None]
    rejects: list[Reject] = field(default_factory=list)


def load_network(run: Path) -> Network:
    """Load the backbone that a finished run exported.

    Raises:
        UsageError: the run has no exported backbone, or it is damaged.
    """
    backbone, config = load_backbone(run)
    weights = features.fingerprint(backbone, {"model": config["model"], "args": config["args"]})
    provenance = {
        "run": str(run),
        "fingerprint": weights,
        "settings": config["settings"],
        "trained": {"shards": config["dataset"]["fingerprint"], "step": config["step"]},
        "mean": config["mean"],
        "std": config["std"],
        "versions": checkpoint.versions(),
    }
    statistics = tuple(config["mean"]), tuple(config["std"])
    return Network(backbone, config["view_size"], config["features"], *statistics, provenance)


def folder_rows(folder: Path, rendering: Rendering, view_size: int, running: Running) -> Iterator[Rows]:
    """Read the images below a folder, whole, resized to the view; names are paths relative to the folder.

    What cannot be read is a reject: one damaged file must not end an hour's work.

    Raises:
        UsageError: there is no image, or there are rasters that one stretch cannot show alike.
    """
    paths = find_images(folder)
    check_units(paths, rendering)
    stream = _Files(folder, paths, rendering, view_size, running.batch_size)
    yield from (Rows(**batch) for batch in loader(stream, range(len(stream)), running.workers))


class _Files(MapStyle[Batch]):
    def __init__(self, folder: Path, paths: list[Path], rendering: Rendering, view_size: int, batch_size: int) -> None:
        self._folder, self._rendering, self._view_size = folder, rendering, view_size
        self._batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Batch:
        names, images, footprints, rejects = [], [torch.empty(0, 3, self._view_size, self._view_size)], [], []
        for path in self._batches[number]:
            name = path.relative_to(self._folder).as_posix()
            try:
                picture = _read(path, name, self._rendering)
            except UsageError as error:
                rejects.append(Reject(name, str(error)))
                continue
            names.append(name)
            images.append(features.resize(torch.from_numpy(picture.pixels).permute(2, 0, 1)[None], self._view_size))
            footprints.append(picture.footprint)
        return {"names": names, "images": torch.cat(images), "footprints": footprints, "rejects": rejects}


def _read(path: Path, name: str, rendering: Rendering) -> Picture:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"The name {name!r} is not UTF-8. Rename the file") from error
    try:
        return read_picture(path, rendering)
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # one image must not end an hour's work
        raise UsageError(f"Cannot read {path}: {type(error).__name__}: {error}. Remove or replace it.") from error


def shard_rows(dataset: Dataset, split: str, view_size: int, running: Running) -> Iterator[Rows]:
    """Read the chips of a split in stored order, resized to the view; names are the samples' keys.

    Raises:
        UsageError: there is no such split, or a chip cannot be read.
    """
    outlines = _outlines(dataset, split)
    for batch in ordered_batches(dataset, split, {"image", "key"}, running.batch_size, running.workers):
        images = features.resize(batch["image"].to(running.device), view_size)
        yield Rows(batch["key"], images, [next(outlines) for _ in batch["key"]])


def _outlines(dataset: Dataset, split: str) -> Iterator[Polygon | None]:
    readers = Readers(dataset, split)
    for number, shard in enumerate(readers.shards):
        for index in range(shard.samples):
            ring = json.loads(readers[number].read(index, "json"))["footprint"]
            yield None if ring is None else Polygon(ring)


def _write_vectors(
    network: Network, rows: Iterable[Rows], source: Result, out: Path, running: Running, name: str
) -> tuple[int, list[Reject]]:
    """Write a row for each image, `name`, `vector` (float32) and `geometry` (WKB, EPSG:4326, null where unknown).

    The file stands under its name only when it is whole. What the vectors depend on is in its schema under "satmip". Rejects, where
    there are any, stand in a file of their own beside it, see `rejects_path`.

    Returns:
        how many vectors were written, and what gave none

    Raises:
        UsageError: no image gave a vector, or a chip cannot be read.
    """
    provenance = {**network.provenance, "source": source, "precision": running.precision}
    schema = _schema(network.width, name, provenance)
    written, rejects = 0, list[Reject]()

    def write(file: Any) -> None:
        nonlocal written
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for part in rows:
                if part.names:
                    writer.write_table(_table(part, vectors_of(network, part.images, running), schema))
                written += len(part.names)
                rejects.extend(part.rejects)
                running.progress(len(part.names) + len(part.rejects))
        if rejects and not written:
            raise UsageError(f"None of {counted(len(rejects), 'image')} gives a vector. First: {rejects[0].message}")
        _write_rejects(rejects_path(out), rejects)

    write_atomically(out, write)
    return written, rejects


def rejects_path(out: Path) -> Path:
    """Return where the rejects stand whose vectors are missing in `out`."""
    return out.with_suffix(".rejects.parquet")


def _write_rejects(path: Path, rejects: list[Reject]) -> None:
    """Write a row for each reject; where there is none, remove those of an earlier file of vectors."""
    if not rejects:
        path.unlink(missing_ok=True)
        return
    rows = [{name: text.encode("utf-8", "backslashreplace").decode() for name, text in vars(reject).items()} for reject in rejects]
    write_atomically(path, lambda file: pq.write_table(pa.Table.from_pylist(rows), file))


def write_folder_vectors(
    network: Network, folder: Path, rendering: Rendering, out: Path, running: Running
) -> tuple[int, list[Reject]]:
    """Write a row for each image below a folder, see `_write_vectors`; `path`, relative to the folder, names it.

    Raises:
        UsageError: there is no image, or none that can be read.
    """
    rows = folder_rows(folder, rendering, network.view_size, running)
    return _write_vectors(network, rows, {"folder": str(folder), **asdict(rendering)}, out, running, "path")


def write_shard_vectors(network: Network, dataset: Dataset, split: str, out: Path, running: Running) -> tuple[int, list[Reject]]:
    """Write a row for each chip of a split, see `_write_vectors`; `key` names it.

    Raises:
        UsageError: there is no such split, or a chip cannot be read.
    """
    dataset.split(split)
    rows = shard_rows(dataset, split, network.view_size, running)
    return _write_vectors(network, rows, describe_split(dataset, split), out, running, "key")


def vectors_of(network: Network, images: Tensor, running: Running) -> Tensor:
    """Return the vectors of images that were resized to the view, on the CPU. Shape: (B, 3, S, S), 0..1 -> (B, width)."""
    device = torch.device(running.device)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (network.mean, network.std))
    views = images.to(device).sub(mean).div(std)
    return run_frozen(network.backbone.to(device).eval(), views, device, running.precision).cpu()


def _table(rows: Rows, vectors: Tensor, schema: pa.Schema) -> pa.Table:
    flat = pa.array(vectors.numpy().reshape(-1))
    shapes = [None if outline is None else shapely.to_wkb(outline) for outline in rows.footprints]
    columns = [pa.array(rows.names), pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]), pa.array(shapes, pa.binary())]
    return pa.Table.from_arrays(columns, schema=schema)


def _schema(width: int, name: str, provenance: Result) -> pa.Schema:
    """Return the columns, with the description that GeoParquet 1.1 asks for."""
    geometry = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": CRS("OGC:CRS84").to_json_dict()}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    columns = [(name, pa.string()), ("vector", pa.list_(pa.float32(), width)), ("geometry", pa.binary())]
    return pa.schema(columns, metadata={"geo": json.dumps(geo), "satmip": json.dumps(provenance)})


def check_output(out: Path) -> None:
    """Check the name of the file.

    Raises:
        UsageError: it does not end in .parquet.
    """
    if out.suffix != ".parquet":
        raise UsageError(f"Vectors are written as Parquet. Use --out {out.with_suffix('.parquet')} instead of {out}")
