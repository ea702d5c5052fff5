"""The commands that fill a table: which they are, that finished ones are left out, and that they fill it."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers.toy_shards import edited_copy, write_toy_shards

from satmip_train.cli import evaluate, paper
from satmip_train.cli import train as train_module
from satmip_train.config import Settings, resolve
from satmip_train.errors import UsageError
from satmip_train.paper.fill import Budget, identity
from satmip_train.paper.layout import recipe_settings, run_names, table_layout
from satmip_train.paper.reproduce import TARGETS, Command, Commands, Request, check_request, commands_of, is_done, keep_request

NETWORK = json.dumps({"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2})
TRAIN = (
    f"--backbone-args '{NETWORK}' --view-size 32 --tabular-width 16 --tabular-layers 1 --tabular-heads 2 --embed-dim 16 "
    "--ssl-hidden 24 --ssl-dim 16 --batch-size 16 --workers 0 --device cpu --log-every 50"
)
EVAL = "--workers 0 --device cpu"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_shards(tmp_path_factory.mktemp("shards") / "toy", {"train": 32, "val": 12})


def request_for(shards: Path, out: Path, **changes: Any) -> Request:
    return Request(**{"shards": str(shards), "out": out, "evaluation": {"fmow": str(shards)}, "budget": Budget(), **changes})


def options_of(command: Command) -> dict[str, Any]:
    """What satmip-train makes of a command, as its own parser reads it."""
    context = train_module.main.make_context("satmip-train", list(command.arguments))
    return {name: value for name, value in context.params.items() if value is not None}


@pytest.mark.parametrize("recipe", [None, "tiny"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_training_command_gives_a_run_of_its_row(target: str, recipe: str | None, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "slip.pt").touch()
    request = request_for(shards, tmp_path, seeds=(3,), hpt=str(tmp_path / "slip.pt"), recipe=recipe)
    plan = commands_of(target, request)
    trained = []
    for command in plan.commands:
        if command.program != "satmip-train":
            continue
        options = options_of(command)
        flags = train_module._flags({name: value for name, value in options.items() if name in Settings.model_fields})
        settings = resolve(options["recipe"], flags).model_dump(mode="json")
        assert {**identity(settings), "epochs": settings["epochs"], "seed": settings["seed"]} == command.settings
        assert Path(options["out"]) == command.output
        assert (settings["view_size"] == 64) == (recipe == "tiny")
        trained.append(command.settings)
    layout = table_layout(target)
    for row in layout.rows:
        if row.recipe is not None:
            for epochs in {layout.cell_of(row, column)["epochs"] for column in layout.columns}:
                assert {**identity(recipe_settings(row.recipe)), "epochs": epochs, "seed": 3} in trained
    outputs = [command.output for command in plan.commands]
    assert len(set(outputs)) == len(outputs)


def test_a_training_is_its_rows_recipe_unless_one_is_given(shards: Path, tmp_path: Path) -> None:
    def recipes(**changes: Any) -> set[str]:
        found = commands_of("6", request_for(shards, tmp_path, seeds=(0,), **changes)).commands
        return {options_of(c)["recipe"] for c in found if c.program == "satmip-train"}

    names = ("simclr", "satmip", "satmip-crop", "satmips", "satmips-decoupled")
    assert recipes() == {f"paper/table6-{name}" for name in names}
    assert recipes(recipe="tiny") == {"tiny"}
    assert recipes(train_options=("--recipe", "tiny")) == {"tiny"}
    tiny = commands_of("6", request_for(shards, tmp_path, seeds=(0,), train_options=("--recipe=tiny",))).commands
    assert {options_of(c).get("coupled") for c in tiny if c.program == "satmip-train"} >= {False}


def test_recipes_whose_runs_have_one_name_differ_in_epochs_alone() -> None:
    """So that a run serves all tables it belongs into, and none is taken for another."""
    used = {row.recipe for target in TARGETS for row in table_layout(target).rows if row.recipe}
    used |= {baseline for target in TARGETS if (baseline := table_layout(target).baseline)}
    assert used <= run_names().keys()
    settings = {name: {**recipe_settings(name), "epochs": None} for name in run_names()}
    for one, name in run_names().items():
        assert {other for other in settings if settings[other] == settings[one]} == {o for o, n in run_names().items() if n == name}


@pytest.mark.parametrize(
    ("table", "seed", "name"),
    [("s4", 0, "satmips-lambda0_25-25ep-seed0"), ("6", 2, "satmips-decoupled-25ep-seed2"), ("s6", 1, "satmip-tabular-25ep-seed1"),
     ("2", 0, "satmips-200ep-seed0"), ("4", 1, "simclr-hpt-200ep-seed1"), ("5", 0, "satmip-tabular-gsd-timestamp-25ep-seed0")],
)  # fmt: skip
def test_runs_of_earlier_versions_lie_where_they_are_looked_for(
    table: str, seed: int, name: str, shards: Path, tmp_path: Path
) -> None:
    commands = commands_of(table, request_for(shards, tmp_path, hpt="slip.pt")).commands
    assert tmp_path / "runs" / name in {command.output for command in commands}
    if table != "6":
        assert name.rsplit("-", 1)[0] in {c.output.parent.parent.name for c in commands if c.program == "satmip-eval"}


def test_evaluations_follow_the_trainings_they_need(shards: Path, tmp_path: Path) -> None:
    for target in TARGETS:
        done: set[Path] = set()
        for command in commands_of(target, request_for(shards, tmp_path, seeds=(0, 1))).commands:
            assert {path.parent for path in command.inputs} <= done
            done.add(command.output)


def test_the_paper_tests_on_fmows_val_and_on_the_others_test(shards: Path, tmp_path: Path) -> None:
    other = write_toy_shards(tmp_path / "euro", {"train": 8, "val": 4, "test": 4})
    plan = commands_of("2", request_for(shards, tmp_path, evaluation={"fmow": str(other), "eurosat": str(other)}))
    splits = {c.output.parent.name: c.arguments[c.arguments.index("--test-split") + 1] for c in plan.commands if c.inputs}
    assert splits == {"fmow": "val", "eurosat": "test"}


def test_evaluation_shards_are_checked_before_anything_is_trained(shards: Path, tmp_path: Path) -> None:
    """Once the first training ended before its evaluation told that the shards would not do."""

    def commands(table: str, edit: Callable[[dict[str, Any]], None], **changes: Any) -> Commands:
        root = edited_copy(shards, tmp_path / str(len(list(tmp_path.iterdir()))), edit)
        return commands_of(table, request_for(shards, tmp_path / "out", evaluation={"eurosat": str(root)}, **changes))

    def without(*names: str) -> Callable[[dict[str, Any]], None]:
        return lambda data: [data["splits"].pop(name) for name in names]  # type: ignore[return-value]

    with pytest.raises(UsageError, match=r"Euro is tested on the split test or val.* has train only"):
        commands("2", without("val"))
    with pytest.raises(UsageError, match="train"):
        commands("2", without("train"))
    with pytest.raises(UsageError, match=r"no classes.*--eval-shards eurosat"):
        commands("2", lambda data: data.update(classes=[]))
    with pytest.raises(UsageError, match=r"no columns of location, which Euro"):
        commands("3", lambda data: data.update(numeric=[c for c in data["numeric"] if c["field"] != "location"]))
    sizes = commands("2", lambda data: data.update(size=None))
    assert any("Euro" in note and "--size" in note for note in sizes.notes)
    resized = commands("2", lambda data: data.update(size=None), eval_options=("--larger-images", "resize"))
    assert not any("--size" in note for note in resized.notes)
    unknown = commands("3", lambda data: [c.update(known=0) for c in data["numeric"] if c["field"] == "location"])
    assert any("knows its location;" in note for note in unknown.notes)


def test_what_is_not_at_hand_is_named(shards: Path, tmp_path: Path) -> None:
    notes = " ".join(commands_of("4", request_for(shards, tmp_path)).notes)
    assert "pass --hpt" in notes
    assert "pass --eval-shards so2sat=DIR" in notes
    assert "pass --external satmae=FILE" in " ".join(commands_of("2", request_for(shards, tmp_path)).notes)


def test_an_external_backbone_is_evaluated_from_its_file(shards: Path, tmp_path: Path) -> None:
    plan = commands_of("2", request_for(shards, tmp_path, external={"satmae++": "satmaepp.pth"}))
    (command,) = [c for c in plan.commands if "--external" in c.arguments]
    assert command.arguments[:5] == ("knn", "--external", "satmae++", "--weights", "satmaepp.pth")
    assert command.output == tmp_path / "eval" / "satmaepp" / "fmow" / "knn.json"


def test_larger_images_keep_their_size_beside_the_papers_views_alone(shards: Path) -> None:
    """Supplement A: images are resized to the views' size, or keep theirs if that is larger."""
    for given, larger in (((), "keep"), (("--budget", "tiny"), "resize"), (("--train", "--view-size 64"), "resize")):
        got = CliRunner().invoke(evaluate.main, ["reproduce", "2", "--shards", str(shards), "--seeds", "0", *given])
        evaluations = [shlex.split(line) for line in got.stdout.splitlines() if line.startswith("satmip-eval")]
        assert len(evaluations) == 7
        assert all(words[words.index("--larger-images") + 1] == larger for words in evaluations)
    got = CliRunner().invoke(evaluate.main, ["reproduce", "2", "--shards", str(shards), "--recipe-base", "none"])
    assert got.exit_code == 1
    assert "--recipe-base or --view-size" in got.output


