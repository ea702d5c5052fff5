"""Images over a network: many requests in flight, and of a large JPEG only the part that its window needs.

One worker holds at most `AHEAD_BYTES` of images that wait for their turn, besides the one that it decodes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from satmip_data.imagery import jpeg
from satmip_data.records import Sample
from satmip_data.storage.store import IN_FLIGHT, Store

AHEAD_BYTES = 512 << 20
"""Bytes of images fetched, or being fetched, ahead of their turn; one on its way counts as 3 bytes a pixel, its size unpacked."""

LARGE = 4_000_000
"""Pixels from which an image is worth two more requests (its size, its end): fMoW's JPEGs take a quarter of a byte a pixel."""

MARGIN = 0.1
"""Share of the file that is fetched beyond the share of the rows: some parts of a picture take more bytes than others."""

ROWS_BELOW = 32
"""Rows that decoding may need below a window: two rows of MCUs (see `jpeg.cut_below`)."""


@dataclass(slots=True)
class ImageFile:
    """The bytes of an image file: all of them, or the first part of a JPEG whose end is there."""

    store: Store
    path: str
    size: int
    """Of the whole file, in bytes."""
    data: bytes
    fetched: int
    """Bytes that came over the network so far."""

    @property
    def whole(self) -> bool:
        """Whether `data` is the whole file."""
        return len(self.data) >= self.size

    def complete(self) -> None:
        """Fetch what is missing.

        Raises:
            OSError: it cannot be read.
        """
        rest = self.store.read_range(self.path, len(self.data), self.size)
        self.fetched += len(rest)
        self.data += rest


def fetch_image(store: Store, sample: Sample) -> ImageFile:
    """Fetch the image of a sample: whole, or of a large JPEG the part down to the window's last row, and a margin.

    A part is fetched only of a file that ends as a JPEG must, so that a truncated file is never taken for a good one.

    Raises:
        OSError: it cannot be read.
    """
    share = (sample.window.y + sample.window.height + ROWS_BELOW) / sample.scene_height + MARGIN
    large = sample.scene_width * sample.scene_height >= LARGE and sample.path.lower().endswith((".jpg", ".jpeg"))
    if large and share < 1.0:
        size = store.size(sample.path)
        if store.read_range(sample.path, size - len(jpeg.END), size) == jpeg.END:
            data = store.read_range(sample.path, 0, int(size * share))
            return ImageFile(store, sample.path, size, data, len(data) + len(jpeg.END))
    data = store.read(sample.path)
    return ImageFile(store, sample.path, len(data), data, len(data))


def read_ahead(
    fetch: Callable[[Sample], ImageFile], samples: Iterable[Sample], ahead_bytes: int = AHEAD_BYTES
) -> Iterator[tuple[Sample, Future[ImageFile]]]:
    """Yield every sample in order with its image under way; the images of those that follow are fetched meanwhile.

    At most `IN_FLIGHT` images are under way or waiting, and at most `ahead_bytes` of them, or one image alone.
    """
    waiting: deque[tuple[Sample, Future[ImageFile]]] = deque()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        try:
            for sample in samples:
                while waiting and (len(waiting) >= IN_FLIGHT or _held(waiting) + _bound(sample) > ahead_bytes):
                    yield waiting.popleft()
                waiting.append((sample, pool.submit(fetch, sample)))
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()


def _bound(sample: Sample) -> int:
    return 3 * sample.scene_width * sample.scene_height


def _held(waiting: Iterable[tuple[Sample, Future[ImageFile]]]) -> int:
    return sum(
        len(future.result().data) if future.done() and future.exception() is None else _bound(sample) for sample, future in waiting
    )
