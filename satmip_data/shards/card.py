"""The dataset card: `README.md`, as people and the Hugging Face Hub read it, and `croissant.json`, as catalogues do.

Croissant 1.0 (mlcommons.org/croissant/1.0) with the terms of GeoCroissant 1.0 (mlcommons.org/croissant/geo/1.0).
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
import yaml
from satmip_schemas import SCHEMA_VERSION

from satmip_data.metadata.fields import BY_NAME, FIELDS
from satmip_data.names import counted
from satmip_data.pages import render
from satmip_data.storage.parquet import read_parquet

INDEX = "index.parquet"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Extent of the samples, read from the index; None where no sample knows it."""

    bounds: tuple[float, float, float, float] | None
    """West, south, east, north of all footprints, degrees."""
    times: tuple[str, str] | None
    """First and last acquisition, as ISO 8601 dates."""
    gsd: tuple[float, float, float] | None
    """Smallest, median and largest GSD of a chip, metres, mean of x and y."""
    columns: tuple[tuple[str, str], ...]
    """Name and Arrow type of every column of the index."""
    classes: bool
    """Whether samples have one class each (`<key>.cls`)."""
    labels: bool
    """Whether samples have several labels (`<key>.labels.npy`)."""


def cards(dataset: dict[str, Any], index: bytes) -> dict[str, bytes]:
    """Return `README.md` and `croissant.json` by name; they follow from `dataset.json` and the bytes of the index alone."""
    coverage = read_coverage(read_parquet(index))
    text = json.dumps(croissant(dataset, coverage, index), indent=1, ensure_ascii=False)
    return {"README.md": readme(dataset, coverage).encode(), "croissant.json": text.encode()}


def read_coverage(index: pa.Table) -> Coverage:
    """Return what the rows of an index cover."""
    columns = tuple((field.name, str(field.type)) for field in index.schema)
    footprints = shapely.from_wkb(index["geometry"].drop_null().to_numpy())
    west, south, east, north = map(float, shapely.total_bounds(footprints)) if len(footprints) else (np.nan,) * 4
    times = [time for time in index["timestamp"].to_pylist() if time is not None]
    gsd = np.array(index["gsd"].drop_null().to_pylist(), np.float64).reshape(-1, 2).mean(axis=1)
    return Coverage(
        None if np.isnan(west) else (west, south, east, north),
        (f"{min(times):%Y-%m-%d}", f"{max(times):%Y-%m-%d}") if times else None,
        (float(gsd.min()), float(np.median(gsd)), float(gsd.max())) if len(gsd) else None,
        columns,
        classes=index["category"].null_count < len(index),
        labels=any(index["labels"].to_pylist()),
    )


def licence_id(licence: str) -> str:
    """Return the Hub's identifier of a licence, as "cc-by-nc-sa-4.0"; "other" where it has none."""
    if re.fullmatch(r"CC(0| BY(-NC)?(-SA|-ND)?)[ -]\d\.\d", licence):
        return licence.lower().replace(" ", "-")
    return {"MIT": "mit", "Apache-2.0": "apache-2.0"}.get(licence, "other")


def _front_matter(dataset: dict[str, Any], coverage: Coverage) -> dict[str, Any]:
    """Return the YAML block of `README.md`: licence, splits and the type of every member, so that no reader has to guess."""
    identifier = licence_id(dataset["source"]["licence"])
    licence = {"license": identifier}
    if identifier == "other":
        licence["license_name"] = re.sub(r"[^a-z0-9]+", "-", dataset["source"]["licence"].lower()).strip("-")
    files = [{"split": _hub_split(split), "path": f"{split}/*.tar"} for split in dataset["splits"]]
    return {
        **licence,
        "pretty_name": f"{dataset['source']['name']} chips with metadata",
        "tags": ["remote-sensing", "satellite-imagery", "geospatial", "webdataset", "satmip"],
        "size_categories": [_size_category(sum(split["samples"] for split in dataset["splits"].values()))],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"config_name": "default", "features": hub_features(coverage.classes, coverage.labels)},
    }