def test_an_evaluation_of_resized_images_is_made_again(shards: Path, tmp_path: Path) -> None:
    plan = commands_of("2", request_for(shards, tmp_path / "out", seeds=(0,)))
    command = next(c for c in plan.commands if c.arguments[:2] == ("knn", "--backbone"))
    command.output.parent.mkdir(parents=True)
    result = result_of(command, [{"run": None, "seed": 0}])
    for settings, done in (({"larger_images": "keep"}, True), ({"larger_images": "resize"}, False), ({}, False)):
        command.output.write_text(json.dumps({**result, "settings": settings}))
        assert is_done(command) is done


def test_a_budget_shortens_every_run_and_its_warm_up(shards: Path, tmp_path: Path) -> None:
    plan = commands_of("s6", request_for(shards, tmp_path, seeds=(0,), budget=Budget(16)))
    found = {(o["epochs"], o.get("warmup_epochs")) for c in plan.commands if c.program == "satmip-train" for o in [options_of(c)]}
    assert found == {(2.0, 2 / 25), (16.0, 16 / 25)}
    assert plan.epochs == 4 * (2 + 16)


def finish(command: Command, **changes: Any) -> None:
    """Leave what a finished training leaves."""
    settings = {**command.settings, "init": "random", **changes}
    command.output.mkdir(parents=True, exist_ok=True)
    (command.output / "backbone.safetensors").touch()
    exported = {"step": 9, "settings": settings, "dataset": {"fingerprint": command.reads["train"][0]}}
    (command.output / "backbone.json").write_text(json.dumps(exported))
    (command.output / "config.json").write_text(json.dumps({"last_step": 9}))


