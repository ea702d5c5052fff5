"""The written contract between `satmip_data` and `satmip_train`: JSON Schemas, shipped with the package and used at run time."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema

SCHEMA_VERSION = 1
"""Version of the shard directory's layout; a reader refuses any other."""


@cache
def validator(name: str) -> Any:
    """Return a compiled validator for the schema called `name` (`"dataset"`, `"sample"`)."""
    schema = json.loads((files(__name__) / f"{name}.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def first_error(name: str, instance: object) -> str | None:
    """Say where `instance` departs from the schema called `name`; None where it does not."""
    error = jsonschema.exceptions.best_match(validator(name).iter_errors(instance))
    return None if error is None else f"{error.json_path}: {error.message}"
