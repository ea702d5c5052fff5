"""Builds from and to an S3 API, images fetched ahead, prefixes of JPEGs, manifests."""

import bz2
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.fmow_tree import write_fmow_tree
from helpers.toy_shards import write_toy_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from satmip_data.cli import commands
from satmip_data.execution.progress import Progress
from satmip_data.imagery import chips
from satmip_data.imagery import fetch as fetch_module
from satmip_data.imagery.fetch import ImageFile, fetch_image, read_ahead
from satmip_data.imagery.jpeg import END
from satmip_data.pipeline import recaption
from satmip_data.pipeline.build import build
from satmip_data.pipeline.journal import Journal
from satmip_data.pipeline.recaption import CaptionRewrite
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import Metadata, Sample, Window
from satmip_data.sources import SOURCES
from satmip_data.sources.base import ImageFiles, InvalidError, list_manifest
from satmip_data.storage.locations import list_files
from satmip_data.storage.store import IN_FLIGHT, Store
from satmip_data.validation import validate
from satmip_train.data.dataset import open_dataset
from satmip_train.errors import UsageError
from tests.data.archives.make import write_raster

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs", reason="the extra s3 is not installed")
moto_server = pytest.importorskip("moto.server", reason="moto is not installed")

SETTINGS = BuildSettings(samples_per_shard=5, size=32)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A local S3 server that every process of the test reaches by the usual variables; yields the URL of a new bucket."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fmow")
    write_fmow_tree(root)
    return root


@pytest.fixture(scope="module")
def s3_tree(s3: str, tree: Path) -> str:
    fsspec.filesystem("s3").put(f"{tree}/", "bucket/fmow/", recursive=True)
    return f"{s3}/fmow"


