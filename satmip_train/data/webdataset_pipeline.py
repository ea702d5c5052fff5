"""Shards as a pipeline of webdataset, for those who want its stages instead of our reader."""

from pathlib import Path
from typing import Any

import webdataset

from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.data.integrity import check_shard


def as_webdataset(dataset: Dataset | str | Path, split: str, **options: Any) -> webdataset.WebDataset:
    """Return a split as webdataset's pipeline of decoded samples; stages of its own may follow, as `.shuffle(1000).batched(64)`.

    A sample is a dict by suffix: "jpg" (H, W, 3) uint8, "json" a dict, "txt" a string, "num.npy", "mask.npy" and "cat.npy" arrays,
    "cls" a number where the sample has a class, and "__key__". Shards of a remote directory are fetched first, and
    each shard is compared with its sha256 once, when its first sample is read, as the trainer does. Ranks
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
    return webdataset.WebDataset(paths, **{**usual, **options}).map(_Checked(opened, split)).decode("rgb8")


class _Checked:
    """Passes samples on as they are stored, once their shard is known to hold the bytes that `dataset.json` lists."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        self._dataset = dataset
        self._unknown = {str(dataset.path(shard).absolute()): shard for shard in dataset.split(split)}

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if (shard := self._unknown.pop(sample["__url__"], None)) is not None:
            check_shard(self._dataset, shard, self._dataset.path(shard))
        return sample
