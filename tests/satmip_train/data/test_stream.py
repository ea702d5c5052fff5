"""Shards to batches: the order of samples, loader processes, captions to tokens."""

import gc
import io
import json
import os
import signal
import tarfile
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import webdataset
from helpers.toy_shards import replace_shard, tar_bytes, write_toy_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

import satmip_train
from satmip_data.metadata.captions import caption
from satmip_data.metadata.serialize import metadata_from_json
from satmip_train.data.captions import CaptionReader, caption_reader, caption_statistics, captions, token_ids
from satmip_train.data.dataset import open_dataset
from satmip_train.data.decoder import Decoder, _pixels, column_numbers, place_id
from satmip_train.data.loader import TrainingStream, loader, ordered_batches
from satmip_train.data.order import HIDE, PARTNER, Order, epoch_order
from satmip_train.data.tar import Readers
from satmip_train.errors import UsageError

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
ALL = {"image", "tokens", "numeric", "mask", "categorical", "place", "label", "key"}


# --- the order of samples


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 99), st.integers(0, 9), st.integers(1, 12))
def test_an_epoch_has_every_sample_once_and_reads_few_shards_at_a_time(counts, seed, epoch, block):
    order = epoch_order(counts, seed, epoch, block)
    assert Counter(map(tuple, order.tolist())) == Counter((s, i) for s, n in enumerate(counts) for i in range(n))
    first = {int(shard): row for row, shard in reversed(list(enumerate(order[:, 0])))}
    last = {int(shard): row for row, shard in enumerate(order[:, 0])}
    assert max(sum(first[s] <= row <= last[s] for s in first) for row in range(len(order))) <= block


def test_epochs_and_seeds_differ():
    counts = (20, 20, 20)
    orders = [epoch_order(counts, seed, epoch, 2).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert orders[0] == epoch_order(counts, 0, 0, 2).tolist()


def test_each_use_and_each_step_draws_numbers_of_its_own():
    order = Order((20,), 4, seed=0, block=1)
    drawn = [order.draws(step, use).tolist() for step in (0, 1) for use in (PARTNER, HIDE)]
    assert all(a != b for i, a in enumerate(drawn) for b in drawn[:i])
    assert drawn[0] == order.draws(0, PARTNER).tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 20))
def test_ranks_share_the_global_batch(counts, ranks, size, step):
    if sum(counts) < ranks * size:
        return
    one = Order(tuple(counts), ranks * size, 3, 2)
    shares = [replace(one, rank=r, ranks=ranks).share(step) for r in range(ranks)]
    assert np.concatenate(shares).tolist() == one.share(step).tolist()
    assert one.steps_per_epoch * one.batch_size + one.dropped == sum(counts)


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_run_from_any_step(toy, workers):
    readers = Readers(open_dataset(toy), "train")
    order = Order(tuple(s.samples for s in readers.shards), 4, 0, 2)
    stream = TrainingStream(readers, order, Decoder(frozenset({"key"})))
    whole = [batch["key"] for batch in loader(stream, range(12), 0)]
    assert [batch["key"] for batch in loader(stream, range(3, 12), workers)] == whole[3:]
    for epoch in (whole[:5], whole[5:10]):
        assert len({key for batch in epoch for key in batch}) == 20


class _Killed(torch.utils.data.Dataset):
    def __getitem__(self, step):
        os.kill(os.getpid(), signal.SIGKILL)


@FORKS
def test_a_killed_loader_process_gives_advice():
    with pytest.raises(UsageError, match=r"probably because memory ran out \(\d+\.\d of \d+\.\d GB in use\).*--workers"):
        next(loader(_Killed(), range(2), 1))


# --- decoding


