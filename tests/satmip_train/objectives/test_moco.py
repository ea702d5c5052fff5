"""MoCo-v2 with Geo and TP: its loss, the copy that follows, the queue and ranks; its runs are in test_objectives_geo_tp."""

import functools
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers.geo_batches import LOCATION, PLACE, build, plan_of
from helpers.ranks import RESNET, SAMPLES, take
from helpers.tiny_networks import tiny_batch, tiny_settings
from helpers.toy_shards import write_toy_shards
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from satmip_train.config import recipe_names, resolve
from satmip_train.distributed import rank, synchronize_batch_norm
from satmip_train.models.weight_decay import undecayed
from satmip_train.objectives.base import Objective
from satmip_train.objectives.key_queue import KeyQueue
from satmip_train.objectives.losses import key_loss
from satmip_train.objectives.moco import MoCo
from satmip_train.objectives.sum import SumOfTerms
from satmip_train.training.micro_batch import micro_batched
from satmip_train.training.optim import build_optimizer
from satmip_train.training.speed import recompute_activations
from satmip_train.training.state import build_state

RANKS, LENGTH = 2, 20
"""Two and a half batches fit into the queue, so the third step wraps around."""
SMALL = {"queue_length": LENGTH, "key_momentum": 0.7, "temperature": 0.2, "geo_clusters": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "moco": {"objective": "moco"},
    "moco-resnet": {"objective": "moco", **RESNET},
    "moco-geo": {"objective": "moco-geo"},
    "moco-tp-masked": {"objective": "moco-tp", "mask_same_place": True},
    "moco-geo-tp": {"objective": "moco-geo-tp", "geo_weight": 0.5},
    "satmip-moco": {"objective": "satmip+moco", "moco_weight": 0.5},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))


def moco(variant: dict[str, Any] | None = None) -> SumOfTerms:
    objective = build({**SMALL, **(variant or VARIANTS["moco"])})
    assert isinstance(objective, SumOfTerms)
    return objective.train()


def term_of(objective: Objective) -> MoCo:
    term = objective.get_submodule("moco")
    assert isinstance(term, MoCo)
    return term


