"""Shards that are not those that were built are found before a sample is read, and read for that only once."""

import gc
import hashlib
import os
import random
import shutil
from pathlib import Path

import pytest
from helpers.toy_shards import replace_shard, write_toy_shards

from satmip_train.data.dataset import open_dataset
from satmip_train.data.decoder import Decoder
from satmip_train.data.tar import Readers
from satmip_train.data.webdataset_pipeline import as_webdataset
from satmip_train.errors import UsageError

EVERYTHING = Decoder(frozenset({"image", "numeric", "mask", "categorical", "place", "location", "label", "key"}), numeric=(0,))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_toy_shards(tmp_path / "shards", {"train": 12}, shards=2, size=(8, 8))


def readers(shards: Path) -> Readers:
    return Readers(open_dataset(shards, shards.parent / "cache"), "train")


def test_every_flipped_byte_is_found(shards: Path) -> None:
    """Of 3,000 such bytes 176 once changed pixels, numbers or places in silence."""
    tar = shards / "train/000001.tar"
    whole, draw = tar.read_bytes(), random.Random(0)
    for place in draw.sample(range(len(whole)), 100):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        tar.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"train/000001\.tar is damaged"):
            EVERYTHING.batch(readers(shards), [(1, 0)])
        EVERYTHING.batch(readers(shards), [(0, 0)])


def test_shards_of_one_size_that_were_exchanged_are_found(shards: Path) -> None:
    one, two = (shards / f"train/00000{n}.tar" for n in range(2))
    assert one.stat().st_size == two.stat().st_size
    EVERYTHING.batch(readers(shards), [(0, 0), (1, 0)])
    one.rename(shards / "other")
    two.rename(one)
    (shards / "other").rename(two)
    with pytest.raises(UsageError, match=r"000000\.tar is damaged or another shard.* it is train/000001\.tar"):
        readers(shards)[0]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its last file to the garbage collector
def test_webdatasets_pipeline_finds_damaged_and_exchanged_shards_and_hashes_each_once(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: seen.append(Path(file.name).name) or digest(file, name))

    def read() -> int:
        return sum(1 for _ in as_webdataset(open_dataset(shards, shards.parent / "cache"), "train"))

    assert [read(), read()] == [12, 12]
    assert seen == ["000000.tar", "000001.tar"]
    tar = shards / "train/000001.tar"
    whole = tar.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    tar.write_bytes(damaged)
    with pytest.raises(UsageError, match=r"train/000001\.tar is damaged"):
        read()
    tar.write_bytes((shards / "train/000000.tar").read_bytes())
    with pytest.raises(UsageError, match=r"it is train/000000\.tar"):
        read()
    gc.collect()


def test_a_shard_is_hashed_once_and_again_when_it_changed(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: seen.append(Path(file.name).name) or digest(file, name))

    def opened() -> list[str]:
        seen.clear()
        EVERYTHING.batch(readers(shards), [(0, 0), (1, 0), (0, 1)])
        return seen

    assert opened() == ["000000.tar", "000001.tar"]
    assert opened() == []
    os.utime(shards / "train/000001.tar", ns=(1, 1))
    assert opened() == ["000001.tar"]
    shutil.rmtree(shards.parent / "cache")
    (shards.parent / "cache").write_text("no folder")
    assert opened() == opened() == ["000000.tar", "000001.tar"]


@pytest.mark.parametrize("suffix", ["num.npy", "mask.npy", "cat.npy", "json", "cls"])
def test_a_damaged_member_is_named(shards: Path, suffix: str) -> None:
    """As another program may write it: the hash is right."""
    tar = shards / "train/000000.tar"
    reader = readers(shards)[0]
    start, size = reader._tables[suffix][2]
    content = bytearray(tar.read_bytes())
    content[start : start + size] = b"?" * size
    replace_shard(shards, "train/000000.tar", bytes(content))
    with pytest.raises(UsageError) as refused:
        EVERYTHING.batch(readers(shards), [(0, 2)])
    assert f"{reader.keys[2]}.{suffix} in {tar}" in str(refused.value)
