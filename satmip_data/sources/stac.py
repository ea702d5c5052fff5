"""STAC items on disk (version 1.0 or 1.1) with assets beside them: an item collection in one JSON file, or a folder of items.

One item is one place. Its asset is cut on a grid as the rasters of `geotiff` are. GSD, location and footprint are measured on the
asset's own georeference; an asset without one is placed by `proj:transform`, else by the bounds of the item's geometry or bbox.
"""

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from PIL import Image

from satmip_data.errors import cause
from satmip_data.imagery.chips import ImageError
from satmip_data.imagery.raster import ScaleError
from satmip_data.names import IMAGES, ends_with, unknown_name, written
from satmip_data.records import Georeference, Metadata, Sample, Scene, Window
from satmip_data.sources.archive import (
    ImageHead,
    NamedImages,
    cut,
    dump,
    failure,
    left_out,
    make_key,
    placed,
)
from satmip_data.sources.base import (
    Found,
    InvalidError,
    Item,
    LayoutError,
    read_json,
    reject,
)
from satmip_data.sources.columns import COLUMNS
from satmip_data.sources.splits import folder_split
from satmip_data.sources.stac_asset import UnplacedError, bounds, declared_values, projected
from satmip_data.storage.locations import OutsideError, list_files

PROPERTIES = {
    "platform": "platform",
    "eo:cloud_cover": "cloud_cover",
    "view:off_nadir": "off_nadir",
    "view:sun_azimuth": "sun_azimuth",
    "view:sun_elevation": "sun_elevation",
}
"""Properties of an item -> attributes of `Metadata`."""

REJECTS = "rejects.parquet"
"""Lies in shard directories, before any JSON file that is not hidden does: what was built within its source is not read again."""


UNREAD = ("image/svg", "image/gif")
"""Media types of pictures that are not read."""

LINKS = ("catalog.json", "collection.json")
"""Names of files of links, by which many save an item collection too."""


