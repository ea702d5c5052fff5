"""Each fast path gives what its reference path gives: on the CPU where it can, and on a GPU, there on fresh random input."""

import itertools
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_networks import SHAPE, tiny_batch, tiny_settings
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY, free_port, losses, start_child
from helpers.view_images import NO_NORM, images, neutral
from PIL import Image
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from satmip_train import policies
from satmip_train.config import Settings
from satmip_train.data import transfer
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.distributed import Job
from satmip_train.evaluation import features, probes
from satmip_train.objectives import build_objective
from satmip_train.training import batches as batches_module
from satmip_train.training import speed
from satmip_train.training.batches import DataPath
from satmip_train.training.optim import build_optimizer
from satmip_train.training.plan import RunPlan, plan_run
from satmip_train.training.state import build_state
from satmip_train.training.step import Step
from satmip_train.views import apply, draws

gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))
each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])


def seeds(device: str) -> tuple[int, torch.Generator]:
    """On a GPU other numbers in every run; pytest shows the seed of a test that fails."""
    seed = 0 if device == "cpu" else int.from_bytes(os.urandom(4), "big")
    print(f"{seed=}")
    return seed, torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_toy_shards(tmp_path_factory.mktemp("toy"), {"train": 37}, shards=3, size=(24, 24)))


def plan_of(toy: Dataset, device: str, **changes: Any) -> RunPlan:
    return plan_run(Settings(**{**TINY, "objective": "satmips", "precision": "fp32", **changes}), toy, Job(torch.device(device)))


@each_device
@pytest.mark.parametrize(("tf32", "tolerance"), [(False, 3e-5), (True, 1.5e-3)])
def test_views_of_a_device_are_those_that_the_cpu_makes_one_by_one(device: str, tf32: bool, tolerance: float) -> None:
    seed, generator = seeds(device)
    policy = policies.policy("simclr-sat", 64)
    x, params = images(32, 80, 72, seed), draws.draw(policy, 32, generator, (80, 72))
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.5, 0.6, 0.4])
    expected = apply.one_by_one(x, params, policy).sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))
    with speed.tf32(tf32):
        if device == "cpu":  # what apply does on a GPU
            got = apply.batched(x, params, policy).sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))
        else:
            got = apply.apply(x.to(device), params.to(device), policy, mean.to(device), std.to(device)).cpu()
    # An edge of the colour circle may turn a rounding into a visible step; one pixel in a million does.
    difference = (got - expected).abs() * std.view(3, 1, 1)
    assert difference.quantile(0.999) <= tolerance
    assert difference.max() <= 20 * tolerance


@each_device
def test_crops_of_a_device_are_pillows_to_one_level(device: str) -> None:
    seed, generator = seeds(device)
    x, policy = images(16, 90, 70, seed), policies.policy("crop", 48)
    box = draws.draw(policies.policy("simclr-sat", 48), 16, generator, (90, 70)).box
    params = replace(neutral(16, 90, 70), box=box)
    with speed.tf32(True):
        got = apply.apply(x.to(device), params.to(device), policy, *(v.to(device) for v in NO_NORM)).cpu()
    for i, (top, left, high, wide) in enumerate(box.tolist()):
        image = Image.fromarray(x[i].permute(1, 2, 0).numpy()).crop((left, top, left + wide, top + high))
        expected = torch.from_numpy(np.array(image.resize((48, 48), Image.Resampling.BILINEAR))).permute(2, 0, 1)
        assert ((got[i] * 255).round() - expected).abs().max() <= 1


@each_device
def test_compiled_views_are_the_eager_ones(device: str) -> None:
    seed, generator = seeds(device)
    policy, x = policies.policy("simclr-sat", 32), images(24, 40, 40, seed).to(device)
    params = draws.draw(policy, 24, generator, (40, 40)).to(device)
    torch.compiler.reset()
    # On a CPU the compiler's own code takes seconds to build; tracing is what can go wrong there.
    compiled = torch.compile(apply.batched, fullgraph=True, backend="inductor" if device == "cuda" else "aot_eager")
    torch.testing.assert_close(compiled(x, params, policy), apply.batched(x, params, policy), atol=5e-5, rtol=0)


