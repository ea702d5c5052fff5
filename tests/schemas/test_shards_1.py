"""Shards of schema version 1 are read by everything that reads shards, and what is written anew is of version 2."""

import json
import shutil
from pathlib import Path

import pytest
import satmip_schemas
from click.testing import CliRunner, Result
from helpers.eval_world import SMALL
from PIL import Image

from satmip_data.cli.commands import main as data
from satmip_train.cli.train import main as train

GOLDEN = Path(__file__).parents[1] / "data/shards-1"
BUILD = ("build", "fmow", "--size", "16", "--quality", "60", "--samples-per-shard", "2", "--workers", "1")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the shards, and beside them of what they were built from."""
    monkeypatch.chdir(shutil.copytree(GOLDEN, tmp_path / "golden"))
    return Path()


def call(*words: str) -> Result:
    result = CliRunner().invoke(data, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def tars(shards: Path) -> dict[str, bytes]:
    return {str(path.relative_to(shards)): path.read_bytes() for path in shards.rglob("*.tar")}


def version(shards: Path) -> int:
    """What a directory is of, by its schema and, of version 2, its own hash."""
    found: int = satmip_schemas.read_dataset((shards / "dataset.json").read_bytes(), "")["schema_version"]
    return found


def test_a_finished_build_is_left_as_it_is(here: Path) -> None:
    before = {path: path.read_bytes() for path in (here / "shards").rglob("*.*")}
    call(*BUILD, "shards")
    assert {path: path.read_bytes() for path in (here / "shards").rglob("*.*")} == before
    call("validate", "shards", "--workers", "1")
    assert "train_airport_0_0_rgb" in call("inspect", "shards").output


def test_a_build_that_was_stopped_is_finished(here: Path) -> None:
    call(*BUILD, "half")
    assert tars(here / "half") == tars(here / "shards")
    assert version(here / "half") == 2
    call("validate", "half", "--workers", "1")


def test_rejects_are_retried_and_captions_written(here: Path) -> None:
    before = tars(here / "shards")
    broken = next(here.glob("fmow/val/multi*/*/*.jpg"))
    record = json.loads(broken.with_suffix(".json").read_text())
    Image.new("RGB", (record["img_width"], record["img_height"]), "green").save(broken)
    call(*BUILD, "shards", "--retry-rejects")
    after = tars(here / "shards")
    assert (after["train/000000.tar"], version(here / "shards")) == (before["train/000000.tar"], 2)
    assert after["val/000000.tar"] != before["val/000000.tar"]
    call("validate", "shards", "--workers", "1")


def test_captions_are_written_anew(here: Path) -> None:
    call("caption", "shards", "--fields", "gsd", "--workers", "1")
    dataset = json.loads((here / "shards/dataset.json").read_text())
    assert (dataset["schema_version"], dataset["caption"]["fields"]) == (2, ["gsd"])
    assert dataset["files"].keys() == {
        "README.md", "croissant.json", "index.parquet", "rejects.parquet", "train/sizes.json", "val/sizes.json",
    }  # fmt: skip
    call("validate", "shards", "--workers", "1")


def test_a_run_learns_from_them(here: Path) -> None:
    words = [
        "--shards",
        "shards",
        "--recipe",
        "tiny",
        "--backbone-args",
        json.dumps(SMALL),
        "--view-size",
        "32",
        "--batch-size",
        "2",
    ]
    words += ["--max-steps", "1", "--workers", "0", "--knn-every", "0", "--device", "cpu", "--out", "run"]
    result = CliRunner().invoke(train, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads((here / "run/summary.json").read_text())["step"] == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema_version": 3}, "1 and 2"),
        ({"schema_version": True}, "1 and 2"),
        ({"shards": {"table": "shards.parquet"}}, "shards.parquet"),
        ({"image": {"member": "tif", "dtype": "uint16", "bands": ["B02", "B08"]}}, "B02, B08"),
        ({"classes": "airport"}, "does not follow its schema"),
    ],
)
def test_what_is_not_read_is_refused_by_both_packages(here: Path, change: dict[str, object], problem: str) -> None:
    call("caption", "shards", "--fields", "gsd", "--workers", "1")
    path = here / "shards/dataset.json"
    path.write_bytes(satmip_schemas.seal({**json.loads(path.read_text()), **change}))
    for command, words in ((data, ["inspect", "shards"]), (train, ["--shards", "shards", "--recipe", "tiny"])):
        result = CliRunner().invoke(command, words, catch_exceptions=False)
        assert result.exit_code == 1
        assert problem in result.output
