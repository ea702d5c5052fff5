"""The whole story of a build: scan -> index -> plan -> pack -> seal."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import Field, dataclass, fields, replace
from importlib.metadata import version
from shlex import quote
from typing import Any

import satmip_schemas

from satmip_data.errors import BuildError
from satmip_data.execution.progress import Progress, Show, no_show
from satmip_data.imagery import decoders, scaling
from satmip_data.metadata import tabular
from satmip_data.metadata.serialize import sample_to_json
from satmip_data.names import counted, without_secrets
from satmip_data.pipeline.equal_chips import EQUAL_CHIPS, equal_chips, equal_chips_file, read_equal_chips
from satmip_data.pipeline.index import Index, build_index, collector_paused
from satmip_data.pipeline.journal import Journal, OtherSettingsError, differences
from satmip_data.pipeline.pack import PackTask, pack_shard
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.selection import select
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.pipeline.shard_plan import ShardPlan, plan_shards
from satmip_data.records import Reject, Sample
from satmip_data.shards.dataset import CAPTION_JOURNAL, JOURNAL, TRAIN, read_dataset, read_table, write_dataset
from satmip_data.shards.index_table import index_table, rejects_table
from satmip_data.shards.members import dump_json
from satmip_data.shards.record import CaptionCount, ChannelSums, ShardRecord
from satmip_data.sources.archive import Archive
from satmip_data.sources.base import Source
from satmip_data.storage.locations import same_place
from satmip_data.storage.parquet import parquet_bytes
from satmip_data.storage.store import Store

LOG = "rejects.log"
"""Tracebacks of rejects that ended in an error that satmip does not know."""


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Everything a build is going to do, known before a pixel is decoded."""

    index: Index
    shards: tuple[ShardPlan, ...]
    classes: tuple[str, ...]
    standardizer: tabular.Standardizer
    dropped: dict[str, int]
    """Samples that the selection leaves out, by the choice that does."""
    fingerprint: str
    """SHA-256 over all samples and their shards."""

    def tasks(self, request: BuildRequest) -> list[PackTask]:
        """Return the task of every shard, in the order of the plan."""
        shared = (request.source, request.root, Store(request.out), request.settings, self.standardizer, self.classes)
        return [PackTask(shard, *shared, request.decoder, request.limits) for shard in self.shards]


@collector_paused()
def plan_build(request: BuildRequest, show: Show = no_show) -> BuildPlan:
    """Read all metadata and lay out every shard.

    Raises:
        BuildError: the source holds nothing, or nothing of it is selected.
        SelectionError: the selection cannot be made.
        UnitsError: rasters of it declare different scales.
    """
    index = build_index(request.source, request.root, request.settings, request.engine, request.limit, show, request.limits)
    if not index.samples:
        raise BuildError(_nothing_found(request, index))
    samples, dropped = select(index.samples, request.selection, request.settings.seed)
    if not samples:
        counts = ", ".join(f"--{option} drops {count:,}" for option, count in dropped.items())
        raise BuildError(f"No sample is left of {len(index.samples):,}: {counts}. Relax one of these options.")
    if isinstance(request.source, Archive):
        request.source.check_units(samples)
    index = replace(index, samples=samples)
    classes = tuple(sorted({name for s in samples for name in (s.category, *s.labels) if name is not None}))
    shards = plan_shards(samples, request.settings.seed, request.settings.samples_per_shard)
    train = [sample.metadata for shard in shards if shard.split == TRAIN for sample in shard.samples]
    return BuildPlan(index, shards, classes, tabular.fit(train), dropped, _fingerprint(shards))


def _nothing_found(request: BuildRequest, index: Index) -> str:
    return (
        f'{request.root} gave no sample of the source "{request.source.name}": {_reasons(index.rejects)}\n'
        "If it is an archive of another kind, name its source: satmip-data build --source NAME SOURCE"
    )


def _reasons(rejects: tuple[Reject, ...]) -> str:
    reasons = Counter(reject.reason for reject in rejects)
    found = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common()) or "nothing was found"
    return f"{found}." + (f" First: {rejects[0].path}: {rejects[0].message.removesuffix('.')}." if rejects else "")


