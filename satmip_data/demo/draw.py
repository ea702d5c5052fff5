"""From metadata to pixels: paint a plan in its season, light it by its sun, look at it through its air. Pure.

Shadows come from heights by the sun's own azimuth and elevation; roofs lean away from the satellite.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from satmip_data.demo.ground import CELL, SNOW, TILE, Array, Colours, canopy_tile, colours, grain_tile, smooth_field
from satmip_data.demo.physics import Season, Sunlight, metres_per_degree, season, sunlight
from satmip_data.demo.plan import Plan, Shape
from satmip_data.demo.world import Acquisition, Box, Place

BRIGHTEST = 1.5  # light that the 8 bits of the lamp can hold


@dataclass(frozen=True, slots=True)
class View:
    """How metres on the ground become pixels, where the sun stands and how heights lean."""

    window: tuple[float, float, float, float]
    """West, south, east and north of the image in metres from the object's centre."""
    size: tuple[int, int]
    """Width and height in pixels."""
    pixel: tuple[float, float]
    """Metres a pixel east-west and north-south."""
    sun: tuple[float, float]
    """Azimuth and elevation, degrees."""
    lean: tuple[float, float]
    """Metres east and north by which a point one metre above the ground is displaced."""

    @property
    def light(self) -> Sunlight:
        """The light of this sun."""
        return sunlight(self.sun[1])


def make_view(place: Place, shot: Acquisition) -> View:
    """Return the view of a place that its acquisition has."""
    grid = shot.grid
    per_lon, per_lat = metres_per_degree(place.location[1])
    lon, lat = place.location
    window = ((grid.west - lon) * per_lon, (grid.south - lat) * per_lat, (grid.east - lon) * per_lon, (grid.north - lat) * per_lat)
    pixel = (grid.pixel[0] * per_lon, grid.pixel[1] * per_lat)
    target, slope = math.radians(shot.target_azimuth[0]), math.tan(math.radians(shot.off_nadir[0]))
    return View(window, (grid.width, grid.height), pixel, shot.sun, (-math.sin(target) * slope, -math.cos(target) * slope))


def boxes_in_pixels(plan: Plan, view: View) -> tuple[Box, ...]:
    """Return the plan's boxes in pixels, cut three pixels beyond the border; boxes out of sight are left out, but never all."""
    out = []
    west, _, _, north = view.window
    for x0, y0, x1, y1 in plan.boxes:
        left, right = (round((x - west) / view.pixel[0]) for x in (x0, x1))
        top, bottom = (round((north - y) / view.pixel[1]) for y in (y1, y0))
        left, right = max(left, -3), min(right, view.size[0] + 3)
        top, bottom = max(top, -3), min(bottom, view.size[1] + 3)
        if right - left >= 12 and bottom - top >= 12:
            out.append((left, top, right - left, bottom - top))
    if not out:
        raise ValueError(f"No box of the object lies inside the image: {plan.boxes=} {view.window=}")
    return tuple(out[:8])


def draw(place: Place, plan: Plan, shot: Acquisition) -> NDArray[np.uint8]:
    """Return the picture of an acquisition, (height, width, 3)."""
    view = make_view(place, shot)
    now = season(shot.time, place.location[1], place.wet)
    palette = colours(place, now)
    land = _land(place, plan, view, now, palette)
    heights, tops, veil = _paint(land, plan, shot, view, palette)
    light = _light(view, heights, tops, veil, land.woods) * land.texture
    return _air(place, shot, view, land.image, light)


@dataclass(frozen=True, slots=True)
class _Land:
    """The open land: its picture, the heights of its trees (H, W) in metres, and how slopes and grain catch the light (H, W)."""

    image: Image.Image
    woods: Array
    texture: Array


def _land(place: Place, plan: Plan, view: View, now: Season, palette: Colours) -> _Land:
    """Draw the open land of a place: soil, grass, woods and snow."""
    rng = np.random.default_rng([*place.seed, 7])
    rows, columns = _tile_cells(view, rng.integers(0, TILE, 2))
    broad, patchy, hills = (smooth_field(rng, cells, view.window, view.size) for cells in (9, 26, 14))
    height, rank, shade, grain = (tile.take(rows, 0).take(columns, 1) for tile in (*canopy_tile(), grain_tile()))
    sparse = 0.3 if plan.trees > 0.02 else 0.0
    stands = rank < plan.trees * 1.1 + sparse * broad + 0.4 * sparse * patchy
    codes = np.clip(0.15 + 1.1 * place.wet + 0.28 * broad + 0.22 * patchy + 0.12 * grain, 0, 1) * 99
    if now.snow > 0:  # thin snow lies in patches
        lying = np.clip(now.snow * 4.8 - 2.4 + patchy + 0.6 * broad, 0, 1) * min(1.0, 3 * now.snow)
        codes = np.where(lying > 0.02, 100 + lying * 99, codes)
    codes = np.where(stands, 200 + np.clip((shade - 0.55) * 75, 0, 55), codes)
    image = Image.fromarray(codes.astype(np.uint8))
    image.putpalette(_ramps(palette).tobytes())
    texture = 1.0 + 0.034 * grain + 0.035 * patchy + _relief(rng, view, hills)
    return _Land(image.convert("RGB"), np.asarray(height * (stands * 9.0), np.float32), texture)


