"""Whoever decodes, the pixels of a window are Pillow's, and the verdict on damaged data is libjpeg's."""

import io
import itertools
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner
from helpers.pictures import jpeg, jpegs, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from satmip_data.cli.commands import main
from satmip_data.imagery import chips, decoders, turbojpeg
from satmip_data.imagery.chips import ImageError
from satmip_data.imagery.jpeg import read_frame, unbroken
from satmip_data.imagery.png import lacks_rows
from satmip_data.records import Window

HERE = turbojpeg.library_version() is not None
NEEDS_TURBOJPEG = pytest.mark.skipif(not HERE, reason="turbojpeg is not installed")
FAST = [pytest.param("turbojpeg", marks=NEEDS_TURBOJPEG)]
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


@NEEDS_TURBOJPEG
@given(
    st.sampled_from(["4:4:4", "4:2:0"]),
    st.sampled_from(OPTIONS),
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([b"\xff\xe1", b"\xff\xd9", b"\xff\xc0", b"\xff\xd3", b"\x00", b"\x5a"]))),
    st.integers(0, 3000),
    st.integers(1, 96),
    st.booleans(),
)
@settings(max_examples=250, deadline=None)
def test_a_broken_file_has_one_verdict_whoever_decodes_and_whatever_part(
    subsampling: str, options: dict[str, object], wounds: list[tuple[float, bytes]], missing: int, bottom: int, small: bool
) -> None:
    """Bytes replaced anywhere behind the header's start, the end cut off or not."""
    data = bytearray(jpeg(picture(64, 96), subsampling=subsampling, **options))
    for place, wound in wounds:
        position = 2 + int(place * (len(data) - 6))
        data[position : position + len(wound)] = wound
    broken = bytes(data[: len(data) - missing] if missing < 1000 else data)
    window = Window(0, 0, 64, bottom)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(decoders, "LARGE", 100)
        found = [chip(name, broken, window, (64, 96)) for name in ("turbojpeg", "pillow")]
    assert same(*found)
    if not isinstance(found[0], tuple):
        assert strict(broken) == ""


def strict(data: bytes) -> str:
    """What libjpeg warns of while it decodes a file at its full size; `damage` asks at an eighth of it."""
    try:
        simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        return str(error) if str(error).startswith(decoders.DAMAGE) else ""
    return ""


