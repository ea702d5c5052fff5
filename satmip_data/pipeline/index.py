"""Scenes to one list of samples and one list of rejects. Reads metadata, never a pixel."""

import gc
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from satmip_data import geometry
from satmip_data.execution.engines import Engine
from satmip_data.execution.progress import Progress, Show, no_show
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import Aoi, Reject, Sample, Scene, Window, crash, with_digest
from satmip_data.sources.base import Found, Item, LayoutError, LocatedElsewhere, Source, read_safely
from satmip_data.storage.limits import DEFAULT, Limits, using
from satmip_data.storage.store import IN_FLIGHT, Store

ITEMS_A_TASK = 64
MAX_KEY = 80
"""Longest sample key: with its suffix it must fit the 100 bytes of a plain tar name."""


_KEY = re.compile("[^./A-Z]+")
"""Of keys, as the schema has it: what follows the first dot of a member's name tells its kind."""

_UNWRITABLE = re.compile("[\\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Index:
    """Everything known before a pixel is decoded: samples in the source's order, and what gave none."""

    samples: tuple[Sample, ...]
    rejects: tuple[Reject, ...]


@dataclass(frozen=True, slots=True)
class _Task:
    source: Source
    root: str
    items: tuple[Item, ...]
    settings: BuildSettings
    limits: Limits = DEFAULT


@contextmanager
def collector_paused() -> Iterator[None]:
    """Stop the search for cycles of references while very many values are made of which none refers back to another.

    It would look through all of them again and again, which takes a fifth of the time of an index.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@collector_paused()
def build_index(
    source: Source,
    root: str,
    settings: BuildSettings,
    engine: Engine,
    limit: int | None = None,
    show: Show = no_show,
    limits: Limits = DEFAULT,
) -> Index:
    """Read the metadata of every item of a source; the result does not depend on `engine`.

    Args:
        source: the archive's reader with its options.
        root: folder or URL of the archive.
        settings: the crop's choices.
        engine: where the work is done.
        limit: keep the first so many items only.
        show: is told of every batch of items.
        limits: what one file may take.

    Raises:
        FileNotFoundError: the archive is not there, or its layout is not this source's.
    """
    with using(limits):
        items = _items(source, root)[:limit]
        if isinstance(source, LocatedElsewhere) and ("location" in settings.fields or settings.gsd == "ground"):
            source.check_location(root, items)
    batches = [tuple(items[start : start + ITEMS_A_TASK]) for start in range(0, len(items), ITEMS_A_TASK)]
    tasks = [_Task(source, root, batch, settings, limits) for batch in batches]
    return _without_duplicates(_shown(engine.ordered(_run, tasks), len(tasks), show))


def _items(source: Source, root: str) -> list[Item]:
    try:
        return source.list_items(root)
    except FileNotFoundError as error:
        if Store(root).exists():
            raise
        raise LayoutError(f"{error}. Check the path: there is no {root!r}") from error


def _shown(batches: Iterable[list[Sample | Reject]], total: int, show: Show) -> Iterator[Sample | Reject]:
    samples = rejects = 0
    for done, batch in enumerate(batches, 1):
        lost = sum(isinstance(found, Reject) for found in batch)
        samples, rejects = samples + len(batch) - lost, rejects + lost
        show(Progress("index", done, total, samples, rejects))
        yield from batch


def _run(task: _Task) -> list[Sample | Reject]:
    with using(task.limits):
        read = _read_items(task)
    return [
        sample
        for results in read
        for found in results
        for sample in ([found] if isinstance(found, Reject) else _samples(found, task.settings))
    ]


def _read_items(task: _Task) -> list[list[Found]]:
    read = partial(read_safely, task.source, task.root)
    if not Store(task.root).remote:
        return [read(item) for item in task.items]
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(pool.map(read, task.items))


def _samples(scene: Scene, settings: BuildSettings) -> list[Sample | Reject]:
    try:
        return list(samples_of(scene, settings))
    except MemoryError:
        raise
    except Exception as error:
        return [crash(scene.path, "index", error, scene.key)]


def samples_of(scene: Scene, settings: BuildSettings) -> Iterator[Sample | Reject]:
    """Give one sample, or the reject with its reason, for each AOI of a scene."""
    unwritable = _unwritable(scene)
    for aoi in scene.aois:
        key = f"{scene.key}_{aoi.name}" if aoi.name else scene.key
        reject = unwritable or _refusal(aoi, key, settings)
        if reject is None:
            try:
                window = geometry.window_from_aoi(aoi, scene.width, scene.height, settings.context, settings.fit)
                yield _sample(scene, aoi, key, window, settings)
                continue
            except geometry.OutsideError as error:
                reject = ("aoi_outside", str(error))
            except geometry.OffEarthError as error:
                reject = ("no_georeference", str(error))
        yield Reject(scene.path, "index", *reject, key=key)


def _unwritable(scene: Scene) -> tuple[str, str] | None:
    """Refuse text that no file can hold or be named: names of files that are no UTF-8, halves of characters in JSON, NUL."""
    known, words = scene.metadata, [word for aoi in scene.aois for word in (aoi.category, *aoi.labels)]
    words += [scene.path, scene.place, known.utm_zone, known.country_code, known.scan_direction, known.platform]
    for word in words:
        if word and _UNWRITABLE.search(word):
            return "metadata_invalid", f"The text {word!a} cannot be stored: it holds NUL or is no valid Unicode"
    return None


def _refusal(aoi: Aoi, key: str, settings: BuildSettings) -> tuple[str, str] | None:
    if not _KEY.fullmatch(key):
        return "metadata_invalid", f"The key {key} holds capital letters, a dot or a slash. Rename the image."
    if len(key) > MAX_KEY:
        return "metadata_invalid", f"The key {key} has {len(key)} characters; at most {MAX_KEY} fit. Shorten the image's name"
    if min(aoi.width, aoi.height) < settings.min_side:
        return "aoi_tiny", f"The box is {aoi.width:g} x {aoi.height:g} px; --min-side asks for {settings.min_side} px"
    return None


def _sample(scene: Scene, aoi: Aoi, key: str, window: Window, settings: BuildSettings) -> Sample:
    size = (window.width, window.height) if settings.size is None else (settings.size, settings.size)
    georeference = scene.georeference
    return Sample(
        key=key,
        split=scene.split,
        place=scene.place,
        category=aoi.category,
        path=scene.path,
        scene_width=scene.width,
        scene_height=scene.height,
        window=window,
        metadata=geometry.chip_metadata(scene.metadata, georeference, window, size, settings.gsd),
        scene_metadata=scene.metadata,
        footprint=None if georeference is None else geometry.footprint(georeference, window),
        labels=aoi.labels,
        flags=scene.flags,
        scaling=scene.scaling,
    )


def _other_key(sample: Sample) -> str:
    """Return the key of a sample whose own is that of another image: different images are different samples."""
    return with_digest(sample.key, sample.path, MAX_KEY)


def _without_duplicates(found: Iterable[Sample | Reject]) -> Index:
    samples: dict[str, Sample] = {}
    rejects: list[Reject] = []
    for item in found:
        if isinstance(item, Reject):
            rejects.append(item.unsigned())
        elif item.key in samples and samples[item.key].path != item.path and (key := _other_key(item)) not in samples:
            samples[key] = replace(item, key=key, place=key if item.place == item.key else item.place)
        elif item.key in samples:
            message = f"The key {item.key} is already that of {samples[item.key].path}"
            rejects.append(Reject(item.path, "index", "duplicate_key", message, key=item.key).unsigned())
        else:
            samples[item.key] = item
    return Index(tuple(samples.values()), tuple(rejects))
