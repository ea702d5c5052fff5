"""Write other captions into shards that are there. Needs the shards alone; can be stopped and run again."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from shlex import quote
from typing import Any

from satmip_data.errors import ShardError
from satmip_data.execution.engines import Local
from satmip_data.execution.progress import Progress, Show, no_show
from satmip_data.metadata.captions import caption
from satmip_data.metadata.serialize import metadata_from_json
from satmip_data.pipeline.journal import Journal, OtherSettingsError
from satmip_data.shards.dataset import CAPTION_JOURNAL, read_dataset, write_dataset
from satmip_data.shards.members import Members
from satmip_data.shards.record import CaptionCount, ChannelSums, ShardRecord
from satmip_data.shards.tar import add_members, file_sha256, new_tar, read_samples
from satmip_data.storage.store import Store


@dataclass(frozen=True, slots=True)
class CaptionRewrite:
    """The captions that every shard is to hold."""

    fields: tuple[str, ...]
    style: str


def recaption_shard(out: Store, standing: CaptionRewrite, rewrite: CaptionRewrite, entry: dict[str, Any]) -> ShardRecord:
    """Write a shard again with other captions and everything else unchanged, byte for byte.

    Args:
        out: the shard directory.
        standing: the captions of `dataset.json`.
        rewrite: the captions to write.
        entry: the shard's line of `dataset.json`.

    Raises:
        ShardError: it is neither the shard of `dataset.json` nor that shard with other captions, as a rewriting that was stopped
            leaves it; it stays as it is.
    """
    name, sha256 = entry["name"], entry["sha256"]
    data, counts, count = out.read(name), CaptionCount(), 0
    found = hashlib.sha256(data).hexdigest()
    if found != sha256 and _hash_with(data, standing) != sha256:
        raise ShardError(
            f"{name} is damaged: its SHA-256 is {found[:12]}..., and dataset.json says {sha256[:12]}... To see what is lost, run: "
            f"satmip-data validate {quote(out.url)}   Then build again into another folder."
        )
    with out.staging(name) as staged:
        with new_tar(staged) as tar:
            for key, members in _recaptioned(data, rewrite):
                add_members(tar, key, members)
                counts.add(key, members["txt"].decode())
                count += 1
        size, digest = staged.stat().st_size, file_sha256(staged)
    return ShardRecord(name, name.partition("/")[0], count, size, digest, counts, ChannelSums(), ())


def _recaptioned(data: bytes, rewrite: CaptionRewrite) -> Iterator[tuple[str, Members]]:
    for key, members in read_samples(data):
        text = caption(metadata_from_json(json.loads(members["json"])["metadata"]), rewrite.fields, rewrite.style)
        yield key, {**members, "txt": text.encode()}


def _hash_with(data: bytes, rewrite: CaptionRewrite) -> str | None:
    """Return the SHA-256 that a shard would have with other captions; None where it cannot be read."""
    stream = io.BytesIO()
    try:
        with tarfile.open(fileobj=stream, mode="w|") as tar:
            for key, members in _recaptioned(data, rewrite):
                add_members(tar, key, members)
    except Exception:  # whatever a damaged archive provokes
        return None
    return hashlib.sha256(stream.getbuffer()).hexdigest()


def recaption(out: str, rewrite: CaptionRewrite, workers: int = 1, show: Show = no_show) -> dict[str, Any]:
    """Write the captions of every shard anew; return the new `dataset.json`.

    Each shard is replaced in one step and `dataset.json` last. Meanwhile the folder `.caption` tells readers to wait; running
    again finishes the work, also with another choice of fields.

    Raises:
        BuildError: there is no finished build.
        ShardError: a shard is damaged: it is not the one of `dataset.json`.
        LockedError: another process writes to the folder.
    """
    store = Store(out)
    dataset = read_dataset(store)
    caption = {"fields": list(rewrite.fields), "style": rewrite.style}
    if not store.exists(CAPTION_JOURNAL) and {name: dataset["caption"][name] for name in caption} == caption:
        return dataset
    with store.locked():
        return _recaption(store, rewrite, workers, show)


def _recaption(store: Store, rewrite: CaptionRewrite, workers: int, show: Show) -> dict[str, Any]:
    dataset, journal = read_dataset(store), Journal(store, CAPTION_JOURNAL)
    caption = {"fields": list(rewrite.fields), "style": rewrite.style}
    try:
        journal.begin(caption)
    except OtherSettingsError:  # begun with other fields: every shard is written again
        journal.restart(caption)
    records = _rewrite(store, dataset, rewrite, journal, workers, show)
    counts = CaptionCount()
    for record in records:
        counts.merge(record.captions)
    shards = [{**entry, **_changed(record)} for record, entry in zip(records, dataset["shards"], strict=True)]
    new = {**dataset, "shards": shards, "caption": {**caption, **counts.to_json()}}
    written = write_dataset(store, new, {})
    journal.close()
    return written


def _changed(record: ShardRecord) -> dict[str, Any]:
    """Return what a rewriting changes in a shard's line of `dataset.json`: it sees no pixels."""
    return {name: value for name, value in record.entry().items() if name in ("bytes", "sha256", "captions")}


def _rewrite(
    store: Store,
    dataset: dict[str, Any],
    rewrite: CaptionRewrite,
    journal: Journal,
    workers: int,
    show: Show,
) -> list[ShardRecord]:
    records = journal.finished()
    shards = dataset["shards"]
    standing = CaptionRewrite(tuple(dataset["caption"]["fields"]), dataset["caption"]["style"])
    left = [shard for shard in shards if shard["name"] not in records]

    def report() -> None:
        done = records.values()
        show(Progress("caption", len(records), len(shards), sum(r.samples for r in done), 0, sum(r.bytes for r in done)))

    report()
    for record in Local(workers).unordered(partial(recaption_shard, store, standing, rewrite), left):
        journal.add(record)
        records[record.name] = record
        report()
    return [records[shard["name"]] for shard in shards]
