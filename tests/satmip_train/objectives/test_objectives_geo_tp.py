"""Geo, TP, Geo-TP, and same-place negatives: places, clusters, losses, ranks and runs, of MoCo-v2 too."""

import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers.geo_batches import LOCATION, PLACE, build, plan_of
from helpers.ranks import SAMPLES, Result, on_one, result, take
from helpers.tiny_networks import tiny_batch, tiny_settings
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY, assert_same_state, losses
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn

from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.data.decoder import Decoder, place_id
from satmip_train.data.loader import TrainingStream
from satmip_train.data.order import Order
from satmip_train.data.places import Places, cluster_centres, read_places, sphere
from satmip_train.data.tar import Readers
from satmip_train.distributed import Job, rank, synchronize_batch_norm
from satmip_train.objectives.base import Objective
from satmip_train.objectives.geo import Geo
from satmip_train.objectives.losses import cluster_loss, metadata_image_loss, same_place, sigmoid_loss, view_loss
from satmip_train.objectives.term import Encoders, Inputs
from satmip_train.runs.log import read_log
from satmip_train.training.state import build_state
from satmip_train.training.step import Step
from satmip_train.training.train import train

RANKS = 2
VARIANTS: dict[str, dict[str, Any]] = {
    "geo": {"objective": "simclr-geo", "geo_clusters": 3},
    "geo-features": {"objective": "simclr-geo", "geo_clusters": 3, "geo_input": "features"},
    "geo-sphere-tp": {"objective": "simclr-geo-tp", "geo_clusters": 3, "geo_space": "sphere", "geo_weight": 0.5},
    "tp": {"objective": "simclr-tp"},
    "masked-simclr": {"objective": "simclr", "mask_same_place": True},
    "masked-geo-cross": {"objective": "simclr-geo", "geo_clusters": 2, "mask_same_place": True, "negatives": "cross"},
    "masked-satmip": {"objective": "satmip", "mask_same_place": True},
    "masked-siglip": {"objective": "satmip", "mask_same_place": True, "metadata_loss": "siglip"},
    "masked-satmips": {"objective": "satmips", "mask_same_place": True},
    "satmips-tp": {"objective": "satmip+simclr+tp", "metadata_weight": 2.0},
    "satmips-geo-tp": {"objective": "satmip+simclr+geo+tp", "geo_clusters": 3, "coupled": False, "mask_same_place": True},
    "satmip-geo": {"objective": "satmip+geo", "geo_clusters": 3},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
ENCODERS = Encoders(nn.Identity(), None, 8)
"""Whose term of two views has a projection of 8 numbers."""


def batch_of(objective: Objective) -> dict[str, Any]:
    return {**tiny_batch(objective, SAMPLES), "place": PLACE, "location": LOCATION}


# Places and partners


@given(st.lists(st.integers(0, 4), min_size=1, max_size=14), st.integers(1, 4), st.integers(0, 1000))
def test_partners_are_any_other_sample_of_the_place(names: list[int], shards: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = np.unique([0, *rng.integers(0, len(names) + 1, shards - 1), len(names)])
    places = Places(starts, np.unique(names, return_inverse=True)[1], np.zeros((len(names), 2)))
    positions = np.array([(s, i) for s in range(len(starts) - 1) for i in range(starts[s + 1] - starts[s])])
    seen: list[set[int]] = [set() for _ in names]
    for draw in (0.0, *rng.random(40), np.nextafter(1, 0)):
        for sample, (shard, index) in enumerate(places.partners(positions, np.full(len(names), draw))):
            assert 0 <= index < starts[shard + 1] - starts[shard]
            seen[sample].add(int(starts[shard] + index))
    for sample, found in enumerate(seen):
        others = {other for other, name in enumerate(names) if name == names[sample] and other != sample}
        assert found <= (others or {sample})
        assert len(others) > 4 or found == (others or {sample})


def test_partners_are_equally_likely() -> None:
    places = Places(np.array([0, 5]), np.zeros(5, np.int64), np.zeros((5, 2)))
    positions = np.array([(0, 2)] * 4000)
    found = places.partners(positions, (np.arange(4000) + 0.5) / 4000)[:, 1]
    assert np.bincount(found, minlength=5).tolist() == [1000, 1000, 0, 1000, 1000]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_shards(tmp_path_factory.mktemp("toy") / "shards", {"train": 40}, shards=3, size=(24, 24))


def test_places_of_a_split_are_those_of_its_samples(toy: Path) -> None:
    dataset = open_dataset(toy)
    places, readers = read_places(dataset, "train"), Readers(dataset, "train")
    positions = [(s, i) for s, shard in enumerate(readers.shards) for i in range(shard.samples)]
    batch = Decoder(frozenset({"place", "location", "key"})).batch(readers, positions)
    assert places.starts.tolist() == [0, 14, 27, 40]
    assert (places.place[:, None] == places.place).tolist() == (batch["place"][:, None] == batch["place"]).tolist()
    np.testing.assert_allclose(places.location, batch["location"].numpy(), rtol=1e-6)
    assert batch["place"][0] == place_id("train_0_0")
    assert read_places(dataset, "train") is places


def test_a_sample_without_a_location_lies_nowhere(tmp_path: Path) -> None:
    dataset = open_dataset(write_toy_shards(tmp_path, {"train": 12}, missing=0.5))
    readers = Readers(dataset, "train")
    known = [json.loads(readers[0].read(i, "json"))["metadata"]["location"] is not None for i in range(readers.shards[0].samples)]
    found = ~np.isnan(read_places(dataset, "train").location[: len(known)]).any(axis=1)
    assert found.tolist() == known
    assert 0 < sum(known) < len(known)


def test_the_stream_gives_partners_whatever_the_ranks(toy: Path) -> None:
    dataset = open_dataset(toy)
    readers, places = Readers(dataset, "train"), read_places(dataset, "train")
    counts = tuple(shard.samples for shard in readers.shards)

    def batches(ranks: int, step: int) -> list[dict[str, Any]]:
        orders = [Order(counts, 8, 5, 2, here, ranks) for here in range(ranks)]
        decoder = Decoder(frozenset({"image", "partner", "place"}))
        return [TrainingStream(readers, order, decoder, places)[step] for order in orders]

    everything = Decoder(frozenset({"image", "place"}))
    stored = everything.batch(readers, [(s, i) for s, n in enumerate(counts) for i in range(n)])
    for step in (0, 7):
        (one,), two = batches(1, step), batches(2, step)
        assert torch.equal(one["partner"], torch.cat([part["partner"] for part in two]))
        for image, partner, place in zip(one["image"], one["partner"], one["place"], strict=True):
            same = [i for i in range(40) if torch.equal(stored["image"][i], partner)]
            assert stored["place"][same].tolist() == [place.item()]
            assert not torch.equal(image, partner)


# Clusters


def test_labels_are_the_nearest_centre_and_unknown_locations_have_none() -> None:
    rng = np.random.default_rng(0)
    locations = np.stack([rng.uniform(-180, 180, 300), rng.uniform(-90, 90, 300)], axis=1)
    locations[::7] = np.nan
    for space in ("raw", "sphere"):
        classifier = Geo(tiny_settings(geo_clusters=20, geo_space=space), ENCODERS)
        classifier.fit_locations(locations)
        centres = cluster_centres(locations, 20, space, 0)
        labels = classifier.labels(torch.tensor(locations, dtype=torch.float32)).tolist()
        for location, label in zip(locations, labels, strict=True):
            point = sphere(location[None])[0] if space == "sphere" else location
            expected = -1 if np.isnan(location[0]) else int(np.argmin([((point - c) ** 2).sum() for c in centres]))
            assert label == expected
        assert len(set(labels)) == 21


def test_centres_a_hundred_metres_apart_are_told_apart() -> None:
    classifier = Geo(tiny_settings(geo_clusters=40, geo_space="raw"), ENCODERS)
    classifier.centres = torch.stack([170 + 0.001 * torch.arange(40), torch.full((40,), 60.0)], dim=1)
    assert classifier.labels(classifier.centres).tolist() == list(range(40))


def test_clusters_of_the_sphere_know_no_date_line() -> None:
    rng = np.random.default_rng(0)
    locations = np.stack([rng.choice([-179.5, 179.5, 0.0], 300), rng.normal(0, 1, 300)], axis=1)
    by_line = {}
    for space in ("raw", "sphere"):
        classifier = Geo(tiny_settings(geo_clusters=2, geo_space=space), ENCODERS)
        classifier.fit_locations(locations)
        east, west = classifier.labels(torch.tensor([[179.5, 0.0], [-179.5, 0.0]])).tolist()
        by_line[space] = east == west
    assert by_line == {"raw": False, "sphere": True}


def test_fewer_locations_than_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--geo-clusters 5\. Use --geo-clusters 2"):
        cluster_centres(np.array([[0.0, 1], [0, 1], [3, 3], [np.nan, np.nan]]), 5, "raw", 0)
    as_many = cluster_centres(np.array([[0.0, 1], [0, 1], [3, 3], [np.nan, np.nan]]), 2, "raw", 0)
    assert sorted(as_many.tolist()) == [[0, 1], [3, 3]]
    classifier = Geo(tiny_settings(geo_clusters=5), ENCODERS)
    with pytest.raises(ValueError, match="Call fit before the first step"):
        classifier.labels(torch.zeros(2, 2))


def test_clusters_are_saved_with_the_weights() -> None:
    objective = build(VARIANTS["geo"])
    assert objective.state_dict()["geo.centres"].shape == (3, 2)
    other = build({**VARIANTS["geo"], "seed": 5})
    other.load_state_dict(objective.state_dict())
    torch.testing.assert_close(other.get_buffer("geo.centres"), objective.get_buffer("geo.centres"))


def test_cluster_loss_is_the_mean_over_labelled_samples() -> None:
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1, -1, 3, 0, -1])
    labelled = [(row, label) for row, label in zip(logits.tolist(), labels.tolist(), strict=True) if label >= 0]
    terms = [-math.log(math.exp(row[label]) / sum(map(math.exp, row))) for row, label in labelled]
    assert cluster_loss(logits, labels).item() == pytest.approx(sum(terms) / 3)
    assert cluster_loss(logits, torch.full((5,), -1)).item() == 0


