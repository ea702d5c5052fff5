"""The interface of a source, and reading files below a root that may be a folder, an archive or a URL (fsspec)."""

import bz2
import datetime as dt
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from PIL import Image
from shapely import GEOSException, from_wkt

from satmip_data.errors import cause
from satmip_data.imagery import chips
from satmip_data.imagery.fetch import ImageFile, fetch_image
from satmip_data.names import counted, written
from satmip_data.records import Reject, Ring, Sample, Scene, crash
from satmip_data.storage import limits
from satmip_data.storage.locations import hidden
from satmip_data.storage.store import Store

Found = Scene | Reject

_JSON = json.JSONDecoder(parse_constant=str)
_END_OF_DAY = re.compile(r"[T ](24:?00(:?00(?![.,]0*[1-9]))?|23:?59:?60)(?=[.,Z+-]|$)")
_ONE_RING = re.compile(r"POLYGON ?\(\(([-0-9. ,]+)\)\)")

YEARS = range(1800, 2200)
"""In which pictures are taken. Where a time is not known, programs write the first or last that they have, in 0001 or 9999."""

MANIFEST = "manifest.json.bz2"
"""List of all files of a bucket of fMoW."""


class LayoutError(FileNotFoundError):
    """An archive is not laid out as its source needs it; the message says what is missing and what to type next."""


class InvalidError(ValueError):
    """A metadata record holds a value that no scene can have; the message names the key and the value."""


class Item(NamedTuple):
    """One unit of a scan: a metadata file and its image, as paths relative to their roots; "" where one of the two is missing."""

    metadata: str
    image: str
    record: str = ""
    """JSON of what only the listing knows: the split that depends on all names, or the row of a table."""


class Source(Protocol):
    """One kind of raw archive: a frozen dataclass whose fields are its options, each with a line of `metadata={"help": ...}`.

    A scan has two steps, so that the reading of many metadata files can be spread over processes: `list_items` lists the
    archive once, `read_item` is a pure function of one item's files.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    """The word that chooses the source."""
    licence: ClassVar[str]
    """Licence of the data."""
    default_size: ClassVar[int | None]
    """Side of a chip where the user asks for none; None keeps each window's own size."""

    def list_items(self, root: str) -> list[Item]:
        """List the items below `root` (folder or fsspec URL), in an order that follows from their names.

        Raises:
            FileNotFoundError: `root` is not there, or its layout is not this source's.
        """

    def read_item(self, root: str, item: Item) -> list[Found]:
        """Return the scenes of one item; bad data never raise, each failure is a `Reject` of stage "scan"."""

    def read_chip(self, root: str, sample: Sample, size: tuple[int, int], max_pixels: int) -> Image.Image:
        """Return the pixels of a sample's window, resized to `size` (width, height), as RGB with 8 bits a channel.

        Raises:
            imagery.ImageError: the image gives no chip; it carries the reason code.
        """


@runtime_checkable
class LocatedElsewhere(Protocol):
    """A source whose scenes have locations only with an option that the user may have forgotten."""

    def check_location(self, root: str, items: Sequence[Item]) -> None:
        """Refuse to go on where no scene has a location; asked before any work where captions or the GSD need them.

        Raises:
            LayoutError: no item has a location; the message says what to pass.
        """


