"""Damaged images through every decoder: no crash, no hang, one verdict, and other pixels only where the format cannot tell."""

import io
import random
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attacks.children import run
from attacks.mutations import BYTES
from attacks.outcome import Failure, NotHeld, Tally
from satmip_data.imagery import chips, decoders, raster, turbojpeg
from satmip_data.imagery.raster_file import is_raster
from satmip_data.records import REASONS, Window
from satmip_data.storage.store import Store
from tests.data.archives.make import pixels, write_raster

SIZE = (60, 44)
WINDOW = Window(7, 5, 40, 30)
SLOW = 10.0
"""Seconds that one image of 60 x 44 pixels may take."""
CHUNK = 50
LIMITS = "JPEG, WebP, BMP and TIFF carry no checksum of pixels: what decodes without a complaint is taken."
Pixels = NDArray[np.uint8]


def images(seed: int, tries: int, folder: Path) -> Tally:
    """Read damaged images, in processes of their own: libraries in C must neither crash nor wait."""
    tally = Tally("damaged images, by Pillow, TurboJPEG and GDAL", LIMITS)
    kinds = list(_kinds(folder).items())
    for start in range(0, tries, CHUNK):
        numbers = range(start, min(start + CHUNK, tries))
        told = folder / "told"
        work = partial(_read_all, kinds, seed, numbers, told)
        code = run(lambda _, work=work: work(), folder / "log", counted=False)
        if code != 0:
            done = told.read_text().splitlines() if told.exists() else []
            evidence = f"The process ended with {code} behind {done[-1:]}: {(folder / 'log').read_text()}"
            tally.failures.append(Failure(start + len(done), "a decoder ended its process", evidence))
            continue
        for line in told.read_text().splitlines():
            number, _, ended = line.partition(" ")
            if ended.startswith("FAILED "):
                tally.failures.append(Failure(int(number), "an image", ended))
            else:
                tally.outcomes[ended] += 1
    return tally


def _read_all(kinds: list[tuple[str, bytes]], seed: int, numbers: range, told: Path) -> None:
    """Write a line for each try: its number, and how it ended."""
    with told.open("w") as stream:
        for number in numbers:
            draw = random.Random(f"{seed}/{number}")
            name, whole = kinds[number % len(kinds)]
            damaged = whole
            for _ in range(draw.choice((1, 1, 1, 3))):
                damaged = draw.choice(BYTES)(damaged, draw) or b"\0"
            tried = Tally("")
            tried.attempt(number, name, partial(_hold, name, whole, damaged, told.parent / f"{number}-{name}"), SLOW)
            ended = next(iter(tried.outcomes), None) or "FAILED " + " ".join(f"{name} {tried.failures[0].evidence}".split())
            stream.write(f"{number} {ended}\n")
            stream.flush()


def _kinds(folder: Path) -> dict[str, bytes]:
    """Return small images of every kind that is read, by name."""
    rng = np.random.default_rng(0)
    smooth = pixels(rng, SIZE[1], SIZE[0], 3, 30, 225)
    # Noise, so that most bytes are those of pixels and few those of headers.
    values = (smooth + rng.normal(0, 20, smooth.shape)).clip(1, 255).astype(np.uint8)
    picture = Image.fromarray(values.transpose(1, 2, 0))
    forms: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "4:2:0.jpg": (picture, {"format": "JPEG", "quality": 75}),
        "4:4:4.jpg": (picture, {"format": "JPEG", "quality": 90, "subsampling": "4:4:4"}),
        "progressive.jpg": (picture, {"format": "JPEG", "progressive": True}),
        "restarts.jpg": (picture, {"format": "JPEG", "restart_marker_rows": 1}),
        "grey.jpg": (picture.convert("L"), {"format": "JPEG"}),
        "cmyk.jpg": (picture.convert("CMYK"), {"format": "JPEG"}),
        "rgb.png": (picture, {"format": "PNG"}),
        "palette.png": (picture.convert("P"), {"format": "PNG"}),
        "alpha.png": (picture.convert("RGBA"), {"format": "PNG"}),
        "lossy.webp": (picture, {"format": "WEBP"}),
        "lossless.webp": (picture, {"format": "WEBP", "lossless": True}),
        "plain.bmp": (picture, {"format": "BMP"}),
    }
    kinds = {}
    for name, (image, options) in forms.items():
        stream = io.BytesIO()
        image.save(stream, **options)
        kinds[name] = stream.getvalue()
    for name, profile in {
        "plain.tif": {}, "deflate.tif": {"compress": "deflate"}, "lzw.tif": {"compress": "lzw"},
        "tiled.tif": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"},
    }.items():  # fmt: skip
        kinds[name] = write_raster(folder / name, values, **profile).read_bytes()
    kinds["deep.tif"] = write_raster(folder / "deep.tif", values.astype(np.uint16) * 100, compress="deflate").read_bytes()
    return kinds


