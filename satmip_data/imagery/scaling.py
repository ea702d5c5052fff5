"""Scale and offset that rasters declare: what their numbers mean, and whether one stretch can show those of several alike."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from satmip_data.errors import DataError
from satmip_data.names import unsigned
from satmip_data.records import Sample, Scaling

SENTINEL2_SCALE = 1e-4
"""Of reflectances in a Sentinel-2 product (its quantification value is 10,000), also where it declares none."""

SENTINEL2 = {(SENTINEL2_SCALE, 0.0), (SENTINEL2_SCALE, -0.1)}
"""Scale and offset of Sentinel-2's reflectances before and since processing baseline 04.00, which added 1,000 to its numbers."""

MOST_RECORDED = 10
"""Declared pairs that are written down."""

_SENTINEL2 = re.compile(r"s(entinel)?[ _-]?2", re.IGNORECASE)

Line = tuple[float, float]
"""A factor and what is added then: they make of a number the value in which the limits of a stretch are given."""


class ScalingError(ValueError):
    """A scale or an offset that no raster can have."""


class UnitsError(DataError):
    """Rasters whose numbers mean different things, where one stretch is to show them all."""


def check_stretch(apply_scale: bool, kind: str) -> None:
    """Refuse physical units without limits in these.

    Raises:
        ValueError: `apply_scale` without a stretch.
    """
    if apply_scale and kind == "none":
        raise ValueError("--apply-scale needs limits in physical units. Add: --stretch minmax:LOW,HIGH   or --stretch percentile")


def declared(scales: Sequence[float], offsets: Sequence[float]) -> Scaling:
    """Return what is declared of the bands that are read.

    Raises:
        ScalingError: a scale is 0, or one is not finite.
    """
    for name, values in (("scale", scales), ("offset", offsets)):
        if wrong := [value for value in values if not math.isfinite(value) or (name == "scale" and value == 0.0)]:
            raise ScalingError(f"The raster declares the {name} {wrong[0]:g}, which tells no value. Mend its {name}.")
    # What was written as a 32-bit number is the number meant.
    return Scaling(*(tuple(float(f"{value:.6g}") for value in values) for values in (scales, offsets)))


def lines(scaling: Scaling | None, platform: str | None, apply_scale: bool) -> tuple[Line, ...]:
    """Return what each band's numbers are multiplied by and what is added; empty leaves them as they are.

    Args:
        scaling: what is declared.
        platform: of the picture.
        apply_scale: whether limits are given in physical units. Else they are given in numbers; Sentinel-2's are then those
            without an offset, so that they mean the same in all its baselines.
    """
    if scaling is None:
        return ()
    if apply_scale:
        return scaling.pairs
    return tuple((1.0, offset / scale) for scale, offset in scaling.pairs) if _is_sentinel2(scaling, platform) else ()


def _is_sentinel2(scaling: Scaling, platform: str | None) -> bool:
    """Tell whether numbers are Sentinel-2's, by the platform, or by the scale and offset that no other product declares."""
    return set(scaling.pairs) <= SENTINEL2 or bool(platform and _SENTINEL2.match(platform))


def _unit(scaling: Scaling, platform: str | None) -> Any:
    """Return what is equal where numbers, with an offset of Sentinel-2 taken off, mean the same."""
    if _is_sentinel2(scaling, platform):
        return tuple(SENTINEL2_SCALE if scale == 1.0 else scale for scale in scaling.scales)
    return scaling


class SameUnits:
    """Refuses the first raster whose numbers mean something else than those of the first."""

    def __init__(self) -> None:
        self._first: tuple[str, Scaling, Any] | None = None

    def add(self, name: str, scaling: Scaling | None, platform: str | None) -> None:
        """Look at one more picture; what is none of a raster's has no scaling and counts for nothing.

        Raises:
            UnitsError: its numbers mean something else.
        """
        if scaling is None:
            return
        unit = _unit(scaling, platform)
        self._first = self._first or (name, scaling, unit)
        before, other, wanted = self._first
        if unit != wanted:
            raise UnitsError(
                f"One stretch cannot show these rasters alike: {before} declares {_words(other)}, and {name} {_words(scaling)}. "
                "Add --apply-scale with --stretch minmax:LOW,HIGH in physical units, or use --stretch percentile."
            )


def _words(scaling: Scaling) -> str:
    if not scaling.stated:
        return "no scale"
    parts = (sorted(set(values)) for values in (scaling.scales, scaling.offsets))
    return "scale {} and offset {}".format(*(", ".join(f"{value:g}" for value in values) for values in parts))


def check_units(samples: Iterable[Sample]) -> None:
    """Refuse samples of rasters whose numbers mean different things.

    Raises:
        UnitsError: there are such.
    """
    same = SameUnits()
    for sample in samples:
        same.add(unsigned(sample.path), sample.scaling, sample.scene_metadata.platform)


def record(samples: Iterable[Sample], apply_scale: bool) -> dict[str, Any]:
    """Return what `dataset.json` says of declared values; nothing where no raster declares any, or none was asked."""
    found: Counter[Scaling] = Counter()
    added = False
    for sample in samples:
        if sample.scaling is not None and sample.scaling.stated:
            found[sample.scaling] += 1
            added |= any(offset for _, offset in lines(sample.scaling, sample.scene_metadata.platform, apply_scale))
    if not found:
        return {}
    pairs = [{"scale": list(one.scales), "offset": list(one.offsets)} for one, _ in found.most_common(MOST_RECORDED)]
    return {"scaling": {"applied": "scale and offset" if apply_scale else "offset" if added else "nothing", "declared": pairs}}
