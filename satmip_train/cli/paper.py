"""Commands of `satmip-eval` that fill the paper's tables, draw its figures and run the trainings they need."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import click
from click.core import ParameterSource

from satmip_data.execution.choices import split_option
from satmip_data.execution.output import Output, output_options
from satmip_data.names import counted, without_secrets
from satmip_train.cli import options as common
from satmip_train.cli.options import options
from satmip_train.cli.real import reproduce_real
from satmip_train.config import resolve
from satmip_train.data.dataset import open_dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation_sets import evaluation_sets, set_named
from satmip_train.files import write_atomically
from satmip_train.paper import figures, real
from satmip_train.paper.fill import Budget, Filled, fill
from satmip_train.paper.formats import FORMATS, as_text, trace
from satmip_train.paper.layout import FIGURE_3, FULL_EPOCHS, SHARED, TABLES, recipe_settings, table_layout
from satmip_train.paper.reproduce import (
    TARGETS,
    TINY_EPOCHS,
    Command,
    Commands,
    Request,
    check_request,
    commands_of,
    is_done,
    keep_request,
    option_of,
)
from satmip_train.paper.scores import read_budget, read_scores, read_trainings

_TARGETS = (*TARGETS, real.TARGET)
_OF_REAL = {"target", "execute", "launcher", "data", "seeds", "train_options", "eval_options", "recipe_base", "out"}
_MODULES = {"satmip-data": "satmip_data", "satmip-train": "satmip_train", "satmip-eval": "satmip_train.cli.evaluate"}
_RUNS = click.option(
    "--runs",
    "folders",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of runs and results, with its subfolders. Repeatable.  [default: out]",
)
_DATASETS = click.option(
    "--dataset",
    "named",
    multiple=True,
    metavar="SET=SHARDS",
    help=f"Evaluation set that these shards stand for: {', '.join(evaluation_sets())}.",
)
_FULL = click.option(
    "--full-epochs",
    type=common.Positive(),
    help=f"Epochs that stand for the paper's {FULL_EPOCHS}.  [default: as reproduce.json says, else {FULL_EPOCHS}]",
)
_K = click.option(
    "--k",
    "neighbours",
    type=click.Choice(["paper", "best"]),
    default="paper",
    show_default=True,
    help="Number of neighbours: the paper's (100 on fMoW, else 5), or the best on the test split.",
)


class Budgeted(click.ParamType[float | None]):
    """A number of epochs, or "tiny" (None)."""

    name = "EPOCHS|tiny"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Return the epochs."""
        if value == "tiny":
            return None
        try:
            epochs = float(str(value).removesuffix("-epochs"))
        except ValueError:
            epochs = 0.0
        if not 0 < epochs < float("inf"):
            self.fail(f'"{value}" is neither a number of epochs above 0 nor tiny', param, ctx)
        return epochs


class Words(click.ParamType[tuple[str, ...]]):
    """A part of a command line, as a shell would split it."""

    name = "OPTIONS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the words."""
        try:
            return value if isinstance(value, tuple) else tuple(shlex.split(value))
        except ValueError as error:
            self.fail(f"a shell could not split {value} into words: {error}", param, ctx)


def _pairs(values: Iterable[str], option: str) -> dict[str, str]:
    """Return what NAME=VALUE words say."""
    pairs = {}
    for word in values:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise click.UsageError(f'{option} has "{word}", which is not of the form NAME=VALUE')
        pairs[name] = value
    return pairs


def _sets(values: Iterable[str], option: str) -> dict[str, str]:
    """Return the value for each evaluation set that SET=VALUE words name."""
    found = {}
    for name, value in _pairs(values, option).items():
        evaluation = set_named(name)
        if evaluation is None:
            raise click.UsageError(f'{option} names the unknown set "{name}". Sets: {", ".join(evaluation_sets())}')
        found[evaluation.id] = value
    return found


