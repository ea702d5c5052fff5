"""The objects of the classes: one function each lays the object and what surrounds it into a plan, in metres. Pure."""

import math
from collections.abc import Callable

import numpy as np

from satmip_data.demo.physics import style
from satmip_data.demo.plan import Plan, Points, Shape, around, fields, frame, patch, ring, road
from satmip_data.demo.world import Place
from satmip_data.records import Point


def make_plan(place: Place) -> Plan:
    """Return what stands at a place: the same on every day."""
    rng = np.random.default_rng([*place.seed, 5])
    reach = place.side * 0.71 + math.hypot(*place.offset) + 10.0
    region = style(place.location, place.wet)
    angle = float(rng.uniform(0, 360))
    treeline = min(max((72.0 - abs(place.location[1])) / 8.0, 0.0), 1.0)
    trees = min(max(place.wet * float(rng.uniform(0.1, 1.0)) - 0.08, 0.0), 0.85) * treeline
    plan = Plan(rng, region, reach, place.wet, angle, trees=trees)
    LAYOUTS[place.category](plan, place.size)
    return plan


def _crop_field(plan: Plan, size: float) -> None:
    rng = plan.rng
    crop = f"crop{int(rng.integers(5))}"
    if rng.random() < (0.75 if plan.wet < 0.45 else 0.2):
        fields(plan, (size, size))
        plan.rect((0, 0), (size, size), "soil", shade=0.97)
        plan.disc((0, 0), size / 2, crop)
        turn, share = float(rng.uniform(0, 360)), float(rng.uniform(30, 160))
        t = np.radians(np.linspace(turn, turn + share, 24))
        wedge = np.concatenate([np.zeros((1, 2)), np.stack([np.cos(t), np.sin(t)], 1) * size / 2])
        plan.add(wedge, f"crop{int(rng.integers(5))}")
        for r in np.arange(size * 0.08, size / 2, size * float(rng.uniform(0.05, 0.09))):
            circle = ring(float(r), float(r), 40)
            plan.strip(np.concatenate([circle, circle[:1]]), 0.9, crop, shade=0.82)
        plan.add(plan.turn(frame((size / 2, 1.6), (size / 4, 0)), turn), "metal", height=3.0)
        plan.box(ring(size / 2, size / 2))
        return
    extent = (size, size * float(rng.uniform(0.55, 1.0)))
    fields(plan, extent)
    patch(plan, (0, 0), (extent[0] - 2, extent[1] - 2), rows=True, crop=crop)
    if rng.random() < 0.35:  # two fields, two boxes
        half = (extent[0] / 2 - 2, extent[1] - 2)
        patch(plan, (extent[0] / 4, 0), half, rows=True)
        plan.box(frame(half, (extent[0] / 4, 0)))
        plan.box(frame(half, (-extent[0] / 4, 0)))
        return
    plan.box(frame(extent))


def _golf_course(plan: Plan, size: float) -> None:
    rng = plan.rng
    plan.trees = max(plan.trees, 0.35 if plan.wet > 0.2 else 0.05)
    plan.blob((0, 0), size * 0.56, "rough", 0.18)
    count = int(rng.integers(2, 4))
    for k in range(count):
        y = (k - (count - 1) / 2) * size / count
        t = np.linspace(-1, 1, 26)
        bend, phase = float(rng.uniform(0.05, 0.14)) * size, float(rng.uniform(0, 6))
        line = np.stack([t * size * 0.38, y * 0.86 + bend * np.sin(2.2 * t + phase)], 1)[:: int(rng.choice([-1, 1]))]
        wide = size * float(rng.uniform(0.1, 0.15))
        plan.band(line[3:-4], wide, "fairway")
        plan.rect((float(line[0, 0]), float(line[0, 1])), (7, 5), "green", shade=0.95)
        end = (float(line[-1, 0]), float(line[-1, 1]))
        plan.blob(end, size * 0.062, "green", 0.12)
        for _ in range(int(rng.integers(2, 5))):
            turn = float(rng.uniform(0, 2 * math.pi))
            spot = (end[0] + math.cos(turn) * size * 0.1, end[1] + math.sin(turn) * size * 0.1)
            plan.blob(spot, size * float(rng.uniform(0.018, 0.034)), "bunker", 0.16)
        for x, y in line[4:-4:3] + rng.choice([-1, 1], (len(line[4:-4:3]), 1)) * (0, size * 0.13):
            plan.tree((float(x), float(y)), float(rng.uniform(2.5, 5)))
    if rng.random() < 0.6:
        plan.blob((float(rng.uniform(-0.3, 0.3)) * size, float(rng.uniform(-0.3, 0.3)) * size), size * 0.06, "water", 0.4)
    road(plan, (-0.45 * size, -0.4 * size), (0.45 * size, 0.4 * size), 2.2, "concrete")
    plan.box(frame((size * 0.96, size * 0.96)))


