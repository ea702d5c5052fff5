"""The written contract between `satmip_data` and `satmip_train`: JSON Schemas, shipped with the package and used at run time."""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from importlib.resources import files
from typing import Any, NoReturn

import jsonschema
import jsonschema_rs

SCHEMA_VERSION = 2
"""Version of the shard directory's layout that is written; 1 is read too."""
SEALED = "sha256"
"""Last name of `dataset.json`: the file's own hash, taken with zeros in its place."""
OWN = "own_sha256"
"""The same of smaller files beside shards and weights, some of which have a `sha256` of something else."""
_SCHEMAS = {1: "dataset-1", 2: "dataset"}
_ZEROS = "0" * 64
RGB: dict[str, Any] = {"member": "jpg", "dtype": "uint8", "bands": ["red", "green", "blue"]}
"""Images as every directory of version 1 holds them; others are not read yet."""


class ContractError(ValueError):
    """A `dataset.json` that cannot be relied on; the message says why and what to do."""


@cache
def _schema(name: str) -> Any:
    return json.loads((files(__name__) / f"{name}.schema.json").read_text(encoding="utf-8"))


@cache
def validator(name: str) -> Any:
    """Return a compiled validator for the schema called `name` (`"dataset"`, `"dataset-1"`, `"sample"`)."""
    return jsonschema.Draft202012Validator(_schema(name))


@cache
def _fast_validator(name: str) -> Any:
    return jsonschema_rs.validator_for(_schema(name))


def first_error(name: str, instance: object) -> str | None:
    """Say where `instance` departs from the schema called `name`; None where it does not."""
    # A verdict of the compiled validator takes a hundredth of the time; the other one knows which words help.
    if _fast_validator(name).is_valid(instance):
        return None
    error = jsonschema.exceptions.best_match(validator(name).iter_errors(instance))
    return None if error is None else f"{error.json_path}: {error.message}"


def seal(document: Mapping[str, Any], name: str = SEALED) -> bytes:
    """Return the bytes of a `dataset.json`, or of another JSON file, with their own hash in them, as the last entry, `name`."""
    document = {**{key: value for key, value in document.items() if key != name}, name: _ZEROS}
    content = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode()
    head, _, tail = content.rpartition(_ZEROS.encode())
    return head + hashlib.sha256(content).hexdigest().encode() + tail


def read_sealed(content: bytes, where: str) -> dict[str, Any]:
    """Return what a small JSON file says that `seal(..., OWN)` wrote, without its own hash; earlier versions wrote none.

    Args:
        content: the bytes of the file.
        where: its path, for messages.

    Raises:
        ContractError: it is damaged; the message says no more than that.
    """
    try:
        data: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{where} is damaged: it is no JSON: {error}") from error
    if not isinstance(data, dict) or (OWN in data and not _is_sealed(content, data[OWN])):
        _refuse(f"{where} is damaged or was edited: its own sha256 does not fit its bytes")
    return {name: value for name, value in data.items() if name != OWN}


def read_dataset(content: bytes, where: str) -> dict[str, Any]:
    """Return what a `dataset.json` says, in the names of version 2 and without its own hash.

    Of version 1 there is no `files`: its other files have no hash. `schema_version` stays what was read.

    Args:
        content: the bytes of the file.
        where: its path, for messages.

    Raises:
        ContractError: it is damaged, of another version, or describes what this version does not read.
    """
    data: Any = _parsed(content, where)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int or version not in _SCHEMAS:
        _refuse(
            f"{where} is of another version: schema_version is {json.dumps(version)}, and this satmip reads 1 and 2. "
            "Install the satmip that wrote it, or build again into another folder"
        )
    if version > 1 and not _is_sealed(content, data.get(SEALED)):
        _refuse(f"{where} is damaged or was edited: its own sha256 does not fit its bytes. {_AGAIN}")
    if (problem := first_error(_SCHEMAS[version], data)) is not None:
        _refuse(f"{where} does not follow its schema: {problem}. {_AGAIN}")
    data.pop(SEALED, None)
    data.setdefault("image", deepcopy(RGB))
    _check_known(data, where)
    return data


_AGAIN = "Copy the folder again, or build again into another one"


def _parsed(content: bytes, where: str) -> Any:
    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number of JSON")

    try:
        return json.loads(content, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{where} is no JSON: {error}. {_AGAIN}") from error


def _is_sealed(content: bytes, digest: object) -> bool:
    if not isinstance(digest, str) or len(digest) != len(_ZEROS):
        return False
    head, found, tail = content.rpartition(digest.encode())
    return bool(found) and hashlib.sha256(head + _ZEROS.encode() + tail).hexdigest() == digest


def _check_known(data: dict[str, Any], where: str) -> None:
    """Refuse what the schema has room for and no reader knows yet."""
    image = data["image"]
    if image != RGB:
        found = f"its images hold {', '.join(image['bands'])} as .{image['member']} of {image['dtype']}"
    elif not isinstance(data["shards"], list):
        found = f"its shards stand in {data['shards']['table']}"
    else:
        return
    _refuse(f"{where} describes what this satmip does not read yet: {found}. Install a newer one")


def _refuse(message: str) -> NoReturn:
    raise ContractError(message)
