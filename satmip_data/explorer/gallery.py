"""A fair draw of chips to be looked at, as small pictures."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from satmip_data.errors import ShardError
from satmip_data.metadata.checks import SUSPECT
from satmip_data.names import FORMATS
from satmip_data.pages import data_uri
from satmip_data.shards.tar import read_samples
from satmip_data.storage.store import Store

_SHARDS = 6
"""Shards that are read, at most: samples are shuffled over all, so that a few are a fair draw."""
_SUSPECT = 12
"""Chips of suspect records that are shown besides, at most."""
_SIDE = 160
"""Pixels."""


@dataclass(frozen=True)
class Picture:
    """A chip of the page."""

    row: int
    """Of the index."""
    key: str
    split: str
    label: str
    """Its class, or classes with commas between them."""
    caption: str
    flags: tuple[str, ...]
    address: str
    """The picture, as an address that holds it."""


def draw_pictures(store: Store, index: pa.Table, count: int, seed: int = 0) -> list[Picture]:
    """Return chips of some rows, drawn at random, and some more of suspect records.

    Args:
        store: the shard directory.
        index: rows of its index.
        count: chips; fewer where there are not so many.
        seed: of the draw.

    Raises:
        ShardError: a shard is damaged.
    """
    encoded = index["shard"].combine_chunks().dictionary_encode()
    shard, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    rng = np.random.default_rng(seed)
    drawn = _draw_shards(names, rng)
    rows = np.flatnonzero(np.isin(shard, drawn)).tolist()
    chosen = {*rng.permutation(rows)[:count].tolist(), *_suspect(index["flags"], rows)}
    pictures: list[Picture] = []
    for number in drawn:
        mine = sorted(row for row in chosen if shard[row] == number)
        pictures += _read(store, names[number], mine, index.take(mine))
    return sorted(pictures, key=lambda picture: picture.row)


def _draw_shards(names: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Return the numbers of some shards, of each split one first."""
    order = rng.permutation(len(names)).tolist()
    firsts = list({names[number].partition("/")[0]: number for number in reversed(order)}.values())
    return (firsts + [number for number in order if number not in firsts])[: max(_SHARDS, len(firsts))]


def _suspect(flags: pa.ChunkedArray, rows: Sequence[int]) -> list[int]:
    """Return the first of some rows whose records contradict themselves."""
    found = ((row, words) for row, words in zip(rows, flags.take(rows).to_pylist(), strict=True) if SUSPECT & {*words})
    return [row for (row, _), _ in zip(found, range(_SUSPECT), strict=False)]


def _read(store: Store, name: str, rows: Sequence[int], records: pa.Table) -> Iterator[Picture]:
    wanted = {record["key"]: (row, record) for row, record in zip(rows, records.to_pylist(), strict=True)}
    try:
        for key, members in read_samples(store.read(name)):
            if key in wanted:
                yield _picture(*wanted.pop(key), members)
            if not wanted:
                return
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise ShardError(f"{store.path(name)} is missing. Copy it again, or build again.") from error
        raise
    except Exception as error:  # tarfile, Pillow and text raise many kinds on broken bytes
        raise _damaged(store, name, f"{type(error).__name__}: {error}") from error
    raise _damaged(store, name, f"it has no sample {next(iter(wanted))}, which the index lists")


def _damaged(store: Store, name: str, problem: str) -> ShardError:
    return ShardError(f"{store.path(name)} is damaged: {problem}. Run: satmip-data validate {quote(store.url)}")


def _picture(row: int, record: Mapping[str, Any], members: Mapping[str, bytes]) -> Picture:
    label = record["category"] or ", ".join(record["labels"])
    return Picture(
        row, record["key"], record["split"], label, members["txt"].decode(), tuple(record["flags"]), _thumbnail(members["jpg"])
    )


def _thumbnail(data: bytes) -> str:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.draft("RGB", (_SIDE, _SIDE))
        small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=82)
    return data_uri(stream.getvalue(), "image/jpeg")
