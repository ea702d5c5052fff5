"""Features of a split against a plain loop over its files, and their cache."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy_shards import write_toy_shards
from PIL import Image
from torch import nn

from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.evaluation import features
from satmip_train.evaluation.features import Input


class Pixels(nn.Module):
    """A backbone whose features are easy to compute by hand: the views' mean colour and one pixel, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout(0.5)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        mean = self.dropout(views).mean((2, 3))
        return torch.cat([mean, views[:, :, 3, 5]], dim=1) * self.scale


ARCHITECTURE = {"backbone": "pixels"}
HOW = Input(16, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_toy_shards(tmp_path_factory.mktemp("toy"), size=(40, 24)))


def loop(dataset: Dataset, split: str) -> tuple[list[str], list[int], np.ndarray]:
    """The same with tarfile and Pillow, one sample at a time."""
    keys, labels, vectors = [], [], []
    for shard in sorted((Path(dataset.root) / split).glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar.getmembers():
                key, _, suffix = member.name.partition(".")
                content = tar.extractfile(member).read()  # type: ignore[union-attr]
                if suffix == "jpg":
                    keys.append(key)
                    image = Image.open(io.BytesIO(content)).resize((16, 16), Image.Resampling.BILINEAR)
                    x = (np.asarray(image) / 255 - np.array(HOW.mean)) / np.array(HOW.std)
                    vectors.append(2 * np.concatenate([x.mean((0, 1)), x[3, 5]]))
                elif suffix == "cls":
                    labels.append(int(content))
    return keys, labels, np.array(vectors)


@pytest.mark.parametrize("batch_size", [7, 16, 100])
def test_features_are_those_of_a_plain_loop(dataset: Dataset, batch_size: int) -> None:
    backbone, done = Pixels(), []
    got = features.extract(backbone, dataset, "val", HOW, batch_size=batch_size, progress=done.append)
    keys, labels, vectors = loop(dataset, "val")
    assert got.keys.tolist() == keys
    assert got.labels.tolist() == labels
    assert got.vectors.dtype == np.float32
    assert np.abs(got.vectors - vectors).max() < 2 * 1.01 / 255 / 0.1  # one level of 255
    assert np.abs(got.vectors - vectors).mean() < 2 * 0.3 / 255 / 0.1
    assert sum(done) == 16
    assert backbone.training


def test_resize_leaves_an_image_of_the_size_as_it_is() -> None:
    images = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    torch.testing.assert_close(features.resize(images, 24), images / 255, atol=1e-6, rtol=0)


def test_bf16_features_are_float32_and_near(dataset: Dataset) -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8))
    exact = features.extract(backbone, dataset, "val", HOW).vectors
    rounded = features.extract(backbone, dataset, "val", replace(HOW, precision="bf16")).vectors
    assert rounded.dtype == np.float32
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.1)


def entries(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


def test_the_cache_answers_the_second_time(dataset: Dataset, tmp_path: Path) -> None:
    first = features.cached(tmp_path / "cache", Pixels(), ARCHITECTURE, dataset, "val", HOW)
    assert len(entries(tmp_path / "cache")) == 1
    done: list[int] = []
    second = features.cached(tmp_path / "cache", Pixels(), ARCHITECTURE, dataset, "val", HOW, batch_size=3, progress=done.append)
    assert done == []
    for name in ("vectors", "labels", "keys"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_whatever_features_depend_on_makes_another_cache_entry(dataset: Dataset, tmp_path: Path) -> None:
    other_weights = Pixels()
    other_weights.scale.data += 1e-6
    other_shards = open_dataset(write_toy_shards(tmp_path / "other", size=(40, 24), seed=1))
    cases = [
        (Pixels(), ARCHITECTURE, dataset, "val", HOW),
        (other_weights, ARCHITECTURE, dataset, "val", HOW),
        (Pixels(), {"backbone": "pixels", "num_heads": 12}, dataset, "val", HOW),
        (Pixels(), ARCHITECTURE, other_shards, "val", HOW),
        (Pixels(), ARCHITECTURE, dataset, "train", HOW),
        (Pixels(), ARCHITECTURE, dataset, "val", replace(HOW, image_size=12)),
        (Pixels(), ARCHITECTURE, dataset, "val", replace(HOW, mean=(0.4, 0.5, 0.5))),
        (Pixels(), ARCHITECTURE, dataset, "val", replace(HOW, std=(0.1, 0.2, 0.4))),
        (Pixels(), ARCHITECTURE, dataset, "val", replace(HOW, precision="bf16")),
    ]
    for count, case in enumerate(cases, start=1):
        features.cached(tmp_path / "cache", *case)
        assert len(entries(tmp_path / "cache")) == count
    assert all(name.endswith(".npz") for name in entries(tmp_path / "cache"))


def test_the_same_bytes_of_another_shape_or_type_are_other_weights() -> None:
    weights = [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6, dtype=torch.int32), torch.zeros(6)]
    networks = [nn.Module() for _ in weights]
    for network, tensor in zip(networks, weights, strict=True):
        network.register_buffer("weight", tensor)
    assert len({features.fingerprint(network, ARCHITECTURE) for network in networks}) == 4


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_damaged_cache_is_computed_again(dataset: Dataset, tmp_path: Path, part: float) -> None:
    first = features.cached(tmp_path, Pixels(), ARCHITECTURE, dataset, "val", HOW)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    done: list[int] = []
    again = features.cached(tmp_path, Pixels(), ARCHITECTURE, dataset, "val", HOW, progress=done.append)
    assert sum(done) == 16
    assert np.array_equal(first.vectors, again.vectors)
    assert path.read_bytes() == whole


def test_a_cache_with_a_wrong_bit_is_computed_again(dataset: Dataset, tmp_path: Path) -> None:
    first = features.cached(tmp_path, Pixels(), ARCHITECTURE, dataset, "val", HOW)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    central = whole.index(b"PK\1\2")  # the version and the method of compression of a member follow
    for place in (whole.index(first.vectors.tobytes()), central + 6, central + 8, central + 10):
        damaged = bytearray(whole)
        damaged[place] ^= 255
        path.write_bytes(damaged)
        assert np.array_equal(features.cached(tmp_path, Pixels(), ARCHITECTURE, dataset, "val", HOW).vectors, first.vectors)


def test_a_cache_that_cannot_be_written_is_told_once_and_costs_time_only(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "features"
    for split in ("train", "val", "val"):
        got = features.cached(cache, Pixels(), ARCHITECTURE, dataset, split, HOW)
        assert np.array_equal(got.vectors, features.extract(Pixels(), dataset, split, HOW).vectors)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"Features are not kept in {cache}, so that the next command computes them again: ")


def test_an_interrupted_write_leaves_no_entry(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt):
        features.cached(tmp_path / "cache", Pixels(), ARCHITECTURE, dataset, "val", HOW)
    assert entries(tmp_path / "cache") == set()