@each_device
@pytest.mark.parametrize("name", ["torch", "flash", "cudnn", "efficient"])
def test_attention_is_the_plain_formula_by_every_backend(device: str, name: str) -> None:
    """At the paper's shape: 12 heads of width 32 and 197 tokens; also with a mask, as captions have."""
    _, generator = seeds(device)
    query, key, value = torch.randn(3, 2, 12, 197, 32, generator=generator).to(device, torch.bfloat16)
    masks = [None, (torch.rand(2, 1, 1, 197, generator=generator) > 0.3).to(device)]
    for mask in masks:
        gradients = []
        for backend, dtype in (("math", torch.float32), (name, torch.bfloat16)):
            inputs = [x.to(dtype, copy=True).requires_grad_() for x in (query, key, value)]
            with speed.attention(backend):
                out = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
            out.float().square().sum().backward()
            gradients.append([out.detach().float(), *(x.grad.float() for x in inputs if x.grad is not None)])
        for expected, got in zip(*gradients, strict=True):
            assert (got - expected).norm() <= 0.02 * expected.norm()


@each_device
@pytest.mark.parametrize("objective", ["satmips", "simclr"])
def test_a_step_in_bf16_is_that_in_fp32_within_its_rounding(toy: Dataset, device: str, objective: str) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        plan = plan_of(toy, device, objective=objective, precision=precision, batch_size=32)
        state = build_state(plan)
        (batch,) = batches_module.batches(
            plan, frozenset({"image", "tokens", "key"}), range(1), DataPath(True, ""), lambda samples: None
        )
        loss = Step(plan, state)(batch)["loss"].item()
        found.append((loss, {name: x.grad.flatten() for name, x in state.objective.named_parameters() if x.grad is not None}))
    (loss, exact), (rounded, gradients) = found
    assert rounded == pytest.approx(loss, rel=0.02)
    whole, other = (torch.cat([part[name] for name in exact]) for part in (exact, gradients))
    # To a fresh network all images are nearly alike, so rounding weighs more in the first gradient than later.
    assert F.cosine_similarity(whole, other, dim=0) > 0.9


@each_device
def test_a_resident_split_gives_the_batches_of_the_stream_on_the_device(toy: Dataset, device: str) -> None:
    plan, keys = plan_of(toy, device), frozenset({"image", "tokens", "numeric", "key"})
    held, streamed = (
        batches_module.batches(plan, keys, range(2, 11), DataPath(h, ""), lambda samples: None) for h in (True, False)
    )
    for expected, got in zip(streamed, held, strict=True):
        assert got["key"] == expected["key"]
        for name in keys - {"key"}:
            assert got[name].device.type == expected[name].device.type == device
            assert torch.equal(got[name], expected[name]), name