# Same-place negatives


def unit(rows: Tensor) -> list[list[float]]:
    return nn.functional.normalize(rows, dim=1).tolist()


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def anchored(logit: Any, i: int, others: list[int]) -> float:
    """Eq. 1 with the positive i and the negatives `others`."""
    return -math.log(math.exp(logit(i)) / (math.exp(logit(i)) + sum(math.exp(logit(j)) for j in others)))


def test_masked_losses_are_those_without_the_pairs_of_a_place() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, SAMPLES, 6, generator=generator)
    excluded, (x, y) = same_place(PLACE), (unit(a), unit(b))
    others = [[j for j in range(SAMPLES) if PLACE[j] != PLACE[i]] for i in range(SAMPLES)]
    clip = [
        (anchored(lambda j, i=i: 3 * dot(x[i], y[j]), i, others[i]) + anchored(lambda j, i=i: 3 * dot(y[i], x[j]), i, others[i]))
        / 2
        for i in range(SAMPLES)
    ]
    assert metadata_image_loss(a, b, 3.0, "exact", excluded).item() == pytest.approx(np.mean(clip), rel=1e-5)
    assert view_loss(a, b, 1 / 3, "cross", excluded).item() == pytest.approx(np.mean(clip), rel=1e-5)
    both = []
    for one, two in ((x, y), (y, x)):
        for i in range(SAMPLES):
            negatives = sum(math.exp(3 * dot(one[i], two[j])) + math.exp(3 * dot(one[i], one[j])) for j in others[i])
            positive = math.exp(3 * dot(one[i], two[i]))
            both.append(-math.log(positive / (positive + negatives)))
    assert view_loss(a, b, 1 / 3, "both", excluded).item() == pytest.approx(np.mean(both), rel=1e-5)
    siglip = 0.0
    for i in range(SAMPLES):
        for j in [i, *others[i]]:
            logit = 3 * dot(x[i], y[j]) - 1
            siglip += math.log1p(math.exp(-logit if i == j else logit))
    found = sigmoid_loss(a, b, torch.tensor(3.0), torch.tensor(-1.0), excluded)
    assert found.item() == pytest.approx(siglip / SAMPLES, rel=1e-5)


