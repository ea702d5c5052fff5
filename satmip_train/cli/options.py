"""What the commands of satmip-eval share: options, errors, the protocol, the bar of progress, the table at the end.

What needs torch is imported where it is used, see `eval_cli`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from satmip_train.choices import Larger, Precision
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation import tables
from satmip_train.runs.external_forms import EXTERNALS

if TYPE_CHECKING:
    from satmip_train.evaluation.evaluate import Protocol
    from satmip_train.evaluation.metadata_features import Running
    from satmip_train.evaluation.tables import Result

Command = TypeVar("Command", bound=Callable[..., Any])
RUN = click.Path(exists=True, path_type=Path)
RESULTS, REPORTS = "out/eval", "out/report"
"""Folders in which each set has one of its own, where --out is left out."""


class Integers(click.ParamType[tuple[int, ...]]):
    """A comma-separated list of integers, as "1,5,20"."""

    name = "N,N,..."

    def __init__(self, smallest: int, empty: bool = False, largest: float = math.inf) -> None:
        self._smallest, self._empty, self._largest = smallest, empty, largest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers the list stands for."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in value.split(",") if word.strip()]
        if not all(word.isdecimal() and int(word) >= self._smallest for word in words) or not (words or self._empty):
            self.fail(f'"{value}" is no list of integers from {self._smallest} up, as 1,5,20', param, ctx)
        if (most := max(map(int, words), default=0)) > self._largest:
            self.fail(f"{most} is above the largest, {self._largest}", param, ctx)
        return tuple(int(word) for word in words)


class Positive(click.FloatRange):
    """A finite number above 0, or from 0 on."""

    def __init__(self, *, or_zero: bool = False) -> None:
        super().__init__(0, min_open=not or_zero)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


LARGEST_SEED = 2**32 - 1
SEEDS = Integers(0, largest=LARGEST_SEED)

PRECISION = click.option(
    "--precision", type=click.Choice(get_args(Precision)), default="fp32", show_default=True, help="Of the networks' arithmetic."
)
BATCH_SIZE = click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Chips a batch.")
WORKERS = click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Processes that decode chips.")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
RUNNING = [PRECISION, BATCH_SIZE, WORKERS, DEVICE]
SPLITS = [
    click.option("--shards", required=True, help="Shard directory to learn from: a local path or an fsspec URL."),
    click.option("--test-shards", help="Shard directory to test on.  [default: that of --shards]"),
    click.option("--train-split", default="train", show_default=True, help="Split to learn from."),
    click.option("--test-split", help="Split to test on.  [default: val, or test where there is no val]"),
]


def random_seeds(default: str) -> Callable[[Command], Command]:
    """Return the option that says with how many draws of random weights an architecture is compared."""
    return click.option(
        "--random-seeds",
        type=Integers(0, empty=True, largest=LARGEST_SEED),
        default=default,
        show_default=True,
        help='Seeds of the random weights shown beside the runs; "" for none.',
    )


PROTOCOL = [*SPLITS, random_seeds("0,1,2"), *RUNNING]
BACKBONES = click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="pixels|RECIPE",
    help='Measure this too, without a run: "pixels" (the chip, resized to 32 pixels) or the untrained network of a recipe.',
)
EXTERNAL = [
    click.option(
        "--external",
        "externals",
        multiple=True,
        metavar="NAME",
        help=f"Measure somebody else's backbone too: {', '.join(EXTERNALS)}, timm:MODEL or open_clip:MODEL; with --weights.",
    ),
    click.option(
        "--weights",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Its weight file; one for each --external, in their order.",
    ),
    click.option("--external-size", type=click.IntRange(16), help="Side of its images in pixels.  [default: its own]"),
]
KNN = [
    click.option("--k", "ks", type=Integers(1), default="1,5,20,100", show_default=True, help="Numbers of neighbours to try."),
    click.option("--fixed-k", type=click.IntRange(1), default=5, show_default=True, help="Neighbours of the main columns."),
    click.option("--temperature", type=Positive(), default=0.07, show_default=True, help="Of a neighbour's weight."),
]
LARGER_IMAGES = click.option(
    "--larger-images",
    type=click.Choice(get_args(Larger)),
    default="resize",
    show_default=True,
    help="Resize images larger than a view to one, or keep their size, as the paper; a ViT's positions are resampled.",
)
LABEL_SHARE = click.option(
    "--label-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Learn from this share of the train labels: of each class, at least one, drawn by the seed of the run.",
)
PER_CLASS = click.option("--per-class", is_flag=True, help="Print a table of single classes too.")


def options(*chosen: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Give a command several options, in the order in which its help lists them."""

    def give(command: Command) -> Command:
        for option in reversed(chosen):
            command = option(command)
        return command

    return give


def out_folder(default: str) -> Callable[[Command], Command]:
    """Return the option --out of a command that writes a folder; `result_folder` makes of None the default, one a set."""
    text = f"Folder to write to.  [default: {default}/SET, by the name of the shards]"
    return click.option("--out", type=click.Path(file_okay=False, path_type=Path), help=text)


@contextmanager
def errors() -> Iterator[None]:
    """Let what the user can put right become the command's error."""
    try:
        yield
    except UsageError as error:
        raise click.ClickException(str(error)) from error


def install_externals(externals: Sequence[str], weights: Sequence[Path], external_size: int | None, out: Path) -> list[Path]:
    """Convert the backbones that the options name into folders below `out`, and return these.

    Raises:
        UsageError: a name or a file is wrong, or one lacks the other.
    """
    from satmip_train.runs.external import install

    if len(externals) != len(weights):
        raise UsageError(f"Each --external needs its --weights: there are {len(externals)} of one and {len(weights)} of the other")
    return [install(name, path, out / "external", external_size) for name, path in zip(externals, weights, strict=True)]


def tested_split(dataset: Dataset, typed: str | None) -> str:
    """Return the split to test on: what was typed, else val, or test where there is no val."""
    return typed or ("test" if dataset.splits.get("test") and not dataset.splits.get("val") else "val")


@contextmanager
def make_protocol(shards: str, test_shards: str | None, test_split: str | None, device: str, **others: Any) -> Iterator["Protocol"]:
    """Give the protocol that the options describe, on the device they name."""
    from satmip_train.distributed import join_job
    from satmip_train.evaluation.evaluate import Protocol

    with join_job(device) as job:
        dataset = open_dataset(shards)
        test = dataset if test_shards is None else open_dataset(test_shards)
        yield Protocol(dataset, test, test_split=tested_split(test, test_split), device=str(job.device), **others)


@contextmanager
def make_running(precision: Precision, batch_size: int, workers: int, device: str) -> Iterator["Running"]:
    """Give how networks run, on the device that the options name."""
    from satmip_train.distributed import join_job
    from satmip_train.evaluation.metadata_features import Running

    with join_job(device) as job:
        yield Running(precision, batch_size, workers, str(job.device))


@contextmanager
def show_progress(total: int | None, what: str = "features of") -> Iterator[Callable[[str, int], None]]:
    """Give a function that shows of how many samples a model's features are computed, on standard error."""
    columns = (TextColumn(f"{what} {{task.description}}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
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


def show(result: "Result", per_class: bool, path: Path) -> None:
    """Print the table of a result, where asked for also that of single classes, and the file it was written to."""
    Console().print(tables.rich_table(tables.table(result)))
    if per_class:
        Console().print(tables.rich_table(tables.per_class(result)))
    click.echo(path)


def samples_of(protocol: "Protocol") -> int:
    """Return the samples of both splits."""
    return protocol.train.splits[protocol.train_split] + protocol.test.splits[protocol.test_split]
