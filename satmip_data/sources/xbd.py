"""xBD (Gupta et al., CVPR Workshops 2019), as xView2 published it: PNG tiles before and after disasters, with building polygons.

Layout: `<root>/{images,labels}` or `<root>/{train,tier3,hold,test}/{images,labels}`, with
`images/<disaster>_<id>_{pre,post}_disaster.png` and `labels/<same>.json`. `<disaster>_<id>` is one place, seen twice.

A label file has no footprint: the image is placed on Earth by fitting an affine to the corners of its buildings, which it gives
both in pixels and in degrees. Its `gsd` is that of the multispectral bands; the pixel of the PNG is measured on the fit.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from satmip_schemas import first_error
from shapely.geometry import Polygon

from satmip_data.errors import cause
from satmip_data.geometry import distance, grid, ground_gsd, lonlat, pixel_size, unwrap, window_centre
from satmip_data.imagery.chips import ImageError
from satmip_data.records import Aoi, Georeference, Metadata, Point, Ring, Scene, Window
from satmip_data.sources.base import (
    Found,
    ImageFiles,
    InvalidError,
    Item,
    LayoutError,
    azimuth,
    check_grid,
    pair,
    parse_lonlat_ring,
    parse_ring,
    parse_time,
    read_json,
    reject,
    unpaired,
    whole_numbers,
)
from satmip_data.storage.locations import list_files

SPLITS = ("train", "tier3", "hold", "test")
NAME = re.compile(r"(?P<tile>[^.]+_\d+)_(pre|post)_disaster")
MANY_BUILDINGS = 10

Points = npt.NDArray[np.float64]


class UnplacedError(ValueError):
    """The building corners do not place the image on Earth."""


@dataclass(frozen=True)
class Xbd(ImageFiles):
    """xBD, one scene a PNG, cut into a grid of boxes.

    The key of a scene is its file's name; its place is `<disaster>_<id>`, so that the images before and after stay in one split.
    """

    name: ClassVar[str] = "xbd"
    licence: ClassVar[str] = "CC BY-NC-SA 4.0"

    tile: int = field(default=256, metadata={"help": "side of the grid's tiles in pixels; the last ones are moved back inside"})
    label: Literal["buildings", "none"] = field(
        default="buildings", metadata={"help": "class of a tile: none, few (1 to 9) or many buildings; or no class"}
    )
    val_fraction: float = field(
        default=0.2, metadata={"help": "share of the places that go to the val split, where no folders name the splits"}
    )
    max_residual: float = field(
        default=1.0, metadata={"help": "most metres by which a building's corner may miss the fitted georeference"}
    )

    def __post_init__(self) -> None:
        """Refuse options no build can have."""
        if self.tile < 1:
            raise ValueError(f"--tile is {self.tile}. Use 1 pixel or more.")
        if not 0.0 <= self.val_fraction <= 1.0:
            raise ValueError(f"--val-fraction is {self.val_fraction:g}. Use a share from 0 to 1.")
        if not self.max_residual > 0.0:
            raise ValueError(f"--max-residual is {self.max_residual:g}. Use metres above 0.")

    def list_items(self, root: str) -> list[Item]:
        """List the label files and images of all splits, paired by name.

        Raises:
            LayoutError: there are neither `images` and `labels` nor folders of splits that hold them.
        """
        items, folders = [], ("", *(f"{split}/" for split in SPLITS))
        paths = list_files(root, *(f"{folder}{kind}" for folder in folders for kind in ("labels", "images")))
        for folder in folders:
            labels, images = _named(paths, f"{folder}labels/", ".json"), _named(paths, f"{folder}images/", ".png")
            items += pair(labels, images)
        if not items:
            raise LayoutError(
                f"{root} holds no xBD: no images/*.png with labels/*.json, no train/images/*.png. Name the folder that holds them"
            )
        return items

    def read_item(self, root: str, item: Item) -> list[Found]:
        """Return the scene of one label file, or its reject."""
        if (lonely := unpaired(item)) is not None:
            return [lonely]
        key = PurePosixPath(item.image).stem.lower()
        try:
            record = read_json(root, item.metadata)
        except (OSError, ValueError) as error:
            return [reject(item, "metadata_unreadable", f"The label file is no readable JSON: {cause(error)}", key)]
        try:
            return [self._scene(key, item, record)]
        except ImageError as error:
            return [reject(item, error.reason, str(error), key)]
        except UnplacedError as error:
            return [reject(item, "no_georeference", str(error), key)]
        except (ValueError, ArithmeticError) as error:
            return [reject(item, "metadata_invalid", str(error), key)]

    def _scene(self, key: str, item: Item, record: Any) -> Scene:
        if (match := NAME.fullmatch(key)) is None:
            raise InvalidError(f"The name {key} is not of the form <disaster>_<id>_<pre or post>_disaster")
        if (error := first_error("xbd", record)) is not None:
            raise InvalidError(f"The label file does not follow the schema of xBD: {error}")
        whole_numbers(record["metadata"], "width", "height")
        pixels, degrees = _corners(record["features"])
        georeference = fit_affine(pixels, degrees, self.max_residual)
        width, height = record["metadata"]["width"], record["metadata"]["height"]
        check_grid(width, height, self.tile)
        return Scene(
            key=key,
            split=self._split(item.image, match["tile"]),
            place=match["tile"],
            path=item.image,
            width=width,
            height=height,
            metadata=_metadata(record["metadata"], georeference, Window(0, 0, width, height)),
            georeference=georeference,
            aois=self._aois(width, height, _building_centres(record["features"])),
        )

    def _split(self, path: str, tile: str) -> str:
        folder = PurePosixPath(path).parts[0]
        if folder in SPLITS:
            return folder
        # A hash, so that the split of a place depends on nothing but its name.
        share = int.from_bytes(hashlib.sha256(tile.encode()).digest()[:8], "big") / 2**64
        return "val" if share < self.val_fraction else "train"

    def _aois(self, width: int, height: int, buildings: list[Point]) -> tuple[Aoi, ...]:
        """Return the boxes of the grid, row by row; together they show every pixel."""
        return tuple(
            Aoi(box.x, box.y, box.width, box.height, self._category(box, buildings), name)
            for name, box in grid(width, height, self.tile)
        )

    def _category(self, box: Window, buildings: list[Point]) -> str | None:
        if self.label == "none":
            return None
        right, bottom = box.x + box.width, box.y + box.height
        count = sum(box.x <= x < right and box.y <= y < bottom for x, y in buildings)
        return "none" if count == 0 else "few" if count < MANY_BUILDINGS else "many"


def _named(paths: list[str], folder: str, suffix: str) -> dict[str, str]:
    return {PurePosixPath(path).stem: path for path in paths if path.startswith(folder) and path.endswith(suffix)}


def _rings(shapes: list[dict[str, Any]], parse: Callable[[str, str], Ring]) -> dict[str, Ring]:
    return {shape["properties"]["uid"]: parse(f"wkt of {shape['properties']['uid']}", shape["wkt"]) for shape in shapes}


def _corners(features: dict[str, Any]) -> tuple[Ring, Ring]:
    """Return the corners of all polygons in pixels and in degrees, paired; polygons whose forms differ in length are left out."""
    in_pixels, in_degrees = _rings(features["xy"], parse_ring), _rings(features["lng_lat"], parse_lonlat_ring)
    pairs = [(in_pixels[uid], ring) for uid, ring in in_degrees.items() if uid in in_pixels and len(in_pixels[uid]) == len(ring)]
    return tuple(p for ring, _ in pairs for p in ring), tuple(p for _, ring in pairs for p in ring)


def _building_centres(features: dict[str, Any]) -> list[Point]:
    shapes = [shape for shape in features["xy"] if shape["properties"].get("feature_type") == "building"]
    centres = [Polygon(ring).centroid for ring in _rings(shapes, parse_ring).values()]
    return [(centre.x, centre.y) for centre in centres]


def fit_affine(pixels: Ring, degrees: Ring, max_residual: float) -> Georeference:
    """Return the affine from pixels to degrees that fits paired points best (least squares).

    Args:
        pixels: N points (column, row).
        degrees: the same points as (longitude, latitude).
        max_residual: metres by which the worst point may miss the fit.

    Raises:
        UnplacedError: there are fewer than three points, they lie within a pixel of one line, or one misses the fit by more.
    """
    if len(pixels) < 3:
        raise UnplacedError(f"A georeference needs 3 points; the label file has {len(pixels)}")
    source, target = np.array(pixels), np.array(unwrap(degrees))
    # Around their centres: degrees differ from the seventh digit on only.
    middle, anchor = source.mean(axis=0), target.mean(axis=0)
    spread = float(np.linalg.svd(source - middle, compute_uv=False)[1]) / len(pixels) ** 0.5
    if spread < 1.0:
        raise UnplacedError(f"The points lie on one line to within {spread:.3f} pixels, which gives no georeference")
    matrix = np.linalg.lstsq(source - middle, target - anchor, rcond=None)[0].T
    offset = anchor - matrix @ middle
    (a, b), (d, e) = matrix.tolist()
    georeference = Georeference((a, b, float(offset[0]), d, e, float(offset[1])))
    residual = worst_residual(georeference, pixels, degrees)
    if residual > max_residual:
        raise UnplacedError(f"A point misses the georeference by {residual:.2f} m; --max-residual allows {max_residual:g} m")
    return georeference


def worst_residual(georeference: Georeference, pixels: Ring, degrees: Ring) -> float:
    """Return the metres by which the worst of paired points misses the georeference."""
    return max(distance(lonlat(georeference, *pixel), point) for pixel, point in zip(pixels, degrees, strict=True))


def _metadata(record: dict[str, Any], georeference: Georeference, whole: Window) -> Metadata:
    """Return what a label file knows; UTM zone, country, clouds, scan direction and wavelengths stay missing."""
    size = (whole.width, whole.height)
    time = record.get("capture_date")
    return Metadata(
        gsd=ground_gsd(georeference, whole, size),
        multispectral_gsd=record.get("gsd"),
        pixel_size=pixel_size(georeference, *size),
        datetime=None if time is None else parse_time("capture_date", time),
        location=window_centre(georeference, whole),
        target_azimuth=azimuth(record.get("target_azimuth")),
        sun_azimuth=azimuth(record.get("sun_azimuth")),
        sun_elevation=record.get("sun_elevation"),
        off_nadir=record.get("off_nadir_angle"),
        platform=record.get("sensor") or None,
    )
