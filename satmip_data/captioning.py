"""Write other captions into shards that are there. Needs the shards alone; can be stopped and run again."""

from functools import partial
from typing import Any

from satmip_data.build import CAPTION_JOURNAL, read_dataset, write_dataset
from satmip_data.engines import Local
from satmip_data.journal import Journal, OtherSettingsError
from satmip_data.progress import Progress, Show, no_show
from satmip_data.shards import CaptionCount, CaptionRewrite, ShardRecord, recaption_shard
from satmip_data.storage import Store


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
    write_dataset(store, new)
    journal.close()
    return new


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
