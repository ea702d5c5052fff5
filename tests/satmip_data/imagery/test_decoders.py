"""Whoever decodes, the pixels of a window and the verdict on a broken file are Pillow's."""

import io
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.pictures import jpeg, jpegs, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from satmip_data.cli.commands import main
from satmip_data.imagery import chips, decoders, turbojpeg
from satmip_data.imagery.chips import ImageError
from satmip_data.imagery.jpeg import read_frame, unbroken
from satmip_data.records import Window

HERE = {name: decoders._installed(name) for name in (*decoders.BOX_DECODERS, "simplejpeg")}
NEEDS = {name: pytest.mark.skipif(not here, reason=f"{name} is not installed") for name, here in HERE.items()}
FAST = [pytest.param(name, marks=mark) for name, mark in NEEDS.items()]
BOXES = [pytest.param(name, marks=NEEDS[name]) for name in decoders.BOX_DECODERS]
OPTIONS = [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"optimize": True}]


def chip(decoder: str, data: bytes, window: Window, size: tuple[int, int]) -> np.ndarray | tuple[str, str]:
    """The window at its own size; of a file that gives none, the error's code and words."""
    with decoders.using(decoder):
        try:
            return np.asarray(chips.read_chip(data, window, (window.width, window.height), size))
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


@pytest.mark.parametrize("decoder", BOXES)
@pytest.mark.parametrize("kind", ["L", "4:4:4", "4:2:2", "4:2:0"])
def test_boxes_with_an_edge_at_every_row_and_column(decoder: str, kind: str) -> None:
    image = picture(53, 50, 3, "L" if kind == "L" else "RGB")
    data = jpeg(image, **({} if kind == "L" else {"subsampling": kind}))
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    boxes = [(x, 7, 53, 23) for x in range(53)] + [(0, 18, x, 31) for x in range(1, 54)]
    boxes += [(11, y, 30, 50) for y in range(50)] + [(17, 0, 33, y) for y in range(1, 51)]
    boxes += [(x, y, x + 1, y + 1) for x in range(0, 53, 4) for y in range(0, 50, 3)]
    with decoders.using(decoder):
        for left, top, right, bottom in boxes:
            pixels = decoders.decode_fast(data, (left, top, right, bottom))
            assert pixels is not None
            assert np.array_equal(pixels, whole[top:bottom, left:right])


ORIENTED = Image.Exif()
ORIENTED[0x0112] = 6


@pytest.mark.parametrize("decoder", FAST)
def test_profiles_orientation_and_stored_rgb_change_nothing(decoder: str) -> None:
    image = picture(97, 64)
    dressings: list[dict[str, object]] = [
        {"exif": ORIENTED},
        {"icc_profile": b"\xff\xc0\x00\x11" * 40, "comment": b"\xff\xda\xff\xd9"},
        {"keep_rgb": True, "subsampling": "4:4:4"},
    ]
    for options in dressings:
        data = jpeg(image, **options)
        with decoders.using(decoder):
            assert decoders.decode_fast(data, (0, 0, 97, 64)) is not None
        for window in corners(97, 64):
            assert same(chip(decoder, data, window, image.size), chip("pillow", data, window, image.size))


@pytest.mark.parametrize("decoder", FAST)
def test_which_files_are_decoded_fast(decoder: str) -> None:
    image, box, above = picture(64, 96), (0, 0, 64, 96), (0, 0, 64, 20)
    with decoders.using(decoder):
        for data in (jpeg(image), jpeg(image.convert("L")), jpeg(image, subsampling="4:2:2")):
            assert decoders.decode_fast(data, box) is not None
            assert decoders.decode_fast(data, above) is not None
        arithmetic, deep, tall = (bytearray(jpeg(image)) for _ in range(3))
        frame = arithmetic.index(b"\xff\xc0")
        arithmetic[frame + 1], deep[frame + 4], tall[frame + 11] = 0xC9, 12, 0x12
        cmyk, short = jpeg(image.convert("CMYK")), jpeg(image)[:-300]
        for data in (bytes(arithmetic), bytes(deep), bytes(tall), cmyk, short, b"", b"\xff\xd8\xff"):
            assert decoders.decode_fast(data, box) is None
        assert decoders.decode_fast(jpeg(image), (0, 0, 65, 96)) is None
        assert decoders.decode_fast(jpeg(image), (0, 0, 64, 97)) is None
    with decoders.using("pillow"):
        assert decoders.decode_fast(jpeg(image), box) is None


