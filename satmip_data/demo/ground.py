"""Surfaces of the small world: the colours of materials in a season, and the textures of open land. Pure."""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from satmip_data.demo.physics import Season
from satmip_data.demo.world import Place

Array = NDArray[np.float32]
Colours = dict[str, NDArray[np.float64]]

TILE, CELL = 512, 0.3  # side of the texture tiles in cells, metres a cell
SNOW = (240, 243, 247)
FIELD = 400.0  # half side of the area over which smooth fields are laid, metres

_FIXED = {  # red, green, blue, and how much of the snow stays on it
    "asphalt": (96, 96, 98, 0.3),
    "concrete": (172, 168, 160, 0.35),
    "gravel": (158, 149, 134, 0.6),
    "line": (226, 226, 220, 0.3),
    "yellow": (200, 168, 70, 0.3),
    "sand": (190, 174, 140, 0.8),
    "bunker": (226, 212, 178, 0.9),
    "track": (158, 88, 68, 0.7),
    "metal": (176, 178, 180, 0.2),
    "blade": (232, 233, 234, 0.0),
    "panel": (44, 54, 84, 0.25),
    "roof_slate": (98, 100, 108, 0.75),
    "roof_brown": (120, 96, 82, 0.75),
    "roof_tile": (166, 98, 70, 0.75),
    "roof_red": (134, 66, 56, 0.75),
    "roof_white": (214, 213, 208, 0.7),
    "roof_beige": (188, 172, 146, 0.7),
    "roof_grey": (146, 146, 146, 0.7),
    "roof_tin": (178, 182, 186, 0.6),
    "roof_rust": (136, 94, 72, 0.6),
    "roof_blue": (78, 112, 164, 0.6),
    "roof_green": (92, 122, 104, 0.6),
    "seat_blue": (72, 98, 158, 0.5),
    "seat_red": (164, 70, 66, 0.5),
    "seat_grey": (140, 142, 146, 0.5),
    "seat_green": (82, 128, 96, 0.5),
    "seat_yellow": (206, 172, 82, 0.5),
    "car_white": (228, 229, 230, 0.2),
    "car_grey": (120, 122, 126, 0.2),
    "car_black": (44, 45, 50, 0.2),
    "car_silver": (182, 186, 190, 0.2),
    "car_red": (150, 52, 50, 0.2),
    "car_blue": (62, 82, 128, 0.2),
    "sludge": (74, 74, 60, 0.0),
    "basin": (104, 92, 72, 0.0),
}


def colours(place: Place, season: Season) -> Colours:
    """Return the colour (red, green, blue, 0 to 255) of every material at a place in a season."""
    rng = np.random.default_rng([*place.seed, 6])
    out = {name: np.array(value[:3], float) for name, value in _FIXED.items()}
    snow = {name: value[3] for name, value in _FIXED.items()}
    plants = _plants(place, season, rng)
    out.update(plants)
    snow.update({name: {"leaf": 0.45, "canopy": 0.45, "dirt": 0.7}.get(name, 1.0) for name in plants})
    out = {name: value + (np.array(SNOW) - value) * snow[name] * season.snow for name, value in out.items()}
    frozen = min(max((-1.0 - season.temperature) / 4.0, 0.0), 1.0)
    lake = _mix((38, 58, 66), (74, 92, 78), float(rng.random()))
    if rng.random() < 0.25:  # silt
        lake = _mix(lake, (128, 112, 82), 0.7)
    out["water"] = _mix(lake, (206, 214, 222), frozen)
    out["deep"] = _mix(lake * 0.86, (198, 208, 218), frozen)
    return out


def _mix(a: object, b: object, t: float) -> NDArray[np.float64]:
    first, second = np.asarray(a, float), np.asarray(b, float)
    return np.asarray(first + (second - first) * t, np.float64)


def _plants(place: Place, season: Season, rng: np.random.Generator) -> Colours:
    """Return soil and everything that grows, before snow."""
    lat, wet, green = abs(place.location[1]), place.wet, season.green
    hot = min(max((38.0 - lat) / 20.0, 0.0), 1.0)
    cold = min(max((lat - 46.0) / 18.0, 0.0), 1.0)
    red = hot * float(rng.uniform(0.6, 1.0)) * min(2.2 * wet, 1.0)  # laterite of the tropics; podzol of the north is grey
    soil = _mix(_mix((198, 172, 134), (120, 98, 76), min(1.6 * wet, 1.0)), (168, 92, 58), 0.85 * red)
    soil = _mix(soil, (118, 114, 108), 0.7 * cold)
    lush = _mix(_mix((88, 108, 58), (62, 98, 44), hot), (132, 148, 64), 0.65 * season.fresh)
    grass = _mix(_mix((164, 148, 108), soil, 0.3), lush, green)
    cared = min(1.0, green + 0.5 * (season.temperature > 6.0))  # watered and mown
    lawn = _mix((150, 138, 98), _mix(lush, (98, 128, 62), 0.6), cared)
    needles = min(max((lat - 42.0) / 18.0, 0.15), 0.9)
    bare = _mix((104, 92, 76), (38, 50, 42), needles)
    broad = _mix(_mix((60, 84, 42), (40, 80, 34), hot), (112, 132, 56), 0.65 * season.fresh)
    broad = _mix(broad, (38, 50, 42), 0.8 * needles * (lat > 42.0))
    leaf = _mix(bare, broad, min(1.0, green + min(max((45.0 - lat) / 18.0, 0.0), 0.8)))
    leaf = _mix(leaf, (158, 108, 48), 0.75 * season.autumn * (1.0 - 0.7 * needles) * (1.0 - hot))
    crops = {f"crop{k}": _crop(k, place, season, soil) for k in range(5)}
    return {
        "soil": soil,
        "dirt": _mix(soil, (186, 172, 150), 0.5),
        "grass": grass,
        "rough": _mix(grass, lawn, 0.4),
        "lawn": lawn,
        "fairway": _mix(lawn, (122, 150, 76), 0.55 * cared),
        "green": _mix(lawn, (150, 176, 100), 0.85 * cared),
        "pitch": _mix(lawn, (84, 134, 62), 0.8 * max(cared, 0.5)),
        "reed": _mix(grass, (74, 84, 48), 0.5),
        "leaf": leaf,
        "canopy": leaf * float(rng.uniform(0.88, 1.0)),
        **crops,
    }