def _filled(target: str, folders: tuple[Path, ...], named: tuple[str, ...], full_epochs: float | None, neighbours: Any) -> Filled:
    roots = folders or tuple(path for path in (Path("out"),) if path.is_dir())
    if not roots:
        raise click.UsageError("Missing option --runs: a folder of runs and results; the default, out, is not here.")
    by_root = {root: name for name, root in _sets(named, "--dataset").items()}
    budget = Budget(full_epochs or read_budget(roots) or FULL_EPOCHS, neighbours)
    scores = [score for root in roots for score in read_scores(root, by_root)]
    trainings = [training for root in roots for training in read_trainings(root)]
    return fill(table_layout(target), scores, trainings, budget)


@click.command()
@click.argument("number", type=click.Choice(TABLES, case_sensitive=False))
@options(_RUNS, _DATASETS, _FULL, _K)
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="text", show_default=True, help="Format of the table.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write to.  [default: the terminal]")
@click.option("--trace", "traced", is_flag=True, help="List the runs and results behind every cell instead.")
@output_options
def table(
    number: str, folders: tuple[Path, ...], named: tuple[str, ...], form: str, out: Path | None, output: Output, **others: Any
) -> None:
    """Fill a table of the paper from runs and results: mean and deviation over seeds, beside the published numbers.

    A run belongs to a row by its settings, not by its name. Missing cells are shown as missing.

    \b
    Example:
      satmip-eval table 2 --runs out/reproduce
      satmip-eval table s5 --runs out/reproduce --format latex --out table-s5.tex
      satmip-eval table 5 --runs out/reproduce --trace
    """
    traced, full_epochs, neighbours = others["traced"], others["full_epochs"], others["neighbours"]
    with common.errors():
        filled = _filled(number.lower(), folders, named, full_epochs, neighbours)
    text = "".join(f"{line}\n" for line in trace(filled)) if traced else FORMATS[form](filled)
    output.document(_cells(number.lower(), filled))
    if out is None:
        output.result(text.removesuffix("\n"))
        return
    with common.errors():
        write_atomically(out, lambda file: file.write(text.encode()))
    output.result(out)


def _cells(number: str, filled: Filled) -> dict[str, Any]:
    """Return the filled cells of a table, for `--json`."""
    rows = [
        {
            "row": " / ".join(row.labels),
            "column": column.id,
            "mean": None if cell is None else cell.mean,
            "std": None if cell is None else cell.std,
            "files": [] if cell is None else list(cell.files),
            "published": None if printed is None else printed.mean,
        }
        for index, row in enumerate(filled.layout.rows)
        for column in filled.layout.columns
        for cell, printed in [(filled.cells.get((index, column.id)), row.published.get(column.id))]
    ]
    return {"table": number, "cells": rows, "notes": list(filled.notes)}


@click.command()
@click.argument("number", type=click.Choice(["3", "s1", "s2", "s3"], case_sensitive=False))
@options(_RUNS, _DATASETS, _FULL, _K)
@click.option("--shards", help="For s1, s2 and s3: shard directory whose index.parquet is drawn.")
@split_option("--split", default="train", show_default=True, help="For s1, s2 and s3: split that is drawn.")
@options(common.one_folder("out/figures"))
@output_options
def figure(number: str, shards: str | None, split: str, out: Path, output: Output, **others: Any) -> None:
    """Draw a figure of the paper as PNG and SVG: 3 from runs and results, s1 (GSD), s2 (places), s3 (times) from shards.

    \b
    Example:
      satmip-eval figure 3 --runs out/reproduce
      satmip-eval figure s2 --shards out/shards
    """
    with common.errors():
        if number == "3":
            paths = figures.draw_convergence(_filled(FIGURE_3, **others), out)
        elif shards is None:
            raise click.UsageError(f"Missing option --shards: figure {number} is drawn from the index of a shard directory.")
        else:
            paths = figures.draw_metadata(number.lower(), shards, split, out)
    output.result(*paths)
    output.document({"files": paths})
    output.next(common.opening(paths[0]))


