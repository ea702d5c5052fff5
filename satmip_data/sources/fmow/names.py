"""Names of fMoW's files. They are read from the right, because categories hold hyphens and underscores themselves. Pure."""

import posixpath
import re
from dataclasses import dataclass

from satmip_data.sources.base import InvalidError

SPLITS = ("train", "val", "test", "seq")
TRUTH = {"train": "train", "val": "val", "test": "test_gt", "seq": "seq_gt"}
"""Split -> the folder of its ground truth, in which places are named by their category in every split."""

SPELLINGS = {"rgb": ("rgb",), "msrgb": ("msrgb", "ms"), "ms": ("ms", "msrgb")}
"""Product -> the products whose records describe it: the JPEG and the TIFF of the multispectral grid are one image."""

SUFFIXES = {"rgb": (".tif", ".jpg"), "msrgb": (".jpg",), "ms": (".tif",)}
"""Product -> endings of its images; where one image has two, the last is read."""

_ENDING = r"_(?P<acquisition>\d+)_(?P<product>rgb|msrgb|ms)"
_NAMED = re.compile(r"(?P<category>[^./]+)_(?P<number>\d+)" + _ENDING)
_NUMBERED = re.compile(r"(?P<number>\d+)" + _ENDING)


@dataclass(frozen=True, slots=True)
class FmowName:
    """Facts from the path of an image or a record."""

    split: str
    """Of `SPLITS`, or a folder of ground truth ("test_gt")."""
    category: str | None
    """None in test and seq, where only the ground truth names it."""
    number: str
    """Of the place, as written: in test and seq it has leading zeros."""
    acquisition: int
    """Tells the images of a place apart; neither without gaps nor in the order of time."""
    product: str
    """"rgb" is pansharpened; "msrgb" (JPEG) and "ms" (TIFF) are the multispectral grid, about 4 times coarser."""

    @property
    def place(self) -> str:
        """Name of the place, as its folder has it; it starts again in each split."""
        return self.number if self.category is None else f"{self.category}_{self.number}"


def parse_name(path: str) -> FmowName:
    """Return what the path of an image or a record, below the root, tells.

    Raises:
        InvalidError: it is not named as fMoW names them.
    """
    split, stem = path.partition("/")[0], stem_of(path)
    numbered = split in ("test", "seq")
    match = (_NUMBERED if numbered else _NAMED).fullmatch(stem)
    if match is None:
        form = "<number>_<T>_<product>" if numbered else "<category>_<n>_<T>_<product>"
        raise InvalidError(f"The name {stem} is not of the form {form}")
    category = None if numbered else match["category"]
    return FmowName(split, category, match["number"], int(match["acquisition"]), match["product"])


def stem_of(path: str) -> str:
    """Return the name of a file without folders and ending."""
    return posixpath.splitext(posixpath.basename(path))[0]


def record_paths(folder: str, place: str, name: FmowName) -> tuple[str, ...]:
    """Return where the record of an image can lie: in `folder`, under the name that its place has there; the likelier first."""
    return tuple(f"{folder}/{place}_{name.acquisition}_{product}.json" for product in SPELLINGS[name.product])
