"""A folder of georeferenced rasters (GeoTIFF, JPEG 2000), cut on a grid.

Layout: any folders; `train`, `val` and `test` among them name the splits. A raster is one place: its windows stay in one split.
"""

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, ClassVar

from satmip_data.imagery.chips import ImageError
from satmip_data.names import RASTERS, ends_with
from satmip_data.records import Metadata, Scene
from satmip_data.sources.archive import (
    Archive,
    ImageHead,
    cut,
    dump,
    failure,
    left_out,
    make_key,
    note_others,
    placed,
    stem,
    unique_keys,
)
from satmip_data.sources.base import (
    YEARS,
    Found,
    InvalidError,
    Item,
    LayoutError,
    parse_time,
    reject,
)
from satmip_data.sources.splits import folder_split
from satmip_data.storage.locations import archive_url, list_files

TIME_TAG = "ACQUISITIONDATETIME"
"""GDAL's tag for the time of acquisition; a TIFF's own DateTime is the time at which the file was made."""

_DIRECTIVES = {
    "%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}", "%H": r"\d{2}", "%M": r"\d{2}", "%S": r"\d{2}", "%j": r"\d{3}", "%y": r"\d{2}"
}  # fmt: skip


@dataclass(frozen=True)
class GeoTiff(Archive):
    """Georeferenced rasters, one sample a window of the grid.

    Each window is a scene of its own, whose GSD is measured on the ground through its own centre: the pixels of a raster in
    degrees grow towards the equator. The key is the raster's path with the window's row and column.
    """

    name: ClassVar[str] = "geotiff"
    licence: ClassVar[str] = "as the rasters' own"

    tile: int = field(default=256, metadata={"help": "side of the grid's tiles in pixels; the last ones are moved back inside"})
    time_tag: str = field(
        default=TIME_TAG, metadata={"help": "tag of a raster with its time of acquisition in UTC, such as TIFFTAG_DATETIME"}
    )
    time_pattern: str = field(
        default="",
        metadata={"help": "pattern of the time of acquisition (UTC) in a file's name, such as %Y%m%dT%H%M%S; it wins over the tag"},
    )

    def __post_init__(self) -> None:
        """Refuse options no build can have."""
        super().__post_init__()
        if self.tile < 1:
            raise ValueError(f"--tile is {self.tile}. Use 1 pixel or more.")
        if self.time_pattern:
            _pattern(self.time_pattern)

    def list_items(self, root: str) -> list[Item]:
        """List the rasters, each with its split.

        Raises:
            FileNotFoundError: there is none.
        """
        files = list_files(archive_url(root))
        paths = sorted(path for path in files if ends_with(path, RASTERS))
        if not paths:
            raise LayoutError(f"{root} holds no raster, no file that ends with {', '.join(RASTERS)}. Name another folder")
        note_others(path for path in files if not ends_with(path, RASTERS))
        split = self.deal_splits(dict.fromkeys(paths, ""), {path: folder_split(path) for path in paths})
        keys = unique_keys({path: make_key(stem(path)) for path in paths})
        return [Item("", path, dump({"split": split[path], "key": keys[path]})) for path in paths]

    def read_item(self, root: str, item: Item) -> list[Found]:
        """Return the windows of one raster, or its reject."""
        record = json.loads(item.record)
        split, key = record["split"], record["key"]
        if split is None:
            return [left_out(item, key)]
        try:
            head = self.read_image(root, item.image)
            if head.georeference is None:
                message = head.unplaced or "The raster has no CRS and transform, and no control points."
                return [reject(item, "no_georeference", message, key)]
            return list(self._scenes(key, split, item.image, head))
        except (ImageError, OSError, ValueError, ArithmeticError) as error:
            return [failure(item, error, key)]

    def _scenes(self, key: str, split: str, path: str, head: ImageHead) -> Iterator[Found]:
        whole = Scene(key, split, key, path, head.width, head.height, Metadata(), head.georeference, (), scaling=head.scaling)
        return cut(whole, self.tile, partial(placed, self._known(path, head.tags), head.georeference))

    def _known(self, path: str, tags: Mapping[str, str]) -> dict[str, Any]:
        """Return what the tags (GDAL's IMAGERY domain) and the file's name tell."""
        cloud = tags.get("CLOUDCOVER")
        return {
            "datetime": self._time(PurePosixPath(path).stem, tags),
            "platform": tags.get("SATELLITEID") or None,
            # 500 and more say why there is no value.
            "cloud_cover": float(cloud) if cloud is not None and 0.0 <= float(cloud) <= 100.0 else None,
        }

    def _time(self, name: str, tags: Mapping[str, str]) -> dt.datetime | None:
        if self.time_pattern:
            if (time := _named_time(name, self.time_pattern)) is None:
                raise InvalidError(f"The file's name holds no time like {self.time_pattern}: {name}. Change --time-pattern.")
            return time
        text = tags.get(self.time_tag)
        # A TIFF's own DateTime has colons in the date.
        return None if text is None else parse_time(self.time_tag, re.sub(r"^(\d{4}):(\d\d):(\d\d)\b", r"\1-\2-\3", text.strip()))


def _pattern(text: str) -> str:
    """Return the regular expression of what a pattern of strptime's directives stands for."""
    parts = re.split("(%.)", text)
    if unknown := [part for part in parts if part.startswith("%") and part not in _DIRECTIVES]:
        raise ValueError(f'Unknown directive "{unknown[0]}" in --time-pattern {text}. Known: {" ".join(_DIRECTIVES)}')
    found = "".join(_DIRECTIVES.get(part) or re.escape(part) for part in parts)
    # Digits beside those of the pattern belong to another number.
    return (r"(?<!\d)" if text.startswith("%") else "") + found + (r"(?!\d)" if text[-2:-1] == "%" else "")


def _named_time(name: str, pattern: str) -> dt.datetime | None:
    """Return the first time like `pattern` in a name that is one, in `YEARS`; None without one."""
    for match in re.finditer(f"(?=({_pattern(pattern)}))", name):
        try:
            time = dt.datetime.strptime(match[1], pattern).replace(tzinfo=dt.UTC)
        except ValueError:  # 20209999
            continue
        if time.year in YEARS:
            return time
    return None
