"""Damage to shard directories."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from helpers.toy_shards import write_dataset_json
from satmip_data.records import Reject
from satmip_data.shards.dataset import describe
from satmip_data.shards.index_table import rejects_table
from satmip_data.storage.parquet import parquet_bytes

OTHER_REJECTS = parquet_bytes(rejects_table([Reject("a", "scan", "no_aoi", "none")]))


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def _cut_between_members(shards: Path) -> None:
    shard = shards / "train/000000.tar"
    with tarfile.open(shard) as tar:
        cut = tar.getmembers()[7].offset
    shard.write_bytes(shard.read_bytes()[:cut])


def _other_statistics(shards: Path) -> None:
    dataset = json.loads((shards / "dataset.json").read_text())
    dataset["numeric"][0]["mean"] += 0.1
    write_dataset_json(shards, dataset)


def _cut(name: str) -> Callable[[Path], object]:
    return lambda shards: (shards / name).write_bytes((shards / name).read_bytes()[:-20])


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "flipped byte": ("sha256", lambda shards: flip(shards / "train/000000.tar", 9000)),
    "cut between members": ("archive", _cut_between_members),
    "missing shard": ("shards", lambda shards: (shards / "train/000000.tar").unlink()),
    "foreign shard": ("shards", lambda shards: (shards / "train/000099.tar").write_bytes(b"\0" * 1024)),
    "other sizes.json": ("counts", lambda shards: (shards / "train/sizes.json").write_text("{}")),
    "sizes.json cut short": ("counts", lambda shards: (shards / "train/sizes.json").write_text("{")),
    "no train/sizes.json": ("counts", lambda shards: (shards / "train/sizes.json").unlink()),
    "index cut short": ("index", _cut("index.parquet")),
    "index of another form": ("index", lambda shards: pd.DataFrame({"key": ["a"]}).to_parquet(shards / "index.parquet")),
    "rejects cut short": ("index", _cut("rejects.parquet")),
    "no rejects.parquet": ("index", lambda shards: (shards / "rejects.parquet").unlink()),
    "other rejects": ("counts", lambda shards: (shards / "rejects.parquet").write_bytes(OTHER_REJECTS)),
    "other README.md": ("sha256", lambda shards: flip(shards / "README.md", 100)),
    "croissant.json cut short": ("sha256", _cut("croissant.json")),
    "foreign file": ("files", lambda shards: (shards / "train/notes.txt").write_text("mine")),
    "other statistics": ("features", _other_statistics),
}
"""What can happen to a shard directory: the check that notices it, and what does it."""


def list_anew(shards: Path, name: str, content: bytes) -> None:
    """Write a file beside the shards with other content, and its hash into `dataset.json`, as a build with a bug would."""
    (shards / name).write_bytes(content)
    dataset = json.loads((shards / "dataset.json").read_text())
    dataset["files"][name] = describe(content)
    write_dataset_json(shards, dataset)