class ImageFiles:
    """The pixels of a source whose scenes are plain image files (JPEG, PNG): its sources inherit `read_chip` from here."""

    default_size: ClassVar[int | None] = 224

    def read_chip(self, root: str, sample: Sample, size: tuple[int, int], max_pixels: int) -> Image.Image:
        """Read the file and cut the window out of it. See `Source.read_chip`."""
        return self.chip_of(self.fetch(root, sample), sample, size, max_pixels)

    def fetch(self, root: str, sample: Sample) -> ImageFile:
        """Return the bytes of a sample's image; over a network, of a large JPEG, perhaps the first part alone.

        Raises:
            imagery.ImageError: the file cannot be read.
        """
        try:
            store = Store(root)
            if store.remote:
                return fetch_image(store, sample)
            data = store.read(sample.path)
            return ImageFile(store, sample.path, len(data), data, 0)
        except OSError as error:
            raise _unreadable(sample, error) from error

    def chip_of(self, image: ImageFile, sample: Sample, size: tuple[int, int], max_pixels: int) -> Image.Image:
        """Return the chip of a fetched image; where a part of it gives none, the whole file decides. See `Source.read_chip`."""
        expected = (sample.scene_width, sample.scene_height)
        if not image.whole:
            try:
                return chips.read_chip(image.data, sample.window, size, expected, max_pixels, prefix=True)
            except chips.ImageError:
                try:
                    image.complete()
                except OSError as error:
                    raise _unreadable(sample, error) from error
        return chips.read_chip(image.data, sample.window, size, expected, max_pixels)


def _unreadable(sample: Sample, error: OSError) -> chips.ImageError:
    return chips.ImageError("image_unreadable", f"Cannot read {sample.path}: {cause(error)}")


def read_safely(source: Source, root: str, item: Item) -> list[Found]:
    """Return what `Source.read_item` does; whatever else it raises becomes a reject, so that one item ends no build.

    Raises:
        LayoutError: no item can be read.
        MemoryError: there is no memory left.
    """
    try:
        return source.read_item(root, item)
    except (LayoutError, MemoryError):
        raise
    except Exception as error:
        return [crash(item.metadata or item.image, "scan", error)]


def reject(item: Item, reason: str, message: str, key: str = "") -> Reject:
    """Return the reject of an item found while scanning."""
    return Reject(item.metadata or item.image, "scan", reason, message, key)


def unpaired(item: Item) -> Reject | None:
    """Return the reject of an item that lacks its metadata or its image; None where it has both."""
    if not item.metadata:
        return reject(item, "metadata_missing", "The image has no metadata file")
    if not item.image:
        return reject(item, "image_missing", "The metadata file has no image")
    return None


def pair(metadata: Mapping[str, str], images: Mapping[str, str]) -> list[Item]:
    """Pair paths of metadata with paths of images that share a name (name -> path each), sorted by name."""
    return [Item(metadata.get(name, ""), images.get(name, "")) for name in sorted({*metadata, *images})]


def list_manifest(root: str) -> list[str]:
    """Return what `locations.list_files` would, from the list that an archive carries: `manifest.json.bz2` below `root`.

    fMoW's buckets have one, a JSON list of paths or, in an older form, of `{"key": path}`.

    Raises:
        FileNotFoundError: there is no manifest.
        InvalidError: it holds something else.
    """
    data = Store(root).read(MANIFEST)
    try:
        content = limits.unpack(MANIFEST, bz2.BZ2File(io.BytesIO(data)))
        paths = [entry if isinstance(entry, str) else str(entry["key"]) for entry in json.loads(content)]
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise InvalidError(f"{MANIFEST} is no list of paths compressed by bzip2: {cause(error)}") from error
    return [path for path in paths if not hidden(path)]


