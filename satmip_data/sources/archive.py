"""Shared parts of the sources for a user's own layout: reading any image, and assigning splits."""

import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, ClassVar

from PIL import Image

from satmip_data import geometry
from satmip_data.errors import cause
from satmip_data.imagery import chips, raster, scaling
from satmip_data.imagery.raster_file import driver_of, is_raster
from satmip_data.names import PICTURES, ends_with
from satmip_data.records import Aoi, Georeference, Metadata, Reject, Sample, Scaling, Scene, Window, with_digest
from satmip_data.sources import splits
from satmip_data.sources.base import Found, ImageFiles, InvalidError, Item, check_grid, reject
from satmip_data.storage.locations import REMOTE, OutsideError, archive_url, locate
from satmip_data.storage.store import Store

MAX_KEY = 64
"""Longest key of a scene, which leaves room for the name of a box."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DealtSplits:
    """Splits that folders, a user's lists or seeded shares name."""

    default_shares: ClassVar[str] = "train=80,val=20"
    joined: ClassVar[dict[str, str]] = {}
    """Split of a list -> the split of the set that it belongs to."""

    shares: str = field(
        default="",
        metadata={"help": "shares of the splits, such as train=60,val=20,test=20, where neither folders nor lists name them"},
    )
    split_file: str = field(
        default="",
        metadata={
            "help": "file that names the samples of each split (JSON, CSV or text), or a folder of lists named train, val, test"
        },
    )
    split_seed: int = field(default=0, metadata={"help": "seed that deals samples to the splits of --shares"})

    def __post_init__(self) -> None:
        """Refuse options no build can have."""
        splits.parse_shares(self.shares or self.default_shares)

    def deal_splits(
        self, names: Mapping[str, str], folders: Mapping[str, str | None], short: Mapping[str, str] | None = None
    ) -> dict[str, str | None]:
        """Return the split of each name; None where `split_file` does not name it.

        Args:
            names: name (a path or a place) -> its class, of which all splits get their share.
            folders: name -> the split that the archive itself gives it, which counts where there is no `split_file`.
            short: name -> what its dealing follows from instead, where it differs for all names: of a path the part that is the
                same wherever the archive lies.

        Raises:
            splits.SplitFileError: the lists cannot be read, or name none of `names`.
        """
        if self.split_file:
            lists = splits.read_split_file(self.split_file)
            found = {name: splits.find_split(lists, name) for name in names}
            if not any(found.values()):  # TorchGeo's lists of EuroSAT name .jpg, and its 13 bands are .tif
                bare = splits.without_endings(lists)
                found = {name: splits.find_split(bare, name) for name in names}
            found = {name: self.joined.get(split, split) if split else None for name, split in found.items()}
            if not any(found.values()):
                raise splits.SplitFileError(
                    f'--split-file {self.split_file} names no sample of the archive. It has "{next(iter(lists))}"; names in the '
                    f'archive are like "{next(iter(names))}"'
                )
            return found
        if short is None or len(set(short.values())) < len(names):
            short = {name: name for name in names}
        loose = {short[name]: stratum for name, stratum in names.items() if folders[name] is None}
        dealt = splits.deal(loose, splits.parse_shares(self.shares or self.default_shares), self.split_seed)
        return {name: folders[name] or dealt[short[name]] for name in names}