def _lake_or_pond(plan: Plan, size: float) -> None:
    rng = plan.rng
    around(plan, (size * 1.15, size * 1.15), 0.25)
    if rng.random() < 0.5:
        road(plan, (-plan.reach, -0.65 * size), (plan.reach, -0.6 * size), 6.0, "dirt")
    rough = float(rng.uniform(0.12, 0.4))
    shore = plan.outline(size / 2 / (1 + 0.6 * rough), rough)
    for scale, material in ((1.12, "reed"), (1.05, "sand"), (1.0, "water"), (0.8, "deep")):
        plan.add(shore * scale, material)
    plan.trees = max(plan.trees, 0.5 * plan.wet * (plan.trees > 0))
    for x, y in shore[:: int(rng.integers(2, 6))] * 1.14:
        plan.tree((float(x), float(y)), float(rng.uniform(2, 4)))
    plan.box(shore)


def _multi_unit_residential(plan: Plan, size: float) -> None:
    rng = plan.rng
    height = float(rng.choice([9, 12, 15, 18, 27, 36]))
    depth, gap = float(rng.uniform(11, 15)), 8.0 + 0.7 * height
    rows = max(2, int(size * 0.85 / (depth + gap)))
    extent = (size, rows * (depth + gap))
    around(plan, extent, 0.85)
    plan.rect((0, 0), extent, "lawn")
    columns = 1 if size < 85 else 2
    material, length = plan.roof(), size / columns - 10.0
    centres = [
        ((i - (columns - 1) / 2) * size / columns, (j - (rows - 1) / 2) * (depth + gap))
        for j in range(rows)
        for i in range(columns)
    ]
    for y in sorted({y for _, y in centres}):
        plan.rect((0, y + depth / 2 + gap / 2), (extent[0], 5.5), "asphalt")
        for x in np.arange(-size / 2 + 4, size / 2 - 4, 2.7):
            plan.car((float(x), y + depth / 2 + gap / 2 - 1.8), 90.0)
    for x, y in centres:
        for k in np.arange(-length / 2, length / 2, 9.0)[: 12 if plan.wet > 0.25 else 2]:
            plan.tree((x + float(k), y - depth / 2 - 4.5), float(rng.uniform(1.5, 3)))
    for centre in centres:  # last, for they lean over what stands behind them
        _slab(plan, centre, (length, depth), height * float(rng.choice([0.7, 1, 1, 1])), material)
    plan.box(frame(extent))


def _slab(plan: Plan, centre: Point, size: Point, height: float, material: str) -> None:
    """Build a block of flats with the heads of its lifts on the roof."""
    plan.rect(centre, size, material, height=height, shade=float(plan.rng.uniform(0.9, 1.05)))
    for k in np.arange(-size[0] / 2 + 8, size[0] / 2 - 4, 16.0):
        plan.rect((centre[0] + float(k), centre[1]), (4, 4), "concrete", height=height + 2.5, base=height)


