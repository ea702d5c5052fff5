"""Options, errors, progress and tables that the commands of satmip-eval share.

Modules that need torch are imported where they are used, so that help and errors come at once.
"""

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from satmip_data.execution.choices import Name, split_option
from satmip_data.execution.output import Output
from satmip_data.names import without_secrets
from satmip_train.choices import Larger, Precision
from satmip_train.config import recipe_names, resolve
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
    """A comma-separated list of integers, such as "1,5,20"."""

    name = "N,N,..."

    def __init__(self, smallest: int, empty: bool = False, largest: float = math.inf) -> None:
        self._smallest, self._empty, self._largest = smallest, empty, largest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers the list stands for."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in value.split(",") if word.strip()]
        if not all(word.isdecimal() and int(word) >= self._smallest for word in words) or not (words or self._empty):
            self.fail(f'"{value}" is no list of integers from {self._smallest} up, such as 1,5,20', param, ctx)
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
    "--precision", type=click.Choice(get_args(Precision)), default="fp32", show_default=True, help="Precision of the networks."
)
BATCH_SIZE = click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Chips per batch.")
WORKERS = click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Processes that decode chips.")
DEVICE = click.option("--device", default="auto", show_default=True, help="Device to run on: auto, cpu, cuda or cuda:1.")
RUNNING = [PRECISION, BATCH_SIZE, WORKERS, DEVICE]
RASTERS = [
    click.option(
        "--bands", default="auto", show_default=True, help="Bands for red, green and blue, counted from 1, such as 4,3,2."
    ),
    click.option(
        "--stretch",
        default="none",
        show_default=True,
        help="How a raster's values become 8 bits: none, minmax:0,3000 or percentile:2,98.",
    ),
    click.option(
        "--apply-scale", is_flag=True, help="Stretch physical units, as rasters declare scale and offset; give limits in these."
    ),
]
"""How an image file that is a raster becomes red, green and blue of 8 bits."""
SPLITS = [
    click.option("--shards", required=True, help="Shard directory to learn from: a local path or an fsspec URL."),
    click.option("--test-shards", help="Shard directory to test on.  [default: that of --shards]"),
    split_option("--train-split", default="train", show_default=True, help="Split to learn from."),
    split_option("--test-split", help="Split to test on.  [default: val, or test where there is no val]"),
]


def random_seeds(default: str) -> Callable[[Command], Command]:
    """Return the option that says with how many draws of random weights an architecture is compared."""
    return click.option(
        "--random-seeds",
        type=Integers(0, empty=True, largest=LARGEST_SEED),
        default=default,
        show_default=True,
        help='Seeds of the networks with random weights that stand beside the runs; "" for none.',
    )


PROTOCOL = [*SPLITS, random_seeds("0,1,2"), *RUNNING]
BACKBONES = click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="pixels|RECIPE",
    type=Name(lambda ctx: ["pixels", *recipe_names()]),
    help="Also measure a baseline without a run: the pixels of chips resized to 32 x 32, or the untrained network of a recipe.",
)
EXTERNAL = [
    click.option(
        "--external",
        "externals",
        multiple=True,
        metavar="NAME",
        type=Name(lambda ctx: [*EXTERNALS, "timm:", "open_clip:"]),
        help=f"Also measure a pretrained backbone from another project: {', '.join(EXTERNALS)}, timm:MODEL or open_clip:MODEL. "
        "Needs --weights.",
    ),
    click.option(
        "--weights",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Weight file of an --external; one for each, in the same order.",
    ),
    click.option("--external-size", type=click.IntRange(16), help="Side of the images of an --external.  [default: its own]"),
]
KNN = [
    click.option("--k", "ks", type=Integers(1), default="1,5,20,100", show_default=True, help="Numbers of neighbours to try."),
    click.option("--fixed-k", type=click.IntRange(1), default=5, show_default=True, help="Neighbours of the main columns."),
    click.option(
        "--temperature", type=Positive(), default=0.07, show_default=True, help="Temperature of the weight of a neighbour."
    ),
]
LARGER_IMAGES = click.option(
    "--larger-images",
    type=click.Choice(get_args(Larger)),
    default="resize",
    show_default=True,
    help="Resize images larger than a view, or keep their size, as in the paper, with a ViT's positions resampled.",
)
LABEL_SHARE = click.option(
    "--label-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the train labels to learn from: of each class, at least one, drawn with the seed of the run.",
)
PER_CLASS = click.option("--per-class", is_flag=True, help="Also print a table of the single classes.")


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