def _reference(toy, split):
    """Every sample of a split as webdataset reads it."""
    urls = sorted(map(str, (toy / split).glob("*.tar")))
    # webdataset leaves its last file to the garbage collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
        gc.collect()
    return samples


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_ordered_batches_are_what_webdataset_reads(toy, workers):
    dataset = open_dataset(toy)
    captions = replace(caption_reader(dataset, None), context=100)
    columns = tuple(range(len(dataset.numeric))), tuple(range(len(dataset.categorical)))
    batches = list(ordered_batches(dataset, "train", ALL, 4, workers, captions=captions, columns=columns))
    assert [len(b["key"]) for b in batches] == [4] * 5 + [1]
    whole = {k: torch.cat([b[k] for b in batches]) for k in ALL - {"key"}} | {"key": [k for b in batches for k in b["key"]]}
    reference = _reference(toy, "train")
    assert whole["key"] == [sample["__key__"] for sample in reference]
    for i, sample in enumerate(reference):
        with Image.open(io.BytesIO(sample["jpg"])) as image:
            assert (whole["image"][i].numpy() == np.asarray(image).transpose(2, 0, 1)).all()
        for key, suffix in (("numeric", "num.npy"), ("mask", "mask.npy"), ("categorical", "cat.npy")):
            assert (whole[key][i].numpy() == np.load(io.BytesIO(sample[suffix]))).all()
        ids = token_ids(sample["txt"].decode())
        assert whole["tokens"][i].tolist() == ids + [0] * (100 - len(ids))
        assert whole["label"][i] == int(sample["cls"])
        assert whole["place"][i] == place_id(json.loads(sample["json"])["place"])
    assert (whole["numeric"].dtype, whole["mask"].dtype, whole["categorical"].dtype) == (torch.float32, torch.bool, torch.int64)


@FORKS
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its last file to the garbage collector
@pytest.mark.parametrize("workers", [0, 2])
def test_webdatasets_pipeline_gives_the_decoded_samples_that_our_reader_gives(toy, workers):
    dataset = open_dataset(toy)
    columns = tuple(range(len(dataset.numeric))), tuple(range(len(dataset.categorical)))
    (ours,) = ordered_batches(dataset, "train", ALL - {"tokens"}, 100, columns=columns)
    pipeline = satmip_train.as_webdataset(dataset if workers else str(toy), "train", shardshuffle=3, seed=0).shuffle(10)
    found = list(DataLoader(pipeline, batch_size=None, num_workers=workers, collate_fn=dict))
    gc.collect()
    keys = [sample["__key__"] for sample in found]
    assert sorted(keys) == sorted(ours["key"])
    assert keys != ours["key"]
    samples = dict(zip(keys, found, strict=True))
    for i, key in enumerate(ours["key"]):
        sample = samples[key]
        assert np.array_equal(np.moveaxis(np.asarray(sample["jpg"]), 2, 0), ours["image"][i])
        for name, suffix in (("numeric", "num.npy"), ("mask", "mask.npy"), ("categorical", "cat.npy")):
            assert np.array_equal(sample[suffix], ours[name][i])
        assert sample["cls"] == ours["label"][i]
        assert place_id(sample["json"]["place"]) == ours["place"][i]
        record = metadata_from_json(sample["json"]["metadata"])
        assert sample["txt"] == caption(record, dataset.caption_fields, dataset.caption_style)
    with pytest.raises(UsageError, match="other"):
        satmip_train.as_webdataset(toy, "other")


def test_a_sample_without_a_label_has_label_minus_one(tmp_path):
    dataset = open_dataset(write_toy_shards(tmp_path, {"train": 3}, classes=()))
    (batch,) = ordered_batches(dataset, "train", {"label"}, 8)
    assert batch["label"].tolist() == [-1, -1, -1]


def test_the_labels_of_a_multi_label_set_are_multi_hot(tmp_path):
    dataset = open_dataset(write_toy_shards(tmp_path / "toy", {"train": 2}, shards=1))
    rows = [np.array([1, 0, 1], np.uint8), np.array([0, 0, 1], np.uint8)]
    members = []
    for key, row in zip("ab", rows, strict=True):
        buffer = io.BytesIO()
        np.save(buffer, row)
        members.append((f"{key}.labels.npy", buffer.getvalue()))
    replace_shard(tmp_path / "toy", "train/000000.tar", tar_bytes(members, tarfile.USTAR_FORMAT))
    dataset = open_dataset(tmp_path / "toy")
    (batch,) = ordered_batches(dataset, "train", {"labels", "label"}, 2)
    assert (batch["labels"].tolist(), batch["label"].tolist()) == ([[1, 0, 1], [0, 0, 1]], [-1, -1])