def _parking_lot_or_garage(plan: Plan, size: float) -> None:
    rng = plan.rng
    bays = max(2, int(size * float(rng.uniform(0.5, 0.95)) / 17.0))
    extent = (size, bays * 17.0)
    store = rng.random() < 0.6
    keep = (size + 8, extent[1] + (100 if store else 8))
    around(plan, keep, 0.9)
    plan.rect((0, 0), extent, "asphalt", shade=float(rng.uniform(0.8, 1.25)))
    plan.rect((size / 2 - 3.5, -plan.reach / 2 - extent[1] / 2), (7, plan.reach), "asphalt")
    islands = rng.random() < 0.6
    for k in range(bays):
        y = (k - (bays - 1) / 2) * 17.0
        plan.rect((0, y), (size - 14, 0.35), "line")
        for x in np.arange(-size / 2 + 8, size / 2 - 7, 2.65):
            plan.rect((float(x), y), (0.3, 10.0), "line", shade=0.85)
            for side in (-2.6, 2.6):
                plan.car((float(x) + 1.3, y + side), 90.0)
        for x in (-size / 2 + 6, size / 2 - 6) if islands else ():
            plan.rect((x, y), (3, 11), "lawn")
            plan.tree((x, y - 2.5), 2.0)
            plan.tree((x, y + 2.5), 2.0)
    if store:
        plan.rect((0, extent[1] / 2 + 22), (size * float(rng.uniform(0.6, 1)), 36), "roof_white", height=9.0)
        for x in np.arange(-size * 0.25, size * 0.25, 11.0):
            plan.rect((float(x), extent[1] / 2 + 22 + float(rng.uniform(-9, 9))), (3, 2.4), "roof_grey", height=11.0, base=9.0)
    plan.box(frame(extent))


def _road_bridge(plan: Plan, size: float) -> None:
    rng, reach = plan.rng, plan.reach
    river = size - 16.0
    around(plan, (river * 1.2, 2.2 * reach), 0.5)
    t = np.linspace(-1.1, 1.1, 40)
    bend = size * float(rng.uniform(0.1, 0.4)) * np.sin(1.6 * t + float(rng.uniform(0, 6)))
    line = np.stack([bend - bend[20], t * reach], 1)
    for width, material in ((river + 16, "reed"), (river + 7, "sand"), (river, "water"), (river * 0.6, "deep")):
        plan.strip(line, width, material)
    wide = float(rng.choice([9, 13, 20]))
    for side in (-1, 1):
        plan.rect((side * (reach / 2 + size / 2), 0), (reach + 2, wide), "asphalt")
    plan.rect((0, 0), (size, wide + 3.4), "concrete", height=float(rng.uniform(4, 9)))
    height = plan.shapes[-1].height
    plan.rect((0, 0), (size + 8, wide - 1.0), "asphalt", height=height + 0.1, base=height, shade=1.1)
    for x in np.arange(-reach, reach, 9.0):
        lift = height + 0.2 if abs(x) < size / 2 + 4 else 0.0
        plan.rect((float(x), 0), (4.5, 0.45), "line", height=lift, base=lift)
    for _ in range(int(rng.integers(3, 12))):
        plan.car((float(rng.uniform(-reach, reach)), float(rng.choice([-1, 1])) * wide / 4), 0.0)
    plan.box(frame((size, wide + 2)))