@NEEDS["simplejpeg"]
def test_simplejpeg_decodes_progressive_files_and_no_restarts_below_a_cut() -> None:
    image = picture(64, 96)
    restarts = jpeg(image, restart_marker_rows=1)
    for name in ("simplejpeg", "auto"):
        with decoders.using(name):
            assert decoders.decode_fast(jpeg(image, progressive=True), (0, 0, 64, 20)) is not None
    with decoders.using("simplejpeg"):
        assert decoders.decode_fast(restarts, (0, 0, 64, 96)) is not None
        assert decoders.decode_fast(restarts, (0, 0, 64, 20)) is None
        assert decoders.decode_fast(jpeg(image), (0, 0, 64, 20), prefix=True) is None


@pytest.mark.parametrize("decoder", BOXES)
def test_a_box_needs_the_rows_down_to_it_and_no_more(decoder: str) -> None:
    image, above = picture(64, 960), (10, 100, 50, 200)
    for data in (jpeg(image), jpeg(image, restart_marker_rows=1)):
        whole = np.asarray(Image.open(io.BytesIO(data)))
        with decoders.using(decoder):
            assert decoders.decode_fast(jpeg(image, progressive=True), above) is None
            assert decoders.decode_fast(data, above) is not None
            assert decoders.decode_fast(data[: len(data) // 2], above) is None  # it may be truncated
            half = decoders.decode_fast(data[: len(data) // 2], above, prefix=True)
            assert np.array_equal(half, whole[100:200, 10:50])
            assert decoders.decode_fast(data[: len(data) // 10], above, prefix=True) is None


@given(
    st.lists(st.sampled_from([b"\xff\x00", b"\xff", b"\x00", b"\xd3", b"\xff\xd3", b"\xff\xd9", b"ab"]), max_size=12), st.booleans()
)
@settings(deadline=None)
def test_a_scan_is_unbroken_where_no_other_marker_stands_in_it(parts: list[bytes], restarts: bool) -> None:
    image = picture(16, 16)
    header = jpeg(image, **({"restart_marker_rows": 1} if restarts else {}))
    frame = read_frame(header)
    assert frame is not None
    scan = b"".join(parts)
    allowed = {0, *(range(0xD0, 0xD8) if restarts else ())}
    expected = all(after in allowed for before, after in itertools.pairwise(scan) if before == 0xFF) and scan[-1:] != b"\xff"
    assert unbroken(header[: frame.scan] + scan + b"\xff\xd9", frame) == expected
    assert not unbroken(header[: frame.scan] + scan + b"\xff\xd8", frame)


def test_a_marker_is_found_where_two_blocks_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(picture(16, 16))
    frame = read_frame(data)
    assert frame is not None
    assert unbroken(data, frame)
    assert not unbroken(data[: frame.scan - 8], frame)
    monkeypatch.setattr("satmip_data.imagery.jpeg.BLOCK", 4)
    for position in range(12):
        scan = bytearray(12)
        scan[position : position + 2] = b"\xff\xe1"
        assert not unbroken(data[: frame.scan] + bytes(scan) + b"\xff\xd9", frame)


@pytest.mark.parametrize("decoder", FAST)
def test_one_with_other_pixels_is_not_used(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(data: bytes, *rest: object) -> np.ndarray:
        return np.zeros((64, 67, 3), np.uint8)

    monkeypatch.setattr(decoders, "_decode", lambda name, data, box, frame: careless(data))
    decoders._is_exact.cache_clear()
    try:
        with decoders.using(decoder):
            assert decoders.decode_fast(jpeg(picture(64, 96)), (0, 0, 64, 96)) is None
        assert decoders.decoder_info()["name"] == "Pillow"
        with pytest.raises(decoders.DecoderError, match="must give Pillow's pixels, however"):
            decoders.check(decoder)
    finally:
        decoders._is_exact.cache_clear()


def without_libraries(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    installed = decoders._installed
    monkeypatch.setattr(decoders, "_installed", lambda name: name not in names and installed(name))
    decoders._is_exact.cache_clear()
    monkeypatch.setattr(decoders, "_is_exact", decoders._is_exact.__wrapped__)


def test_without_any_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    without_libraries(monkeypatch, *HERE)
    assert decoders.decode_fast(jpeg(picture(64, 96)), (0, 0, 64, 96)) is None
    assert decoders.decoder_info("auto") == decoders.decoder_info("pillow")
    decoders.check("auto")
    for name in HERE:
        with pytest.raises(decoders.DecoderError, match=rf"needs {name}, however.*pip install 'satmip\[fast\]'"):
            decoders.check(name)


@NEEDS["pyvips"]
@NEEDS["simplejpeg"]
def test_without_turbojpeg_pyvips_decodes_what_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    without_libraries(monkeypatch, "turbojpeg")
    monkeypatch.setattr(decoders, "LARGE", 64 * 90)
    asked = []
    decode = decoders._decode
    monkeypatch.setattr(decoders, "_is_exact", decoders._installed)
    monkeypatch.setattr(decoders, "_decode", lambda name, *rest: asked.append(name) or decode(name, *rest))
    for bottom in (89, 90):
        assert decoders.decode_fast(jpeg(picture(64, 96)), (0, 0, 64, bottom)) is not None
    assert asked == ["simplejpeg", "pyvips"]
    assert decoders.decoder_info()["otherwise"].startswith("simplejpeg ")


def test_a_turbojpeg_of_before_3_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turbojpeg.ctypes, "CDLL", lambda path: object())
    turbojpeg._found.cache_clear()
    try:
        assert turbojpeg.library_version() is None
        assert turbojpeg.decode_box(jpeg(picture(64, 96)), (0, 0, 64, 96), (64, 96)) is None
    finally:
        turbojpeg._found.cache_clear()


@NEEDS["turbojpeg"]
def test_turbojpeg_refuses_what_its_own_header_does_not_hold() -> None:
    """A frame read otherwise than the library reads it must not let it write beyond the box."""
    data = jpeg(picture(64, 96))
    for size in ((640, 96), (64, 960), (640, 960)):
        assert turbojpeg.decode_box(data, (0, 0, *size), size) is None


def test_a_decoder_that_is_not_there_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_libraries(monkeypatch, *HERE)
    for name in HERE:
        result = CliRunner().invoke(main, ["build", str(tmp_path / "in"), str(tmp_path / "out"), "--decoder", name])
        assert result.exit_code == 1
        assert "Type: pip install 'satmip[fast]'" in result.output


def test_the_decoder_is_named_with_its_version() -> None:
    info = decoders.decoder_info("pillow")
    assert info["name"] == "Pillow"
    assert "libjpeg" in info["version"]


@pytest.mark.parametrize("decoder", FAST)
def test_the_faster_decoder_is_named_with_pillow_beside_it(decoder: str) -> None:
    info = decoders.decoder_info(decoder)
    assert (info["name"], info["otherwise"]) == (decoder, f"Pillow {decoders.decoder_info('pillow')['version']}")
    assert info["version"][0].isdigit() or info["version"] == turbojpeg.SYSTEM


@pytest.mark.parametrize("decoder", FAST)
def test_none_says_a_word_to_the_user(decoder: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(jpeg(picture(64, 960)))
    data[len(data) // 4 : len(data) // 4 + 40] = bytes(40)
    for broken in (bytes(data), bytes(data[: len(data) // 2])):
        chip(decoder, broken, Window(0, 0, 64, 900), (64, 960))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


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