@click.command()
@click.argument("target", metavar=f"[{'|'.join(_TARGETS)}]", type=click.Choice(_TARGETS, case_sensitive=False))
@click.option("--shards", help="Shard directory to train on; with classes, it is evaluated as fmow too.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="real: folder of EuroSAT_RGB.zip, eurosat/ and planesnet/ (docs/reproduce.md), instead of --shards.",
)
@click.option("--eval-shards", multiple=True, metavar="SET=SHARDS", help=f"Shards to evaluate on: {', '.join(evaluation_sets())}.")
@click.option(
    "--budget",
    type=Budgeted(),
    default="200",
    show_default=True,
    help=f"Epochs that stand for the paper's 200 (its 25 are shortened alike); tiny: {TINY_EPOCHS}, of the recipe tiny.",
)
@click.option("--seeds", type=common.SEEDS, default="0,1,2", show_default=True, help="Seeds of every row.")
@click.option("--recipe-base", help="Recipe of every run.  [default: that of its row; tiny with --budget tiny]")
@click.option("--external", multiple=True, metavar="NAME=FILE", help="Weight file of another project's backbone, such as satmae.")
@click.option("--hpt", type=click.Path(exists=True, dir_okay=False), help="Table 4: SLIP's weight file to start from.")
@click.option("--train", "train_options", type=Words(), default="", help='Options for satmip-train, such as "--batch-size 64".')
@click.option("--eval", "eval_options", type=Words(), default="", help='Options for satmip-eval, such as "--precision bf16".')
@click.option(
    "--launcher",
    type=Words(),
    default="",
    metavar="COMMAND",
    help='Command instead of satmip-train, such as "torchrun --nproc-per-node 8 -m satmip_train".',
)
@click.option("--rate", type=common.Positive(), help="Samples per second of training, to estimate the time.")
@click.option("--run", "execute", is_flag=True, help="Run the commands instead of printing them, and fill the table at the end.")
@options(common.one_folder("out/reproduce"))
@click.pass_context
def reproduce(
    context: click.Context,
    /,
    target: str,
    execute: bool,
    launcher: tuple[str, ...],
    rate: float | None,
    data: Path | None,
    **others: Any,
) -> None:
    """Print the commands that fill a table of the paper, or run them one after the other.

    Finished commands are skipped, so the same command goes on where it stopped. It ends at the first command that fails.
    "real" is no table of the paper: SimCLR, SatMIP and SatMIPS on EuroSAT and PlanesNet with real metadata (docs/results.md).

    \b
    Example:
      satmip-eval reproduce 2 --shards out/fmow --eval-shards eurosat=out/eurosat --run
      satmip-eval reproduce 5 --shards out/shards --budget tiny --seeds 0 --run
      satmip-eval reproduce real --data data --out out/real --run
    """
    target = target.lower()
    if target == real.TARGET:
        _reproduce_real(context, execute, launcher, data, others)
        return
    if others["shards"] is None or data is not None:
        raise click.UsageError('Missing option --shards; --data is for the target "real".')
    with common.errors():
        request = _request(**others)
        listed = commands_of(target, request)
        _announce(listed, request, rate)
        if not execute:
            check_request(request)
            for command in listed.commands:
                click.echo(f"{'# done: ' if is_done(command) else ''}{without_secrets(shlex.join(_words(command, launcher)))}")
            return
        keep_request(request)
        for number, command in enumerate(listed.commands, 1):
            _execute(command, launcher, f"[{number}/{len(listed.commands)}]")
        filled = _filled(target, (request.out,), (), request.budget.full_epochs, request.budget.neighbours)
        click.echo(f"\n{as_text(filled)}")
        if target == FIGURE_3:
            for path in figures.draw_convergence(filled, request.out / "figures"):
                click.echo(path)


def _reproduce_real(
    context: click.Context, execute: bool, launcher: tuple[str, ...], data: Path | None, others: Mapping[str, Any]
) -> None:
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if foreign := sorted(given - _OF_REAL):
        option = f"--{foreign[0].replace('_', '-')}"
        raise click.UsageError(f'{option} is for the tables of the paper. Leave it out for the target "real".')
    if data is None:
        raise click.UsageError("Missing option --data: a folder with EuroSAT_RGB.zip, eurosat/ and planesnet/ (docs/reproduce.md).")
    names = ("out", "seeds", "train_options", "eval_options")
    request = real.Request(data, recipe=others["recipe_base"] or real.RECIPE, **{name: others[name] for name in names})
    with common.errors():
        reproduce_real(request, execute, lambda command, place: _execute(command, launcher, place), context.find_root().command)