@each_device
def test_fused_adamw_is_the_plain_one(device: str) -> None:
    seed, generator = seeds(device)
    objectives = []
    for fused in (True, False):
        torch.manual_seed(seed)
        settings = tiny_settings(objective="satmips")
        objective = build_objective(settings, SHAPE).to(device)
        optimizer = build_optimizer(objective, settings)
        for group in optimizer.param_groups:
            group.update(fused=fused, foreach=False, lr=1e-2)
        for step in range(4):
            generator.manual_seed(seed + step)
            for parameter in objective.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
            optimizer.step()
        objectives.append(objective)
    for expected, got in zip(objectives[1].parameters(), objectives[0].parameters(), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


class CountCasts(TorchDispatchMode):
    """Counts how often tensors of a shape are cast to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.casts: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") is torch.bfloat16:
            self.casts[args[0].data_ptr()] = self.casts.get(args[0].data_ptr(), 0) + 1
        return func(*args, **(kwargs or {}))


@each_device
def test_a_weight_is_cast_once_a_step_for_all_views(device: str) -> None:
    """Within one region autocast keeps what it cast; both views, captions and heads run in one."""
    objective = build_objective(tiny_settings(objective="satmips", backbone="test_vit", backbone_args={"img_size": 16}), SHAPE)
    objective.to(device)
    inputs = tiny_batch(objective)
    moved = {k: tuple(x.to(device) for x in v) if isinstance(v, tuple) else v.to(device) for k, v in inputs.items()}
    with CountCasts() as counter, torch.autocast(device, torch.bfloat16):
        loss = objective(moved)["loss"]
    loss.backward()
    counts = {name: counter.casts.get(x.data_ptr(), 0) for name, x in objective.named_parameters()}
    assert max(counts.values()) == 1
    assert all(counts[f"simclr.head.linear{i}.weight"] == 1 for i in (1, 2, 3))


@each_device
def test_results_reach_the_host_in_order_and_whole(device: str) -> None:
    _, generator = seeds(device)
    values = [torch.randn(1000, generator=generator) for _ in range(5)]
    found = list(transfer.to_host(value.to(device) * 2 for value in values))
    assert [x.device.type for x in found] == ["cpu"] * 5
    for expected, got in zip(values, found, strict=True):
        assert torch.equal(got, expected * 2)
    assert list(transfer.to_host(iter(()))) == []


class Result:
    """Stands in for a tensor of a GPU; tells what is asked of it."""

    device = torch.device("cuda")

    def __init__(self, number: int, said: list[str]) -> None:
        self.number, self.said = number, said
        said.append(f"work {number}")

    def to(self, device: str, non_blocking: bool) -> torch.Tensor:
        assert (device, non_blocking) == ("cpu", True)
        self.said.append(f"copy {self.number}")
        return torch.tensor(self.number)


def test_a_copy_to_the_host_waits_for_its_own_work_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes what is queued in its order: behind the work for the next result a copy would wait for that too."""
    said: list[str] = []
    numbers = itertools.count()

    class Event:
        def record(self) -> None:
            self.number = next(numbers)

        def synchronize(self) -> None:
            said.append(f"wait {self.number}")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    found = [int(x) for x in transfer.to_host(Result(number, said) for number in range(3))]  # type: ignore[misc]
    assert found == [0, 1, 2]
    expected = "work 0, copy 0, work 1, copy 1, wait 0, work 2, copy 2, wait 1, wait 2"
    assert ", ".join(said) == expected


@pytest.mark.parametrize(
    ("before", "pinned", "after", "expected"),
    [
        ("cpu", False, "cuda", ["pin", "to cuda, queued: True"]),
        ("cpu", True, "cuda", ["to cuda, queued: True"]),
        ("cuda", False, "cuda", ["to cuda, queued: False"]),
        ("cpu", False, "cpu", ["to cpu, queued: False"]),
        ("cuda", False, "cpu", ["to cpu, queued: False"]),
    ],
)
def test_a_copy_to_a_gpu_is_queued_out_of_pinned_memory(before: str, pinned: bool, after: str, expected: list[str]) -> None:
    class Value:
        device = torch.device(before)

        def __init__(self) -> None:
            self.said: list[str] = []

        def is_pinned(self) -> bool:
            return pinned

        def pin_memory(self) -> "Value":
            self.said.append("pin")
            return self

        def to(self, device: torch.device, non_blocking: bool = False) -> "Value":
            self.said.append(f"to {device}, queued: {non_blocking}")
            return self

    assert transfer.to_device(Value(), torch.device(after)).said == expected  # type: ignore[arg-type, attr-defined]


def test_a_batch_is_copied_while_the_one_before_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    numbers = itertools.count()
    side = SimpleNamespace(record_event=lambda: next(numbers))
    main = SimpleNamespace(wait_event=lambda number: said.append(f"wait {number}"))

    def copied(value: torch.Tensor, device: torch.device) -> torch.Tensor:
        said.append(f"copy {int(value)}")
        return value

    def batches() -> Iterator[dict[str, Any]]:
        for number in range(3):
            said.append(f"batch {number}")
            yield {"image": torch.tensor(number), "key": [str(number)]}

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext() if stream is side else None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: main)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: said.append(f"keep {int(self)}" * (stream is main)))
    monkeypatch.setattr(transfer, "to_device", copied)
    for batch in transfer.ahead(batches(), torch.device("cuda")):
        assert batch["key"] == [str(int(batch["image"]))]
        said.append(f"work {int(batch['image'])}")
    assert ", ".join(said) == (
        "batch 0, copy 0, batch 1, copy 1, wait 0, keep 0, work 0, batch 2, copy 2, wait 1, keep 1, work 1, wait 2, keep 2, work 2"
    )
    assert list(transfer.ahead(iter(()), torch.device("cuda"))) == []


