"""The plan of a place, in metres: shapes are added to it, with streets, fields and woods around an object. Pure."""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from satmip_data.demo.physics import Style
from satmip_data.records import Point

Points = NDArray[np.float64]

CARS = ("car_white", "car_white", "car_grey", "car_grey", "car_black", "car_black", "car_silver", "car_red", "car_blue")


@dataclass(frozen=True, slots=True)
class Shape:
    """A piece of surface: a polygon at the height of its walls, or three-dimensional where `z` is given."""

    points: Points
    """(n, 2) corners in metres east and north of the object's centre, counter-clockwise."""
    material: str
    shade: float = 1.0
    """Its own brightness against others of the material."""
    height: float = 0.0
    """Metres above the ground; walls go down from the edges."""
    base: float = 0.0
    """Metres above the ground at which the walls end: what stands on a roof begins there."""
    facing: float | None = None
    """Azimuth a slanted face looks to, degrees clockwise from north; None is level."""
    chance: float = 0.0
    """Drawn where this is below the acquisition's busyness (0 to 1): cars come and go."""
    dome: bool = False
    """Round on top, as a tree's crown."""
    z: Points | None = None
    """(n,) height of each corner: a sheet in the air, as a rotor blade."""


@dataclass(slots=True)
class Plan:
    """The shapes of a place in the order in which they are laid down, and the boxes that people drew around its objects."""

    rng: np.random.Generator
    style: Style
    reach: float
    """Metres from the object's centre to the farthest corner of a picture."""
    wet: float
    angle: float = 0.0
    """Direction in which the object's own x axis runs, degrees counter-clockwise from east."""
    shapes: list[Shape] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    """West, south, east, north in metres."""
    trees: float = 0.3
    """Share of open ground under trees."""

    def turn(self, points: Points, angle: float | None = None) -> Points:
        """Return points of the object's own axes in metres east and north."""
        a = math.radians(self.angle if angle is None else angle)
        c, s = math.cos(a), math.sin(a)
        return np.asarray(points @ np.array([[c, s], [-s, c]]), np.float64)

    def add(self, points: Points, material: str, **kind: float) -> None:
        """Lay down a polygon given in the object's own axes."""
        self.shapes.append(Shape(self.turn(points), material, **kind))  # type: ignore[arg-type]

    def rect(self, centre: Point, size: Point, material: str, turn: float = 0.0, **kind: float) -> None:
        """Lay down a rectangle of `size` metres about `centre`, turned by `turn` degrees in the object's own axes."""
        w, h = size[0] / 2, size[1] / 2
        corners = np.array([(-w, -h), (w, -h), (w, h), (-w, h)])
        self.add((self.turn(corners, turn) if turn else corners) + centre, material, **kind)

    def disc(self, centre: Point, radius: float, material: str, **kind: float) -> None:
        """Lay down a disc."""
        self.add(ring(radius, radius, 14 if radius < 4 else 28) + centre, material, **kind)

    def outline(self, radius: float, rough: float) -> Points:
        """Return a rounded outline about the origin whose radius varies by about `rough`, (48, 2)."""
        phases, sizes = self.rng.uniform(0, 2 * math.pi, 4), self.rng.uniform(0.3, 1, 4) * rough / np.array([1, 1.3, 2, 3])
        t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        waves = np.cos(np.arange(2, 6)[:, None] * t + phases[:, None]) * sizes[:, None]
        return np.asarray(ring(radius, radius, 48) * (1 + waves.sum(0))[:, None], np.float64)

    def blob(self, centre: Point, radius: float, material: str, rough: float = 0.2) -> None:
        """Lay down a rounded patch."""
        self.add(self.outline(radius, rough) + centre, material)

    def strip(self, line: Points, width: float, material: str, **kind: float) -> None:
        """Lay down a band of `width` metres along a line of (n, 2) points."""
        along = np.gradient(line, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
        aside = np.stack([along[:, 1], -along[:, 0]], 1) * width / 2
        self.add(np.concatenate([line + aside, (line - aside)[::-1]]), material, **kind)

    def band(self, line: Points, width: float, material: str) -> None:
        """Lay down a band with round ends and an uneven edge, as a fairway's."""
        wide = width / 2 * (1 + 0.18 * np.sin(np.linspace(0, 7, len(line)) + float(self.rng.uniform(0, 6))))
        for way, half in zip(line[::2], wide[::2], strict=True):
            self.disc((float(way[0]), float(way[1])), float(half), material)

    def tree(self, centre: Point, radius: float) -> None:
        """Plant a tree where trees grow."""
        if self.trees <= 0:
            return
        shade = float(self.rng.uniform(0.8, 1.2))
        crown = ring(radius, radius, 9) * self.rng.uniform(0.75, 1.1, (9, 1))
        self.shapes.append(Shape(self.turn(crown + centre), "leaf", shade, 1.7 * radius, dome=True))

    def car(self, centre: Point, turn: float) -> None:
        """Park a car; whether it stands there depends on the day."""
        size = (float(self.rng.uniform(3.9, 5.0)), float(self.rng.uniform(1.7, 2.0)))
        self.rect(centre, size, CARS[int(self.rng.integers(len(CARS)))], turn, height=1.5, chance=float(self.rng.random()))

    def house(self, centre: Point, size: Point, turn: float, material: str, height: float) -> None:
        """Build a house with a ridge along its longer side, or a flat one where that is the region's way."""
        shade = float(self.rng.uniform(0.82, 1.12))
        if self.style.flat:
            self.rect(centre, size, material, turn, height=height, shade=shade)
            return
        w, h = size[0] / 2, size[1] / 2
        for sign in (-1.0, 1.0):
            half = np.array([(-w, 0), (w, 0), (w, h), (-w, h)]) * (sign, sign)
            facing = (-self.angle - turn + (0.0 if sign > 0 else 180.0)) % 360.0
            self.add(self.turn(half, turn) + centre, material, height=height, shade=shade, facing=facing)

    def roof(self) -> str:
        """Draw a roof's material as the region's builders would."""
        names = self.style.roofs
        return "roof_" + names[int(self.rng.integers(len(names)))]

    def box(self, points: Points) -> None:
        """Draw the annotator's box around points of the object's own axes, a little loose."""
        turned = self.turn(points)
        low, high = turned.min(0), turned.max(0)
        loose = self.rng.uniform(0.0, 0.05, 4) * float((high - low).mean()) + 1.0
        west, south, east, north = (low[0] - loose[0], low[1] - loose[1], high[0] + loose[2], high[1] + loose[3])
        self.boxes.append((float(west), float(south), float(east), float(north)))


def ring(a: float, b: float, corners: int = 40, power: float = 2.0) -> Points:
    """Return a superellipse with half axes `a` and `b`, (corners, 2)."""
    t = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    return np.stack([a * np.sign(c) * np.abs(c) ** (2 / power), b * np.sign(s) * np.abs(s) ** (2 / power)], 1)


def frame(size: Point, centre: Point = (0.0, 0.0)) -> Points:
    """Return the four corners of a rectangle, (4, 2)."""
    w, h = size[0] / 2, size[1] / 2
    return np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) + centre


