"""fMoW, Functional Map of the World (Christie et al., CVPR 2018), as its authors published it: JPEG images beside JSON records.

Layout: `<root>/{train,val}/<category>/<category>_<n>/<category>_<n>_<T>_{rgb,msrgb}.{jpg,json}`, where `<category>_<n>` is one
place and `<T>` one acquisition of it. Records come in two forms: the ground-truth form knows where the image lies, the challenge
form beside the published images does not; `ground_truth` lays a tree of the former over the images.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

from satmip_schemas import first_error

from satmip_data.geometry import georeference_from_bounds, window_centre
from satmip_data.records import Aoi, Georeference, Metadata, Scene, Window
from satmip_data.sources.base import (
    Found,
    ImageFiles,
    InvalidError,
    Item,
    LayoutError,
    azimuth,
    list_files,
    pair,
    parse_lonlat_ring,
    parse_time,
    read_json,
    reject,
    unpaired,
)

SPLITS = ("train", "val")
# Read from the right: categories themselves hold hyphens, underscores and could hold digits.
NAME = re.compile(r"(?P<place>[^.]+_\d+)_\d+_(?P<product>rgb|msrgb)")


@dataclass(frozen=True)
class Fmow(ImageFiles):
    """fMoW-rgb, splits train and val.

    The key of a scene is `<split>_<name>`, as "train_fountain_514_1_rgb", and its place `<split>_<category>_<n>`, because the
    numbers of places start again in each split.
    """

    name: ClassVar[str] = "fmow"
    licence: ClassVar[str] = "Functional Map of the World Challenge Public License (non-commercial use)"

    product: Literal["rgb", "msrgb"] = field(
        default="rgb", metadata={"help": "rgb is pansharpened (the paper's), msrgb the multispectral grid, about 4 times coarser"}
    )
    boxes: Literal["one", "all"] = field(
        default="one", metadata={"help": "samples of an image with several boxes: one (the largest box) or all"}
    )
    ground_truth: str = field(
        default="", metadata={"help": "root of the tree of ground-truth records, where they do not lie beside the images"}
    )

    def list_items(self, root: str) -> list[Item]:
        """List the records and images of the product in `train` and `val`, paired by name.

        Raises:
            LayoutError: there is neither a `train` nor a `val` folder with files of this product.
        """
        records = self._named_files(self.ground_truth or root, ".json")
        images = self._named_files(root, ".jpg")
        if not records and not images:
            raise LayoutError(
                f"fMoW needs train/<category>/<place>/*_{self.product}.jpg (or val/...) below its root, however: {root!r} has none"
            )
        return pair(records, images)

    def _named_files(self, root: str, suffix: str) -> dict[str, str]:
        ending = f"_{self.product}{suffix}"
        paths = (path for split in SPLITS for path in list_files(root, split) if path.endswith(ending))
        return {path.removesuffix(suffix): path for path in paths}

    def read_item(self, root: str, item: Item) -> list[Found]:
        """Return the scene of one record, or its reject."""
        if (lonely := unpaired(item)) is not None:
            return [lonely]
        path = PurePosixPath(item.image)
        key = f"{path.parts[0]}_{path.stem}".lower()
        try:
            record = read_json(self.ground_truth or root, item.metadata)
        except (OSError, ValueError) as error:
            return [reject(item, "metadata_unreadable", f"a record must be readable JSON, however: {error}", key)]
        try:
            scene = self._scene(key, path, record)
        except (ValueError, ArithmeticError) as error:
            return [reject(item, "metadata_invalid", str(error), key)]
        if not scene.aois:
            message = "a record must have a labelled box (ID other than -1), however: there is none"
            return [reject(item, "no_aoi", message, key)]
        return [scene]

    def _scene(self, key: str, path: PurePosixPath, record: Any) -> Scene:
        if (match := NAME.fullmatch(path.stem)) is None:
            raise InvalidError(f"a name must be <category>_<n>_<T>_<product>, however: {path.stem!r}")
        if (error := first_error("fmow", record)) is not None:
            raise InvalidError(f"a record must fit the schema 'fmow', however: {error}")
        georeference = _georeference(record)
        width, height = record["img_width"], record["img_height"]
        return Scene(
            key=key,
            split=path.parts[0],
            place=f"{path.parts[0]}_{match['place']}".lower(),
            path=str(path),
            width=width,
            height=height,
            metadata=_metadata(record, georeference, Window(0, 0, width, height)),
            georeference=georeference,
            aois=_one(_aois(record)) if self.boxes == "one" else _aois(record),
        )


def _georeference(record: dict[str, Any]) -> Georeference | None:
    """Return the affine of the whole image from `raw_location`; None in records of the challenge form, which have no GPS."""
    if (text := record.get("raw_location")) is None:
        return None
    found = georeference_from_bounds(parse_lonlat_ring("raw_location", text), record["img_width"], record["img_height"])
    if found.affine[0] <= 0.0 or found.affine[4] >= 0.0:
        raise InvalidError(f"raw_location must span an area, however: {text!r}")
    return found


def _metadata(record: dict[str, Any], georeference: Georeference | None, whole: Window) -> Metadata:
    gsd, platform, time = record.get("gsd"), record.get("sensor_platform_name"), record.get("timestamp")
    direction, utm = record.get("scan_direction"), record.get("utm")
    width, height = record.get("mean_pixel_width"), record.get("mean_pixel_height")
    return Metadata(
        # The nominal resolution of the product in hand, and not the size of its pixels on the ground, which are square in degrees.
        gsd=None if gsd is None else (gsd, gsd),
        multispectral_gsd=record.get("multi_resolution_dbl"),
        pixel_size=None if width is None or height is None else (abs(width), abs(height)),
        datetime=None if time is None else parse_time("timestamp", time),
        location=None if georeference is None else window_centre(georeference, whole),
        utm_zone=None if utm is None else utm.lstrip("0"),
        country_code=_country(record.get("country_code")),
        cloud_cover=record.get("cloud_cover"),
        scan_direction=None if direction is None else direction.capitalize(),
        wavelengths=tuple(round(value) for value in record.get("approximate_wavelengths") or ()) or None,
        target_azimuth=azimuth(record.get("target_azimuth_dbl")),
        sun_azimuth=azimuth(record.get("sun_azimuth_dbl")),
        sun_elevation=record.get("sun_elevation_dbl"),
        off_nadir=record.get("off_nadir_angle_dbl"),
        platform=platform or None,
    )


def _country(code: str | None) -> str | None:
    """Return the ISO 3166-1 alpha-3 code.

    "KO-" becomes "XKX", the code that is in common use for Kosovo (from the user-assigned range). What else is not three letters
    names no country and is missing: "CA-" stands for the Caspian Sea.
    """
    if code == "KO-":
        return "XKX"
    return code if code is not None and re.fullmatch("[A-Z]{3}", code) else None


def _aois(record: dict[str, Any]) -> tuple[Aoi, ...]:
    """Return the labelled boxes: neither the annotators' own entry (ID -1) nor a false detection, which is no class."""
    entries = record["bounding_boxes"] if isinstance(record["bounding_boxes"], list) else [record["bounding_boxes"]]
    labelled = [entry for entry in entries if entry.get("ID") != -1 and entry.get("category") != "false_detection"]
    ids = [entry.get("ID") for entry in labelled]
    named_by_id = None not in ids and len(set(ids)) == len(ids)
    names = [f"b{ids[index] if named_by_id else index}" for index in range(len(labelled))]
    boxes = [(*entry["box"], entry.get("category"), name) for entry, name in zip(labelled, names, strict=True)]
    return tuple(Aoi(x, y, width, height, category, name) for x, y, width, height, category, name in boxes)


def _one(aois: tuple[Aoi, ...]) -> tuple[Aoi, ...]:
    """Return the largest box alone, the first of equals, without a name.

    The counts of the paper (Table S1) are those of images, not of boxes; it does not say which box of several is read.
    NOTE[DIFF]: we take the largest, which shows most of the scene and never depends on the order of the annotations' IDs.
    """
    if not aois:
        return ()
    largest = max(aois, key=lambda aoi: max(aoi.width, 0.0) * max(aoi.height, 0.0))
    return (replace(largest, name=""),)
