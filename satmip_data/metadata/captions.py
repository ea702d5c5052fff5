"""Metadata as text. Pure."""

from collections.abc import Callable, Iterable

from satmip_data.metadata.fields import BY_NAME, Field
from satmip_data.records import Metadata


def _key_value(fields: list[tuple[Field, object]]) -> str:
    return ", ".join(f"{field.name}: {field.text(value)}" for field, value in fields)


def _sentence(fields: list[tuple[Field, object]]) -> str:
    return " ".join(field.sentence(value) for field, value in fields)


STYLES: dict[str, Callable[[list[tuple[Field, object]]], str]] = {"key-value": _key_value, "sentence": _sentence}
"""How a caption is put together, by style; "key-value" is the paper's (supplement B)."""


def caption(metadata: Metadata, fields: Iterable[str], style: str = "key-value") -> str:
    """Write the named `fields` of `metadata` as one line of text; missing fields are left out, zeros are not missing.

    The empty string stands for metadata that know none of the fields.
    """
    present = [(BY_NAME[name], value) for name in fields if (value := BY_NAME[name].value(metadata)) is not None]
    return STYLES[style](present)
