"""helpers.pictures"""

import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from satmip_data.records import Window


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Coarse noise with fine noise on it: colours and edges in every block."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth).astype(int) + rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray(pixels.clip(1, 255).astype(np.uint8)).convert(mode)


def jpeg(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


@st.composite
def windows(draw: st.DrawFn, width: int, height: int) -> Window:
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return Window(x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))


@st.composite
def jpegs(draw: st.DrawFn) -> tuple[bytes, Image.Image, Window]:
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 150))
    mode = draw(st.sampled_from(["RGB", "RGB", "RGB", "L", "CMYK"]))
    image = picture(width, height, draw(st.integers(0, 5)), mode)
    options: dict[str, object] = {"quality": draw(st.integers(30, 100)), "optimize": draw(st.booleans())}
    if mode == "RGB":
        options["subsampling"] = draw(st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]))
        options["keep_rgb"] = draw(st.sampled_from([False, False, True])) if options["subsampling"] == "4:4:4" else False
    options |= draw(st.sampled_from([{}, {}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}]))
    if draw(st.booleans()):
        options |= {"icc_profile": b"\xff\xc0\x00\x11" * 40, "comment": b"\xff\xda\xff\xd9"}
    if draw(st.booleans()):
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    return jpeg(image, **options), image, draw(windows(width, height))
