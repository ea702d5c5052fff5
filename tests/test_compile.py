"""What is compiled for a GPU is one graph each, traced once; the compiler's own code is not run here but where there is a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
from test_augment import images
from test_train_resume import TINY
from torch._dynamo.testing import CompileCounterWithBackend
from toy_shards import write_toy_shards

from satmip_train import augment, resident
from satmip_train.backbones import create_backbone
from satmip_train.config import Settings
from satmip_train.job import Job
from satmip_train.log import read_log
from satmip_train.plan import plan_run
from satmip_train.resident import DataPath
from satmip_train.shards import Dataset, open_dataset
from satmip_train.train import train

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


def test_views_are_one_graph_whatever_was_drawn(traced: CompileCounterWithBackend) -> None:
    policy, x = augment.policy("simclr-sat", 32), images(7, 40, 40)
    compiled: Callable[..., torch.Tensor] = torch.compile(augment.batched)
    for seed in range(3):
        params = augment.draw(policy, 7, torch.Generator().manual_seed(seed), (40, 40))
        expected = augment.batched(x, params, policy)
        torch.testing.assert_close(compiled(x, params, augment.policy("simclr-sat", 32)), expected, atol=1e-6, rtol=0)
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


@pytest.mark.parametrize("changes", [{}, {"micro_batch": 4, "grad_checkpointing": True}], ids=str)
def test_a_run_is_compiled_once_also_where_knn_is_evaluated(
    toy: Dataset, traced: CompileCounterWithBackend, tmp_path: Any, changes: dict[str, Any]
) -> None:
    runs = []
    for number, compiled in enumerate((True, False)):
        settings = Settings(**{**TINY, **changes, "compile": compiled, "epochs": 2, "knn_every": 1})
        train(settings, toy, tmp_path / str(number), CPU, Console(quiet=True))
        runs.append(read_log(tmp_path / str(number)))
    assert traced.frame_count == 1
    assert [line["loss"] for line in runs[0]] == pytest.approx([line["loss"] for line in runs[1]], rel=1e-4)
    assert ["knn" in line for line in runs[0]] == [False] * 3 + [True] + [False] * 3 + [True]


def test_images_of_all_batches_of_both_data_paths_have_one_layout(toy: Dataset) -> None:
    """Another shape or stride would be another graph of the views."""
    layouts = set()
    for held in (True, False):
        plan = plan_run(Settings(**{**TINY, "objective": "satmips"}), toy, CPU)
        for batch in resident.batches(plan, frozenset({"image", "key"}), range(9), DataPath(held, ""), lambda samples: None):
            layouts.add((batch["image"].shape, batch["image"].stride()))
    assert len(layouts) == 1


def test_token_rows_have_few_widths(toy: Dataset) -> None:
    """Each width is another choice of kernels; the text encoder is not compiled."""
    plan = plan_run(Settings(**{**TINY, "objective": "satmips", "batch_size": 16}), toy, CPU)
    keys = frozenset({"tokens", "key"})
    steps = range(40)
    widths = {b["tokens"].shape[1] for b in resident.batches(plan, keys, steps, DataPath(True, ""), lambda samples: None)}
    assert plan.shape.context is not None
    assert widths <= {resident.trimmed_width(n, plan.shape.context) for n in range(1, plan.shape.context + 1)}
    assert len(widths) <= 2 <= -(-plan.shape.context // 8)
