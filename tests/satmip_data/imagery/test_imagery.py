"""The chip's pixels are those of Pillow's full decode, however they were got; what gives no chip says why."""

import io
import pickle
import struct
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
from helpers.pictures import jpeg, jpegs, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from satmip_data.imagery import chips
from satmip_data.imagery.chips import ImageError
from satmip_data.imagery.jpeg import cut_below, read_frame
from satmip_data.records import REASONS, Window


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def reference(data: bytes, window: Window, size: tuple[int, int]) -> np.ndarray:
    """The slow way: everything decoded, converted, cropped, resized."""
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    box = (window.x, window.y, window.x + window.width, window.y + window.height)
    return np.asarray(whole.crop(box).resize(size, Image.Resampling.BICUBIC))


@given(jpegs(), st.sampled_from([(1, 1), (8, 8), (31, 17)]))
@settings(max_examples=150, deadline=None)
def test_a_chip_of_a_jpeg_is_the_full_decodes(case: tuple[bytes, Image.Image, Window], size: tuple[int, int]) -> None:
    data, image, window = case
    expected = reference(data, window, size)
    if not np.asarray(Image.open(io.BytesIO(data)).convert("RGB").crop(_box(window))).any():
        with pytest.raises(ImageError, match="every pixel"):
            chips.read_chip(data, window, size, image.size)
    else:
        assert np.array_equal(np.asarray(chips.read_chip(data, window, size, image.size)), expected)


def _box(window: Window) -> tuple[int, int, int, int]:
    return (window.x, window.y, window.x + window.width, window.y + window.height)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("bottom", range(1, 101))
def test_every_row_above_the_cut_is_exact(subsampling: str, bottom: int) -> None:
    image = picture(40, 100, 3)
    data = jpeg(image, subsampling=subsampling)
    window = Window(0, 0, 40, bottom)
    chip = chips.read_chip(data, window, (40, bottom), image.size)
    assert np.array_equal(np.asarray(chip), np.asarray(Image.open(io.BytesIO(data)))[:bottom])


def test_a_sequential_jpeg_is_cut_below_its_window_and_others_are_not() -> None:
    image = picture(64, 200)
    plain = jpeg(image)
    cut = cut_below(plain, 40)
    assert len(cut) == len(plain)
    assert Image.open(io.BytesIO(cut)).size == (64, 64)  # 40 rows are 3 MCU rows of 16, and one more
    assert cut_below(jpeg(image, restart_marker_rows=1), 40) != jpeg(image, restart_marker_rows=1)
    for data in (jpeg(image, progressive=True), plain[:-1], plain + b"x", plain[:100], b"", b"\xff\xd8\xff", saved(image, "PNG")):
        assert cut_below(data, 40) is data
    assert cut_below(plain, 190) is plain


def test_a_jpeg_of_several_scans_is_not_cut() -> None:
    data = bytearray(jpeg(picture(64, 200)))
    data[data.index(b"\xff\xda") + 4] = 1
    assert cut_below(bytes(data), 40) == data


def test_the_frame_of_a_jpeg_is_found_past_fill_bytes_and_not_where_there_is_none() -> None:
    data = jpeg(picture(64, 200), subsampling="4:2:0")
    frame = read_frame(data)
    assert frame is not None
    assert (frame.width, frame.height, frame.bits, frame.scanned, frame.restarts) == (64, 200, 8, 3, False)
    assert frame.sampling == ((2, 2), (1, 1), (1, 1))
    assert data[frame.position : frame.position + 4] == struct.pack(">HH", 200, 64)
    first, scan = data.index(b"\xff\xdb"), data.index(b"\xff\xda")
    assert frame.scan == scan + 14
    filled = read_frame(data[:first] + b"\xff\xff" + data[first:])
    assert filled == replace(frame, position=frame.position + 2, scan=frame.scan + 2)
    assert read_frame(data[:scan] + b"\xff\xdd\0\4\0\0" + data[scan:]) == replace(frame, scan=frame.scan + 6)  # restarts of 0
    restarts = read_frame(data[:scan] + b"\xff\xdd\0\4\1\0" + data[scan:])
    assert restarts == replace(frame, scan=frame.scan + 6, restarts=True)
    for broken in (data[:2] + data[scan:], data[:scan] + b"\xff\xda\0\2" + data[scan:], data[:scan], data[: scan + 3]):
        assert read_frame(broken) is None
        assert cut_below(broken + b"\xff\xd9", 40) == broken + b"\xff\xd9"