def test_a_training_is_done_when_its_last_step_is_exported(shards: Path, tmp_path: Path) -> None:
    command = next(c for c in commands_of("2", request_for(shards, tmp_path)).commands if c.program == "satmip-train")
    assert not is_done(command)
    finish(command)
    assert is_done(command)
    (command.output / "config.json").write_text(json.dumps({"last_step": 10}))
    assert not is_done(command)
    finish(command, policy="crop")
    with pytest.raises(UsageError, match=r"another policy\. Use another --out"):
        is_done(command)


def test_a_run_that_started_from_other_weights_is_refused(shards: Path, tmp_path: Path) -> None:
    """Once `--hpt` of another file gave the numbers of the first one."""

    def training(file: str) -> Command:
        commands = commands_of("4", request_for(shards, tmp_path, hpt=file)).commands
        return next(c for c in commands if c.settings.get("hpt"))

    done, other = training("slip_25ep.pt"), training("slip_100ep.pt")
    assert done.output == other.output
    finish(done, init="slip_25ep.pt")
    assert is_done(done)
    with pytest.raises(UsageError, match=r"slip_25ep.pt, and slip_100ep.pt .*--out"):
        is_done(other)


def result_of(command: Command, models: list[dict[str, Any]]) -> dict[str, Any]:
    """What an evaluation writes, as far as it is read."""
    reads = {part: {"fingerprint": fingerprint, "split": split} for part, (fingerprint, split) in command.reads.items()}
    return {"models": models, "settings": {"larger_images": "keep"}, **reads}


def test_what_is_damaged_is_made_again(shards: Path, tmp_path: Path) -> None:
    commands = commands_of("2", request_for(shards, tmp_path, seeds=(0,))).commands
    training = next(c for c in commands if c.program == "satmip-train")
    for name in ("backbone.json", "config.json"):
        finish(training)
        (training.output / name).write_text('{"sett')
        assert not is_done(training)
    evaluation = next(c for c in commands if c.arguments[:2] == ("knn", "--backbone"))
    evaluation.output.parent.mkdir(parents=True)
    evaluation.output.write_text('{"mod')
    assert not is_done(evaluation)


