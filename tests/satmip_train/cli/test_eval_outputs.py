"""What satmip-eval finds where it is to write."""

import json
import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
from click import Group
from click.testing import CliRunner
from helpers.eval_world import COMMON, call, write_run
from helpers.painted import paint
from helpers.toy_shards import write_toy_shards

from satmip_data.execution import interrupt as interrupt_module
from satmip_data.execution.interrupt import Commands
from satmip_train.cli.evaluate import main as eval_main
from satmip_train.cli.train import main as train_main
from satmip_train.paper.scores import read_scores


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_run(root / "run", write_toy_shards(root / "shards", {"train": 20, "val": 12}))
    return root


OWN = {
    "knn": ["RUN", "--random-seeds", ""],
    "linear": ["RUN", "--random-seeds", "", "--modality", "both"],
    "report": ["--runs", "RUN", "--random-seeds", ""],
    "finetune": ["RUN", "--epochs", "1", "--batch-size", "8"],
    "retrieve": ["RUN"],
}


@pytest.mark.parametrize("command", list(OWN))
def test_a_result_on_one_set_is_not_written_over_that_on_another(world: Path, tmp_path: Path, command: str) -> None:
    """Once the second of two sets evaluated into out/eval, the default, took the place of the first without a word."""
    other = write_toy_shards(tmp_path / "eurosat", {"train": 20, "val": 8, "test": 8}, seed=5)
    own = [str(world / "run") if word == "RUN" else word for word in OWN[command]]
    asked = [command, *own, "--out", tmp_path / "eval", *COMMON]
    assert call(*asked, "--shards", other).exit_code == 0
    written = {path: path.read_bytes() for path in (tmp_path / "eval").iterdir() if path.is_file()}
    got = call(*asked, "--shards", world / "shards")
    assert got.exit_code == 1
    found = " ".join(got.output.split())
    assert re.search(rf'split "(\w+)" of {other}, .* "\1" of {world}/shards. Use another .* {tmp_path}/eval/shards$', found)
    got = call(*asked, "--shards", other, "--split" if command == "retrieve" else "--test-split", "test")
    assert got.exit_code == 1
    found = " ".join(got.output.split())
    assert re.search(rf'split "val" of {other}, .* "test" of {other}. Use another .* {tmp_path}/eval/test$', found)
    assert written == {path: path.read_bytes() for path in written}


