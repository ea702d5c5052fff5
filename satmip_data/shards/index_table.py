"""The two tables of a shard directory, for pandas, geopandas and QGIS. Pure."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
from shapely import to_wkb
from shapely.geometry import MultiPolygon, Polygon

from satmip_data.geometry import split_ring
from satmip_data.metadata.fields import FIELDS
from satmip_data.names import unsigned
from satmip_data.records import Metadata, Reject, Ring, Sample

_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"]}},
}
"""GeoParquet's file metadata; without a `crs` the coordinates are longitude and latitude (OGC:CRS84)."""

# Lists of two, and not of the fixed length 2: Arrow before version 26 cannot read a missing one of these.
_TYPES = {
    "gsd": pa.list_(pa.float64()),
    "pixel_size": pa.list_(pa.float64()),
    "location": pa.list_(pa.float64()),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "wavelengths": pa.list_(pa.int64()),
}
"""Of fields that are no single number or word."""

_SCALARS = {"numeric": pa.float64(), "categorical": pa.string()}


def _metadata_columns(metadata: Sequence[Metadata], prefix: str) -> dict[str, pa.Array]:
    return {
        f"{prefix}{field.name}": pa.array(
            [field.value(m) for m in metadata], _TYPES.get(field.name, _SCALARS[field.columns[0].kind])
        )
        for field in FIELDS
    }


def _wkb(footprint: Ring | None) -> bytes | None:
    """Return the footprint as WKB, cut in two at the antimeridian."""
    if footprint is None:
        return None
    parts = [Polygon(ring) for ring in split_ring(footprint)]
    data: bytes = to_wkb(parts[0] if len(parts) == 1 else MultiPolygon(parts))
    return data


def index_table(rows: Iterable[tuple[str, Sample]]) -> pa.Table:
    """Return one row a sample, in shard order: names, window, the 15 fields of the chip and (`scene_`) of the scene, footprint."""
    shards, samples = zip(*rows, strict=True)
    columns: dict[str, Any] = {
        "key": pa.array([s.key for s in samples], pa.string()),
        "split": pa.array([s.split for s in samples], pa.string()),
        "shard": pa.array(shards, pa.string()),
        "place": pa.array([s.place for s in samples], pa.string()),
        "category": pa.array([s.category for s in samples], pa.string()),
        "labels": pa.array([list(s.labels) for s in samples], pa.list_(pa.string())),
        "flags": pa.array([list(s.flags) for s in samples], pa.list_(pa.string())),
        "path": pa.array([unsigned(s.path) for s in samples], pa.string()),
        "scene_width": pa.array([s.scene_width for s in samples], pa.int32()),
        "scene_height": pa.array([s.scene_height for s in samples], pa.int32()),
        **{f"window_{n}": pa.array([getattr(s.window, n) for s in samples], pa.int32()) for n in ("x", "y", "width", "height")},
        **_metadata_columns([s.metadata for s in samples], ""),
        **_metadata_columns([s.scene_metadata for s in samples], "scene_"),
        "geometry": pa.array([_wkb(s.footprint) for s in samples], pa.binary()),
    }
    return pa.table(columns).replace_schema_metadata({"geo": json.dumps(_GEO)})


def rejects_table(rejects: Iterable[Reject]) -> pa.Table:
    """Return one row for every scene or AOI that gave no sample; what is no Unicode, as in some names of files, is escaped."""
    rows = list(rejects)
    columns = {name: [getattr(reject, name) for reject in rows] for name in ("path", "key", "stage", "reason", "message")}
    return pa.table(
        {
            name: pa.array([text.encode("utf-8", "backslashreplace").decode() for text in texts], pa.string())
            for name, texts in columns.items()
        }
    )
