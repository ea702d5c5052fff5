"""Records to and from JSON: the `<key>.json` of a shard (`schemas/sample.schema.json`) and the rows of the index. Pure."""

import datetime as dt
from typing import Any

from satmip_data.metadata.fields import FIELDS
from satmip_data.names import unsigned
from satmip_data.records import Metadata, Sample, Window


def metadata_to_json(metadata: Metadata) -> dict[str, Any]:
    """Return all 15 fields by the paper's names; missing ones are null."""
    return {field.name: _to_json(field.value(metadata)) for field in FIELDS}


def _to_json(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    return list(value) if isinstance(value, tuple) else value


def metadata_from_json(data: dict[str, Any]) -> Metadata:
    """Read back what `metadata_to_json` wrote."""
    return Metadata(**{field.attribute: _from_json(field.attribute, data[field.name]) for field in FIELDS})


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
