"""What cannot be read ends no build: damaged archives, bombs, web servers that fail, and errors that nobody expects."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from helpers.fmow_tree import write_fmow_tree
from helpers.web import Answer, Web, serving
from PIL import Image

from satmip_data.cli import commands
from satmip_data.execution.engines import Local
from satmip_data.pipeline.build import build
from satmip_data.pipeline.index import Index, build_index
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import Sample
from satmip_data.sources import SOURCES
from satmip_data.sources.base import LayoutError
from satmip_data.sources.imagefolder import ImageFolder
from satmip_data.storage import store, web
from satmip_data.storage.limits import Limits
from satmip_data.validation import validate
from tests.data.archives.make import pixels, write_raster

KEEP = BuildSettings(size=None)


def picture(suffix: str = "jpeg", seed: int = 0, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(1, 255, (32, 32, 3), np.uint8)).save(stream, suffix, **options)
    return stream.getvalue()


def index(source: str, root: Path | str, limits: Limits | None = None, **options: Any) -> Index:
    return build_index(SOURCES[source](**options), str(root), KEEP, Local(), limits=limits or Limits())


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"forest/{name}.{'tif' if data[:2] == b'II' else 'jpg'}", data)
    return path


def spoilt(path: Path, how: str) -> Path:
    """Damage the second member of a zip: its bytes, its method, or its flag of encryption, here and in the directory."""
    data, name = bytearray(path.read_bytes()), b"forest/b."
    local = data.index(b"PK\x03\x04", 4)
    central = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    if how == "damaged":
        data[data.index(name, local) + 60] ^= 255
    for start, flags, method in ((local, 6, 8), (central, 8, 10)):
        if how == "encrypted":
            data[start + flags] |= 1
        if how == "deflate64":
            data[start + method] = 9
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("source", ["imagefolder", "geotiff"])
@pytest.mark.parametrize("how", ["damaged", "encrypted", "deflate64"])
def test_a_member_of_a_zip_that_cannot_be_read_is_a_reject(tmp_path: Path, source: str, how: str, capfd: Any) -> None:
    if source == "geotiff":
        write_raster(tmp_path / "a.tif", pixels(np.random.default_rng(0), 32, 32, 3, 1, 255).astype(np.uint8))
    data = picture() if source == "imagefolder" else (tmp_path / "a.tif").read_bytes()
    root = spoilt(zipped(tmp_path / "a.zip", a=data, b=data, c=data), how)
    dataset = build(BuildRequest(SOURCES[source](shares="train=1"), str(root), str(tmp_path / "out"), KEEP))
    assert dataset["splits"]["train"]["samples"] == 2
    assert dataset["rejects"] == {"image_unreadable": 1}
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("content", [b"", b"<html>Not Found</html>", None])
def test_a_zip_that_is_none_is_one_error(tmp_path: Path, content: bytes | None) -> None:
    zipped(tmp_path / "a.zip", a=picture(), b=picture())
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[: len(whole) // 2] if content is None else content)
    run = CliRunner().invoke(commands.main, ["build", str(tmp_path / "a.zip"), str(tmp_path / "out"), "--source", "imagefolder"])
    assert run.exit_code == 1
    assert "a.zip is no whole zip file" in run.output


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_ground_truth_that_is_none_is_one_error(tmp_path: Path, ending: str) -> None:
    write_fmow_tree(tmp_path / "fmow")
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(ending[4:], bytes)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(300):
            data = np.random.default_rng(number).bytes(1000)
            entry = tarfile.TarInfo(f"train/airport/airport_0/{number}.txt")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    whole = pack(stream.getvalue())
    for damaged in (whole[: len(whole) // 2], whole[:100_000] + b"\0\xff" * 500 + whole[101_000:], b"<html>", b""):
        (tmp_path / f"truth.{ending}").write_bytes(damaged)
        with pytest.raises(LayoutError, match=r"truth\.tar"):
            SOURCES["fmow"](metadata=str(tmp_path / f"truth.{ending}")).list_items(str(tmp_path / "fmow"))


def test_small_files_that_unpack_to_gigabytes_are_refused(tmp_path: Path) -> None:
    """Here of two megabytes, with a limit of one."""
    small, zeros = Limits(unpacked=1), bytes(2_000_000)
    found = index("imagefolder", zipped(tmp_path / "a.zip", a=picture(), b=picture() + zeros), small)
    assert [(reject.path, reject.reason, "--max-unpacked" in reject.message) for reject in found.rejects] == [
        ("forest/b.jpg", "image_unreadable", True)
    ]
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(b"image\na.jpg\n" + b"a.jpg\n" * 400_000))
    with pytest.raises(LayoutError, match="--max-unpacked"):
        index("table", tmp_path / "table.csv.gz", small)
    write_fmow_tree(tmp_path / "fmow")
    with tarfile.open(tmp_path / "truth.tar.bz2", "w:bz2") as archive:
        entry = tarfile.TarInfo("train/airport/airport_0/airport_0_0_rgb.json")
        entry.size = len(zeros)
        archive.addfile(entry, io.BytesIO(zeros))
        names = sorted(path.relative_to(tmp_path / "fmow") for path in (tmp_path / "fmow").rglob("*.json"))
        for name in names:
            entry = tarfile.TarInfo(str(name))
            entry.size = len(zeros)
            archive.addfile(entry, io.BytesIO(zeros))
    with pytest.raises(LayoutError, match="--max-unpacked"):
        index("fmow", tmp_path / "fmow", small, metadata=str(tmp_path / "truth.tar.bz2"))


def test_tables_and_rasters_whose_few_bytes_stand_for_many_are_refused(tmp_path: Path) -> None:
    small = Limits(unpacked=1)
    cells = pa.array(["a" * 1000] * 2000)
    for column in (cells, cells.dictionary_encode()):
        pq.write_table(pa.table({"image": column}), tmp_path / "table.parquet", compression="zstd")
        assert (tmp_path / "table.parquet").stat().st_size < 10_000
        with pytest.raises(LayoutError, match="--max-unpacked"):
            index("table", tmp_path / "table.parquet", small)
    values = np.ones((3, 700, 700), np.uint8)
    write_raster(tmp_path / "in/strip.tif", values, compress="deflate", blockysize=700, interleave="pixel")
    write_raster(tmp_path / "in/tiled.tif", values, compress="deflate", tiled=True, blockxsize=256, blockysize=256)
    found = index("geotiff", tmp_path / "in", small)
    assert {sample.path for sample in found.samples} == {"tiled.tif"}
    assert [(reject.path, "--max-unpacked" in reject.message) for reject in found.rejects] == [("strip.tif", True)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "in/tiled.tif", "class/small.tif")
        archive.writestr("class/large.tif", (tmp_path / "in/tiled.tif").read_bytes() + bytes(2_000_000))
    found = index("imagefolder", tmp_path / "a.zip", small)
    assert {sample.path for sample in found.samples} == {"class/small.tif"}
    assert [(reject.path, "--max-unpacked" in reject.message) for reject in found.rejects] == [("class/large.tif", True)]


def test_a_raster_of_very_many_windows_and_a_jpeg_of_very_many_scans_are_rejects(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", pixels(np.random.default_rng(0), 64, 64, 3, 1, 255).astype(np.uint8))
    found = index("geotiff", tmp_path, Limits(windows=15), tile=16)
    assert [(reject.reason, "--max-windows" in reject.message) for reject in found.rejects] == [("image_too_large", True)]
    assert len(index("geotiff", tmp_path, Limits(windows=16), tile=16).samples) == 16
    folder = tmp_path / "images/forest"
    folder.mkdir(parents=True)
    data = picture(progressive=True)
    (folder / "a.jpg").write_bytes(data)
    scans = data.count(b"\xff\xda")
    for most, lost in ((scans, {}), (scans - 1, {"image_too_large": 1})):
        (folder / "b.jpg").write_bytes(picture())
        request = BuildRequest(
            ImageFolder(), str(tmp_path / "images"), str(tmp_path / f"out{most}"), KEEP, limits=Limits(scans=most)
        )
        assert build(request)["rejects"] == lost


def test_an_error_that_nobody_expects_is_a_reject_with_its_traceback_in_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "images/forest", tmp_path / "out"
    folder.mkdir(parents=True)
    for name in "abcd":
        (folder / f"{name}.jpg").write_bytes(picture())
    read_item, read_chip = ImageFolder.read_item, ImageFolder.read_chip

    def no_item(self: ImageFolder, root: str, item: Any) -> Any:
        if item.image.endswith("a.jpg"):
            raise RecursionError("of https://host/a.jpg?sig=SECRET")
        return read_item(self, root, item)

    def no_chip(self: ImageFolder, root: str, sample: Sample, *rest: Any) -> Any:
        if sample.path.endswith("b.jpg"):
            raise KeyError("chip")
        return read_chip(self, root, sample, *rest)

    request = BuildRequest(ImageFolder(shares="train=1"), str(tmp_path / "images"), str(out), KEEP)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFolder, "read_item", no_item)
        patch.setattr(ImageFolder, "read_chip", no_chip)
        dataset = build(request)
    assert dataset["rejects"] == {"unexpected": 2}
    log = (out / "rejects.log").read_text()
    assert log.count("Traceback") == 2
    assert "RecursionError" in log
    assert "KeyError: 'chip'" in log
    assert "SECRET" not in log
    assert validate.validate(str(out)).problems == ()


def test_json_that_is_nested_deep_is_a_reject(tmp_path: Path) -> None:
    paths = write_fmow_tree(tmp_path / "fmow")
    good = json.loads(paths[0].with_suffix(".json").read_text())
    for path, depth in zip(paths, (970, 5000), strict=False):
        deep: Any = "[" * depth + "]" * depth
        path.with_suffix(".json").write_text(json.dumps(good)[:-1] + f', "deep": {deep}, "bounding_boxes": {deep}}}')
    found = index("fmow", tmp_path / "fmow")
    assert len(found.rejects) == 2
    assert found.samples
    (tmp_path / "items").mkdir()
    for depth in (300, 500, 900, 970, 990, 2000):
        feature = '{"type": "Feature", "assets": ' + '{"a":' * depth + "1" + "}" * (depth + 1)
        (tmp_path / "items/a.json").write_text(feature)
        assert [reject.path for reject in index("stac", tmp_path / "items").rejects] == ["a.json"]
        (tmp_path / "all.json").write_text(f'{{"type": "FeatureCollection", "features": [{feature}]}}')
        with suppress(LayoutError):  # which says that it is nested too deep, where it cannot even be parsed
            assert [reject.path for reject in index("stac", tmp_path / "all.json").rejects] == ["all.json"]


def test_a_complex_raster_is_a_reject(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.full((3, 32, 32), 9, "complex64"))
    for stretch in ("none", "percentile", "minmax:0,9"):
        assert [reject.reason for reject in index("geotiff", tmp_path, stretch=stretch).rejects] == ["unscaled"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(web, "WAIT", 0.01)
    monkeypatch.setattr(web, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(web, "SILENCE", 0.3)
    store._connect.cache_clear()
    with serving() as running:
        yield running
    store._connect.cache_clear()


def busy(times: int, then: bytes, status: int) -> Answer:
    left = [times]

    def answer(handler: BaseHTTPRequestHandler) -> Answer | None:
        left[0] -= 1
        if left[0] < 0:
            return then
        handler.send_response(status)
        handler.send_header("Retry-After", "100")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return None

    return answer


def short(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(picture()[:100])
    handler.close_connection = True


def silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.6)
    handler.close_connection = True


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_one_bad_answer_of_a_web_server_ends_no_build(server: Web, tmp_path: Path, kind: str, capfd: Any) -> None:
    good = picture()
    if kind == "tif":
        write_raster(tmp_path / "a.tif", pixels(np.random.default_rng(0), 32, 32, 3, 1, 255).astype(np.uint8))
        good = (tmp_path / "a.tif").read_bytes()
    answers: dict[str, Answer] = {
        "good": good, "500": 500, "403": 403, "429": 429, "404": 404, "short": short, "silent": silent,
        "loop": f"/loop.{kind}", "text": b"<html>", "busy": busy(2, good, 503), "limited": busy(3, good, 429),
    }  # fmt: skip
    server.answers |= {f"/{name}.{kind}": answer for name, answer in answers.items()}
    pd.DataFrame({"image": [server.url(f"/{name}.{kind}") for name in answers]}).to_csv(tmp_path / "table.csv")
    start = time.monotonic()
    source = SOURCES["table"](extra_columns="ignore", shares="train=1")
    dataset = build(BuildRequest(source, str(tmp_path / "table.csv"), str(tmp_path / "out"), KEEP))
    taken = 3 if kind == "jpg" else 1
    assert dataset["splits"]["train"]["samples"] >= taken
    assert dataset["splits"]["train"]["samples"] + sum(dataset["rejects"].values()) == len(answers)
    assert "unexpected" not in dataset["rejects"]
    assert time.monotonic() - start < 20
    assert sum(request.startswith("/500") for request in server.asked) % web.TRIES == 0
    assert sum(request.startswith("/403") for request in server.asked) <= 2
