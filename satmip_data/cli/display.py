"""What the commands print and draw of a shard directory."""

import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from satmip_data.cli.sheet import contact_sheet
from satmip_data.errors import BuildError
from satmip_data.metadata.checks import FLAGS
from satmip_data.metadata.fields import ALIASES, FIELDS
from satmip_data.names import counted
from satmip_data.pipeline.build import BuildPlan, count_flags
from satmip_data.pipeline.estimate import Estimate
from satmip_data.records import REASONS, Sample
from satmip_data.shards.dataset import TRAIN, read_table
from satmip_data.shards.tar import read_samples
from satmip_data.storage.store import Store
from satmip_data.validation.validate import Report

if TYPE_CHECKING:
    import pandas as pd

APPLIED = {
    "offset": "Sentinel-2: the declared offset was applied, so limits of --stretch mean the same for all baselines",
    "scale and offset": "Declared scale and offset were applied: limits of --stretch are physical units",
}
"""What was done with the values that rasters declare, as `dataset.json` calls it -> what is said of it."""

_NOT_COUNTED = "their tokens are not counted: no CLIP tokenizer is installed"


def _table(*columns: str, title: str = "") -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column.startswith("#") else "left", overflow="fold")
    return table


def show_dataset(console: Console, out: str, dataset: dict[str, Any]) -> None:
    """Print splits, shards, classes, captions and rejects."""
    table = _table("split", "# samples", "# shards", "# MB")
    for split, entry in dataset["splits"].items():
        size = sum(shard["bytes"] for shard in dataset["shards"] if shard["split"] == split)
        table.add_row(split, f"{entry['samples']:,}", f"{entry['shards']:,}", f"{size / 1e6:,.1f}")
    console.print(
        f"[bold]{escape(out)}[/bold]: {dataset['source']['name']}, {counted(len(dataset['classes']), 'class')}", highlight=False
    )
    console.print(table)
    show_no_train(console, dataset["splits"])
    show_captions(console, dataset)
    show_dropped(console, dataset.get("dropped", {}))
    show_flags(console, dataset["flags"])
    if (applied := dataset.get("scaling", {}).get("applied")) in APPLIED:
        console.print(APPLIED[applied], markup=False, highlight=False)
    show_rejects(console, dataset["rejects"])
    if dataset["rejects"]:
        console.print(
            f"What was found of each is in {out.rstrip('/')}/rejects.parquet", markup=False, highlight=False, soft_wrap=True
        )


def show_no_train(console: Console, splits: Collection[str]) -> None:
    """Warn where no split is named train: there is then nothing to standardize by."""
    if TRAIN not in splits:
        console.print(
            f"[yellow]no split is called {TRAIN}: features stay as they are (mean 0, deviation 1) and these shards cannot be "
            f"trained on. Name the splits with --split-file or --shares[/yellow]"
        )


def show_captions(console: Console, dataset: dict[str, Any]) -> None:
    """Print fields, style and the longest caption."""
    caption = dataset["caption"]
    longest = caption["longest"]
    length = f"the longest has {longest['tokens']} tokens ({longest['key']})" if longest is not None else _NOT_COUNTED
    console.print(f"Captions: {', '.join(caption['fields'])}, {caption['style']}; {length}", markup=False, highlight=False)
    if unknown := _unknown_fields(dataset):
        console.print(f"[yellow]no sample of {TRAIN} knows {', '.join(unknown)}[/yellow]", highlight=False)
    if caption["empty"]:
        console.print(f"[yellow]Empty captions, of samples that know none of these fields: {caption['empty']:,}[/yellow]")


def _unknown_fields(dataset: dict[str, Any]) -> list[str]:
    """Return the fields of the captions that no sample of the train split knows; none where there is no such split to tell."""
    known = {column["field"] for column in dataset["numeric"] if column["known"]}
    known |= {column["field"] for column in dataset["categorical"] if column["values"]}
    return [name for name in dataset["caption"]["fields"] if name not in known] if TRAIN in dataset["splits"] else []