def _ramps(palette: Colours) -> NDArray[np.uint8]:
    """Return the 256 colours of open land: 100 from soil to grass, 100 from there to snow, 56 of tree crowns from dark to light."""
    soil, grass, crown = (palette[name] for name in ("soil", "grass", "canopy"))
    cover = np.linspace(0, 1, 100)[:, None]
    middle = (soil + grass) / 2
    ramps = (soil + (grass - soil) * cover, middle + (np.array(SNOW) - middle) * cover, crown * np.linspace(0.55, 1.3, 56)[:, None])
    return np.clip(np.concatenate(ramps), 0, 255).astype(np.uint8)


def _tile_cells(view: View, shift: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the texture tiles under the image's rows and columns."""
    west, _, _, north = view.window
    x = west + (np.arange(view.size[0]) + 0.5) * view.pixel[0]
    y = north - (np.arange(view.size[1]) + 0.5) * view.pixel[1]
    rows = (np.floor(y / CELL).astype(np.int64) + shift[0]) % TILE
    cols = (np.floor(x / CELL).astype(np.int64) + shift[1]) % TILE
    return rows, cols


def _relief(rng: np.random.Generator, view: View, hills: Array) -> Array:
    """Return how much brighter the slopes towards the sun are, (H, W), for hills as steep as the place has them."""
    steep = 14.0 * float(rng.uniform(0, 0.09)) ** 1.3
    north, east = np.gradient(hills[::4, ::4])
    azimuth, elevation = (math.radians(a) for a in view.sun)
    facing = -(east / view.pixel[0] * math.sin(azimuth) - north / view.pixel[1] * math.cos(azimuth)) / 4
    small = np.clip(facing * steep / math.tan(elevation) * 4, -0.35, 0.35).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize(view.size, Image.Resampling.BILINEAR))


def _paint(land: _Land, plan: Plan, shot: Acquisition, view: View, palette: Colours) -> tuple[Array, Array, NDArray[np.uint8]]:
    """Lay the plan's shapes over the picture of the land.

    Returns:
        heights where things stand (H, W), which throw shadows; heights of what is seen (H, W), displaced by the lean; and where
        sheets in the air throw theirs (H, W), 255 for shadow.
    """
    layers = (Image.fromarray(land.woods), Image.fromarray(land.woods.copy()), Image.new("L", view.size))
    brush = _Brush(view, palette, ImageDraw.Draw(land.image), *map(ImageDraw.Draw, layers))
    busy = float(np.random.default_rng([*shot.seed, 8]).uniform(0.12, 0.95))
    scale, origin = np.array([1, -1]) / view.pixel, np.array([view.window[0], view.window[3]])
    shown = [shape for shape in plan.shapes if shape.chance < busy]
    pixels = (np.concatenate([shape.points for shape in shown]) - origin) * scale - 0.5 if shown else np.zeros((0, 2))
    start = 0
    for shape in shown:
        points = pixels[start : start + len(shape.points)]
        start += len(shape.points)
        if _meets(points, view.size, 40.0 + 2 * shape.height):
            brush.lay(shape, points)
    heights, tops, veil = (np.asarray(layer) for layer in layers)
    return heights, tops, veil


def _meets(points: NDArray[np.float64], size: tuple[int, int], margin: float) -> bool:
    (left, top), (right, bottom) = points.min(0), points.max(0)
    return bool(right > -margin and bottom > -margin and left < size[0] + margin and top < size[1] + margin)