@pytest.mark.parametrize("decoder", [*FAST, "pillow"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_damage_that_libjpeg_warns_of_is_a_reject_or_is_kept_and_told(decoder: str, options: dict[str, object]) -> None:
    rng, image = np.random.default_rng(0), picture(96, 96)
    whole = jpeg(image, **options)
    start, refused = whole.index(b"\xff\xda") + 12, 0
    for _ in range(60):
        data = bytearray(whole)
        data[int(rng.integers(start, len(data) - 2))] ^= int(rng.integers(1, 256))
        found = chip(decoder, bytes(data), Window(0, 0, 96, 40), image.size)
        if isinstance(found, tuple) and found[0] == "image_damaged":
            assert strict(bytes(data))
            refused += 1
            with decoders.using(decoder, keep_damaged=True) as reading:
                kept = chips.read_chip(bytes(data), Window(0, 0, 96, 40), (96, 40), image.size)
            assert reading.damage
            assert np.array_equal(kept, np.asarray(Image.open(io.BytesIO(data)))[:40])
    assert refused > 20


ADAM7 = np.array(
    [[int(c) for c in row] for row in "16462646 77777777 56565656 77777777 36463646 77777777 56565656 77777777".split()]
)
"""The pass to which each pixel of an interlaced PNG belongs."""


def png(kind: int, depth: int, width: int, height: int, interlaced: bool, missing: int) -> bytes:
    """A PNG of one colour whose last rows are missing in a stream that ends well."""
    bits, rows = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind], []
    passes = np.tile(ADAM7, (height // 8 + 1, width // 8 + 1))[:height, :width] if interlaced else np.ones((height, width), int)
    for number in range(1, 8):
        counts = (passes == number).sum(axis=1)
        rows += [b"\0" + b"\xff" * -(-int(count) * bits // 8) for count in counts if count]
    parts = {b"IHDR": struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)}
    parts |= {b"PLTE": bytes(range(256)) * 3} if kind == 3 else {}
    parts |= {b"IDAT": zlib.compress(b"".join(rows[: len(rows) - missing])), b"IEND": b""}
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "depth"), [(0, 1), (0, 2), (0, 8), (2, 8), (3, 4), (3, 8), (4, 8), (6, 8)])
def test_a_png_that_lacks_rows_is_damaged(kind: int, depth: int, interlaced: bool) -> None:
    for width, height in ((9, 13), (1, 1), (3, 2), (40, 8)):
        for missing in range(3):
            data = png(kind, depth, width, height, interlaced, missing)
            assert lacks_rows(data) == (missing > 0)
            found = chip("pillow", data, Window(0, 0, width, height), (width, height))
            assert isinstance(found, tuple) == (missing > 0), (width, height, missing)


def test_a_png_that_is_black_at_its_end_is_none() -> None:
    image = Image.new("RGB", (20, 10))
    image.putpixel((0, 0), (1, 2, 3))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    assert not isinstance(chip("pillow", stream.getvalue(), Window(0, 0, 20, 10), image.size), tuple)


@pytest.mark.parametrize("decoder", FAST)
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


@pytest.mark.parametrize("decoder", FAST)
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


@NEEDS_TURBOJPEG
def test_one_with_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turbojpeg, "decode_box", lambda data, box, size: np.zeros((64, 67, 3), np.uint8))
    decoders._is_exact.cache_clear()
    try:
        assert decoders.decode_fast(jpeg(picture(64, 96)), (0, 0, 64, 96)) is None
        assert decoders.decoder_info()["name"] == "Pillow"
        with pytest.raises(decoders.DecoderError, match="--decoder pillow"):
            decoders.check("turbojpeg")
    finally:
        decoders._is_exact.cache_clear()


def without_turbojpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turbojpeg, "library_version", lambda: None)
    monkeypatch.setattr(decoders, "_is_exact", decoders._is_exact.__wrapped__)


def test_without_turbojpeg_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    without_turbojpeg(monkeypatch)
    assert decoders.decode_fast(jpeg(picture(64, 96)), (0, 0, 64, 96)) is None
    assert decoders.decoder_info("auto") == decoders.decoder_info("pillow")
    decoders.check("auto")
    with pytest.raises(decoders.DecoderError, match="pip install 'turbojpeg>="):
        decoders.check("turbojpeg")


def test_a_turbojpeg_of_before_3_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turbojpeg.ctypes, "CDLL", lambda path: object())
    turbojpeg._found.cache_clear()
    try:
        assert turbojpeg.library_version() is None
        assert turbojpeg.decode_box(jpeg(picture(64, 96)), (0, 0, 64, 96), (64, 96)) is None
    finally:
        turbojpeg._found.cache_clear()


@NEEDS_TURBOJPEG
def test_turbojpeg_refuses_what_its_own_header_does_not_hold() -> None:
    """A frame read otherwise than the library reads it must not let it write beyond the box."""
    data = jpeg(picture(64, 96))
    for size in ((640, 96), (64, 960), (640, 960)):
        assert turbojpeg.decode_box(data, (0, 0, *size), size) is None


def test_a_decoder_that_is_not_there_is_refused_at_once_and_a_former_one_is_auto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_turbojpeg(monkeypatch)
    asked = ["build", str(tmp_path / "in"), str(tmp_path / "out"), "--decoder"]
    result = CliRunner().invoke(main, [*asked, "turbojpeg"])
    assert result.exit_code == 1
    assert "pip install 'turbojpeg>=" in result.output
    for name in decoders.FORMER:
        assert f"--decoder {name}" in CliRunner().invoke(main, [*asked, name]).output.split("Error")[0]


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
