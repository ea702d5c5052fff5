"""What data say runs, reads and sends nothing; what a listing says is a name; and no secret of a URL is written anywhere."""

import io
import json
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.web import Web, serving
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from satmip_data.cli import commands
from satmip_data.names import unsigned, without_secrets
from satmip_data.pipeline.build import build
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.shards.tar import read_samples
from satmip_data.sources import SOURCES
from satmip_data.storage.locations import REMOTE, OutsideError, list_files, locate
from satmip_data.storage.parquet import read_parquet
from satmip_data.storage.store import Store
from tests.data.archives.make import stac_item, write_class_folders

GREEN, RED = (10, 250, 10), (250, 10, 10)
SECRET = "hunter2SECRET"
PARAMETERS = (
    "sig={}", "X-Amz-Signature={}", "x-amz-security-token={}", "AWSAccessKeyId={}", "access_token={}", "id=5", "key={}",
    "apikey={}", "Signature={}~", "X-Goog-Credential={}%2F", "se=2030", "password={}",
)  # fmt: skip


def jpeg(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        web.answers |= {"/Forest/red.jpg": jpeg(RED), "/red.jpg": jpeg(RED)}
        yield web


def pixel_colours(out: Path) -> set[str]:
    """Return which of the two colours the chips have."""
    found = set()
    for path in out.rglob("*.tar"):
        for _, members in read_samples(path.read_bytes()):
            red, green, _ = np.asarray(Image.open(io.BytesIO(members["jpg"]))).mean(axis=(0, 1))
            found.add("red" if red > green else "green")
    return found


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("source", ["table", "stac"])
def test_what_data_say_asks_no_server_by_another_protocol(web: Web, tmp_path: Path, source: str, dry_run: bool) -> None:
    write_class_folders(tmp_path, ("River",), 1)
    (tmp_path / "away").mkdir()
    (tmp_path / "away/a.jpg").write_bytes(jpeg(RED))
    (tmp_path / "source").mkdir()
    bad = [
        f"reference::{web.url('/red.jpg')}", f"reference://red.jpg::{web.url('/red.jpg')}", f"simplecache::{web.url('/red.jpg')}",
        f"zip://a.jpg::{web.url('/red.jpg')}", "ftp://127.0.0.1/a.jpg", "github://a:b@main/a.jpg", "memory://a/a.jpg",
        f"{tmp_path}/away/a.jpg", f"file://{tmp_path}/away/a.jpg", "../away/a.jpg", f"/vsicurl/{web.url('/a.tif')}",
        "image/../../away/a.jpg", "local:///etc/a.jpg", "data:::a.jpg",
    ]  # fmt: skip
    (tmp_path / "source/good.jpg").write_bytes(jpeg(GREEN))
    named = ["good.jpg", *([f"file://{tmp_path}/source/good.jpg"] if source == "stac" else []), *bad]
    if source == "table":
        (tmp_path / "source/table.csv").write_text("image\n" + "\n".join(named) + "\n")
    else:
        items = [stac_item(number, {"href": name}) for number, name in enumerate(named)]
        (tmp_path / "source/items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    root = tmp_path / "source" / ("table.csv" if source == "table" else "items.json")
    arguments = ["build", str(root), str(tmp_path / "out"), "--source", source, "--size", "keep", "--shares", "train=1"]
    run = CliRunner().invoke(commands.main, [*arguments, *["--dry-run"] * dry_run])
    assert run.exit_code == 0, run.output
    assert web.asked == []
    assert f"{len(bad)}" in run.output
    if not dry_run:
        assert json.loads((tmp_path / "out/dataset.json").read_text())["rejects"] == {"image_outside": len(bad)}
        assert pixel_colours(tmp_path / "out") == {"green"}


@given(
    st.text(st.sampled_from("ab:/.%\\é~ "), max_size=12),
    st.sampled_from(["", "/", "../", "file://", "s3://", "reference://", "x::"]),
)
def test_what_data_say_lies_below_the_source_or_at_a_known_protocol(text: str, start: str) -> None:
    try:
        store, name = locate("/data/source", start + text)
    except OutsideError:
        return
    protocol = store.url.partition("://")[0]
    assert "::" not in store.url or "://" not in store.url
    assert protocol in REMOTE or os.path.normpath(f"{store.url}/{name}").startswith("/data/source")


def test_a_folder_may_have_a_name_with_colons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_class_folders(Path("scenes::v2"), ("River",), 2, suffix="png")
    for root in ("scenes::v2", str(tmp_path / "scenes::v2")):
        assert list_files(root) == list_files("scenes::v2")
        assert len(list_files(root)) == 2
    with pytest.raises(OSError, match="scenes::v3"):
        Store("scenes::v3").exists()


@pytest.mark.parametrize("name", ["absolute", "url", "up", "windows"])
def test_a_member_of_a_zip_is_that_member_whatever_its_name(web: Web, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside/Forest/red.jpg"
    outside.parent.mkdir(parents=True)
    outside.write_bytes(jpeg(RED))
    (tmp_path / "red.jpg").write_bytes(jpeg(RED))
    member = {
        "absolute": str(outside),
        "url": web.url("/Forest/red.jpg"),
        "up": "Forest/../../outside/Forest/red.jpg",
        "windows": "C:\\Forest\\red.jpg",
    }[name]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("Forest/green.jpg", jpeg(GREEN))
        info = zipfile.ZipInfo("x")
        info.filename = member
        archive.writestr(info, jpeg(GREEN))
    request = BuildRequest(
        SOURCES["imagefolder"](shares="train=1"), str(tmp_path / "a.zip"), str(tmp_path / "out"), BuildSettings(size=None)
    )
    dataset = build(request)
    assert pixel_colours(tmp_path / "out") == {"green"}
    assert dataset["splits"]["train"]["samples"] + sum(dataset["rejects"].values()) == 2
    assert web.asked == []


def test_a_key_of_a_bucket_with_two_slashes_is_that_key() -> None:
    bucket = Store("memory://slashes/data")
    bucket.write("/forest/0.jpg", jpeg(GREEN))
    bucket.write("forest/1.jpg", jpeg(RED))
    (name,) = [name for name in list_files("memory://slashes/data") if name.endswith("0.jpg")]
    assert bucket.read(name) == jpeg(GREEN)


def test_no_name_of_a_listing_leads_out_of_a_folder(tmp_path: Path) -> None:
    """Such as one of the manifest of an archive, or of a shard in its dataset.json."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out.txt").write_text("secret")
    store = Store(str(tmp_path / "in"))
    for name in ("../out.txt", f"a/../../{tmp_path.name}/out.txt", str(tmp_path / "out.txt")):
        with pytest.raises(OSError, match=r"out\.txt"):
            store.read(name)
    with pytest.raises(OSError, match="leads out"):
        store.write("../new.txt", b"")


@given(
    st.sampled_from(["http", "https", "s3", "ftp", "HTTPS"]),
    st.sampled_from(["{}@", "me:{}@", "me:x@{}@", "me:{}/x@", ""]),
    st.sampled_from(["/a.tif", "/get", "/a@2x.jpg", "/dir/table.csv"]),
    st.lists(st.sampled_from(PARAMETERS), max_size=3),
    st.sampled_from(["{}", "cannot open '{}'", "ClientResponseError: 403, url='{}'", "URL('{}')", "reading zip://a::{} failed"]),
)  # fmt: skip
def test_no_secret_of_a_url_is_in_a_message(protocol: str, user: str, path: str, query: list[str], message: str) -> None:
    user = user if protocol.lower().startswith("http") or ":" in user else ""
    url = f"{protocol}://{user}host:80{path}" + ("?" + "&".join(query) if query else "")
    for text in (without_secrets(message.format(url.replace("{}", SECRET))), unsigned(url.replace("{}", SECRET))):
        assert SECRET not in text
        assert f"host:80{path}" in text
        assert without_secrets(text) == text
    assert without_secrets(f"{protocol}://host:80{path}") == f"{protocol}://host:80{path}"


def test_no_secret_is_written_wherever_it_was_typed_or_read(web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the source, its lists, cells of a table, redirects and the errors of whoever fetches."""
    caplog.set_level(logging.INFO)
    user, query = f"me:{SECRET}@", f"?sv=1&sig={SECRET}"
    images = [
        "a.jpg", web.url(f"/b.jpg{query}", user), web.url(f"/get{query}"), web.url(f"/moved.jpg{query}"),
        web.url(f"/lost.jpg{query}", user), f"ftp://me:{SECRET}@127.0.0.1/c.jpg", f"/d.jpg?X-Amz-Signature={SECRET}",
        f"reference::{web.url(query, user)}", web.url(f"/text.jpg{query}"),
    ]  # fmt: skip
    web.answers |= {
        "/a.jpg": jpeg(RED), "/b.jpg": jpeg(RED), "/get": jpeg(GREEN), "/text.jpg": b"text",
        "/moved.jpg": f"/no.jpg{query}", "/no.jpg": 403,
        "/table.csv": ("image,key\n" + "".join(f"{image},\n" for image in images)).encode(),
        "/lists.txt": "".join(f"{image} train\n" for image in images).encode(),
    }  # fmt: skip
    out, outputs = tmp_path / "out", []
    table, lists = web.url("/table.csv", user), web.url("/lists.txt", user)
    for source, split_file, more in (
        (table, lists, []), (table, lists, ["--quality", "90"]), (table, lists, ["--dry-run"]), (table, lists, []),
        (web.url(f"/none.csv{query}", user), lists, []), (table, web.url(f"/none.txt{query}", user), ["--dry-run"]),
        (table, lists, ["--max-rejects", "0", f"memory://me:{SECRET}@host/out{query}"]),
    ):  # fmt: skip
        folder = [] if "--max-rejects" in more else [str(out)]
        arguments = ["build", source, *folder, "--source", "table", "--split-file", split_file, "--size", "32", "--workers", "1"]
        run = CliRunner().invoke(commands.main, [*arguments, *more])
        outputs.append(run.output)
        assert run.exception is None or isinstance(run.exception, SystemExit), run.exception
    run = CliRunner().invoke(
        commands.main, ["build", table, str(tmp_path / "fmow"), "--metadata", web.url(f"/truth.tar.bz2{query}", user)]
    )
    outputs += [run.output, caplog.text]
    dataset = json.loads((out / "dataset.json").read_text())
    assert dataset["splits"]["train"]["samples"] == 3
    assert sum(dataset["rejects"].values()) == len(images) - 3
    for path in filter(Path.is_file, out.rglob("*")):
        data = path.read_bytes()
        outputs.append(str(read_parquet(data).to_pylist()) if path.suffix == ".parquet" else data.decode("latin-1"))
    for text in outputs:
        assert SECRET not in text, text[max(0, text.index(SECRET) - 300) : text.index(SECRET) + 50]


def test_a_traceback_shows_no_secret_either() -> None:
    code = f"""
import click
from satmip_data.execution.interrupt import Commands
@click.group(cls=Commands)
def main(): pass
@main.command()
def fail(): raise KeyError("https://me:{SECRET}@host/a.tif?sig={SECRET}")
main(["fail"])
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "KeyError: 'https://host/a.tif" in shown.stderr
    assert SECRET not in shown.stderr.replace(code, "")
