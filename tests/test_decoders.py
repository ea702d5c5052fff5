"""Whoever decodes, the pixels of a window and the verdict on a broken file are Pillow's."""

import importlib.util
import io
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_imagery import jpeg, jpegs, picture

from satmip_data import decoders, imagery
from satmip_data.cli import main
from satmip_data.imagery import ImageError
from satmip_data.records import Window

needs_simplejpeg = pytest.mark.skipif(importlib.util.find_spec("simplejpeg") is None, reason="simplejpeg is not installed")
FAST = [pytest.param("simplejpeg", marks=needs_simplejpeg)]
OPTIONS = [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"optimize": True}]


def chip(decoder: str, data: bytes, window: Window, size: tuple[int, int]) -> np.ndarray | tuple[str, str]:
    """The window at its own size; of a file that gives none, the error's code and words."""
    with decoders.using(decoder):
        try:
            return np.asarray(imagery.read_chip(data, window, (window.width, window.height), size))
        except ImageError as error:
            return error.reason, str(error)


def same(first: np.ndarray | tuple[str, str], second: np.ndarray | tuple[str, str]) -> bool:
    if isinstance(first, tuple) or isinstance(second, tuple):
        return isinstance(first, tuple) and first == second
    return np.array_equal(first, second)


def corners(width: int, height: int) -> list[Window]:
    """Windows at the corners, in the middle, and all of the image."""
    w, h = max(1, width // 3), max(1, height // 3)
    places = [(0, 0), (width - w, 0), (0, height - h), (width - w, height - h), (w // 2, h // 2)]
    return [*(Window(x, y, w, h) for x, y in places), Window(0, 0, width, height)]


@pytest.mark.parametrize("decoder", FAST)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["L", "4:4:4", "4:2:2", "4:2:0"])
def test_windows_are_those_of_pillows_full_decode(decoder: str, kind: str, options: dict[str, object]) -> None:
    for width, height in ((1, 1), (16, 16), (17, 33), (97, 131), (200, 64)):
        image = picture(width, height, width, "L" if kind == "L" else "RGB")
        data = jpeg(image, **options, **({} if kind == "L" else {"subsampling": kind}))
        whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        for window in corners(width, height):
            expected = whole[window.y : window.y + window.height, window.x : window.x + window.width]
            assert np.array_equal(chip(decoder, data, window, image.size), expected)


@pytest.mark.parametrize("decoder", FAST)
@given(jpegs())
@settings(max_examples=150, deadline=None)
def test_any_jpeg_and_window(decoder: str, case: tuple[bytes, Image.Image, Window]) -> None:
    data, image, window = case
    assert same(chip(decoder, data, window, image.size), chip("pillow", data, window, image.size))


@pytest.mark.parametrize("decoder", FAST)
@given(
    st.sampled_from(["4:4:4", "4:2:0"]),
    st.sampled_from(OPTIONS),
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([b"\xff\xe1", b"\xff\xd9", b"\xff\xc0", b"\xff\xd3", b"\x00", b"\x5a"]))),
    st.integers(0, 3000),
    st.integers(1, 96),
)
@settings(max_examples=250, deadline=None)
def test_a_broken_file_has_pillows_verdict(
    decoder: str, subsampling: str, options: dict[str, object], wounds: list[tuple[float, bytes]], missing: int, bottom: int
) -> None:
    """Bytes replaced anywhere behind the header's start, the end cut off or not."""
    data = bytearray(jpeg(picture(64, 96), subsampling=subsampling, **options))
    for place, wound in wounds:
        position = 2 + int(place * (len(data) - 6))
        data[position : position + len(wound)] = wound
    broken = bytes(data[: len(data) - missing] if missing < 1000 else data)
    window = Window(0, 0, 64, bottom)
    assert same(chip(decoder, broken, window, (64, 96)), chip("pillow", broken, window, (64, 96)))


