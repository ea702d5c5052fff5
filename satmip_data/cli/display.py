"""Printing and drawing of shard directories for the commands."""

import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from satmip_data.cli.sheet import contact_sheet
from satmip_data.errors import BuildError, cause
from satmip_data.execution.output import Output
from satmip_data.metadata.checks import FLAGS
from satmip_data.metadata.fields import ALIASES, FIELDS
from satmip_data.names import counted, unknown_name
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
    "offset": "The offset that Sentinel-2 declares was applied, so that --stretch means the same for all baselines",
    "scale and offset": "The declared scale and offset were applied: the limits of --stretch are physical units",
}
"""Name in `dataset.json` of how declared scales and offsets were used -> the sentence about it."""

_NOT_COUNTED = "their tokens are not counted: no CLIP tokenizer is installed"
_SIGNS = {"degree": "°", "percent": "%"}
FIRST = 3
"""Rejects that a build shows."""


def summary(out: str, dataset: dict[str, Any]) -> dict[str, Any]:
    """Return what `show_dataset` prints, for `--json`."""
    names = ("splits", "size", "classes", "caption", "flags", "rejects")
    return {
        "shards": out, "source": dataset["source"]["name"], **{name: dataset[name] for name in names},
        "dropped": dataset.get("dropped", {}),
    }  # fmt: skip


def show_dataset(output: Output, out: str, dataset: dict[str, Any]) -> None:
    """Print splits, shards, classes, captions and rejects."""
    output.text(f"{out}: {dataset['source']['name']}, {counted(len(dataset['classes']), 'class')}", bold=True)
    rows = []
    for split, entry in dataset["splits"].items():
        size = sum(shard["bytes"] for shard in dataset["shards"] if shard["split"] == split)
        rows.append((split, f"{entry['samples']:,}", f"{entry['shards']:,}", f"{size / 1e6:,.1f}"))
    output.table(("split", "# samples", "# shards", "# MB"), rows)
    warn_of_no_train(output, dataset["splits"])
    show_captions(output, dataset)
    show_dropped(output, dataset.get("dropped", {}))
    show_flags(output, dataset["flags"])
    if (applied := dataset.get("scaling", {}).get("applied")) in APPLIED:
        output.text(f"{APPLIED[applied]}.")
    show_rejects(output, dataset["rejects"])


def warn_of_no_train(output: Output, splits: Collection[str]) -> None:
    """Warn where no split is named train: there is then nothing to standardize by."""
    if TRAIN not in splits:
        output.warn(
            f"No split is called {TRAIN}, so features are not standardized and these shards cannot be trained on. "
            "Name the splits with --split-file or --shares."
        )


def show_captions(output: Output, dataset: dict[str, Any]) -> None:
    """Print fields, style and the longest caption."""
    caption = dataset["caption"]
    longest = caption["longest"]
    length = f"the longest has {longest['tokens']} tokens ({longest['key']})" if longest is not None else _NOT_COUNTED
    output.text(f"Captions: {', '.join(caption['fields'])}, {caption['style']}; {length}")
    if unknown := _unknown_fields(dataset):
        output.warn(f"No sample of the split {TRAIN} knows {', '.join(unknown)}.")
    if caption["empty"]:
        output.warn(f"{counted(caption['empty'], 'caption')} without text: their samples know none of these fields.")


def _unknown_fields(dataset: dict[str, Any]) -> list[str]:
    """Return the fields of the captions that no sample of the train split knows; none where there is no such split to tell."""
    known = {column["field"] for column in dataset["numeric"] if column["known"]}
    known |= {column["field"] for column in dataset["categorical"] if column["values"]}
    return [name for name in dataset["caption"]["fields"] if name not in known] if TRAIN in dataset["splits"] else []


def show_rejects(output: Output, rejects: Mapping[str, int], result: bool = False) -> None:
    """Print the count of every reason for which a scene or box gave no sample."""
    if not rejects:
        output.text("Rejects: none")
        return
    rows = [(reason, f"{count:,}", REASONS[reason]) for reason, count in rejects.items()]
    output.table(("reason", "# rejects", "meaning"), rows, result=result)


def read_rejects(out: str, dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of `rejects.parquet`.

    Raises:
        BuildError: it is missing or damaged.
    """
    rows: list[dict[str, Any]] = read_table(Store(out), dataset, "rejects.parquet").to_pylist()
    return rows


def show_first_rejects(output: Output, out: str, dataset: dict[str, Any]) -> None:
    """Print the first rejects of a build, and how to see the rest."""
    if not dataset["rejects"]:
        return
    for row in read_rejects(out, dataset)[:FIRST]:
        output.text(f"  {row['path']}: {row['message']}")
    if sum(dataset["rejects"].values()) > FIRST:
        output.text(f"All rejects: satmip-data rejects {quote(out)}")


def rejects_by_reason(rows: Iterable[Mapping[str, Any]], examples: int) -> dict[str, Any]:
    """Return count, meaning and the first examples of each reason, the most frequent first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["reason"], []).append(row)
    return {
        reason: {
            "count": len(group),
            "meaning": REASONS.get(reason, ""),
            "examples": [{name: row[name] for name in ("path", "key", "message")} for row in group[:examples]],
        }
        for reason, group in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    }