def _runway(plan: Plan, size: float) -> None:
    rng = plan.rng
    wide = float(rng.choice([23, 30, 36, 45]))
    around(plan, (4 * plan.reach, wide * 4.2), 0.15)
    plan.trees *= 0.3
    start, length = -size / 2, size / 2 + plan.reach * 1.4
    middle = start + length / 2
    paved = str(rng.choice(["asphalt", "concrete", "asphalt"]))
    plan.rect((middle, 0), (length + 70, wide * 4), "rough")
    plan.rect((middle, 0), (length, wide + 6), paved, shade=0.85)
    plan.rect((middle, 0), (length, wide), paved, shade=float(rng.uniform(0.95, 1.1)))
    stripes = int(wide // 3.6) // 2 * 2
    for k in range(stripes):
        plan.rect((start + 22, (k - (stripes - 1) / 2) * 3.3), (26, 1.8), "line")
    for x in np.arange(start + 60, start + length, 32.0):
        plan.rect((float(x), 0), (18, 0.9), "line")
    for side in (-1, 1):
        plan.rect((middle, side * (wide / 2 - 1)), (length, 0.8), "line")
        plan.rect((start + 100, side * wide * 0.22), (30, 3.5), "line")
        plan.rect((start + 5, side * wide * 0.14), (6, 1.4), "line")
    away = wide * float(rng.uniform(1.5, 1.8)) * float(rng.choice([-1, 1]))
    plan.rect((middle + 20, away), (length, 11), paved, shade=0.95)
    plan.rect((start + 14, away / 2), (12, abs(away)), paved, shade=0.95)
    plan.rect((middle + 20, away), (length, 0.5), "yellow")
    plan.rect((start + 14, away / 2), (0.5, abs(away)), "yellow")
    plan.box(frame((length, wide + 6), (middle, 0)))


def _solar_farm(plan: Plan, size: float) -> None:
    rng = plan.rng
    extent = (size, size * float(rng.uniform(0.5, 1.0)))
    plan.angle = float(rng.normal(0, 3)) if rng.random() < 0.7 else plan.angle  # rows face the equator
    around(plan, (size + 10, extent[1] + 10), 0.2)
    plan.rect((0, 0), (size + 4, extent[1] + 4), "dirt")
    plan.rect((0, 0), (size, extent[1]), "lawn" if plan.wet > 0.4 else "soil", shade=1.05)
    pitch = float(rng.uniform(4.5, 8.5))
    deep, length = pitch * float(rng.uniform(0.5, 0.68)), float(rng.uniform(22, 45))
    notch = float(rng.uniform(0.2, 0.5)) if rng.random() < 0.5 else 0.0
    tone = float(rng.uniform(0.85, 1.25))
    for y in np.arange(-extent[1] / 2 + 5, extent[1] / 2 - 3, pitch):
        for x in np.arange(-size / 2 + 3, size / 2 - 6, length):
            wide = min(length - 2.5, size / 2 - 3 - float(x))
            if (x < size * (notch - 0.5) and y > extent[1] * (0.5 - notch)) or abs(y) < 0.5 * pitch:
                continue
            plan.rect((float(x) + wide / 2, float(y)), (wide, deep), "panel", height=2.2, shade=tone)
            plan.rect((float(x) + wide / 2, float(y)), (wide, 0.3), "panel", height=2.3, shade=1.8)
    plan.rect((0, 0), (size, 3.2), "dirt", shade=1.1)
    for x in np.arange(-size / 3, size / 2, size / 3):
        plan.rect((float(x), 3.5), (6, 2.8), "roof_white", height=3.0)
    plan.box(frame((size + 4, extent[1] + 4)))


def _stadium(plan: Plan, size: float) -> None:
    rng = plan.rng
    a, b = size / 2, size / 2 * float(rng.uniform(0.68, 0.86))
    power = float(rng.uniform(2.1, 4.5))
    around(plan, (size * 1.5, b * 3.0), 0.8)
    plan.add(ring(a * 1.3, b * 1.35, 40, 3.0), str(rng.choice(["concrete", "asphalt"])))
    for _ in range(90):
        turn, way = float(rng.uniform(0, 360)), float(rng.uniform(1.1, 1.26))
        plan.car((a * way * math.cos(math.radians(turn)), b * way * math.sin(math.radians(turn))), 90.0)
    seats = str(rng.choice(["seat_blue", "seat_red", "seat_grey", "seat_green", "seat_yellow"]))
    inner = _bowl(plan, (a, b, power), seats) if rng.random() < 0.65 else _stands(plan, (a, b), seats)
    pitch = (a * inner * 1.42, b * inner * 1.32)
    for k in range(10):
        at = (pitch[0] * (k - 4.5) / 10, 0.0)
        plan.rect(at, (pitch[0] / 10 + 0.2, pitch[1]), "pitch", shade=0.94 if k % 2 else 1.06)
    for points in (frame((pitch[0] * 0.94, pitch[1] * 0.92)), ring(pitch[1] * 0.13, pitch[1] * 0.13, 24)):
        plan.strip(np.concatenate([points, points[:1]]), 0.5, "line")
    plan.rect((0, 0), (0.5, pitch[1] * 0.92), "line")
    plan.box(ring(a, b))


def _bowl(plan: Plan, shape: tuple[float, float, float], seats: str) -> float:
    """Build stands all round, (half length, half width, power of the superellipse); returns the share left free inside."""
    rng, (a, b, power) = plan.rng, shape
    tall, roof = float(rng.uniform(12, 30)), float(rng.uniform(0.82, 0.95))
    plan.add(ring(a, b, 44, power), "roof_white" if rng.random() < 0.7 else "roof_grey", height=tall)
    for k, way in enumerate((roof, roof * 0.95, roof * 0.9, roof * 0.85)):
        plan.add(ring(a * way, b * way, 44, power), seats, height=tall * (0.7 - 0.2 * k), shade=1.0 - 0.05 * k)
    inner = roof * 0.8
    plan.add(ring(a * inner, b * inner, 44, power), str(rng.choice(["track", "lawn", "lawn", "concrete"])))
    return inner


def _stands(plan: Plan, half: Point, seats: str) -> float:
    """Build a running track with a stand on one long side or on both; returns the share left free inside."""
    (a, b), power = half, 2.6
    plan.add(ring(a * 0.97, b * 0.84, 44, power), "track")
    for lane in (0.93, 0.89, 0.85):
        circle = ring(a * lane, b * lane * 0.86, 44, power)
        plan.strip(np.concatenate([circle, circle[:1]]), 0.35, "line", shade=0.9)
    plan.add(ring(a * 0.82, b * 0.7, 44, power), "lawn")
    for side in (-1, 1)[: int(plan.rng.integers(1, 3))]:
        for k in range(3):
            at, tall = (0.0, side * (b * 0.87 + 2.2 + 4.5 * k)), 4.0 + 3.5 * k
            plan.rect(at, (a * 1.1, 4.6), seats if k < 2 else "roof_white", height=tall)
    return 0.76


def _storage_tank(plan: Plan, size: float) -> None:
    rng = plan.rng
    columns, rows = ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3))[int(rng.integers(6))]
    cell = size / columns
    extent = (size, cell * rows)
    around(plan, (size + 14, extent[1] + 14), 0.35)
    plan.rect((0, 0), (size + 12, extent[1] + 12), "gravel" if rng.random() < 0.6 else "lawn")
    material = str(rng.choice(["roof_white", "roof_white", "roof_grey", "roof_rust"]))
    floating, single = rng.random() < 0.45, rng.random() < 0.5 and columns * rows <= 6
    for j in range(rows):
        for i in range(columns):
            centre = ((i - (columns - 1) / 2) * cell, (j - (rows - 1) / 2) * cell)
            radius = cell * float(rng.uniform(0.3, 0.42))
            tall = float(rng.uniform(9, 16)) if radius > 7 else 7.0
            plan.rect(centre, (cell - 1, cell - 1), "soil", shade=0.9)
            plan.rect(centre, (cell - 3.5, cell - 3.5), "gravel", shade=0.95)
            _tank(plan, centre, (radius, tall), material, bool(floating))
            if single:
                plan.box(ring(radius, radius) + centre)
    for j in range(rows + 1):
        plan.rect((0, (j - rows / 2) * cell), (size, 1.0), "metal", height=1.0)
    if not single:
        plan.box(frame(extent))