@dataclass(frozen=True)
class Stac(NamedImages):
    """STAC items, one sample a window of the grid.

    The key is the item's collection, if it has one, and its id with the window's row and column.
    """

    name: ClassVar[str] = "stac"
    licence: ClassVar[str] = "as the items' own (their license property)"

    asset: str = field(default="", metadata={"help": "key of the asset to read, where an item has several images"})
    tile: int = field(default=256, metadata={"help": "side of the grid's tiles in pixels; the last ones are moved back inside"})

    def __post_init__(self) -> None:
        """Refuse options no build can have."""
        super().__post_init__()
        if self.tile < 1:
            raise ValueError(f"--tile is {self.tile}. Use 1 pixel or more.")

    def list_items(self, root: str) -> list[Item]:
        """List the items: the features of `root` where it is a JSON file, else the JSON files below it.

        Raises:
            FileNotFoundError: there is none.
        """
        folder, name = _split_root(root)
        if not name:
            files = list_files(folder)
            shards = tuple(path.removesuffix(REJECTS) for path in files if path.endswith(f"/{REJECTS}"))
            paths = sorted(path for path in files if path.lower().endswith((".json", ".geojson")) and not path.startswith(shards))
            paths = [path for path in paths if PurePosixPath(path).name not in LINKS or _may_hold_items(folder, path)]
            found = [(path, Item(path, path)) for path in paths]
            folders = {path: folder_split(path) for path in paths}
        else:
            features = _features(_read(folder, name))
            # Items of two collections may share an id: each is an item of its own, and both stand in one split.
            found = [(_id(feature, str(number)), Item(name, name, _dumped(feature))) for number, feature in enumerate(features)]
            folders = dict.fromkeys(dict(found))
        if not found:
            raise LayoutError(f"{root} holds no STAC item. Name the JSON file of an item collection, or a folder of items")
        split = self.deal_splits(dict.fromkeys(folders, ""), folders)
        return [item._replace(record=dump({"split": split[name], "item": item.record})) for name, item in found]

    def read_item(self, root: str, item: Item) -> list[Found]:
        """Return the windows of an item's asset, or its reject."""
        folder, record = _split_root(root)[0], json.loads(item.record)
        try:
            features = [json.loads(record["item"])] if record["item"] else _features(read_json(folder, item.metadata))
        except (OSError, ValueError) as error:
            return [reject(item, "metadata_unreadable", f"The item is no readable JSON: {cause(error)}")]
        return [found for feature in features for found in self._found(folder, item, record["split"], feature)]

    def _found(self, folder: str, item: Item, split: str | None, feature: Any) -> list[Found]:
        if not isinstance(feature, dict) or feature.get("type", "Feature") != "Feature":
            found = f'of the type "{feature["type"]}"' if isinstance(feature, dict) else f"{json.dumps(feature)[:40]}"
            return [reject(item, "metadata_invalid", f"The item is no GeoJSON Feature, but {found}")]
        names = (feature.get("collection"), feature.get("id", item.metadata))  # an id is unique in its collection only
        key = make_key(*(str(name) for name in names if name is not None))
        if split is None:
            return [left_out(item, key)]
        try:
            asset = self._asset(feature, folder, item.metadata)
            path = self._path(folder, item.metadata, asset)
            head = self.read_image(folder, path)
            if head.unplaced:
                return [reject(item, "no_georeference", head.unplaced, key)]
            return list(self._scenes(key, split, path, head, feature, asset))
        except UnplacedError as error:
            return [reject(item, "no_georeference", str(error), key)]
        except (ImageError, ScaleError, OSError, InvalidError, OutsideError) as error:
            return [failure(item, error, key)]
        except (ValueError, ArithmeticError, KeyError, TypeError, AttributeError) as error:
            # An item is any JSON: what it lacks or holds shows where it is looked for.
            return [reject(item, "metadata_invalid", f"The item is not as STAC says: {cause(error)}", key)]

    def read_chip(self, root: str, sample: Sample, size: tuple[int, int], max_pixels: int) -> Image.Image:
        """Read a window of an asset. See `Source.read_chip`."""
        return super().read_chip(_split_root(root)[0], sample, size, max_pixels)

    def _on_disk(self, folder: str, path: str) -> str:
        """Return the path of a file whose reference, as that of a URI, may have %20 for a space.

        A file of the very name goes first, because many write paths where STAC has references. URLs stay as they are.
        """
        if "%" not in path or "://" in path.removeprefix("file://"):
            return path
        store, name = self.locate(folder, path)
        return path if store.exists(name) else unquote(path)

    def _asset(self, feature: Mapping[str, Any], folder: str, metadata: str) -> Mapping[str, Any]:
        """Return the asset that is read: by its media type an image, or by its name's ending, or else by its first bytes."""
        assets: Mapping[str, Mapping[str, Any]] = feature.get("assets") or {}
        data = {key: asset for key, asset in assets.items() if not {"thumbnail", "overview"} & set(asset.get("roles") or ())}
        images = [key for key, asset in data.items() if _says_image(asset)]
        if not images and not self.asset:
            untold = {key: asset for key, asset in data.items() if _says_image(asset) is None}
            images = [key for key, asset in untold.items() if self._holds_image(folder, metadata, asset)]
        chosen = [self.asset] if self.asset else images
        if len(chosen) != 1 or chosen[0] not in assets:
            many = "several" if images else "no"
            found, advice = (images, " Add: --asset KEY") if images else (list(assets), "")
            if len(chosen) == 1:
                raise InvalidError(unknown_name("asset", self.asset, assets, "--asset"))
            raise InvalidError(f"The item has {many} images among its assets: {', '.join(found) or 'none'}.{advice}")
        return assets[chosen[0]]

    def _path(self, folder: str, metadata: str, asset: Mapping[str, Any]) -> str:
        return self._on_disk(folder, _resolve(metadata, str(asset["href"])))

    def _holds_image(self, folder: str, metadata: str, asset: Mapping[str, Any]) -> bool:
        try:
            head = self.read_image(folder, self._path(folder, metadata, asset))
        except ScaleError:  # a raster that needs options
            return True
        except (ImageError, OSError, OutsideError):
            return False
        return head.width > 0

    def _scenes(
        self, key: str, split: str, path: str, head: ImageHead, feature: Mapping[str, Any], asset: Mapping[str, Any]
    ) -> Iterator[Found]:
        common = feature.get("properties") or {}
        properties = {**common, **{name: value for name, value in asset.items() if value is not None}}
        stated = head.georeference or projected(asset, common, head)
        georeference, exact = stated or bounds(feature, head), stated is not None
        gsd = None if properties.get("gsd") is None else COLUMNS["gsd"]("gsd", properties["gsd"])
        if georeference is None:
            raise InvalidError("The item has neither a geometry nor a bbox")
        known = {**_known(properties), "wavelengths": _wavelengths(asset, head)}
        values = declared_values(asset, common, head)
        whole = Scene(key, split, key, path, head.width, head.height, Metadata(), georeference, (), scaling=values)
        return cut(whole, self.tile, lambda window: _measured(known, gsd, georeference, window, exact))


