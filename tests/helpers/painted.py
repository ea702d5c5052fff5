"""helpers.painted"""

from pathlib import Path

import numpy as np
from PIL import Image


def paint(folder: Path, count: int, seed: int) -> Path:
    """Images whose left and right have colours of their own, at a line that wanders; masks hold 3 and 9, and 255 at the top."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        size = 48 + 8 * (number % 2)
        line = int(rng.integers(12, size - 12))
        mask = np.where(np.arange(size)[None] < line, 3, 9).astype(np.uint8).repeat(size, 0)
        colours = np.where(mask[..., None] == 3, [200, 60, 60], [40, 80, 180]) + rng.normal(0, 8, (size, size, 3))
        mask[:4] = 255
        name = f"area{number % 2}/tile_{number}"
        for kind, array, suffix in (("images", colours.clip(0, 255), ".jpg"), ("masks", mask, ".png")):
            path = folder / kind / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
    return folder
