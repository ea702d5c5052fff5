"""So2Sat LCZ42 (Zhu et al. 2020): Sentinel-2 patches of 32 x 32 pixels and 10 m in 17 local climate zones, in HDF5 files.

Layout: `training.h5`, `testing.h5` and, in version 2, `validation.h5`, in any folder, each with `sen2` (N, 32, 32, 10), reflectance
as floats, and `label` (N, 17), one-hot. The paper's sizes, 352,366 and 48,307, are those of "Culture-10" in version 3; version 2
holds the same test samples in two files. Needs h5py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from satmip_data.errors import cause, install
from satmip_data.imagery import raster
from satmip_data.imagery.chips import ImageError
from satmip_data.records import Aoi, Metadata, Sample, Scene
from satmip_data.sources.base import (
    Found,
    Item,
    LayoutError,
    reject,
)
from satmip_data.storage.locations import list_files
from satmip_data.storage.store import Store, check_regular

SPLITS = {"training": "train", "validation": "test", "testing": "test"}
"""A file's name -> our split. Validation and testing are together the paper's test split, as version 3 publishes them."""

CLASSES = (
    "compact_high_rise", "compact_mid_rise", "compact_low_rise", "open_high_rise", "open_mid_rise", "open_low_rise",
    "lightweight_low_rise", "large_low_rise", "sparsely_built", "heavy_industry", "dense_trees", "scattered_trees",
    "bush_or_scrub", "low_plants", "bare_rock_or_paved", "bare_soil_or_sand", "water",
)  # fmt: skip
"""Local climate zones 1 to 10 and A to G, in the order of the one-hot labels."""

RGB = (2, 1, 0)
"""Positions of B4, B3 and B2 in `sen2`, which begins with B2."""

WHITE = 0.3558
"""Reflectance that becomes 255: that at which ESA's own true-colour images of Level-1C are saturated."""

SIDE = 32
ROWS = 2048
"""Rows of a file that make one item."""


@dataclass(frozen=True)
class So2Sat:
    """So2Sat LCZ42, Sentinel-2 only. The key of a sample is its file and its row; location and time are not published."""

    name: ClassVar[str] = "so2sat"
    licence: ClassVar[str] = "CC BY 4.0"
    default_size: ClassVar[int | None] = None

    def list_items(self, root: str) -> list[Item]:
        """List blocks of rows of the files.

        Raises:
            FileNotFoundError: there is no such file, or h5py is not installed.
        """
        paths = sorted(path for path in list_files(root) if path.endswith(".h5") and PurePosixPath(path).stem in SPLITS)
        if not paths:
            raise LayoutError(f"{root} holds neither training.h5 nor testing.h5 of So2Sat. Name the folder that does")
        items = []
        for path in paths:
            try:
                count = len(_array(root, path, "label"))
            except (OSError, KeyError) as error:
                raise LayoutError(f"{path} is no HDF5 file with sen2 and label, as So2Sat's are: {cause(error)}") from error
            items += [Item("", f"{path}#{start}-{min(start + ROWS, count)}") for start in range(0, count, ROWS)]
        return items

    def read_item(self, root: str, item: Item) -> list[Found]:
        """Return the scenes of a block of rows, or the rejects of those without a class."""
        path, _, rows = item.image.rpartition("#")
        start, stop = map(int, rows.split("-"))
        try:
            labels = np.asarray(_array(root, path, "label")[start:stop])
        except (OSError, ValueError, KeyError) as error:
            return [reject(item, "metadata_unreadable", f"The labels cannot be read: {cause(error)}")]
        return list(_scenes(path, start, labels))

    def read_chip(self, root: str, sample: Sample, size: tuple[int, int], max_pixels: int) -> Image.Image:
        """Read one row, reflectance 0 to 0.3558 becoming 0 to 255. See `Source.read_chip`."""
        path, _, row = sample.path.rpartition("#")
        try:
            values = np.asarray(_array(root, path, "sen2")[int(row)])
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise ImageError("image_unreadable", f"Cannot read the row {sample.path}: {cause(error)}") from error
        if values.shape[:2] != (SIDE, SIDE) or values.shape[2] <= max(RGB):
            shape = " x ".join(map(str, values.shape))
            raise ImageError("size_mismatch", f"The row of sen2 is {shape} instead of 32 x 32 pixels x 10 bands")
        window = sample.window
        part = values[window.y : window.y + window.height, window.x : window.x + window.width, RGB].transpose(2, 0, 1)
        known = np.isfinite(part)
        return raster.compose(raster.Layers(raster.to_8_bits(part, known, ((0.0, WHITE),) * 3), known), size)


def _scenes(path: str, start: int, labels: Any) -> Iterator[Found]:
    name = PurePosixPath(path).stem
    for row, label in enumerate(labels, start):
        key, where = f"{name}_{row:06d}", f"{path}#{row}"
        hot = np.flatnonzero(label)
        if len(label) != len(CLASSES) or len(hot) != 1:
            message = f"The label names {len(hot)} of {len(label)} classes; So2Sat's name one of {len(CLASSES)}"
            yield reject(Item("", where), "metadata_invalid", message, key)
            continue
        metadata = Metadata(gsd=(10.0, 10.0), platform="SENTINEL-2")
        aoi = Aoi(0, 0, SIDE, SIDE, CLASSES[int(hot[0])])
        yield Scene(key, SPLITS[name], key, where, SIDE, SIDE, metadata, None, (aoi,))


def _array(root: str, path: str, name: str) -> Any:
    """Return an array that lies in its file itself; HDF5 can take the numbers of an array from any other file of the machine.

    Raises:
        KeyError: there is none of that name.
        OSError: it lies elsewhere.
    """
    file = _file(root, path)
    array = file[name]
    if array.file.filename != file.filename or array.is_virtual or array.external:
        raise OSError(f"the numbers of {name} lie in another file")
    return array


@lru_cache(maxsize=8)
def _file(root: str, path: str) -> Any:
    """Return the open HDF5 file; each process opens it once, since it holds hundreds of thousands of samples."""
    try:
        import h5py
    except ImportError as error:
        raise LayoutError(f"So2Sat needs h5py, which is not installed. Run: {install('h5py')}") from error
    store = Store(root)
    if store.local:
        check_regular(store.path(path))
    stream = store.path(path) if store.local else store.filesystem.open(store.path(path), "rb")
    return h5py.File(stream, "r")