def test_chips_of_differing_size_and_damaged_chips_are_refused(tmp_path):
    def chip(size):
        buffer = io.BytesIO()
        Image.new("L", size).save(buffer, "JPEG")
        return buffer.getvalue()

    root = write_toy_shards(tmp_path / "toy", {"train": 2}, shards=1)
    for second, message in ((chip((8, 9)), "8 x 8 and 8 x 9"), (b"no image", "Cannot decode the chip b ")):
        replace_shard(root, "train/000000.tar", tar_bytes([("a.jpg", chip((8, 8))), ("b.jpg", second)], tarfile.USTAR_FORMAT))
        dataset = open_dataset(root)
        with pytest.raises(UsageError, match=message):
            list(ordered_batches(dataset, "train", {"image"}, 2))
    (batch, _) = ordered_batches(dataset, "train", {"key", "label"}, 1)
    assert batch["key"] == ["a"]


def test_columns_are_chosen_by_field(toy):
    dataset = open_dataset(toy)
    numeric, categorical = column_numbers(dataset, ("location", "country_code"))
    assert [dataset.numeric[i].name for i in numeric] == ["longitude", "latitude"]
    assert [dataset.categorical[i].name for i in categorical] == ["country_code"]
    assert dataset.categorical[categorical[0]].cardinality == 5
    assert len(column_numbers(dataset, None)[0]) == 9
    with pytest.raises(UsageError, match='Unknown field "height"'):
        column_numbers(dataset, ("height",))


def test_place_id_is_63_bits_and_stable():
    assert place_id("airport_1") == place_id("airport_1") != place_id("airport_2")
    assert 0 <= place_id("x") < 2**63


# --- tokens


def test_tokens_are_padded_and_never_cut():
    ids = token_ids("gsd: 1")
    assert CaptionReader(("gsd",), True, 8).tokens("gsd: 1").tolist() == ids + [0] * (8 - len(ids))
    assert CaptionReader(("gsd",), True, len(ids)).tokens("gsd: 1").tolist() == ids
    assert (ids[0], ids[-1]) == (49406, 49407)
    assert CaptionReader(("gsd",), True, 4).tokens("").tolist() == [49406, 49407, 0, 0]
    with pytest.raises(UsageError, match=rf"{len(ids)} tokens.* 3\."):
        CaptionReader(("gsd",), True, 3).tokens("gsd: 1")


def test_caption_statistics_are_in_the_tokens_of_the_encoder_that_reads_them(toy, copy, monkeypatch):
    monkeypatch.setattr("satmip_train.data.captions.token_ids", lambda text, model: [*text] if model else [])
    listed = open_dataset(copy(lambda data: data["caption"].update(longest={"tokens": 2, "key": "x"})))
    longest = max(len(sample["txt"].decode()) for sample in _reference(toy, "train"))
    assert caption_statistics(listed, "train", caption_reader(listed, None, "a model")).longest == longest


def test_caption_statistics_are_of_the_fields_that_are_read(toy, copy):
    dataset = open_dataset(toy)
    texts = [sample["txt"].decode() for sample in _reference(toy, "train")]
    found = caption_statistics(dataset, "train", caption_reader(dataset, None))
    assert (found.longest, found.empty) == (max(len(token_ids(t)) for t in texts), texts.count(""))
    assert 0 < found.empty < len(texts)
    gsd = caption_reader(dataset, ("gsd",))
    cut = [t.split(", timestamp")[0] for t in texts]
    assert caption_statistics(dataset, "train", gsd).longest == max(len(token_ids(t)) for t in cut) < found.longest
    listed = open_dataset(copy(lambda data: data["caption"].update(longest={"tokens": 99, "key": "x"})))
    assert caption_statistics(listed, "train", caption_reader(listed, None)).longest == 99
    assert caption_statistics(listed, "train", caption_reader(listed, ("gsd",))).longest < 99


def test_captions_of_any_fields_and_style_are_those_that_the_data_side_writes(toy):
    dataset = open_dataset(toy)
    records = [metadata_from_json(json.loads(sample["json"])["metadata"]) for sample in _reference(toy, "train")]
    for fields, style in ((("gsd", "cloud_cover"), "key-value"), (("location",), "sentence"), (dataset.caption_fields, "sentence")):
        found = [*captions(dataset, "train", caption_reader(dataset, fields, style=style))]
        assert found == [caption(record, fields, style) for record in records]


class WhereItLies:
    """A stream that says for each step whether the bytes to be filled lie in shared memory."""

    def __getitem__(self, step):
        return _pixels((2, 3)).is_shared()


@FORKS
@pytest.mark.parametrize("workers", [0, 1])
def test_pixels_lie_in_shared_memory_in_a_worker_alone(workers):
    assert list(loader(WhereItLies(), range(2), workers)) == [workers == 1] * 2
