"""The schedule against SLIP's arrays, the groups of weight decay by name, and the optimizer."""

import numpy as np
import pytest
import torch
from helpers.tiny_networks import SHAPE, tiny_settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from satmip_train.config import Settings
from satmip_train.models.backbones import create_backbone
from satmip_train.models.heads import ssl_head
from satmip_train.models.metadata_encoders import MetadataShape, TabularEncoder, TextEncoder
from satmip_train.models.weight_decay import undecayed
from satmip_train.objectives import build_objective
from satmip_train.training.optim import build_optimizer, doubts, learning_rate, load_optimizer


def schedule(settings: Settings, steps_per_epoch: int, warmup_epochs: int, epochs: int) -> list[float]:
    """All rates of a run as one array: a linspace, then half a cosine over what is left."""
    warmup = np.linspace(settings.lr_start, settings.peak_lr, warmup_epochs * steps_per_epoch)
    left = np.arange(epochs * steps_per_epoch - len(warmup))
    cosine = settings.lr_end + (settings.peak_lr - settings.lr_end) * (1 + np.cos(np.pi * left / max(len(left), 1))) / 2
    return [*warmup.tolist(), *cosine.tolist()]


@hypothesis_settings(deadline=None)
@given(steps=st.integers(1, 30), warmup=st.integers(0, 3), more=st.integers(0, 5))
def test_learning_rates_are_slips(steps: int, warmup: int, more: int) -> None:
    settings, epochs = tiny_settings(warmup_epochs=warmup, lr_base=0.02), warmup + more
    found = [learning_rate(step, steps, epochs * steps, settings) for step in range(epochs * steps)]
    assert found == pytest.approx(schedule(settings, steps, warmup, epochs), rel=1e-9)


