"""Equal chips in two splits: what was learned from one is no test on the other. They are listed in a file."""

import hashlib
from collections.abc import Iterable, Mapping

from PIL import Image

from satmip_data.errors import BuildError
from satmip_data.storage.store import Store

EQUAL_CHIPS = "equal_chips.txt"
"""File of a shard directory that lists them, as `--exclude` takes it."""

KEPT = ("test", "val")
"""Splits whose samples stay, the first first: a test is as its authors made it."""


def chip_digest(chip: Image.Image) -> str:
    """Return what tells the pixels of chips apart."""
    return hashlib.blake2b(chip.tobytes(), digest_size=8, person=f"{chip.width}x{chip.height}"[:16].encode()).hexdigest()


def equal_chips(chips: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Return key -> the equal chip in another split that stays, as "test/key".

    Args:
        chips: split, key and digest of each.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for split, key, digest in chips:
        groups.setdefault(digest, []).append((split, key))
    equal: dict[str, str] = {}
    for members in groups.values():
        if len({split for split, _ in members}) == 1:
            continue
        staying = min(members, key=lambda member: (KEPT.index(member[0]) if member[0] in KEPT else len(KEPT), member))
        equal |= {key: "/".join(staying) for split, key in members if split != staying[0]}
    return equal


def equal_chips_file(equal: Mapping[str, str]) -> dict[str, bytes]:
    """Return the list of the keys as `EQUAL_CHIPS`, by its name; where there is none, there is no such file."""
    head = "# These chips stand in another split too, after the #: leave them out with --exclude, in a new folder."
    lines = (head, *(f"{key} # {other}" for key, other in sorted(equal.items())), "")
    return {EQUAL_CHIPS: "\n".join(lines).encode()} if equal else {}


def read_equal_chips(out: Store) -> dict[str, str]:
    """Return what `equal_chips_file` lists; nothing where there is no such file.

    Raises:
        BuildError: it is damaged.
    """
    if not out.exists(EQUAL_CHIPS):
        return {}
    try:
        lines = out.read(EQUAL_CHIPS).decode().splitlines()
    except UnicodeDecodeError as error:
        raise BuildError(f"{out.url}/{EQUAL_CHIPS} is damaged: {error}. Delete it: it is a list for people alone.") from error
    pairs = (line.partition(" # ") for line in lines if not line.startswith("#"))
    return {key: other for key, _, other in pairs}
