"""Write the small world as a fMoW tree: pictures and metadata, place by place, on as many processes as wanted."""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from satmip_data.demo.draw import boxes_in_pixels, draw, make_view
from satmip_data.demo.layouts import make_plan
from satmip_data.demo.world import CLASSES, PLACES, Place, image_name, make_acquisitions, make_places, record
from satmip_data.execution.engines import Local

MARKER = "world.json"
"""Says that a world is whole, and from what it was made."""


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """Summary of what was written."""

    root: Path
    classes: tuple[str, ...]
    places: int
    images: dict[str, int]
    """Number of images of each split."""
    boxes: int
    """Number of labelled boxes."""

    def to_json(self) -> dict[str, object]:
        """Return the counts as `world.json` holds them."""
        return {name: getattr(self, name) for name in ("classes", "places", "images", "boxes")}


def write_demo(out: Path, seed: int = 0, places: int = PLACES, workers: int = 2) -> DemoSummary:
    """Write a small world under `out` as a fMoW tree in ground-truth form: `<split>/<category>/<category>_<n>/*_rgb.{jpg,json}`.

    The same seed gives the same bytes, whatever the number of workers. The world stands under its name only when it is whole;
    one that is already there, from the same seed and number of places, is left as it is.

    Args:
        out: directory of the world; it is created, and must hold nothing yet but this very world.
        seed: chooses the world.
        places: number of places; each is seen one to three times.
        workers: number of processes.

    Raises:
        FileExistsError: `out` holds other files, or another world.
        OSError: `out` cannot be written.
        ValueError: there are too few places for every class to be in both splits, `workers` is below 1, or `out` is the working
            directory, in whose stead a new one would stand.
    """
    if workers < 1:
        raise ValueError(f"--workers is {workers}. Use 1 or more.")
    named, out = out, out.resolve()
    asked = {"seed": seed, "places": places}
    if (there := _already_there(named, asked)) is not None:
        return there
    if out == Path.cwd():
        raise ValueError(f"{named} is the working directory; a world needs a folder of its own. Name another, such as out/world")
    partial_out = out.with_name(f".{out.name}.part")  # hidden: a `world.part` may be the user's
    if partial_out.exists():  # of a run that was stopped
        shutil.rmtree(partial_out)
    world = make_places(seed, places)
    images, boxes = {"train": 0, "val": 0}, 0
    for place, (pictures, labelled) in zip(world, Local(workers).ordered(partial(_write_place, partial_out), world), strict=True):
        images[place.split] += pictures
        boxes += labelled
    summary = DemoSummary(named, tuple(CLASSES), len(world), images, boxes)
    (partial_out / MARKER).write_text(json.dumps({"asked": asked, "made": summary.to_json()}))
    if out.exists():
        out.rmdir()
    partial_out.rename(out)
    return summary


def _already_there(out: Path, asked: dict[str, int]) -> DemoSummary | None:
    """Return the summary of the world at `out` if it is the one asked for; None where there is nothing."""
    if not out.exists() or not any(out.iterdir()):
        return None
    try:
        found = json.loads((out / MARKER).read_text())
        there, made = found["asked"], found["made"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # the user may have a `world.json`
        there, made = None, {}
    if there != asked:
        holds = "another world" if there else "other files"
        raise FileExistsError(f"{out} holds {holds}, and a world is written into an empty folder. Name another folder.")
    return DemoSummary(out, tuple(made["classes"]), made["places"], made["images"], made["boxes"])


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
