"""The small world before a pixel is drawn: its places, when and how satellites saw them, and the records that say so. Pure.

Where a class is met follows from the climate (`HABITATS`), as where fields, golf courses and solar farms are met on Earth does.
The records are fMoW's in ground-truth form, with its conventions: pixels square in degrees, `gsd` the sensor's nominal
resolution, names of `.tif` files, `visible` a string.
"""

import datetime as dt
import math
from dataclasses import dataclass

import numpy as np

from satmip_data.demo.physics import mean_temperature, metres_per_degree
from satmip_data.demo.towns import Town, towns, wetness
from satmip_data.geometry import utm_zone
from satmip_data.land import on_land
from satmip_data.metadata.sun import sun_position
from satmip_data.records import Point

PLACES = 1800
"""How many places a world has: many, each seen a few times, so that to learn them by heart teaches little."""

CLASSES: dict[str, tuple[float, float]] = {
    "crop_field": (70.0, 150.0),
    "golf_course": (95.0, 160.0),
    "lake_or_pond": (30.0, 130.0),
    "multi-unit_residential": (45.0, 110.0),
    "parking_lot_or_garage": (30.0, 90.0),
    "road_bridge": (25.0, 80.0),
    "runway": (100.0, 170.0),
    "solar_farm": (50.0, 140.0),
    "stadium": (85.0, 150.0),
    "storage_tank": (20.0, 70.0),
    "water_treatment_facility": (40.0, 100.0),
    "wind_farm": (45.0, 110.0),
}
"""The classes, each with the smallest and largest side of its objects in metres."""


@dataclass(frozen=True, slots=True)
class Habitat:
    """The climate in which a class is common; outside it grows rare over 0.1 of wetness and 4 degrees."""

    wet: Point
    """Lowest and highest wetness, 0 desert to 1 rain forest."""
    warm: Point
    """Lowest and highest mean temperature of the year, degrees Celsius."""

    def suits(self, wet: float, warm: float) -> float:
        """Return how common the class is in a climate against its best, 0 to 1."""
        dry = max(self.wet[0] - wet, wet - self.wet[1], 0.0) / 0.1
        cold = max(self.warm[0] - warm, warm - self.warm[1], 0.0) / 4.0
        return math.exp(-(dry * dry + cold * cold) / 2.0)


HABITATS = {
    "crop_field": Habitat((0.25, 0.8), (5.0, 25.0)),
    "golf_course": Habitat((0.3, 0.85), (6.0, 22.0)),
    "lake_or_pond": Habitat((0.5, 1.0), (-12.0, 16.0)),
    "multi-unit_residential": Habitat((0.2, 0.8), (-10.0, 18.0)),
    "parking_lot_or_garage": Habitat((0.1, 0.8), (4.0, 22.0)),
    "road_bridge": Habitat((0.6, 1.0), (-2.0, 27.0)),
    "runway": Habitat((0.0, 0.6), (-15.0, 27.0)),
    "solar_farm": Habitat((0.0, 0.4), (12.0, 26.0)),
    "stadium": Habitat((0.15, 0.9), (4.0, 27.0)),
    "storage_tank": Habitat((0.0, 0.4), (-12.0, 27.0)),
    "water_treatment_facility": Habitat((0.3, 0.8), (4.0, 18.0)),
    "wind_farm": Habitat((0.3, 0.8), (2.0, 13.0)),
}

CONTINENTS = ("EU", "AS", "NA", "AF", "SA", "OC", "EU", "AS", "NA")
"""Regions in which places are drawn, each entry equally often."""

BUCKETS = (50.0, 75.0, 110.0, 150.0, 225.0, 300.0, 450.0, 900.0)
"""Widths of a footprint in metres at the equator; fMoW's are 500, 1500 and 5000."""

DEGREE = 111319.49079327358  # metres of a degree of longitude at the equator


@dataclass(frozen=True, slots=True)
class Platform:
    """A satellite: its best resolution (metres at nadir), its first and last year, and how often it is used."""

    name: str
    nadir_gsd: float
    first: float
    last: float
    weight: float
    catalog: str