@pytest.fixture(scope="module")
def local(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("local") / "shards"
    build(request(str(tree), str(out)))
    return contents(str(out))


def request(root: str, out: str, workers: int = 1) -> BuildRequest:
    return BuildRequest(SOURCES["fmow"](), root, out, SETTINGS, workers)


def contents(out: str) -> dict[str, bytes]:
    """Every file but the one that names the source's root."""
    store = Store(out)
    return {name: store.read(name) for name in store.names() if name != "dataset.json"}


def test_a_build_from_s3_to_s3_gives_the_bytes_of_a_local_one(s3: str, s3_tree: str, local: dict[str, bytes]) -> None:
    dataset = build(request(s3_tree, f"{s3}/same", workers=2))
    assert contents(f"{s3}/same") == local
    sealed = json.loads(Store(f"{s3}/same").read("dataset.json"))
    assert sealed == {**dataset, "sha256": sealed["sha256"]}
    assert validate.validate(f"{s3}/same").problems == ()


def test_an_interrupted_build_on_s3_is_finished(s3: str, s3_tree: str, local: dict[str, bytes]) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "pack" and progress.done == 3:
            raise KeyboardInterrupt

    out = f"{s3}/interrupted"
    with pytest.raises(KeyboardInterrupt):
        build(request(s3_tree, out), stop)
    modified = {name: fsspec.filesystem("s3").modified(f"bucket/interrupted/{name}") for name in tars(out)}
    assert len(modified) == 3
    build(request(s3_tree, out))
    assert contents(out) == local
    assert {name: fsspec.filesystem("s3").modified(f"bucket/interrupted/{name}") for name in modified} == modified


def tars(out: str) -> list[str]:
    return [name for name in Store(out).names() if name.endswith(".tar")]


def test_a_command_killed_on_s3_is_finished_by_the_same_command(s3: str, s3_tree: str, local: dict[str, bytes]) -> None:
    out = f"{s3}/killed"
    arguments = ["build", s3_tree, out, "--size", "32", "--samples-per-shard", "5", "--workers", "1"]
    command = [sys.executable, "-c", "from satmip_data.cli.commands import main; main()", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(tars(out)) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert contents(out) == local


def test_caption_and_inspect_on_s3(s3: str, s3_tree: str, tmp_path: Path) -> None:
    out = f"{s3}/captioned"
    build(request(s3_tree, out))
    recaption.recaption(out, CaptionRewrite(("location",), "sentence"))
    assert validate.validate(out).problems == ()
    run = CliRunner().invoke(commands.main, ["inspect", out, "--sheet", str(tmp_path / "sheet.png")])
    assert run.exit_code == 0, run.output
    assert "location, sentence" in run.output
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 32


def test_errors_on_s3_are_advice(s3: str) -> None:
    run = CliRunner().invoke(commands.main, ["validate", f"{s3}/nothing-here"])
    assert run.exit_code == 1
    assert "Make it with: satmip-data build" in run.output
    run = CliRunner().invoke(commands.main, ["build", f"{s3}/nothing-here", f"{s3}/out"])
    assert run.exit_code == 1
    assert "holds no fMoW" in run.output


def test_nothing_of_a_failed_upload_is_visible(s3: str) -> None:
    store = Store(f"{s3}/uploads")

    def fail() -> None:
        with store.staging("half.tar") as staged:
            staged.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert not store.exists("half.tar")
    with store.staging("whole.tar") as staged:
        staged.write_bytes(b"whole")
        assert not store.exists("whole.tar")
    assert store.read("whole.tar") == b"whole"
    assert store.sizes() == {"whole.tar": 5}


def test_a_journal_lists_no_remote_destination(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "sizes", lambda *_: pytest.fail("a listing"))
    Journal(Store(f"{s3}/journal"), ".build").begin({"a": 1})


@pytest.mark.parametrize("form", [str, lambda path: {"key": path}])
def test_a_manifest_lists_what_a_listing_does(s3_tree: str, tree: Path, form: object) -> None:
    paths = [path for path in list_files(str(tree)) if not path.startswith("manifest")]
    Store(s3_tree).write("manifest.json.bz2", bz2.compress(json.dumps([form(p) for p in paths]).encode()))  # type: ignore[operator]
    try:
        assert sorted(list_manifest(s3_tree)) == sorted(paths)
    finally:
        Store(s3_tree).remove("manifest.json.bz2")


@pytest.mark.parametrize("data", [b"no bzip2", bz2.compress(b"{"), bz2.compress(b'[{"path": "a"}]'), bz2.compress(b"[]")[:-4]])
def test_a_manifest_of_another_form_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest.json.bz2").write_bytes(data)
    with pytest.raises(InvalidError, match="no list of paths"):
        list_manifest(str(tmp_path))


def test_prefixes_save_bytes_and_change_nothing(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in write_fmow_tree(tmp_path / "fmow", places=3, images=2):
        record = json.loads(path.with_suffix(".json").read_text())
        for box in record["bounding_boxes"]:
            box["box"] = [5, 3, 20, 12]
        path.with_suffix(".json").write_text(json.dumps(record))
    fsspec.filesystem("s3").put(f"{tmp_path}/fmow/", "bucket/high/", recursive=True)
    build(request(str(tmp_path / "fmow"), str(tmp_path / "shards")))
    monkeypatch.setattr(fetch_module, "LARGE", 1)
    seen: list[Progress] = []
    build(request(f"{s3}/high", f"{s3}/prefixes"), seen.append)
    assert contents(f"{s3}/prefixes") == contents(str(tmp_path / "shards"))
    sizes = sum(path.stat().st_size for path in tmp_path.glob("fmow/**/*.jpg"))
    assert seen[-1].saved > 0.15 * sizes


# --- prefixes, without a server ---


class Bytes(Store):
    """A store of one file that counts what is read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__("memory://")
        object.__setattr__(self, "content", data)

    __slots__ = ("content",)

    def size(self, name: str) -> int:
        return len(self.content)

    def read(self, name: str) -> bytes:
        return self.content

    def read_range(self, name: str, start: int, end: int) -> bytes:
        return self.content[start:end]


def sample(width: int, height: int, window: Window, path: str = "a.jpg", key: str = "key") -> Sample:
    return Sample(key, "train", "p", None, path, width, height, window, Metadata(), Metadata(), None)


def jpeg(width: int, height: int, seed: int, top_heavy: bool, **options: object) -> bytes:
    """A picture whose top or bottom takes nearly all the bytes of the file."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128, np.uint8)
    half = slice(0, height // 2) if top_heavy else slice(height // 2, height)
    pixels[half] = rng.integers(1, 255, pixels[half].shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **options)  # type: ignore[arg-type]
    return stream.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), seed=st.integers(0, 9), top_heavy=st.booleans(), progressive=st.booleans(),
    subsampling=st.sampled_from([0, 1, 2]), quality=st.sampled_from([30, 75, 95]),
)  # fmt: skip
def test_a_prefix_gives_the_pixels_of_the_whole(
    data: st.DataObject, seed: int, top_heavy: bool, progressive: bool, subsampling: int, quality: int
) -> None:
    width, height = data.draw(st.integers(8, 90)), data.draw(st.integers(8, 120))
    x, y = data.draw(st.integers(0, width - 4)), data.draw(st.integers(0, height - 4))
    window = Window(x, y, data.draw(st.integers(4, width - x)), data.draw(st.integers(4, height - y)))
    content = jpeg(width, height, seed, top_heavy, progressive=progressive, subsampling=subsampling, quality=quality)
    one = sample(width, height, window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch_module, "LARGE", 1)
        image = fetch_image(Bytes(content), one)
    expected = chips.read_chip(content, window, (16, 16), (width, height))
    assert ImageFiles().chip_of(image, one, (16, 16), 10**6).tobytes() == expected.tobytes()
    assert image.fetched <= len(content) + len(END)


def test_a_prefix_suffices_for_an_even_picture() -> None:
    noise = np.random.default_rng(0).integers(1, 255, (400, 300, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    one = sample(300, 400, Window(20, 60, 100, 140))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch_module, "LARGE", 1)
        image = fetch_image(Bytes(stream.getvalue()), one)
    ImageFiles().chip_of(image, one, (32, 32), 10**6)
    assert not image.whole
    assert image.fetched == pytest.approx((232 / 400 + 0.1) * image.size, rel=0.01)  # the last row is 200


@pytest.mark.parametrize("keep", [0.9, 0.7, 0.3])
def test_a_truncated_file_is_refused_although_its_prefix_would_do(keep: float) -> None:
    content = jpeg(200, 200, 0, top_heavy=True)
    content = content[: int(len(content) * keep)]
    one = sample(200, 200, Window(0, 0, 40, 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch_module, "LARGE", 1)
        image = fetch_image(Bytes(content), one)
    with pytest.raises(chips.ImageError, match="truncated"):
        ImageFiles().chip_of(image, one, (16, 16), 10**6)


def test_small_images_and_other_formats_take_one_request() -> None:
    content = jpeg(200, 200, 0, top_heavy=False)
    low = Window(0, 0, 40, 40)
    assert fetch_image(Bytes(content), sample(200, 200, low)).whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch_module, "LARGE", 1)
        assert fetch_image(Bytes(content), sample(200, 200, low, "a.png")).whole
        assert fetch_image(Bytes(content), sample(200, 200, Window(0, 150, 40, 40))).whole
        assert not fetch_image(Bytes(content), sample(200, 200, low)).whole


# --- reading ahead ---


def image_of(size: int) -> ImageFile:
    return ImageFile(Bytes(b""), "a", size, bytes(size), size)


def test_reading_ahead_keeps_the_order_and_has_many_requests_in_flight() -> None:
    together = threading.Barrier(IN_FLIGHT, timeout=30)
    samples = [sample(10, 10, Window(0, 0, 5, 5), key=str(i)) for i in range(3 * IN_FLIGHT)]

    def fetch(one: Sample) -> ImageFile:
        together.wait()  # passes only when so many fetch at the same time
        return image_of(int(one.key) + 1)

    seen = [(one.key, image.result().size) for one, image in read_ahead(fetch, samples)]
    assert seen == [(str(i), i + 1) for i in range(len(samples))]


def test_reading_ahead_holds_a_bounded_number_of_bytes() -> None:
    lock, held, most = threading.Lock(), 0, 0
    samples = [sample(10, 10, Window(0, 0, 5, 5), key=str(i)) for i in range(40)]

    def fetch(one: Sample) -> ImageFile:
        nonlocal held, most
        with lock:
            held += 300
            most = max(most, held)
        return image_of(300)

    for one, image in read_ahead(fetch, samples, ahead_bytes=1000):
        assert image.result().size == 300, one
        with lock:
            held -= 300
    assert 600 <= most <= 1200  # those ahead, and the one in hand
    huge = [replace(one, scene_width=10**6) for one in samples[:3]]  # each beyond the bound: one after the other
    assert len(list(read_ahead(fetch, huge, ahead_bytes=1000))) == 3


def test_reading_ahead_passes_errors_on_and_stops_when_left() -> None:
    samples = [sample(10, 10, Window(0, 0, 5, 5), key=str(i)) for i in range(500)]
    asked: list[str] = []

    def fetch(one: Sample) -> ImageFile:
        asked.append(one.key)
        if one.key == "1":
            raise chips.ImageError("image_unreadable", "gone")
        return image_of(1)

    images: Iterator[tuple[Sample, Future[ImageFile]]] = read_ahead(fetch, samples)
    assert next(images)[1].result().size == 1
    with pytest.raises(chips.ImageError, match="gone"):
        next(images)[1].result()
    images.close()  # type: ignore[attr-defined]
    assert len(asked) <= IN_FLIGHT + 2


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("foo://bucket/shards", r"foo://bucket/shards: Protocol not known: foo\. Check the URL"),
        ("s3://no-such-bucket/shards", "no folder s3://no-such-bucket/shards"),
    ],
)
def test_training_on_a_url_that_leads_nowhere_gives_advice(s3: str, url: str, advice: str) -> None:
    with pytest.raises(UsageError, match=advice):
        open_dataset(url)


def test_training_without_a_server_gives_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "ENDPOINT_URL": "http://127.0.0.1:9", "MAX_ATTEMPTS": "1"}
    for name, value in nowhere.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    connections = fsspec.get_filesystem_class("s3")
    connections.clear_instance_cache()  # those to the other tests' server
    with pytest.raises(UsageError, match=r"s3://bucket/shards: .* AWS_ENDPOINT_URL"):
        open_dataset("s3://bucket/shards")
    connections.clear_instance_cache()