def _tank(plan: Plan, centre: Point, size: Point, material: str, floating: bool) -> None:
    radius, tall = size
    plan.disc(centre, radius, material, height=tall, shade=float(plan.rng.uniform(0.93, 1.07)))
    if floating:
        plan.disc(centre, radius * 0.95, material, height=tall * float(plan.rng.uniform(0.3, 0.8)), shade=0.9)
    else:
        plan.disc(centre, radius * 0.55, material, height=tall + 0.8, base=tall, shade=1.06)
        plan.disc(centre, radius * 0.12, "roof_grey", height=tall + 1.2, base=tall)


def _water_treatment_facility(plan: Plan, size: float) -> None:
    rng = plan.rng
    extent = (size, size * float(rng.uniform(0.75, 1.0)))
    around(plan, (size + 8, extent[1] + 8), 0.4)
    plan.rect((0, 0), (size + 4, extent[1] + 4), "lawn" if plan.wet > 0.2 else "gravel")
    plan.rect((0, 0), (size, 5), "asphalt")
    plan.rect((0, -extent[1] / 4), (5, extent[1] / 2), "asphalt")
    count = int(rng.integers(2, 5))
    radius = min(size / count * 0.43, extent[1] * 0.22)
    sludge = str(rng.choice(["sludge", "deep", "basin"]))
    for k in range(count):
        centre = ((k - (count - 1) / 2) * size / count, extent[1] * 0.27)
        plan.disc(centre, radius, "concrete", height=1.5)
        plan.disc(centre, radius - 1.3, sludge)
        plan.disc(centre, radius * 0.86, sludge, shade=0.86)
        turn = float(rng.uniform(0, 360))
        plan.rect(centre, (2 * radius, 1.3), "concrete", turn, height=2.0)
        plan.disc(centre, 1.8, "concrete", height=2.4)
    lanes = int(rng.integers(3, 7))
    wide, long = size * 0.44 / lanes, extent[1] * 0.4
    for k in range(lanes):
        at = (-size * 0.47 + (k + 0.5) * wide, -extent[1] * 0.26)
        plan.rect(at, (wide, long), "concrete", height=1.2)
        plan.rect(at, (wide - 1.4, long - 1.4), "basin" if k % 2 else sludge)
    for k, y in enumerate((-0.14, -0.38)):
        width, material = size * float(rng.uniform(0.12, 0.2)), plan.roof()
        plan.rect((size * 0.22 + 8 * k, extent[1] * y), (width, size * 0.1), material, height=5.0)
    plan.box(frame((size + 4, extent[1] + 4)))


