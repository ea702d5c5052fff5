"""The chips that a network takes for the most similar ones, to look at."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from satmip_data.names import FORMATS
from satmip_data.pages import data_uri
from satmip_train.data.dataset import Dataset
from satmip_train.data.order import positions
from satmip_train.data.tar import Readers
from satmip_train.errors import UsageError
from satmip_train.evaluation import probes
from satmip_train.evaluation.features import Features
from satmip_train.files import write_atomically

_THUMBNAIL = 160  # pixels, as are the following
_GAP, _LINE, _FRAME = 12, 15, 4
_INK, _PAPER, _SAME, _OTHER = "#1c1c1c", "#ffffff", "#2a8a4a", "#c0453a"


@dataclass(frozen=True)
class Chip:
    """Parts of a sample that are shown."""

    key: str
    image: Image.Image
    caption: str
    label: str | None
    """Its class; of a multi-label set the classes with commas between them; None where there is none."""

    @property
    def address(self) -> str:
        """The picture as an address that holds it, for a page."""
        png = io.BytesIO()
        self.image.save(png, "PNG", optimize=True)
        return data_uri(png.getvalue())


@dataclass(frozen=True)
class Gallery:
    """The searched samples, the queries, and the shards with the chips of both."""

    found: Features
    queries: Features
    dataset: Dataset
    query_dataset: Dataset
    split: str
    query_split: str


@dataclass(frozen=True)
class Row:
    """A query and the nearest chips with their cosine similarity, nearest first."""

    query: Chip
    nearest: tuple[tuple[Chip, float], ...]


def find_neighbours(gallery: Gallery, queries: Sequence[int], count: int, device: str = "cpu") -> list[Row]:
    """Return for some queries, given by number, the most similar chips.

    Where the queries are of the searched split itself, a chip is not its own neighbour.
    """
    same = (gallery.dataset.fingerprint, gallery.split) == (gallery.query_dataset.fingerprint, gallery.query_split)
    k = min(count + same, len(gallery.found.vectors))
    vectors = gallery.queries.vectors[list(queries)]
    indices, similarities = probes.neighbours(gallery.found.vectors, vectors, k, device)
    rows = []
    chips = read_chips(gallery.query_dataset, gallery.query_split, queries)
    for number, query, nearest, values in zip(queries, chips, indices, similarities, strict=True):
        kept = [place for place in range(k) if not (same and nearest[place] == number)][:count]
        near = read_chips(gallery.dataset, gallery.split, nearest[kept])
        rows.append(Row(query, tuple(zip(near, map(float, values[kept]), strict=True))))
    return rows


def write_sheet(gallery: Gallery, keys: Sequence[str], queries: int, count: int, title: str, out: Path) -> None:
    """Write a contact sheet of the samples with the given keys, or, where there is none, of some evenly spaced over their split.

    Raises:
        UsageError: there is no sample of a key.
    """
    total = len(gallery.queries.keys)
    spaced = np.linspace(0, total - 1, min(queries, total)).round().astype(int).tolist()
    chosen = numbers_of(gallery.queries, keys) if keys else spaced
    sheet = contact_sheet(find_neighbours(gallery, chosen, count), title)
    write_atomically(out, lambda file: sheet.save(file, "PNG"))


def numbers_of(features: Features, keys: Sequence[str]) -> list[int]:
    """Return the numbers of samples given by key.

    Raises:
        UsageError: there is no such sample.
    """
    place = {str(key): number for number, key in enumerate(features.keys)}
    if missing := [key for key in keys if key not in place]:
        raise UsageError(f"No sample has the key {', '.join(missing)}. Use a --query such as {features.keys[0]!s}")
    return [place[key] for key in keys]


def read_chips(dataset: Dataset, split: str, indices: Iterable[int]) -> list[Chip]:
    """Return samples of a split by their place in stored order."""
    readers = Readers(dataset, split)
    chips = []
    for number, row in positions(readers, np.fromiter(indices, np.int64)).tolist():
        reader = readers[number]
        label, labels = reader.find(row, "cls"), reader.find(row, "labels.npy")
        name = None if label is None else dataset.classes[int(label)]
        if labels is not None:
            hot = np.load(io.BytesIO(labels), allow_pickle=False)
            name = ", ".join(dataset.classes[i] for i in np.flatnonzero(hot))
        caption = reader.read(row, "txt").decode()
        chips.append(Chip(reader.keys[row], _thumbnail(reader.read(row, "jpg")), caption, name))
    return chips


def contact_sheet(rows: Sequence[Row], title: str) -> Image.Image:
    """Return one picture: a row a query, the query first, then its neighbours.

    A green frame means the class of the query, a red one another class; the head says so where there are classes.
    """
    if any(row.query.label is not None for row in rows):
        title += "; green: the class of the query, red: another"
    columns = 1 + max(len(row.nearest) for row in rows)
    cell = (_THUMBNAIL + 2 * _FRAME + _GAP, _THUMBNAIL + 2 * _FRAME + 2 * _LINE + _GAP)
    head = _LINE + 2 * _GAP
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, head + len(rows) * cell[1] + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((_GAP, _GAP), title, _INK, font)
    for y, row in enumerate(rows):
        top = head + y * cell[1]
        _paste(sheet, row.query, "query", _INK, (_GAP, top), font)
        for x, (chip, similarity) in enumerate(row.nearest, start=1):
            frame = _INK if row.query.label is None else _SAME if chip.label == row.query.label else _OTHER
            _paste(sheet, chip, f"{similarity:.3f}", frame, (_GAP + x * cell[0], top), font)
    return sheet


def _paste(
    sheet: Image.Image, chip: Chip, line: str, frame: str, at: tuple[int, int], font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    draw, side = ImageDraw.Draw(sheet), _THUMBNAIL + 2 * _FRAME
    draw.rectangle((at[0], at[1], at[0] + side - 1, at[1] + side - 1), frame)
    fitted = chip.image.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
    sheet.paste(fitted, (at[0] + _FRAME, at[1] + _FRAME))
    draw.text((at[0], at[1] + side + 2), fitted_text(chip.label or chip.key, side, font), _INK, font)
    draw.text((at[0], at[1] + side + 2 + _LINE), line, _INK, font)


def fitted_text(text: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return a text no wider than `width` pixels; what is longer lacks its middle, as keys differ at their ends."""
    shown, kept = text, len(text)
    while kept and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"
    return shown


def _thumbnail(encoded: bytes) -> Image.Image:
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return small
