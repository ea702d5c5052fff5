"""Golden records of every form of archive: what `make.py` writes becomes exactly these samples and rejects."""

import json
from pathlib import Path
from typing import Any

import pytest

from satmip_data.execution.engines import Local
from satmip_data.metadata.serialize import sample_to_json
from satmip_data.pipeline.index import build_index
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.sources import SOURCES
from tests.data.archives.make import (
    stac_item,
    table_rows,
    write_bigearthnet,
    write_class_folders,
    write_rasters,
    write_so2sat,
    write_table_images,
)

GOLDEN = Path(__file__).parents[2] / "data/archives/golden.json"
OPTIONS: dict[str, dict[str, Any]] = {
    "table": {},
    "geotiff": {"stretch": "percentile", "tile": 48, "time_pattern": "%Y%m%dT%H%M%S"},
    "stac": {"tile": 48},
    "imagefolder": {},
    "eurosat": {},
    "so2sat": {},
    "bigearthnet": {},
}
"""Source -> the options under which it is read here."""


def write(name: str, root: Path) -> Path:
    """Write the archive of a source; return its root."""
    if name == "table":
        write_table_images(root)
        table_rows().to_csv(root / "table.csv", index=False)
        return root / "table.csv"
    if name == "geotiff":
        write_rasters(root)
    elif name == "stac":
        write_rasters(root)
        items = [stac_item(number, {"href": "a/town_20200102T030405.tif"}) for number in range(2)]
        (root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        return root / "items.json"
    elif name == "so2sat":
        write_so2sat(root)
    elif name == "bigearthnet":
        write_bigearthnet(root, patches=4)
    else:
        write_class_folders(root, ("River", "Forest"), 3, suffix="png")
        (root / "Lake").mkdir()
        (root / "Lake/Lake_1.png").write_bytes(b"no image")
    return root


def found(name: str, root: Path) -> dict[str, Any]:
    """Return the index of a source as JSON: the first two samples, all rejects without their messages, and how many there are."""
    index = build_index(SOURCES[name](**OPTIONS[name]), str(write(name, root)), BuildSettings(size=None), Local())
    return {
        "samples": len(index.samples),
        "first": [sample_to_json(sample) for sample in index.samples[:2]],
        "rejects": [[reject.path, reject.reason, reject.key] for reject in index.rejects],
    }


def rounded(value: Any) -> Any:
    """Round to eight digits: the last ones of a projection may change with its library."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def test_archives_become_the_golden_records(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    got = rounded(json.loads(json.dumps({name: found(name, tmp_path / name) for name in OPTIONS})))
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(got, indent=1) + "\n")
        pytest.fail(f"{GOLDEN} was written anew: look at the difference, then run again without --update-golden")
    assert got == json.loads(GOLDEN.read_text())