def check_grid(width: int, height: int, tile: int) -> None:
    """Refuse an image that is cut into too many windows.

    Raises:
        chips.ImageError: `image_too_large`.
    """
    count, most = -(-width // tile) * -(-height // tile), limits.current().windows
    if count > most:
        message = f"{width} x {height} pixels are {counted(count, 'window')}, more than {most:,}. Raise --tile or --max-windows."
        raise chips.ImageError("image_too_large", message)


def read_json(root: str, path: str) -> Any:
    """Return the JSON value at `path` below `root`; NaN and infinities, which JSON does not have, come as their names in text.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON, or is nested too deep to be read.
    """
    data = Store(root).read(path)
    try:
        return _JSON.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def whole_numbers(record: dict[str, Any], *names: str) -> None:
    """Make whole numbers of those that a program wrote as 7.0, as JSON Schema takes them too; others stay for the schema."""
    for name in names:
        value = record.get(name)
        if isinstance(value, float) and value.is_integer():
            record[name] = int(value)


def parse_time(key: str, text: str) -> dt.datetime:
    """Return an ISO 8601 time in UTC; a time without a zone is taken as UTC.

    Raises:
        InvalidError: `text`, the value of `key`, is no such time, or none of `YEARS`.
    """
    try:
        if text.isdigit() and len(text) != len("YYYYMMDD"):  # 1577010212345 milliseconds would be 23:45 on a day of 1577
            raise ValueError
        try:
            time = dt.datetime.fromisoformat(text.upper())  # RFC 3339 allows a small t and z
        except ValueError:
            time = _end_of_day(text)
        time = time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidError(f'{key} is "{text}", which is no ISO 8601 time. Write it as 2020-01-02T03:04:05Z') from error
    if time.year not in YEARS:
        raise InvalidError(f'{key} is "{text}", outside the years {YEARS[0]} to {YEARS[-1]}')
    return time


def _end_of_day(text: str) -> dt.datetime:
    """Return what ISO 8601 writes as 24:00:00 or, with a leap second, as 23:59:60: the next midnight, as POSIX counts both.

    Raises:
        ValueError: `text` is no such time.
    """
    text, ends = _END_OF_DAY.subn("T00:00:00", text)
    return dt.datetime.fromisoformat(text) + dt.timedelta(days=ends)


def parse_ring(key: str, text: str) -> Ring:
    """Return the outer ring of a WKT polygon.

    Raises:
        InvalidError: `text`, the value of `key`, is no polygon.
    """
    if (plain := _plain_ring(text)) is not None:
        return plain
    try:
        shape = from_wkt(text)
    except GEOSException as error:
        raise InvalidError(f'{key} is no WKT polygon: "{text}"') from error
    if shape.geom_type == "MultiPolygon" and len(shape.geoms) == 1:  # as some programs write every polygon
        shape = shape.geoms[0]
    if shape.geom_type != "Polygon" or shape.is_empty:
        raise InvalidError(f'{key} is no WKT polygon: "{text}"')
    ring = tuple((float(point[0]), float(point[1])) for point in shape.exterior.coords)
    if not all(math.isfinite(value) for point in ring for value in point):
        raise InvalidError(f'{key} has a corner that is not finite: "{text}"')
    return ring


def _plain_ring(text: str) -> Ring | None:
    """Return the ring of a polygon that is written as nearly all are; None leaves it to shapely, which is slower."""
    match = _ONE_RING.fullmatch(text)
    if match is None:
        return None
    try:
        ring = tuple([(float(x), float(y)) for x, y in map(str.split, match[1].split(","))])
    except ValueError:
        return None
    return ring if len(ring) >= 4 and ring[0] == ring[-1] else None


def parse_lonlat_ring(key: str, text: str) -> Ring:
    """Return the outer ring of a WKT polygon of longitudes and latitudes.

    Raises:
        InvalidError: `text`, the value of `key`, is no polygon, or has a corner that is not on Earth.
    """
    return check_lonlat(key, parse_ring(key, text), text)


def check_lonlat(key: str, ring: Ring, value: object) -> Ring:
    """Return a ring whose corners all lie on Earth.

    Raises:
        InvalidError: one does not: `value`, that of `key`, is in metres or in the wrong order, say.
    """
    # Longitudes may pass 180 where an image lies across the antimeridian.
    if not all(abs(lon) <= 360.0 and abs(lat) <= 90.0 for lon, lat in ring):
        raise InvalidError(f"{key} holds no longitudes and latitudes in degrees: {written(value)}")
    return ring


def azimuth(value: float | None) -> float | None:
    """Return the same direction within 0 to 360 degrees."""
    return value if value is None or 0.0 <= value <= 360.0 else value % 360.0
