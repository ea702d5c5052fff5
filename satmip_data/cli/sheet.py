"""A contact sheet: chips with their captions, to be looked at."""

import io
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from satmip_data.names import FORMATS

CELL = 232
MARGIN = 12
TEXT_SIZE = 12
LINE = 15
KEY, INK = "#0a5", "black"


def contact_sheet(chips: Sequence[tuple[str, bytes, str]], columns: int = 6) -> Image.Image:
    """Draw chips in rows, each with its key and caption below.

    Args:
        chips: (key, encoded image, caption) each.
        columns: chips a row.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    width = max(int(CELL / (font.getlength("n0") / 2)) - 1, 8)
    texts = [
        [*((line, KEY) for line in textwrap.wrap(key, width)), *((line, INK) for line in textwrap.wrap(caption, width))]
        for key, _, caption in chips
    ]
    lines = max((len(text) for text in texts), default=0)
    cell_height = CELL + lines * LINE + MARGIN
    rows = -(-len(chips) // columns)
    sheet = Image.new("RGB", (MARGIN + columns * (CELL + MARGIN), MARGIN + rows * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, ((_, data, _), text) in enumerate(zip(chips, texts, strict=True)):
        x, y = MARGIN + (i % columns) * (CELL + MARGIN), MARGIN + (i // columns) * cell_height
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            chip = image.convert("RGB")
        enlarged = max(CELL // max(chip.size), 1)
        chip = chip.resize((chip.width * enlarged, chip.height * enlarged), Image.Resampling.NEAREST)
        chip.thumbnail((CELL, CELL))
        sheet.paste(chip, (x, y))
        for j, (line, colour) in enumerate(text):
            draw.text((x, y + CELL + j * LINE), line, fill=colour, font=font)
    return sheet
