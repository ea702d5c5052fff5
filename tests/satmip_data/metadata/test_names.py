"""Names of images: which endings are read, also of URLs that are signed, and that what signs them is written nowhere."""

import pytest

from satmip_data.names import IMAGES, RASTERS, ends_with, unsigned, without_secrets


def test_the_endings_that_are_read() -> None:
    assert set(RASTERS) == {".tif", ".tiff", ".jp2"}
    assert set(IMAGES) - set(RASTERS) == {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@pytest.mark.parametrize(
    "path", ["a.tif", "b/A.TIF", "https://host/a.tif?token=b/c.jpg", "s3://bucket/A.Tif", "https://host/a.TIF?x?y"]
)
def test_an_ending_is_that_of_the_path_in_any_case(path: str) -> None:
    assert ends_with(path, (".tif", ".jp2"))
    assert not ends_with(path, (".jpg",))


@pytest.mark.parametrize(
    ("path", "bare"),
    [
        ("https://host/a.tif?token=b", "https://host/a.tif"),
        ("https://host/A.JPG?token=b?c", "https://host/A.JPG"),
        ("https://host/get?id=5", "https://host/get?id=5"),
        ("https://host/get?file=a.tif", "https://host/get?file=a.tif"),
        ("folder/a.tif?b.tif", "folder/a.tif?b.tif"),
        ("folder/a.tif", "folder/a.tif"),
    ],
)
def test_what_signs_the_url_of_an_image_is_left_out(path: str, bare: str) -> None:
    assert unsigned(path) == bare


def test_a_message_shows_no_signature() -> None:
    text = "cannot open 'https://host/a.TIF?sig=1' (\"https://host/b.png?x=2&y=3\"), nor https://host/c.jp2?z next to get?id=5"
    expected = "cannot open 'https://host/a.TIF?...' (\"https://host/b.png?...\"), nor https://host/c.jp2?... next to get?id=5"
    assert without_secrets(text) == expected