def show_examples(output: Output, reasons: Mapping[str, Any]) -> None:
    """Print the examples of each reason below its name."""
    for reason, found in reasons.items():
        if found["examples"]:
            output.text(f"{reason}, {len(found['examples'])} of {found['count']:,}", bold=True)
        for example in found["examples"]:
            output.text(f"  {example['path']}: {example['message']}")


def plan_summary(plan: BuildPlan, expected: Estimate) -> dict[str, Any]:
    """Return what `show_plan` prints, for `--json`."""
    return {
        "splits": _planned(plan),
        "classes": list(plan.classes),
        "dropped": plan.dropped,
        "flags": count_flags(sample for shard in plan.shards for sample in shard.samples),
        "rejects": rejects_by_reason((_row(reject) for reject in plan.index.rejects), 1),
        "bytes": expected.bytes,
        "seconds": expected.seconds,
        "problems": [_row(problem) for problem in expected.problems],
    }


def _planned(plan: BuildPlan) -> dict[str, dict[str, int]]:
    splits: dict[str, dict[str, int]] = {}
    for shard in sorted(plan.shards, key=lambda shard: shard.split):
        entry = splits.setdefault(shard.split, {"samples": 0, "shards": 0})
        entry["samples"] += len(shard.samples)
        entry["shards"] += 1
    return splits


def _row(reject: Any) -> dict[str, Any]:
    return {name: getattr(reject, name) for name in ("path", "key", "reason", "message")}


def show_plan(output: Output, plan: BuildPlan, expected: Estimate) -> None:
    """Print what a build would write, how long it would take, and the problems known before it starts."""
    output.text(f"Would build, with {counted(len(plan.classes), 'class')}:", bold=True)
    splits = _planned(plan)
    rows = [(split, f"{entry['samples']:,}", f"{entry['shards']:,}") for split, entry in splits.items()]
    output.table(("split", "# samples", "# shards"), rows)
    warn_of_no_train(output, splits)
    show_dropped(output, plan.dropped)
    show_flags(output, count_flags(sample for shard in plan.shards for sample in shard.samples))
    reasons = Counter(reject.reason for reject in plan.index.rejects)
    show_rejects(output, dict(sorted(reasons.items())))
    firsts = {reject.reason: reject for reject in reversed(plan.index.rejects)}
    for reason in sorted(firsts):
        output.text(f"First {reason}: {firsts[reason].path}: {firsts[reason].message}", fg="yellow")
    size, time = f"{expected.bytes / 1e6:,.1f} MB", dt.timedelta(seconds=round(expected.seconds))
    output.text(f"About {size} of shards in {time} (measured on {counted(expected.tried, 'sample')})")
    for problem in expected.problems:
        output.text(f"{problem.path}: {problem.reason}: {problem.message}", fg="yellow")


