"""Pipes, sockets and devices among the files of an archive: rejects, and never waited for."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.fmow_tree import write_fmow_tree

from satmip_data.execution.engines import Local
from satmip_data.pipeline.build import build
from satmip_data.pipeline.index import build_index
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.sources import SOURCES
from satmip_data.sources.base import LayoutError
from tests.data.archives.make import pixels, stac_item, write_class_folders, write_raster, write_so2sat

KEEP = BuildSettings(size=None)


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """End the test with an error where a pipe is waited for."""

    def give_up(*_: object) -> None:
        pytest.fail("a pipe was waited for")  # no Exception, which could become a reject

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def reasons(source: str, root: Path) -> list[tuple[str, str, bool]]:
    """Return path and reason of each reject, and whether its message says what the file is."""
    index = build_index(SOURCES[source](), str(root), KEEP, Local())
    assert index.samples
    return [(reject.path, reject.reason, "a pipe, a socket or a device" in reject.message) for reject in index.rejects]


def test_of_class_folders(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("River",), 2, suffix="png")
    os.mkfifo(tmp_path / "River/pipe.png")
    (tmp_path / "River/device.png").symlink_to("/dev/zero")
    (tmp_path / "River/lost.png").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as plug, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "River")  # addresses of sockets are short
        plug.bind("socket.png")
        assert reasons("imagefolder", tmp_path) == [
            ("River/device.png", "image_unreadable", True),
            ("River/lost.png", "image_unreadable", False),
            ("River/pipe.png", "image_unreadable", True),
            ("River/socket.png", "image_unreadable", True),
        ]


def test_of_rasters_and_of_items(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", pixels(np.random.default_rng(0), 40, 60, 3, 1, 255).astype(np.uint8))
    os.mkfifo(tmp_path / "b.tif")
    assert reasons("geotiff", tmp_path) == [("b.tif", "image_unreadable", True)]
    for number, name in enumerate("ab"):
        (tmp_path / f"{name}.json").write_text(json.dumps(stac_item(number, {"href": f"{name}.tif"})))
    os.mkfifo(tmp_path / "c.json")
    assert reasons("stac", tmp_path) == [("b.json", "image_unreadable", True), ("c.json", "metadata_unreadable", True)]


def test_of_a_table(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("River",), 1)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "table.csv").write_text("image\nRiver/River_0.jpg\npipe.jpg\n")
    assert reasons("table", tmp_path / "table.csv") == [("pipe.jpg", "image_unreadable", True)]


def test_of_fmow(tmp_path: Path) -> None:
    paths = write_fmow_tree(tmp_path / "fmow")
    for path in (paths[0], paths[1].with_suffix(".json")):
        path.unlink()
        os.mkfifo(path)
    dataset = build(BuildRequest(SOURCES["fmow"](), str(tmp_path / "fmow"), str(tmp_path / "out"), BuildSettings(size=32)))
    assert dataset["rejects"] == {"image_unreadable": 1, "metadata_unreadable": 1}


def test_of_so2sat(tmp_path: Path) -> None:
    write_so2sat(tmp_path)
    (tmp_path / "testing.h5").unlink()
    os.mkfifo(tmp_path / "testing.h5")
    with pytest.raises(LayoutError, match=r"HDF5 file with sen2 and label.*no regular file"):
        SOURCES["so2sat"]().list_items(str(tmp_path))


@pytest.mark.parametrize("image", ["http://127.0.0.1:1/lost.jpg", "http://[bad/a.jpg", "https:///a.jpg", "hf://a.jpg", "a\0.jpg"])
def test_an_image_that_cannot_be_read_over_a_network_ends_no_build(tmp_path: Path, image: str) -> None:
    """Of a table, whose other images are there."""
    write_class_folders(tmp_path, ("River",), 1)
    (tmp_path / "table.csv").write_text(f"image\nRiver/River_0.jpg\n{image}\n")
    (found,) = reasons("table", tmp_path / "table.csv")
    assert found in [(image, reason, False) for reason in ("image_unreadable", "metadata_invalid")]
