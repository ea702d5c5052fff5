"""Write the small world as a fMoW tree: pictures and metadata, place by place, on as many processes as wanted."""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from satmip_data.demo.draw import boxes_in_pixels, draw, make_view
from satmip_data.demo.layouts import make_plan
from satmip_data.demo.world import CLASSES, Place, image_name, make_acquisitions, make_places, record


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What was written."""

    root: Path
    classes: tuple[str, ...]
    places: int
    images: dict[str, int]
    """Number of images of each split."""
    boxes: int
    """Number of labelled boxes."""


def write_demo(out: Path, seed: int = 0, places: int = 320, workers: int = 2) -> DemoSummary:
    """Write a small world under `out` as a fMoW tree in ground-truth form: `<split>/<category>/<category>_<n>/*_rgb.{jpg,json}`.

    The same seed gives the same bytes, whatever the number of workers.

    Args:
        out: directory to write into; it is created, and must hold nothing yet.
        seed: chooses the world.
        places: number of places; each is seen two to eight times.
        workers: number of processes.

    Raises:
        FileExistsError: `out` holds files.
        ValueError: there are too few places for every class to be in both splits, or `workers` is below 1.
    """
    if workers < 1:
        raise ValueError(f"a world needs one worker or more, however: {workers=}")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"a world is written into an empty directory, however {out} holds files")
    world = make_places(seed, places)
    images, boxes = {"train": 0, "val": 0}, 0
    for place, (pictures, labelled) in zip(world, _write_all(out, world, workers), strict=True):
        images[place.split] += pictures
        boxes += labelled
    return DemoSummary(out, tuple(CLASSES), len(world), images, boxes)


def _write_all(out: Path, world: tuple[Place, ...], workers: int) -> Iterator[tuple[int, int]]:
    """Write every place, in order; yields the numbers of images and of boxes of each."""
    if workers == 1:
        yield from map(partial(_write_place, out), world)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(_write_place, out), world, chunksize=8)


def _write_place(out: Path, place: Place) -> tuple[int, int]:
    folder = out / place.split / place.category / f"{place.category}_{place.number}"
    folder.mkdir(parents=True)
    plan, boxes = make_plan(place), 0
    shots = make_acquisitions(place)
    for shot in shots:
        found = boxes_in_pixels(plan, make_view(place, shot))
        stem = folder / image_name(place, shot)
        Image.fromarray(draw(place, plan, shot)).save(f"{stem}.jpg", quality=75, subsampling=2)  # fMoW's own: 75, 4:2:0
        Path(f"{stem}.json").write_text(json.dumps(record(place, shot, found), indent=1))
        boxes += len(found)
    return len(shots), boxes
