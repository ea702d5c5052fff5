"""Records to and from JSON: the `<key>.json` of a shard (`schemas/sample.schema.json`) and the rows of the index. Pure."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from satmip_data.metadata.fields import ALIASES, BY_NAME, FIELDS
from satmip_data.names import unsigned
from satmip_data.records import Metadata, Sample, Window

_HELD = {field.name: get_args(field.type)[0] for field in fields(Metadata)}
"""Type of each attribute of `Metadata` where it is known."""


def metadata_to_json(metadata: Metadata) -> dict[str, Any]:
    """Return all 15 fields by the paper's names; missing ones are null."""
    return {field.name: _to_json(field.value(metadata)) for field in FIELDS}


def _to_json(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    return list(value) if isinstance(value, tuple) else value


def read_metadata(data: Mapping[str, Any]) -> Metadata:
    """Return the metadata that a mapping of some of the fields holds, by names or aliases of one field; the others are missing.

    Values are as in `<key>.json`, or as `Metadata` has them. Times may have any time zone.

    Raises:
        ValueError: a field is unknown, or its value is none that it can have.
    """
    given = {ALIASES[name][0] if len(ALIASES.get(name, ())) == 1 else name: value for name, value in data.items()}
    if unknown := [name for name in given if name not in BY_NAME]:
        near = get_close_matches(str(unknown[0]).lower(), BY_NAME, 1)
        advice = f'Did you mean "{near[0]}"?' if near else "All fields: satmip-data fields"
        raise ValueError(f'Unknown field "{unknown[0]}". {advice}')
    return Metadata(**{BY_NAME[name].attribute: _read_value(name, value) for name, value in given.items() if value is not None})


def _read_value(name: str, value: Any) -> Any:
    """Return a value in the form of `Metadata`."""
    held = _HELD[BY_NAME[name].attribute]
    try:
        if held is dt.datetime:
            time = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
            if time.tzinfo is None:
                raise ValueError("it has no time zone")
            return time.astimezone(dt.UTC)
        if get_origin(held) is tuple:
            kinds = get_args(held)
            read = tuple((kinds[0])(part) for part in value)
            if kinds[-1] is not Ellipsis and len(read) != len(kinds):
                raise ValueError(f"it has {len(read)} parts and not {len(kinds)}")
            if name == "location" and not (-180 <= read[0] < 180 and -90 <= read[1] <= 90):
                raise ValueError("longitude is -180 to 180 and latitude -90 to 90 degrees")
            return read
        if held is str and not isinstance(value, str):
            raise ValueError("it is no text")
        return held(value)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f'"{value}" is no value of the field "{name}": {error}. satmip-data fields shows what fields hold.'
        ) from error


def metadata_from_json(data: dict[str, Any]) -> Metadata:
    """Read back what `metadata_to_json` wrote; a field that a later version has added is missing."""
    return Metadata(**{field.attribute: _from_json(field.attribute, data.get(field.name)) for field in FIELDS})


def _from_json(attribute: str, value: Any) -> Any:
    if attribute == "datetime" and value is not None:
        return dt.datetime.fromisoformat(value)
    return tuple(value) if isinstance(value, list) else value


def sample_from_json(data: dict[str, Any]) -> Sample:
    """Read back what `sample_to_json` wrote; the flags of a scene stand in the index alone."""
    scene, footprint = data["scene"], data["footprint"]
    return Sample(
        **{name: data[name] for name in ("key", "split", "place", "category")},
        path=scene["path"],
        scene_width=scene["width"],
        scene_height=scene["height"],
        window=Window(*data["window"]),
        metadata=metadata_from_json(data["metadata"]),
        scene_metadata=metadata_from_json(scene["metadata"]),
        footprint=None if footprint is None else tuple((lon, lat) for lon, lat in footprint),
        labels=tuple(data["labels"]),
    )


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """Return the content of `<key>.json`."""
    window = sample.window
    return {
        "key": sample.key,
        "split": sample.split,
        "place": sample.place,
        "category": sample.category,
        "labels": list(sample.labels),
        "metadata": metadata_to_json(sample.metadata),
        "scene": {
            "path": unsigned(sample.path),
            "width": sample.scene_width,
            "height": sample.scene_height,
            "metadata": metadata_to_json(sample.scene_metadata),
        },
        "window": [window.x, window.y, window.width, window.height],
        "footprint": None if sample.footprint is None else [list(point) for point in sample.footprint],
    }
