"""`satmip-eval reproduce real`: prints the commands of the study on real pictures, or runs them and writes its tables."""

import shlex
from collections.abc import Callable

import click

from satmip_data.names import without_secrets
from satmip_train.errors import UsageError
from satmip_train.paper import real
from satmip_train.paper.real import Request
from satmip_train.paper.real_report import write_report
from satmip_train.paper.reproduce import Command, is_done


def reproduce_real(request: Request, execute: bool, start: Callable[[Command, str], None], evaluate: click.Command) -> None:
    """Print the commands, or run those that are not done and write `real.md` and `real.json`.

    Args:
        request: what from and where to
        execute: run them
        start: runs a command that is not an evaluation, told its place among all
        evaluate: satmip-eval itself

    Raises:
        UsageError: data are missing, or a command failed.
    """
    real.check_data(request)
    for number, command in enumerate(real.commands(request), 1):
        if not execute:
            click.echo(f"{'# done: ' if _known(command) and is_done(command) else ''}{_shown(command)}")
        elif command.program == "satmip-eval":
            _evaluate(evaluate, command, f"[{number}]")
        else:
            start(command, f"[{number}]")
    if not execute:
        click.echo(f"# {real.RATE}: the value of {', '.join(f'{rate:g}' for rate in real.RATES)} that is best on val, by method.")
        return
    for path in write_report(request):
        click.echo(path)


def _known(command: Command) -> bool:
    """Whether what a command depends on is there: its shards, and its rate where it has one."""
    return all(fingerprint for fingerprint, _ in command.reads.values()) and real.RATE not in str(command.output)


def _shown(command: Command) -> str:
    return without_secrets(shlex.join([command.program, *command.arguments]))


def _evaluate(evaluate: click.Command, command: Command, place: str) -> None:
    """Run an evaluation that is not done, in this process: there are some sixty, and each would import torch anew."""
    if is_done(command):
        click.echo(f"{place} done: {_shown(command)}")
        return
    click.echo(f"{place} {_shown(command)}")
    command.output.unlink(missing_ok=True)  # of other shards or networks, which an evaluation would not write over
    try:
        evaluate.main(list(command.arguments), prog_name="satmip-eval", standalone_mode=False)
    except click.ClickException as error:
        raise UsageError(f"A command failed: {error.format_message()} It was:\n  {_shown(command)}") from error
    if not is_done(command):
        raise UsageError(f"A command failed: {command.output} is not there or not whole. It was:\n  {_shown(command)}")