@needs_simplejpeg
def test_which_files_are_decoded_fast() -> None:
    image = picture(64, 96)
    for data in (jpeg(image), jpeg(image.convert("L")), jpeg(image, progressive=True), jpeg(image, subsampling="4:2:2")):
        assert decoders.decode_fast(data, cut=False) is not None
        with decoders.using("pillow"):
            assert decoders.decode_fast(data, cut=False) is None
    cut = imagery.cut_below(jpeg(image), 20)
    assert decoders.decode_fast(cut, cut=True) is not None
    assert decoders.decode_fast(cut, cut=False) is None
    restarts = imagery.cut_below(jpeg(image, restart_marker_rows=1), 20)
    assert decoders.decode_fast(restarts, cut=True) is None
    arithmetic, deep, tall = (bytearray(jpeg(image)) for _ in range(3))
    frame = arithmetic.index(b"\xff\xc0")
    arithmetic[frame + 1], deep[frame + 4], tall[frame + 11] = 0xC9, 12, 0x12
    for data in (
        bytes(arithmetic),
        bytes(deep),
        bytes(tall),
        jpeg(image.convert("CMYK")),
        jpeg(image)[:-300],
        b"",
        b"\xff\xd8\xff",
    ):
        assert decoders.decode_fast(data, cut=False) is None


@needs_simplejpeg
def test_a_simplejpeg_with_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import simplejpeg

    def careless(data: bytes, colorspace: str, buffer: np.ndarray, **options: object) -> None:
        buffer[:] = 0

    decoders._simplejpeg_is_exact.cache_clear()
    monkeypatch.setattr(simplejpeg, "decode_jpeg", careless)
    try:
        assert decoders.decode_fast(jpeg(picture(64, 96)), cut=False) is None
        assert decoders.decoder_info()["name"] == "Pillow"
        with pytest.raises(decoders.DecoderError, match="must give Pillow's pixels, however"):
            decoders.check("simplejpeg")
    finally:
        decoders._simplejpeg_is_exact.cache_clear()


def test_without_simplejpeg_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders._simplejpeg_is_exact.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    try:
        assert decoders.decode_fast(jpeg(picture(64, 96)), cut=False) is None
        assert decoders.decoder_info("auto") == decoders.decoder_info("pillow")
        decoders.check("auto")
        with pytest.raises(decoders.DecoderError, match=r"pip install 'satmip\[fast\]'"):
            decoders.check("simplejpeg")
    finally:
        decoders._simplejpeg_is_exact.cache_clear()


def test_a_decoder_that_is_not_there_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["build", str(tmp_path / "in"), str(tmp_path / "out"), "--decoder", "simplejpeg"])
    assert result.exit_code == 1
    assert "Type: pip install 'satmip[fast]'" in result.output


def test_the_decoder_is_named_with_its_version() -> None:
    info = decoders.decoder_info("pillow")
    assert info["name"] == "Pillow"
    assert "libjpeg" in info["version"]


@needs_simplejpeg
def test_the_faster_decoder_is_named_with_pillow_beside_it() -> None:
    import simplejpeg

    pillow = decoders.decoder_info("pillow")["version"]
    assert decoders.decoder_info() == {"name": "simplejpeg", "version": simplejpeg.__version__, "otherwise": f"Pillow {pillow}"}


@pytest.mark.real
@pytest.mark.parametrize("decoder", FAST)
def test_a_real_image_of_fmow(decoder: str) -> None:
    if "SATMIP_REAL_DATA" not in os.environ:
        pytest.skip("SATMIP_REAL_DATA is not set")
    data = (Path(os.environ["SATMIP_REAL_DATA"]) / "fmow" / "airport_0_0_msrgb.jpg").read_bytes()
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    height, width = whole.shape[:2]
    for window in corners(width, height):
        expected = whole[window.y : window.y + window.height, window.x : window.x + window.width]
        assert np.array_equal(chip(decoder, data, window, (width, height)), expected)
