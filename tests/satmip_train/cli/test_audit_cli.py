"""`satmip-eval audit` from end to end on toy shards."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.browser import look_at
from helpers.eval_world import COMMON, call, write_run
from helpers.toy_shards import write_toy_shards

from satmip_data.pipeline.selection import read_exclusions
from satmip_train.data.dataset import open_dataset
from satmip_train.joint_space.archive import part_of, read_entries
from satmip_train.joint_space.provenance import folds
from satmip_train.runs import checkpoint


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_shards(tmp_path_factory.mktemp("audit") / "shards", {"train": 24, "val": 20}, missing=0.1)


@pytest.fixture(scope="module")
def run(shards: Path) -> Path:
    settings = {"objective": "satmip", "metadata_encoder": "tabular", "epochs": 1, "workers": 0, "warmup_epochs": 0}
    return write_run(shards.parent / "run", shards, **settings)


def test_the_held_out_records_are_judged_and_every_file_is_written(shards: Path, run: Path, tmp_path: Path) -> None:
    got = call("audit", run, "--shards", shards, "--html", "--out", tmp_path / "out", *COMMON)
    assert got.exit_code == 0, got.output
    assert "20 records judged" in got.output
    assert "24 it has trained on" in got.output
    table = pq.read_table(tmp_path / "out" / "audit.parquet").to_pandas()
    assert set(table["key"]) == {entry.key for entry in read_entries(open_dataset(shards), ["val"])}
    assert list(table["quantity"].unique()) == ["location", "day", "hour", "year", "gsd", "record"]
    assert len(table) == 20 * 6
    assert sorted(table["rank"].unique()) == list(range(1, 21))
    silent = table[(table["recorded"] == "") & (table["quantity"] != "record")]
    assert silent["score"].isna().all()
    assert json.loads(pq.read_schema(tmp_path / "out" / "audit.parquet").metadata[b"satmip"])["run"] == str(run)
    result = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert [suspect["rank"] for suspect in result["suspects"]] == list(range(1, 11))
    # The list of a build takes what the audit names.
    assert read_exclusions(str(tmp_path / "out" / "suspects.txt")) == {suspect["key"] for suspect in result["suspects"]}
    seen = look_at(tmp_path / "out" / "index.html", tmp_path)
    assert all(page["overflow"] <= 0 and page["pictures"] == 10 for page in seen.values()), seen


def test_json_is_one_document_with_as_many_suspects_as_asked_for(shards: Path, run: Path, tmp_path: Path) -> None:
    got = call("audit", run, "--shards", shards, "--split", "val", "--count", 3, "--json", "--out", tmp_path, *COMMON)
    assert got.exit_code == 0, got.output
    assert len(json.loads(got.stdout)["suspects"]) == 3


def test_records_that_the_run_has_trained_on_are_refused(shards: Path, run: Path, tmp_path: Path) -> None:
    got = call("audit", run, "--shards", shards, "--split", "train", "--out", tmp_path / "out", *COMMON)
    assert got.exit_code == 1
    assert "--folds" in got.output
    assert "24" in got.output
    assert not (tmp_path / "out").exists()


def test_folds_train_on_other_places_and_are_found_again(shards: Path, run: Path, tmp_path: Path) -> None:
    words = ["audit", run, "--shards", shards, "--folds", 2, "--json", "--out", tmp_path, *COMMON]
    first = call(*words)
    assert first.exit_code == 0, first.output
    dataset = open_dataset(shards)
    entries = read_entries(dataset, ["train", "val"])
    for number, own in enumerate(folds(entries, 2)):
        saved = checkpoint.load(tmp_path / "folds" / f"{number + 1}-of-2")
        assert saved is not None
        others = [entry for entry in entries if entry not in own]
        assert not {entry.place for entry in own} & {entry.place for entry in others}
        assert saved["dataset"]["fingerprint"] == part_of(dataset, others, "train").fingerprint
    again = call(*words)
    assert "is finished" in again.output
    assert json.loads(again.stdout)["judged"] == 44
    assert json.loads(again.stdout)["suspects"] == json.loads(first.stdout)["suspects"]


def test_errors_are_put_in_and_measured(shards: Path, run: Path, tmp_path: Path) -> None:
    got = call("audit", run, "--shards", shards, "--inject", "--share", 0.1, "--draws", 2, "--out", tmp_path, *COMMON)
    assert got.exit_code == 0, got.output
    result = json.loads((tmp_path / "injection.json").read_text())
    assert result["kinds"]["records exchanged"]["errors"] == 2
    assert 0 <= result["kinds"]["GSD doubled"]["auroc"]["isolation forest"]["mean"] <= 1
    assert "isolation forest" in got.output