def around(plan: Plan, keep: Point, townish: float) -> None:
    """Surround a free rectangle of `keep` metres with a town (its chance is `townish`), with fields or with open land."""
    draw = float(plan.rng.random())
    if draw < townish:
        town(plan, keep)
    elif draw < townish + (1 - townish) * min(0.25 + plan.wet, 0.75):
        fields(plan, keep)


def town(plan: Plan, keep: Point) -> None:
    """Lay streets with houses around a free rectangle of `keep` metres about the centre."""
    rng, reach = plan.rng, plan.reach
    lot, street = plan.style.lot, float(rng.uniform(5.5, 8.5))
    depth = 2 * (lot + 9.0) + street
    rows = _lines(keep[1] / 2 + street / 2 + 1, depth, reach)
    columns = _lines(keep[0] / 2 + street / 2 + 1, float(rng.uniform(70, 130)), reach)
    paved = "asphalt" if plan.wet > 0.15 or rng.random() < 0.6 else "dirt"
    tone = float(rng.uniform(0.85, 1.2))
    for y in rows:
        plan.rect((0, y), (2 * reach, street), paved, shade=tone)
    for x in columns:
        plan.rect((x, 0), (street, 2 * reach), paved, shade=tone)
    dense = float(rng.uniform(0.75, 0.97))
    for y in rows:
        for side in (-1, 1):
            _terrace(plan, (y + side * (street / 2 + lot * 0.5 + 2.5), lot, dense), columns, keep)
        spots = np.arange(-reach, reach, 17.0)
        for x in spots[rng.random(len(spots)) < 0.3]:
            plan.car((float(x), y + street * 0.33), 0.0)


