"""Splits by blocks of degrees: no block in two splits, shares of the samples, the same for a seed whatever the order of rows."""

import json
import math
import os
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from satmip_data.execution.engines import Local
from satmip_data.pipeline.build import build
from satmip_data.pipeline.index import build_index
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.sources.base import LayoutError
from satmip_data.sources.splits import block_of, deal, parse_shares
from satmip_data.sources.table import Table
from satmip_data.validation import validate

SHARES = parse_shares("train=60,val=20,test=20")
KEEP = BuildSettings(size=None)


@given(st.dictionaries(st.integers(0, 99), st.integers(1, 50), min_size=1), st.integers(0, 5))
def test_shares_of_the_samples_are_met_to_within_the_largest_block(numbered: dict[int, int], seed: int) -> None:
    sizes = {f"block/{number}": size for number, size in numbered.items()}
    dealt = deal(dict.fromkeys(sizes, ""), SHARES, seed, sizes)
    assert dealt == deal(dict.fromkeys(reversed(sizes), ""), SHARES, seed, sizes)
    counts: Counter[str] = Counter()
    for name, split in dealt.items():
        counts[split] += sizes[name]
    total, largest = sum(sizes.values()), max(sizes.values())
    assert all(abs(counts[split] - share * total) <= largest + 1e-6 for split, share in SHARES.items())


@given(st.floats(-180, 179.999), st.floats(-90, 90), st.sampled_from([0.5, 2.0, 7.0]))
def test_points_of_a_block_lie_within_its_sides(longitude: float, latitude: float, degrees: float) -> None:
    _, column, row = block_of(longitude, latitude, degrees).split("/")
    assert int(column) * degrees - 1e-9 <= longitude + 180 <= (int(column) + 1) * degrees + 1e-9
    assert int(row) * degrees - 1e-9 <= latitude + 90 <= (int(row) + 1) * degrees + 1e-9
    assert block_of(longitude - 360, latitude, degrees).rsplit("/", 1)[1] == str(int(row))


def test_the_antimeridian_is_a_border_and_the_equator_is_inside_no_block_twice() -> None:
    assert block_of(180.0, 10.0, 2.0) == block_of(-180.0, 10.0, 2.0)
    assert block_of(179.9, 10.0, 2.0) != block_of(-179.9, 10.0, 2.0)
    assert block_of(0.1, -0.1, 2.0) != block_of(0.1, 0.1, 2.0)


def rows(count: int, seed: int = 0) -> dict[str, list[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "image": [f"{number}.png" for number in range(count)],
        "image_width": [8] * count,
        "image_height": [8] * count,
        "lon": (rng.random(count) * 20 - 5).round(6).tolist(),
        "lat": (rng.random(count) * 10 + 40).round(6).tolist(),
        "gsd": [10.0] * count,
    }


def splits_of(root: Path, table: dict[str, list[Any]], **options: Any) -> dict[str, str]:
    pd.DataFrame(table).to_csv(root / "table.csv", index=False)
    index = build_index(Table(**options), str(root / "table.csv"), KEEP, Local())
    return {sample.path: sample.split for sample in index.samples}


def test_no_block_of_a_table_is_in_two_splits(tmp_path: Path) -> None:
    table = rows(400)
    options = {"block_degrees": 2.0, "shares": "train=60,val=20,test=20"}
    found = splits_of(tmp_path, table, **options)
    splits = defaultdict(set)
    for image, lon, lat in zip(table["image"], table["lon"], table["lat"], strict=True):
        splits[math.floor(lon / 2), math.floor(lat / 2)].add(found[image])
    assert all(len(names) == 1 for names in splits.values())
    counts = Counter(found.values())
    assert {split: count / 400 for split, count in counts.items()} == pytest.approx(SHARES, abs=0.05)
    order = np.random.default_rng(1).permutation(400)
    assert splits_of(tmp_path, {name: [cells[i] for i in order] for name, cells in table.items()}, **options) == found
    assert splits_of(tmp_path, table, **options, split_seed=1) != found


def test_blocks_also_follow_from_footprints_and_rows_without_any_place_are_dealt_by_themselves(tmp_path: Path) -> None:
    table = rows(6)
    box = [f"{lon - 0.01},{lat - 0.01},{lon + 0.01},{lat + 0.01}" for lon, lat in zip(table["lon"], table["lat"], strict=True)]
    boxed = {name: cells for name, cells in table.items() if name not in ("lon", "lat", "gsd")} | {"bbox": box}
    options = {"block_degrees": 2.0, "shares": "train=50,val=50"}
    assert splits_of(tmp_path, boxed, **options) == splits_of(tmp_path, table, **options)
    boxed["bbox"][0] = ""
    assert len(splits_of(tmp_path, boxed, **options)) == 6
    with pytest.raises(LayoutError, match="no row of the table has"):
        splits_of(tmp_path, {name: cells for name, cells in boxed.items() if name != "bbox"}, **options)
    with pytest.raises(LayoutError, match="both decide"):
        splits_of(tmp_path, table | {"split": ["train"] * 6}, **options)


@pytest.mark.parametrize("options", [{"block_degrees": -1.0}, {"block_degrees": 91.0}, {"block_degrees": 1.0, "split_file": "a"}])
def test_blocks_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--block-degrees"):
        Table(**options)


def test_images_may_lie_in_a_zip_beside_the_table(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in range(3):
            with archive.open(f"{number}.png", "w") as file:
                Image.new("RGB", (8, 8), (number * 80 + 40, 0, 0)).save(file, "PNG")
    pd.DataFrame(rows(3)).to_csv(tmp_path / "table.csv", index=False)
    source = Table(images=str(tmp_path / "images.zip"), shares="train=1")
    build(BuildRequest(source, str(tmp_path / "table.csv"), str(tmp_path / "out"), KEEP))
    assert validate.validate(str(tmp_path / "out")).problems == ()
    dataset = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert dataset["splits"]["train"]["samples"] == 3


@pytest.mark.real
def test_the_real_eurosat_with_its_locations(tmp_path: Path) -> None:
    if "SATMIP_REAL_DATA" not in os.environ:
        pytest.skip("SATMIP_REAL_DATA is unset")
    data = Path(os.environ["SATMIP_REAL_DATA"])
    table = str(data / "eurosat" / "eurosat_locations.csv")
    source = Table(images=str(data / "EuroSAT_RGB.zip"), block_degrees=2.0, shares="train=60,val=20,test=20")
    items = source.list_items(table)
    counts = Counter(json.loads(item.record)["split"] for item in items)
    assert {split: count / 27_000 for split, count in counts.items()} == pytest.approx(SHARES, abs=0.01)
    build(BuildRequest(source, table, str(tmp_path), KEEP, limit=48))
    assert validate.validate(str(tmp_path)).problems == ()