@given(st.integers(0, 2500))
@settings(deadline=None)
def test_a_truncated_jpeg_is_refused_even_where_its_window_is_whole(missing: int) -> None:
    image = picture(64, 96)
    data = jpeg(image)
    cut = data[: len(data) - 2 - missing]
    try:
        expected = reference(cut, Window(0, 0, 64, 8), (8, 8))
    except OSError:
        with pytest.raises(ImageError) as error:
            chips.read_chip(cut, Window(0, 0, 64, 8), (8, 8), image.size)
        assert error.value.reason == "image_unreadable"
    else:  # cut inside the last block, which Pillow forgives
        assert np.array_equal(np.asarray(chips.read_chip(cut, Window(0, 0, 64, 8), (8, 8), image.size)), expected)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_half_a_file_is_no_image(file_format: str) -> None:
    data = saved(picture(80, 80), file_format)
    with pytest.raises(ImageError, match="Cannot decode") as error:
        chips.read_chip(data[: len(data) // 2], Window(0, 0, 8, 8), (8, 8), (80, 80))
    assert error.value.reason == "image_unreadable"


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00"]))
@settings(deadline=None)
def test_bytes_that_are_no_image_are_refused(tail: bytes, magic: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of broken tags before it gives up
        with pytest.raises(ImageError) as error:
            chips.read_chip(magic + tail, Window(0, 0, 8, 8), (8, 8), (80, 80))
    assert error.value.reason in ("image_unreadable", "size_mismatch", "image_too_large")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_modes_come_as_rgb(mode: str) -> None:
    data = saved(picture(30, 20, mode="RGB").convert(mode), "PNG")
    window = Window(3, 2, 20, 15)
    chip = chips.read_chip(data, window, (10, 10), (30, 20))
    assert chip.mode == "RGB"
    assert np.array_equal(np.asarray(chip), reference(data, window, (10, 10)))


def test_alpha_is_dropped_and_not_blended() -> None:
    image = picture(30, 20)
    clear = image.copy()
    clear.putalpha(0)
    data = saved(clear, "PNG")
    chip = chips.read_chip(data, Window(0, 0, 30, 20), (30, 20), (30, 20))
    assert np.array_equal(np.asarray(chip), np.asarray(image))


def test_a_transparent_palette_keeps_its_colours() -> None:
    image = picture(30, 20).quantize(16)
    data = saved(image, "PNG", transparency=bytes(range(16)))
    chip = chips.read_chip(data, Window(0, 0, 30, 20), (30, 20), (30, 20))
    assert np.array_equal(np.asarray(chip), np.asarray(image.convert("RGB")))


def png16(width: int, height: int, colour_type: int, channels: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow itself cannot write for colours."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + bytes([200, 7] * (width * channels)) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_a_channel_are_refused(colour_type: int, channels: int) -> None:
    with pytest.raises(ImageError, match="8 bits a channel") as error:
        chips.read_chip(png16(9, 9, colour_type, channels), Window(0, 0, 9, 9), (4, 4), (9, 9))
    assert error.value.reason == "image_unreadable"


def test_floating_point_pixels_are_refused() -> None:
    data = saved(Image.new("F", (9, 9), 0.5), "TIFF")
    with pytest.raises(ImageError, match=r"8 bits a channel .*mode F"):
        chips.read_chip(data, Window(0, 0, 9, 9), (4, 4), (9, 9))


def test_another_size_than_the_metadata_say_is_refused() -> None:
    with pytest.raises(ImageError, match=r"30 x 40 .* 40 x 30") as error:
        chips.read_chip(jpeg(picture(30, 40)), Window(0, 0, 8, 8), (8, 8), (40, 30))
    assert error.value.reason == "size_mismatch"


def test_too_many_pixels_are_refused_before_decoding() -> None:
    data = jpeg(picture(30, 40))
    with pytest.raises(ImageError, match=r"30 x 40 .*1,199") as error:
        chips.read_chip(data, Window(0, 0, 8, 8), (8, 8), (30, 40), max_pixels=1199)
    assert error.value.reason == "image_too_large"
    assert chips.read_chip(data, Window(0, 0, 8, 8), (8, 8), (30, 40), max_pixels=1200).size == (8, 8)


def test_pillows_own_limit_is_lifted_for_us_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for data in (jpeg(picture(30, 40)), saved(picture(30, 40), "PNG")):
        assert chips.read_chip(data, Window(0, 0, 30, 40), (8, 8), (30, 40)).size == (8, 8)
        with pytest.raises(ImageError):
            chips.read_chip(data[:50], Window(0, 0, 30, 40), (8, 8), (30, 40))
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(data))
    assert Image.MAX_IMAGE_PIXELS == 10


def test_the_largest_image_of_fmow_is_read() -> None:
    image = Image.new("L", (16288, 16291), 77)
    chip = chips.read_chip(jpeg(image), Window(16000, 100, 288, 200), (4, 4), image.size)
    assert np.asarray(chip).tolist() == np.full((4, 4, 3), 77).tolist()


def test_a_black_window_is_empty_and_one_bright_pixel_is_not() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[20, 20, 2] = 1
    data = saved(Image.fromarray(pixels), "PNG")
    with pytest.raises(ImageError, match="every pixel is 0") as error:
        chips.read_chip(data, Window(0, 0, 20, 40), (8, 8), (40, 40))
    assert error.value.reason == "image_empty"
    chips.read_chip(data, Window(0, 0, 21, 40), (8, 8), (40, 40))


def test_a_window_outside_the_image_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="image of 30 x 40"):
        chips.read_chip(jpeg(picture(30, 40)), Window(20, 0, 11, 8), (8, 8), (30, 40))


def test_enlarging_and_shrinking_are_antialiased_bicubic() -> None:
    """A fine checkerboard shrinks to grey: without antialiasing it would stay black and white."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 254 + 1).astype(np.uint8)
    data = saved(Image.fromarray(board), "PNG")
    chip = np.asarray(chips.read_chip(data, Window(0, 0, 64, 64), (7, 7), (64, 64)))
    assert abs(chip.astype(int) - 128).max() < 12


def test_encoded_bytes_follow_from_the_pixels_alone() -> None:
    image = picture(50, 40)
    dressed = Image.open(io.BytesIO(saved(image, "PNG", icc_profile=b"icc", dpi=(300, 300))))
    dressed.load()
    dressed.info["comment"] = b"where it came from"
    assert chips.encode_jpeg(dressed) == chips.encode_jpeg(image)
    decoded = Image.open(io.BytesIO(chips.encode_jpeg(image)))
    assert JpegImagePlugin.get_sampling(decoded) == 0  # 4:4:4
    assert JpegImagePlugin.get_sampling(Image.open(io.BytesIO(chips.encode_jpeg(image, 95, "4:2:0")))) == 2
    assert len(chips.encode_jpeg(image, 50)) < len(chips.encode_jpeg(image))
    assert abs(np.asarray(decoded).astype(int) - np.asarray(image)).mean() < 5


def test_errors_survive_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError("image_empty", "words")))
    assert (error.reason, str(error)) == ("image_empty", "words")
    assert error.reason in REASONS