def _crop(kind: int, place: Place, season: Season, soil: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the colour of a crop on its way from bare soil over green to gold and stubble; each kind has its own calendar."""
    warm = min(max((30.0 - abs(place.location[1])) / 15.0, 0.0), 1.0)
    turns = 2 if warm > 0.5 else 1  # two harvests a year where there is no winter
    stage = (season.year * turns - (0.08, 0.16, 0.22, 0.28, 0.02)[kind] - 0.15 * warm * kind) % 1.0
    green = _mix((78, 112, 52), (110, 134, 66), (0.0, 0.6, 1.0, 0.3, 0.8)[kind])
    gold = _mix((190, 164, 96), (158, 138, 92), (0.0, 0.5, 1.0, 0.2, 0.7)[kind])
    t = np.array([0.0, 0.1, 0.22, 0.4, 0.5, 0.58, 0.66, 1.0])
    path = np.stack([soil, soil, green, green, gold, gold, _mix(gold, soil, 0.6), soil])
    return np.array([np.interp(stage, t, path[:, c]) for c in range(3)])


@cache
def canopy_tile() -> tuple[Array, Array, Array]:
    """Return a periodic wood, (TILE, TILE) each: height 0 to 1, rank 0 to 1 of the tree a cell belongs to, and shade of its crown.

    Where the rank is below the wanted density a tree stands, so woods thin out tree by tree.
    """
    rng = np.random.default_rng(20240901)
    height, rank, shade = (np.zeros((TILE, TILE), np.float32) for _ in range(3))
    rank += 2.0
    for _ in range(2400):
        radius = float(rng.uniform(1.2, 4.2)) / CELL
        centre, mine, tone = rng.uniform(0, TILE, 2), float(rng.random()), float(rng.uniform(0.82, 1.18))
        span = math.ceil(radius)
        rows, cols = ((np.arange(-span, span + 1) + int(c)) for c in centre)
        away = np.hypot((rows - centre[0])[:, None], (cols - centre[1])[None]) / radius
        away = away * rng.uniform(0.88, 1.12, away.shape)
        dome = (np.sqrt(np.clip(1 - away**2, 0, 1)) * (0.35 + 0.65 * radius * CELL / 4.2)).astype(np.float32)
        at = np.ix_(rows % TILE, cols % TILE)
        over = dome > height[at]
        height[at] = np.where(over, dome, height[at])
        rank[at] = np.where(over, mine, rank[at])
        shade[at] = np.where(over, tone * (0.72 + 0.4 * dome), shade[at])
    return height, rank, shade


@cache
def grain_tile() -> Array:
    """Return a periodic fine texture of mean 0 and deviation 1, (TILE, TILE)."""
    rng = np.random.default_rng(20240902)
    total = np.zeros((TILE, TILE), np.float32)
    for smooth, weight in ((0, 0.5), (2, 0.8), (6, 0.9)):
        layer = rng.normal(0, 1, (TILE, TILE)).astype(np.float32)
        for axis in (0, 1):
            layer = sum((np.roll(layer, k, axis) for k in range(-smooth, smooth + 1)), np.zeros_like(layer))
        total += weight * layer / layer.std()
    return np.asarray(total / total.std(), np.float32)


def smooth_field(rng: np.random.Generator, cells: int, window: tuple[float, float, float, float], size: tuple[int, int]) -> Array:
    """Return a smooth random field of mean 0 and deviation 1 over an image, (height, width).

    Args:
        rng: draws the same field for every image of a place.
        cells: how many bumps the whole area, 2 * FIELD metres, has on a side.
        window: west, south, east and north of the image in metres.
        size: width and height of the image in pixels.
    """
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    west, south, east, north = (min(max((v + FIELD) / (2 * FIELD), 0.0), 1.0) * cells for v in window)
    return np.asarray(coarse.resize(size, Image.Resampling.BICUBIC, box=(west, cells - north, east, cells - south)))