def test_learning_rates_of_the_papers_run() -> None:
    settings, steps = Settings(), 363_572 // 1024
    total = 200 * steps
    assert (steps, total) == (355, 71_000)
    assert learning_rate(0, steps, total, settings) == 1e-6
    assert learning_rate(354, steps, total, settings) == pytest.approx(7.5e-4)
    assert learning_rate(355, steps, total, settings) == pytest.approx(7.5e-4)
    assert learning_rate(355 + (total - 355) // 2, steps, total, settings) == pytest.approx((7.5e-4 + 1e-5) / 2, rel=1e-4)
    assert learning_rate(total - 1, steps, total, settings) == pytest.approx(1e-5, rel=1e-4)


def test_a_schedule_that_rises_at_its_end_or_never_gets_to_its_peak_is_told() -> None:
    small = tiny_settings(lr_base=3.125e-5, batch_size=64)
    assert [doubt.split(",")[0] for doubt in doubts(10, 100, small)] == ["the learning rate rises after the warm-up"]
    assert learning_rate(99, 10, 100, small) > small.peak_lr
    assert doubts(10, 9, tiny_settings(lr_end=0.0)) == [
        "the warm-up of 10 steps is longer than the run of 9, which never gets to its peak rate"
    ]
    assert doubts(10, 9, tiny_settings(lr_end=0.0, warmup_epochs=0.96)) != []  # of ten steps, ten
    assert doubts(10, 10, tiny_settings(lr_end=0.0)) == []
    assert doubts(10, 100, tiny_settings(lr_end=tiny_settings().peak_lr)) == []  # constant


def test_warmup_may_be_part_of_an_epoch_or_all_of_the_run() -> None:
    half = tiny_settings(warmup_epochs=0.5, lr_base=0.02)
    assert learning_rate(4, 10, 20, half) == pytest.approx(half.peak_lr)
    quarter = tiny_settings(warmup_epochs=0.26, lr_base=0.02)  # of ten steps: three
    assert learning_rate(1, 10, 20, quarter) == pytest.approx((quarter.lr_start + quarter.peak_lr) / 2)
    assert learning_rate(3, 10, 20, quarter) == pytest.approx(quarter.peak_lr)
    fifth = tiny_settings(warmup_epochs=0.24, lr_base=0.02)  # of ten steps: two
    assert learning_rate(1, 10, 20, fifth) == pytest.approx(fifth.peak_lr)
    long = tiny_settings(warmup_epochs=4, lr_base=0.02)
    assert learning_rate(19, 10, 20, long) < long.peak_lr


@pytest.mark.parametrize("step", [-1, 20])
def test_steps_outside_the_run_are_refused(step: int) -> None:
    with pytest.raises(ValueError, match="20 steps"):
        learning_rate(step, 10, 20, tiny_settings())


VIT_BLOCK_MATRICES = {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}
TEXT_BLOCK_MATRICES = {"attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}


def decayed(module: nn.Module, wd_policy: str) -> set[str]:
    return {name for name, _ in module.named_parameters()} - undecayed(module, wd_policy)


def test_decay_of_the_papers_vit_by_name() -> None:
    backbone = create_backbone(Settings())
    matrices = {"patch_embed.proj.weight"} | {f"blocks.{i}.{name}" for i in range(12) for name in VIT_BLOCK_MATRICES}
    assert decayed(backbone, "slip") == matrices | {"cls_token", "pos_embed"}
    assert decayed(backbone, "timm") == matrices


def test_decay_of_the_papers_text_encoder_by_name() -> None:
    encoder = TextEncoder(Settings(), MetadataShape(77, 0, ()))
    matrices = {f"transformer.transformer.resblocks.{i}.{name}" for i in range(3) for name in TEXT_BLOCK_MATRICES}
    matrices |= {"transformer.token_embedding.weight"}
    assert decayed(encoder, "slip") == matrices | {"transformer.positional_embedding"}
    assert decayed(encoder, "timm") == matrices


def test_decay_of_the_tabular_encoder_by_name() -> None:
    encoder = TabularEncoder(tiny_settings(), MetadataShape(None, 3, (4, 5)))
    blocks = {"attention.W_q", "attention.W_k", "attention.W_v", "attention.W_out", "ffn.linear1", "ffn.linear2"}
    matrices = {f"transformer.backbone.blocks.{i}.{name}.weight" for i in range(2) for name in blocks}
    tokens = {"cont_embeddings.weight", "cat_embeddings.embeddings.0.weight", "cat_embeddings.embeddings.1.weight"}
    assert decayed(encoder, "slip") == matrices | {f"transformer.{name}" for name in tokens}
    assert decayed(encoder, "timm") == matrices


@pytest.mark.parametrize("wd_policy", ["slip", "timm"])
def test_decay_of_heads_by_name(wd_policy: str) -> None:
    assert decayed(ssl_head(8, 8, 8), wd_policy) == {"linear1.weight", "linear2.weight", "linear3.weight"}


def test_decay_of_matrices_follows_from_their_names() -> None:
    module = nn.Module()
    for name in ("weight", "bias", "bias_table", "ln", "bn"):
        module.register_parameter(name, nn.Parameter(torch.zeros(2, 2)))
    outer = nn.ModuleDict({"part": module})
    assert decayed(outer, "slip") == {"part.weight"}
    assert decayed(outer, "timm") == {"part.weight", "part.bias_table", "part.ln", "part.bn"}


@pytest.mark.parametrize("metadata_encoder", ["text", "tabular"])
def test_decay_of_a_whole_objective_is_that_of_its_parts(metadata_encoder: str) -> None:
    objective = build_objective(tiny_settings(objective="satmips", metadata_encoder=metadata_encoder), SHAPE)
    assert objective.metadata_encoder is not None
    for policy in ("slip", "timm"):
        found = decayed(objective, policy)
        parts = {"backbone": objective.backbone, "metadata_encoder": objective.metadata_encoder}
        expected = {f"{path}.{name}" for path, part in parts.items() for name in decayed(part, policy)}
        expected |= {f"simclr.head.linear{i}.weight" for i in (1, 2, 3)} | {
            "matching.image_projection.weight",
            "matching.metadata_projection.weight",
        }
        assert found == expected
        assert "matching.logit_scale" not in found


def test_optimizer_holds_each_learning_parameter_once_with_the_settings_values() -> None:
    settings = tiny_settings(objective="satmip", weight_decay=0.3, beta1=0.8, beta2=0.9, adam_eps=1e-7)
    objective = build_objective(settings, SHAPE)
    objective.get_parameter("backbone.pos_embed").requires_grad_(False)
    optimizer = build_optimizer(objective, settings)
    decay, spare = optimizer.param_groups
    assert (decay["weight_decay"], spare["weight_decay"]) == (0.3, 0.0)
    assert all(group["betas"] == (0.8, 0.9) and group["eps"] == 1e-7 for group in optimizer.param_groups)
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    found = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == set(names.values()) - {"backbone.pos_embed"}
    assert {names[id(parameter)] for parameter in spare["params"]} == undecayed(objective, "slip")
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["fused"]
    sgd = build_optimizer(objective, settings.model_copy(update={"optimizer": "sgd", "sgd_momentum": 0.7}))
    assert isinstance(sgd, torch.optim.SGD)
    assert [(len(g["params"]), g["weight_decay"], g["momentum"]) for g in sgd.param_groups] == [
        (len(group["params"]), group["weight_decay"], 0.7) for group in optimizer.param_groups
    ]


def test_the_optimizer_finds_its_state_by_names_and_not_by_positions() -> None:
    settings = tiny_settings(objective="satmips")
    objective = build_objective(settings, SHAPE)
    optimizer, other = build_optimizer(objective, settings), build_optimizer(objective, settings)
    for parameter in objective.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        group["params"], group["param_names"] = group["params"][::-1], group["param_names"][::-1]
    load_optimizer(other, saved, [])
    for parameter in objective.parameters():
        assert torch.equal(optimizer.state[parameter]["exp_avg"], other.state[parameter]["exp_avg"])
    for group in saved["param_groups"]:
        group["param_names"] = [f"other.{name}" for name in group["param_names"]]
    with pytest.raises(KeyError, match="backbone"):
        load_optimizer(other, saved, [])
