"""Damage that Pillow and GDAL pass over, or tell by errors of their own, is a reject with a known reason."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio._err import CPLE_AppDefinedError

from satmip_data.imagery import chips, decoders, raster, raster_file
from satmip_data.imagery.chips import ImageError
from satmip_data.imagery.png import breaks_checksum
from satmip_data.records import Window
from satmip_data.storage.store import Store
from satmip_train.data.image_files import parse_rendering, read_picture
from satmip_train.errors import UsageError
from tests.data.archives.make import write_raster

SIZE = (24, 20)


def png(mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    values = np.random.default_rng(0).integers(1, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    Image.fromarray(values).convert(mode).save(stream, "PNG", **options)
    return stream.getvalue()


def read(data: bytes) -> np.ndarray:
    return np.asarray(chips.read_chip(data, Window(0, 0, *SIZE), SIZE, SIZE))


def with_other_pixels(whole: bytes) -> bytes:
    """A PNG with other coded pixels, whole in all but its checksum: Pillow reads it without a word."""
    start = whole.index(b"IDAT") + 4
    length = int.from_bytes(whole[start - 8 : start - 4], "big")
    rows = bytearray(zlib.decompress(whole[start : start + length]))
    rows[102] ^= 64
    packed = zlib.compress(bytes(rows), 0)
    end = start + length
    return whole[: start - 8] + len(packed).to_bytes(4, "big") + b"IDAT" + packed + whole[end : end + 4] + whole[end + 4 :]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_png_whose_checksum_does_not_fit_is_damaged(tmp_path: Path, mode: str) -> None:
    whole = png(mode)
    damaged = with_other_pixels(whole)
    assert not breaks_checksum(whole)
    assert breaks_checksum(damaged)
    with pytest.raises(ImageError, match="checksum") as refused:
        read(damaged)
    assert refused.value.reason == "image_damaged"
    with decoders.using("auto", keep_damaged=True) as reading:
        kept = read(damaged)
    assert "checksum" in reading.damage
    assert not np.array_equal(kept, read(whole))
    (tmp_path / "a.png").write_bytes(damaged)
    with pytest.raises(UsageError, match=r"a\.png are damaged"):
        read_picture(tmp_path / "a.png", parse_rendering("auto", "none"))


def test_parts_of_a_png_that_no_pixel_needs_may_be_anything() -> None:
    whole = png()
    text = b"tEXtnote\0mine"
    chunk = (len(text) - 4).to_bytes(4, "big") + text + b"\0\0\0\0"
    start = whole.index(b"IDAT") - 4
    assert not breaks_checksum(whole[:start] + chunk + whole[start:])
    assert not breaks_checksum(whole + b"what follows its end")
    assert breaks_checksum(whole[:-14])
    assert not breaks_checksum(b"")


def test_an_error_of_gdals_own_is_a_reject_of_a_known_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come through rasterio where a tag of a TIFF is damaged, and are not of its kind."""
    write_raster(tmp_path / "a.tif", np.full((3, 20, 24), 9, np.uint8))

    def fail(*_: object, **__: object) -> None:
        raise CPLE_AppDefinedError(3, 1, "Key 22 of unknown type.")

    store = Store(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(raster, "_header", fail)
        with pytest.raises(ImageError, match="Key 22") as refused:
            raster.read_header(store, "a.tif")
    assert refused.value.reason == "image_unreadable"
    with pytest.raises(KeyError, match="ours"), raster_file.open_raster(store, "a.tif"):  # a bug of ours is none of theirs
        raise KeyError("ours")
    assert rasterio.open(tmp_path / "a.tif").count == 3
