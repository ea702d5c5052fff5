"""A split held on the device gives the batches of the stream, and the same weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY, assert_same_state
from rich.console import Console

from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.data.decoder import column_numbers
from satmip_train.data.loader import ordered_batches
from satmip_train.data.places import Places
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.objectives import OBJECTIVES
from satmip_train.training import batches as batches_module
from satmip_train.training.batches import DataPath
from satmip_train.training.plan import plan_run
from satmip_train.training.train import train

CPU = Job(torch.device("cpu"))
KEYS = frozenset({"image", "partner", "key", "place"})
METADATA = {"text": {"tokens"}, "tabular": {"numeric", "mask", "categorical"}}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return open_dataset(write_toy_shards(tmp_path_factory.mktemp("toy"), {"train": 37}, shards=3, size=(24, 24)))


def plan_of(toy, job=CPU, **changes):
    return plan_run(Settings(**{**TINY, "objective": "satmips", **changes}), toy, job)


def batches(plan, keys, steps, held):
    return list(batches_module.batches(plan, keys, steps, DataPath(held, ""), lambda samples: None))


@pytest.mark.parametrize("encoder", ["text", "tabular"])
@pytest.mark.parametrize(("trim", "shuffle"), [(True, False), (False, False), (True, True)])
def test_a_resident_split_gives_the_batches_of_the_stream(toy, encoder, trim, shuffle):
    keys, steps = KEYS | METADATA[encoder], range(2, 11)  # from within the first epoch to within the third
    for rank in range(2):
        plan = plan_of(toy, replace(CPU, rank=rank, ranks=1), metadata_encoder=encoder, trim_tokens=trim, shuffle_metadata=shuffle)
        plan = replace(plan, order=replace(plan.order, rank=rank, ranks=2))
        streamed, held = batches(plan, keys, steps, False), batches(plan, keys, steps, True)
        assert len(streamed) == len(held) == len(steps)
        for expected, got in zip(streamed, held, strict=True):
            assert got.keys() == expected.keys() == keys
            assert got["key"] == expected["key"]
            for name in keys - {"key"}:
                assert torch.equal(got[name], expected[name]), name


@pytest.mark.parametrize("held", [True, False])
def test_shuffled_metadata_are_those_of_another_place_and_the_rest_is_the_samples_own(toy, held):
    keys = frozenset({"image", "place", "numeric", "mask", "key"})
    (own,) = ordered_batches(toy, "train", keys, 37, columns=column_numbers(toy, None))
    number = {key: i for i, key in enumerate(own["key"])}
    record = {tuple(row.tolist()): i for i, row in enumerate(own["numeric"])}
    assert len(record) == 37
    found = {}
    for batch in batches(plan_of(toy, metadata_encoder="tabular", shuffle_metadata=True), keys, range(8), held):
        for i, key in enumerate(batch["key"]):
            mine, told = number[key], record[tuple(batch["numeric"][i].tolist())]
            assert torch.equal(batch["image"][i], own["image"][mine])
            assert batch["place"][i] == own["place"][mine] != own["place"][told]
            assert found.setdefault(mine, told) == told  # the same in every epoch
    assert len(set(found.values())) == len(found) > 30


def test_metadata_of_one_place_cannot_be_shuffled_between_places():
    places = Places(np.array([0, 5]), np.array([0, 0, 0, 1, 1]), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="one place has 3 of 5 samples"):
        places.strangers(0)


def test_tokens_are_cut_to_the_longest_of_the_batch(toy):
    plan = plan_of(toy)
    (whole,) = batches(plan_of(toy, trim_tokens=False), frozenset({"tokens", "key"}), range(1), True)
    (cut,) = batches(plan, frozenset({"tokens", "key"}), range(1), True)
    width = cut["tokens"].shape[1]
    longest = int((whole["tokens"] != 0).sum(1).max())
    assert longest <= width <= whole["tokens"].shape[1] == plan.shape.context
    assert width % 8 == 0 or width == plan.shape.context
    assert (whole["tokens"][:, width:] == 0).all()
    assert torch.equal(whole["tokens"][:, :width], cut["tokens"])
    assert batches_module.lengths(torch.tensor([[7, 0, 9, 0, 0], [7, 9, 0, 0, 0], [0, 0, 0, 0, 0]])).tolist() == [3, 2, 0]
    assert [batches_module.trimmed_width(n, 77) for n in (1, 8, 9, 72, 73, 77)] == [8, 8, 16, 72, 77, 77]


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_both_paths_train_to_the_same_weights_and_either_goes_on_from_the_other(toy, tmp_path, objective):
    def run(name, **changes):
        short = {"geo_clusters": 3, "queue_length": 20, "epochs": 2, "log_every": 4}
        settings = Settings(**{**TINY, "objective": objective, **short, **changes})
        assert train(settings, toy, tmp_path / name, CPU, Console(quiet=True)) == 0

    run("stream", data="stream")
    run("resident", data="resident")
    run("both", data="resident", max_steps=3)
    run("both", data="stream", max_steps=None)
    assert_same_state(tmp_path / "stream", tmp_path / "resident")
    assert_same_state(tmp_path / "stream", tmp_path / "both")


def test_a_split_is_resident_where_that_pays_and_fits(toy, monkeypatch):
    size = 37 * 24 * 24 * 3
    monkeypatch.setattr(batches_module, "free_memory", lambda job: 4 * size)
    assert batches_module.choose(plan_of(toy), 0).resident
    assert not batches_module.choose(plan_of(toy, max_steps=4), 0).resident
    assert "read once" in str(batches_module.choose(plan_of(toy), 8))
    assert str(batches_module.choose(plan_of(toy, data="stream"), 0)) == "stream: asked for"
    monkeypatch.setattr(batches_module, "free_memory", lambda job: 4 * size - 4)
    assert not batches_module.choose(plan_of(toy), 0).resident
    assert batches_module.choose(plan_of(toy, data="resident"), 0).resident
    monkeypatch.setattr(batches_module, "free_memory", lambda job: size)
    with pytest.raises(UsageError, match="Use --data stream"):
        batches_module.choose(plan_of(toy, data="resident"), 0)


def test_ranks_of_one_machine_share_its_memory():
    alone = batches_module.free_memory(CPU)
    assert 1e8 < alone < 1e14
    assert abs(batches_module.free_memory(replace(CPU, ranks_on_machine=4)) - alone / 4) < 0.2 * alone