def _request(
    shards: str,
    eval_shards: tuple[str, ...],
    budget: float | None,
    recipe_base: str | None,
    external: tuple[str, ...],
    **others: Any,
) -> Request:
    evaluation = _sets(eval_shards, "--eval-shards")
    if "fmow" not in evaluation and open_dataset(shards).classes:
        evaluation = {"fmow": shards, **evaluation}
    tiny = budget is None
    recipe = recipe_base or ("tiny" if tiny else None)
    return Request(
        shards=shards,
        evaluation=evaluation,
        budget=Budget(TINY_EPOCHS if budget is None else budget),
        recipe=recipe,
        external=_pairs(external, "--external"),
        # Beside views smaller than the paper's nearly all images are larger, and would show objects at another scale.
        larger_images="keep" if _view_size(recipe, others["train_options"]) == recipe_settings(SHARED)["view_size"] else "resize",
        **others,
    )


def _view_size(recipe: str | None, train_options: tuple[str, ...]) -> int:
    """Return the side of the views of every training; UsageError where there is no such recipe."""
    try:
        return int(option_of(train_options, "--view-size") or resolve(recipe or SHARED, {}).view_size)
    except ValueError as error:
        raise UsageError(f"--recipe-base or --view-size does not say how trainings are made: {error}") from error


def _announce(listed: Commands, request: Request, rate: float | None) -> None:
    """Say what the commands cost and what is left out, as comments of a shell script."""
    dataset = open_dataset(request.shards)
    samples = dataset.splits.get("train", 0)
    trainings = sum(command.program == "satmip-train" for command in listed.commands)
    shown = f"{counted(listed.epochs, 'epoch')} of {counted(samples, 'sample')}"
    cost = f"{counted(trainings, 'training')}, {shown}: {listed.epochs * samples / 1e6:,.3g} million samples"
    if rate is not None:
        cost += f", {listed.epochs * samples / rate / 3600:,.3g} h at {rate:g} samples/s"
    click.echo(f"# {cost}; {counted(len(listed.commands) - trainings, 'evaluation')}.")
    for note in listed.notes:
        click.echo(f"# {without_secrets(note)}")


def _words(command: Command, launcher: tuple[str, ...]) -> list[str]:
    own = launcher if launcher and command.program == "satmip-train" else (command.program,)
    return [*own, *command.arguments]


def _execute(command: Command, launcher: tuple[str, ...], place: str) -> None:
    """Run a command that is not done.

    Raises:
        UsageError: it failed.
    """
    words = _words(command, launcher)
    shown = without_secrets(shlex.join(words))
    if is_done(command):
        click.echo(f"{place} done: {shown}")
        return
    click.echo(f"{place} {shown}")
    if command.program == "satmip-eval":
        command.output.unlink(missing_ok=True)  # of other shards or networks, which an evaluation would not write over
    status = _wait([sys.executable, "-m", _MODULES[words[0]], *words[1:]] if words[0] in _MODULES else words)
    if status or not is_done(command):
        by_signal = f"it was ended by signal {-status} ({signal.strsignal(-status)})" if status < 0 else ""
        ended = by_signal or (f"it ended with status {status}" if status else f"{command.output} is not there or not whole")
        raise UsageError(f"A command failed: {ended}. It was:\n  {shown}\nThe same reproduce command goes on from here")


def _wait(words: list[str]) -> int:
    """Run a program to its end; Ctrl-C and SIGTERM reach it, so that a training saves what it has."""
    with subprocess.Popen(words) as process:

        def pass_on(number: int, _: FrameType | None) -> None:
            process.send_signal(number)

        before = signal.signal(signal.SIGTERM, pass_on)
        # The terminal sends Ctrl-C to the program as well.
        ignored = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            return process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
            signal.signal(signal.SIGINT, ignored)


COMMANDS = [table, figure, reproduce]
