"""fMoW, Functional Map of the World (Christie et al., CVPR 2018), as its authors published it: images beside JSON records.

Layout: `<root>/{train,val}/<category>/<category>_<n>/<category>_<n>_<T>_<product>.{jpg,tif,json}`, where `<category>_<n>` is one
place and `<T>` one acquisition of it, and `<root>/{test,seq}/<number>/<number>_<T>_<product>...`, whose labels lie in the ground
truth. Records come in two forms: the ground-truth form knows where the image lies, the challenge form beside the published images
does not; `metadata` lays the former over the images.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from PIL import Image
from satmip_schemas import first_error

from satmip_data.errors import cause
from satmip_data.imagery import chips, raster
from satmip_data.imagery.fetch import ImageFile
from satmip_data.metadata import checks
from satmip_data.names import without_secrets
from satmip_data.records import Reject, Sample, Scene
from satmip_data.sources.base import (
    MANIFEST,
    Found,
    ImageFiles,
    InvalidError,
    Item,
    LayoutError,
    list_manifest,
    pair,
    read_json,
    read_safely,
    reject,
    unpaired,
    whole_numbers,
)
from satmip_data.sources.fmow.names import SPLITS, SUFFIXES, FmowName, parse_name, stem_of
from satmip_data.sources.fmow.records import aois_of, boxes_of, findings, georeference_of, metadata_of
from satmip_data.sources.fmow.truth import read_truth
from satmip_data.storage.locations import list_files
from satmip_data.storage.store import Store

BANDS = {8: (5, 3, 2), 4: (3, 2, 1), 3: (1, 2, 3)}
"""Number of bands of a TIFF -> those of red, green and blue: WorldView's 8 begin with coastal, blue, green, yellow, red; the 4 of
QuickBird and GeoEye are blue, green, red, near infrared; 3 are a pansharpened picture."""

PROBED = 64
"""Records, spread over all, that are asked for a location before any work begins."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fmow(ImageFiles):
    """fMoW-rgb and fMoW-full, splits train, val, test and seq.

    The key of a scene is `<split>_<name>`, as "train_fountain_514_1_rgb", and its place `<split>_<category>_<n>`, because the
    numbers of places start again in each split.
    """

    name: ClassVar[str] = "fmow"
    licence: ClassVar[str] = "Functional Map of the World Challenge Public License (non-commercial use)"

    product: Literal["rgb", "msrgb", "ms"] = field(
        default="rgb",
        metadata={
            "help": "product: rgb is pansharpened, as in the paper; msrgb (JPEG) and ms (TIFF) are multispectral, 4 times coarser"
        },
    )
    boxes: Literal["one", "all"] = field(
        default="one", metadata={"help": "boxes to take of an image with several: the largest one, or all"}
    )
    metadata: str = field(
        default="",
        metadata={"help": "ground truth with the full records: groundtruth.tar.bz2, or a folder of its files"},
    )
    false_detections: Literal["drop", "keep"] = field(
        default="drop", metadata={"help": "drop boxes of the category false_detection, or keep them as a class"}
    )
    flagged: Literal["keep", "drop"] = field(
        default="keep",
        metadata={"help": "keep records that fail a physical check, flagged in the index, or drop them as rejects"},
    )
    tiff_stretch: str = field(
        default="percentile:2,98",
        metadata={"help": "how TIFFs of more than 8 bits become 8 bits: percentile:LOW,HIGH of each band, or minmax:LOW,HIGH"},
    )

    listing: Literal["auto", "manifest", "files"] = field(
        default="auto",
        metadata={
            "help": "how files are found: from manifest.json.bz2, or by listing folders; auto uses a bucket's manifest if it has "
            "one"
        },
    )

    def __post_init__(self) -> None:
        """Refuse options no build can have."""
        if raster.parse_stretch(self.tiff_stretch).kind == "none":
            raise ValueError(
                "--tiff-stretch is none, and TIFFs of fMoW have more than 8 bits. Use percentile:LOW,HIGH or minmax:LOW,HIGH"
            )

    def list_items(self, root: str) -> list[Item]:
        """List the images of the product in every split with their records.

        Without `metadata` the records lie beside the images, and one without the other becomes a reject. With it the images alone
        say what there is: a ground truth holds all of fMoW, and the records of images that are not here are only counted.

        Raises:
            LayoutError: there is nothing of this product, or `metadata` is not what it must be.
        """
        paths = self._paths(root)
        images: dict[str, str] = {}
        for suffix in SUFFIXES[self.product]:
            images |= self._named(paths, suffix)
        if not self.metadata:
            records = self._named(paths, ".json")
            if not records and not images:
                raise self._nothing(root)
            return pair(records, images)
        if not images:
            raise self._nothing(root)
        truth = read_truth(self.metadata, self.product, _names(images))
        if truth.unused:
            _log.warning(
                "%s: records of this product without an image here: %s", without_secrets(self.metadata), f"{truth.unused:,}"
            )
        found = {stem: truth.records.get(stem, ("", "")) for stem in sorted(images)}
        return [Item(path, images[stem], record) for stem, (path, record) in found.items()]

    def _nothing(self, root: str) -> LayoutError:
        suffix = SUFFIXES[self.product][-1]
        return LayoutError(
            f"{root} holds no fMoW: no train/<category>/<place>/*_{self.product}{suffix} (or val/..., test/<place>/..., "
            "seq/<place>/...). Name the folder that holds train/, or the kind of your archive with --source"
        )

    def _paths(self, root: str) -> list[str]:
        """Return the paths of all files in the folders of the splits."""
        if self.listing == "manifest" or (self.listing == "auto" and Store(root).remote and Store(root).exists(MANIFEST)):
            try:
                paths = [path for path in list_manifest(root) if path.partition("/")[0] in SPLITS]
            except InvalidError as error:
                raise LayoutError(f"{error}. Add: --listing files") from error
            if paths or self.listing == "manifest":
                return paths
        return list_files(root, *SPLITS)

    def _named(self, paths: list[str], suffix: str) -> dict[str, str]:
        ending = f"_{self.product}{suffix}"
        return {path.removesuffix(suffix): path for path in paths if path.endswith(ending)}

    def check_location(self, root: str, items: Sequence[Item]) -> None:
        """Refuse records of the challenge form where locations are wanted. See `LocatedElsewhere`."""
        step = max(1, -(-len(items) // PROBED))
        probed = (found for item in items[::step] for found in read_safely(self, root, item) if isinstance(found, Scene))
        scenes = 0
        for scene in probed:
            if scene.georeference is not None:
                return
            scenes += 1
        if scenes:
            raise LayoutError(
                f"None of the {scenes} records tried has raw_location, which locations are read from; those beside the published "
                "images never have. Add: --metadata groundtruth.tar.bz2   or leave locations out: --fields gsd,time"
            )

    def read_item(self, root: str, item: Item) -> list[Found]:
        """Return the scene of one record, or its reject."""
        if (lonely := unpaired(item)) is not None:
            return [lonely]
        key = f"{item.image.partition('/')[0]}_{stem_of(item.image)}".lower()
        try:
            record = json.loads(item.record, parse_constant=str) if item.record else read_json(self.metadata or root, item.metadata)
        except (OSError, ValueError, RecursionError) as error:
            return [reject(item, "metadata_unreadable", f"The record is no readable JSON: {cause(error)}", key)]
        try:
            return [self._scene(key, item, record)]
        except (ValueError, ArithmeticError) as error:
            return [reject(item, "metadata_invalid", str(error), key)]

    def _scene(self, key: str, item: Item, record: Any) -> Scene | Reject:
        name = parse_name(item.image)
        if (error := first_error("fmow", record)) is not None:
            raise InvalidError(f"The record does not follow the schema of fMoW: {error}")
        whole_numbers(record, "img_width", "img_height")
        for box in boxes_of(record):
            whole_numbers(box, "ID")
        georeference = georeference_of(record)
        metadata = metadata_of(record, georeference)
        aois = aois_of(record, self.boxes, self.false_detections)
        if not aois:
            message = "The record has no labelled box (ID other than -1)"
            return reject(item, "no_aoi", message, key)
        found = findings(record, metadata, georeference)
        if self.flagged == "drop" and (doubts := [message for flag, message in found.items() if flag in checks.SUSPECT]):
            return reject(item, "suspect", "; ".join(doubts), key)
        return Scene(
            key=key,
            split=name.split,
            place=f"{name.split}_{name.place}".lower(),
            path=item.image,
            width=record["img_width"],
            height=record["img_height"],
            metadata=metadata,
            georeference=georeference,
            aois=aois,
            flags=tuple(found),
        )

    def fetch(self, root: str, sample: Sample) -> ImageFile:
        """Return the bytes of a JPEG; of a TIFF nothing, whose window alone is read when its turn comes. See `ImageFiles.fetch`."""
        if not sample.path.endswith(".tif"):
            return super().fetch(root, sample)
        return ImageFile(Store(root), sample.path, 0, b"", 0)

    def chip_of(self, image: ImageFile, sample: Sample, size: tuple[int, int], max_pixels: int) -> Image.Image:
        """Return the chip of a fetched JPEG, or of a TIFF by `BANDS` and `tiff_stretch`. See `Source.read_chip`."""
        if not sample.path.endswith(".tif"):
            return super().chip_of(image, sample, size, max_pixels)
        window = sample.window
        if window.width * window.height > max_pixels:
            raise chips.ImageError("image_too_large", chips.too_large("window", window.width, window.height, max_pixels))
        header = raster.read_header(image.store, sample.path)
        if header.count not in BANDS:
            message = f"The TIFF has {header.count} bands; those of fMoW have {', '.join(map(str, BANDS))}"
            raise chips.ImageError("image_unreadable", message)
        # Pictures of 8 bits are as their makers wanted them.
        stretch = raster.Stretch("none") if set(header.dtypes) == {"uint8"} else raster.parse_stretch(self.tiff_stretch)
        expected = (sample.scene_width, sample.scene_height)
        layers = raster.read_layers(image.store, (sample.path,), BANDS[header.count], stretch, window, expected)
        return raster.compose(layers, size)


def _names(images: dict[str, str]) -> dict[str, FmowName]:
    """Return what the names of images tell; those of another form are left out, and become rejects later."""
    names = {}
    for stem, path in images.items():
        try:
            names[stem] = parse_name(path)
        except InvalidError:
            continue
    return names
