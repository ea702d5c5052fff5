"""Reading shards in one process beside webdataset's pipeline with the stages of open_clip's training, rebuilt here, in turns.

    python tests/benchmarks/stream.py          # about two minutes
    python tests/benchmarks/stream.py --toy    # seconds, only to see that it works

A sample is decoded to 224 x 224 x 3 whole numbers and 77 tokens on both sides, in shuffled batches. A third row has open_clip's own
transform for evaluation instead (to floats, normalized), which here is the GPU's work. The memory of it is in memory.py.

open_clip 3.3 asks for webdataset 0.2.86 or older. To time that one: pip install --no-deps --target old webdataset==0.2.86, then run
this with PYTHONPATH=old.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timing
import torch
import webdataset as wds

from satmip_train.data.captions import CaptionReader
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.data.decoder import Decoder
from satmip_train.data.loader import TrainingStream, loader
from satmip_train.data.order import Order
from satmip_train.data.tar import Readers

FIELDS = ("gsd", "timestamp", "location")
CONTEXT = 77
BATCH = 50
FAIR = "webdataset as open_clip builds it, pixels as they are"


def ours(dataset: Dataset, workers: int = 0) -> Iterable[Any]:
    """Return the batches of an epoch of training, made by so many processes (0: by this one)."""
    counts = tuple(shard.samples for shard in dataset.split("train"))
    order = Order(counts, BATCH, seed=0, block=8)
    decoder = Decoder(frozenset({"image", "tokens"}), CaptionReader(FIELDS, True, CONTEXT))
    return loader(TrainingStream(Readers(dataset, "train"), order, decoder), range(order.steps_per_epoch), workers)


def theirs(urls: list[str], transform: Callable[[Any], torch.Tensor]) -> Iterable[Any]:
    """Return the batches of webdataset's pipeline, its stages those of `open_clip_train.data.get_wds_dataset` in training."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    pipeline = wds.DataPipeline(
        wds.SimpleShardList(urls, seed=0),
        wds.shuffle(2000, initial=500),
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.shuffle(5000, initial=1000),
        wds.select(lambda sample: "txt" in sample and "jpg" in sample),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=transform, text=lambda text: tokenizer(text)[0]),
        wds.to_tuple("image", "text"),
        wds.batched(BATCH, partial=False),
    )
    batches: Iterable[Any] = wds.WebLoader(pipeline, batch_size=None, num_workers=0)
    return batches


def whole_numbers(image: Any) -> torch.Tensor:
    """Return the pixels as they are."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def exhaust(batches: Callable[[], Iterable[Any]], expected: int) -> None:
    """Read all batches, and see that they hold so many samples of the one form."""
    count = 0
    for batch in batches():
        image, tokens = (batch["image"], batch["tokens"]) if isinstance(batch, dict) else batch
        assert image.shape[1:] == (3, 224, 224)
        assert tokens.shape[1:] == (CONTEXT,)
        count += len(image)
    assert count == expected


def measure_rate(report: timing.Report, root: Path, samples: int, times: int, rounds: int) -> None:
    """Print samples/s of CPU time of each way."""
    dataset = open_dataset(timing.repeated_shards(root, samples, times))
    urls = [str(root / shard.name) for shard in dataset.split("train")]
    works = {
        FAIR: partial(theirs, urls, whole_numbers),
        "the same with open_clip's transform": partial(theirs, urls, open_clip.image_transform(224, is_train=False)),
        "satmip": partial(ours, dataset),
    }
    epochs = {name: partial(exhaust, work, samples * times) for name, work in works.items()}
    timing.in_turns(epochs, 1)  # fills the caches of the tokenizers and of the disk
    seconds = timing.in_turns(epochs, rounds)
    size = sum(Path(url).stat().st_size for url in urls) / 1e6
    report.table(f"Stream: {samples * times:,} samples, {size:.0f} MB, one process, CPU time: how much faster satmip is")
    for name, took in seconds.items():
        target = timing.Target("at least", 1.5) if name == FAIR else None
        report.row(name, timing.rate(samples * times, took), "samples/s", timing.ratios(took, seconds["satmip"]), target)


def main() -> None:
    """Run all parts and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="small and short")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files open
    report = timing.Report("stream", ("torch", "webdataset", "open_clip_torch", "pillow"))
    samples, times, rounds = (50, 2, 2) if chosen.toy else (500, 4, chosen.rounds)
    with tempfile.TemporaryDirectory() as folder:
        measure_rate(report, Path(folder), samples, times, rounds)
    report.save()


if __name__ == "__main__":
    main()
