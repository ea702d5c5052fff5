"""Check that a shard holds the bytes that `dataset.json` lists: made once, on first use, and remembered."""

import hashlib
from contextlib import suppress
from pathlib import Path

from satmip_train.data.dataset import Dataset, Shard
from satmip_train.errors import UsageError

_CHECKED = "checked"


def check_shard(dataset: Dataset, shard: Shard, path: Path) -> None:
    """Compare the sha256 of a shard with the one that `dataset.json` lists, unless that was done before.

    What was found whole is remembered in the dataset's cache, by path, size and time of change: an empty file each. Where the cache
    cannot be written to, each process reads the shards that it opens once more.

    Raises:
        UsageError: the shard is another one than listed, or its bytes cannot be read.
    """
    try:
        known, file = path.stat(), path.open("rb")
    except OSError:
        return  # whoever opens it next says why that is not possible, and what to do
    with file:
        note = hashlib.sha256(f"{path.absolute()}\n{known.st_size}\n{known.st_mtime_ns}\n{shard.sha256}".encode()).hexdigest()
        remembered = dataset.cache / _CHECKED / note
        if _exists(remembered):
            return
        try:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UsageError(f"Cannot read {path}: {error.strerror}. Copy the shard again, or build it again.") from error
    if found != shard.sha256:
        other = next((f"it is {other.name}" for other in dataset.shards if other.sha256 == found), f"its sha256 is {found[:12]}...")
        raise UsageError(
            f"{path} is damaged or another shard: dataset.json lists sha256 {shard.sha256[:12]}..., and {other}. "
            "Copy the shard again, or build it again."
        )
    with suppress(OSError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.touch()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a cache that may not be looked into
        return False