def test_a_run_that_learned_from_other_shards_is_refused(shards: Path, tmp_path: Path) -> None:
    other = write_toy_shards(tmp_path / "other", {"train": 32, "val": 12}, seed=1)
    plans = [commands_of("2", request_for(root, tmp_path / "out")) for root in (shards, other)]
    done, again = (next(c for c in plan.commands if c.program == "satmip-train") for plan in plans)
    finish(done)
    assert is_done(done)
    assert again.output == done.output
    with pytest.raises(UsageError, match=r"learned from other shards.*--out"):
        is_done(again)


def test_an_evaluation_of_other_shards_or_of_another_split_is_made_again(shards: Path, tmp_path: Path) -> None:
    def evaluation(**changes: Any) -> Command:
        plan = commands_of("2", request_for(shards, tmp_path / "out", seeds=(0,), **changes))
        return next(c for c in plan.commands if c.arguments[:2] == ("knn", "--backbone"))

    done = evaluation()
    done.output.parent.mkdir(parents=True)
    done.output.write_text(json.dumps(result_of(done, [{"run": None, "seed": 0}])))
    assert is_done(done)
    other = str(write_toy_shards(tmp_path / "other", {"train": 32, "val": 12}, seed=1))
    for changed in (
        evaluation(evaluation={"fmow": other}),
        evaluation(eval_options=("--test-split", "train")),
        evaluation(eval_options=("--test-split=train",)),
        evaluation(eval_options=("--train-split", "val")),
        evaluation(eval_options=("--test-shards", other)),
    ):
        assert changed.output == done.output
        assert not is_done(changed)


def test_an_evaluation_is_done_when_it_is_newer_and_of_all_its_runs(shards: Path, tmp_path: Path) -> None:
    command = next(c for c in commands_of("2", request_for(shards, tmp_path, seeds=(0, 1))).commands if len(c.inputs) == 2)
    for path in command.inputs:
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (100, 100))
    command.output.parent.mkdir(parents=True)

    def write(runs: list[Path]) -> None:
        command.output.write_text(json.dumps(result_of(command, [{"run": str(run), "seed": 0} for run in runs])))

    write([command.inputs[0].parent])
    assert not is_done(command)
    write([path.parent for path in command.inputs])
    assert is_done(command)
    os.utime(command.output, (50, 50))
    assert not is_done(command)


def test_a_folder_belongs_to_one_reproduction(shards: Path, tmp_path: Path) -> None:
    keep_request(request_for(shards, tmp_path))
    keep_request(request_for(shards, tmp_path, seeds=(7,)))
    with pytest.raises(UsageError, match=r'full_epochs was "200" and is now "8".*--out'):
        keep_request(request_for(shards, tmp_path, budget=Budget(8)))


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [("train_options", ("--batch-size", "64"), 'train was "" and is now "--batch-size 64"'),
     ("eval_options", ("--precision=bf16",), 'eval was "" and is now "--precision=bf16"')],
)  # fmt: skip
def test_other_options_are_another_reproduction(
    shards: Path, tmp_path: Path, name: str, options: tuple[str, ...], shown: str
) -> None:
    keep_request(request_for(shards, tmp_path))
    with pytest.raises(UsageError, match=rf"{shown}.*--out"):
        check_request(request_for(shards, tmp_path, **{name: options}))


@pytest.mark.parametrize("option", ["--init", "--policy=crop", "--no-coupled", "--epochs", "--seed", "--out"])
def test_what_rows_decide_is_refused_before_anything_is_trained(shards: Path, tmp_path: Path, option: str) -> None:
    """Once the first training was done, and then refused as another run than its name says."""
    with pytest.raises(UsageError, match=rf"--train has {option}, .*Leave it out"):
        check_request(request_for(shards, tmp_path, train_options=("--batch-size", "64", option, "timm")))


def test_options_that_change_no_result_may_change(shards: Path, tmp_path: Path) -> None:
    keep_request(request_for(shards, tmp_path, train_options=("--batch-size", "64", "--workers", "0"), eval_options=("--k", "5")))
    train = ("--no-compile", "--device", "cpu", "--batch-size", "64")
    check_request(request_for(shards, tmp_path, train_options=train, eval_options=("--k", "5", "--batch-size=8")))


def test_a_folder_of_an_older_version_goes_on(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "reproduce.json").write_text(json.dumps({"full_epochs": 200, "shards": str(shards), "recipe": None}))
    check_request(request_for(shards, tmp_path, train_options=("--batch-size", "64")))


def in_process(words: list[str]) -> int:
    """Run a command without a new process."""
    program = {"satmip_train": train_module.main, "satmip_train.cli.evaluate": evaluate.main}[words[2]]
    return CliRunner().invoke(program, words[3:]).exit_code