@dataclass(frozen=True)
class Archive(DealtSplits, ImageFiles):
    """Images of any kind that Pillow or rasterio reads."""

    bands: str = field(
        default="auto",
        metadata={
            "help": "bands for red, green and blue, counted from 1, such as 4,3,2. auto takes the bands that the raster names so, "
            "or all of three, or 4,3,2 of Sentinel-2's 12 or 13"
        },
    )
    stretch: str = field(
        default="none",
        metadata={
            "help": "how a raster's values become 8 bits: none (they already are), minmax:LOW,HIGH (the same for all rasters), or "
            "percentile:LOW,HIGH (of each band over the whole raster; percentile alone is 2,98)"
        },
    )
    apply_scale: bool = field(
        default=False,
        metadata={
            "help": "stretch physical units, number * scale + offset as the rasters declare them, and give LOW and HIGH in these",
            "recorded": "if given",
        },
    )

    def __post_init__(self) -> None:
        """Refuse options no build can have."""
        super().__post_init__()
        raster.parse_bands(self.bands)
        scaling.check_stretch(self.apply_scale, raster.parse_stretch(self.stretch).kind)

    def locate(self, root: str, path: str) -> tuple[Store, str]:
        """Return where an image lies that a listing names. See `locations`."""
        return Store(archive_url(root)), path

    def read_image(self, root: str, path: str) -> "ImageHead":
        """Return size and georeference of an image from its header.

        Raises:
            imagery.ImageError: the header cannot be read.
            OutsideError: data name a place that they may not name.
            raster.ScaleError: the image is a raster that needs `bands` or `stretch`.
        """
        store, name = self.locate(root, path)
        picture = _picture(store, name) if not store.local else None if is_raster(store, name) else store.path(name)
        if picture is not None:
            width, height = chips.image_size(picture)
            return ImageHead(width, height)
        header = raster.read_header(store, name)
        stretch = raster.parse_stretch(self.stretch)
        bands = raster.choose_bands(header, raster.parse_bands(self.bands), stretch)
        declared = raster.scaling(header, bands, stretch, self.apply_scale)
        return ImageHead(header.width, header.height, header.georeference, header.unplaced, header.tags, bands, declared)

    def read_chip(self, root: str, sample: Sample, size: tuple[int, int], max_pixels: int) -> Image.Image:
        """Read the window of a raster alone, and of any other image the whole. See `Source.read_chip`."""
        store, name = self.locate(root, sample.path)
        expected, window = (sample.scene_width, sample.scene_height), sample.window
        if (picture := _picture(store, name)) is not None:
            return chips.read_chip(picture, window, size, expected, max_pixels)
        if window.width * window.height > max_pixels:
            message = chips.too_large("window", window.width, window.height, max_pixels)
            raise chips.ImageError("image_too_large", message)
        bands, stretch = raster.parse_bands(self.bands), raster.parse_stretch(self.stretch)
        lines = scaling.lines(sample.scaling, sample.scene_metadata.platform, self.apply_scale)
        return raster.compose(raster.read_layers(store, (name,), bands, stretch, window, expected, lines), size)

    def check_units(self, samples: Iterable[Sample]) -> None:
        """Refuse rasters that one stretch cannot show alike.

        Raises:
            scaling.UnitsError: their numbers mean different things, and no physical units were asked for.
        """
        if not self.apply_scale:
            scaling.check_units(samples)


@dataclass(frozen=True)
class NamedImages(Archive):
    """Images that data name: a table, or items."""

    allow_outside: bool = field(
        default=False,
        metadata={
            "help": "also read images outside SOURCE: at absolute paths, .. and file://. Without it, images lie below SOURCE or "
            f"at a URL of {', '.join(REMOTE)}",
            "recorded": "if given",
        },
    )

    def locate(self, root: str, path: str) -> tuple[Store, str]:
        """Return where an image lies that data name. See `locations`.

        Raises:
            OutsideError: they may not name it.
        """
        return locate(root, path, self.allow_outside)


@dataclass(frozen=True, slots=True)
class ImageHead:
    """Facts from the header of an image; for a picture, its size in pixels only."""

    width: int
    height: int
    georeference: Georeference | None = None
    unplaced: str = ""
    """Why control points give no georeference; see `raster.Header`."""
    tags: Mapping[str, str] = field(default_factory=dict)
    bands: tuple[int, int, int] | None = None
    """Bands of a raster for red, green and blue."""
    scaling: Scaling | None = None
    """Scale and offset that a raster declares for these bands; see `raster.scaling`."""


def _picture(store: Store, name: str) -> bytes | None:
    """Return the bytes of an image that Pillow reads; None where its first bytes are those of a raster."""
    if store.remote and ends_with(name, PICTURES):  # one request instead of two
        data = _read(store, name)
        return None if driver_of(data) else data
    return None if is_raster(store, name) else _read(store, name)


def _read(store: Store, name: str) -> bytes:
    try:
        return store.read(name)
    except OSError as error:
        raise chips.ImageError("image_unreadable", f"Cannot read {name}: {cause(error)}") from error


def note_others(paths: Iterable[str]) -> None:
    """Say how many files of a folder a source does not read, by their endings: images of another kind may be among them."""
    endings = Counter(PurePosixPath(path).suffix.lower() or "without an ending" for path in paths)
    if endings:
        counts = sorted((-count, ending) for ending, count in endings.items())
        _log.warning("Files that this source does not read: %s", ", ".join(f"{-count:,} {ending}" for count, ending in counts))