def test_pairs_are_counted_over_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("satmip_train.objectives.term.world_size", lambda: 3)
    inputs = Inputs(build(VARIANTS["masked-satmips"]), {"place": PLACE}, 0, (0, 1))
    inputs.leave_out(torch.eye(4, 12, dtype=torch.bool))
    assert float(inputs.logged["masked_pairs"]) == 12.0
    assert inputs.excluded is inputs.excluded is not None
    assert float(inputs.logged["masked_pairs"]) == 12.0 + 3 * 8


def test_without_pairs_of_a_place_masking_changes_nothing_and_the_number_of_pairs_is_logged() -> None:
    for name in ("masked-simclr", "masked-satmip", "masked-siglip", "masked-satmips"):
        masked, plain = build(VARIANTS[name]), build({**VARIANTS[name], "mask_same_place": False})
        batch = batch_of(masked)
        # Three samples of place 7 and two of place 3: 3 x 2 + 2 x 1 ordered pairs.
        assert masked(batch)["masked_pairs"].item() == 8
        fewer, all_pairs = masked(batch), plain(batch)
        assert all(fewer[part].item() < all_pairs[part].item() for part in fewer if part.startswith("loss"))
        alone = masked({**batch, "place": torch.arange(SAMPLES)})
        assert alone.pop("masked_pairs").item() == 0
        torch.testing.assert_close(alone, plain(batch))


