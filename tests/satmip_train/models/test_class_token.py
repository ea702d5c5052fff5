"""A ViT of which one token is read gives the features and gradients of timm's, which computes them all."""

import copy
from typing import Any

import pytest
import timm
import torch
from helpers.tiny_networks import tiny_settings
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from satmip_train.config import Settings
from satmip_train.models.backbones import create_backbone
from satmip_train.models.class_token import ClassTokenViT, read_class_token_alone, round_residual
from satmip_train.training.speed import recompute_activations

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norms of queries and keys, layer scale, registers": {"qk_norm": True, "init_values": 0.1, "reg_tokens": 3},
    "without biases": {"qkv_bias": False, "proj_bias": False},
    "one block": {"depth": 1},
    "norms before and after": {"pre_norm": True, "final_norm": False, "fc_norm": True},
    "positions of patches alone": {"no_embed_class": True},
}


def timms(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch16_224", num_classes=0, **{**SIZE, **changes}).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def ours(network: nn.Module) -> nn.Module:
    changed = copy.deepcopy(network)
    read_class_token_alone(changed)
    return changed


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_features_and_gradients_are_those_of_all_tokens(changes: dict[str, Any], recomputed: bool) -> None:
    whole = timms(**changes)
    one = ours(whole)
    assert type(one) is ClassTokenViT
    if recomputed:
        recompute_activations(one)
    assert list(one.state_dict()) == list(whole.state_dict())
    views = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    expected, got = whole(views), one(views)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(one.forward_features(views), whole.forward_features(views))  # type: ignore[operator]
    for features in (expected, got):
        features.pow(3).sum().backward()
    for (name, a), b in zip(whole.named_parameters(), one.parameters(), strict=True):
        assert a.grad is not None, name
        assert b.grad is not None, name
        # The bias of the keys' norm has no gradient but rounding.
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-8, atol=1e-11 * max(1, float(a.grad.abs().max())), msg=name)


def test_in_evaluation_mode_dropout_and_dropped_paths_do_nothing() -> None:
    whole = timms(drop_path_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5, pos_drop_rate=0.5).eval()
    views = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(whole)(views), whole(views))
    assert not torch.equal(*(ours(whole).train()(views) for _ in range(2)))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vit_small_patch16_224", {"global_pool": "avg"}),
        ("vit_small_patch16_224", {"global_pool": "map", "class_token": False}),
        ("vit_small_patch16_224", {"scale_attn_norm": True}),
        ("vit_small_patch16_224", {"class_token": False, "global_pool": "avg"}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_relpos_small_patch16_224", {}),
    ],
)
def test_networks_that_read_more_or_compute_otherwise_stay_as_they_are(name: str, changes: dict[str, Any]) -> None:
    network = timm.create_model(name, num_classes=0, **{**SIZE, **changes})
    before = type(network)
    read_class_token_alone(network)
    assert type(network) is before


def test_every_backbone_that_can_reads_one_token() -> None:
    assert type(create_backbone(tiny_settings())) is ClassTokenViT
    assert type(create_backbone(Settings(backbone="resnet18", backbone_args={}))).__name__ == "ResNet"


def test_the_papers_network_saves_most_of_a_block() -> None:
    """Of the 12 D^2 products of a token, 10 are left out; attention has one query in place of 197."""
    with torch.device("meta"):
        whole = timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=12)
        views = torch.empty(1, 3, 224, 224)
    found = []
    for network in (whole, ours(whole)):
        counter = FlopCounterMode(display=False)
        with counter:
            network(views)
        found.append(counter.get_total_flops())
    tokens, width = 197, 384
    saved = 2 * (tokens - 1) * (10 * width**2 + 2 * tokens * width)
    assert found[0] - found[1] == saved
    assert 0.06 < saved / found[0] < 0.08


def rounded(network: nn.Module) -> nn.Module:
    changed = copy.deepcopy(network)
    round_residual(changed)
    return changed


def test_a_rounded_residual_stream_has_the_type_of_the_products_under_autocast() -> None:
    network, views, types = ours(timms().float()), torch.randn(3, 3, 32, 32), []
    for backbone in (network, rounded(network)):
        blocks = backbone.blocks[:-1]  # type: ignore[index]
        for block in blocks:
            block.register_forward_hook(lambda module, inputs, out: types.append((inputs[0].dtype, out.dtype)))
        with torch.autocast("cpu", torch.bfloat16):
            features = backbone(views)
        assert features.dtype is torch.float32
    assert types == [(torch.float32, torch.float32)] * 2 + [(torch.bfloat16, torch.bfloat16)] * 2


def test_without_autocast_a_rounded_residual_stream_rounds_nothing() -> None:
    network, views = ours(timms()), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(rounded(network)(views), network(views))


def test_a_rounded_residual_stream_costs_about_as_much_precision_as_bf16_itself() -> None:
    """Of the paper's network, with half its blocks, as it starts: features and gradients beside those in float32."""
    torch.manual_seed(0)
    backbone = create_backbone(Settings(backbone_args={"num_heads": 12, "depth": 6, "img_size": 64}, view_size=64))
    views, weights, found = torch.randn(16, 3, 64, 64), torch.randn(16, 384), []
    for network, bf16 in ((backbone, False), (backbone, True), (rounded(backbone), True)):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            features = network(views)
        (features * weights).sum().backward()
        gradients = [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
        found.append((features.detach(), torch.cat(gradients).clone()))
    exact, plain, ours_ = found
    for part in range(2):
        errors = [float((other[part] - exact[part]).norm() / exact[part].norm()) for other in (plain, ours_)]
        print(errors)
        assert 0 < errors[0] < 0.02
        assert errors[0] < errors[1] < 3 * errors[0]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("resnet18", {}),
        ("vit_small_patch16_224", {**SIZE, "init_values": 0.1}),
        ("vit_small_patch16_224", {**SIZE, "scale_attn_norm": True}),
    ],
)
def test_networks_whose_residual_stream_cannot_be_rounded_are_refused(name: str, changes: dict[str, Any]) -> None:
    network = timm.create_model(name, num_classes=0, **changes)
    read_class_token_alone(network)
    with pytest.raises(ValueError, match=r"--residual autocast needs a ViT"):
        round_residual(network)
