"""Values at the edge of what makes sense, as they are typed: each is an error with advice, or does what it says."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers.eval_world import COMMON, SMALL, call, write_run
from helpers.toy_shards import write_toy_shards

from satmip_train.cli import train as train_module
from satmip_train.objectives import OBJECTIVES
from satmip_train.runs import checkpoint


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    shards = write_toy_shards(root / "shards", {"train": 20, "val": 8})
    write_toy_shards(root / "unknown", {"train": 20, "val": 8}, missing=1.0)
    write_toy_shards(root / "one", {"train": 1})
    write_run(root / "run", shards)
    return root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["knn", "--temperature", "nan"], "nan is no finite number"),
        (["knn", "--temperature", "inf"], "inf is no finite number"),
        (["knn", "--random-seeds", "4294967296"], "4294967295"),
        (["knn", "--external-size", "8"], "8 is not in the range x>=16"),
        (["finetune", "--lr", "nan"], "nan is no finite number"),
        (["finetune", "--weight-decay", "nan"], "nan is no finite number"),
        (["finetune", "--seed", "4294967296"], "4294967296 is not in the range 0<=x<=4294967295"),
        (
            ["finetune", "--epochs", "1", "--batch-size", "4", "--lr", "1e30"],
            "nan in epoch 1",
        ),
        (["embed", "--split", "magic"], 'Unknown split "magic"'),
    ],
)
def test_what_cannot_be_evaluated_is_refused(world: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    """Once each of these was a traceback, or a table of numbers that meant nothing."""
    out = tmp_path / "vectors.parquet" if arguments[0] == "embed" else tmp_path
    got = call(arguments[0], world / "run", *arguments[1:], "--shards", world / "shards", "--out", out, *COMMON)
    assert got.exit_code != 0
    assert message in " ".join(got.output.split())


def test_the_weights_of_a_metadata_encoder_are_no_backbone(world: Path, tmp_path: Path) -> None:
    got = call("knn", world / "run" / "metadata.safetensors", "--shards", world / "shards", "--out", tmp_path, *COMMON)
    assert got.exit_code == 1
    assert "metadata.safetensors is no backbone" in " ".join(got.output.split())


def test_a_k_that_is_named_twice_is_one(world: Path, tmp_path: Path) -> None:
    """Once a note said that k=1 had been replaced by the number of samples."""
    common = ["--shards", world / "shards", "--out", tmp_path, "--random-seeds", "", *COMMON]
    assert call("knn", world / "run", "--k", "1,1", "--fixed-k", "1", *common).exit_code == 0
    result = json.loads((tmp_path / "knn.json").read_text())
    assert (result["settings"]["ks"], result["notes"]) == ([1], [])


def train(world: Path, shards: str, out: Path, *arguments: str) -> tuple[int, str]:
    words = ["--shards", str(world / shards), "--recipe", "tiny", "--view-size", "32", "--backbone-args", json.dumps(SMALL)]
    words += ["--batch-size", "4", "--max-steps", "1", "--device", "cpu", "--workers", "0", "--knn-every", "0", "--out", str(out)]
    got = CliRunner().invoke(train_module.main, [*words, *arguments], catch_exceptions=False)
    return got.exit_code, " ".join(got.output.split())


@pytest.mark.parametrize(
    ("shards", "arguments", "message"),
    [
        ("unknown", ["--objective", "satmip"], "knows any of the fields"),
        ("unknown", ["--objective", "satmips", "--fields", "gsd"], "knows any of the fields"),
        ("unknown", ["--objective", "satmip", "--metadata-encoder", "tabular"], "knows any of the fields"),
        ("unknown", ["--objective", "mine"], "knows any of the fields"),
        ("unknown", ["--objective", "simclr-geo"], "has 0 for --geo-clusters 100"),
        ("one", ["--objective", "simclr", "--batch-size", "2"], 'The split "train" of '),
    ],
)
def test_shards_that_teach_nothing_are_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: str, arguments: list[str], message: str
) -> None:
    """Once such runs learned from nothing, or were told to pass what would have been refused."""
    monkeypatch.setitem(OBJECTIVES, "mine", OBJECTIVES["satmip"])
    code, output = train(world, shards, tmp_path, *arguments)
    assert code == 1
    assert message in output


def test_captions_that_nobody_reads_are_not_warned_of(world: Path, tmp_path: Path) -> None:
    code, output = train(world, "unknown", tmp_path, "--objective", "simclr")
    assert code == 0
    assert "Warning" not in output


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.safetensors", b"none", "w.safetensors: Error while deserializing header"),
        ("w.pt", b"{}", "w.pt: torch finds no checkpoint in it"),
        ("w.pt", b"", "w.pt: torch finds no checkpoint in it"),
    ],
)
def test_first_weights_that_are_none_are_refused(world: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    code, output = train(world, "shards", tmp_path / "run", "--init", str(tmp_path / name))
    assert code == 1
    assert message in output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"magic": 3}}, "Unknown setting .magic.* Use the satmip"),
        ({"settings": {"policy": "magic"}}, "policy.*magic"),
        (
            {"args": {"depth": "x"}},
            r"vit_small.*depth.*Use the timm that wrote it",
        ),
    ],
)
def test_a_run_of_another_version_is_refused(world: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Once its unknown settings were a traceback."""
    run = shutil.copytree(world / "run", tmp_path / "run")
    config = json.loads((run / "backbone.json").read_text())
    del config["own_sha256"]
    changed = {**config, **{name: {**config[name], **values} for name, values in change.items()}}
    (run / "backbone.json").write_text(json.dumps(changed))
    got = call("knn", run, "--shards", world / "shards", "--out", tmp_path, *COMMON)
    assert got.exit_code == 1
    assert re.search(message, " ".join(got.output.split()))
    saved = checkpoint.load(run)
    assert saved is not None
    if "settings" in change:
        checkpoint.save(run, {**saved, "settings": changed["settings"]})
        exported = CliRunner().invoke(train_module.main, ["export", str(run)], catch_exceptions=False)
        assert exported.exit_code == 1
        assert re.search(message, " ".join(exported.output.split()))
