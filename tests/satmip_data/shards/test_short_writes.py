"""A disk that becomes full within a block cuts no shard in silence."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.fmow_builds import request
from helpers.fmow_tree import contents

from satmip_data.pipeline.build import build
from satmip_data.pipeline.recaption import CaptionRewrite, recaption
from satmip_data.validation.validate import validate


def with_small_files(limit: int, work: Callable[[], object]) -> None:
    """Do a work while the system takes so many bytes of a file, and refuses what follows."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def limit_within(shards: Path) -> int:
    """A size within the last block of the largest shard, and above that of all other files."""
    sizes = sorted((path.stat().st_size, path.suffix) for path in shards.rglob("*.*") if path.is_file())
    largest = max(size for size, ending in sizes if ending == ".tar")
    assert largest - 5000 > max(size for size, ending in sizes if ending != ".tar")
    return largest - 5000


def test_a_shard_that_a_build_cannot_finish_is_an_error(tree: Path, built: Path, tmp_path: Path) -> None:
    """Once the shard was cut, and sealed with the hash of what was left of it."""
    out = tmp_path / "out"
    with pytest.raises(OSError, match=r"tar into .*File too large.*Make room"):
        with_small_files(limit_within(built), lambda: build(request(tree, out)))
    assert not (out / "dataset.json").exists()
    assert not list(out.rglob("*.part"))
    build(request(tree, out))
    assert contents(out) == contents(built)


def test_a_shard_that_captions_cannot_finish_stays(built: Path) -> None:
    before = contents(built)
    with pytest.raises(OSError, match=r"tar into .*File too large.*Make room"):
        with_small_files(limit_within(built), lambda: recaption(str(built), CaptionRewrite(("gsd",), "key-value")))
    largest = max((path for path in before if path.endswith(".tar")), key=lambda path: len(before[path]))
    assert len((built / largest).read_bytes()) == len(before[largest])
    recaption(str(built), CaptionRewrite(("gsd",), "key-value"))
    assert validate(str(built)).problems == ()
