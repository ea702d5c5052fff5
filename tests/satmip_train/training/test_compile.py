"""What is compiled for a GPU is one graph each, traced once; the compiler's own code is not run here but where there is a GPU."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_networks import SHAPE, tiny_batch, tiny_settings
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import CHILD, PATIENCE, TINY, free_port, losses
from helpers.view_images import images
from rich.console import Console
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_inductor_cache
from torch.nn import functional as F

import satmip_train.training.plan
from satmip_train import policies
from satmip_train.config import Settings
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.models.backbones import create_backbone
from satmip_train.models.metadata_encoders import MetadataShape, TextEncoder
from satmip_train.objectives import build_objective
from satmip_train.runs.log import read_log
from satmip_train.training import batches, speed
from satmip_train.training.batches import DataPath
from satmip_train.training.plan import plan_run
from satmip_train.training.speed import compile_encoders, compiler_errors, set_compile_cache_tag
from satmip_train.training.state import build_state
from satmip_train.training.step import Step
from satmip_train.training.train import train
from satmip_train.views import apply, draws

CPU = Job(torch.device("cpu"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_toy_shards(tmp_path_factory.mktemp("toy"), {"train": 37, "val": 21}, shards=3, size=(24, 24)))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Let torch.compile trace whole functions, forward and backward, and count its graphs, but run what it traced as it is."""
    torch.compiler.reset()
    counter, compiler = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compiler(f, fullgraph=True, backend=counter))
    return counter


def test_views_are_one_graph_whatever_was_drawn(traced: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "one_by_one", apply.batched)  # as on a GPU
    policy, x, mean, std = policies.policy("simclr-sat", 32), images(7, 40, 40), torch.rand(3), torch.rand(3) + 0.5
    compiled: Callable[..., Tensor] = torch.compile(apply.apply)
    for seed in range(3):
        params = draws.draw(policy, 7, torch.Generator().manual_seed(seed), (40, 40))
        expected = apply.apply(x, params, policy, mean, std)
        with torch.autocast("cpu", torch.bfloat16):
            got = compiled(x, params, policies.policy("simclr-sat", 32), mean, std)
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert traced.frame_count == 1


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_the_papers_trunk_is_one_graph_forward_and_backward(
    traced: CompileCounterWithBackend, precision: torch.dtype | None
) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(Settings(backbone_args={"num_heads": 12, "depth": 2}))
    views, compiled = torch.randn(4, 3, 224, 224), torch.compile(backbone.forward)
    found = []
    for forward in (backbone.forward, compiled, compiled):
        backbone.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision is not None):
            features = forward(views)
        features.float().square().sum().backward()
        found.append([features.detach(), *(parameter.grad.clone() for parameter in backbone.parameters())])  # type: ignore[union-attr]
    for other in found[1:]:
        for expected, got in zip(found[0], other, strict=True):
            torch.testing.assert_close(got, expected)
    assert traced.frame_count == 1


def test_the_textual_encoder_is_one_graph_for_each_of_the_first_widths_and_then_one_for_all(
    traced: CompileCounterWithBackend,
) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(Settings(text_layers=2, text_width=32, text_heads=4), MetadataShape(40, 0, ()))
    compiled, graphs = torch.compile(encoder.features), []
    for width in (16, 16, 24, 32, 40):
        tokens = torch.randint(1, 400, (6, width)) * (torch.arange(width) < torch.randint(5, width, (6, 1)))
        found = []
        for features in (encoder.features, compiled):
            encoder.zero_grad()
            out = features(tokens)
            out.square().sum().backward()
            found.append([out.detach(), *(p.grad.clone() for p in encoder.parameters() if p.grad is not None)])
        for expected, got in zip(*found, strict=True):
            torch.testing.assert_close(got, expected)
        graphs.append(traced.frame_count)
    assert graphs == [1, 1, 2, 2, 2]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch 2.11's own