def _wind_farm(plan: Plan, size: float) -> None:
    rng = plan.rng
    around(plan, (size, size * 0.8), 0.0)
    plan.trees *= 0.4
    count = int(rng.choice([1, 2, 2, 3])) if size > 80 else 1
    tall, wind = float(rng.uniform(38, 62)), float(rng.uniform(0, 180))
    spots = [((k - (count - 1) / 2) * size / count, float(rng.normal(0, 6))) for k in range(count)]
    road(plan, (-plan.reach, 9.0), (plan.reach, 12.0), 4.5, "gravel")
    for spot in spots:
        plan.rect((spot[0], spot[1] + 7), (16, 20), "gravel", shade=1.05)
        plan.disc(spot, 4.0, "concrete")
        _turbine(plan, spot, tall, wind)
    reach = 0.5 * size / count
    if count > 1 and rng.random() < 0.7:
        for x, y in spots:
            plan.box(frame((1.5 * reach, 1.5 * reach), (x, y)))
    else:
        plan.box(frame((size, 2 * reach)))


def _turbine(plan: Plan, spot: Point, tall: float, wind: float) -> None:
    """Raise a tower with a nacelle and three blades whose plane stands across the wind."""
    plan.add(ring(1.7, 1.7, 10) + spot, "blade", height=tall)
    hub = plan.turn(np.array([spot]))[0]
    across = np.array([math.cos(math.radians(wind)), math.sin(math.radians(wind))])
    first, length = float(plan.rng.uniform(0, 120)), tall * 0.55
    for k in range(3):
        turn = math.radians(first + 120 * k)
        out, up = length * math.cos(turn), length * math.sin(turn)
        wide = 1.3 * np.array([-math.sin(turn), math.cos(turn)])
        sides: Points = np.array([wide, (out, up) + 0.3 * wide, (out, up) - 0.3 * wide, -wide])
        plan.shapes.append(Shape(hub + sides[:, :1] * across, "blade", z=tall + sides[:, 1]))
    nacelle = plan.turn(frame((7.0, 3.0)), wind + 90.0) + hub
    plan.shapes.append(Shape(nacelle, "blade", z=np.full(4, tall + 1.5)))


LAYOUTS: dict[str, Callable[[Plan, float], None]] = {
    "crop_field": _crop_field,
    "golf_course": _golf_course,
    "lake_or_pond": _lake_or_pond,
    "multi-unit_residential": _multi_unit_residential,
    "parking_lot_or_garage": _parking_lot_or_garage,
    "road_bridge": _road_bridge,
    "runway": _runway,
    "solar_farm": _solar_farm,
    "stadium": _stadium,
    "storage_tank": _storage_tank,
    "water_treatment_facility": _water_treatment_facility,
    "wind_farm": _wind_farm,
}
"""Function that lays out each class, given its size in metres."""
