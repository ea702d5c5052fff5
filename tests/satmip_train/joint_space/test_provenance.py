"""No record is judged by a network that trained on it, by what a run says of itself and by folds."""

import shutil
from pathlib import Path

import pytest
from helpers.eval_world import write_run
from helpers.toy_shards import write_toy_shards

from satmip_data.records import Metadata
from satmip_train.data.dataset import open_dataset
from satmip_train.data.tar import Readers
from satmip_train.errors import UsageError
from satmip_train.evaluation.features import read_labels
from satmip_train.joint_space.archive import Entry, part_of, read_entries
from satmip_train.joint_space.provenance import Seen, divide, fold_settings, folds, seen_by


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_shards(tmp_path_factory.mktemp("provenance") / "shards", {"train": 24, "val": 16})


@pytest.fixture(scope="module")
def run(shards: Path) -> Path:
    return write_run(shards.parent / "run", shards, objective="satmip", metadata_encoder="tabular")


def entry(key: str, place: str) -> Entry:
    return Entry(key, "val", "val/000000.tar", 0, place, Metadata())


def test_samples_are_divided_by_key_and_by_place() -> None:
    division = divide([entry("a", "p"), entry("b", "q"), entry("c", "r")], Seen(frozenset({"a"}), frozenset({"p", "q"}), ""))
    assert [[e.key for e in part] for part in (division.judged, division.trained, division.places)] == [["c"], ["a"], ["b"]]
    assert "1 it has trained on" in str(division.left_out)
    assert divide([entry("c", "r")], Seen(frozenset(), frozenset(), "")).left_out is None


def test_a_run_has_seen_the_split_that_it_learned_from(shards: Path, run: Path) -> None:
    dataset = open_dataset(shards)
    seen = seen_by(run, dataset, None)
    assert seen.keys == {e.key for e in read_entries(dataset, ["train"])}
    assert len(divide(read_entries(dataset, ["train", "val"]), seen).judged) == 16
    assert not seen_by(run, dataset, None, unrelated=True).keys


def test_what_nobody_can_tell_is_refused(shards: Path, run: Path, tmp_path: Path) -> None:
    other = open_dataset(write_toy_shards(tmp_path / "other", {"val": 12}, seed=5))
    assert seen_by(run, other, None).keys == seen_by(run, open_dataset(shards), None).keys
    moved = write_toy_shards(tmp_path / "shards", {"train": 20}, seed=7)
    its_run = write_run(tmp_path / "run", moved, objective="satmip", metadata_encoder="tabular")
    moved.rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="--trained-on"):
        seen_by(its_run, other, None)
    assert len(seen_by(its_run, other, str(tmp_path / "moved")).keys) == 20
    with pytest.raises(UsageError, match="fingerprint"):
        seen_by(its_run, other, str(shards))
    with pytest.raises(UsageError, match="satmip or satmips"):
        seen_by(write_run(tmp_path / "simclr", shards, objective="simclr"), other, None)


def test_weights_of_unknown_origin_are_refused(shards: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "metadata.json"
    config.write_text(config.read_text().replace('"init": "random"', '"init": "other-run"'))
    with pytest.raises(UsageError, match="other-run"):
        seen_by(tmp_path / "run", open_dataset(shards), None)
    with pytest.raises(UsageError, match="other-run"):
        fold_settings(tmp_path / "run", 24)
    with pytest.raises(UsageError, match="batch of 8"):
        fold_settings(run, 7)


def test_folds_keep_places_together_in_any_order() -> None:
    entries = [entry(f"k{n}", f"p{n // 3}") for n in range(31)]
    parts = folds(entries, 4)
    assert sorted(e.key for part in parts for e in part) == sorted(e.key for e in entries)
    places = [{e.place for e in part} for part in parts]
    assert sum(map(len, places)) == len(set.union(*places)) == 11
    assert max(map(len, parts)) - min(map(len, parts)) <= 3
    assert [{e.key for e in part} for part in folds(entries[::-1], 4)] == [{e.key for e in part} for part in parts]
    with pytest.raises(UsageError, match="places"):
        folds(entries, 12)


def test_a_part_of_shards_holds_its_samples_alone(shards: Path) -> None:
    dataset = open_dataset(shards)
    entries = read_entries(dataset, ["train", "val"])
    chosen = entries[3:30:4]
    part = part_of(dataset, chosen, "mine")
    readers = Readers(part, "mine")
    keys = [key for number in range(len(readers.shards)) for key in readers[number].keys]
    assert sorted(keys) == sorted(e.key for e in chosen)
    assert part.splits == {"mine": len(chosen)}
    assert {e.key: e.metadata for e in read_entries(part, ["mine"])} == {e.key: e.metadata for e in chosen}
    assert len(read_labels(part, "mine")) == len(chosen)
    others = part_of(dataset, entries[2:30:4], "mine")
    assert len({dataset.fingerprint, part.fingerprint, others.fingerprint}) == 3
    assert part.hashes("mine") != others.hashes("mine")
