"""The pictures that are asked about: files, folders and splits of shards, with their vectors in the joint space."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from satmip_data.geometry import wrap_longitude
from satmip_data.names import counted
from satmip_data.records import Metadata
from satmip_train.data.dataset import Dataset
from satmip_train.data.image_files import Rendering, check_units, read_picture
from satmip_train.errors import UsageError
from satmip_train.evaluation.embed import Network, Reject, folder_rows, vectors_of
from satmip_train.evaluation.features import resize
from satmip_train.evaluation.gallery import read_chips
from satmip_train.evaluation.metadata_features import Running
from satmip_train.joint_space import references
from satmip_train.joint_space.posterior import Vectors
from satmip_train.joint_space.references import Collection

SIDE = 320
"""Of a picture on a page, pixels at most."""


@dataclass(frozen=True)
class Asked:
    """Pictures to ask about."""

    pictures: Collection
    """Their records are what is known of them: of shards all fields, of rasters the location of their footprint."""
    show: Callable[[int], Image.Image]
    """Gives a picture by number, to look at."""
    rejects: tuple[Reject, ...] = field(default=())


def of_shards(run: Path, dataset: Dataset, split: str, running: Running, networks: str) -> Asked:
    """Return the pictures of a split.

    Raises:
        UsageError: there is no such split, or a chip cannot be read.
    """
    found = references.pictures(run, dataset, split, running, networks)
    return Asked(found, lambda number: read_chips(dataset, split, [number])[0].image)


def of_files(paths: Sequence[Path], network: Network, projection: nn.Linear, rendering: Rendering, running: Running) -> Asked:
    """Return pictures of files, and of all image files below folders.

    An image of a folder that cannot be read is a reject; a file that was named must be readable.

    Raises:
        UsageError: a file cannot be read, or a folder holds no image.
    """
    names: list[str] = []
    where: list[Path] = []
    records: list[Metadata] = []
    vectors: list[Vectors] = [np.empty((0, projection.out_features), np.float32)]
    rejects: list[Reject] = []
    check_units([path for path in paths if path.is_file()], rendering)
    for path in paths:
        if path.is_dir():
            for rows in folder_rows(path, rendering, network.view_size, running):
                if rows.names:
                    vectors.append(_joint(network, projection, rows.images, running))
                names += [str(path / name) for name in rows.names]
                where += [path / name for name in rows.names]
                records += [Metadata() if outline is None else _located(outline) for outline in rows.footprints]
                rejects += [Reject(str(path / reject.path), reject.message) for reject in rows.rejects]
            continue
        if not path.exists():
            raise UsageError(f"There is no image {path}.")
        picture = read_picture(path, rendering)
        image = resize(torch.from_numpy(picture.pixels).permute(2, 0, 1)[None], network.view_size)
        vectors.append(_joint(network, projection, image, running))
        names.append(str(path))
        where.append(path)
        records.append(Metadata() if picture.footprint is None else _located(picture.footprint))
    if not names:
        first = f" First: {rejects[0].message}" if rejects else ""
        raise UsageError(f"None of {counted(len(rejects), 'image')} can be read.{first}")
    made = Collection(tuple(names), tuple(names), tuple(records), np.concatenate(vectors), {})
    return Asked(made, lambda number: Image.fromarray(read_picture(where[number], rendering).pixels), tuple(rejects))


def _joint(network: Network, projection: nn.Linear, images: torch.Tensor, running: Running) -> Vectors:
    with torch.inference_mode():
        found: Vectors = F.normalize(projection.cpu()(vectors_of(network, images, running)), dim=1).numpy()
    return found


def _located(outline: object) -> Metadata:
    centre = outline.centroid  # type: ignore[attr-defined]
    return Metadata(location=(wrap_longitude(float(centre.x)), float(centre.y)))


def png(image: Image.Image) -> bytes:
    """Return a picture as PNG, no larger than a page shows it."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return file.getvalue()
