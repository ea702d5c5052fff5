"""BigEarthNet-S2 version 1 (Sumbul et al. 2019): Sentinel-2 L2A patches of 1.2 km with several CORINE land-cover classes each.

Layout: `<patch>/<patch>_labels_metadata.json` and `<patch>/<patch>_B02.tif`, `_B03.tif`, `_B04.tif`, in any folder: 120 x 120
pixels of 10 m, uint16, reflectance times 10,000.
"""

import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

from PIL import Image

from satmip_data.errors import cause
from satmip_data.imagery import raster
from satmip_data.names import unknown_name
from satmip_data.records import Aoi, Georeference, Sample, Scene, Window
from satmip_data.sources.archive import (
    DealtSplits,
    dump,
    left_out,
    make_key,
    placed,
    unique_keys,
)
from satmip_data.sources.base import (
    Found,
    InvalidError,
    Item,
    LayoutError,
    parse_time,
    read_json,
    reject,
)
from satmip_data.sources.splits import folder_split
from satmip_data.storage.locations import archive_url, list_files
from satmip_data.storage.store import Store

ENDING = "_labels_metadata.json"
SIDE = 120

CLASSES_OF_19: dict[str, tuple[str, ...]] = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards", "Fruit trees and berry plantations", "Olive groves", "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}  # fmt: skip
"""The 19 classes of the nomenclature of 2020, each with the CORINE classes that it joins."""

DROPPED = (
    "Road and rail networks and associated land", "Port areas", "Airports", "Mineral extraction sites", "Dump sites",
    "Construction sites", "Green urban areas", "Sport and leisure facilities", "Bare rock", "Burnt areas", "Intertidal flats",
)  # fmt: skip
"""CORINE classes that have no place among the 19."""

CORINE = {**{old: new for new, olds in CLASSES_OF_19.items() for old in olds}, **dict.fromkeys(DROPPED, None)}
"""The 43 classes, each with its class of 19."""


@dataclass(frozen=True)
class BigEarthNet(DealtSplits):
    """BigEarthNet-S2, one sample a patch with all its classes. The key is the patch's name.

    NOTE[DIFF]: not a set of the paper. Its authors' lists (which leave out patches under snow and clouds) go in as `split_file`;
    else the splits are dealt from a seed, so that neighbours may stand in different ones.
    """

    name: ClassVar[str] = "bigearthnet"
    licence: ClassVar[str] = "Community Data License Agreement - Permissive 1.0"
    default_size: ClassVar[int | None] = None
    default_shares: ClassVar[str] = "train=50,val=25,test=25"

    nomenclature: Literal["19", "43"] = field(
        default="19", metadata={"help": "number of classes: 19 (of 2020), or 43 (CORINE level 3)"}
    )
    stretch: str = field(
        default="minmax:0,2000",
        metadata={"help": "how values become 8 bits; the default is that of ESA's true-colour images of Level-2A"},
    )

    def __post_init__(self) -> None:
        """Refuse options no build can have."""
        super().__post_init__()
        raster.parse_stretch(self.stretch)

    def list_items(self, root: str) -> list[Item]:
        """List the patches, each with its split.

        Raises:
            FileNotFoundError: there is none.
        """
        paths = sorted(path for path in list_files(archive_url(root)) if path.endswith(ENDING))
        if not paths:
            raise LayoutError(f"{root} holds no BigEarthNet record <patch>/<patch>{ENDING}. Name the folder that holds the patches")
        patches = {path: PurePosixPath(path.removesuffix(ENDING)).name for path in paths}
        split = self.deal_splits(dict.fromkeys(patches.values(), ""), {name: folder_split(path) for path, name in patches.items()})
        keys = unique_keys({path: make_key(name) for path, name in patches.items()})
        records = {path: dump({"split": split[name], "key": keys[path]}) for path, name in patches.items()}
        return [Item(path, path.replace(ENDING, "_B04.tif"), record) for path, record in records.items()]

    def read_item(self, root: str, item: Item) -> list[Found]:
        """Return the scene of one patch, or its reject."""
        listed = json.loads(item.record)
        split, key = listed["split"], listed["key"]
        if split is None:
            return [left_out(item, key)]
        try:
            record = read_json(archive_url(root), item.metadata)
        except (OSError, ValueError) as error:
            return [reject(item, "metadata_unreadable", f"The record is no readable JSON: {cause(error)}", key)]
        try:
            labels = self._labels(record["labels"])
            georeference = _georeference(record)
            known = {"datetime": parse_time("acquisition_date", record["acquisition_date"]), "platform": _platform(key)}
            metadata = placed(known, georeference, Window(0, 0, SIDE, SIDE))
        except (KeyError, TypeError, ValueError) as error:
            message = f"The record needs labels, coordinates, projection and acquisition_date: {cause(error)}"
            return [reject(item, "metadata_invalid", message, key)]
        if not labels:
            found = ", ".join(map(str, record["labels"]))
            message = f'The patch has no class of the nomenclature of {self.nomenclature} classes; its labels are "{found}"'
            return [reject(item, "no_aoi", message, key)]
        aoi = Aoi(0, 0, SIDE, SIDE, labels=labels)
        return [Scene(key, split, key, item.image, SIDE, SIDE, metadata, georeference, (aoi,))]

    def _labels(self, found: list[str]) -> tuple[str, ...]:
        """Return the classes in the nomenclature, sorted."""
        if unknown := [label for label in found if label not in CORINE]:
            raise InvalidError(unknown_name("CORINE class", unknown[0], CORINE))
        wanted = found if self.nomenclature == "43" else [CORINE[label] for label in found]
        return tuple(sorted({label for label in wanted if label is not None}))

    def read_chip(self, root: str, sample: Sample, size: tuple[int, int], max_pixels: int) -> Image.Image:
        """Read B04, B03 and B02. See `Source.read_chip`."""
        store, stretch = Store(archive_url(root)), raster.parse_stretch(self.stretch)
        names = [sample.path.replace("_B04.tif", f"_{band}.tif") for band in ("B04", "B03", "B02")]
        shape = (sample.scene_width, sample.scene_height)
        return raster.compose(raster.read_layers(store, names, (1,), stretch, sample.window, shape), size)


def _georeference(record: dict[str, Any]) -> Georeference:
    corners = record["coordinates"]
    left, top, right, bottom = (float(corners[name]) for name in ("ulx", "uly", "lrx", "lry"))
    return Georeference(((right - left) / SIDE, 0.0, left, 0.0, (bottom - top) / SIDE, top), str(record["projection"]))


def _platform(key: str) -> str:
    """Return the satellite that a patch's name begins with, as S2A_MSIL2A_20170613T101031_0_45."""
    return {"s2a": "SENTINEL-2A", "s2b": "SENTINEL-2B"}.get(key[:3], "SENTINEL-2")
