"""Labelled images in folders named after their class, with or without folders of splits around them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from satmip_data.imagery.chips import ImageError
from satmip_data.names import IMAGES, ends_with, unknown_name
from satmip_data.records import Aoi, Scene, Window
from satmip_data.sources.archive import (
    Archive,
    dump,
    failure,
    left_out,
    make_key,
    note_others,
    placed,
    unique_keys,
)
from satmip_data.sources.base import (
    Found,
    Item,
    LayoutError,
    reject,
)
from satmip_data.sources.splits import folder_split
from satmip_data.storage.locations import archive_url, list_files


@dataclass(frozen=True)
class ImageFolder(Archive):
    """Images at `.../<class>/<name>` or `.../<split>/<class>/<name>`, in a folder or a zip file; whole images are the samples.

    Samples keep their class; what else is known is the same for a whole set (`known`), or measured on a georeferenced raster.
    The evaluation sets are folders of this kind, and say here what differs: their classes, shares and licence.
    """

    name: ClassVar[str] = "imagefolder"
    licence: ClassVar[str] = "as the images' own"
    default_size: ClassVar[int | None] = None
    classes: ClassVar[tuple[str, ...]] = ()
    """Names of the set's classes; folders of other names are not read. Empty: all folders are classes."""
    known: ClassVar[dict[str, Any]] = {}
    """Attributes of `Metadata` that hold for every image of the set."""

    def list_items(self, root: str) -> list[Item]:
        """List the images, each with its class and split.

        Raises:
            FileNotFoundError: there is none.
        """
        files = list_files(archive_url(root))
        paths = sorted(path for path in files if _is_image(path))
        folders = {path: _folder_split(path) for path in paths}
        categories = {path: self._category(path) for path in paths}
        if any(folders.values()):  # an image that lies in the folder of a split itself has no class
            categories |= {path: None for path in paths if folders[path] is None and folder_split(path) is not None}
        if not any(categories.values()):
            classes = f", with classes such as {', '.join(self.classes[:3])}" if self.classes else ""
            raise LayoutError(f"{root} holds no image at .../<class>/<image>{classes}. Name the folder that holds the classes")
        note_others(path for path in files if not _is_image(path))
        known = {path: category for path, category in categories.items() if category}
        short = {path: f"{category}/{PurePosixPath(path).name}" for path, category in known.items()}
        split = self.deal_splits(known, {path: folders[path] for path in known}, short)
        keys = unique_keys({path: _key(path) for path in (*known, *(path for path in paths if path not in known))})
        return [Item("", path, dump({"split": split.get(path), "category": categories[path], "key": keys[path]})) for path in paths]

    def _category(self, path: str) -> str | None:
        folder = PurePosixPath(path).parent.name
        return match_class(folder, self.classes) if self.classes else folder or None

    def read_item(self, root: str, item: Item) -> list[Found]:
        """Return the scene of one image, or its reject."""
        record = json.loads(item.record)
        split, category, key = record["split"], record["category"], record["key"]
        if category is None:
            folder = PurePosixPath(item.image).parent.name
            return [reject(item, "metadata_invalid", unknown_name("class", folder, self.classes, "the path"), key)]
        if split is None:
            return [left_out(item, key)]
        try:
            head = self.read_image(root, item.image)
            window = Window(0, 0, head.width, head.height)
            metadata = placed(self.known, head.georeference, window)
        except (ImageError, OSError, ValueError) as error:
            return [failure(item, error, key)]
        aoi = Aoi(0, 0, head.width, head.height, category)
        placing = head.georeference
        return [Scene(key, split, key, item.image, head.width, head.height, metadata, placing, (aoi,), scaling=head.scaling)]


def _is_image(path: str) -> bool:
    return ends_with(path, IMAGES)


def _key(path: str) -> str:
    # Names are unique in a split only.
    folder, stem = PurePosixPath(path).parent.name, PurePosixPath(path).stem
    return make_key(_folder_split(path) or "", stem if _begins(stem, folder) else f"{folder}_{stem}")


def _begins(stem: str, folder: str) -> bool:
    """Tell whether a name begins with its class already, as most do; "10" does not begin with the class "1"."""
    rest = stem[len(folder) :]
    return stem.lower().startswith(folder.lower()) and not (folder[-1:].isdigit() and rest[:1].isdigit())


def _folder_split(path: str) -> str | None:
    """Return the split that a folder around that of the class names."""
    return folder_split(str(PurePosixPath(path).parent))


def match_class(folder: str, classes: Sequence[str]) -> str | None:
    """Return the class that a folder is named after, whatever its case, spaces, hyphens and underscores, or None."""
    return next((name for name in classes if _plain(name) == _plain(folder)), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