def _hub_split(split: str) -> str:
    """Return the name of a split on the Hub, which has no hyphens."""
    return split.replace("-", "_")


def _size_category(samples: int) -> str:
    limits = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((name for limit, name in limits if samples < limit), "1M<n<10M")


def hub_features(classes: bool, labels: bool) -> list[dict[str, Any]]:
    """Return the members of a sample with their types, in the Hub's form; without them nulls in the first samples mislead it."""
    strings = [{"name": name, "dtype": "string"} for name in ("key", "split", "place", "category")]
    sizes = [{"name": name, "dtype": "int64"} for name in ("width", "height")]
    record = [
        *strings,
        {"name": "labels", "list": "string"},
        {"name": "metadata", "struct": _metadata_features()},
        {
            "name": "scene",
            "struct": [{"name": "path", "dtype": "string"}, *sizes, {"name": "metadata", "struct": _metadata_features()}],
        },
        {"name": "window", "list": "int64"},
        {"name": "footprint", "list": {"list": "float64"}},
    ]
    return [
        {"name": "jpg", "dtype": "image"},
        {"name": "txt", "dtype": "string"},
        {"name": "json", "struct": record},
        {"name": "num.npy", "list": "float32"},
        {"name": "cat.npy", "list": "int64"},
        {"name": "mask.npy", "list": "bool"},
        *([{"name": "cls", "dtype": "int64"}] if classes else []),
        *([{"name": "labels.npy", "list": "uint8"}] if labels else []),
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]


def _metadata_features() -> list[dict[str, Any]]:
    pair = {"list": "float64"}
    kinds = {"gsd": pair, "pixel_size": pair, "location": pair, "wavelengths": {"list": "int64"}, "timestamp": {"dtype": "string"}}
    scalars = {f.name: {"dtype": "float64" if f.columns[0].kind == "numeric" else "string"} for f in FIELDS}
    return [{"name": f.name, **kinds.get(f.name, scalars[f.name])} for f in FIELDS]


def readme(dataset: dict[str, Any], coverage: Coverage) -> str:
    """Return `README.md`: the Hub's YAML block, then what a reader wants to know."""
    splits, first = dataset["splits"], next(iter(dataset["splits"]))
    # A shard none of whose images could be read is not there.
    numbers = [
        shard["name"].removeprefix(f"{first}/").removesuffix(".tar") for shard in dataset["shards"] if shard["split"] == first
    ]
    gapless = int(numbers[-1]) - int(numbers[0]) < len(numbers)
    span = f"{numbers[0]}..{numbers[-1]}" if gapless else ",".join(numbers)
    return render(
        "dataset.md",
        front=yaml.safe_dump(_front_matter(dataset, coverage), sort_keys=False, allow_unicode=True),
        source=dataset["source"],
        version=dataset["software"]["satmip"],
        size="sizes of their own" if dataset["size"] is None else "{} x {} pixels".format(*dataset["size"]),
        splits=splits,
        coverage=list(_coverage_lines(dataset, coverage)),
        first=_hub_split(first),
        braces=f"{first}/{{{span}}}.tar",
        fields=FIELDS,
    )


def _coverage_lines(dataset: dict[str, Any], coverage: Coverage) -> Iterator[str]:
    if coverage.bounds is not None:
        west, south, east, north = coverage.bounds
        yield f"Footprints: longitude {west:.4f} to {east:.4f}, latitude {south:.4f} to {north:.4f} (EPSG:4326)."
    if coverage.times is not None:
        yield f"Acquired from {coverage.times[0]} to {coverage.times[1]}."
    if coverage.gsd is not None:
        smallest, median, largest = coverage.gsd
        yield f"GSD of the chips: {smallest:.3g} to {largest:.3g} m, median {median:.3g} m."
    yield f"Scenes or boxes that gave no sample: {sum(dataset['rejects'].values()):,} (see rejects.parquet)."
    yield f"Captions: {', '.join(dataset['caption']['fields'])}, {dataset['caption']['style']}."
    yield f"Classes: {len(dataset['classes'])}."


