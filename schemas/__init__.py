"""The written contract between `satmip_data` and `satmip_train`: JSON Schemas, shipped with the package and used at run time."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import jsonschema_rs

SCHEMA_VERSION = 1
"""Version of the shard directory's layout; a reader refuses any other."""


@cache
def _schema(name: str) -> Any:
    return json.loads((files(__name__) / f"{name}.schema.json").read_text(encoding="utf-8"))


@cache
def validator(name: str) -> Any:
    """Return a compiled validator for the schema called `name` (`"dataset"`, `"sample"`)."""
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
