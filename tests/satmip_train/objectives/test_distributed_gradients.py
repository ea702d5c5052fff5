"""Two ranks and four give the losses and the gradients of one: gloo processes on the CPU, with DDP and synchronized batch norms."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers.ranks import RESNET, SAMPLES, Result, build, on_one, result, take
from helpers.tiny_networks import tiny_batch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from satmip_train.distributed import gather, own_rows, rank, synchronize_batch_norm, world_size
from satmip_train.objectives import losses
from satmip_train.objectives.base import Objective

WORLDS = (4, 2)
"""Numbers of ranks; the processes of the larger one serve the smaller one too, since starting them is what takes time."""
VARIANTS: dict[str, dict[str, Any]] = {
    "simclr": {"objective": "simclr"},
    "simclr-cross": {"objective": "simclr", "negatives": "cross"},
    "simclr-resnet": {"objective": "simclr", **RESNET},
    "satmip": {"objective": "satmip"},
    "satmip-tabular": {"objective": "satmip", "metadata_encoder": "tabular"},
    "satmip-siglip": {"objective": "satmip", "metadata_loss": "siglip"},
    "satmips": {"objective": "satmips"},
    "satmips-tp": {"objective": "satmip+simclr+tp"},
    "satmips-decoupled": {"objective": "satmips", "coupled": False, "metadata_encoder": "tabular"},
}
SLIP = {"objective": "satmip", "loss_gather": "slip"}
Worlds = dict[int, list[dict[str, Result]]]
"""For each number of ranks what each rank found."""


def on_ranks(variant: dict[str, Any]) -> Result:
    objective = synchronize_batch_norm(build(variant))
    assert isinstance(objective, Objective)
    wrapped = nn.parallel.DistributedDataParallel(objective)
    own = SAMPLES // world_size()
    parts = wrapped(take(tiny_batch(objective, SAMPLES), slice(rank() * own, (rank() + 1) * own)))
    parts["loss"].backward()
    # The loss is a mean over a rank's own rows; over all rows it is the mean over the ranks.
    for part in parts.values():
        dist.all_reduce(part.detach())
        part.detach().div_(world_size())
    return result(objective, parts)


def gathered(here: int) -> Result:
    """What `gather` gives, and the gradient of a loss that weighs every row by the rank that looks at it."""
    rows = torch.arange(6.0).reshape(2, 3).add(10 * here).requires_grad_()
    everyone = gather(rows)
    ((here + 1) * everyone * torch.arange(1.0, 2 * world_size() + 1)[:, None]).sum().backward()
    assert rows.grad is not None
    return {
        "gather": {"rows": rows.detach(), "everyone": everyone.detach(), "own": own_rows(everyone).detach(), "gradient": rows.grad}
    }


def embedding_gradients() -> Result:
    """Gradients of the global metadata-image loss of spread-out embeddings, for a rank's own rows and both ways to gather."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(2, 32, 64, generator=generator)
    pairs[1] += 0.3 * pairs[0]
    size = 32 // world_size()
    own = slice(rank() * size, (rank() + 1) * size)
    found: Result = {}
    for way in ("exact", "slip"):
        image, metadata = (rows[own].clone().requires_grad_() for rows in pairs)
        scale = torch.tensor(1 / 0.07, requires_grad=True)
        # DDP averages over the ranks.
        (losses.metadata_image_loss(image, metadata, scale, way) / world_size()).backward()  # type: ignore[arg-type]
        assert image.grad is not None
        assert metadata.grad is not None
        assert scale.grad is not None
        found[way] = {"image": image.grad, "metadata": metadata.grad, "scale": scale.grad}
    return found


def work(here: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    for size in WORLDS:
        if here < size:
            dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{size}", rank=here, world_size=size)
            results: dict[str, Result] = {name: on_ranks(variant) for name, variant in VARIANTS.items()}
            results["slip"] = on_ranks(SLIP)
            results["gather"] = gathered(here)
            results["embeddings"] = embedding_gradients()
            torch.save(results, f"{folder}/{size}-{here}.pt")
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=max(WORLDS))
    return {size: [torch.load(folder / f"{size}-{here}.pt") for here in range(size)] for size in WORLDS}


@pytest.fixture(params=WORLDS)
def ranks(worlds: Worlds, request: pytest.FixtureRequest) -> list[dict[str, Result]]:
    return worlds[request.param]


def flat(gradients: dict[str, Tensor], *prefixes: str) -> Tensor:
    return torch.cat([g.flatten() for name, g in gradients.items() if name.startswith(prefixes)])


def test_one_process_is_rank_0_of_1() -> None:
    rows = torch.ones(2, 3)
    assert (rank(), world_size()) == (0, 1)
    assert gather(rows) is rows