_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{
        name: f"cr:{name}"
        for name in (
            "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
            "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
            "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
        )
    },
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "geocr": "http://mlcommons.org/croissant/geo/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}  # fmt: skip

_DATA_TYPES = {"string": "sc:Text", "double": "sc:Float", "int32": "sc:Integer", "int64": "sc:Integer", "timestamp": "sc:Date"}


def croissant(dataset: dict[str, Any], coverage: Coverage, index: bytes) -> dict[str, Any]:
    """Return `croissant.json`: files with hashes, the columns of the index, and coverage and resolution in the geo terms."""
    digest = hashlib.sha256(index).hexdigest()
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/geo/1.0"],
        "name": f"{dataset['source']['name']}-chips",
        "description": f"Chips of the archive {dataset['source']['name']} with captions, metadata and footprints, in shards.",
        "license": dataset["source"]["licence"],
        "version": f"{SCHEMA_VERSION}.0.0",
        **_geo_terms(dataset, coverage),
        "distribution": [
            {
                "@type": "cr:FileObject", "@id": INDEX, "name": INDEX, "contentUrl": INDEX, "contentSize": f"{len(index)} B",
                "encodingFormat": "application/x-parquet", "sha256": digest,
            },
            *(_shard_object(shard) for shard in dataset["shards"]),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet", "@id": "samples", "name": "samples", "description": "One row a sample.",
                "key": {"@id": "samples/key"},
                "field": [_column(name, kind) for name, kind in coverage.columns],
            }
        ],
    }  # fmt: skip


def _shard_object(shard: dict[str, Any]) -> dict[str, Any]:
    name = shard["name"]
    return {
        "@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name, "contentSize": f"{shard['bytes']} B",
        "description": f"{counted(shard['samples'], 'sample')} of the split {shard['split']}, in WebDataset's form",
        "encodingFormat": "application/x-tar", "sha256": shard["sha256"],
    }  # fmt: skip


def _column(name: str, kind: str) -> dict[str, Any]:
    inner = re.search(r"item: (\w+)|element: (\w+)", kind)
    scalar = (inner[1] or inner[2]) if inner else kind.partition("[")[0]
    field = BY_NAME.get(name.removeprefix("scene_"))
    return {
        "@type": "cr:Field",
        "@id": f"samples/{name}",
        "name": f"samples/{name}",
        **({"description": field.about} if field is not None else {}),
        "dataType": _DATA_TYPES.get(scalar, "sc:Text"),
        **({"repeated": True} if inner else {}),
        "source": {"fileObject": {"@id": INDEX}, "extract": {"column": name}},
    }


def _geo_terms(dataset: dict[str, Any], coverage: Coverage) -> dict[str, Any]:
    names = dataset["image"]["bands"]
    terms: dict[str, Any] = {
        "geocr:coordinateReferenceSystem": "EPSG:4326",
        "geocr:bandConfiguration": {
            "@type": "geocr:BandConfiguration", "geocr:totalBands": len(names), "geocr:bandNameList": names,
        },
        "geocr:samplingStrategy": (
            f"One chip of each box; context {dataset['settings'].get('context', 0)}, fit "
            f"{dataset['settings'].get('fit', 'stretch')}; samples of one place are spread apart."
        ),
    }  # fmt: skip
    if coverage.bounds is not None:
        west, south, east, north = coverage.bounds
        box = f"{south:.6f} {west:.6f} {north:.6f} {east:.6f}"
        terms["spatialCoverage"] = {"@type": "sc:Place", "geo": {"@type": "sc:GeoShape", "box": box}}
    if coverage.times is not None:
        terms["temporalCoverage"] = "/".join(coverage.times)
    if coverage.gsd is not None:
        smallest, median, largest = coverage.gsd
        value = {"value": median, "minValue": smallest, "maxValue": largest, "unitText": "m"}
        terms["geocr:spatialResolution"] = {"@type": "sc:QuantitativeValue", **value}
    return terms