PLATFORMS = (
    Platform("QUICKBIRD02", 0.61, 2002.1, 2014.9, 1.0, "101001"),
    Platform("GEOEYE01", 0.41, 2009.1, 2017.5, 1.4, "105001"),
    Platform("WORLDVIEW02", 0.46, 2010.0, 2017.5, 2.2, "103001"),
    Platform("WORLDVIEW03_VNIR", 0.31, 2014.8, 2017.5, 2.0, "104001"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """One spot on Earth with what stands there."""

    split: str
    category: str
    number: int
    """Counts the places of a class in a split, as in `stadium_7`."""
    location: Point
    """Longitude and latitude of the object's centre, degrees."""
    town: Town
    """The town near by, whose country the record names."""
    wet: float
    """0 desert, 1 rain forest."""
    size: float
    """Larger side of the object, metres."""
    bucket: float
    """Width of the footprint in metres at the equator."""
    offset: Point
    """Metres east and north from the object's centre to the footprint's."""
    seed: tuple[int, int]

    @property
    def side(self) -> float:
        """Side of the footprint on the ground, metres."""
        return self.bucket / DEGREE * metres_per_degree(self.location[1])[0]


def make_places(seed: int, count: int) -> tuple[Place, ...]:
    """Return `count` places over all inhabited continents: every class in both splits, about one place in five for val.

    All classes are met alike often; where each lies follows from the climate, see `HABITATS`.

    Raises:
        ValueError: `count` is too small for two places of every class.
    """
    if count < 2 * len(CLASSES):
        raise ValueError(f"A world of {count} places is too small: two of every class are needed, {2 * len(CLASSES)} in all")
    rng = np.random.default_rng([seed, 1])
    numbers = dict[tuple[str, str], int]()
    block: list[str] = []
    places = []
    for index in range(count):
        block = block or [str(name) for name in rng.permutation(list(CLASSES))]
        category = block.pop()
        split = "val" if index // len(CLASSES) % 5 == 1 else "train"
        number = numbers[split, category] = numbers.get((split, category), -1) + 1
        places.append(_place(rng, (split, category, number), (seed, index)))
    return tuple(places)


def _site(rng: np.random.Generator, category: str) -> tuple[Town, Point, float]:
    """Draw where a place of a class lies: within 300 km of a town, ashore, in a climate that suits the class.

    Returns:
        the town, longitude and latitude, and how wet the land is there.
    """
    while True:
        continent = CONTINENTS[int(rng.integers(len(CONTINENTS)))]
        there = [town for town in towns() if town.continent == continent]
        town = there[int(rng.integers(len(there)))]
        away, turn = 2.7 * math.sqrt(float(rng.random())), float(rng.uniform(0, 2 * math.pi))
        lat = town.lat + away * math.sin(turn)
        lon = town.lon + away * math.cos(turn) / math.cos(math.radians(lat))
        lon = (lon + 180.0) % 360.0 - 180.0
        if not on_land((lon, lat)):  # an islet, which the coarse coastlines lack, or the sea
            lon, lat = town.lon + float(rng.uniform(-0.06, 0.06)), town.lat + float(rng.uniform(-0.06, 0.06))
        wet = min(max(wetness((lon, lat)) + float(rng.normal(0, 0.06)), 0.0), 1.0)
        if rng.random() < HABITATS[category].suits(wet, mean_temperature(lat)):
            return town, (lon, lat), wet


def _place(rng: np.random.Generator, name: tuple[str, str, int], seed: tuple[int, int]) -> Place:
    """Return a place with the smallest footprint that holds its object with air around it."""
    town, location, wet = _site(rng, name[1])
    smallest, largest = CLASSES[name[1]]
    size = smallest * (largest / smallest) ** float(rng.random())
    narrow = metres_per_degree(location[1])[0] / DEGREE
    air = float(rng.uniform(1.25, 1.9))
    bucket = next((b for b in BUCKETS if b * narrow >= air * size), BUCKETS[-1])
    size = min(size, 0.75 * bucket * narrow)
    slack = bucket * narrow - size
    offset = (float(rng.uniform(-0.3, 0.3)) * slack, float(rng.uniform(-0.3, 0.3)) * slack)
    if rng.random() < 0.06:  # the object lies at the border, or a little across it
        offset = (offset[0] + math.copysign(0.28, offset[0]) * slack, offset[1])
    return Place(*name, location, town, wet, size, bucket, offset, seed)


@dataclass(frozen=True, slots=True)
class Grid:
    """The pixels of an image on the ground: bounds in degrees and the number of columns and rows."""

    west: float
    south: float
    east: float
    north: float
    width: int
    height: int

    @property
    def pixel(self) -> Point:
        """Width and height of a pixel, degrees."""
        return (self.east - self.west) / self.width, (self.north - self.south) / self.height


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One image of a place: when, from where, in what light."""

    index: int
    """The `<T>` of the file's name: neither contiguous nor chronological."""
    time: dt.datetime
    platform: Platform
    catalog_id: str
    reverse: bool
    cloud_cover: int
    off_nadir: tuple[float, float, float]
    """In the middle, at the start and at the end of the strip, degrees."""
    target_azimuth: tuple[float, float, float]
    """As `off_nadir`; azimuth of the satellite seen from the target."""
    sun: Point
    """Azimuth and elevation, degrees."""
    grid: Grid
    seed: tuple[int, int, int]


def make_acquisitions(place: Place) -> tuple[Acquisition, ...]:
    """Return the one to three acquisitions of a place, each by daylight, at about 10:30 local solar time."""
    rng = np.random.default_rng([*place.seed, 2])
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))
    indices = rng.permutation(count + int(rng.choice([0, 0, 1, 4, 20])))[:count]
    return tuple(_acquisition(rng, place, int(index)) for index in indices)


