"""Shards as plain tars in WebDataset's form: reading and writing samples."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from satmip_data.shards.members import Members


@contextmanager
def new_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Give a new archive to add members to.

    Raises:
        OSError: the disk is full or refuses.
    """
    # tarfile's own file does not notice that a disk took but a part of a block, as one that becomes full does: the shard was cut.
    with path.open("wb") as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        yield tar


def add_members(tar: tarfile.TarFile, key: str, members: Members) -> None:
    """Append the members of a sample, byte for byte as webdataset's own writer does, whose import would bring torch."""
    for suffix in sorted(members):
        entry = tarfile.TarInfo(f"{key}.{suffix}")
        entry.size, entry.mode, entry.uname, entry.gname = len(members[suffix]), 0o444, "satmip", "satmip"
        tar.addfile(entry, io.BytesIO(members[suffix]))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a local file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_samples(data: bytes) -> Iterator[tuple[str, Members]]:
    """Yield (key, members) of a shard in stored order.

    Raises:
        tarfile.TarError: the archive is damaged.
    """
    key, members = "", Members()
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for entry in tar:
            name, _, suffix = entry.name.partition(".")
            if name != key and members:
                yield key, members
                members = {}
            key = name
            stream = tar.extractfile(entry)
            members[suffix] = b"" if stream is None else stream.read()
    if members:
        yield key, members
