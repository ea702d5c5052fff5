"""Checks of one sample of a shard. Each failed check is yielded as (name of the check, message)."""

import io
import json
import math
from collections.abc import Iterator, Sequence
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
        yield "members", f"These members are missing: {', '.join(sorted(missing))}"
        return
    record = json.loads(members["json"])
    error = satmip_schemas.first_error("sample", record)
    if error is not None:
        yield "schema", f"{key}.json does not follow its schema: {error}"
        return
    if record["key"] != key:
        yield "schema", f"{key}.json holds the key of another sample: {record['key']}"
    metadata, scene = metadata_from_json(record["metadata"]), metadata_from_json(record["scene"]["metadata"])
    with Image.open(io.BytesIO(members["jpg"]), formats=("JPEG",)) as image:
        size = image.size
    yield from _check_size(size, record, dataset)
    expected = caption(metadata, dataset["caption"]["fields"], dataset["caption"]["style"])
    if members["txt"].decode() != expected:
        yield "caption", f'The caption is "{members["txt"].decode()}"; the metadata give "{expected}"'
    yield from _check_features(members, metadata, standardizer)
    yield from _check_class(members, record, dataset["classes"])
    yield from _check_labels(members, record, dataset["classes"])
    yield from _check_gsd(metadata, scene, record, size, dataset["settings"].get("gsd", "nominal"))
    yield from _check_footprint(metadata, record)


def _quoted(name: str | None) -> str:
    return "none" if name is None else f'"{name}"'


def _form(array: np.ndarray[Any, Any]) -> str:
    return f"{array.dtype} of {' x '.join(map(str, array.shape))}"


def _pair(numbers: tuple[float, float]) -> str:
    return f"{numbers[0]:.9g}, {numbers[1]:.9g}"


def _points(ring: Sequence[tuple[float, float]]) -> str:
    return "; ".join(map(_pair, ring))


def _check_size(size: tuple[int, int], record: dict[str, Any], dataset: dict[str, Any]) -> Iterator[Finding]:
    expected = tuple(dataset["size"] or record["window"][2:])
    if size != expected:
        yield "image", f"The chip has {size[0]} x {size[1]} px instead of {expected[0]} x {expected[1]}"


def _check_class(members: Members, record: dict[str, Any], classes: list[str]) -> Iterator[Finding]:
    found = classes[int(members["cls"])] if "cls" in members else None
    if found != record["category"]:
        yield "class", f"The stored class is {_quoted(found)}; the metadata say {_quoted(record['category'])}"


def _check_labels(members: Members, record: dict[str, Any], classes: list[str]) -> Iterator[Finding]:
    if bool(record["labels"]) != ("labels.npy" in members):
        labels = ", ".join(record["labels"] or ())
        yield "labels", f"labels.npy is missing, and the labels are {labels}" if labels else "labels.npy is there without labels"
    elif record["labels"]:
        stored = np.load(io.BytesIO(members["labels.npy"]), allow_pickle=False)
        if stored.dtype != np.uint8 or not np.array_equal(stored, multi_hot(record["labels"], classes)):
            yield "labels", f"labels.npy is not the multi-hot uint8 vector of {', '.join(record['labels'])}"
        if unknown := set(record["labels"]) - set(classes):
            yield "labels", f"These labels are no classes of the dataset: {', '.join(sorted(unknown))}"


def _check_features(members: Members, metadata: Metadata, standardizer: Standardizer) -> Iterator[Finding]:
    expected = standardizer.transform(metadata)
    wanted = {"num.npy": expected.numeric, "mask.npy": expected.mask, "cat.npy": expected.categorical}
    for suffix, array in wanted.items():
        stored = np.load(io.BytesIO(members[suffix]), allow_pickle=False)
        if stored.dtype != array.dtype or stored.shape != array.shape or not np.isfinite(stored).all():
            finite = "" if np.issubdtype(stored.dtype, np.number) and np.isfinite(stored).all() else ", with values not finite,"
            yield "features", f"{suffix} is {_form(stored)}{finite} instead of finite {_form(array)}"
        elif (differ := np.flatnonzero(~np.isclose(stored, array, rtol=1e-5, atol=1e-6))).size:
            at = int(differ[0])
            yield "features", f"{suffix} does not follow from the metadata: number {at} is {stored[at]:g} instead of {array[at]:g}"


def _check_gsd(metadata: Metadata, scene: Metadata, record: dict[str, Any], size: tuple[int, int], mode: str) -> Iterator[Finding]:
    """GSD out = GSD in x window / chip, for x and y apart (paper, supplement A)."""
    scale = (record["window"][2] / size[0], record["window"][3] / size[1])
    pairs = [("pixel_size", scene.pixel_size, metadata.pixel_size)]
    if mode == "nominal":
        pairs.append(("gsd", scene.gsd, metadata.gsd))
    for name, before, after in pairs:
        if (before is None) != (after is None):
            known, unknown = ("scene", "chip") if after is None else ("chip", "scene")
            yield name, f"{name} is known of the {known} and not of the {unknown}"
        elif before is not None and after is not None:
            expected = (before[0] * scale[0], before[1] * scale[1])
            if not all(math.isclose(a, e, rel_tol=1e-9) for a, e in zip(after, expected, strict=True)):
                yield name, f"{name} is {_pair(after)}; the window and the chip give {_pair(expected)}"


def _check_footprint(metadata: Metadata, record: dict[str, Any]) -> Iterator[Finding]:
    if record["footprint"] is not None and metadata.location is None:
        yield "footprint", "There is a footprint without a location"
    if record["footprint"] is None or metadata.location is None:
        return
    ring = tuple((lon, lat) for lon, lat in record["footprint"])
    if ring[0] != ring[-1] or geometry.signed_area(ring) <= 0:
        wrong = "is not closed" if ring[0] != ring[-1] else "does not run counter-clockwise"
        yield "footprint", f"The footprint {wrong}: {_points(ring)}"
    lon, lat = metadata.location
    polygon = Polygon(ring)
    turns = (0.0, 360.0, -360.0)  # the ring's longitudes may pass 180
    if not any(polygon.covers(ShapelyPoint(lon + turn, lat)) for turn in turns):
        yield "footprint", f"The location {_pair(metadata.location)} lies outside the footprint: {_points(ring)}"