def failure(item: Item, error: Exception, key: str) -> Reject:
    """Return the reject of an item whose image or record is not as it must be."""
    if isinstance(error, chips.ImageError):
        return reject(item, error.reason, str(error), key)
    if isinstance(error, OSError):
        return reject(item, "image_unreadable", f"Cannot read the image: {cause(error)}", key)
    if isinstance(error, OutsideError):
        return reject(item, "image_outside", str(error), key)
    if isinstance(error, raster.ScaleError):
        return reject(item, "unscaled", str(error), key)
    return reject(item, "metadata_invalid", str(error) or type(error).__name__, key)


def left_out(item: Item, key: str) -> Reject:
    """Return the reject of an item that the user's lists do not name."""
    return reject(item, "not_in_split_file", "--split-file does not name it", key)


def make_key(*parts: str) -> str:
    """Return a scene's key from parts of its path: lower case, of a to z, digits, "_" and "-".

    The key of a name with letters of other scripts, of which nothing else is left, ends with a hash of that name, and a key longer
    than `MAX_KEY` with one of the whole. Two names that differ in other ASCII signs only have one key; see `unique_keys`.
    """
    # One form of each letter: file systems write an accent as part of its letter or after it.
    name = unicodedata.normalize("NFC", "_".join(parts))
    text = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_") or "_"
    if name.isascii() and len(text) <= MAX_KEY:
        return text
    return with_digest(text, text if name.isascii() else name, MAX_KEY)


def unique_keys(keys: Mapping[str, str]) -> dict[str, str]:
    """Return path -> key: the first to have a key keeps it, and each other one gets a hash of its path behind it."""
    taken = set[str]()
    unique = {}
    for path, key in keys.items():
        unique[path] = with_digest(key, path, MAX_KEY) if key in taken else key
        taken.add(unique[path])
    return unique


def dump(record: Mapping[str, Any]) -> str:
    """Return the JSON of an `Item.record`."""
    return json.dumps(record, ensure_ascii=False)


def placed(metadata: dict[str, Any], georeference: Georeference | None, window: Window) -> Metadata:
    """Return metadata with what a georeference measures: GSD on the ground, pixel size and location.

    Args:
        metadata: attributes of `Metadata`, which the measured ones replace.
        georeference: of the image; None leaves all as it is.
        window: where the GSD is measured, since it changes over a raster in degrees.

    Raises:
        InvalidError: the georeference places the window nowhere on Earth.
    """
    if georeference is None:
        return Metadata(**metadata)
    size = (window.width, window.height)
    try:
        measured = {
            "gsd": geometry.ground_gsd(georeference, window, size),
            # The centre of an image that ends as far beyond the window as it begins before it is the window's.
            "pixel_size": geometry.pixel_size(georeference, 2 * window.x + window.width, 2 * window.y + window.height),
            "location": geometry.window_centre(georeference, window),
        }
        return Metadata(**{**metadata, **measured})
    except (ValueError, RuntimeError) as error:  # pyproj's errors are RuntimeErrors
        raise InvalidError(f"The georeference ({georeference.crs}) does not place the image on Earth: {cause(error)}") from error


def cut(whole: Scene, tile: int, measure: Callable[[Window], Metadata]) -> Iterator[Found]:
    """Cut an image on a grid: each window becomes a scene, or a reject `no_georeference` where it lies off the Earth.

    Args:
        whole: the image; the key of a window is its key, with the window's name where there are several.
        tile: side of the windows in pixels.
        measure: gives the metadata of a window, as `placed` does.

    Raises:
        chips.ImageError: there are too many windows.
    """
    check_grid(whole.width, whole.height, tile)
    windows = geometry.grid(whole.width, whole.height, tile)
    for name, window in windows:
        key = make_key(whole.key, name) if len(windows) > 1 else whole.key
        try:
            metadata = measure(window)
        except InvalidError as error:
            yield Reject(whole.path, "scan", "no_georeference", str(error), key)
            continue
        yield replace(whole, key=key, metadata=metadata, aois=(Aoi(window.x, window.y, window.width, window.height),))


def stem(path: str) -> str:
    """Return a path, or a URL without a query, without the ending of its file."""
    scheme, mark, rest = path.rpartition("://")
    if (mark and "?" in rest) or not PurePosixPath(rest).name:
        return path
    return f"{scheme}{mark}{PurePosixPath(rest).with_suffix('')}"
