"""The page of answers: for each picture a map, dials, curves and the nearest reference chips, as numbers and paths of SVG."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from satmip_data.land import coasts
from satmip_data.pages import Grid, data_uri, render
from satmip_data.pages.charts import ticks
from satmip_train.data.dataset import Dataset
from satmip_train.evaluation.gallery import read_chips
from satmip_train.files import write_atomically
from satmip_train.joint_space import words
from satmip_train.joint_space.ask import Answer, Density
from satmip_train.joint_space.asked import Asked, png
from satmip_train.joint_space.calibration import LEVELS
from satmip_train.joint_space.spaces import Categories, Circle, Logarithm, Numbers, Sphere, chords, unit_vectors

MOST = 24
"""Pictures of a page, at most."""
_CHIPS, _WORDS, _COLUMNS = 6, 6, 180
_WIDTH, _HEIGHT = 300.0, 46.0
_INNER, _OUTER, _LETTERS = 33.0, 46.0, 54.0
_ROUND = {"day": "JFMAMJJASOND", "hour": ("0", "3", "6", "9", "12", "15", "18", "21")}
_COMPASS = ("N", "E", "S", "W")

Mark = tuple[float, float]


@dataclass(frozen=True)
class Map:
    """The location: regions as paths in degrees east and south, from the widest to the narrowest."""

    box: str
    regions: tuple[tuple[int, str], ...]
    best: Mark
    truth: Mark | None
    dot: float
    """Radius of a mark."""
    words: str


@dataclass(frozen=True)
class Dial:
    """What goes round: the year, the day, an azimuth."""

    title: str
    regions: tuple[tuple[int, str], ...]
    letters: tuple[tuple[float, float, str], ...]
    best: Mark
    truth: Mark | None
    words: str


@dataclass(frozen=True)
class Curve:
    """What lies on a line: a density and the bars of its regions."""

    title: str
    area: str
    regions: tuple[tuple[int, str], ...]
    ticks: tuple[tuple[float, str], ...]
    best: float
    truth: float | None
    words: str


@dataclass(frozen=True)
class Bars:
    """What is a word: the likeliest ones."""

    title: str
    rows: tuple[tuple[str, float, bool], ...]
    """Word, percent, and whether it is the true one."""


@dataclass(frozen=True)
class About:
    """What a page says beside the answers."""

    run: str
    notes: Sequence[str]
    """What the regions are worth, in sentences."""
    dataset: Dataset | None
    """Shards of the references, whose chips are shown; None where they are not at hand."""
    split: str
    """Of the references."""


def write_page(path: Path, parts: Sequence[Asked], answers: Iterable[Answer], about: About) -> None:
    """Write the page of the first `MOST` answers."""
    shown = [(part, number) for part in parts for number in range(len(part.pictures))]
    pictures, answers_shown = [], list(islice(answers, MOST))
    for (part, number), answer in zip(shown, answers_shown, strict=False):
        pictures.append({"picture": data_uri(png(part.show(number))), **_drawn(answer), "near": _near(answer, about)})
    more = len(shown) - len(pictures)
    calibrated = any(density.thresholds for density in answers_shown[0].densities.values()) if answers_shown else False
    told = {"run": about.run, "notes": about.notes, "more": more, "calibrated": calibrated, "levels": LEVELS}
    page = render("ask.html", pictures=pictures, land=_land(), **told)
    write_atomically(path, lambda file: file.write(page.encode()))


def _drawn(answer: Answer) -> dict[str, Any]:
    """Return what is drawn of an answer."""
    header, rows = words.answer_rows(answer)
    kinds: dict[str, list[Any]] = {"maps": [], "dials": [], "curves": [], "bars": []}
    for density in answer.densities.values():
        values = density.quantity.values([answer.truth])
        truth = values[0] if density.support.space.known(values)[0] else None
        space = density.support.space
        if isinstance(space, Sphere):
            kinds["maps"].append(world(density, truth))
        elif isinstance(space, Circle):
            kinds["dials"].append(dial(density, truth))
        elif isinstance(space, Categories):
            kinds["bars"].append(_bars(density, truth))
        else:
            kinds["curves"].append(curve(density, truth))
    return {"name": answer.name, "table": Grid.of(header, rows, text=True), **kinds}


def _near(answer: Answer, about: About) -> list[tuple[str, str, str]]:
    """Return pictures, similarities and captions of the nearest references."""
    if about.dataset is None:
        return []
    near = answer.nearest[:_CHIPS]
    chips = read_chips(about.dataset, about.split, [one.number for one in near])
    told = []
    for one, chip in zip(near, chips, strict=True):
        record = ((name, density.quantity.read(one.record)) for name, density in answer.densities.items())
        caption = ", ".join(words.value(name, known) for name, known in list(record)[:4] if known is not None)
        told.append((data_uri(png(chip.image)), f"{one.similarity:.2f}", caption))
    return told


def _limits(density: Density) -> dict[int, float]:
    """Return how much mass may lie above the cells of each region; without a calibration the level itself."""
    return dict(density.thresholds) or {level: level / 100 for level in LEVELS}


def world(density: Density, truth: Any) -> Map:
    """Return the map of a location: the whole Earth, or the part where answers can lie."""
    centres, spacing = density.support.centres, density.support.spacing
    west, south, wide, high = _box(centres)
    step = wide / _COLUMNS
    lon, lat = np.arange(west + step / 2, west + wide, step), np.arange(south + step / 2, min(south + high, 90), step)
    pixels = np.stack(np.meshgrid((lon + 180) % 360 - 180, lat), axis=-1).reshape(-1, 2)
    chord, cell = chords(unit_vectors(centres), unit_vectors(pixels))
    above = np.where(chord * 6371 <= 0.8 * spacing, density.above[cell], np.inf).reshape(len(lat), len(lon))
    regions = tuple(
        (level, _rectangles(above <= limit, west, lat, step)) for level, limit in sorted(_limits(density).items(), reverse=True)
    )
    best = _on_map(density.best)
    return Map(
        f"{west:g} {-south - high:g} {wide:g} {high:g}",
        regions,
        best,
        None if truth is None else _on_map(truth),
        wide / 75,
        words.value("location", density.best),
    )


def _on_map(place: Any) -> Mark:
    return round(float(place[0]), 2), round(-float(place[1]), 2)


def _box(centres: Numbers) -> tuple[float, float, float, float]:
    """Return west, south, width and height of the part of the Earth that is shown, in degrees; the Earth is 360 by 142."""
    (west, south), (east, north) = centres.min(axis=0), centres.max(axis=0)
    wide = max(east - west, (north - south) * 360 / 142, 30.0)
    if wide > 200:
        return -180.0, -58.0, 360.0, 142.0
    high = wide * 142 / 360
    middle = min(max((south + north) / 2, -90 + high / 2), 90 - high / 2)
    return float((west + east - wide) / 2), float(middle - high / 2), float(wide), float(high)


def _rectangles(inside: Any, west: float, lat: Numbers, step: float) -> str:
    """Return runs of pixels of each line as a path, in degrees east and south."""
    parts = []
    for row, line in zip(inside, lat, strict=True):
        edges = np.diff(np.concatenate([[0], row.astype(np.int8), [0]]))
        for first, last in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
            left = west + first * step
            parts.append(f"M{left:.5g} {-line - step / 2:.5g}h{(last - first) * step:.5g}v{step:.4g}H{left:.5g}z")
    return "".join(parts)


def dial(density: Density, truth: Any) -> Dial:
    """Return the dial of a circle, from the top clockwise."""
    space = density.support.space
    assert isinstance(space, Circle)
    regions = tuple(
        (level, "".join(_arc(first, last, len(density.support)) for first, last in _runs(density.above <= limit)))
        for level, limit in sorted(_limits(density).items(), reverse=True)
    )
    letters = _ROUND.get(density.name, _COMPASS)
    shift = 0.5 if density.name == "day" else 0.0
    placed = tuple((*_at((number + shift) / len(letters), _LETTERS), letter) for number, letter in enumerate(letters))
    middle = (_INNER + _OUTER) / 2
    return Dial(
        words.LABELS[density.name],
        regions,
        placed,
        _at(float(density.best) / space.length, middle),
        None if truth is None else _at(float(truth) / space.length, middle),
        words.value(density.name, density.best),
    )


def _at(turn: float, radius: float) -> Mark:
    return round(radius * math.sin(2 * math.pi * turn), 2), round(-radius * math.cos(2 * math.pi * turn), 2)


def _runs(inside: Any) -> list[tuple[int, int]]:
    """Return the first cell of each run of cells, and the one behind its last."""
    edges = np.diff(np.concatenate([[0], inside.astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))


def _arc(first: int, last: int, cells: int) -> str:
    """Return a piece of the ring as a path; a whole ring is two halves."""
    if last - first > cells // 2:
        middle = (first + last) // 2
        return _arc(first, middle, cells) + _arc(middle, last, cells)
    (a, b), (c, d) = _at(first / cells, _OUTER), _at(last / cells, _OUTER)
    (e, f), (g, h) = _at(last / cells, _INNER), _at(first / cells, _INNER)
    return f"M{a} {b}A{_OUTER:g} {_OUTER:g} 0 0 1 {c} {d}L{e} {f}A{_INNER:g} {_INNER:g} 0 0 0 {g} {h}z"


def curve(density: Density, truth: Any) -> Curve:
    """Return the curve of a line or logarithm."""
    count = len(density.support)
    place = _scale(density)
    heights = _HEIGHT * (1 - density.mass / density.mass.max())
    line = "L".join(f"{_WIDTH * i / (count - 1):.1f} {height:.1f}" for i, height in enumerate(heights))
    cell = _WIDTH / count
    regions = tuple(
        (level, "".join(f"M{cell * a:.1f} 50h{cell * (b - a):.1f}v7H{cell * a:.1f}z" for a, b in _runs(density.above <= limit)))
        for level, limit in sorted(_limits(density).items(), reverse=True)
    )
    return Curve(
        words.LABELS[density.name],
        f"M0 {_HEIGHT:g}L{line}L{_WIDTH:g} {_HEIGHT:g}z",
        regions,
        _ticks(density),
        place(float(density.best)),
        None if truth is None else place(float(truth)),
        words.value(density.name, density.best),
    )


def _scale(density: Density) -> Any:
    """Return what gives the place of a value along the curve."""
    change = math.log if isinstance(density.support.space, Logarithm) else float
    low, high = (change(float(end)) for end in (density.support.centres[0], density.support.centres[-1]))

    def place(value: float) -> float:
        return round(min(max((change(value) - low) / (high - low), 0.0), 1.0) * _WIDTH, 1)

    return place


def _ticks(density: Density) -> tuple[tuple[float, str], ...]:
    low, high = float(density.support.centres[0]), float(density.support.centres[-1])
    if isinstance(density.support.space, Logarithm):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        marks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        marks = [mark for mark in marks if low <= mark <= high]
        marks = marks[:: max(1, -(-len(marks) // 6))]
    else:
        marks = [mark for mark in ticks(low, high, 6) if low <= mark <= high]
    place = _scale(density)
    return tuple((place(mark), f"{mark:g}") for mark in marks)


def _bars(density: Density, truth: Any) -> Bars:
    best = np.argsort(-density.mass, kind="stable")[:_WORDS]
    centres, mass = density.support.centres, density.mass
    rows = tuple((str(centres[i]), round(100 * float(mass[i]), 1), bool(centres[i] == truth)) for i in best)
    return Bars(words.LABELS[density.name], rows)


def _land() -> str:
    """Return the coastlines as a path in degrees east and south."""
    return "".join("M" + " ".join(f"{x:g} {-y:g}" for x, y in outline) + "Z" for outline in coasts())