def project(objective: Objective, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the projections of queries and keys."""
    term, (query, key) = term_of(objective), batch["views"]
    return term.head(objective.backbone(query)), term.key_head(term.key_backbone(key))


def batch_of(objective: Objective, seed: int = 0) -> dict[str, Any]:
    return {**tiny_batch(objective, SAMPLES, seed), "place": PLACE, "location": LOCATION}


def learn_steps(
    objective: SumOfTerms, steps: int, wrapped: nn.Module | None = None, rows: slice = slice(None)
) -> list[dict[str, Tensor]]:
    """Take steps of SGD; return the parts of each, and leave the gradients of the last."""
    optimizer = build_optimizer(objective, objective.settings.model_copy(update={"optimizer": "sgd"}))
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    found = []
    for step in range(steps):
        optimizer.zero_grad()
        parts = (wrapped or objective)(take(batch_of(objective, step), rows))
        parts["loss"].backward()
        optimizer.step()
        objective.after_step()
        found.append({name: part.detach().clone() for name, part in parts.items()})
    return found


def rows_of(embeddings: Tensor) -> list[list[float]]:
    return nn.functional.normalize(embeddings.detach(), dim=1).tolist()


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def info_nce(queries: Tensor, keys: Tensor, negatives: list[list[list[float]]], temperature: float) -> float:
    """The mean over the queries, term by term; `negatives` holds those of each query."""
    terms = []
    for query, key, others in zip(rows_of(queries), rows_of(keys), negatives, strict=True):
        positive = math.exp(dot(query, key) / temperature)
        terms.append(-math.log(positive / (positive + sum(math.exp(dot(query, other) / temperature) for other in others))))
    return sum(terms) / len(terms)


# Loss


@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 7), st.integers(0, 1000))
def test_the_loss_tells_a_query_from_the_keys_that_are_there(queries: int, length: int, filled: int, seed: int) -> None:
    generator, there = torch.Generator().manual_seed(seed), min(filled, length)
    one, two, held = (torch.randn(n, 4, generator=generator) for n in (queries, queries, length))
    held = nn.functional.normalize(held, dim=1)
    same = torch.rand(queries, length, generator=generator) < 0.3
    unfilled = torch.arange(length) < length - there
    found = key_loss(one, two, held, 0.2, unfilled | same)
    kept = [[held[j].tolist() for j in range(length - there, length) if not same[i, j]] for i in range(queries)]
    assert found.item() == pytest.approx(info_nce(one, two, kept, 0.2), rel=1e-4, abs=1e-6)
    all_kept = [held[length - there :].tolist()] * queries
    assert key_loss(one, two, held, 0.2, unfilled).item() == pytest.approx(info_nce(one, two, all_kept, 0.2), rel=1e-4, abs=1e-6)


def test_only_queries_have_a_gradient_also_without_a_negative() -> None:
    one, two = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    key_loss(one, two, torch.zeros(5, 4), 0.2, torch.ones(5, dtype=torch.bool)).backward()
    assert two.grad is None
    assert one.grad is not None
    assert one.grad.abs().max() == 0


def test_a_step_is_told_from_the_keys_of_earlier_steps_and_not_from_its_own() -> None:
    objective = moco()
    learn_steps(objective, 1)
    earlier = term_of(objective).queue.keys[-SAMPLES:].tolist()
    batch = batch_of(objective, 1)
    one, two = project(objective, batch)
    assert objective(batch)["loss"].item() == pytest.approx(info_nce(one, two, [earlier] * SAMPLES, 0.2), rel=1e-4)
    assert learn_steps(moco(), 2)[0]["loss"] == 0


def test_keys_of_a_querys_place_are_left_out_on_demand() -> None:
    objective = moco(VARIANTS["moco-tp-masked"])
    assert "place" in objective.batch_keys
    first, second = learn_steps(objective, 2)
    assert first["masked_pairs"] == 0
    # Place 7 is there three times and place 3 twice, the other three once: 9 + 4 + 3 pairs of a query and a key.
    assert second["masked_pairs"] == 16
    held = list(zip(term_of(objective).queue.get_buffer("places").tolist(), term_of(objective).queue.keys.tolist(), strict=True))[
        -2 * SAMPLES :
    ]
    batch = batch_of(objective, 2)
    kept = [[key for other, key in held if other != place] for place in PLACE.tolist()]
    assert objective(batch)["loss"].item() == pytest.approx(info_nce(*project(objective, batch), kept, 0.2), rel=1e-4)
    with pytest.raises(ValueError, match="mask_same_place is off"):
        term_of(moco()).queue.same_place(PLACE)


@each_variant
def test_chance_is_the_loss_of_projections_that_give_zero_however_full_the_queue(variant: dict[str, Any]) -> None:
    objective = moco({**variant, "mask_same_place": False})
    assert objective.chance()["loss_views"] == pytest.approx(math.log(LENGTH + 1))
    for head in (term_of(objective).head, term_of(objective).key_head):
        for parameter in head.linear2.parameters():  # type: ignore[union-attr, operator]
            nn.init.zeros_(parameter)
    for negatives in (0, 8, 16, 20, 20):
        parts = objective(batch_of(objective))
        objective.after_step()
        assert objective.chance()["loss_views"] == pytest.approx(math.log(negatives + 1))
        assert parts["loss_views"].item() == pytest.approx(math.log(negatives + 1), abs=1e-5)
        assert set(objective.chance()) == {name for name in parts if name.startswith("loss")}


# Copy and queue


def test_the_copy_follows_by_the_formula_after_the_optimizer() -> None:
    objective = moco()
    queries = {name: p for name, p in objective.named_parameters() if name.startswith(("backbone.", "moco.head."))}
    names = {name: f"moco.key_{name.removeprefix('moco.')}" for name in queries}
    expected = {name: p.detach().clone() for name, p in queries.items()}
    for _ in range(3):
        learn_steps(objective, 1)
        for name, parameter in queries.items():
            expected[name] = 0.7 * expected[name] + 0.3 * parameter.detach()
            torch.testing.assert_close(objective.get_parameter(names[name]).detach(), expected[name], msg=name)
    assert not torch.equal(term_of(objective).key_head.linear1.weight, term_of(objective).head.linear1.weight)  # type: ignore[union-attr]


@each_variant
def test_the_copy_has_no_gradient_and_no_place_in_the_optimizer(variant: dict[str, Any]) -> None:
    objective = moco(variant)
    learn_steps(objective, 2)
    copy = {name for name, p in objective.named_parameters() if not p.requires_grad}
    assert copy == {name for name, _ in objective.named_parameters() if name.startswith(("moco.key_backbone.", "moco.key_head."))}
    assert {name for name, p in objective.named_parameters() if p.grad is None} == copy
    optimizer = build_optimizer(objective, objective.settings)
    names = {id(p): name for name, p in objective.named_parameters()}
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert decayed | spared == set(names.values()) - copy
    assert spared == undecayed(objective, "slip") - copy


@hypothesis_settings(deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(1, 15), max_size=8))
def test_the_queue_holds_the_newest_keys_in_their_order_for_any_batch(length: int, batches: list[int]) -> None:
    queue = KeyQueue(tiny_settings(queue_length=length, ssl_dim=3, mask_same_place=True))
    generator, expected = torch.Generator().manual_seed(0), []
    for number, rows in enumerate(batches):
        keys, places = torch.randn(rows, 3, generator=generator), torch.arange(rows) + 100 * number
        queue.add(keys, places)
        expected = [*expected, *zip(rows_of(keys), places.tolist(), strict=True)][-length:]
    assert int(queue.filled) == len(expected)
    assert queue.unfilled().tolist() == [True] * (length - len(expected)) + [False] * len(expected)
    first = length - len(expected)
    torch.testing.assert_close(queue.keys[first:], torch.tensor([key for key, _ in expected]).view(-1, 3))
    assert queue.get_buffer("places")[first:].tolist() == [place for _, place in expected]
    assert queue.keys[:first].abs().sum() == 0
    assert not queue.same_place(torch.tensor([0]))[:, :first].any()  # where there is no key, there is no place 0


class NeverWaits(TorchDispatchMode):
    """Fails where a tensor is brought to the host, or its shape depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique"), func
        return func(*args, **(kwargs or {}))


def test_a_step_never_waits_for_the_device() -> None:
    objective = moco({**VARIANTS["moco-geo-tp"], "mask_same_place": True})
    with NeverWaits():
        for step in range(3):
            objective(batch_of(objective, step))["loss"].backward()
            objective.after_step()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NeverWaits():
        objective.chance()


# What else runs the encoders


@pytest.mark.parametrize(("rows", "name"), [(1, "moco"), (3, "satmip-moco"), (100, "moco")])
def test_work_in_parts_and_recomputed_activations_change_nothing_that_is_learned(rows: int, name: str) -> None:
    plain, parts, recomputed = (moco(VARIANTS[name]) for _ in range(3))
    seen: list[int] = []
    forward = term_of(parts).key_backbone.forward
    term_of(parts).key_backbone.forward = lambda view: seen.append(len(view)) or forward(view)  # type: ignore[method-assign, func-returns-value]
    micro_batched(parts, rows)
    recompute_activations(recomputed.backbone)
    expected, got, again = (learn_steps(objective, 3) for objective in (plain, parts, recomputed))
    assert max(seen) == min(rows, SAMPLES)
    for one, two, three in zip(expected, got, again, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
        assert three == one
    torch.testing.assert_close(parts.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(recomputed.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_compilation_keeps_the_two_backbones_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = write_toy_shards(tmp_path / "shards", {"train": 40}, shards=3, size=(24, 24))
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function.__self__) or functools.partial(function))
    objective = build_state(plan_of(toy, objective="moco", compile=True)).objective
    assert isinstance(objective, SumOfTerms)
    assert compiled == [objective.backbone, term_of(objective).key_backbone]
    batch = tiny_batch(objective, SAMPLES)["views"][0]
    nn.init.zeros_(term_of(objective).key_backbone.get_parameter("norm.weight"))
    nn.init.zeros_(term_of(objective).key_backbone.get_parameter("norm.bias"))
    assert term_of(objective).key_backbone(batch).abs().max() == 0
    assert objective.backbone(batch).abs().max() > 0


def test_under_autocast_losses_and_queue_stay_float32_and_queries_learn() -> None:
    objective, exact = moco(), moco()
    learn_steps(exact, 1), learn_steps(objective, 1)
    exact_loss = exact(batch_of(exact))["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(batch_of(objective))["loss"]
    torch.testing.assert_close(loss, exact_loss, rtol=0.1, atol=0.05)
    objective.zero_grad()
    loss.backward()
    objective.after_step()
    assert (loss.dtype, term_of(objective).queue.keys.dtype, int(term_of(objective).queue.filled)) == (
        torch.float32,
        torch.float32,
        16,
    )
    torch.testing.assert_close(term_of(objective).queue.keys.norm(dim=1)[-16:], torch.ones(16))
    learning = [p for p in objective.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)
    assert max(p.grad.abs().max().item() for p in learning if p.grad is not None) > 0


# Geo and TP


def test_geo_classifies_the_query_before_it_is_normalized() -> None:
    objective = moco(VARIANTS["moco-geo"])
    batch = batch_of(objective)
    parts = objective(batch)
    query = term_of(objective).head(objective.backbone(batch["views"][0]))
    labels = objective.geo.labels(LOCATION)  # type: ignore[operator, union-attr]
    logits = objective.geo.head[1](query.relu())  # type: ignore[index, union-attr, operator]
    expected = nn.functional.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    torch.testing.assert_close(parts["loss_geo"], expected.detach())
    torch.testing.assert_close(parts["loss"].detach(), parts["loss_views"] + parts["loss_geo"])
    assert objective.chance()["loss"] == pytest.approx(math.log(3))


def test_the_key_of_tp_shows_a_partner() -> None:
    sources = {name: moco({"objective": name}).view_sources for name in ("moco", "moco-geo", "moco-tp", "moco-geo-tp")}
    assert sources == {name: ("image", "partner" if "tp" in name else "image") for name in sources}
    objective = moco()
    with pytest.raises(ValueError, match="2 views, and this one has 3"):
        objective({"views": (*batch_of(objective)["views"], torch.zeros(SAMPLES, 3, 16, 16))})


# Ranks


def trained(variant: dict[str, Any], ranks: int) -> dict[str, Any]:
    objective = moco(variant)
    own = SAMPLES // ranks
    wrapped: nn.Module = objective
    if ranks > 1:
        synchronize_batch_norm(objective)
        wrapped = nn.parallel.DistributedDataParallel(objective)
    steps = learn_steps(objective, 4, wrapped, slice(rank() * own, (rank() + 1) * own))
    gradients = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    return {"steps": steps, "gradients": gradients, "state": objective.state_dict()}


def work(here: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=here, world_size=RANKS)
    torch.save({name: trained(variant, RANKS) for name, variant in VARIANTS.items()}, f"{folder}/{here}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{here}.pt") for here in range(RANKS)]


@pytest.mark.parametrize("name", list(VARIANTS))
def test_two_ranks_have_the_losses_gradients_copy_and_queue_of_one(ranks: list[dict[str, Any]], name: str) -> None:
    expected, (one, two) = trained(VARIANTS[name], 1), (part[name] for part in ranks)
    assert expected["steps"][-1]["loss_views"] > 0.5
    for step, parts in enumerate(expected["steps"]):
        for part, value in parts.items():
            mean = (one["steps"][step][part] + two["steps"][step][part]) / 2
            torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-5, msg=lambda m, n=part: f"{n}: {m}")
    largest = max(g.abs().max().item() for g in expected["gradients"].values())
    for found in (one, two):
        assert found["gradients"].keys() == expected["gradients"].keys()
        for parameter, gradient in expected["gradients"].items():
            close = {"rtol": 1e-3, "atol": 1e-4 * largest, "msg": lambda m, n=parameter: f"{n}: {m}"}
            torch.testing.assert_close(found["gradients"][parameter], gradient, **close)  # type: ignore[arg-type]
        torch.testing.assert_close(found["state"], expected["state"], rtol=1e-3, atol=1e-4)
    # Every rank has the same queue, to the bit.
    assert all(torch.equal(one["state"][part], two["state"][part]) for part in one["state"])


def test_recipes_are_moco_v2s_own() -> None:
    names = [name for name in recipe_names() if name.startswith("moco")]
    assert names == ["moco", "moco-geo", "moco-geo-tp", "moco-tp"]
    for name in names:
        settings = resolve(name, {})
        assert settings.objective == name
        assert (settings.backbone, settings.ssl_hidden, settings.ssl_dim, settings.geo_clusters) == ("resnet50", 2048, 128, 100)
        assert (settings.queue_length, settings.key_momentum, settings.temperature) == (65_536, 0.999, 0.2)
        assert (settings.optimizer, settings.sgd_momentum, settings.peak_lr, settings.weight_decay) == ("sgd", 0.9, 0.03, 1e-4)
        assert (settings.batch_size, settings.epochs, settings.warmup_epochs, settings.lr_end) == (256, 200, 0, 0)