def reproduce(shards: Path, out: Path, *more: str) -> Result:
    common = ["--shards", str(shards), "--budget", "8", "--seeds", "0", "--train", TRAIN, "--eval", EVAL, "--out", str(out)]
    return CliRunner().invoke(evaluate.main, ["reproduce", "3", *common, *more], catch_exceptions=False)


def test_a_table_is_filled_and_a_second_run_has_nothing_to_do(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(words: list[str]) -> int:
        assert words[:2] == [sys.executable, "-m"]
        ran.append(words)
        return in_process(words)

    monkeypatch.setattr(paper, "_wait", run)
    got = reproduce(shards, tmp_path, "--run")
    assert got.exit_code == 0, got.output
    assert [words[2] for words in ran] == ["satmip_train", "satmip_train.cli.evaluate", "satmip_train.cli.evaluate"] * 2
    last = got.output[got.output.index("Table 3.") :]
    ours = [line.split() for line in last.splitlines() if " ours " in line]
    assert [words[0] for words in ours] == ["SatMIP", "SatMIPS"]
    assert all("–" not in words[2:5] for words in ours)  # noqa: RUF001
    assert "8 epochs stand for the paper's 200" in last
    again = reproduce(shards, tmp_path, "--run")
    assert len(ran) == 6
    assert again.output.count("] done: ") == 6
    assert again.output[again.output.index("Table 3.") :] == last
    printed = reproduce(shards, tmp_path)
    assert printed.output.count("# done: satmip-") == 6


def test_evaluations_of_other_shards_take_the_place_of_the_old_ones(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "_wait", in_process)
    assert reproduce(shards, tmp_path / "out", "--run").exit_code == 0
    other = write_toy_shards(tmp_path / "other", {"train": 32, "val": 12}, seed=1)
    got = reproduce(shards, tmp_path / "out", "--run", "--eval-shards", f"fmow={other}")
    assert got.exit_code == 0, got.output
    assert got.output.count("] done: ") == 2
    found = [json.loads(path.read_text())["test"]["shards"] for path in (tmp_path / "out").rglob("linear*.json")]
    assert found == [str(other)] * 4


@pytest.mark.parametrize(
    ("status", "ended"), [(3, "it ended with status 3"), (-9, "it was ended by signal 9 (Killed)")], ids=["failed", "killed"]
)
def test_it_stops_at_the_first_failure_and_shows_the_command(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, ended: str
) -> None:
    ran: list[list[str]] = []

    def fail(words: list[str]) -> int:
        ran.append(words)
        return status

    monkeypatch.setattr(paper, "_wait", fail)
    got = reproduce(shards, tmp_path, "--run")
    assert (got.exit_code, len(ran)) == (1, 1)
    assert f"{ended}. It was:\n  satmip-train --shards" in got.output
    assert "goes on from here" in got.output


def test_printed_commands_are_a_shell_script(shards: Path, tmp_path: Path) -> None:
    got = reproduce(shards, tmp_path / "with space", "--launcher", "torchrun --nproc-per-node 2 -m satmip_train", "--rate", "100")
    commands = [shlex.split(line) for line in got.output.splitlines() if not line.startswith("#")]
    assert {tuple(words[:2]) for words in commands} == {("torchrun", "--nproc-per-node"), ("satmip-eval", "linear")}
    assert commands[0][commands[0].index("--out") + 1].startswith(str(tmp_path / "with space"))
    assert got.output.startswith("# 2 trainings, 16 epochs of 32 samples: 0.000512 million samples, 0.00142 h at 100 samples/s; 4 ")
    assert not (tmp_path / "with space").exists()


def test_a_program_is_waited_for_and_its_status_told() -> None:
    assert paper._wait([sys.executable, "-c", "raise SystemExit(7)"]) == 7


@pytest.mark.parametrize("option", ["--train", "--eval", "--launcher"])
def test_words_with_an_open_quote_are_refused(shards: Path, option: str) -> None:
    got = CliRunner().invoke(evaluate.main, ["reproduce", "3", "--shards", str(shards), option, "--batch-size '8"])
    assert got.exit_code == 2
    assert "--batch-size '8" in " ".join(got.output.split())


@pytest.mark.parametrize("value", ["0", "-1", "many", "nan", "inf"])
def test_a_budget_that_is_none_is_refused(shards: Path, value: str) -> None:
    got = CliRunner().invoke(evaluate.main, ["reproduce", "3", "--shards", str(shards), "--budget", value])
    assert got.exit_code == 2
    assert "epochs above 0" in got.output