def show_rejects(console: Console, rejects: dict[str, int]) -> None:
    """Print the count of every reason for which a scene or box gave no sample."""
    if not rejects:
        console.print("Rejects: none")
        return
    table = _table("# rejects", "reason", "meaning")
    for reason, count in rejects.items():
        table.add_row(f"{count:,}", reason, REASONS[reason])
    console.print(table)


def show_plan(console: Console, plan: BuildPlan, expected: Estimate) -> None:
    """Print what a build would write, how long it would take, and the problems known before it starts."""
    table = _table("split", "# samples", "# shards")
    for split in sorted({shard.split for shard in plan.shards}):
        chosen = [shard for shard in plan.shards if shard.split == split]
        table.add_row(split, f"{sum(len(shard.samples) for shard in chosen):,}", f"{len(chosen):,}")
    console.print(f"Would build, with {counted(len(plan.classes), 'class')}:")
    console.print(table)
    show_no_train(console, {shard.split for shard in plan.shards})
    show_dropped(console, plan.dropped)
    show_flags(console, count_flags(sample for shard in plan.shards for sample in shard.samples))
    reasons = Counter(reject.reason for reject in plan.index.rejects)
    show_rejects(console, dict(sorted(reasons.items())))
    firsts = {reject.reason: reject for reject in reversed(plan.index.rejects)}
    for reason in sorted(firsts):
        console.print(
            f"First {reason}: {firsts[reason].path}: {firsts[reason].message}", style="yellow", markup=False, highlight=False
        )
    size, time = f"{expected.bytes / 1e6:,.1f} MB", dt.timedelta(seconds=round(expected.seconds))
    console.print(f"About {size} of shards in {time} (measured on {counted(expected.tried, 'sample')})", highlight=False)
    for problem in expected.problems:
        console.print(f"[yellow]{escape(problem.path)}: {problem.reason}: {escape(problem.message)}[/yellow]", highlight=False)