@dataclass(slots=True)
class _Brush:
    """Draws shapes into the four layers of `_paint`."""

    view: View
    palette: Colours
    colour: ImageDraw.ImageDraw
    heights: ImageDraw.ImageDraw
    tops: ImageDraw.ImageDraw
    veil: ImageDraw.ImageDraw

    def lay(self, shape: Shape, points: NDArray[np.float64]) -> None:
        """Draw one shape whose corners lie at `points` (pixels)."""
        if shape.z is not None:
            self._sheet(shape, points, shape.z)
            return
        outline = points.ravel().tolist()
        self.heights.polygon(outline, fill=shape.height)
        lifted = points + self._lean(shape.height)
        if shape.height - shape.base > 1.6 and not shape.dome:
            self._walls(shape, points + self._lean(shape.base), lifted)
        top = lifted.ravel().tolist()
        self.tops.polygon(top, fill=shape.height)
        self.colour.polygon(top, fill=self._ink(shape, shape.shade * self._slope(shape) * (0.85 if shape.dome else 1.0)))
        if shape.dome:
            azimuth = math.radians(self.view.sun[0])
            aside = (
                np.array([math.sin(azimuth) / self.view.pixel[0], -math.cos(azimuth) / self.view.pixel[1]]) * shape.height * 0.16
            )
            crown = (lifted - lifted.mean(0)) * 0.6 + lifted.mean(0) + aside
            self.colour.polygon(crown.ravel().tolist(), fill=self._ink(shape, shape.shade * 1.16))

    def _lean(self, height: float) -> NDArray[np.float64]:
        east, north = self.view.lean
        return np.array([east / self.view.pixel[0], -north / self.view.pixel[1]]) * height

    def _ink(self, shape: Shape, shade: float) -> tuple[int, ...]:
        return tuple(min(255, int(v * shade)) for v in self.palette[shape.material])

    def _slope(self, shape: Shape) -> float:
        """Return the light on a roof's face, pitched by 25 degrees, against that on level ground."""
        if shape.facing is None:
            return 1.0
        elevation, turn = math.radians(self.view.sun[1]), math.radians(self.view.sun[0] - shape.facing)
        direct = math.cos(0.436) + math.sin(0.436) / math.tan(elevation) * math.cos(turn)
        ambient = self.view.light.ambient
        return ambient + (1 - ambient) * min(max(direct, 0.1), 1.7)

    def _walls(self, shape: Shape, points: NDArray[np.float64], lifted: NDArray[np.float64]) -> None:
        """Draw the walls that the satellite sees: those whose outside looks towards it."""
        east, north = self.view.lean
        elevation = math.radians(self.view.sun[1])
        following = np.roll(points, -1, 0)
        edges = (following - points) * (self.view.pixel[0], -self.view.pixel[1])
        for a, b, top_a, top_b, (dx, dy) in zip(points, following, lifted, np.roll(lifted, -1, 0), edges, strict=True):
            if dy * east - dx * north >= 0:  # the outside of a counter-clockwise edge is (dy, -dx)
                continue
            azimuth = math.atan2(dy, -dx)
            lit = max(0.0, math.cos(azimuth - math.radians(self.view.sun[0]))) * math.cos(elevation)
            quad = [*a, *b, *top_b, *top_a]
            self.colour.polygon(quad, fill=self._ink(shape, 0.42 + 0.5 * lit))
            self.tops.polygon(quad, fill=shape.height)

    def _sheet(self, shape: Shape, points: NDArray[np.float64], z: NDArray[np.float64]) -> None:
        """Draw a polygon in the air, whose corners are `z` metres high, and its shadow on the ground."""
        azimuth, elevation = (math.radians(a) for a in self.view.sun)
        aside = np.array([-math.sin(azimuth) / self.view.pixel[0], math.cos(azimuth) / self.view.pixel[1]]) / math.tan(elevation)
        self.veil.polygon((points + z[:, None] * aside).ravel().tolist(), fill=255, outline=255)
        seen = (points + z[:, None] * self._lean(1.0)).ravel().tolist()
        self.colour.polygon(seen, fill=self._ink(shape, 1.0), outline=self._ink(shape, 1.0))
        self.tops.polygon(seen, fill=float(z.max()), outline=float(z.max()))


def _light(view: View, heights: Array, tops: Array, veil: NDArray[np.uint8], woods: Array) -> Array:
    """Return the light on each pixel, (H, W): the sky's in shadow, 1 on level ground in the sun."""
    ground = shadow_heights(heights, view)
    over = ground.copy()
    rows, columns = np.nonzero((tops > 1.6) & (tops != woods))  # roofs: what is seen here stands a lean away
    lean = tops[rows, columns]
    down = np.rint(rows + lean * (view.lean[1] / view.pixel[1])).astype(np.int64)
    right = np.rint(columns - lean * (view.lean[0] / view.pixel[0])).astype(np.int64)
    over[rows, columns] = ground[down.clip(0, tops.shape[0] - 1), right.clip(0, tops.shape[1] - 1)]
    dark = np.clip((over - tops) * 2.0 - 0.3, 0, 1)
    dark = np.maximum(dark, (veil > 0) & (tops < 1.0))
    return np.asarray(1.0 - (1.0 - view.light.ambient) * dark, np.float32)


