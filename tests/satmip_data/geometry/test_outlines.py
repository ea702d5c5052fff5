"""The border of an image on Earth: pixels just inside it are covered, pixels just outside are not."""

import numpy as np
import pytest
import shapely
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.transform import Affine
from shapely import Polygon

from satmip_data.geometry import OffEarthError, footprint, is_invertible
from satmip_data.records import Georeference, Window


def outline(crs: CRS, affine: Affine, width: int, height: int) -> Polygon | None:
    """The footprint of a whole image; None where it has none on Earth."""
    place = Georeference(tuple(affine)[:6], f"EPSG:{crs.to_epsg()}" if crs.to_epsg() else crs.to_string())
    try:
        return Polygon(footprint(place, Window(0, 0, width, height))) if is_invertible(place.affine) else None
    except OffEarthError:
        return None


def covered(border: Polygon, crs: str, affine: Affine, pixels: np.ndarray) -> np.ndarray:
    """Whether pixels, (N, 2) columns and rows, lie inside of a border, whatever the turn of its longitudes."""
    x, y = affine @ (pixels[:, 0], pixels[:, 1])
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    return np.any([shapely.contains_xy(border, lon + turn, lat) for turn in (-360, 0, 360)], axis=0)


def beside(width: int, height: int, by: float) -> np.ndarray:
    """Pixels along the border, inside of it by so many (outside, where negative)."""
    along = np.linspace(0.02, 0.98, 49)
    left, top = np.full(49, by), np.full(49, by)
    sides = [(left, along * height), (width - left, along * height), (along * width, top), (along * width, height - top)]
    return np.concatenate([np.stack(side, axis=1) for side in sides])


@pytest.mark.parametrize(
    ("crs", "west", "north", "metres", "width", "height"),
    [
        ("EPSG:32633", 300_000, 5_700_000, 10, 10_980, 10_980),  # a tile of Sentinel-2
        ("EPSG:32660", 700_000, 7_000_000, 10, 10_980, 10_980),  # across the date line
        ("EPSG:2193", 2_099_940, 5_816_146, 5_000, 53, 47),  # another one
        ("EPSG:3035", 2_777_193, 3_408_387, 1_000, 29, 375),  # narrow, and turned on Earth
        ("EPSG:3413", -50_000, 30_000, 1_000, 100, 100),  # around the pole
        ("EPSG:3413", -3_300, 100_000, 100, 1_000, 1_000),  # the pole on a side
        ("EPSG:3031", 0, 100_000, 1_000, 100, 100),  # and on a corner
        ("EPSG:3031", -33_000, 5, 10, 5_000, 3_000),  # and half a pixel inside
        ("EPSG:3413", -33_000, 5, 1, 50_000, 30_000),  # and in small pixels
        ("EPSG:3031", -2_000_000, 1_500_000, 1_000, 3_000, 3_000),
    ],
)
def test_an_outline_is_the_border_of_the_image(crs: str, west: float, north: float, metres: float, width: int, height: int) -> None:
    """Once it joined the four corners: off by hundreds of metres at the sides of a large scene, and all wrong around a pole."""
    affine = Affine(metres, 0, west, 0, -metres, north)
    border = outline(CRS.from_string(crs), affine, width, height)
    assert border is not None
    assert border.is_valid
    assert border.exterior.is_ccw
    assert -180 <= border.bounds[0] < 180
    assert covered(border, crs, affine, beside(width, height, 0.6)).all()
    assert not covered(border, crs, affine, beside(width, height, -0.6)).any()


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:3031"])
@pytest.mark.parametrize(
    ("west", "north"), [(-20, 50), (-20, 3000), (0, 3000), (0, 50), (-5000, 0), (-33, 0.5), (-3300, 0.5), (-20, 0.5), (-20, 2999.5)]
)
def test_around_a_pole_on_or_beside_the_border_it_is_the_border_too(crs: str, west: float, north: float) -> None:
    affine = Affine(10, 0, 10 * west, 0, -10, 10 * north)
    border = outline(CRS.from_string(crs), affine, 5_000, 3_000)
    assert border is not None
    assert border.is_valid
    angles, radii = np.linspace(0, 2 * np.pi, 96, endpoint=False), np.array([0.6, 3.0, 30.0])[:, None]
    pixels = np.stack([-west + radii * np.cos(angles), north + radii * np.sin(angles)], axis=-1).reshape(-1, 2)
    inside, outside = ((pixels > by).all(1) & (pixels < np.array([5_000, 3_000]) - by).all(1) for by in (0.4, -0.4))
    assert covered(border, crs, affine, pixels[inside]).all()
    assert not covered(border, crs, affine, pixels[~outside]).any()


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4269", "EPSG:3857"])
def test_an_image_of_the_whole_earth_keeps_its_width(crs: str) -> None:
    """Once the outline of a world map was a line."""
    half = 20_037_508.342789244 if crs == "EPSG:3857" else 180.0
    affine = Affine(half / 50, 0, -half, 0, -half / 50, half if crs == "EPSG:3857" else 90)
    border = outline(CRS.from_string(crs), affine, 100, 100 if crs == "EPSG:3857" else 50)
    assert border is not None
    assert border.bounds == pytest.approx((-180, -90, 180, 90) if half == 180 else (-180, -85.05112878, 180, 85.05112878))
    assert border.is_valid


def test_what_lies_nowhere_on_earth_has_no_outline() -> None:
    disc = CRS.from_string("+proj=geos +h=35785831 +lon_0=0 +sweep=y")
    assert outline(disc, Affine(100_000, 0, -5_500_000, 0, -100_000, 5_500_000), 110, 110) is None
    assert outline(CRS.from_epsg(4326), Affine(10, 0, 500_000, 0, -10, 5_400_000), 50, 30) is None
    # A grid whose outermost pixels are centred on the poles.
    border = outline(CRS.from_epsg(4326), Affine(1.5, 0, 0, 0, -1.5, 90.75), 10, 121)
    assert border is not None
    assert border.bounds == (0, -90, 15, 90)
    # One that stands on its side, and one that reaches further past a pole than by a pixel.
    border = outline(CRS.from_epsg(4326), Affine(0, 1.5, 0, -1.5, 0, 90.75), 121, 10)
    assert border is not None
    assert border.bounds == (0, -90, 15, 90)
    assert outline(CRS.from_epsg(4326), Affine(0.1, 0, 0, 0, -0.1, 90.5), 10, 10) is None


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32633"])
@pytest.mark.parametrize("numbers", [(np.nan, 0, 5, 0, -1, 5), (1, 0, np.inf, 0, -1, 5), (0, 0, 5, 0, 0, 5), (1, 1, 5, 1, 1, 5)])
def test_an_affine_that_is_that_of_no_image_gives_no_outline(crs: str, numbers: tuple[float, ...]) -> None:
    """Once a damaged one ended the embedding of a whole folder with a traceback."""
    assert outline(CRS.from_string(crs), Affine(*numbers), 4, 3) is None