def _lines(first: float, step: float, reach: float) -> list[float]:
    return [sign * (first + k * step) for sign in (-1, 1) for k in range(max(int((reach - first) // step), 0) + 1)]


def _terrace(plan: Plan, row: tuple[float, float, float], columns: list[float], keep: Point) -> None:
    """Build houses along one side of a street: `row` is its y, the width of a lot and the share of lots that are built on."""
    rng, (y, lot, dense) = plan.rng, row
    for x in np.arange(-plan.reach, plan.reach, lot):
        x = float(x + rng.normal(0, 0.8))
        free = abs(x) > keep[0] / 2 + lot * 0.6 or abs(y) > keep[1] / 2 + lot * 0.6
        if not free or min((abs(x - c) for c in columns), default=99.0) < lot * 0.85:
            continue
        if rng.random() < dense:
            size = (lot * float(rng.uniform(0.55, 0.85)), lot * float(rng.uniform(0.45, 0.65)))
            turn = 0.0 if rng.random() < 0.7 else 90.0
            plan.house((x, y + float(rng.normal(0, 0.8))), size, turn, plan.roof(), float(rng.uniform(3, 7)))
        if rng.random() < 0.5 * plan.wet + 0.1:
            plan.tree((x + lot * 0.5, y + float(rng.uniform(-lot, lot)) * 0.6), float(rng.uniform(1.5, 4.0)))


def fields(plan: Plan, keep: Point) -> None:
    """Lay a patchwork of fields with tracks and hedges over everything; `keep` metres about the centre stay one piece."""
    rng, side, reach = plan.rng, plan.style.field, plan.reach
    xs = sorted(_lines(keep[0] / 2, side * float(rng.uniform(0.8, 1.3)), reach + side))
    ys = sorted(_lines(keep[1] / 2, side * float(rng.uniform(0.6, 1.2)), reach + side))
    for x0, x1 in pairwise(xs):
        for y0, y1 in pairwise(ys):
            if abs(x0 + x1) < 1e-6 and abs(y0 + y1) < 1e-6:
                continue
            patch(plan, ((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0 - 1.5, y1 - y0 - 1.5), rows=bool(rng.random() < 0.4))
    if rng.random() < 0.7:
        plan.rect((xs[len(xs) // 2], 0), (4.0, 2.4 * reach), "dirt")


def patch(plan: Plan, centre: Point, size: Point, rows: bool, crop: str | None = None) -> None:
    """Lay one field, with rows of plants where `rows`; on dry land some lie bare."""
    rng = plan.rng
    idle = rng.random() < 0.25 + 0.6 * max(0.0, 0.4 - plan.wet)
    material = crop or ("soil" if idle else f"crop{int(rng.integers(5))}")
    shade = float(rng.uniform(0.88, 1.12))
    plan.rect(centre, size, material, shade=shade)
    if not rows:
        return
    across = rng.random() < 0.5
    pitch = float(rng.uniform(2.6, 5.5))
    length, span = (size[1], size[0]) if across else size
    dark = shade * float(rng.uniform(0.78, 0.88))
    for k in np.arange(-span / 2 + pitch, span / 2, pitch):
        at = (centre[0] + k, centre[1]) if across else (centre[0], centre[1] + k)
        plan.rect(at, (pitch * 0.42, length) if across else (length, pitch * 0.42), material, shade=dark)


def road(plan: Plan, start: Point, end: Point, width: float, material: str = "asphalt") -> None:
    """Lay a road with a slight bend between two points."""
    t = np.linspace(0, 1, 24)[:, None]
    a, b = np.array(start), np.array(end)
    bend = np.array([-(b - a)[1], (b - a)[0]]) * float(plan.rng.normal(0, 0.06))
    line = a + (b - a) * t + bend * np.sin(math.pi * t)
    plan.strip(line, width, material)
    if material == "asphalt" and width > 6:
        plan.strip(line, 0.35, "line", shade=0.9)