def shadow_heights(heights: Array, view: View) -> Array:
    """Return how high the shadow of everything reaches above each pixel's ground, (H, W) metres; 0 where the sun shines down to it.

    Shadows run away from the sun and sink by tan(elevation) a metre. Steps double (1, 2, 4 ... pixels), so a shadow of n pixels
    takes log2(n) passes.
    """
    azimuth, elevation = (math.radians(a) for a in view.sun)
    right, down = -math.sin(azimuth) / view.pixel[0], math.cos(azimuth) / view.pixel[1]
    metres = 1.0 / max(abs(right), abs(down))  # of ground a step of one pixel
    right, down, drop = right * metres, down * metres, metres * math.tan(elevation)
    over, step, tallest = heights.copy(), 1, float(heights.max())
    while (step - 1) * drop < tallest and step < max(view.size):
        moved = _shifted(over, round(step * right), round(step * down)) - np.float32(step * drop)
        over = np.maximum(over, moved)
        step *= 2
    return over


def _shifted(values: Array, right: int, down: int) -> Array:
    """Return the array moved by whole pixels, 0 where nothing comes in."""
    out = np.zeros_like(values)
    height, width = values.shape
    if abs(right) >= width or abs(down) >= height:
        return out
    rows, cols = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
    back = slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0))
    out[rows, cols] = values[back]
    return out


def _air(place: Place, shot: Acquisition, view: View, painted: Image.Image, light: Array) -> NDArray[np.uint8]:
    """Look at the land through optics, haze and clouds: less contrast and colder the longer the light's way, warmer in low sun."""
    rng = np.random.default_rng([*shot.seed, 9])
    sine = math.sin(math.radians(shot.sun[1]))
    warm = view.light.warm
    gain = view.light.bright * float(rng.uniform(0.94, 1.06))
    way = 1.0 / max(sine, 0.2) + 1.0 / math.cos(math.radians(shot.off_nadir[0])) - 2.0
    haze = min(0.03 + 0.05 * way + float(rng.uniform(0, 0.05)) + 0.001 * shot.cloud_cover, 0.4)
    haze += 0.06 * place.wet * min(max((38.0 - abs(place.location[1])) / 20.0, 0.0), 1.0)  # the moist air of the tropics
    cover, shade = _clouds(rng, shot, view) if shot.cloud_cover else (None, np.float32(1.0))
    row, column = rng.integers(0, 64, 2)
    noise = 1.0 + 0.012 * _noise()[row : row + view.size[1], column : column + view.size[0]]
    lamp = Image.fromarray(np.clip(light * (255 / BRIGHTEST) * noise * shade, 0, 255).astype(np.uint8))
    image = ImageChops.multiply(painted, Image.merge("RGB", (lamp, lamp, lamp)))
    levels = np.arange(256)[None] * np.array((1 + 0.7 * warm, 1.0, 1 - warm))[:, None] * BRIGHTEST * gain
    hazy = levels * (1 - haze) + haze * np.array((150, 162, 178))[:, None]
    image = image.point(np.clip(hazy, 0, 255).astype(int).ravel().tolist())
    if cover is not None:
        image.paste((233, 235, 238), mask=cover)
    return np.asarray(image.filter(ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 6, 2, 1, 2, 1))))


@cache
def _noise() -> Array:
    """Return the sensor's noise, of deviation 1: larger than any image."""
    return np.random.default_rng(20240903).standard_normal((1100, 1100), np.float32)


def _clouds(rng: np.random.Generator, shot: Acquisition, view: View) -> tuple[Image.Image, Array]:
    """Return how opaque clouds over `cloud_cover` percent of the image are (0 to 255), and the light in their shadow (H, W)."""
    noise = np.zeros((128, 128), np.float32)
    for cells, weight in ((6, 1.0), (12, 0.55), (24, 0.3), (56, 0.14)):
        layer = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
        noise += weight * np.asarray(layer.resize((128, 128), Image.Resampling.BICUBIC))
    edge = float(np.quantile(noise[32:96, 32:96], 1 - shot.cloud_cover / 100))
    soft = float(rng.uniform(0.25, 0.7)) * float(noise.std())
    cover = np.clip(0.5 + (noise - edge) / soft, 0, 1)
    far, azimuth = float(rng.uniform(10, 30)), math.radians(view.sun[0])  # from a shadow towards the sun lies its cloud
    row, column = 32 - round(far * math.cos(azimuth)), 32 + round(far * math.sin(azimuth))
    above, aside = cover[32:96, 32:96] * 244, 255 * (1 - 0.5 * cover[row : row + 64, column : column + 64])
    opaque, shade = (Image.fromarray(np.uint8(a)).resize(view.size, Image.Resampling.BICUBIC) for a in (above, aside))
    return opaque, np.asarray(shade, np.float32) / np.float32(255)
