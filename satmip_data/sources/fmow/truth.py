"""fMoW's ground truth, a tree of records or the archive that holds it, laid over a tree of images.

The archive (`groundtruth.tar.bz2`, 1,047,691 records) is read once from end to end and unpacked nowhere. What stays in memory are
the records of the images that are there, cut down to the keys that are read: about 1 kB each.
"""

import json
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
from satmip_schemas import validator

from satmip_data.errors import cause
from satmip_data.sources.base import (
    LayoutError,
    read_json,
)
from satmip_data.sources.fmow.names import SPELLINGS, SPLITS, TRUTH, FmowName, record_paths
from satmip_data.storage.limits import check_unpacked
from satmip_data.storage.locations import list_files

ARCHIVES = (".tar", ".tar.bz2", ".tar.gz", ".tar.xz")

_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Truth:
    """The records of images."""

    records: dict[str, tuple[str, str]]
    """Path of the image without its ending -> path of its record, and the record itself where it came out of an archive."""
    unused: int
    """Records of the product for which there is no image."""


@dataclass(frozen=True, slots=True)
class _Found:
    """Records of one product in a tree or an archive."""

    records: dict[str, str]
    """Path from the split's folder on -> the record; "" where it is a file of its own."""
    mappings: dict[str, Any]
    """Split -> its mapping file."""
    count: int
    """Records of the product, those that were not kept too."""


def read_truth(where: str, product: str, images: Mapping[str, FmowName]) -> Truth:
    """Find the records of images in the ground truth.

    Args:
        where: folder or archive, or its URL.
        product: of the images.
        images: path of each image without its ending -> what its name tells.

    Raises:
        LayoutError: there is no record at all, the archive is broken, or test or seq lack their mapping file.
    """
    splits = {name.split for name in images.values()}
    endings = tuple(f"_{spelling}.json" for spelling in SPELLINGS[product])
    if where.lower().endswith(ARCHIVES):
        found = _from_archive(where, endings, _wanted(images, splits))
    else:
        found = _from_tree(where, endings, splits)
    if not found.count:
        raise LayoutError(
            f"--metadata {where} holds no record like train/<category>/<place>/*{endings[0]}. Name groundtruth.tar.bz2, or the "
            f"folder that holds {', '.join(TRUTH.values())}"
        )
    places = {split: _places(where, split, found.mappings.get(split)) for split in splits if TRUTH[split] != split}
    records = {}
    for stem, name in images.items():
        path = next((path for path in _candidates(stem, name, places) if path in found.records), None)
        if path is not None:
            records[stem] = (path, found.records[path])
    return Truth(records, found.count - len(records))


def _wanted(images: Mapping[str, FmowName], splits: set[str]) -> Callable[[str], bool]:
    """Return what tells which records to keep; those of test and seq are all kept until their mappings have been seen."""
    exact = {path for stem, name in images.items() if TRUTH[name.split] == name.split for path in _candidates(stem, name, {})}
    folders = {TRUTH[split] for split in splits if TRUTH[split] != split}
    return lambda path: path in exact or path.partition("/")[0] in folders


def _candidates(stem: str, name: FmowName, places: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    if name.split not in places:
        return record_paths(str(PurePosixPath(stem).parent), name.place, name)
    folder = places[name.split].get(f"{name.split}/{name.number}")
    return () if folder is None else record_paths(folder, folder.rpartition("/")[2], name)


def _places(where: str, split: str, mapping: Any) -> dict[str, str]:
    """Return folder of images -> folder of truth, from a list of {"input": "test_gt/dam/dam_0", "output": "test/0000001"}."""
    name = f"{TRUTH[split]}_mapping.json"
    if mapping is None:
        raise LayoutError(f'The split "{split}" needs {name}, which {where} does not hold. Name groundtruth.tar.bz2')
    try:
        return {entry["output"].strip("/"): entry["input"].strip("/") for entry in mapping}
    except (TypeError, KeyError, AttributeError) as error:
        raise LayoutError(f"{name} is no list of input and output: {cause(error)}") from error


def _from_tree(where: str, endings: tuple[str, ...], splits: set[str]) -> _Found:
    paths = [path for path in list_files(where, *TRUTH.values()) if path.endswith(endings)]
    return _Found(
        dict.fromkeys(paths, ""), {split: _mapping(where, split) for split in splits if TRUTH[split] != split}, len(paths)
    )


def _mapping(where: str, split: str) -> Any:
    try:
        return read_json(where, f"{TRUTH[split]}_mapping.json")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LayoutError(f"{TRUTH[split]}_mapping.json is no readable JSON: {cause(error)}") from error


def _from_archive(where: str, endings: tuple[str, ...], wanted: Callable[[str], bool]) -> _Found:
    records: dict[str, str] = {}
    mappings: dict[str, Any] = {}
    count = 0
    names = {f"{TRUTH[split]}_mapping.json": split for split in SPLITS}
    try:
        for member, read in _members(where):
            if (split := names.get(member.rpartition("/")[2])) is not None:
                mappings[split] = json.loads(read())
            elif member.endswith(endings) and (path := _inner(member)) is not None:
                count += 1
                if wanted(path):
                    records[path] = _compact(read())
    except FileNotFoundError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise LayoutError(f"--metadata {where} is no whole archive of records: {error}. Copy or download it again.") from error
    return _Found(records, mappings, count)


def _members(where: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the name of each file of an archive with what reads it, which holds until the next is asked for."""
    with (
        fsspec.open(where, "rb", compression="infer") as stream,
        tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER) as archive,
    ):
        while (member := archive.next()) is not None:
            if member.isfile():
                yield member.name, lambda entry=member: _read(archive, entry)  # type: ignore[misc]
            # Every header read so far would be kept: a gigabyte over a million of them.
            archive.members.clear()  # type: ignore[attr-defined]


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    check_unpacked(member.name, member.size)
    stream = archive.extractfile(member)
    return b"" if stream is None else stream.read()


def _inner(path: str) -> str | None:
    """Return the path from the split's folder on; archives may hold their tree in a folder of any name."""
    parts = path.split("/")
    start = next((i for i, part in enumerate(parts) if part in TRUTH.values()), None)
    return None if start is None else "/".join(parts[start:])


def _compact(data: bytes) -> str:
    """Return a record with the keys that its schema describes alone; what is no record comes as it is, to be rejected later."""
    try:
        record = json.loads(data, parse_constant=str)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace") or " "
    schema = validator("fmow").schema
    if isinstance(record, dict):
        record = {key: value for key, value in record.items() if key in schema["properties"]}
        boxes, known = record.get("bounding_boxes"), schema["$defs"]["box"]["properties"]
        if isinstance(boxes, list):
            record["bounding_boxes"] = [
                {key: value for key, value in box.items() if key in known} if isinstance(box, dict) else box for box in boxes
            ]
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)