def _measured(known: dict[str, Any], gsd: float | None, georeference: Georeference, window: Window, exact: bool) -> Metadata:
    """Return what is known of a window; where its georeference is a guess, its GSD is what the item says."""
    metadata = placed(known, georeference, window)
    return metadata if exact else replace(metadata, gsd=None if gsd is None else (gsd, gsd))


def _split_root(root: str) -> tuple[str, str]:
    """Return the folder to which paths are relative, and the name of the item collection; "" where there is a folder of items."""
    if not root.lower().endswith((".json", ".geojson")):
        return root, ""
    folder, _, name = root.rpartition("/")
    return folder or ("/" if root.startswith("/") else "."), name


def _read(folder: str, name: str) -> Any:
    try:
        return read_json(folder, name)
    except (OSError, ValueError) as error:
        raise LayoutError(f"{name} is no readable JSON: {cause(error)}") from error


def _dumped(feature: Any) -> str:
    try:
        return json.dumps(feature)
    except RecursionError:
        return '"nested too deep"'


def _may_hold_items(folder: str, path: str) -> bool:
    """Tell whether a file named as one of `LINKS` holds an item or several; what cannot be read may, and is rejected later."""
    try:
        value = read_json(folder, path)
    except (OSError, ValueError):
        return True
    return isinstance(value, dict) and value.get("type") in ("Feature", "FeatureCollection")


def _features(value: Any) -> list[Any]:
    """Return what must be the items of a JSON value; none where it is a catalog or a collection, which hold links alone.

    Raises:
        LayoutError: it is an item collection without a list of items.
    """
    if isinstance(value, dict) and value.get("type") == "FeatureCollection":
        if not isinstance(found := value.get("features"), list):
            raise LayoutError(f"The item collection has no list of features: {written(found)}")
        return found
    return [] if isinstance(value, dict) and value.get("type") in ("Catalog", "Collection") else [value]


def _id(feature: Any, default: str) -> str:
    return str(feature.get("id") or default) if isinstance(feature, dict) else default


def _resolve(item: str, href: str) -> str:
    """Return where an asset lies: relative to its item's file, unless it is a URL or an absolute path."""
    return href if "://" in href or href.startswith("/") else posixpath.normpath(posixpath.join(posixpath.dirname(item), href))


def _known(properties: Mapping[str, Any]) -> dict[str, Any]:
    known = {ours: COLUMNS[ours](name, properties[name]) for name, ours in PROPERTIES.items() if properties.get(name) is not None}
    if (time := properties.get("datetime") or properties.get("start_datetime")) is not None:
        known["datetime"] = COLUMNS["datetime"]("datetime", time)
    if (azimuth := properties.get("view:azimuth")) is not None:
        # STAC looks from below the satellite to the scene; ours is the direction back.
        known["target_azimuth"] = (COLUMNS["target_azimuth"]("view:azimuth", azimuth) + 180.0) % 360.0
    return known


def _wavelengths(asset: Mapping[str, Any], head: ImageHead) -> tuple[int, ...] | None:
    """Return the centre wavelengths of the bands that are read, nanometres; STAC has micrometres.

    Only the asset's own bands are those of its raster: an item lists the bands of all its assets.
    """
    bands = asset.get("bands") or asset.get("eo:bands") or ()
    chosen = [bands[number - 1] for number in head.bands or (1, 2, 3) if number <= len(bands)]
    centres = [band.get("eo:center_wavelength", band.get("center_wavelength")) for band in chosen]
    return tuple(round(1000.0 * centre) for centre in centres) if len(centres) == 3 and None not in centres else None


def _says_image(asset: Mapping[str, Any]) -> bool | None:
    """Tell whether an asset is an image by its media type, else by its name's ending; None where neither tells."""
    kind = str(asset.get("type") or "").partition(";")[0].strip().lower()
    if kind not in ("", "application/octet-stream", "binary/octet-stream"):
        return (kind.startswith("image/") and not kind.startswith(UNREAD)) or "geotiff" in kind
    if ends_with(asset["href"], IMAGES):
        return True
    return False if PurePosixPath(urlsplit(asset["href"]).path).suffix else None