def _acquisition(rng: np.random.Generator, place: Place, index: int) -> Acquisition:
    weights = np.array([p.weight for p in PLATFORMS])
    platform = PLATFORMS[int(rng.choice(len(PLATFORMS), p=weights / weights.sum()))]
    time = _daylight(rng, platform, place.location)
    off_nadir = min(float(rng.gamma(4.0, 4.2)) + 1.0, 32.0)
    azimuth, step = float(rng.uniform(0, 360)), float(rng.uniform(0.6, 2.6)) * float(rng.choice([-1, 1]))
    turn = float(rng.uniform(4, 13)) * float(rng.choice([-1, 1]))
    resolution = _resolution(platform, off_nadir)
    cloudy = float(rng.random())
    cover = 0 if cloudy < 0.5 else int(min(rng.exponential(9), 70)) if cloudy < 0.93 else int(rng.integers(25, 75))
    return Acquisition(
        index=index,
        time=time,
        platform=platform,
        catalog_id=platform.catalog + "".join(rng.choice(list("0123456789ABCDEF"), 10)),
        reverse=bool(rng.random() < 0.4),
        cloud_cover=cover,
        off_nadir=(off_nadir, max(off_nadir - step, 0.3), max(off_nadir + step, 0.3)),
        target_azimuth=(azimuth, (azimuth - turn) % 360.0, (azimuth + turn) % 360.0),
        sun=sun_position(time, place.location),
        grid=_grid(rng, place, resolution),
        seed=(*place.seed, index),
    )


def _daylight(rng: np.random.Generator, platform: Platform, location: Point) -> dt.datetime:
    """Draw a moment of the platform's life near 10:30 local solar time with the sun 14 degrees up or more."""
    while True:
        share = float(rng.beta(1.6, 1.0))
        start = dt.datetime(int(platform.first), 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=365.25 * (platform.first % 1))
        day = start + dt.timedelta(days=int(share * (platform.last - platform.first) * 365.25))
        hours = 10.5 + float(rng.normal(0, 0.45)) - location[0] / 15.0
        time = day.replace(hour=0) + dt.timedelta(seconds=round(hours * 3600))
        if rng.random() < 0.04:
            time += dt.timedelta(microseconds=int(rng.integers(1, 1_000_000)))
        if sun_position(time, location)[1] >= 14.0:
            return time


def _resolution(platform: Platform, off_nadir: float) -> float:
    """Return the panchromatic resolution in metres at an off-nadir angle in degrees.

    It grows by the slant range along the flight and once more by the slope across it; the exponent fits fountain_514_1.
    """
    return float(platform.nadir_gsd * math.cos(math.radians(off_nadir)) ** -1.75)


def _grid(rng: np.random.Generator, place: Place, resolution: float) -> Grid:
    """Lay a footprint that is square on the ground over a grid whose pixels are square in degrees."""
    lon, lat = place.location
    per_lon, per_lat = metres_per_degree(lat)
    shift = rng.normal(0, 1.5, 2)  # no two images are registered alike
    lon += (place.offset[0] + float(shift[0])) / per_lon
    lat += (place.offset[1] + float(shift[1])) / per_lat
    width_degrees = place.bucket / DEGREE
    height_degrees = width_degrees * per_lon / per_lat
    width = round(place.bucket / (resolution * float(rng.uniform(1.02, 1.1))))
    width = min(max(width, 96), 1000)
    west, south = lon - width_degrees / 2, lat - height_degrees / 2
    return Grid(west, south, west + width_degrees, south + height_degrees, width, round(width * height_degrees / width_degrees))


Box = tuple[int, int, int, int]
"""Column and row of the top-left corner, width, height: pixels. It may pass the border of the image a little."""


def image_name(place: Place, shot: Acquisition) -> str:
    """Return the name of an image without its suffix, as "stadium_7_3_rgb"."""
    return f"{place.category}_{place.number}_{shot.index}_rgb"


