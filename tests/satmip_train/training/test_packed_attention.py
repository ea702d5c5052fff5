"""Our own attention for few tokens: what its kernels compute, what they are put into, and what refuses them."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_networks import SHAPE, tiny_settings
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY

from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.models.backbones import create_backbone
from satmip_train.objectives import build_objective
from satmip_train.training import attention
from satmip_train.training.plan import plan_run
from satmip_train.training.state import build_state
from satmip_train.training.step import Step

pytest.importorskip("triton")

from satmip_train.training.packed_attention import PackedAttention, pack

HERE = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def interpreted() -> dict[str, list[float]]:
    run = subprocess.run(
        [sys.executable, str(HERE / "helpers/interpreted_attention.py")], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout.splitlines()[-1]))


def test_the_kernels_give_the_formula_and_its_gradient(interpreted: dict[str, list[float]]) -> None:
    """Forward and backward by Triton's interpreter in float32, in every configuration, beside float64."""
    found = {name: apart for name, apart in interpreted.items() if not name.startswith("timm")}
    assert len(found) == 4 * 3
    assert max(max(apart) for apart in found.values()) < 3e-6


@pytest.mark.parametrize("compiled", [False, True])
def test_a_network_with_them_has_timms_features_and_gradients(interpreted: dict[str, list[float]], compiled: bool) -> None:
    apart = interpreted[f"timm, {compiled=}"]
    assert len(apart) == 31
    assert max(apart) < 1e-5


def test_the_kernels_compile_for_a_gpu_and_spill_nothing() -> None:
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import gpu_schedule; print(json.dumps([*gpu_schedule.own_kernels()]))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(HERE / "benchmarks")], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert len(found) == 5
    assert all(0 < registers <= 255 and spilled == 0 for _, registers, spilled in found)


def test_weights_keep_their_names_and_a_cpu_its_numbers() -> None:
    torch.manual_seed(0)
    whole = create_backbone(tiny_settings())
    ours = copy.deepcopy(whole)
    pack(ours)
    assert {type(block.attn) for block in ours.blocks} == {PackedAttention}  # type: ignore[union-attr]
    assert list(ours.state_dict()) == list(whole.state_dict())
    views = torch.randn(3, 3, *ours.patch_embed.img_size)  # type: ignore[union-attr, misc]
    assert torch.equal(ours(views), whole(views))
    mask = torch.rand(1, 1, 5, 5) > 0.3
    one, other = ours.blocks[0].attn, whole.blocks[0].attn  # type: ignore[index]
    tokens = torch.randn(2, 5, one.qkv.in_features)
    assert torch.equal(one(tokens, attn_mask=mask), other(tokens, attn_mask=mask))
    assert not torch.equal(one(tokens, mask), one(tokens))


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "resnet10t", "backbone_args": {}},
        {"backbone_args": {"qk_norm": True}},
        {"backbone_args": {"scale_attn_norm": True}},
    ],
)
def test_networks_that_compute_otherwise_stay_as_they_are(changes: dict[str, Any]) -> None:
    with torch.device("meta"):
        backbone = create_backbone(Settings(**changes))
    pack(backbone)
    assert not any(isinstance(part, PackedAttention) for part in backbone.modules())


@pytest.mark.parametrize(
    ("shape", "device", "dtype", "reason"),
    [
        ((12, 197, 32), CUDA, torch.bfloat16, None),
        ((12, 197, 32), CUDA, torch.float16, None),
        ((12, 197, 32), CUDA, torch.float32, "in bf16 or fp16 on a GPU, however: torch.float32 on cuda"),
        ((12, 197, 32), CPU, torch.bfloat16, "in bf16 or fp16 on a GPU, however: torch.bfloat16 on cpu"),
        ((12, 257, 32), CUDA, torch.bfloat16, r"256 tokens at most .*\(12, 257, 32\)"),
        ((12, 197, 80), CUDA, torch.bfloat16, r"heads of \(16, 32, 64\) numbers"),
        (None, CUDA, torch.bfloat16, "takes a ViT .*None"),
    ],
)
def test_what_it_cannot_do_is_said(
    shape: tuple[int, int, int] | None, device: torch.device, dtype: torch.dtype, reason: str | None
) -> None:
    found = attention.obstacle(shape, device, dtype)
    if reason is None:
        assert found is None
    else:
        with pytest.raises(ValueError, match=reason):
            raise ValueError(found)


def test_without_triton_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    assert attention.obstacle((12, 197, 32), CUDA, torch.bfloat16) == "needs Triton, however: it is not installed"


def test_a_run_that_asks_for_it_in_vain_ends_with_advice(tmp_path: Path) -> None:
    toy = open_dataset(write_toy_shards(tmp_path, {"train": 37}, shards=1, size=(24, 24)))
    plan = plan_run(Settings(**{**TINY, "attention": "packed"}), toy, Job(CPU))
    with pytest.raises(UsageError, match=r"attention packed runs in bf16 or fp16 on a GPU, however: .*\. Pass --attention auto"):
        Step(plan, build_state(plan))


def test_it_is_put_into_every_image_encoder() -> None:
    objective = build_objective(tiny_settings(objective="moco"), SHAPE)
    attention.install("flash", objective.image_encoders)
    assert not any(isinstance(part, PackedAttention) for part in objective.modules())
    attention.install("packed", objective.image_encoders)
    for encoder in (objective.backbone, objective.moco.key_backbone):
        assert any(isinstance(part, PackedAttention) for part in encoder.modules())  # type: ignore[union-attr]
