"""`dataset.json`: reading and writing it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

import pyarrow as pa
import satmip_schemas

from satmip_data.errors import BuildError
from satmip_data.metadata.fields import BY_NAME
from satmip_data.metadata.tabular import Standardizer
from satmip_data.shards import card
from satmip_data.storage.parquet import read_parquet
from satmip_data.storage.store import Store

DATASET = "dataset.json"
JOURNAL = ".build"
CAPTION_JOURNAL = ".caption"
TRAIN = "train"
"""The split on which features are standardized and channel statistics taken."""


def read_dataset(out: Store) -> dict[str, Any]:
    """Return the `dataset.json` of a finished build; see `satmip_schemas.read_dataset`.

    Raises:
        BuildError: there is none, or it is damaged, or another program's.
    """
    where = f"{out.url}/{DATASET}"
    try:
        dataset: dict[str, Any] = satmip_schemas.read_dataset(out.read(DATASET), where)
        Standardizer.from_json(dataset)
        if unknown := set(dataset["caption"]["fields"]) - BY_NAME.keys():
            raise ValueError(f"captions of the unknown fields {', '.join(sorted(unknown))}")
    except FileNotFoundError as error:
        raise BuildError(
            f"{out.url} is no finished shard directory: it has no dataset.json.\n"
            f"Make it with: satmip-data build SOURCE {quote(out.url)}"
        ) from error
    except satmip_schemas.ContractError as error:
        raise BuildError(f"{error}.") from error
    except ValueError as error:
        raise BuildError(f"{where} is damaged, or of another version: {error}. Build again into another folder.") from error
    return dataset


def write_dataset(out: Store, dataset: dict[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """Write `files`, the cards and, last, `dataset.json` with the size and hash of each file; return what it says.

    A file that is not written keeps the hash it had, also where its bytes have changed since: what is damaged stays found out.

    Args:
        dataset: its content; `files` of it are those that stand.
        files: further files to be written, by name.

    Raises:
        BuildError: the index that stands is damaged.
        AssertionError: the content does not follow its schema, which is a bug of ours.
    """
    standing = dataset["files"] if "files" in dataset else _hash_standing(out, dataset)
    index = files[card.INDEX] if card.INDEX in files else _standing_index(out, standing)
    listed = {**standing, **{name: describe(data) for name, data in files.items()}}
    made = _cards(out, dataset, index)
    listed |= {name: describe(data) for name, data in made.items()}
    new = {**dataset, "schema_version": satmip_schemas.SCHEMA_VERSION, "files": dict(sorted(listed.items()))}
    content = satmip_schemas.seal(new)
    if (error := satmip_schemas.first_error("dataset", json.loads(content))) is not None:
        raise AssertionError(f"dataset.json does not follow its schema: {error}")
    for name, data in {**files, **made, DATASET: content}.items():
        out.write(name, data)
    return new


def _cards(out: Store, dataset: dict[str, Any], index: bytes | None) -> dict[str, bytes]:
    if index is None:
        return {}
    try:
        return card.cards(dataset, index)
    except Exception as error:  # whatever an index of version 1, whose bytes nothing proves, provokes
        raise _damaged(out, card.INDEX, f"{type(error).__name__}: {error}") from error


def _damaged(out: Store, name: str, problem: str) -> BuildError:
    return BuildError(f"{out.url}/{name} is damaged: {problem}. Run: satmip-data validate {quote(out.url)}")


def describe(data: bytes) -> dict[str, Any]:
    """Return size and hash of a file, as `files` lists them."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _hash_standing(out: Store, dataset: dict[str, Any]) -> dict[str, Any]:
    """Return size and hash of the files of version 1 that stand, which did not list them."""
    names = (card.INDEX, "rejects.parquet", *(f"{split}/sizes.json" for split in dataset["splits"]))
    return {name: describe(out.read(name)) for name in names if out.exists(name)}


def _standing_index(out: Store, standing: Mapping[str, Any]) -> bytes | None:
    """Return the bytes of the index; None of a directory that has none, which gets no cards."""
    return read_listed(out, {"files": standing}, card.INDEX) if card.INDEX in standing else None


def read_listed(out: Store, dataset: Mapping[str, Any], name: str) -> bytes:
    """Return the bytes of a file that stands beside the shards.

    Raises:
        BuildError: it is missing, or is not what `dataset.json` lists; that of version 1 does not list it.
    """
    try:
        data = out.read(name)
        listed = dataset.get("files", {}).get(name)
        problem = None if listed in (None, describe(data)) else "its sha256 is not that of dataset.json"
    except FileNotFoundError:
        problem = "it is missing"
    if problem is not None:
        raise _damaged(out, name, problem)
    return data


def read_table(out: Store, dataset: Mapping[str, Any], name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table of a Parquet file that stands beside the shards, or some of its columns.

    Raises:
        BuildError: it is missing or damaged.
    """
    data = read_listed(out, dataset, name)
    try:
        table = read_parquet(data, columns)
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(out, name, f"{type(error).__name__}: {error}") from error
    return table
