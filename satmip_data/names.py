"""Names of images: the endings that are read, and URLs without what signs them. Pure."""

import re

RASTERS = (".tif", ".tiff", ".jp2")
"""Endings of the files that `raster` reads."""

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", *RASTERS)
"""Endings of all files that are read; Pillow reads those that are no `RASTERS`."""

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP")
"""Pillow's names of what the content of an image may be, whatever its name says; for some others (EPS) Pillow runs programs."""

_QUERY = re.compile(rf"((?:{'|'.join(map(re.escape, IMAGES))})\?)[^\s'\"]+", re.IGNORECASE)


def ends_with(path: str, suffixes: tuple[str, ...]) -> bool:
    """Tell whether a path, or a URL that may be signed, names a file with one of the endings, some of `IMAGES`."""
    return unsigned(path).lower().endswith(suffixes)


def unsigned(path: str) -> str:
    """Return a path, or the URL of an image without what signs it (`.../a.tif?token=...`), which is secret and expires.

    A query that names the image, as `.../get?id=5`, stays.
    """
    bare = path.partition("?")[0]
    return bare if "://" in path and bare.lower().endswith(IMAGES) else path


def without_signatures(text: str) -> str:
    """Return a message with "..." for what signs the URLs of images in it."""
    return _QUERY.sub(r"\1...", text)
