"""Shards as a pipeline of webdataset, for those who want its stages instead of our reader."""

from pathlib import Path
from typing import Any

import webdataset

from satmip_train.data.dataset import Dataset, open_dataset


def as_webdataset(dataset: Dataset | str | Path, split: str, **options: Any) -> webdataset.WebDataset:
    """Return a split as webdataset's pipeline of decoded samples; stages of its own may follow, as `.shuffle(1000).batched(64)`.

    A sample is a dict by suffix: "jpg" (H, W, 3) uint8, "json" a dict, "txt" a string, "num.npy", "mask.npy" and "cat.npy" arrays,
    "cls" a number where the sample has a class, and "__key__". Shards of a remote directory are fetched and checked first. Ranks
    and loader workers share the shards; our own reader (`satmip-train`) also promises the order, see docs/training.md.

    Args:
        dataset: a shard directory, by path or URL, or already open
        split: as "train"
        options: of `webdataset.WebDataset`, as `shardshuffle=100` or `seed=0`; by default shards come in their order

    Raises:
        UsageError: there is no such shard directory or split, or a shard is damaged.
    """
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    opened.fetch(split)
    paths = [str(opened.path(shard).absolute()) for shard in opened.split(split)]
    # A worker or rank more than there are shards gives nothing, which is no error.
    usual = {"shardshuffle": False, "nodesplitter": webdataset.split_by_node, "empty_check": False}
    return webdataset.WebDataset(paths, **{**usual, **options}).decode("rgb8")