def show_named_times(console: Console, samples: Sequence[Sample], most: int = 3) -> None:
    """Print what was read from some names by --time-pattern."""
    times = {sample.path: sample.metadata.datetime for sample in samples}
    for path, time in list(times.items())[:: max(1, len(times) // most)][:most]:
        console.print(f"Time of {path}: {'unknown' if time is None else time.isoformat()}", markup=False, highlight=False)


def show_dropped(console: Console, dropped: dict[str, int]) -> None:
    """Print how many samples the selection leaves out."""
    for option, count in dropped.items():
        console.print(f"Left out by --{option}: {counted(count, 'sample')}", highlight=False)


def show_flags(console: Console, flags: dict[str, int]) -> None:
    """Print the count of every oddity of the records, where there is one."""
    if flags:
        table = _table("# flagged", "flag", "meaning")
        for flag, count in flags.items():
            table.add_row(f"{count:,}", flag, FLAGS[flag])
        console.print(table)


def show_report(console: Console, report: Report) -> None:
    """Print the problems found, or that there are none."""
    if report.problems:
        table = _table("where", "check", "problem")
        for problem in report.problems:
            table.add_row(escape(_printable(problem.where)), problem.check, escape(_printable(problem.message)))
        console.print(table)
    verdict = f"[red]{counted(len(report.problems), 'problem')}[/red]" if report.problems else "[green]no problem[/green]"
    console.print(f"{counted(report.samples, 'sample')} in {counted(report.shards, 'shard')} checked: {verdict}", highlight=False)


def _printable(text: str) -> str:
    """Return text that every terminal takes: what is no Unicode, as in names of damaged files, is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def show_fields(console: Console, out: str, dataset: dict[str, Any], split: str | None = None) -> None:
    """Print of each field how often it is missing and its range, over one split or all, from the index.

    Raises:
        BuildError: the index cannot be read, or there is no such split.
    """
    index = read_table(Store(out), dataset, "index.parquet")
    if split not in (None, *dataset["splits"]):
        raise BuildError(f'There is no split "{split}" in {out}. Use --split with one of: {", ".join(dataset["splits"])}')
    with _readable(out, "index.parquet"):
        frame = index.to_pandas(use_threads=False)
        _show_fields(console, frame if split is None else frame[frame["split"] == split])


def _show_fields(console: Console, frame: "pd.DataFrame") -> None:
    table = _table("field", "unit", "# missing", "smallest", "median", "largest", "# values")
    for field in FIELDS:
        known = frame[field.name].dropna()
        for label, values in _components(field.name, known):
            table.add_row(label, field.unit, f"{len(frame) - len(known):,}", *_range(values), f"{values.nunique():,}")
    console.print(table)


def _components(name: str, known: "pd.Series[Any]") -> list[tuple[str, "pd.Series[Any]"]]:
    if name in ("gsd", "pixel_size", "location"):
        parts = ("longitude", "latitude") if name == "location" else ("x", "y")
        return [(f"{name} {part}", known.map(lambda pair, i=i: float(pair[i]))) for i, part in enumerate(parts)]
    return [(name, known.map(lambda v: "-".join(map(str, v))) if name == "wavelengths" else known)]


def _range(values: "pd.Series[Any]") -> tuple[str, str, str]:
    if values.empty:
        return "", "", ""
    import pandas as pd  # late: it takes a third of a second, and help needs none of it

    if pd.api.types.is_datetime64_any_dtype(values):
        return tuple(f"{value:%Y-%m-%d %H:%M:%S}" for value in (values.min(), values.quantile(0.5), values.max()))  # type: ignore[return-value]
    if pd.api.types.is_numeric_dtype(values):
        return f"{values.min():.6g}", f"{values.median():.6g}", f"{values.max():.6g}"
    return escape(str(values.min())), "", escape(str(values.max()))


@contextmanager
def _readable(out: str, name: str) -> Iterator[None]:
    """Say which file is damaged, whatever that provokes."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise BuildError(f"{name} is damaged: {type(error).__name__}: {error}. Run: satmip-data validate {quote(out)}") from error


def _first_samples(out: str, dataset: dict[str, Any], count: int, split: str | None) -> list[tuple[str, bytes, str]]:
    """Return key, chip and caption of the first samples."""
    samples: list[tuple[str, bytes, str]] = []
    for shard in dataset["shards"]:
        if len(samples) >= count:
            break
        if split not in (None, shard["split"]):
            continue
        with _readable(out, shard["name"]):
            found = islice(read_samples(Store(out).read(shard["name"])), count - len(samples))
            samples += [(key, members["jpg"], members["txt"].decode()) for key, members in found]
    return samples


def show_samples(console: Console, out: str, dataset: dict[str, Any], count: int, split: str | None = None) -> None:
    """Print key and caption of the first samples."""
    for key, _, caption in _first_samples(out, dataset, count, split):
        console.print(f"[bold]{escape(key)}[/bold]  {escape(caption)}", highlight=False)


def write_sheet(out: str, dataset: dict[str, Any], path: Path, count: int, split: str | None = None) -> None:
    """Draw the first chips with their captions; shards are shuffled, so they are a fair draw."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(_first_samples(out, dataset, count, split)).save(path, "PNG")


def show_field_table(console: Console) -> None:
    """Print the table of fields."""
    table = _table("field", "alias", "unit", "columns", "meaning")
    for field in FIELDS:
        table.add_row(field.name, ", ".join(field.aliases), field.unit, ", ".join(c.name for c in field.columns), field.about)
    console.print(table)
    console.print(f"Groups: angles = {', '.join(ALIASES['angles'])}; all = all {len(FIELDS)}", highlight=False)