@pytest.mark.parametrize("command", list(OWN))
def test_each_set_has_a_folder_of_its_own_where_none_is_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Once the default refused the second set that was evaluated."""
    monkeypatch.chdir(tmp_path)
    eurosat = write_toy_shards(tmp_path / "eurosat", {"train": 20, "val": 8, "test": 8}, seed=5)
    namesake = write_toy_shards(tmp_path / "other/eurosat", {"train": 20, "val": 9, "test": 7}, seed=6)
    split = "--split" if command == "retrieve" else "--test-split"
    own = [str(world / "run") if word == "RUN" else word for word in OWN[command]]
    base = Path("out/report" if command == "report" else "out/eval")
    found = []
    for asked in (
        ["--shards", eurosat],
        ["--shards", eurosat, split, "test"],
        ["--shards", namesake],
        ["--shards", namesake, split, "test"],
    ):
        for _ in range(2):  # the second time into the same folder
            got = call(command, *own, *COMMON, *asked)
            assert got.exit_code == 0, got.output
        found.append(Path(got.stdout.split()[-1]).parent)
        assert {folder.name for folder in base.iterdir()} == {folder.name for folder in found}
    assert found[:2] == [base / "eurosat", base / "eurosat-test"]
    assert all(folder.name.startswith("eurosat-") for folder in found[2:])
    assert len(set(found)) == 4


def test_a_result_of_before_stays_where_it_is(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["knn", world / "run", "--random-seeds", "", "--shards", world / "shards", *COMMON]
    assert call(*asked, "--out", "out/eval").exit_code == 0
    before = Path("out/eval/knn.json").read_bytes()
    assert call(*asked).exit_code == 0
    assert Path("out/eval/knn.json").read_bytes() == before
    assert Path("out/eval/shards/knn.json").exists()


def test_another_folder_is_named_for_shards_that_are_the_current_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_toy_shards(tmp_path / "eurosat", {"train": 20, "val": 8}, seed=5)
    asked = ["knn", world / "run", "--random-seeds", "", "--out", tmp_path / "eval", *COMMON, "--shards"]
    assert call(*asked, world / "shards").exit_code == 0
    monkeypatch.chdir(other)
    got = call(*asked, ".")
    assert got.exit_code == 1
    assert " ".join(got.output.split()).endswith(f"Use another --out, such as {tmp_path}/eval/eurosat")


def test_a_set_that_was_moved_or_built_again_is_the_same_set(world: Path, tmp_path: Path) -> None:
    asked = ["knn", world / "run", "--random-seeds", "", "--out", tmp_path, *COMMON, "--shards"]
    assert call(*asked, world / "shards").exit_code == 0
    moved = shutil.copytree(world / "shards", tmp_path / "moved")
    assert call(*asked, moved).exit_code == 0
    write_toy_shards(moved, {"train": 20, "val": 12}, seed=6)
    assert call(*asked, moved).exit_code == 0


def test_segmentation_of_one_set_is_not_written_over_that_of_another(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [
        paint(tmp_path / name / part, 2, seed) for seed, (name, part) in enumerate([("a", "val"), ("a", "train"), ("b", "val")])
    ]
    asked = ["segment", world / "run", "--train", folders[1], "--random-seeds", "", "--epochs", "1", "--out", tmp_path, *COMMON]
    assert call(*asked, "--test", folders[0]).exit_code == 0
    got = call(*asked, "--test", folders[2])
    assert got.exit_code == 1
    assert re.search(rf'split "val" of {folders[0]}, .* "val" of {folders[2]}', " ".join(got.output.split()))
    monkeypatch.chdir(tmp_path)
    for folder in (folders[0], folders[2]):
        assert call(*asked[: -len(COMMON) - 2], *COMMON, "--test", folder).exit_code == 0
    assert {path.parent.name for path in Path("out/eval").rglob("segment.json")} == {"a", "b"}


def test_a_damaged_result_is_written_anew(world: Path, tmp_path: Path) -> None:
    (tmp_path / "knn.json").write_text('{"train": 5')
    got = call("knn", world / "run", "--shards", world / "shards", "--random-seeds", "", "--out", tmp_path, *COMMON)
    assert got.exit_code == 0, got.output
    assert json.loads((tmp_path / "knn.json").read_text())["test"]["samples"] == 12


def test_results_of_other_runs_stay_and_the_newest_of_a_run_counts(world: Path, tmp_path: Path) -> None:
    """Once the second of two runs evaluated one after the other took the place of the first without a word."""
    runs = [write_run(tmp_path / "runs" / f"seed{seed}", world / "shards", seed=seed, objective="simclr") for seed in (0, 1)]
    eval_ = tmp_path / "eurosat"

    def evaluate(*words: object) -> str:
        got = call("knn", *words, "--shards", world / "shards", "--random-seeds", "", "--out", eval_, *COMMON)
        assert got.exit_code == 0, got.output
        return got.stderr

    def held() -> dict[str, list[str]]:
        return {path.name: [model["name"] for model in json.loads(path.read_text())["models"]] for path in eval_.glob("*.json")}

    assert "knn" not in evaluate(runs[0])
    first = (eval_ / "knn.json").read_bytes()
    evaluate(runs[1])
    (kept,) = set(held()) - {"knn.json"}
    assert held() == {kept: ["seed0"], "knn.json": ["seed1"]}
    assert (eval_ / kept).read_bytes() == first
    # One of each run, however often they take turns; the same run with other settings takes its own place.
    evaluate(runs[0], "--k", "1,2")
    evaluate(runs[0])
    evaluate(runs[1])
    assert held()["knn.json"] == ["seed1"]
    assert held()[kept] == ["seed0"]
    assert len(held()) == 3
    scores = sorted(read_scores(tmp_path, {}), key=lambda score: score.modified)
    assert {score.seed: score.file.name for score in scores} == {0: kept, 1: "knn.json"}
    # What holds all of them needs nothing beside it.
    evaluate(*runs, "--backbone", "pixels")
    before = held()
    evaluate(*runs, "--backbone", "pixels")
    assert held() == before
    assert before["knn.json"] == ["seed0", "seed1", "raw pixels, 32 x 32"]


@pytest.mark.parametrize("program", ["satmip-train", "satmip-eval"])
def test_an_interrupted_command_ends_as_a_shell_expects(world: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Once with 1, as after an error."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "satmip_train.training.train.train" if program == "satmip-train" else "satmip_train.evaluation.evaluate.evaluate",
        interrupted,
    )
    command = train_main if program == "satmip-train" else eval_main
    words = ["--recipe", "tiny"] if program == "satmip-train" else ["knn", str(world / "run")]
    got = CliRunner().invoke(command, [*words, "--shards", str(world / "shards"), "--device", "cpu"])
    assert (got.exit_code, got.output) == (130, "Interrupted.\n")


@pytest.mark.parametrize("command", [train_main, eval_main])
def test_a_command_runs_in_a_thread_that_may_not_answer_signals(command: Group) -> None:
    with ThreadPoolExecutor(1) as thread:
        got = thread.submit(CliRunner().invoke, command, [next(iter(command.commands)), "--help"]).result()
    assert got.exit_code == 0, got.exception


def test_a_second_interrupt_waits_for_nothing_and_one_that_is_ignored_stays_so() -> None:
    seen: list[object] = []

    @click.group(cls=Commands)
    def group() -> None:
        pass

    @group.command()
    @click.option("--interrupt", is_flag=True)
    def look(interrupt: bool) -> None:
        seen.append(signal.getsignal(signal.SIGINT))
        if interrupt:
            os.kill(os.getpid(), signal.SIGINT)

    def run(handler: Any, *words: str) -> tuple[int, str, object, object]:
        signal.signal(signal.SIGINT, handler)
        got = CliRunner().invoke(group, ["look", *words])
        return got.exit_code, got.output, seen[-1], signal.getsignal(signal.SIGINT)

    before, usual, ignored = signal.getsignal(signal.SIGINT), signal.default_int_handler, signal.SIG_IGN
    try:
        assert run(usual) == (0, "", interrupt_module._interrupt, usual)
        assert run(ignored) == (0, "", ignored, ignored)  # as of a job in the background
        assert run(usual, "--interrupt") == (130, "Interrupted.\n", interrupt_module._interrupt, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGINT, before)
