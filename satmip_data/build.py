"""The whole story of a build: scan -> index -> plan -> pack -> seal."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import satmip_schemas

from satmip_data import imagery, tabular
from satmip_data.engines import run_unordered
from satmip_data.index import Index, build_index
from satmip_data.journal import Journal, OtherSettingsError, differences
from satmip_data.plan import ShardPlan, plan_shards
from satmip_data.records import Reject
from satmip_data.serialize import sample_to_json
from satmip_data.settings import BuildSettings
from satmip_data.shards import CaptionCount, ChannelSums, PackTask, ShardRecord, dump_json, pack_shard
from satmip_data.sources.base import Source
from satmip_data.storage import Store
from satmip_data.tables import index_table, parquet_bytes, rejects_table

JOURNAL = ".build"
TRAIN = "train"
"""The split on which features are standardized and channel statistics taken."""


class BuildError(Exception):
    """A build that cannot go on; the message says what to type next."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build from what, and with how many hands."""

    source: Source
    root: str
    out: str
    settings: BuildSettings
    workers: int = 1
    limit: int | None = None
    max_rejects: int | None = None
    """Fail when more scenes or AOIs than this give no sample; None never fails."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build has come, for a display."""

    stage: str
    done: int
    total: int
    samples: int
    rejects: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a build is going to do, known before a pixel is decoded."""

    index: Index
    shards: tuple[ShardPlan, ...]
    classes: tuple[str, ...]
    standardizer: tabular.Standardizer


def plan_build(request: BuildRequest) -> Plan:
    """Read all metadata and lay out every shard.

    Raises:
        BuildError: the source holds nothing.
    """
    index = build_index(request.source, request.root, request.settings, request.workers, request.limit)
    if not index.samples:
        raise BuildError(_nothing_found(request, index))
    classes = tuple(sorted({name for s in index.samples for name in (s.category, *s.labels) if name is not None}))
    shards = plan_shards(index.samples, request.settings.seed, request.settings.samples_per_shard)
    train = [sample.metadata for shard in shards if shard.split == TRAIN for sample in shard.samples]
    return Plan(index, shards, classes, tabular.fit(train))


def _nothing_found(request: BuildRequest, index: Index) -> str:
    reasons = Counter(reject.reason for reject in index.rejects)
    found = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common()) or "no item at all"
    example = f" First: {index.rejects[0].path}: {index.rejects[0].message}." if index.rejects else ""
    return (
        f"{request.root} must hold scenes of the source {request.source.name!r}, however: {found}.{example}\n"
        "Name another folder, or another archive with --source."
    )


def build(request: BuildRequest, show: Callable[[Progress], None] = lambda progress: None) -> dict[str, Any]:
    """Build a shard directory, or finish one begun with the same settings; return its `dataset.json`.

    Shards that are whole are not written again. Nothing of the result depends on the workers or on interruptions.

    Raises:
        BuildError: nothing to build, another build in the folder, or too many rejects.
    """
    out = Store(request.out)
    if out.exists("dataset.json"):
        return _already_built(request, out)
    show(Progress("index", 0, 1, 0, 0))
    plan = plan_build(request)
    journal = Journal(out, JOURNAL)
    try:
        journal.begin({**_intent(request), "plan": _fingerprint(plan)})
    except OtherSettingsError as error:
        raise BuildError(
            f"{request.out} holds an unfinished build with other settings:\n{error}\n"
            "Use the same settings to finish it, choose another folder, or delete this one."
        ) from error
    records = _pack(request, plan, out, journal, show)
    rejects = (*plan.index.rejects, *(reject for record in records for reject in record.rejects))
    if request.max_rejects is not None and len(rejects) > request.max_rejects:
        out.write("rejects.parquet", parquet_bytes(rejects_table(rejects)))
        raise BuildError(
            f"at most {request.max_rejects} rejects were allowed, however: {len(rejects)}. They are listed in "
            f"{out.path('rejects.parquet')}; mend the input, or build again with a larger --max-rejects."
        )
    return _seal(request, plan, records, rejects, out, journal)


def _already_built(request: BuildRequest, out: Store) -> dict[str, Any]:
    dataset: dict[str, Any] = json.loads(out.read("dataset.json"))
    built = {"source": dataset["source"], "settings": dataset["settings"]}
    wanted = _intent(request)
    # The captions may have been rewritten since: they are no reason to build again.
    for name in ("fields", "style"):
        built["settings"][name] = wanted["settings"][name]
    if changes := differences(built, wanted):
        raise BuildError(
            f"{request.out} holds a finished build with other settings:\n" + "\n".join(changes) + "\nChoose another folder."
        )
    return dataset


def _intent(request: BuildRequest) -> dict[str, Any]:
    options: dict[str, Any] = json.loads(dump_json(asdict(request.source)))
    return {
        "source": {"name": request.source.name, "root": request.root, "options": options, "licence": request.source.licence},
        "settings": {**request.settings.to_json(), "limit": request.limit},
    }


def _fingerprint(plan: Plan) -> str:
    digest = hashlib.sha256()
    for shard in plan.shards:
        for sample in shard.samples:
            digest.update(shard.name.encode() + dump_json(sample_to_json(sample)))
    return digest.hexdigest()


def _pack(request: BuildRequest, plan: Plan, out: Store, journal: Journal, show: Callable[[Progress], None]) -> list[ShardRecord]:
    """Pack the shards that are not yet whole; return the records of all of them in the order of the plan."""
    records = journal.finished()
    tasks = [
        PackTask(shard, request.source, request.root, out, request.settings, plan.standardizer, plan.classes)
        for shard in plan.shards
        if shard.name not in records
    ]
    rejects = len(plan.index.rejects)

    def report() -> None:
        done = records.values()
        lost = rejects + sum(len(record.rejects) for record in done)
        show(Progress("pack", len(records), len(plan.shards), sum(record.samples for record in done), lost))

    report()
    for record in run_unordered(pack_shard, tasks, request.workers):
        journal.add(record)
        records[record.name] = record
        report()
    return [records[shard.name] for shard in plan.shards]


def _seal(
    request: BuildRequest, plan: Plan, records: list[ShardRecord], rejects: tuple[Reject, ...], out: Store, journal: Journal
) -> dict[str, Any]:
    """Write the tables and, last, `dataset.json`."""
    lost = {reject.key for record in records for reject in record.rejects}
    rows = [(shard.name, s) for shard in plan.shards for s in shard.samples if s.key not in lost]
    whole = [record for record in records if record.samples]
    for record in records:
        if not record.samples:
            out.remove(record.name)
    dataset = _describe(request, plan, whole, rejects)
    out.write("index.parquet", parquet_bytes(index_table(rows)))
    out.write("rejects.parquet", parquet_bytes(rejects_table(rejects)))
    out.write("sizes.json", dump_json({record.name: record.samples for record in whole}))
    write_dataset(out, dataset)
    journal.close()
    return dataset


def _describe(request: BuildRequest, plan: Plan, records: list[ShardRecord], rejects: tuple[Reject, ...]) -> dict[str, Any]:
    captions, channels, train = CaptionCount(), ChannelSums(), 0
    for record in records:
        captions.merge(record.captions)
        if record.split == TRAIN:
            channels.add(record.channels)
            train += record.samples
    mean, std = channels.mean_std()
    settings = request.settings
    return {
        "schema_version": satmip_schemas.SCHEMA_VERSION,
        "software": {name: version(name) for name in ("satmip", "numpy", "pillow", "pyproj", "webdataset")},
        **_intent(request),
        "decoder": imagery.decoder_info(),
        "size": None if settings.size is None else [settings.size, settings.size],
        "splits": {
            split: {
                "samples": sum(r.samples for r in records if r.split == split),
                "shards": sum(r.split == split for r in records),
            }
            for split in sorted({record.split for record in records})
        },
        "classes": list(plan.classes),
        "shards": [shard_entry(record) for record in records],
        **plan.standardizer.to_json(),
        "caption": {"fields": list(settings.fields), "style": settings.style, **captions.to_json()},
        "channels": {"mean": mean, "std": std, "samples": train},
        "rejects": dict(sorted(Counter(reject.reason for reject in rejects).items())),
    }


def shard_entry(record: ShardRecord) -> dict[str, Any]:
    """Return a shard's line of `dataset.json`."""
    return {name: getattr(record, name) for name in ("name", "split", "samples", "bytes", "sha256")}


def write_dataset(out: Store, dataset: dict[str, Any]) -> None:
    """Write `dataset.json` after checking it against its schema; an offence there is a bug of ours and stops all."""
    error = satmip_schemas.first_error("dataset", dataset)
    if error is not None:
        raise AssertionError(f"dataset.json must follow its schema, however: {error}")
    out.write("dataset.json", json.dumps(dataset, indent=1, ensure_ascii=False, allow_nan=False).encode())