def build(request: BuildRequest, show: Show = no_show) -> dict[str, Any]:
    """Build a shard directory, or finish one begun with the same settings; return its `dataset.json`.

    Shards that are whole are not written again. Nothing of the result depends on the workers or on interruptions.

    Raises:
        BuildError: nothing to build, something else in the folder, too many rejects, or nothing but rejects.
        SelectionError: the selection cannot be made.
        EngineError: there is no such engine.
        LockedError: another process writes to the folder.
    """
    if (done := standing(request)) is not None:
        return done
    out = Store(request.out)
    out.check_writable()
    journal = Journal(out, JOURNAL)
    finished = _finished(request, out)
    if finished is None and journal.intent() is None and out.occupied():
        raise BuildError(f"{request.out} holds other files, and shards are written into an empty folder. Name another folder.")
    if request.retry_rejects:
        request = _with_standing_captions(request, finished, journal)
    show(Progress("index", 0, 1, 0, 0))
    plan = plan_build(request, show)
    with out.locked():
        if _finished(request, out) == finished:
            if finished is None:
                _begin(request, plan, journal)
            else:
                _reopen(request, plan, finished, out, journal)
            return _finish(request, plan, out, journal, show)
    return build(request, show)  # another process has finished it while this one planned


def standing(request: BuildRequest) -> dict[str, Any] | None:
    """Return the `dataset.json` of a finished build that leaves nothing to do, so that the source is not read; else None.

    Raises:
        BuildError: the folder holds a finished build with other settings.
        LockedError: another process writes to the folder.
    """
    out = Store(request.out)
    finished = _finished(request, out)
    if finished is None or (request.retry_rejects and _packing_rejects(out, finished)):
        return None
    if out.exists(JOURNAL):  # a process was killed after it had sealed the build, or before it reopened it
        with out.locked():
            Journal(out, JOURNAL).close()
    return finished


def _finish(request: BuildRequest, plan: BuildPlan, out: Store, journal: Journal, show: Show) -> dict[str, Any]:
    """Pack what is missing and seal, unless there are too many rejects."""
    records = _pack(request, plan, journal, show)
    rejects = (*plan.index.rejects, *(reject for record in records for reject in record.rejects))
    if request.max_rejects is not None and len(rejects) > request.max_rejects:
        _write_rejects(out, rejects)
        raise BuildError(
            f"There are {counted(len(rejects), 'reject')}, and --max-rejects allows {request.max_rejects:,}. They are listed in "
            f"{request.out.rstrip('/')}/rejects.parquet. Mend the input and add --retry-rejects, or allow more."
        )
    if not any(record.samples for record in records):
        _write_rejects(out, rejects)
        raise BuildError(
            f"No image gave a chip: {_reasons(rejects)}\nRepair the input, then run the same command with --retry-rejects."
        )
    return _seal(request, plan, records, rejects, out, journal)


def _finished(request: BuildRequest, out: Store) -> dict[str, Any] | None:
    """Return the `dataset.json` of a finished build; None where there is none.

    Raises:
        BuildError: it was built with other settings.
    """
    if not out.exists("dataset.json"):
        return None
    dataset = read_dataset(out)
    built = {"source": dataset["source"], "settings": dataset["settings"]}
    wanted = _spelled_as(built, _intent(request))
    # The captions may have been rewritten since: they are no reason to build again.
    for name in ("fields", "style"):
        built["settings"][name] = wanted["settings"][name]
    if changes := differences(built, wanted):
        raise BuildError(
            f"{request.out} holds a finished build with other settings:\n" + "\n".join(changes) + "\nChoose another folder."
        )
    return dataset


def _begin(request: BuildRequest, plan: BuildPlan, journal: Journal) -> None:
    intent = _spelled_as(journal.intent(), _intent(request))
    try:
        journal.begin({**intent, "plan": plan.fingerprint})
    except OtherSettingsError as error:
        raise BuildError(
            f"{request.out} holds an unfinished build with other settings:\n{error}\n"
            "Use the same settings to finish it, choose another folder, or delete this one."
        ) from error


def _packing_rejects(out: Store, finished: dict[str, Any]) -> set[str]:
    """Return the keys of the samples whose images gave no chip."""
    table = read_table(out, finished, "rejects.parquet").to_pylist()
    return {row["key"] for row in table if row["stage"] == "pack"}


def _with_standing_captions(request: BuildRequest, finished: dict[str, Any] | None, journal: Journal) -> BuildRequest:
    """Return the request with the caption fields and style of the shards that stand: those that are retried must match them."""
    intent = journal.intent()
    standing = finished["caption"] if finished is not None else intent["settings"] if intent is not None else None
    if standing is None:
        return request
    return replace(request, settings=replace(request.settings, fields=tuple(standing["fields"]), style=standing["style"]))