# Objectives


@each_variant
def test_every_parameter_learns_from_the_keys_that_are_named(variant: dict[str, Any]) -> None:
    objective = build(variant)
    batch = batch_of(objective)
    parts = objective({key: value for key, value in batch.items() if key == "views" or key in objective.batch_keys})
    assert [name for name, part in parts.items() if part.requires_grad] == ["loss"]
    assert all(part.shape == () and part.dtype == torch.float32 for part in parts.values())
    assert set(objective.chance()) == {name for name in parts if name.startswith("loss")}
    parts["loss"].backward()
    assert [name for name, parameter in objective.named_parameters() if parameter.grad is None] == []
    for key in objective.batch_keys:
        with pytest.raises(KeyError, match=key):
            objective({name: value for name, value in batch.items() if name != key})


def test_geo_classifies_the_projection_of_the_first_view_before_it_is_normalized() -> None:
    objective = build(VARIANTS["geo"])
    batch = batch_of(objective)
    parts = objective(batch)
    first = objective.simclr.head(objective.backbone(batch["views"][0]))  # type: ignore[operator]
    labels = objective.geo.labels(LOCATION)  # type: ignore[operator, union-attr]
    logits = objective.geo.head[1](first.relu())  # type: ignore[index, union-attr, operator]
    expected = nn.functional.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    torch.testing.assert_close(parts["loss_geo"], expected.detach())
    torch.testing.assert_close(parts["loss"].detach(), parts["loss_views"] + parts["loss_geo"])
    assert objective.chance()["loss_geo"] == pytest.approx(math.log(3))


@pytest.mark.parametrize("objective", ["simclr-geo", "simclr-geo-tp", "moco-geo", "moco-geo-tp"])
def test_geo_classifies_the_features_of_the_first_view_on_demand(objective: str) -> None:
    built = build({"objective": objective, "geo_clusters": 3, "geo_input": "features", "queue_length": SAMPLES})
    batch = batch_of(built)
    features = built.backbone(batch["views"][0])
    layer = built.geo.head[1]  # type: ignore[index, union-attr]
    labels = built.geo.labels(LOCATION)  # type: ignore[operator, union-attr]
    terms = []
    for row, label in zip((features @ layer.weight.T + layer.bias).tolist(), labels.tolist(), strict=True):
        if label >= 0:
            terms.append(math.log(sum(map(math.exp, row))) - row[label])
    assert built(batch)["loss_geo"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_views_are_made_of_what_the_objective_says() -> None:
    sources = {name: build({"objective": name, "geo_clusters": 2}).view_sources for name in ("simclr", "simclr-geo", "simclr-tp")}
    assert sources == {"simclr": ("image",) * 2, "simclr-geo": ("image",) * 2, "simclr-tp": ("image", "partner")}
    assert build(VARIANTS["geo-sphere-tp"]).view_sources == ("image", "partner")


# Ranks


def on_ranks(variant: dict[str, Any]) -> Result:
    objective = synchronize_batch_norm(build(variant))
    assert isinstance(objective, Objective)
    own = SAMPLES // RANKS
    wrapped = nn.parallel.DistributedDataParallel(objective)
    parts = wrapped(take(batch_of(objective), slice(rank() * own, (rank() + 1) * own)))
    parts["loss"].backward()
    for part in parts.values():
        dist.all_reduce(part.detach())
        part.detach().div_(RANKS)
    return result(objective, parts)


def work(here: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=here, world_size=RANKS)
    torch.save({name: on_ranks(variant) for name, variant in VARIANTS.items()}, f"{folder}/{here}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Result]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{here}.pt") for here in range(RANKS)]


