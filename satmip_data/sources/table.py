"""A table of images: a CSV, Parquet or GeoParquet whose rows name an image, perhaps a box in it, and what is known of it.

Columns are those of `COLUMNS`; other names are given theirs by `columns`, as "image=filepath,category=label". One row gives one
sample. Missing cells are missing values. Times without a zone are UTC.
"""

import datetime as dt
import gzip
import io
import json
import logging
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image
from pyarrow import ArrowException
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from shapely import GEOSException, from_wkb

from satmip_data.errors import cause
from satmip_data.geometry import WGS84, distance, wrap_longitude
from satmip_data.imagery.chips import ImageError
from satmip_data.names import PICTURES, ends_with, secret_digest, unknown_name, unsigned, without_secrets
from satmip_data.records import Aoi, Georeference, Metadata, Sample, Scene, Window
from satmip_data.sources import splits
from satmip_data.sources.archive import (
    ImageHead,
    NamedImages,
    dump,
    failure,
    left_out,
    make_key,
    placed,
    stem,
    unique_keys,
)
from satmip_data.sources.base import (
    Found,
    InvalidError,
    Item,
    LayoutError,
)
from satmip_data.sources.columns import ALIASES, COLUMNS, SEE_COLUMNS, centre, fills, from_bounds
from satmip_data.sources.splits import name_split
from satmip_data.storage import limits
from satmip_data.storage.locations import archive_url
from satmip_data.storage.parquet import read_foreign_parquet
from satmip_data.storage.store import Store

_log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".geoparquet")
MISSING = ("", "nan", "none", "null", "na", "n/a", "nat", "<na>")
"""Cells of a CSV that say that there is no value, in any case of letters."""

BOX = ("x", "y", "width", "height")
SAME = ("multispectral_gsd", "datetime", "utm_zone", "country_code", "cloud_cover", "scan_direction", "wavelengths",
        "target_azimuth", "sun_azimuth", "sun_elevation", "off_nadir", "platform")  # fmt: skip
"""Columns that are attributes of `Metadata` under the same name."""

MOST_SHIFT = 5.0
"""Metres: ETRS89 and NAD83 have drifted from WGS 84 by a metre or two, NAD27 and Tokyo lie 50 to 500 m away."""