def _reopen(request: BuildRequest, plan: BuildPlan, finished: dict[str, Any], out: Store, journal: Journal) -> None:
    """Make a finished build one that only lacks the shards with packing rejects."""
    if plan.fingerprint != finished["plan"]:
        raise BuildError(
            f"The metadata of {request.root} have changed since the build, so --retry-rejects cannot go on from it. "
            "Build into another folder."
        )
    if out.exists(CAPTION_JOURNAL):
        raise BuildError(
            f"The captions of {request.out} are half rewritten, and --retry-rejects would mix the two. Finish that first: "
            f"satmip-data caption {quote(request.out)}"
        )
    _begin(request, plan, journal)
    lost = _packing_rejects(out, finished)
    incomplete = {shard.name for shard in plan.shards if any(sample.key in lost for sample in shard.samples)}
    for entry in finished["shards"]:
        if entry["name"] not in incomplete:
            journal.add(ShardRecord.from_entry(entry))
    out.remove("dataset.json")


def _intent(request: BuildRequest) -> dict[str, Any]:
    source = request.source
    given = {field.name: getattr(source, field.name) for field in fields(source) if _recorded(source, field)}
    options = {name: without_secrets(value) if isinstance(value, str) else value for name, value in given.items()}
    settings = {**request.settings.to_json(), "limit": request.limit, "selection": request.selection.to_json()}
    root = without_secrets(request.root)
    return {"source": {"name": source.name, "root": root, "options": options, "licence": source.licence}, "settings": settings}


def _spelled_as(before: dict[str, Any] | None, intent: dict[str, Any]) -> dict[str, Any]:
    """Return an intent with the places that it shares with one before in the words of that: `fmow/` and `fmow` are one."""
    if before is None:
        return intent
    source, old = dict(intent["source"]), before["source"]
    if same_place(source["root"], old["root"]):
        source["root"] = old["root"]
    places = {name: old["options"][name] for name in ("metadata", "split_file", "images") if old["options"].get(name)}
    same = {name: place for name, place in places.items() if same_place(place, source["options"].get(name, ""))}
    return {**intent, "source": {**source, "options": {**source["options"], **same}}}


def _recorded(source: Source, field: Field[Any]) -> bool:
    """Tell whether an option is written down: one that earlier versions did not have is where it was given."""
    return field.metadata.get("recorded") != "if given" or getattr(source, field.name) != field.default


def _fingerprint(shards: tuple[ShardPlan, ...]) -> str:
    digest = hashlib.sha256()
    for shard in shards:
        for sample in shard.samples:
            digest.update(shard.name.encode() + dump_json(sample_to_json(sample)))
            added = scaling.lines(sample.scaling, sample.scene_metadata.platform, apply_scale=False)
            if any(offset for _, offset in added):
                digest.update(repr(added).encode())
    return digest.hexdigest()


def _pack(request: BuildRequest, plan: BuildPlan, journal: Journal, show: Show) -> list[ShardRecord]:
    """Pack the shards that are not yet whole; return the records of all of them in the order of the plan."""
    records = journal.finished()
    if request.retry_rejects:
        records = {name: record for name, record in records.items() if not record.rejects}
    tasks = [task for task in plan.tasks(request) if task.shard.name not in records]
    tasks.sort(key=lambda task: -_work(task.shard))
    rejects = len(plan.index.rejects)

    def report() -> None:
        done = records.values()
        lost = rejects + sum(len(record.rejects) for record in done)
        size, saved = sum(record.bytes for record in done), sum(record.saved for record in done)
        show(Progress("pack", len(records), len(plan.shards), sum(record.samples for record in done), lost, size, saved))

    report()
    for record in request.engine.unordered(pack_shard, tasks):
        journal.add(record)
        records[record.name] = record
        report()
    return [records[shard.name] for shard in plan.shards]


def _work(shard: ShardPlan) -> int:
    """Return the pixels that are decoded for a shard: the longest tasks go first, so that no core waits for one at the end."""
    return sum(sample.scene_width * (sample.window.y + sample.window.height) for sample in shard.samples)


