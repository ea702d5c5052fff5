"""What must hold for one sample of a shard. Each failed check is yielded as (name of the check, message)."""

import io
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import satmip_schemas
from PIL import Image
from shapely.geometry import Point as ShapelyPoint
from shapely.geometry import Polygon

from satmip_data import geometry
from satmip_data.metadata.captions import caption
from satmip_data.metadata.serialize import metadata_from_json
from satmip_data.metadata.tabular import Standardizer
from satmip_data.records import Metadata
from satmip_data.shards.members import Members, multi_hot

REQUIRED = {"jpg", "txt", "json", "num.npy", "cat.npy", "mask.npy"}
Finding = tuple[str, str]


def check_sample(key: str, members: Members, dataset: dict[str, Any], standardizer: Standardizer) -> Iterator[Finding]:
    """Yield what is wrong with a sample: members, schema, image size, caption, features, class, geometry."""
    missing = REQUIRED - members.keys()
    if missing:
        yield "members", f"a sample needs {sorted(REQUIRED)}, however: {sorted(missing)} are missing"
        return
    record = json.loads(members["json"])
    error = satmip_schemas.first_error("sample", record)
    if error is not None:
        yield "schema", f"{key}.json must follow its schema, however: {error}"
        return
    if record["key"] != key:
        yield "schema", f"{key}.json must hold its own key, however: {record['key']!r}"
    metadata, scene = metadata_from_json(record["metadata"]), metadata_from_json(record["scene"]["metadata"])
    with Image.open(io.BytesIO(members["jpg"]), formats=("JPEG",)) as image:
        size = image.size
    yield from _check_size(size, record, dataset)
    expected = caption(metadata, dataset["caption"]["fields"], dataset["caption"]["style"])
    if members["txt"].decode() != expected:
        yield "caption", f"the caption must be {expected!r}, however: {members['txt'].decode()!r}"
    yield from _check_features(members, metadata, standardizer)
    yield from _check_class(members, record, dataset["classes"])
    yield from _check_labels(members, record, dataset["classes"])
    yield from _check_gsd(metadata, scene, record, size, dataset["settings"].get("gsd", "nominal"))
    yield from _check_footprint(metadata, record)


def _check_size(size: tuple[int, int], record: dict[str, Any], dataset: dict[str, Any]) -> Iterator[Finding]:
    expected = tuple(dataset["size"] or record["window"][2:])
    if size != expected:
        yield "image", f"the chip must have {expected[0]} x {expected[1]} px, however: {size[0]} x {size[1]}"


def _check_class(members: Members, record: dict[str, Any], classes: list[str]) -> Iterator[Finding]:
    found = classes[int(members["cls"])] if "cls" in members else None
    if found != record["category"]:
        yield "class", f"the class must be {record['category']!r}, however: it is {found!r}"


def _check_labels(members: Members, record: dict[str, Any], classes: list[str]) -> Iterator[Finding]:
    if bool(record["labels"]) != ("labels.npy" in members):
        yield "labels", f"labels.npy must be there where labels are, however: labels are {record['labels']}"
    elif record["labels"]:
        stored = np.load(io.BytesIO(members["labels.npy"]), allow_pickle=False)
        if stored.dtype != np.uint8 or not np.array_equal(stored, multi_hot(record["labels"], classes)):
            yield "labels", f"labels.npy must be the multi-hot uint8 of {record['labels']}, however: {stored.tolist()}"
        if unknown := set(record["labels"]) - set(classes):
            yield "labels", f"labels must be classes of the dataset, however: {sorted(unknown)}"


def _check_features(members: Members, metadata: Metadata, standardizer: Standardizer) -> Iterator[Finding]:
    expected = standardizer.transform(metadata)
    wanted = {"num.npy": expected.numeric, "mask.npy": expected.mask, "cat.npy": expected.categorical}
    for suffix, array in wanted.items():
        stored = np.load(io.BytesIO(members[suffix]), allow_pickle=False)
        if stored.dtype != array.dtype or stored.shape != array.shape or not np.isfinite(stored).all():
            yield "features", f"{suffix} must be finite {array.dtype} {array.shape}, however: {stored.dtype} {stored.shape}"
        elif not np.allclose(stored, array, rtol=1e-5, atol=1e-6):
            yield "features", f"{suffix} must follow from the metadata: {array.tolist()}, however: {stored.tolist()}"


def _check_gsd(metadata: Metadata, scene: Metadata, record: dict[str, Any], size: tuple[int, int], mode: str) -> Iterator[Finding]:
    """GSD out = GSD in x window / chip, for x and y apart (paper, supplement A)."""
    scale = (record["window"][2] / size[0], record["window"][3] / size[1])
    pairs = [("pixel_size", scene.pixel_size, metadata.pixel_size)]
    if mode == "nominal":
        pairs.append(("gsd", scene.gsd, metadata.gsd))
    for name, before, after in pairs:
        if (before is None) != (after is None):
            yield name, f"{name} must be known of the chip where it is of the scene, however: {before} became {after}"
        elif before is not None and after is not None:
            expected = (before[0] * scale[0], before[1] * scale[1])
            if not all(math.isclose(a, e, rel_tol=1e-9) for a, e in zip(after, expected, strict=True)):
                yield name, f"{name} must be {expected}, however: {after}"


def _check_footprint(metadata: Metadata, record: dict[str, Any]) -> Iterator[Finding]:
    if record["footprint"] is not None and metadata.location is None:
        yield "footprint", "a footprint must have its location, however: there is none"
    if record["footprint"] is None or metadata.location is None:
        return
    ring = tuple((lon, lat) for lon, lat in record["footprint"])
    if ring[0] != ring[-1] or geometry.signed_area(ring) <= 0:
        yield "footprint", f"the footprint must be closed and run counter-clockwise, however: {ring}"
    lon, lat = metadata.location
    polygon = Polygon(ring)
    turns = (0.0, 360.0, -360.0)  # the ring's longitudes may pass 180
    if not any(polygon.covers(ShapelyPoint(lon + turn, lat)) for turn in turns):
        yield "footprint", f"the footprint must contain the location, however: {metadata.location} lies outside {ring}"
