"""Builds and shards from Python: what the command writes, and what the tars hold."""

import dataclasses
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from helpers.fmow_tree import write_fmow_tree
from PIL import Image

import satmip_data
from satmip_data.api import BuildOptions
from satmip_data.cli.commands import main
from satmip_data.metadata.serialize import metadata_to_json
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.selection import Selection
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.shards.reading import Shards
from satmip_data.sources import SOURCES


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fmow")
    write_fmow_tree(root)
    return root


@pytest.fixture(scope="module")
def shards(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return satmip_data.build(tree, tmp_path_factory.mktemp("out") / "shards", size=32, samples_per_shard=4)


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_build_is_that_of_the_command(tree: Path, tmp_path: Path) -> None:
    options = {"size": 48, "context": "fmow-as-run", "fields": ["loc", "gsd"], "where": "cloud_cover < 40", "boxes": "all"}
    built = satmip_data.build(str(tree), tmp_path / "api", splits=["train"], **options)  # type: ignore[arg-type]
    words = ["--size", "48", "--context", "fmow-as-run", "--fields", "gsd,loc", "--where", "cloud_cover < 40", "--boxes", "all"]
    run = ["build", str(tree), str(tmp_path / "command"), *words, "--split", "train", "--workers", "1"]
    assert CliRunner().invoke(main, run, catch_exceptions=False).exit_code == 0
    assert files(tmp_path / "api") == files(tmp_path / "command")
    assert [*built] == ["train"]
    again = satmip_data.build(tree, tmp_path / "api", splits=["train"], **options)  # type: ignore[arg-type]
    assert again.dataset == built.dataset
    keep = satmip_data.build(tree, tmp_path / "keep", size="keep", limit=2)
    assert keep.dataset["size"] is None


def test_the_options_are_all_those_there_are() -> None:
    owners = [BuildSettings, Selection, *SOURCES.values()]
    named = {field.name for owner in owners for field in dataclasses.fields(owner)}
    of_request = {field.name for field in dataclasses.fields(BuildRequest)} - {
        "source",
        "root",
        "out",
        "settings",
        "selection",
        "ray",
    }
    assert set(BuildOptions.__annotations__) == named | of_request


def test_samples_are_what_the_tars_hold(shards: Shards) -> None:
    for name, split in shards.items():
        samples = list(split)
        assert len(samples) == len(split) == shards.splits[name] > 8
        position = 0
        for entry in (entry for entry in shards.dataset["shards"] if entry["split"] == name):
            with tarfile.open(Path(shards.path) / entry["name"]) as tar:
                held = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
            for key in dict.fromkeys(member.partition(".")[0] for member in held):
                sample, told = samples[position], split[position]
                assert sample.key == told.key == key
                assert sample.caption == held[f"{key}.txt"].decode()
                assert metadata_to_json(sample.metadata) == json.loads(held[f"{key}.json"])["metadata"]
                assert sample.category == shards.classes[int(held[f"{key}.cls"])]
                assert np.array_equal(np.array(sample.image), np.array(Image.open(io.BytesIO(held[f"{key}.jpg"]))))
                for array, suffix in ((told.numeric, "num"), (told.mask, "mask"), (told.categorical, "cat")):
                    assert np.array_equal(array, np.load(io.BytesIO(held[f"{key}.{suffix}.npy"])))
                position += 1
        assert position == len(samples)
        assert len(shards.numeric) == len(samples[0].numeric)
        assert len(shards.categorical) == len(samples[0].categorical)
        assert split[-1].key == samples[-1].key
        assert [sample.key for sample in split[-3::2]] == [sample.key for sample in samples[-3::2]]
        for beyond in (len(split), -len(split) - 1):
            with pytest.raises(IndexError, match=name):
                _ = split[beyond]


def test_the_index_is_a_table_of_the_samples(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(shards.index, geopandas.GeoDataFrame)
    assert shards.index.crs == "EPSG:4326"
    assert shards.index["key"].tolist() == [sample.key for split in shards.values() for sample in split]
    assert shards.rejects.empty
    monkeypatch.setitem(sys.modules, "geopandas", None)
    plain = satmip_data.open_shards(shards.path).index
    assert type(plain) is pd.DataFrame
    assert isinstance(plain["geometry"][0], bytes)


def test_what_cannot_be_opened_says_why(shards: Shards, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="train"):
        _ = shards["rain"]
    with pytest.raises(satmip_data.BuildError, match="satmip-data build"):
        satmip_data.open_shards(tmp_path)
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"kind": "fmw"}, ValueError, "fmow"), ({"bxes": "all"}, TypeError, "boxes"), ({"asset": "x"}, TypeError, "asset"),
        ({"quality": 0}, ValueError, "quality"), ({"fields": ["gds"]}, ValueError, "gsd"), ({"decoder": "none"}, Exception, "none"),
    ]  # fmt: skip
    for options, kind, word in wrong:
        with pytest.raises(kind, match=word):
            satmip_data.build(tree, tmp_path / "none", **options)
    for name, content in files(Path(shards.path)).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content[: len(content) // 2] if name == "val/000000.tar" else content)
    with pytest.raises(satmip_data.ShardError, match=r"val/000000\.tar"):
        list(satmip_data.open_shards(tmp_path)["val"])
    (tmp_path / ".caption").mkdir()
    with pytest.raises(satmip_data.ShardError, match="caption"):
        satmip_data.open_shards(tmp_path)