def _hold(name: str, whole: bytes, damaged: bytes, path: Path) -> str:
    """Read one image by every decoder that takes it, and say how all of them ended."""
    reads = _decoders(name, damaged)
    found = {decoder: read(damaged, path) for decoder, read in reads.items()}
    path.unlink(missing_ok=True)
    verdicts = {verdict if isinstance(verdict, str) else "pixels" for verdict in found.values()}
    if len(verdicts) > 1:
        raise NotHeld(f"The decoders do not agree: { {who: v if isinstance(v, str) else 'pixels' for who, v in found.items()} }")
    first = next(iter(found.values()))
    if isinstance(first, str):
        return f"rejected: {first}"
    if any(not np.array_equal(first, other) for other in found.values()):
        raise NotHeld("The decoders give other pixels.")
    if np.array_equal(first, _undamaged(name, whole, path.parent)):
        return "the same pixels"
    if name.endswith(".png"):
        raise NotHeld("A PNG, which has checksums, gave other pixels.")
    return "other pixels, which no decoder complains of"


Read = Callable[[bytes, Path], Pixels | str]


def _decoders(name: str, damaged: bytes) -> dict[str, Read]:
    if name.endswith(".tif"):
        return {"gdal": _by_gdal}
    names = ("pillow", *(("turbojpeg",) if turbojpeg.library_version() is not None else ()))
    return {decoder: partial(_by_chips, decoder) for decoder in (names if name.endswith(".jpg") else names[:1])}


def _by_chips(decoder: str, data: bytes, path: Path) -> Pixels | str:
    with decoders.using(decoder):
        try:
            return np.asarray(chips.read_chip(data, WINDOW, (WINDOW.width, WINDOW.height), SIZE))
        except chips.ImageError as error:
            return _known(error)


def _by_gdal(data: bytes, path: Path) -> Pixels | str:
    path.write_bytes(data)
    store, stretch = Store(str(path.parent)), raster.parse_stretch("minmax:0,25500" if "deep" in path.name else "none")
    try:
        if not is_raster(store, path.name):
            return _by_chips("pillow", data, path)
        header = raster.read_header(store, path.name)
        if header.width * header.height > 10**7:
            return "image_too_large"
        layers = raster.read_layers(store, (path.name,), raster.choose_bands(header, None, stretch), stretch, WINDOW, SIZE)
        return np.asarray(raster.compose(layers, (WINDOW.width, WINDOW.height)))
    except raster.ScaleError:
        return "unscaled"
    except chips.ImageError as error:
        return _known(error)


def _known(error: chips.ImageError) -> str:
    if error.reason not in REASONS:
        raise NotHeld(f"{error.reason} is no known reason: {error}")
    return error.reason


@lru_cache
def _undamaged(name: str, whole: bytes, folder: Path) -> Pixels:
    read = next(iter(_decoders(name, whole).values()))
    found = read(whole, folder / f"whole-{name}")
    if isinstance(found, str):
        raise NotHeld(f"The image without damage is {found}.")
    return found
