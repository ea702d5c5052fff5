"""Facts that a STAC item states about an asset's pixels: their location, and the meaning of their numbers."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely import GEOSException, to_wkt
from shapely.geometry import shape

from satmip_data.imagery.raster import WarpedError, fit_control_points
from satmip_data.imagery.scaling import ScalingError, declared
from satmip_data.names import written
from satmip_data.records import Georeference, Scaling
from satmip_data.sources.archive import ImageHead
from satmip_data.sources.base import InvalidError
from satmip_data.sources.columns import COLUMNS, from_bounds

CONTROL_POINTS = ("proj:gcps", "gcps")
"""Fields of control points. No extension of STAC names one: these hold what GDAL and rasterio print of a raster."""

OFFSET_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
"""Properties that say that numbers hold Sentinel-2's offset already, which the items' bands declare all the same."""


class UnplacedError(InvalidError):
    """Control points of an item give its image no place."""


def projected(asset: Mapping[str, Any], common: Mapping[str, Any], head: ImageHead) -> Georeference | None:
    """Return the affine that an item states for an asset that has none in itself, or that its control points fit.

    It is that of an image of `proj:shape` pixels, as whoever states the transform says: the asset in hand may have more or fewer.

    Args:
        asset: its own fields go before those of the item.
        common: the item's properties.
        head: of the asset.

    Raises:
        InvalidError: the CRS is missing or cannot be read, or the asset is neither a scaled copy of an image of `proj:shape` nor
            one whose pixels were made square.
        UnplacedError: its control points fit no grid.
    """
    levels = (asset, common)
    stating = next((level for level in levels if level.get("proj:transform") is not None), None)
    if stating is None:
        return _fitted(levels, head)
    affine = tuple(float(value) for value in stating["proj:transform"][:6])
    if (crs := next((crs for level in levels if (crs := _crs(level)) is not None), None)) is None:
        if affine == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):  # of pixels, as some write who have no other
            return _fitted(levels, head)
        raise InvalidError("The item states proj:transform and no CRS. Add proj:code, proj:wkt2 or proj:projjson to it.")
    return _of_pixels_in_hand(affine, crs, (stating, *levels), head)


def _of_pixels_in_hand(affine: tuple[float, ...], crs: str, levels: tuple[Mapping[str, Any], ...], head: ImageHead) -> Georeference:
    """Return the affine of an image of `proj:shape` pixels as that of the image in hand, which may have more or fewer."""
    a, b, c, d, e, f = affine
    rows, columns = next((level["proj:shape"] for level in levels if level.get("proj:shape")), (head.height, head.width))
    across, down = columns / head.width, rows / head.height
    before, after = math.hypot(a, d) / math.hypot(b, e), math.hypot(a, d) * across / (math.hypot(b, e) * down)
    if not _scaled(columns, head.width, rows, head.height) and abs(math.log(after)) >= abs(math.log(before)):
        raise InvalidError(
            f"proj:shape says {rows} rows and {columns} columns, and the image, no scaled copy of that, has {head.height} and "
            f"{head.width}. Write proj:shape as rows, columns."
        )
    return Georeference((a * across, b * down, c, d * across, e * down, f), crs)


def _fitted(levels: tuple[Mapping[str, Any], ...], head: ImageHead) -> Georeference | None:
    """Return the affine that the control points of an asset or its item fit; None where they have none."""
    level = next((level for level in levels if _control_points(level)), None)
    if level is None:
        return None
    stated = _control_points(level)
    own = stated if isinstance(stated, dict) else {"points": stated}
    system = own.get("crs") or own.get("coordinateSystem") or {}
    named = {"proj:wkt2": system.get("wkt", system) if isinstance(system, dict) else system}
    crs = next((crs for place in (named, *levels) if (crs := _crs(place)) is not None), None)
    if crs is None:
        raise InvalidError("The item's control points have no CRS. Add proj:code, proj:wkt2 or proj:projjson to it.")
    listed = own.get("points") or own.get("gcpList") or ()
    points = [(_one(point, "col", "pixel"), _one(point, "row", "line"), _one(point, "x"), _one(point, "y")) for point in listed]
    try:
        affine = fit_control_points(points)
    except WarpedError as error:
        raise UnplacedError(str(error)) from error
    return _of_pixels_in_hand(affine, crs, (level, *levels), head)


def _control_points(level: Mapping[str, Any]) -> Any:
    return next((level[name] for name in CONTROL_POINTS if level.get(name)), None)


def _one(point: Mapping[str, Any], *names: str) -> float:
    """Return the number of a control point by one of its names: rasterio's or GDAL's."""
    value = float(point[next((name for name in names if name in point), names[0])])
    if not math.isfinite(value):
        raise InvalidError(f"A control point of the item has {value} for {names[0]}. Mend it.")
    return value


def _scaled(columns: int, width: int, rows: int, height: int) -> bool:
    """Tell whether an image of width x height may be one of columns x rows at another resolution, its sides rounded either way."""
    return columns * (height - 1) < rows * (width + 1) and rows * (width - 1) < columns * (height + 1)


def _crs(level: Mapping[str, Any]) -> str | None:
    """Return the CRS that the fields of an item or an asset state: a code, WKT2 or PROJJSON; None where they state none.

    Raises:
        InvalidError: it cannot be read.
    """
    for name in ("proj:code", "proj:epsg", "proj:wkt2", "proj:projjson"):
        if not (value := level.get(name)):
            continue
        text = f"EPSG:{value}" if isinstance(value, int) else json.dumps(value) if isinstance(value, dict) else str(value)
        try:
            crs = CRS.from_user_input(text)
        except CRSError as error:
            raise InvalidError(f"{name} names no CRS that PROJ knows: {text[:100]}") from error
        if name in ("proj:code", "proj:epsg"):
            return text
        epsg = crs.to_epsg(100)
        return crs.to_wkt() if epsg is None else f"EPSG:{epsg}"
    return None


def bounds(feature: Mapping[str, Any], head: ImageHead) -> Georeference | None:
    """Return the affine of an image that fills the item's bbox, or else the bounds of its geometry; None where it has neither.

    Raises:
        InvalidError: they are none on Earth.
    """
    cells: dict[str, Any] = {}
    if feature.get("bbox") is not None:
        cells["bbox"] = COLUMNS["bbox"]("bbox", feature["bbox"])
    elif feature.get("geometry") is not None:
        try:
            cells["geometry"] = COLUMNS["geometry"]("geometry", to_wkt(shape(feature["geometry"]), rounding_precision=-1))
        except GEOSException as error:
            raise InvalidError(f"geometry is no polygon: {written(feature['geometry'])}") from error
    return from_bounds(cells, head.width, head.height)


def declared_values(asset: Mapping[str, Any], common: Mapping[str, Any], head: ImageHead) -> Scaling | None:
    """Return scale and offset of the bands that are read, as the raster or its item declares them.

    An item has them in `raster:bands` (STAC 1.0) or, as `raster:scale` and `raster:offset`, in `bands`, the asset or properties.

    Args:
        asset: its own fields go before those of the item.
        common: the item's properties.
        head: of the asset.

    Raises:
        InvalidError: both declare them, and not the same, or the item's are none.
    """
    if head.scaling is None or head.bands is None:
        return head.scaling
    own = head.scaling.pairs
    stated = [_stated(asset, common, number, pair) for number, pair in zip(head.bands, own, strict=True)]
    try:
        found = declared([scale for scale, _ in stated], [offset for _, offset in stated])
    except ScalingError as error:
        raise InvalidError(str(error)) from error
    if head.scaling.stated and found != head.scaling:
        item, image = next(pairs for pairs in zip(found.pairs, own, strict=True) if pairs[0] != pairs[1])
        raise InvalidError(
            f"The item declares scale {item[0]:g} and offset {item[1]:g}, and its image scale {image[0]:g} and offset "
            f"{image[1]:g}. Mend the one that is wrong."
        )
    return found


def _stated(asset: Mapping[str, Any], common: Mapping[str, Any], number: int, own: tuple[float, float]) -> tuple[float, float]:
    """Return scale and offset that an item states of a band; for what it does not state, the raster's own."""
    older, newer = ((asset.get(name) or ())[number - 1 : number] for name in ("raster:bands", "bands"))
    levels = [*({f"raster:{name}": value for name, value in band.items()} for band in older), *newer, asset, common]
    scale, offset = (_first(levels, f"raster:{name}") for name in ("scale", "offset"))
    if offset is not None and any(common.get(name) is True for name in OFFSET_APPLIED):
        offset = 0.0
    return own[0] if scale is None else scale, own[1] if offset is None else offset


def _first(levels: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return next((float(level[name]) for level in levels if level.get(name) is not None), None)
