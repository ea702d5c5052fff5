"""satmip-eval: probes of frozen features, and a report."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from satmip_train import report, tables
from satmip_train.errors import UsageError
from satmip_train.evaluate import Knn, Linear, Protocol, evaluate, write_result
from satmip_train.features import Precision
from satmip_train.job import join_job
from satmip_train.shards import open_dataset

Command = TypeVar("Command", bound=Callable[..., Any])


class Integers(click.ParamType[tuple[int, ...]]):
    """A comma-separated list of integers, as "1,5,20"."""

    name = "N,N,..."

    def __init__(self, smallest: int, empty: bool = False) -> None:
        self._smallest, self._empty = smallest, empty

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers the list stands for."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in value.split(",") if word.strip()]
        if not all(word.isdigit() and int(word) >= self._smallest for word in words) or not (words or self._empty):
            self.fail(f"must be integers from {self._smallest} up, with commas between them, however: {value!r}", param, ctx)
        return tuple(int(word) for word in words)


_RUNS = click.Path(exists=True, path_type=Path)
_PROTOCOL_OPTIONS = [
    click.option("--shards", required=True, help="Shard directory to learn from: a local path or an fsspec URL."),
    click.option("--test-shards", help="Shard directory to test on.  [default: that of --shards]"),
    click.option("--train-split", default="train", show_default=True, help="Split to learn from."),
    click.option("--test-split", default="val", show_default=True, help="Split to test on."),
    click.option(
        "--random-seeds",
        type=Integers(0, empty=True),
        default="0,1,2",
        show_default=True,
        help='Seeds of the random weights shown beside the runs; "" for none.',
    ),
    click.option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        default="fp32",
        show_default=True,
        help="Of the backbone's arithmetic.",
    ),
    click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Chips a batch."),
    click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Processes that decode chips."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ..."),
]
_KNN_OPTIONS = [
    click.option("--k", "ks", type=Integers(1), default="1,5,20,100", show_default=True, help="Numbers of neighbours to try."),
    click.option("--fixed-k", type=click.IntRange(1), default=5, show_default=True, help="Neighbours of the main columns."),
    click.option(
        "--temperature", type=click.FloatRange(0, min_open=True), default=0.07, show_default=True, help="Of a neighbour's weight."
    ),
]


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Give a command several options, in the order in which its help lists them."""

    def give(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return give


def _out_option(default: str) -> Callable[[Command], Command]:
    return click.option(
        "--out", type=click.Path(file_okay=False, path_type=Path), default=default, show_default=True, help="Folder to write to."
    )


@contextmanager
def _errors() -> Iterator[None]:
    """Let what the user can put right become the command's error."""
    try:
        yield
    except UsageError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _protocol(shards: str, test_shards: str | None, device: str, **options: Any) -> Iterator[Protocol]:
    """Give the protocol that the options describe, on the device they name."""
    with join_job(device) as job:
        dataset = open_dataset(shards)
        test = dataset if test_shards is None else open_dataset(test_shards)
        yield Protocol(dataset, test, device=str(job.device), **options)


@contextmanager
def _progress(protocol: Protocol) -> Iterator[Callable[[str, int], None]]:
    """Give a function that shows how many samples a model's features are computed of, on standard error."""
    total = protocol.train.splits[protocol.train_split] + protocol.test.splits[protocol.test_split]
    columns = (TextColumn("features of {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task: TaskID | None = None

        def show(name: str, samples: int) -> None:
            nonlocal task
            if task is None or not samples:
                if task is not None:
                    bar.remove_task(task)
                task = bar.add_task(name, total=total)
            bar.update(task, advance=samples)

        yield show


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="satmip")
def main() -> None:
    """Measure trained backbones by probes of their frozen features, beside the same backbones with random weights.

    \b
    Example:
      satmip-eval knn out/runs/* --shards out/shards
      satmip-eval report --shards out/shards --runs out/runs/*
    """


@main.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=_RUNS)
@_options(*_PROTOCOL_OPTIONS, *_KNN_OPTIONS, _out_option("out/eval"))
def knn(runs: tuple[Path, ...], out: Path, ks: tuple[int, ...], fixed_k: int, temperature: float, **options: Any) -> None:
    """Classify by the nearest neighbours: macro-F1 and top-1 of each RUN, a folder of satmip-train.

    Prints a table and writes knn.json. Runs that differ only in seed are summarised too. Features are kept in RUN/features.

    \b
    Example:
      satmip-eval knn out/runs/satmips-seed* --shards out/shards --k 1,5,20,100
    """
    _evaluate(runs, out, Knn(ks, fixed_k, temperature), options)


@main.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=_RUNS)
@_options(*_PROTOCOL_OPTIONS, _out_option("out/eval"))
@click.option("--max-iterations", type=click.IntRange(1), default=200, show_default=True, help="Iterations of L-BFGS, at most.")
def linear(runs: tuple[Path, ...], out: Path, max_iterations: int, **options: Any) -> None:
    """Classify by logistic regression without regularisation: macro-F1 and top-1 of each RUN, a folder of satmip-train.

    Prints a table and writes linear.json, with iterations and gradient of each fit.

    \b
    Example:
      satmip-eval linear out/runs/satmips-seed0 --shards out/shards
    """
    _evaluate(runs, out, Linear(max_iterations), options)


def _evaluate(runs: tuple[Path, ...], out: Path, probe: Knn | Linear, options: dict[str, Any]) -> None:
    with _errors(), _protocol(**options) as protocol:
        with _progress(protocol) as progress:
            result = evaluate(runs, protocol, probe, progress)
        path = write_result(result, out)
    Console().print(tables.rich_table(tables.table(result)))
    click.echo(path)


@main.command("report")
@click.argument("more_runs", metavar="[RUN]...", nargs=-1, type=_RUNS)
@click.option("--runs", metavar="RUN...", multiple=True, type=_RUNS, help="Folders of satmip-train; none: the data only.")
@_options(*_PROTOCOL_OPTIONS, *_KNN_OPTIONS, _out_option("out/report"))
def report_command(
    runs: tuple[Path, ...],
    more_runs: tuple[Path, ...],
    out: Path,
    ks: tuple[int, ...],
    fixed_k: int,
    temperature: float,
    **options: Any,
) -> None:
    """Write one HTML page that needs no network: data, chips with captions, curves, kNN table, nearest neighbours, settings.

    \b
    Example:
      satmip-eval report --shards out/shards --runs out/runs/satmips-seed0 out/runs/simclr-seed0 --out out/report
    """
    # "--runs A B" gives A to the option and leaves B an argument.
    chosen = (*runs, *more_runs)
    with _errors():
        dataset = open_dataset(options["shards"])
        if chosen and dataset.classes:
            with _protocol(**options) as protocol:
                with _progress(protocol) as progress:
                    result = evaluate(chosen, protocol, Knn(ks, fixed_k, temperature), progress)
                write_result(result, out)
                path = report.write_report(dataset, report.Evaluated(protocol, result), chosen, out)
        else:
            path = report.write_report(dataset, None, chosen, out)
    click.echo(path)


if __name__ == "__main__":
    main()