@dataclass(frozen=True)
class Table(NamedImages):
    """The user's own archive, described by one table.

    The key of a sample is its column `key`, else the image's path, with the number of the row where rows share an image.
    """

    name: ClassVar[str] = "table"
    licence: ClassVar[str] = "as the images' own"

    table: str = field(default="", metadata={"help": "name of the table, where SOURCE is its folder"})
    columns: str = field(default="", metadata={"help": "columns with other names, such as image=filepath,category=label"})
    extra_columns: Literal["error", "ignore"] = field(default="error", metadata={"help": "what to do about unknown columns"})
    images: str = field(
        default="",
        metadata={
            "help": "folder, zip file or URL that the paths of images are relative to; by default the table's folder",
            "recorded": "if given",
        },
    )
    block_degrees: float = field(
        default=0.0,
        metadata={
            "help": "keep blocks of so many degrees of longitude and latitude in one split, so that no test image lies near one "
            "learned from",
            "recorded": "if given",
        },
    )

    def __post_init__(self) -> None:
        """Refuse options no build can have."""
        super().__post_init__()
        self._renamed()
        if not 0.0 <= self.block_degrees <= 90.0:
            raise ValueError(f"--block-degrees is {self.block_degrees:g}. Use a number of degrees up to 90, as 2")
        if self.block_degrees and self.split_file:
            raise ValueError("--block-degrees and --split-file both decide the splits. Leave one of them out")

    def _renamed(self) -> dict[str, str]:
        pairs = [part.partition("=") for part in self.columns.split(",") if part.strip()]
        renamed = {name.strip(): column.strip() for column, _, name in pairs}
        if unknown := [column for column in renamed.values() if column not in COLUMNS]:
            raise ValueError(unknown_name("column", unknown[0], COLUMNS, f"--columns {self.columns}", SEE_COLUMNS))
        return renamed

    def list_items(self, root: str) -> list[Item]:
        """Read the table: each row becomes an item, with its split.

        Raises:
            FileNotFoundError: there is no table, or its columns are not as they must be.
        """
        folder, name = self._split_root(root)
        rows = self._named(name, _read_rows(Store(archive_url(folder)), name))
        images = [_cell(row, "image", "") for row in rows]
        called = _without_secrets(images)
        shared = {name for name, count in Counter(called[image] for image in images).items() if count > 1}
        # A user's lists name images; else a place stays in one split.
        places = [_cell(row, "place", called[image]) for row, image in zip(rows, images, strict=True)]
        names = images if self.split_file else places
        if self.block_degrees:
            names = _blocks(names, rows, self.block_degrees)
            split = self._deal_blocks(names, rows)
        else:
            strata = {name: _cell(row, "category", "") for name, row in zip(names, rows, strict=True)}
            split = self.deal_splits(strata, {} if self.split_file else _named_splits(names, rows))
        stems = {name: stem(name or "row") for name in called.values()}
        keys = unique_keys({name: make_key(_bare(path)) for name, path in stems.items()})
        own = unique_keys({name: make_key(path) for name, path in stems.items()})
        items = []
        for number, (row, image, name) in enumerate(zip(rows, images, names, strict=True)):
            alias = called[image]
            key = make_key(_bare(stems[alias]), f"{number:06d}") if alias in shared else keys[alias]
            key = key if row.get("key") is None else make_key(str(row["key"]))
            # As the user writes it: in a key's letters two places could become one.
            place = _cell(row, "place", own[alias])
            items.append(Item("", image, dump({**row, "split": split[name], "key": key, "place": place})))
        return items

    def _split_root(self, root: str) -> tuple[str, str]:
        """Return the folder of the table, to which the paths of images are relative, and its name."""
        if self.table:
            return root, self.table
        folder, _, name = root.rstrip("/").rpartition("/")
        if not name.lower().endswith(SUFFIXES):
            raise LayoutError(
                f"{root} is no table: its name ends with none of {', '.join(SUFFIXES)}. Name the file, or use --table NAME"
            )
        return folder or ("/" if root.startswith("/") else "."), name

    def _image_root(self, root: str) -> str:
        return self.images or self._split_root(root)[0]

    def _deal_blocks(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
        """Return the split of each block: in shares of the rows, not of the blocks, which hold unequal numbers of them."""
        if any(row.get("split") is not None for row in rows):
            raise LayoutError("The column split and --block-degrees both decide the splits. Leave the option or the column out.")
        sizes = Counter(names)
        shares = splits.parse_shares(self.shares or self.default_shares)
        return dict(splits.deal(dict.fromkeys(sizes, ""), shares, self.split_seed, sizes))

    def _named(self, name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give the columns their names; all rows have the same."""
        found = list(rows[0]) if rows else []
        renamed = self._renamed()
        if absent := [column for column in renamed if column not in found]:
            raise LayoutError(unknown_name(f"column of {name}", absent[0], found, "--columns"))
        names = {column: renamed.get(column, ALIASES.get(column, column)) for column in found}
        if doubled := [column for column, count in Counter(names.values()).items() if count > 1]:
            raise LayoutError(f'{name} has two columns "{doubled[0]}", one of them perhaps under its name in STAC. Leave one out')
        extra = [column for column, ours in names.items() if ours not in COLUMNS]
        if extra and self.extra_columns == "error":
            raise LayoutError(
                f"{unknown_name('column', extra[0], COLUMNS, name)} Rename it, as --columns category={extra[0]}, or "
                f"leave such columns out: --extra-columns ignore. All columns: {SEE_COLUMNS}"
            )
        ours = set(names.values())
        if "image" not in ours:
            columns = f"its columns are {', '.join(found[:10])}" if found else "it has no row"
            raise LayoutError(f"{name} has no column image: {columns}. Say which one it is: --columns image=COLUMN")
        if 0 < len(ours & set(BOX)) < len(BOX):
            raise LayoutError(f"{name} has the columns {', '.join(sorted(ours & set(BOX)))}; a box needs all of {', '.join(BOX)}")
        kept = {column: ours for column, ours in names.items() if ours in COLUMNS}
        named = [{ours: _plain(column, row[column]) for column, ours in kept.items()} for row in rows]
        if "category" in kept.values():
            column = next(column for column, ours in kept.items() if ours == "category")
            _note_missing(row[column] for row in rows)
            named = [{**row, "category": _class(row["category"])} for row in named]
        return named

    def read_item(self, root: str, item: Item) -> list[Found]:
        """Return the scene of one row, or its reject."""
        row = json.loads(item.record)
        key = row["key"]
        if row["split"] is None:
            return [left_out(item, key)]
        try:
            cells = {name: COLUMNS[name](name, value) for name, value in row.items() if value is not None}
            if not item.image:
                raise InvalidError("The row names no image: its cell is empty")
            head = self._head(self._image_root(root), item.image, cells)
            return [_scene(item.image, cells, head)]
        except (ImageError, OSError, ValueError, ArithmeticError) as error:
            return [failure(item, error, key)]

    def _head(self, folder: str, image: str, cells: Mapping[str, Any]) -> ImageHead:
        # A raster may place itself, and must say whether its values fit; a name without an ending tells nothing.
        if {"image_width", "image_height"} <= cells.keys() and ends_with(image, PICTURES):
            return ImageHead(cells["image_width"], cells["image_height"])
        return self.read_image(folder, image)

    def read_chip(self, root: str, sample: Sample, size: tuple[int, int], max_pixels: int) -> Image.Image:
        """Read the image of a row. See `Source.read_chip`."""
        return super().read_chip(self._image_root(root), sample, size, max_pixels)


def _cell(row: Mapping[str, Any], column: str, default: str) -> str:
    """Return the text of a cell, which may be the number 0; `default` where it is missing."""
    value = row.get(column)
    return default if value is None else str(value)


def _blocks(names: Sequence[str], rows: Sequence[Mapping[str, Any]], degrees: float) -> list[str]:
    """Return the block that each row lies in; a row of no known location keeps its own name.

    Raises:
        LayoutError: no row has a location.
    """
    found = [_block(row, degrees) for row in rows]
    if not any(found):
        raise LayoutError(
            "--block-degrees needs locations, and no row of the table has lon and lat, bbox or geometry. Add them, or leave it out."
        )
    return [block or name for block, name in zip(found, names, strict=True)]


def _block(row: Mapping[str, Any], degrees: float) -> str | None:
    cells = {name: row[name] for name in ("lon", "lat", "bbox", "geometry") if row.get(name) is not None}
    try:
        point = centre({name: COLUMNS[name](name, value) for name, value in cells.items()})
    except InvalidError:
        return None  # the row becomes a reject when it is read
    return None if point is None else splits.block_of(*point, degrees)


def _named_splits(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """Return the split that the rows of each name (a place or an image) give it; None where none does."""
    splits: dict[str, str | None] = dict.fromkeys(names)
    for number, (name, row) in enumerate(zip(names, rows, strict=True), 1):
        if row.get("split") is None:
            continue
        try:
            split = name_split(str(row["split"]))
        except ValueError as error:
            raise LayoutError(f"{error} (row {number}). Correct the column split") from error
        if splits[name] not in (None, split):
            raise LayoutError(
                f'The place "{name}" stands in two splits: "{splits[name]}" and, in row {number}, "{split}". '
                "Give its rows one split, or places of their own in a column place"
            )
        splits[name] = split
    return splits


def _without_secrets(images: Sequence[str]) -> dict[str, str]:
    """Return what keys, places and splits call each image: a URL without its secrets.

    Where these alone tell it from another, its query joins what is no secret, and a hash what is one.
    """
    called: dict[str, str] = {}
    for form in (unsigned, _with_query, lambda image: f"{_with_query(image)}#{secret_digest(image)}"):
        names = {image: form(image) for image in images if image not in called}
        counts = Counter(names.values())
        called |= {image: name for image, name in names.items() if counts[name] == 1}
    return names | called


def _with_query(image: str) -> str:
    return without_secrets(image, queries=False)


def _bare(path: str) -> str:
    return path.partition("://")[2] or path


def _scene(image: str, cells: Mapping[str, Any], head: ImageHead) -> Scene:
    whole, gsd, box = Window(0, 0, head.width, head.height), _gsd(cells), _box(cells)
    known: dict[str, Any] = {name: cells.get(name) for name in SAME}
    georeference = head.georeference or from_bounds(cells, head.width, head.height) or _from_centre(cells, gsd, head)
    if georeference is not None:
        metadata = placed(known, georeference, whole)
        # Said is what the sensor resolves; measured is the size of the pixels in hand.
        exact = head.georeference is not None or "bbox" in cells or ("geometry" in cells and fills(cells["geometry"]))
        metadata = replace(metadata, gsd=gsd or (metadata.gsd if exact else None))
    else:
        # Where its sides lie is unknown: its centre is that of a sample only where the sample is the whole image.
        centre = (wrap_longitude(cells["lon"]), cells["lat"]) if {"lon", "lat"} <= cells.keys() and box is None else None
        metadata = Metadata(**known, gsd=gsd, location=centre)
    x, y, width, height = box or (0, 0, head.width, head.height)
    aoi = Aoi(x, y, width, height, cells.get("category"), labels=cells.get("labels", ()))
    named, size = (cells["key"], cells["split"], cells["place"], image), (head.width, head.height)
    return Scene(*named, *size, metadata, georeference, (aoi,), scaling=head.scaling)


def _gsd(cells: Mapping[str, Any]) -> tuple[float, float] | None:
    x, y = cells.get("gsd_x", cells.get("gsd")), cells.get("gsd_y", cells.get("gsd"))
    return None if x is None or y is None else (x, y)


def _box(cells: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """Return the box of a row; None where it has none, and the whole image is the sample."""
    given = [name for name in BOX if name in cells]
    if given and len(given) < len(BOX):
        raise InvalidError(f"The row has {', '.join(given)}; a box needs all of {', '.join(BOX)}")
    return (cells["x"], cells["y"], cells["width"], cells["height"]) if given else None


def _from_centre(cells: Mapping[str, Any], gsd: tuple[float, float] | None, head: ImageHead) -> Georeference | None:
    """Return the affine of an image, north up, from its centre and GSD."""
    if gsd is None or not {"lon", "lat"} <= cells.keys():
        return None
    lon, lat = wrap_longitude(cells["lon"]), cells["lat"]
    east = WGS84.fwd(lon, lat, 90.0, gsd[0])[0] - lon
    north = abs(WGS84.fwd(lon, lat, 0.0 if lat < 0.0 else 180.0, gsd[1])[1] - lat)
    east += 360.0 * (east < 0.0)
    left, top = lon - east * head.width / 2, lat + north * head.height / 2
    if top > 90.0 or top - north * head.height < -90.0:
        raise InvalidError(f"The image lies over a pole: {head.height} rows of {gsd[1]:g} m around latitude {lat:g}")
    return Georeference((east, 0.0, left, 0.0, -north, top))


def _read_rows(store: Store, name: str) -> list[dict[str, Any]]:
    """Return the rows of a table, their cells as the file has them."""
    try:
        data = store.read(name)
    except OSError as error:
        raise LayoutError(f"Cannot read the table {name}: {error}") from error
    try:
        if name.lower().endswith((".csv", ".csv.gz")):
            rows: list[dict[Any, Any]] = _csv_rows(name, data)
        else:
            table = read_foreign_parquet(name, data)
            _check_shapes(name, table.schema)
            _check_images(name, table.schema)
            rows = table.to_pylist()
    except LayoutError:
        raise
    except (OSError, ValueError, ArrowException, EOFError, zlib.error) as error:
        raise LayoutError(f"The table {name} is no whole CSV or Parquet file: {error}. Copy or write it again.") from error
    if not rows:
        raise LayoutError(f"The table {name} has no rows.")
    return [{str(column): value for column, value in row.items()} for row in rows]


def _csv_rows(name: str, data: bytes) -> list[dict[Any, Any]]:
    text = limits.unpack(name, gzip.GzipFile(fileobj=io.BytesIO(data))) if name.lower().endswith(".gz") else data
    header = text.lstrip().partition(b"\n")[0]
    if b";" in header and b"," not in header:
        raise LayoutError(
            f"The table {name} separates its cells by semicolons, as spreadsheets do in much of Europe. Save it with commas "
            "between cells and points in numbers."
        )
    import pandas as pd  # late: it takes a third of a second, and help needs none of it

    frame = pd.read_csv(io.BytesIO(text), dtype=str, keep_default_na=False)
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes the first cells for names of rows
        raise ValueError("its rows have more cells than its header; put cells that hold commas into quotation marks")
    rows: list[dict[Any, Any]] = frame.to_dict("records")
    return rows


def _check_images(name: str, schema: pa.Schema) -> None:
    """Refuse columns that hold the files of images, as those of Hugging Face's datasets."""
    for column in schema:
        kind = column.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            raise LayoutError(
                f"The column {column.name} of {name} holds images themselves, and satmip reads paths of images. Write them to "
                "files, and name these in a column image."
            )


def _class(value: Any) -> Any:
    """Return the name of a class: without spaces around it, and a whole number as such, which a column of floats holds as 7.0."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.strip() if isinstance(value, str) else value


def _note_missing(cells: Iterable[Any]) -> None:
    """Say how many cells of a class are taken for missing though they hold a word: it may be the name of a class."""
    words = Counter(cell.strip() for cell in cells if isinstance(cell, str) and cell.strip() and cell.strip().lower() in MISSING)
    if words:
        counts = ", ".join(f'"{word}" {count:,} x' for word, count in words.most_common())
        _log.warning("Cells of the column category that are taken for missing: %s. Rename the class if it is one.", counts)


def _plain(column: str, value: Any) -> Any:
    """Return a cell as a JSON value: None where it is missing, times as text, shapes as WKT."""
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, str):
        return None if value.strip().lower() in MISSING else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, bytes):
        return _text(column, value)
    if isinstance(value, dict):  # GeoParquet's bbox column
        return [_plain(column, value[corner]) for corner in ("xmin", "ymin", "xmax", "ymax") if corner in value]
    if isinstance(value, list):
        return [_plain(column, part) for part in value]
    return value if value is None or isinstance(value, int | float) else str(value)


def _text(column: str, value: bytes) -> str:
    """Return the WKT of a shape, or text that a table calls binary."""
    try:
        return str(from_wkb(value).wkt)
    except GEOSException:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise LayoutError(
                f'The column "{column}" holds bytes that are no text and no shape. Leave it out, or give its name to another '
                "column with --columns"
            ) from error


def _check_shapes(name: str, schema: pa.Schema) -> None:
    """Refuse shapes that are not WKB or WKT, or whose CRS is not longitude and latitude within `MOST_SHIFT` of WGS 84."""
    for column, encoding, given in _shapes(schema):
        if encoding.lower() not in ("wkb", "wkt"):
            raise LayoutError(
                f"{column} of {name} is GeoArrow's \"{encoding}\"; WKB and WKT are read. Write it with geopandas' "
                "to_parquet(..., geometry_encoding='WKB'), or leave it out"
            )
        if given is None:
            continue
        try:
            crs = CRS.from_user_input(given)
        except CRSError as error:
            raise LayoutError(f"PROJ does not know the CRS of {column} in {name}: {cause(error)}") from error
        if not crs.is_geographic or _shift(crs) > MOST_SHIFT:
            raise LayoutError(
                f"{column} of {name} is in {crs.name}, not in longitudes and latitudes of WGS 84. "
                "Write it with geopandas' to_crs(4326)"
            )


def _shapes(schema: pa.Schema) -> Iterator[tuple[str, str, Any]]:
    """Yield name, encoding and CRS of each column that GeoParquet or, in the type of a column, GeoArrow calls one of shapes."""
    for name, entry in json.loads((schema.metadata or {}).get(b"geo", b"{}")).get("columns", {}).items():
        yield name, str(entry.get("encoding", "WKB")), entry.get("crs")
    for column in schema:
        known = column.metadata or {}
        kind, _, encoding = known.get(b"ARROW:extension:name", b"").decode().partition(".")
        if kind == "geoarrow":
            yield column.name, encoding, json.loads(known.get(b"ARROW:extension:metadata") or b"{}").get("crs")


def _shift(crs: CRS) -> float:
    """Return the metres by which a point of a geographic CRS is missed where its degrees are taken for those of WGS 84."""
    if (area := crs.area_of_use) is None:
        return 0.0
    east = area.east + 360.0 * (area.east < area.west)  # across the antimeridian
    middle = wrap_longitude((area.west + east) / 2), (area.south + area.north) / 2
    return distance(middle, Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*middle))