def test_a_remote_shard_that_was_removed_gives_advice(s3: str, tmp_path: Path) -> None:
    local, files = write_toy_shards(tmp_path / "toy", {"train": 8}, shards=2, size=(24, 24)), fsspec.filesystem("s3")
    files.put(f"{local}/", "bucket/holed/", recursive=True)
    files.rm("bucket/holed/train/000001.tar")
    dataset = open_dataset(f"{s3}/holed", tmp_path / "cache")
    with pytest.raises(UsageError, match=r"holed/train/000001.tar: "):
        dataset.fetch("train")


def test_a_key_with_two_slashes_is_that_key(s3: str, tmp_path: Path) -> None:
    """It was looked for on the local disk."""
    write_raster(tmp_path / "a.tif", np.full((3, 16, 16), 9, np.uint8))
    for key in ("//forest/a.tif", "/forest//b.tif", "/forest/b.tif"):
        fsspec.filesystem("s3").pipe(f"bucket/slashes{key}", (tmp_path / "a.tif").read_bytes())
    for source in ("geotiff", "imagefolder"):
        dataset = build(BuildRequest(SOURCES[source](shares="train=1"), f"{s3}/slashes", str(tmp_path / source), SETTINGS))
        assert dataset["splits"]["train"]["samples"] == 3
        assert dataset["rejects"] == {}
