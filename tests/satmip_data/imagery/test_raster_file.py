"""Rasters are GeoTIFF and JPEG 2000 by their bytes, and lead to no other file and to no server."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from satmip_data.execution.engines import Local
from satmip_data.imagery.chips import ImageError
from satmip_data.imagery.raster_file import open_raster
from satmip_data.pipeline.index import build_index
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.sources.geotiff import GeoTiff
from satmip_data.storage.store import Store
from satmip_train.data.image_files import parse_rendering, read_picture
from satmip_train.errors import UsageError

PLACE = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """The URL of a local server, then every path that it was asked for."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    seen.append(f"http://127.0.0.1:{server.server_port}")
    yield seen
    server.shutdown()
    server.server_close()


def write(path: Path, value: int = 9, **profile: object) -> Path:
    shape = {"driver": "GTiff", "count": 3, "height": 80, "width": 80, "dtype": "uint8"}
    with rasterio.open(path, "w", **{**shape, **PLACE, **profile}) as file:
        file.write(np.full((3, 80, 80), value, np.uint8))
    return path


def vrt(source: object, side: int = 80) -> str:
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename>{source}</SourceFilename></SimpleSource>'
        "</VRTRasterBand>"
        for band in (1, 2, 3)
    )
    return f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}">{bands}</VRTDataset>'


def wms(url: str) -> str:
    window = "<DataWindow><SizeX>80</SizeX><SizeY>80</SizeY></DataWindow>"
    return f'<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{x}}</ServerUrl></Service>{window}</GDAL_WMS>'


def lure(kind: str, folder: Path, url: str) -> None:
    """Write a.tif that leads to a secret file, or to a server."""
    secret, path = write(folder / "secret", 77), folder / "in/a.tif"
    path.parent.mkdir()
    if kind == "vrt":
        path.write_text(vrt(secret))
    elif kind == "vrt to a server":
        path.write_text(vrt(f"/vsicurl/{url}/a.tif"))
    elif kind == "wms":
        path.write_text(wms(url))
    elif kind == "tag":
        with rasterio.open(write(path), "r+") as file:
            file.update_tags(ns="OVERVIEWS", overview_file=f"/vsicurl/{url}/a.tif")
    elif kind == "aux":
        tag = f'<MDI key="OVERVIEW_FILE">/vsicurl/{url}/a.tif</MDI>'
        Path(f"{write(path)}.aux.xml").write_text(f'<PAMDataset><Metadata domain="OVERVIEWS">{tag}</Metadata></PAMDataset>')
    elif kind == "deep":
        for depth in range(3):
            write(Path(str(path) + ".ovr" * depth), height=80 >> depth, width=80 >> depth)
        Path(f"{path}.ovr.ovr.ovr").write_text(vrt(secret, 10))
    else:
        Path(f"{write(path)}{kind}").write_text(vrt(secret, 40 if kind.lower() == ".ovr" else 80))


LURES = ["vrt", "vrt to a server", "wms", "tag", "aux", "deep", ".ovr", ".OVR", ".msk", ".MSK"]


@pytest.mark.parametrize("kind", LURES)
def test_nothing_else_is_opened(kind: str, tmp_path: Path, asked: list[str]) -> None:
    lure(kind, tmp_path, asked[0])
    index = build_index(GeoTiff(stretch="percentile"), str(tmp_path / "in"), BuildSettings(size=None), Local())
    assert (index.samples, [reject.reason for reject in index.rejects]) == ((), ["image_unreadable"])
    with pytest.raises(UsageError, match=r"a\.tif"):
        read_picture(tmp_path / "in/a.tif", parse_rendering("auto", "percentile"))
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "in"), f"/{tmp_path.name}", recursive=True)  # as in an archive, or in a bucket
    with pytest.raises(ImageError), open_raster(Store(f"memory://{tmp_path.name}"), "a.tif"):
        pass
    assert asked[1:] == []


def test_paths_of_gdals_own_are_refused(tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.tif")
    monkeypatch.chdir(tmp_path)
    for folder, name in ((f"/vsicurl/{asked[0]}", "a.tif"), ("/vsizip/a.zip", "a.tif"), (".", "GTIFF_DIR:1:a.tif")):
        with pytest.raises(ImageError), open_raster(Store(folder), name):
            pass
    assert asked[1:] == []


def test_rasters_with_files_of_their_own_are_read(tmp_path: Path) -> None:
    plain, path = write(tmp_path / "plain.tif", 9), tmp_path / "a.tif"
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write(path, 9, BIGTIFF="YES", ENDIANNESS="BIG", crs=None, transform=None)
    write(Path(f"{path}.ovr"), 200, height=20, width=20)
    with rasterio.open(plain) as file:
        place = f"<SRS>{file.crs.to_wkt()}</SRS><GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>"
    Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{place}</PAMDataset>")
    write(tmp_path / "a.jp2", 9, driver="JP2OpenJPEG")
    for name, shown in (("a.tif", 200), ("a.jp2", 9), ("plain.tif", 9)):
        with open_raster(Store(str(tmp_path)), name) as file:
            assert file.crs.to_epsg() == 32632
            assert file.read(1, out_shape=(20, 20)).max() == shown  # of the overview, where there is one