@pytest.mark.parametrize("name", list(VARIANTS))
def test_two_ranks_give_the_loss_and_the_gradients_of_one(ranks: list[dict[str, Result]], name: str) -> None:
    objective = build(VARIANTS[name])
    parts = objective(batch_of(objective))
    parts["loss"].backward()
    expected = result(objective, parts)
    largest = max(g.abs().max().item() for g in expected["gradients"].values())
    for one_rank in ranks:
        torch.testing.assert_close(one_rank[name]["parts"], expected["parts"], rtol=1e-5, atol=1e-5)
        for parameter, gradient in expected["gradients"].items():
            found = one_rank[name]["gradients"][parameter]
            torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-5 * largest, msg=lambda m, n=parameter: f"{n}: {m}")


def test_the_plain_objectives_are_as_before() -> None:
    torch.testing.assert_close(on_one({"objective": "simclr-tp"}), on_one({"objective": "simclr"}))


def learn(shards: Path, steps: int, **changes: Any) -> tuple[list[float], Objective]:
    """Return the losses of the first steps of a run, and what it learned."""
    plan = plan_of(shards, **changes)
    state = build_state(plan)
    decoder = replace(plan.decoder, keys=state.objective.batch_keys | set(state.objective.view_sources))
    stream = TrainingStream(Readers(plan.dataset, "train"), plan.order, decoder, read_places(plan.dataset, "train"))
    step = Step(plan, state)
    return [float(step(stream[number])["loss"]) for number in range(steps)], state.objective


@pytest.mark.parametrize("objective", ["simclr-geo", "simclr-tp", "moco-geo-tp", "satmip+simclr+geo+tp", "satmip+moco"])
def test_it_learns_what_chance_cannot(toy: Path, objective: str) -> None:
    changes = {"batch_size": 20, "epochs": 40, "lr_base": 0.03, "policy": "crop", "weight_decay": 0.0}
    found, learned = learn(toy, 80, objective=objective, queue_length=100, key_momentum=0.9, **changes)
    assert np.mean(found[-8:]) < 0.8 * learned.chance()["loss"]


@pytest.mark.parametrize("base", ["simclr", "moco"])
def test_tp_without_partners_is_its_base(tmp_path: Path, base: str) -> None:
    # Four samples of four classes show four places.
    alone = write_toy_shards(tmp_path / "alone", {"train": 4}, shards=2, size=(24, 24))
    (one, plain), (two, tp) = (learn(alone, 4, objective=name, batch_size=4, epochs=4) for name in (base, f"{base}-tp"))
    assert one == two
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), tp.state_dict().values(), strict=True))


@pytest.mark.parametrize(("base", "steps"), [("simclr", 1), ("moco", 3)])  # the first of MoCo, without negatives, has a loss of 0
def test_tp_with_partners_is_another_run(toy: Path, base: str, steps: int) -> None:
    assert learn(toy, steps, objective=base)[0] != learn(toy, steps, objective=f"{base}-tp")[0]


def test_a_stopped_run_goes_on_to_the_same_weights(toy: Path, tmp_path: Path) -> None:
    def go_on(folder: str, last: int) -> Path:
        settings = Settings(**{**TINY, "objective": "simclr-geo-tp", "geo_clusters": 4, "max_steps": last, "mask_same_place": True})
        assert train(settings, open_dataset(toy), tmp_path / folder, Job(torch.device("cpu")), Console(file=io.StringIO())) == 0
        return tmp_path / folder

    whole = go_on("whole", 7)
    go_on("parts", 3)
    assert_same_state(whole, go_on("parts", 7))
    assert losses(whole) == losses(tmp_path / "parts")
    assert {"loss_geo", "masked_pairs"} <= set(read_log(whole)[0])
