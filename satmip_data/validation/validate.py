"""Prove that a shard directory holds what it says: hashes, counts, archives, schema, geometry, features, statistics."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from tarfile import BLOCKSIZE
from typing import Any

import numpy as np
import pyarrow as pa

from satmip_data.errors import cause
from satmip_data.execution.engines import Local
from satmip_data.execution.progress import Progress, Show, no_show
from satmip_data.metadata.serialize import sample_from_json
from satmip_data.metadata.tabular import Standardizer
from satmip_data.names import counted
from satmip_data.records import Sample
from satmip_data.shards.dataset import CAPTION_JOURNAL, DATASET, JOURNAL, TRAIN, describe, read_dataset
from satmip_data.shards.members import Members
from satmip_data.shards.tar import read_samples
from satmip_data.storage.parquet import read_parquet
from satmip_data.storage.store import Store
from satmip_data.validation.index import check_counts, check_rows, rows_by_shard
from satmip_data.validation.problem import Problem
from satmip_data.validation.samples import check_sample
from satmip_data.validation.statistics import Moments, check_dataset, check_standardized, moments_of

SHOWN = 20
"""Problems kept of one shard: a shard of thousands alike must not drown the rest."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """Findings in one shard."""

    name: str
    keys: tuple[str, ...]
    problems: tuple[Problem, ...]
    moments: Moments


@dataclass(frozen=True, slots=True)
class Report:
    """Findings in a shard directory: no problems means proven."""

    samples: int
    shards: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Task:
    store: Store
    entry: dict[str, Any]
    dataset: dict[str, Any]
    rows: pa.Table | None
    """Of the index, for this shard; None where there are none."""


def validate(out: str, workers: int = 1, show: Show = no_show) -> Report:
    """Check every byte and every sample of a shard directory.

    Raises:
        BuildError: there is no finished build at all, or its `dataset.json` is damaged.
    """
    store = Store(out)
    dataset = read_dataset(store)
    problems = [*_check_folder(store, dataset), *check_dataset(dataset), *_check_files(store, dataset)]
    index = _read_table(store, "index.parquet", ("key", "shard", "flags"), problems)
    rejects = _read_table(store, "rejects.parquet", ("stage", "reason"), problems)
    rows = {} if index is None else rows_by_shard(index)
    reports: dict[str, ShardReport] = {}
    tasks = [_Task(store, entry, dataset, rows.get(entry["name"])) for entry in dataset["shards"] if store.exists(entry["name"])]
    for report in Local(workers).unordered(_check_shard, tasks):
        reports[report.name] = report
        samples = sum(len(r.keys) for r in reports.values())
        size = sum(task.entry["bytes"] for task in tasks if task.entry["name"] in reports)
        show(Progress("validate", len(reports), len(tasks), samples, 0, size))
    problems += [problem for name in sorted(reports) for problem in reports[name].problems]
    problems += [] if index is None else _check_index(index, dataset, reports)
    problems += [] if rejects is None else _check_rejects(rejects, dataset)
    lost = 0 if rejects is None else rejects["stage"].to_pylist().count("pack")
    train = [reports.get(entry["name"]) for entry in dataset["shards"] if entry["split"] == TRAIN]
    # A sample that is missing, or has a problem, counts in no sum: more problems would only follow from that one. Statistics are
    # fitted before pixels are read, so that samples whose pixels failed moved them too.
    whole = [report.moments for report in train if report is not None and not report.problems]
    if len(whole) == len(train) and not lost:
        problems += check_standardized(dataset, whole)
    return Report(sum(len(r.keys) for r in reports.values()), len(reports), tuple(problems))


def _check_folder(store: Store, dataset: dict[str, Any]) -> Iterator[Problem]:
    """Check that what is listed is there, that what is there is listed, and that no work is under way."""
    for journal, command in ((JOURNAL, "build"), (CAPTION_JOURNAL, "caption")):
        if store.exists(journal):
            yield Problem(journal, "finished", f"Work is under way. Run the same satmip-data {command} again to finish it")
    present = {name for name in store.names() if not any(part.startswith(".") for part in name.split("/"))}
    shards, files = {entry["name"] for entry in dataset["shards"]}, dataset.get("files", {})
    for name in sorted(shards - present):
        yield Problem(name, "shards", "The shard is listed in dataset.json and not there")
    for name in sorted(files.keys() - present):
        yield Problem(name, "files", "The file is listed in dataset.json and not there")
    foreign = present - shards - files.keys() - {DATASET}
    for name in sorted(name for name in foreign if "files" in dataset or name.endswith(".tar")):
        check = "shards" if name.endswith(".tar") else "files"
        yield Problem(name, check, "It is not listed in dataset.json: a file of something else, or of another build")


def _check_files(store: Store, dataset: dict[str, Any]) -> Iterator[Problem]:
    """Check the hash of every file beside the shards, and what open_clip reads; that of version 1 has no hashes."""
    for name, listed in dataset.get("files", {}).items():
        if store.exists(name) and (found := describe(store.read(name))) != listed:
            yield Problem(name, "sha256", f"{_size_and_hash(found)}; dataset.json lists {_size_and_hash(listed)}")
    for split in dataset["splits"]:
        name = f"{split}/sizes.json"
        sizes = {shard["name"].rpartition("/")[2]: shard["samples"] for shard in dataset["shards"] if shard["split"] == split}
        if _read_json(store, name) != sizes:
            yield Problem(name, "counts", "It does not hold the counts of dataset.json")


def _size_and_hash(entry: dict[str, Any]) -> str:
    return f"{entry['bytes']:,} bytes with sha256 {entry['sha256']}"


def _read_json(store: Store, name: str) -> Any:
    """Return a JSON value; None where there is none."""
    try:
        return json.loads(store.read(name))
    except (OSError, ValueError, RecursionError):
        return None


def _read_table(store: Store, name: str, needed: Sequence[str], problems: list[Problem]) -> pa.Table | None:
    """Return a Parquet file with the columns needed; what keeps it from being read is added to `problems`, and None returned."""
    try:
        table = read_parquet(store.read(name))
        table.select(needed).validate(full=True)
        table.select(needed).to_pylist()
        return table
    except Exception as error:  # a damaged file provokes many kinds
        problems.append(Problem(name, "index", f"It cannot be read: {type(error).__name__}: {error}"))
        return None


def _check_shard(task: _Task) -> ShardReport:
    name, columns = task.entry["name"], len(task.dataset["numeric"])
    data = task.store.read(name)
    problems = list(_check_archive(data, task.entry))
    keys: list[str] = []
    rows: list[tuple[Any, Any]] = []
    samples: list[Sample] = []
    standardizer = Standardizer.from_json(task.dataset)
    try:
        for key, members in read_samples(data):
            keys.append(key)
            found = [
                Problem(f"{name}: {key}", check, message) for check, message in _checked(key, members, task.dataset, standardizer)
            ]
            problems += found
            if not found:
                rows.append((_array(members, "num.npy"), _array(members, "mask.npy")))
                samples.append(sample_from_json(json.loads(members["json"])))
    except Exception as error:  # whatever a damaged archive provokes is a finding, with the error as its evidence
        problems.append(Problem(name, "archive", f"The archive cannot be read to its end: {cause(error)}"))
    if len(keys) != task.entry["samples"]:
        expected = task.entry["samples"]
        problems.append(Problem(name, "counts", f"The shard holds {counted(len(keys), 'sample')}; dataset.json says {expected}"))
    if task.rows is not None:
        problems += _check_rows(name, task.rows, samples)
    if len(problems) > SHOWN:
        problems[SHOWN:] = [Problem(name, "more", f"{len(problems) - SHOWN} further problems in this shard")]
    return ShardReport(name, tuple(keys), tuple(problems), moments_of(rows, columns))


def _check_rows(name: str, rows: pa.Table, samples: list[Sample]) -> list[Problem]:
    try:
        return [Problem("index.parquet", "index", message) for message in check_rows(name, rows, samples)]
    except Exception as error:  # such as a time out of range, or text that is none
        return [Problem("index.parquet", "index", f"The rows of {name} cannot be read: {cause(error)}")]


def _checked(key: str, members: Members, dataset: dict[str, Any], standardizer: Standardizer) -> Iterator[tuple[str, str]]:
    try:
        yield from check_sample(key, members, dataset, standardizer)
    except Exception as error:  # a member that cannot be read at all
        yield "members", f"A member cannot be read: {cause(error)}"


def _array(members: Members, suffix: str) -> Any:
    return np.load(io.BytesIO(members[suffix]), allow_pickle=False)


def _check_archive(data: bytes, entry: dict[str, Any]) -> Iterator[Problem]:
    name = entry["name"]
    if len(data) != entry["bytes"]:
        yield Problem(name, "bytes", f"The shard has {counted(len(data), 'byte')}; dataset.json says {entry['bytes']:,}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        yield Problem(name, "sha256", f"The shard's SHA-256 is {digest}; dataset.json says {entry['sha256']}")
    # A tar cut between two members reads without an error: only its two closing blocks of zeros tell that it is whole.
    if len(data) % BLOCKSIZE or data[-2 * BLOCKSIZE :] != bytes(2 * BLOCKSIZE):
        yield Problem(name, "archive", "The archive is cut short: it does not end with two blocks of zeros")


def _check_index(index: pa.Table, dataset: dict[str, Any], reports: dict[str, ShardReport]) -> Iterator[Problem]:
    table = index.select(["key", "shard", "flags"]).to_pydict()
    for message in check_counts("flags", [flag for flags in table["flags"] for flag in flags or ()], dataset["flags"]):
        yield Problem("index.parquet", "counts", message)
    by_shard: dict[str, list[str]] = {entry["name"]: [] for entry in dataset["shards"]}
    for key, shard in zip(table["key"], table["shard"], strict=True):
        by_shard.setdefault(shard, []).append(key)
    if len(set(table["key"])) != len(table["key"]):
        twice = next(key for key, count in Counter(table["key"]).items() if count > 1)
        yield Problem("index.parquet", "keys", f"The key {twice} stands twice")
    for name, keys in by_shard.items():
        if name in reports and tuple(keys) != reports[name].keys:
            yield Problem(name, "index", "The shard holds other samples than index.parquet says, or in another order")


def _check_rejects(rejects: pa.Table, dataset: dict[str, Any]) -> Iterator[Problem]:
    for message in check_counts("rejects", rejects["reason"].to_pylist(), dataset["rejects"]):
        yield Problem("rejects.parquet", "counts", message)