def one_folder(default: str) -> Callable[[Command], Command]:
    """Return the option --out of a command that writes into one folder whatever the set."""
    return click.option(
        "--out", type=click.Path(file_okay=False, path_type=Path), default=default, show_default=True, help="Folder to write to."
    )


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
    dataset = open_dataset(shards)
    test = dataset if test_shards is None else open_dataset(test_shards)
    tested = tested_split(test, test_split)
    dataset.split(others["train_split"])
    test.split(tested)
    for name in others.get("backbones", ()):
        check_backbone(name)

    from satmip_train.distributed import join_job  # torch, after everything that can be wrong without it
    from satmip_train.evaluation.evaluate import Protocol

    with join_job(device) as job:
        yield Protocol(dataset, test, test_split=tested, device=str(job.device), **others)


def check_backbone(name: str) -> None:
    """Check a value of --backbone.

    Raises:
        UsageError: it is neither "pixels" nor a recipe.
    """
    if name == "pixels":
        return
    try:
        resolve(name, {})
    except ValueError as error:
        raise UsageError(f"--backbone: {error} Without a recipe: pixels.") from error


@contextmanager
def make_running(precision: Precision, batch_size: int, workers: int, device: str) -> Iterator["Running"]:
    """Give how networks run, on the device that the options name."""
    from satmip_train.distributed import join_job
    from satmip_train.evaluation.metadata_features import Running

    with join_job(device) as job:
        yield Running(precision, batch_size, workers, str(job.device))


@contextmanager
def show_progress(total: int | None, what: str = "features of", hidden: bool = False) -> Iterator[Callable[[str, int], None]]:
    """Give a function that shows of how many samples a model's features are computed, on standard error; `hidden`, nothing."""
    columns = (TextColumn(f"{what} {{task.description}}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task: TaskID | None = None

        def show(name: str, samples: int) -> None:
            nonlocal task
            if task is None or not samples:
                if task is not None:
                    bar.remove_task(task)
                task = bar.add_task(name, total=total)
            bar.update(task, advance=samples)

        yield show


def show_table(output: Output, table: tables.Table) -> None:
    """Print a table with its notes."""
    name, *numbers = table.header
    output.table((name, *(f"# {number}" for number in numbers)), [*table.models, *table.summaries], title=table.title)
    for note in table.notes:
        output.text(note)


def show(output: Output, result: "Result", per_class: bool, path: Path) -> None:
    """Print the table of a result, where asked for also that of single classes, and the file it was written to."""
    show_table(output, tables.table(result))
    if per_class:
        show_table(output, tables.per_class(result))
    output.document(result)
    output.result(path)


def report_of(runs: Sequence[Path], shards: str) -> list[str]:
    """Return the command that makes a page of the runs that were measured; none where none was."""
    if not runs:
        return []
    return [shlex.join(["satmip-eval", "report", "--shards", without_secrets(shards), "--runs", *map(str, runs)])]


def opening(path: Path) -> str:
    """Return the command that opens a page or a picture, on every system."""
    return shlex.join(["python", "-m", "webbrowser", str(path)])


def samples_of(protocol: "Protocol") -> int:
    """Return the samples of both splits."""
    return protocol.train.splits[protocol.train_split] + protocol.test.splits[protocol.test_split]