def show_named_times(output: Output, samples: Sequence[Sample], most: int = 3) -> None:
    """Print what was read from some names by --time-pattern."""
    times = {sample.path: sample.metadata.datetime for sample in samples}
    for path, time in list(times.items())[:: max(1, len(times) // most)][:most]:
        output.text(f"Time of {path}: {'unknown' if time is None else time.isoformat()}")


def show_dropped(output: Output, dropped: dict[str, int]) -> None:
    """Print how many samples the selection leaves out."""
    for option, count in dropped.items():
        output.text(f"Left out by --{option}: {counted(count, 'sample')}")


def show_flags(output: Output, flags: dict[str, int]) -> None:
    """Print the count of every oddity of the records, where there is one."""
    if flags:
        output.table(("flag", "# flagged", "meaning"), [(flag, f"{count:,}", FLAGS[flag]) for flag, count in flags.items()])


def report_summary(out: str, report: Report) -> dict[str, Any]:
    """Return what `show_report` prints, for `--json`."""
    problems = [{"where": problem.where, "check": problem.check, "message": problem.message} for problem in report.problems]
    return {"shards": out, "samples": report.samples, "shard_files": report.shards, "problems": problems}


def show_report(output: Output, report: Report) -> None:
    """Print the problems found, or that there are none."""
    if report.problems:
        rows = [(_printable(problem.where), problem.check, _printable(problem.message)) for problem in report.problems]
        output.table(("where", "check", "problem"), rows, result=True)
    verdict = counted(len(report.problems), "problem") if report.problems else "no problem"
    checked = f"{counted(report.samples, 'sample')} in {counted(report.shards, 'shard')} checked"
    output.text(f"{checked}: {verdict}", fg="red" if report.problems else "green")


def _printable(text: str) -> str:
    """Return text that every terminal takes: what is no Unicode, as in names of damaged files, is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_index(out: str, dataset: dict[str, Any], split: str | None = None) -> "pd.DataFrame":
    """Return the index of one split or all.

    Raises:
        BuildError: the index cannot be read, or there is no such split.
    """
    if split not in (None, *dataset["splits"]):
        raise BuildError(unknown_name("split", str(split), dataset["splits"], out))
    index = read_table(Store(out), dataset, "index.parquet")
    with _readable(out, "index.parquet"):
        frame: pd.DataFrame = index.to_pandas(use_threads=False)
        chosen: pd.DataFrame = frame if split is None else frame[frame["split"] == split]
        return chosen


def field_ranges(out: str, frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return of each field, in parts where it has several numbers, how often it is missing, its range and its values."""
    with _readable(out, "index.parquet"):
        return [
            {
                "field": label,
                "unit": field.unit,
                "missing": len(frame) - len(known),
                **dict(zip(("smallest", "median", "largest"), _range(values), strict=True)),
                "values": int(values.nunique()),
                "frequent": _frequent(values) if field.columns[0].kind == "categorical" else {},
            }
            for field in FIELDS
            for known in [frame[field.name].dropna()]
            for label, values in _components(field.name, known)
        ]


def _frequent(values: "pd.Series[Any]", most: int = 3) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().head(most).items()}


def show_fields(output: Output, ranges: Iterable[Mapping[str, Any]]) -> None:
    """Print of each field how often it is missing, and its range or its most frequent values."""
    numbers, words = [], []
    for found in ranges:
        missing, values = f"{found['missing']:,}", f"{found['values']:,}"
        if found["frequent"]:
            frequent = ", ".join(f"{value} ({count:,})" for value, count in found["frequent"].items())
            words.append((found["field"], missing, values, frequent))
        else:
            limits = [found[name] or "" for name in ("smallest", "median", "largest")]
            numbers.append((found["field"], _SIGNS.get(found["unit"], found["unit"]), missing, *limits, values))
    output.table(("field", "unit", "# missing", "smallest", "median", "largest", "# values"), numbers)
    if words:
        output.table(("field", "# missing", "# values", "most frequent"), words)


def _components(name: str, known: "pd.Series[Any]") -> list[tuple[str, "pd.Series[Any]"]]:
    if name in ("gsd", "pixel_size", "location"):
        parts = ("longitude", "latitude") if name == "location" else ("x", "y")
        return [(f"{name} {part}", known.map(lambda pair, i=i: float(pair[i]))) for i, part in enumerate(parts)]
    return [(name, known.map(lambda v: "-".join(map(str, v))) if name == "wavelengths" else known)]


def _range(values: "pd.Series[Any]") -> tuple[str | None, str | None, str | None]:
    if values.empty:
        return None, None, None
    import pandas as pd  # late: it takes a third of a second, and help needs none of it

    if pd.api.types.is_datetime64_any_dtype(values):
        return tuple(f"{value:%Y-%m-%d %H:%M:%S}" for value in (values.min(), values.quantile(0.5), values.max()))  # type: ignore[return-value]
    if pd.api.types.is_numeric_dtype(values):
        return f"{values.min():.5g}", f"{values.median():.5g}", f"{values.max():.5g}"
    return str(values.min()), None, str(values.max())


@contextmanager
def _readable(out: str, name: str) -> Iterator[None]:
    """Say which file is damaged, whatever that provokes."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise BuildError(f"{name} is damaged: {cause(error)}. Run: satmip-data validate {quote(out)}") from error


def first_samples(out: str, dataset: dict[str, Any], count: int, split: str | None = None) -> list[tuple[str, bytes, str]]:
    """Return key, chip and caption of the first samples; shards are shuffled, so they are a fair draw."""
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


def show_samples(output: Output, samples: Iterable[tuple[str, bytes, str]]) -> None:
    """Print key and caption of samples."""
    for key, _, caption in samples:
        output.text(f"{key}  {caption}")


def write_sheet(samples: Sequence[tuple[str, bytes, str]], path: Path) -> None:
    """Draw chips with their captions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(samples).save(path, "PNG")


def field_table() -> list[dict[str, Any]]:
    """Return the table of fields, for `--json`."""
    return [
        {"field": field.name, "aliases": list(field.aliases), "unit": field.unit, "columns": [c.name for c in field.columns],
         "meaning": field.about}
        for field in FIELDS
    ]  # fmt: skip


def show_field_table(output: Output) -> None:
    """Print the table of fields."""
    rows = [
        (row["field"], ", ".join(row["aliases"]), _SIGNS.get(row["unit"], row["unit"]), ", ".join(row["columns"]), row["meaning"])
        for row in field_table()
    ]
    output.table(("field", "alias", "unit", "columns", "meaning"), rows, result=True)
    output.text(f"Groups: angles = {', '.join(ALIASES['angles'])}; all = all {len(FIELDS)}")
