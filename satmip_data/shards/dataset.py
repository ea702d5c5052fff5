"""`dataset.json`: reading and writing it."""

import json
from shlex import quote
from typing import Any

import satmip_schemas

from satmip_data.errors import BuildError
from satmip_data.shards import card
from satmip_data.storage.store import Store

JOURNAL = ".build"
CAPTION_JOURNAL = ".caption"
TRAIN = "train"
"""The split on which features are standardized and channel statistics taken."""


def read_dataset(out: Store) -> dict[str, Any]:
    """Return the `dataset.json` of a finished build.

    Raises:
        BuildError: there is none, or it is damaged, or another program's.
    """
    try:
        dataset: dict[str, Any] = json.loads(out.read("dataset.json"))
    except FileNotFoundError as error:
        raise BuildError(
            f"{out.url} must be a finished shard directory, however: it has no dataset.json.\n"
            f"Make it with: satmip-data build SOURCE {quote(out.url)}"
        ) from error
    except ValueError as error:
        raise BuildError(f"{out.url}/dataset.json must be JSON, however: {error}. Build again into another folder.") from error
    if (offence := satmip_schemas.first_error("dataset", dataset)) is not None:
        raise BuildError(f"{out.url}/dataset.json must follow its schema, however: {offence}. Build into another folder.")
    return dataset


def write_dataset(out: Store, dataset: dict[str, Any]) -> None:
    """Write the cards and, last, `dataset.json`, checked against its schema; an offence there is a bug of ours and stops all."""
    error = satmip_schemas.first_error("dataset", dataset)
    if error is not None:
        raise AssertionError(f"dataset.json must follow its schema, however: {error}")
    card.write_cards(out, dataset)
    out.write("dataset.json", json.dumps(dataset, indent=1, ensure_ascii=False, allow_nan=False).encode())
