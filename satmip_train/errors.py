"""The one exception for what the user can put right, and pydantic's errors in words."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from satmip_data.names import unknown_name, written

if TYPE_CHECKING:
    from pydantic import ValidationError

_BOUNDS = {"ge": "{} or more", "gt": "a number above {}", "le": "{} or less", "lt": "a number below {}"}
_KINDS = {"int": "a whole number", "float": "a number", "finite_number": "a finite number", "bool": "true or false"}


class UsageError(ValueError):
    """A request that these shards, settings or files do not allow; the message says what to change."""


def wrong_settings(error: "ValidationError", known: Iterable[str], as_options: bool = False) -> list[str]:
    """Return a sentence for each setting that pydantic refuses: its name, its value, what it takes.

    Args:
        error: pydantic's.
        known: the names of all settings, for the nearest one to an unknown name.
        as_options: whether settings are named as on the command line, `--batch-size`.
    """
    return [_sentence(problem, [*known], as_options) for problem in error.errors()]


def _sentence(problem: Any, known: list[str], as_options: bool) -> str:
    kind, context, value = problem["type"], problem.get("ctx", {}), problem["input"]
    if kind == "value_error":
        return str(context["error"])
    setting = str(problem["loc"][0])
    name = f"--{setting.replace('_', '-')}" if as_options else setting
    if kind == "extra_forbidden":
        return unknown_name("setting", setting, known)
    if kind == "literal_error":
        return unknown_name("value", str(value), re.findall("'([^']*)'", context["expected"]), name)
    for bound, words in _BOUNDS.items():
        if bound in context:
            return f"{name} is {written(value)}. Use {words.format(context[bound])}."
    wanted = next((words for start, words in _KINDS.items() if kind.startswith(start)), None)
    return f"{name} is {written(value)}." + (f" Use {wanted}." if wanted else f" {problem['msg']}.")