def test_a_budget_keeps_fewer_activations_and_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compiler(f, fullgraph=True, backend="aot_eager_decomp_partition"))
    inputs, kept, found = None, [], []
    for budget in (1.0, 0.5, 0.0):
        torch.compiler.reset()
        torch.manual_seed(0)
        objective = build_objective(tiny_settings(objective="satmips"), SHAPE)
        compile_encoders(objective, budget)
        inputs, sizes = inputs or tiny_batch(objective), []
        weights = {parameter.data_ptr() for parameter in objective.parameters()}

        def keep(x: Tensor, sizes: list[int] = sizes, weights: set[int] = weights) -> Tensor:
            sizes.append(0 if x.data_ptr() in weights else x.nbytes)
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss = objective(inputs)["loss"]
        loss.backward()
        kept.append(sum(sizes))
        found.append([loss.detach(), *(p.grad for p in objective.parameters() if p.grad is not None)])
    assert kept[1] < 0.9 * kept[0]
    assert kept[2] < 0.9 * kept[1]
    for other in found[1:]:
        for expected, got in zip(found[0], other, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    compile_encoders(objective)


def test_a_budget_without_a_compiler_is_refused(toy: Dataset) -> None:
    with pytest.raises(UsageError, match=r"--activation-budget 0.5 .*--compile"):
        plan_run(Settings(**{**TINY, "activation_budget": 0.5}), toy, CPU)


@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_run_is_compiled_by_default_on_a_gpu_where_triton_is(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, device: str, there: bool, asked: bool | None
) -> None:
    monkeypatch.setattr(satmip_train.training.plan, "find_spec", lambda name: object() if there and name == "triton" else None)
    plan = plan_run(Settings(**{**TINY, "compile": asked, "precision": "fp32"}), toy, Job(torch.device(device)))
    assert plan.compiled == (device == "cuda" and there if asked is None else asked)


def test_a_compiler_that_fails_is_told_of_with_the_way_out(toy: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("Failed to find C compiler")

    compiler = torch.compile
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", lambda f: compiler(f, backend=fails))
    with pytest.raises(UsageError, match=r"torch.compile failed.*C compiler.*--no-compile"):
        train(Settings(**{**TINY, "compile": True}), toy, tmp_path, CPU, Console(quiet=True))


def test_a_compiler_that_a_signal_stopped_with_the_run_is_no_error(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped(graph: Any, inputs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("C++ compile error")

    compiler = torch.compile
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", lambda f: compiler(f, backend=stopped))
    assert train(Settings(**{**TINY, "compile": True}), toy, tmp_path, CPU, Console(quiet=True)) == signal.SIGTERM


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="out of memory"), compiler_errors():
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("changes", [{}, {"micro_batch": 4, "grad_checkpointing": True}], ids=str)
def test_a_run_is_compiled_once_also_where_knn_is_evaluated(
    toy: Dataset, traced: CompileCounterWithBackend, tmp_path: Any, changes: dict[str, Any]
) -> None:
    runs = []
    for number, compiled in enumerate((True, False)):
        settings = Settings(**{**TINY, **changes, "compile": compiled, "epochs": 2, "knn_every": 1})
        train(settings, toy, tmp_path / str(number), CPU, Console(quiet=True))
        runs.append(read_log(tmp_path / str(number)))
    assert traced.frame_count == 2  # the backbone and the textual encoder
    assert [line["loss"] for line in runs[0]] == pytest.approx([line["loss"] for line in runs[1]], rel=1e-4)
    assert ["knn" in line for line in runs[0]] == [False] * 3 + [True] + [False] * 3 + [True]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch 2.11's own
def test_attention_and_precision_tell_graphs_on_the_disk_apart(toy: Dataset) -> None:
    tags = set()
    for changes in ({}, {"attention": "math"}, {"precision": "bf16"}):
        plan = plan_run(Settings(**{**TINY, "compile": True, **changes}), toy, CPU)
        Step(plan, build_state(plan))
        tags.add(torch.compiler.config.cache_key_tag)
    assert len(tags) == 3


def test_a_tag_of_the_users_own_goes_on_to_tell_graphs_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler.config, "cache_key_tag", "")
    monkeypatch.setenv("TORCH_COMPILE_CACHE_KEY_TAG", "mine")
    set_compile_cache_tag("attention math", "bf16")
    assert torch.compiler.config.cache_key_tag == "mine, attention math, bf16"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch 2.11's own
def test_a_graph_on_the_disk_is_not_taken_for_another_attention() -> None:
    """By itself torch would take it, whatever was in use around the code that it compiles."""
    found, x = [], torch.randn(2, 3, 5, 8)
    with fresh_inductor_cache():
        for name in ("flash", "flash", "math"):
            torch.compiler.reset()
            counters.clear()
            set_compile_cache_tag(name)
            # The plain formula would have to be built by a C++ compiler.
            with speed.attention("flash"):
                torch.compile(lambda x: F.scaled_dot_product_attention(x, x, x))(x)
            found.append(counters["aot_autograd"]["autograd_cache_hit"])
    assert found == [0, 1, 0]


SMALL_BUCKETS = """
import functools
import torch
import torch.distributed
from satmip_train.training import state

compiler = torch.compile
torch.compile = lambda function: compiler(function, backend="aot_eager")
torch.distributed._DEFAULT_FIRST_BUCKET_BYTES = 1024
state.DistributedDataParallel = functools.partial(state.DistributedDataParallel, bucket_cap_mb=0.002)
"""


def test_two_ranks_compiled_have_the_losses_of_one(toy: Dataset, tmp_path: Path) -> None:
    """As by default on several GPUs. Under DDP torch cuts a graph where a bucket of gradients ends, here after a few kilobytes."""
    settings = {**TINY, "lr_base": 0.005, "max_steps": 4}
    train(Settings(**settings), toy, tmp_path / "one", CPU, Console(quiet=True))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    command = [
        sys.executable,
        "-c",
        SMALL_BUCKETS + CHILD,
        toy.root,
        str(tmp_path / "two"),
        json.dumps({**settings, "compile": True}),
        "-1",
    ]
    ranks = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=PATIENCE)
        assert rank.returncode == 0, errors.decode()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_images_of_all_batches_of_both_data_paths_have_one_layout(toy: Dataset) -> None:
    """Another shape or stride would be another graph of the views."""
    layouts = set()
    for held in (True, False):
        plan = plan_run(Settings(**{**TINY, "objective": "satmips"}), toy, CPU)
        for batch in batches.batches(plan, frozenset({"image", "key"}), range(9), DataPath(held, ""), lambda samples: None):
            layouts.add((batch["image"].shape, batch["image"].stride()))
    assert len(layouts) == 1


def test_token_rows_have_few_widths(toy: Dataset) -> None:
    """Each width is another choice of kernels."""
    plan = plan_run(Settings(**{**TINY, "objective": "satmips", "batch_size": 16}), toy, CPU)
    keys = frozenset({"tokens", "key"})
    steps = range(40)
    widths = {b["tokens"].shape[1] for b in batches.batches(plan, keys, steps, DataPath(True, ""), lambda samples: None)}
    assert plan.shape.context is not None
    assert widths <= {batches.trimmed_width(n, plan.shape.context) for n in range(1, plan.shape.context + 1)}
    assert len(widths) <= 2 <= -(-plan.shape.context // 8)


@pytest.mark.parametrize(("device", "native", "expected"), [("cuda", True, "bf16"), ("cuda", False, "fp16"), ("cpu", True, "fp32")])
def test_precision_is_the_fast_one_that_the_device_has(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, device: str, native: bool, expected: str
) -> None:
    """A GPU that only emulates bf16 says that it supports it, unless asked for more."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert plan_run(Settings(**{**TINY, "precision": "auto"}), toy, Job(torch.device(device))).precision == expected
