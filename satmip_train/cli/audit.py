"""`satmip-eval audit`: which records of an archive are probably wrong.

What needs torch is imported where it is used, see `evaluate`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from satmip_data.execution.output import Output, output_options
from satmip_train.cli import options as common
from satmip_train.cli.options import options
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation import tables

if TYPE_CHECKING:
    from satmip_data.records import Metadata
    from satmip_train.evaluation.metadata_features import Running
    from satmip_train.joint_space.archive import Entry
    from satmip_train.joint_space.audit import Audit, Encode, Judge, Pools, Vectors

Result = dict[str, Any]
_SHARE, _FEWEST = 0.02, 10
"""Of the records, how many are listed as suspects, and how many at least."""


@click.command("audit")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--shards", required=True, help="Shard directory whose records are judged: a local path or an fsspec URL.")
@click.option("--split", "splits", multiple=True, help="Split to judge; may be given several times.  [default: all]")
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Train so many networks by the settings of RUN, each on the places of the other folds; each judges its own fold.",
)
@click.option("--trained-on", metavar="SHARDS", help="The shards that RUN has learned from, where they have moved.")
@click.option("--unrelated", is_flag=True, help="You know that RUN has trained on none of these records.")
@click.option("--count", type=click.IntRange(1), help="Suspects that are listed.  [default: 2 % of the records, 10 at least]")
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, help="Suspects that are printed.")
@click.option("--html", is_flag=True, help="Also write a page of the suspects with their pictures.")
@click.option("--inject", is_flag=True, help="Measure instead: put errors into some records in memory, and see what finds them.")
@click.option(
    "--share",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=_SHARE,
    show_default=True,
    help="Of the records, those that get an error.",
)
@click.option("--draws", type=click.IntRange(1), default=10, show_default=True, help="Draws of the records that get an error.")
@click.option("--seed", type=click.IntRange(0, common.LARGEST_SEED), default=0, show_default=True, help="Of all that is drawn.")
@options(*common.RUNNING, common.one_folder("out/audit"))
@output_options
def audit_command(run: Path, shards: str, out: Path, seed: int, output: Output, **others: Any) -> None:
    """Find the records of an archive that are probably wrong, and in which field.

    RUN must have learned from metadata, and judges no record that it has trained on: use other shards, other splits of the shards
    that it learned from, or --folds. For each sample and quantity (location, day of the year, hour, year, GSD and what else RUN
    reads) it is measured how much better other values explain the picture, given the rest of the record. Physical checks of the
    record by itself come first in the list.

    Writes audit.parquet (every sample and quantity), suspects.txt (for satmip-data build --exclude), audit.json and, with --html,
    index.html; with --inject, injection.json instead.

    \b
    Example:
      satmip-eval audit out/runs/satmips --shards out/shards --html
      satmip-eval audit out/runs/satmips --shards out/shards --folds 5
      satmip-eval audit out/runs/satmips --shards out/shards --inject
    """
    judging = {name: others.pop(name) for name in ("splits", "folds", "trained_on", "unrelated")}
    listing = {name: others.pop(name) for name in ("count", "top", "html")}
    measuring = {name: others.pop(name) for name in ("inject", "share", "draws")}
    with common.errors(), common.make_running(**others) as running:
        from satmip_train.encoder import load
        from satmip_train.joint_space.audit import judge_records, make_pools
        from satmip_train.joint_space.candidates import quantities_of

        dataset = open_dataset(shards)
        fields = load(run, device=running.device).fields
        entries, judges, about = _judges(run, dataset, out, running, seed, **judging)
        pools = make_pools(quantities_of(fields), {entry.key: entry.metadata for entry in entries}, seed)
        judged = sum(len(judge.entries) for judge in judges)
        about = {**about, "fields": list(fields), "quantities": [*pools.values], "judged": judged}
        if measuring.pop("inject"):
            seeds = range(seed, seed + measuring["draws"])
            result, table = _measure(judges, pools, about, measuring["share"], seeds, output)
            paths = [_write(out / "injection.json", result)]
        else:
            result, table, paths = _list(judge_records(judges, pools), about, dataset, out, **listing)
    output.document(result)
    output.table(table.header, table.models, title=table.title)
    for note in table.notes:
        output.text(note)
    output.result(*paths)


def _judges(
    run: Path,
    dataset: Dataset,
    out: Path,
    running: "Running",
    seed: int,
    splits: Sequence[str],
    folds: int | None,
    **known: Any,
) -> tuple[list["Entry"], list["Judge"], Result]:
    """Return the samples, who judges which of them, and what says so; `known` is what the user says of what the run has seen.

    Raises:
        UsageError: nobody may judge them.
    """
    from satmip_train.evaluation.evaluate import describe_split
    from satmip_train.joint_space import judges, provenance
    from satmip_train.joint_space.archive import read_entries
    from satmip_train.runs import checkpoint

    names = tuple(dict.fromkeys(splits)) or tuple(name for name, samples in dataset.splits.items() if samples)
    entries = read_entries(dataset, names)
    about: Result = {
        "probe": "audit",
        "run": str(run),
        "splits": [describe_split(dataset, name) for name in names],
        "settings": {"seed": seed, "folds": folds, "precision": running.precision},
        "versions": checkpoint.versions(),
    }
    if folds is not None:
        parts = provenance.folds(entries, folds, seed)
        how = f"Each of {folds} networks was trained on the places of the other folds and judges its own."
        return entries, _cross_fitted(run, dataset, parts, out, running), {**about, "how": how, "left_out": None}
    seen = provenance.seen_by(run, dataset, **known)
    division = provenance.divide(entries, seen)
    judges.check_any(division, run, names)
    judge = judges.make_judge(run, dataset, division.judged, _encode(run, running), running)
    return entries, [judge], {**about, "how": seen.how, "left_out": division.left_out}


def _encode(run: Path, running: "Running") -> "Encode":
    """Return what encodes records by a run; a caption that is longer than any it has learned from gives NaN."""
    import numpy as np

    from satmip_train.encoder import load

    encoder = load(run, device=running.device, precision=running.precision, batch_size=running.batch_size)

    def encode(records: Sequence["Metadata"]) -> "Vectors":
        read = np.array([encoder.reads(record) for record in records], bool)
        known = encoder.encode_metadata([record for record, able in zip(records, read, strict=True) if able], joint=True)
        vectors = np.full((len(records), known.shape[1]), np.nan, np.float32)
        vectors[read] = known
        return vectors

    return encode


def _cross_fitted(run: Path, dataset: Dataset, parts: Sequence[Sequence["Entry"]], out: Path, running: "Running") -> list["Judge"]:
    """Train a network for each fold, on the samples of the others, and return it as the judge of its fold.

    Finished trainings are found again, and one that was interrupted goes on.
    """
    import torch

    from satmip_train.distributed import Job
    from satmip_train.joint_space.archive import part_of
    from satmip_train.joint_space.judges import make_judge
    from satmip_train.joint_space.provenance import fold_settings
    from satmip_train.training.train import train

    found, console = [], Console(stderr=True, markup=False, highlight=False)
    for number, own in enumerate(parts):
        others = [entry for other in parts if other is not own for entry in other]
        settings, folder = fold_settings(run, len(others)), out / "folds" / f"{number + 1}-of-{len(parts)}"
        console.print(f"Fold {number + 1} of {len(parts)}: {len(others):,} samples to train on, {len(own):,} to judge.")
        stopped_by = train(settings, part_of(dataset, others, settings.split), folder, Job(torch.device(running.device)), console)
        if stopped_by:
            raise click.exceptions.Exit(128 + stopped_by)
        found.append(make_judge(folder, dataset, own, _encode(folder, running), running))
    return found


def _list(
    audit: "Audit", about: Result, dataset: Dataset, out: Path, count: int | None, top: int, html: bool
) -> tuple[Result, tables.Table, list[Path]]:
    """Write what an audit found; return it with the table that is printed and the files."""
    from satmip_train.joint_space import audit_outputs
    from satmip_train.joint_space.suspects_page import write_page

    chosen = audit.suspects[: count or max(_FEWEST, round(_SHARE * len(audit.entries)))]
    result = {**about, "suspects": [audit_outputs.describe_suspect(s, rank) for rank, s in enumerate(chosen, start=1)]}
    paths = [*audit_outputs.write_outputs(audit, result, chosen, out), _write(out / "audit.json", result)]
    if html:
        paths.append(write_page(dataset, chosen, audit_outputs.facts(audit, about), out))
    table = audit_outputs.suspects_table(chosen[:top], "The most suspect records", audit_outputs.notes(audit, about))
    return result, table, paths


def _measure(
    judges: Sequence["Judge"], pools: "Pools", about: Result, share: float, seeds: Sequence[int], output: Output
) -> tuple[Result, tables.Table]:
    """Return how well errors are found, with the table that is printed."""
    from satmip_train.joint_space.measurement import measure, measurement_table

    with common.show_progress(None if output.quiet else len(seeds), "draws of") as progress:
        try:
            found = measure(judges, about["fields"], pools, share, seeds, progress)
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"{error} Use a larger archive, or another --split.") from error
    return {**about, **found}, measurement_table(found)


def _write(path: Path, result: Result) -> Path:
    from satmip_train.files import write_atomically

    write_atomically(path, lambda file: file.write(json.dumps(result, indent=1).encode()))
    return path


COMMANDS = [audit_command]