def test_gather_returns_the_rows_of_all_ranks_and_sums_their_gradients(ranks: list[dict[str, Result]]) -> None:
    parts = [r["gather"]["gather"] for r in ranks]
    everyone = torch.cat([p["rows"] for p in parts])
    for here, part in enumerate(parts):
        torch.testing.assert_close(part["everyone"], everyone)
        torch.testing.assert_close(part["own"], part["rows"])
        # Rank 0 weighs every row once, rank 1 twice ...; row i also has the factor i + 1.
        weight = sum(range(1, len(ranks) + 1))
        expected = weight * torch.arange(2.0 * here + 1, 2 * here + 3)[:, None].expand(2, 3)
        torch.testing.assert_close(part["gradient"], expected)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_ranks_give_the_loss_and_the_gradients_of_one(ranks: list[dict[str, Result]], name: str) -> None:
    expected = on_one(VARIANTS[name])
    largest = max(g.abs().max().item() for g in expected["gradients"].values())
    for one_rank in ranks:
        torch.testing.assert_close(one_rank[name]["parts"], expected["parts"], rtol=1e-5, atol=1e-5)
        assert one_rank[name]["gradients"].keys() == expected["gradients"].keys()
        for parameter, gradient in expected["gradients"].items():
            found = one_rank[name]["gradients"][parameter]
            torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-5 * largest, msg=lambda m, n=parameter: f"{n}: {m}")


@pytest.mark.parametrize("name", [name for name in VARIANTS if "satmip" not in name or "satmips" in name])
def test_batch_norms_keep_the_statistics_of_the_global_batch(ranks: list[dict[str, Result]], name: str) -> None:
    expected = on_one(VARIANTS[name])["buffers"]
    assert any("running_var" in buffer for buffer in expected)
    for one_rank in ranks:
        torch.testing.assert_close(one_rank[name]["buffers"], expected, rtol=1e-4, atol=1e-5)


def test_without_synchronization_the_gradients_would_differ() -> None:
    # The tests above can fail: batch norms over half a batch give another gradient.
    halves = build(VARIANTS["simclr"])
    batch = tiny_batch(halves, SAMPLES)
    for rows in (slice(0, 4), slice(4, 8)):
        (halves(take(batch, rows))["loss"] / 2).backward()
    found = result(halves, {})["gradients"]
    expected = on_one(VARIANTS["simclr"])["gradients"]
    assert (flat(found, "") - flat(expected, "")).norm() > 0.1 * flat(expected, "").norm()


def test_slip_gather_gives_half_the_gradient_of_spread_out_embeddings(ranks: list[dict[str, Result]]) -> None:
    # Half holds once embeddings are spread out. Where they are alike it may be less: docs/ambiguities.md has measurements.
    for one_rank in ranks:
        exact, slip = one_rank["embeddings"]["exact"], one_rank["embeddings"]["slip"]
        for side in ("image", "metadata"):
            assert (slip[side].norm() / exact[side].norm()).item() == pytest.approx(0.5, abs=0.05)
            assert torch.cosine_similarity(slip[side].flatten(), exact[side].flatten(), dim=0).item() > 0.9
        torch.testing.assert_close(slip["scale"], exact["scale"])


@pytest.mark.parametrize("way", ["exact", "slip"])
def test_gradients_of_embeddings_are_the_same_on_two_ranks_and_on_four(worlds: Worlds, way: str) -> None:
    # So SLIP's half stays a half: it is the part of anchors, and candidates have none from two ranks on.
    two, four = (
        {side: torch.cat([r["embeddings"][way][side] for r in worlds[size]]) for side in ("image", "metadata")} for size in (2, 4)
    )
    torch.testing.assert_close(two, four)


def test_slip_gather_gives_the_same_loss_and_the_same_gradient_of_the_temperature(ranks: list[dict[str, Result]]) -> None:
    exact = on_one({**SLIP, "loss_gather": "exact"})
    for one_rank in ranks:
        slip = one_rank["slip"]
        torch.testing.assert_close(slip["parts"], exact["parts"])
        torch.testing.assert_close(slip["gradients"]["matching.logit_scale"], exact["gradients"]["matching.logit_scale"])
        assert (flat(slip["gradients"], "backbone") - flat(exact["gradients"], "backbone")).norm() > 0.1


def test_slip_gather_is_the_gradient_of_fixed_candidates(ranks: list[dict[str, Result]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_gather", lambda embeddings, _: embeddings.detach())
    expected = on_one(SLIP)["gradients"]
    for one_rank in ranks:
        torch.testing.assert_close(flat(one_rank["slip"]["gradients"], ""), flat(expected, ""), rtol=1e-3, atol=1e-5)


def test_on_one_process_slip_gather_changes_nothing() -> None:
    torch.testing.assert_close(on_one(SLIP), on_one({**SLIP, "loss_gather": "exact"}))


def test_synchronized_batch_norms_keep_their_names() -> None:
    objective = build(VARIANTS["satmips"])
    names = list(objective.state_dict())
    assert list(synchronize_batch_norm(objective).state_dict()) == names


def test_off_the_cpu_torchs_synchronized_batch_norms_are_used_and_fused_activations_kept() -> None:
    # The meta device stands for a GPU: only types are looked at.
    fused = nn.Sequential(nn.Linear(4, 4, device="meta"), BatchNormAct2d(4, act_layer=nn.SiLU, device="meta"))
    plain = nn.Sequential(nn.Linear(4, 4, device="meta"), nn.BatchNorm1d(4, device="meta"))
    for module in (fused, plain):
        names = list(module.state_dict())
        converted = synchronize_batch_norm(module)
        assert isinstance(converted[1], nn.SyncBatchNorm)  # type: ignore[index]
        assert list(converted.state_dict()) == names
    assert isinstance(fused[1].act, nn.SiLU)