@each_device
def test_probes_answer_alike_on_every_device(device: str) -> None:
    seed, _ = seeds(device)
    generator = np.random.default_rng(seed)
    centres, labels = generator.standard_normal((7, 24)), generator.integers(0, 7, 700)
    train = (centres[labels] + generator.standard_normal((700, 24))).astype(np.float32)
    test = (centres[generator.integers(0, 7, 200)] + generator.standard_normal((200, 24))).astype(np.float32)
    expected, got = (probes.knn(train, labels, test, [1, 20], classes=7, device=d) for d in ("cpu", device))
    assert all((expected[k] == got[k]).mean() >= 0.99 for k in (1, 20))
    fits = [probes.linear(train, labels, test, device=d) for d in ("cpu", device)]
    assert fits[1].loss == pytest.approx(fits[0].loss, rel=1e-6)
    assert (fits[0].predictions == fits[1].predictions).mean() >= 0.99


@each_device
def test_features_of_a_device_are_those_of_the_cpu(toy: Dataset, device: str) -> None:
    backbone = build_state(plan_of(toy, "cpu")).objective.backbone
    how = features.Input(16, toy.mean, toy.std)
    with speed.tf32(False):  # as in a command, see `join_job`
        expected, got = (features.extract(backbone, toy, "train", how, batch_size=8, device=d) for d in ("cpu", device))
    assert list(got.keys) == list(expected.keys)
    np.testing.assert_allclose(got.vectors, expected.vectors, atol=1e-3)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
def test_a_step_never_waits_for_the_gpu(toy: Dataset, device: str) -> None:
    plan = plan_of(toy, device, precision="bf16")
    step = Step(plan, build_state(plan))
    source = iter(
        batches_module.batches(plan, frozenset({"image", "tokens", "key"}), range(8), DataPath(True, ""), lambda samples: None)
    )
    for _ in range(4):  # an epoch, so that token rows of another width are compiled before
        step(next(source))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step(next(source))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
def test_batches_copied_ahead_arrive_whole_though_the_gpu_is_busy(device: str) -> None:
    _, generator = seeds(device)
    values = [torch.randint(0, 256, (64, 3, 224, 224), dtype=torch.uint8, generator=generator) for _ in range(8)]
    sums = []
    for batch in transfer.ahead(({"image": value.clone()} for value in values), torch.device(device)):
        torch.cuda._sleep(50_000_000)  # work that is still queued when the next batch is copied
        sums.append(batch["image"].sum(dtype=torch.int64))
        batch["image"].zero_()
    assert [int(x) for x in sums] == [int(value.sum(dtype=torch.int64)) for value in values]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are fewer than two GPUs")
def test_two_gpus_have_the_losses_of_one(toy: Dataset, tmp_path: Any) -> None:
    changes = {"lr_base": 0.005, "max_steps": 6, "precision": "fp32", "tf32": "off"}
    for name, ranks in (("one", 1), ("two", 2)):
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks), "DEVICE": "cuda"}
        runs = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)} for rank in range(ranks)]
        for child in [start_child(toy.root, tmp_path / name, env=env, **changes) for env in runs]:
            _, errors = child.communicate(timeout=600)
            assert child.returncode == 0, errors.decode()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
