"""Names of images: the endings that are read, and text without the secrets that URLs may hold. Pure."""

import hashlib
import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

RASTERS = (".tif", ".tiff", ".jp2")
"""Endings of the files that `raster` reads."""

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Endings of the files that Pillow reads."""

IMAGES = (*PICTURES, *RASTERS)
"""Endings of the files that a listing takes for images; how one is read, its first bytes tell."""

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP")
"""Pillow's names of what the content of an image may be, whatever its name says; for some others (EPS) Pillow runs programs."""

_END = r"\s'\"<>`"
"""Characters that end a URL in a message."""

_QUERY = re.compile(rf"((?:{'|'.join(map(re.escape, IMAGES))})\?)[^{_END}]+", re.IGNORECASE)

# Up to the last @ before the first slash, as an authority is read; or, where what follows the colon is no port, to the next @: a
# password that holds a slash makes no valid URL, and stands in the message that says so.
_USER = re.compile(rf"(https?://)(?:[^/?#{_END}]*|[^/@?#\[{_END}]*:(?!:|\d*[/?#])[^@{_END}]*)@", re.IGNORECASE)
_PASSWORD = re.compile(rf"([a-z][a-z0-9+.-]*://[^/:@?#\[{_END}]*):(?!:)(?:[^/?#{_END}]*|(?!\d*[/?#])[^@{_END}]*)@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"((?:[?&;#]|%3F|%26)[a-z0-9_.~-]*"
    r"(?:sig|signature|token|secret|passw(?:or)?d|passwd|pwd|key|api-?key|apikey|keyid|credential|credentials|auth|authorization|"
    r"policy|session|jwt|code)"
    rf"(?:=|%3D))[^&;{_END}]+",
    re.IGNORECASE,
)


def ends_with(path: str, suffixes: tuple[str, ...]) -> bool:
    """Tell whether a path, or a URL that may be signed, names a file with one of the endings, some of `IMAGES`."""
    bare = path.partition("?")[0] if "://" in path else path
    return bare.lower().endswith(suffixes)


def unsigned(path: str) -> str:
    """Return a path, or a URL without its secrets; that of an image is written without its whole query (`.../a.tif?token=...`).

    What signs a URL is secret and expires. A query that names the image, as `.../get?id=5`, stays.
    """
    if "://" not in path:
        return without_secrets(path, queries=False)
    bare = path.partition("?")[0]
    return without_secrets(bare if bare.lower().endswith(IMAGES) else path)


def without_secrets(text: str, queries: bool = True) -> str:
    """Return a URL or a message with "..." for what is secret in its URLs: passwords, signatures, tokens.

    Of a URL of http(s), whose user may be a token, the user goes with the password; of that of an image, with `queries`, the whole
    query.
    """
    if "://" not in text and "?" not in text:
        return text
    text = _PASSWORD.sub(r"\1@", _USER.sub(r"\1", text))
    return _PARAMETER.sub(r"\1...", _QUERY.sub(r"\1...", text) if queries else text)


def secret_digest(url: str) -> str:
    """Return what tells URLs apart that differ in their signatures alone; it follows from no password."""
    return hashlib.blake2b(_PASSWORD.sub(r"\1@", _USER.sub(r"\1", url)).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def counted(number: float, noun: str) -> str:
    """Return a count with its noun in the right number: "1 shard", "2,000 samples", "0 classes"."""
    if number == 1:
        return f"1 {noun}"
    ending = noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("epoch")
    plural = f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeiou" else f"{noun}es" if ending else f"{noun}s"
    return f"{number:,} {plural}" if isinstance(number, int) else f"{number:,g} {plural}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ' Did you mean "gsd"?' with the known name nearest to a word; "" where none is near."""
    near = get_close_matches(word, [*known], 1, 0.5)
    return f' Did you mean "{near[0]}"?' if near else ""


def written(value: Any, most: int = 100) -> str:
    """Return a value that a file holds as a message shows it: texts in quotes, lists with commas, cut where it is long."""
    text = f'"{value}"' if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else f"{text[:most]}..."


MOST_LISTED = 10
"""A message lists no more names than this."""


def unknown_name(kind: str, word: str, known: Iterable[str], where: str = "", see: str = "") -> str:
    """Return the message of a name that nothing has, with the nearest one that something has.

    Args:
        kind: what the name should be of, such as "split".
        where: the option or file in which it stands.
        see: a command that lists all; without it the names themselves are listed, where they are few.
    """
    known = [*known]
    place = f" in {where}" if where else ""
    listed = f" All: {see}" if see else f" Known: {', '.join(known)}." if 0 < len(known) <= MOST_LISTED else ""
    return f'Unknown {kind} "{word}"{place}.{did_you_mean(word, known)}{listed}'