def record(place: Place, shot: Acquisition, boxes: tuple[Box, ...]) -> dict[str, object]:
    """Return the metadata of an image as fMoW's ground-truth form has them, key by key."""
    grid = shot.grid
    rng = np.random.default_rng([*shot.seed, 3])
    centre = ((grid.west + grid.east) / 2, (grid.south + grid.north) / 2)
    return {
        "approximate_wavelengths": [661, 545, 477],
        "bounding_boxes": _bounding_boxes(place, shot, boxes),
        "catalog_id": shot.catalog_id,
        "cloud_cover": shot.cloud_cover,
        "country_code": place.town.country,
        "epsg": "4326",
        "gsd": round(_resolution(shot.platform, shot.off_nadir[0]), 12),
        "img_filename": image_name(place, shot) + ".tif",
        "img_height": grid.height,
        "img_width": grid.width,
        "mean_pixel_height": grid.pixel[1],
        "mean_pixel_width": grid.pixel[0],
        **_strip("multi_resolution", tuple(4.003 * _resolution(shot.platform, angle) for angle in shot.off_nadir)),
        **_strip("off_nadir_angle", shot.off_nadir),
        **_strip("pan_resolution", tuple(_resolution(shot.platform, angle) for angle in shot.off_nadir)),
        "raw_location": _wkt(_image_ring(grid)),
        "scan_direction": "Reverse" if shot.reverse else "Forward",
        "sensor_platform_name": shot.platform.name,
        "spatial_reference": "GCS_WGS_1984",
        **_spread("sun_azimuth", shot.sun[0], float(rng.uniform(0.2, 0.8))),
        **_spread("sun_elevation", shot.sun[1], float(rng.uniform(0.05, 0.15))),
        **_strip("target_azimuth", shot.target_azimuth),
        "timestamp": _timestamp(shot.time),
        "utm": utm_zone(centre),
    }


def _timestamp(time: dt.datetime) -> str:
    return time.replace(tzinfo=None).isoformat() + "Z"


def _strip(name: str, values: tuple[float, ...]) -> dict[str, float]:
    """Return an angle or resolution at the middle, the ends and the extremes of the strip."""
    middle, start, end = (round(value, 10 if name.endswith(("angle", "azimuth")) else 12) for value in values)
    return {
        f"{name}_dbl": middle,
        f"{name}_end_dbl": end,
        f"{name}_max_dbl": max(start, end),
        f"{name}_min_dbl": min(start, end),
        f"{name}_start_dbl": start,
    }


def _spread(name: str, value: float, half: float) -> dict[str, float]:
    """Return an angle of the sun with its smallest and largest value over the strip."""
    return {f"{name}_dbl": round(value, 9), f"{name}_max_dbl": round(value + half, 9), f"{name}_min_dbl": round(value - half, 9)}


def _image_ring(grid: Grid) -> tuple[Point, ...]:
    """Counter-clockwise from the bottom left, as the real images' rings."""
    west, south, east, north = grid.west, grid.south, grid.east, grid.north
    return (west, south), (east, south), (east, north), (west, north), (west, south)


def _box_ring(grid: Grid, box: Box) -> tuple[Point, ...]:
    """Clockwise from the top left, and a pixel off to the right and down, as the real boxes' rings."""
    x, y, width, height = box
    step_x, step_y = grid.pixel
    west, east = grid.west + x * step_x, grid.west + (x + width + 1) * step_x
    north, south = grid.north - (y + 1) * step_y, grid.north - (y + height + 1) * step_y
    return (west, north), (east, north), (east, south), (west, south), (west, north)


def _wkt(ring: tuple[Point, ...]) -> str:
    return f"POLYGON (({', '.join(f'{lon:.16f} {lat:.16f}' for lon, lat in ring)}))"


def _bounding_boxes(place: Place, shot: Acquisition, boxes: tuple[Box, ...]) -> list[dict[str, object]]:
    """Return the raw box around all, with its place on Earth, and the labelled boxes."""
    rng = np.random.default_rng([*place.seed, 4])
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    whole = (left, top, right - left, bottom - top)
    raw: dict[str, object] = {
        "ID": -1,
        "box": list(whole),
        "category": place.category,
        "crowd_rank": round(float(rng.uniform(0.3, 1.0)), 6),
        "epsg": "4326",
        "raw_category": place.category.replace("_", " ").title(),
        "raw_location": _wkt(_box_ring(shot.grid, whole)),
        "spatial_reference": "GCS_WGS_1984",
    }
    first = 100_000 + 1000 * place.seed[1] + 10 * shot.index
    visible = str(shot.cloud_cover < 50)
    labelled = [{"ID": first + i, "box": list(box), "category": place.category, "visible": visible} for i, box in enumerate(boxes)]
    return [raw, *labelled]