def _seal(
    request: BuildRequest, plan: BuildPlan, records: list[ShardRecord], rejects: tuple[Reject, ...], out: Store, journal: Journal
) -> dict[str, Any]:
    """Write the tables and, last, `dataset.json`."""
    lost = {reject.key for record in records for reject in record.rejects}
    damaged = {key for record in records for key in record.damaged}
    kept = ((shard.name, s) for shard in plan.shards for s in shard.samples if s.key not in lost)
    rows = [(name, replace(s, flags=(*s.flags, "image_damaged")) if s.key in damaged else s) for name, s in kept]
    whole = [record for record in records if record.samples]
    for record in records:
        if not record.samples:
            out.remove(record.name)
    dataset = {**_describe(request, plan, whole, rejects), "flags": count_flags(sample for _, sample in rows)}
    digests = ((record.split, key, digest) for record in whole for key, digest in record.chips.items())
    keys = {sample.key for _, sample in rows}
    before = {key: other for key, other in read_equal_chips(out).items() if key in keys}  # of shards that a retry leaves
    equal = equal_chips_file({**before, **equal_chips(digests)})
    files = {"index.parquet": parquet_bytes(index_table(rows)), **_reject_files(rejects), **equal}
    for name in (LOG, EQUAL_CHIPS):  # of an earlier attempt
        out.remove(name)
    for split in dataset["splits"]:
        # As open_clip looks for it: beside the shards, by their base names.
        sizes = {record.name.rpartition("/")[2]: record.samples for record in whole if record.split == split}
        files[f"{split}/sizes.json"] = dump_json(sizes)
    dataset = write_dataset(out, dataset, files)
    journal.close()
    return dataset


def _reject_files(rejects: tuple[Reject, ...]) -> dict[str, bytes]:
    """Return the table of rejects and, where an error came that satmip does not know, `LOG` with its traceback, by name."""
    traces = [f"{reject.key or reject.path}: {reject.path}\n{reject.trace}" for reject in rejects if reject.trace]
    log = {LOG: "\n".join(traces).encode("utf-8", "backslashreplace")} if traces else {}
    return {"rejects.parquet": parquet_bytes(rejects_table(rejects)), **log}


def _write_rejects(out: Store, rejects: tuple[Reject, ...]) -> None:
    out.remove(LOG)
    for name, content in _reject_files(rejects).items():
        out.write(name, content)


def _describe(request: BuildRequest, plan: BuildPlan, records: list[ShardRecord], rejects: tuple[Reject, ...]) -> dict[str, Any]:
    captions, channels, train = CaptionCount(), ChannelSums(), 0
    for record in records:
        captions.merge(record.captions)
        if record.split == TRAIN:
            channels.add(record.channels)
            train += record.samples
    mean, std = channels.mean_std()
    settings = request.settings
    return {
        "software": {name: version(name) for name in ("satmip", "numpy", "pillow", "pyproj")},
        **_intent(request),
        "decoder": decoders.decoder_info(request.decoder),
        "image": satmip_schemas.RGB,
        **scaling.record((s for shard in plan.shards for s in shard.samples), getattr(request.source, "apply_scale", False)),
        "size": _chip_size(settings, plan),
        "splits": {
            split: {
                "samples": sum(r.samples for r in records if r.split == split),
                "shards": sum(r.split == split for r in records),
            }
            for split in sorted({record.split for record in records})
        },
        "classes": list(plan.classes),
        "shards": [record.entry() for record in records],
        "plan": plan.fingerprint,
        **plan.standardizer.to_json(),
        "caption": {"fields": list(settings.fields), "style": settings.style, **captions.to_json()},
        "channels": {"mean": mean, "std": std, "samples": train},
        "files": {},
        "rejects": dict(sorted(Counter(reject.reason for reject in rejects).items())),
        "dropped": plan.dropped,
    }


def count_flags(samples: Iterable[Sample]) -> dict[str, int]:
    """Return how many samples carry each flag of `checks.FLAGS`."""
    return dict(sorted(Counter(flag for sample in samples for flag in sample.flags).items()))


def _chip_size(settings: BuildSettings, plan: BuildPlan) -> list[int] | None:
    """Return [width, height] if all chips share it: as asked for, or because windows that keep their size are all alike."""
    if settings.size is not None:
        return [settings.size, settings.size]
    sizes = {(sample.window.width, sample.window.height) for shard in plan.shards for sample in shard.samples}
    return list(sizes.pop()) if len(sizes) == 1 else None
