"""Every check of `validate` finds what it is there for, and nothing in what is right."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.damaging import list_anew
from helpers.fmow_tree import write_fmow_tree
from helpers.toy_shards import write_dataset_json

from satmip_data.metadata.tabular import Standardizer
from satmip_data.pipeline.build import build
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.shards.members import Members
from satmip_data.shards.tar import read_samples
from satmip_data.sources import SOURCES
from satmip_data.storage.parquet import parquet_bytes, read_parquet
from satmip_data.validation import statistics, validate
from satmip_data.validation.samples import check_sample

Record = dict[str, Any]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validate")
    write_fmow_tree(folder / "fmow", places=3, images=2)
    build(BuildRequest(SOURCES["fmow"](), str(folder / "fmow"), str(folder / "shards"), BuildSettings(size=32), 1))
    return folder / "shards"


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def found(shards: Path, change: Callable[[Members, Record], Any], key: str = "", **dataset: Any) -> dict[str, str]:
    """What `check_sample` finds in the first sample after a change, by check."""
    contract = {**json.loads((shards / "dataset.json").read_text()), **dataset}
    own, members = next(read_samples((shards / "train/000000.tar").read_bytes()))
    record = json.loads(members["json"])
    change(members, record)
    members["json"] = json.dumps(record).encode()
    return dict(check_sample(key or own, members, contract, Standardizer.from_json(contract)))


def numbers(change: Callable[[np.ndarray], Any], suffix: str = "num.npy") -> Callable[[Members, Record], Any]:
    return lambda m, r: m.update({suffix: npy(change(np.load(io.BytesIO(m[suffix]))))})


def moved(east: float) -> Callable[[Members, Record], Any]:
    return lambda m, r: r.update(footprint=[[lon + east, lat] for lon, lat in r["footprint"]])


DAMAGE: list[tuple[Callable[[Members, Record], Any], str, str]] = [
    (lambda m, r: m.pop("cat.npy"), "members", "cat.npy"),
    (numbers(lambda a: a.astype(np.float64)), "features", "num.npy .*float64.*float32"),
    (numbers(lambda a: a[:-1]), "features", "num.npy .*16.*17"),
    (numbers(lambda a: np.where(np.arange(17) == 3, np.nan, a).astype(np.float32)), "features", "num.npy .*finite"),
    (numbers(lambda a: a + np.float32(1e-3)), "features", "num.npy .*metadata"),
    (numbers(lambda a: a + 1, "cat.npy"), "features", "cat.npy .*metadata"),
    (lambda m, r: r["metadata"]["gsd"].__setitem__(1, r["metadata"]["gsd"][1] * (1 + 1e-8)), "gsd", "^gsd .*window"),
    (lambda m, r: r["metadata"].update(gsd=None), "gsd", "known of the scene"),
    (lambda m, r: r["scene"]["metadata"].update(pixel_size=None), "pixel_size", "known of the chip"),
    (lambda m, r: r["metadata"].update(location=None), "footprint", "without a location"),
    (lambda m, r: r["footprint"].pop(), "footprint", "closed"),
    (moved(1.0), "footprint", "outside"),
    (lambda m, r: r.update(category=None), "class", 'class is ".*none'),
    (lambda m, r: m.pop("cls"), "class", 'class is none.*"'),
    (lambda m, r: m.update({"labels.npy": npy(np.zeros(3, np.uint8))}), "labels", "labels.npy"),
    (lambda m, r: r.update(labels=["airport"]), "labels", "labels.npy.*airport"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "check", "message"), DAMAGE)
def test_a_sample_that_is_not_as_it_must_be_is_found(
    shards: Path, change: Callable[[Members, Record], Any], check: str, message: str
) -> None:
    assert re.search(message, found(shards, change)[check])


def test_a_sample_under_another_name_is_found(shards: Path) -> None:
    assert found(shards, lambda m, r: None) == {}
    assert list(found(shards, lambda m, r: None, key="another")) == ["schema"]


def test_a_footprint_may_pass_180_or_be_unknown(shards: Path) -> None:
    assert found(shards, moved(360.0)) == {}
    assert found(shards, lambda m, r: r.update(footprint=None)) == {}
    assert "footprint" not in found(shards, lambda m, r: (r.update(footprint=None), r["metadata"].update(location=None)))


def test_the_gsd_on_the_ground_does_not_follow_from_the_scenes(shards: Path) -> None:
    settings = json.loads((shards / "dataset.json").read_text())["settings"]
    assert "gsd" in found(shards, lambda m, r: r["scene"]["metadata"].update(gsd=None))
    assert found(shards, lambda m, r: r["scene"]["metadata"].update(gsd=None), settings={**settings, "gsd": "ground"}) == {}


@pytest.mark.parametrize(
    ("stored", "labels", "message"),
    [
        ([1, 0, 1], ["a", "c"], None),
        ([1, 0, 0], ["a", "c"], "labels.npy .*a, c"),
        ([1, 0, 0], ["a", "d"], "classes of the dataset: d"),
        (np.array([1, 0, 1]), ["a", "c"], "labels.npy .*uint8"),
    ],
)
def test_labels_are_the_multi_hot_of_known_classes(shards: Path, stored: Any, labels: list[str], message: str | None) -> None:
    def change(members: Members, record: Record) -> None:
        del members["cls"]
        members["labels.npy"] = npy(stored if isinstance(stored, np.ndarray) else np.array(stored, np.uint8))
        record.update(category=None, labels=labels)

    problems = found(shards, change, classes=["a", "b", "c"])
    assert (problems == {}) if message is None else re.search(message, problems["labels"])


def standardized(values: list[float | None]) -> statistics.Moments:
    """The sums of one column."""
    rows = [(np.array([value or 0.0], np.float32), np.array([value is not None])) for value in values]
    return statistics.moments_of(rows, 1)


@pytest.mark.parametrize(
    ("values", "known", "std", "message"),
    [
        ([-1.0, 1.0, None, -1.0, 1.0], 4, 2.0, None),
        ([0.0, 0.0, None], 2, 1.0, None),  # a constant
        ([None, None], 0, 1.0, None),
        ([-1.0, 1.0], 3, 2.0, "x .*2 times.* 3"),
        ([-0.999, 1.001], 2, 2.0, "mean 1.00e-03 and deviation 1.000000"),
        ([-1.002, 1.002], 2, 2.0, "mean 0.00e\\+00 and deviation 1.002000"),
        ([0.0, 0.0], 2, 2.0, "deviation 0.000000"),
        ([-0.5, 0.5], 2, 1.0, "deviation 0.500000"),
    ],
)
def test_the_train_split_has_the_statistics_it_is_standardized_by(
    values: list[float | None], known: int, std: float, message: str | None
) -> None:
    dataset = {"numeric": [{"name": "x", "known": known, "mean": 5.0, "std": std}]}
    halves = [standardized(values[:1]), standardized(values[1:]), standardized([])]
    problems = [problem.message for problem in statistics.check_standardized(dataset, halves)]
    assert len(problems) == (message is not None)
    assert message is None or re.search(message, problems[0])


def copy_of(shards: Path, out: Path) -> Path:
    return Path(shutil.copytree(shards, out))


def test_an_index_with_a_key_twice_or_without_a_column_is_found(shards: Path, tmp_path: Path) -> None:
    out = copy_of(shards, tmp_path / "out")
    table = read_parquet((shards / "index.parquet").read_bytes())
    list_anew(out, "index.parquet", parquet_bytes(table.drop_columns(["country_code"])))
    (message,) = {problem.message for problem in validate.validate(str(out)).problems}
    assert "country_code" in message
    list_anew(out, "index.parquet", parquet_bytes(pa.concat_tables([table, table.slice(0, 1)])))
    assert "keys" in {problem.check for problem in validate.validate(str(out)).problems}


def test_a_split_with_another_count_than_its_shards_is_found(shards: Path, tmp_path: Path) -> None:
    out = copy_of(shards, tmp_path / "out")
    dataset = json.loads((out / "dataset.json").read_text())
    dataset["splits"]["val"]["samples"] += 1
    write_dataset_json(out, dataset)
    (problem,) = validate.validate(str(out)).problems
    assert problem.check == "counts"
    assert "7 samples" in problem.message


def test_a_shard_of_many_problems_does_not_drown_the_rest(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "SHOWN", 2)
    out = copy_of(shards, tmp_path / "out")
    dataset = json.loads((out / "dataset.json").read_text())
    dataset["caption"]["fields"] = ["gsd"]  # so that all six captions are wrong
    write_dataset_json(out, dataset)
    problems = [problem for problem in validate.validate(str(out)).problems if problem.where.startswith("train")]
    assert [problem.check for problem in problems] == ["caption", "caption", "more"]
    assert problems[-1].message == "4 further problems in this shard"
