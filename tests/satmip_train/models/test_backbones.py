"""Backbones from timm: what they give, how they start, and what is refused."""

import pytest
import timm
import torch
from helpers.tiny_networks import tiny_settings
from timm.layers.pos_embed import resample_abs_pos_embed

from satmip_train.config import Settings
from satmip_train.models.backbones import at_size, create_backbone, feature_dim
from satmip_train.models.heads import linear_projection, ssl_head


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_papers_vit_small_has_12_heads_and_21_7_million_parameters() -> None:
    backbone = create_backbone(Settings())
    assert parameters(backbone) == 21_665_664
    assert {block.attn.num_heads for block in backbone.blocks} == {12}  # type: ignore[union-attr]
    assert feature_dim(backbone) == 384


def test_the_papers_ssl_head_has_19_4_million_parameters_and_two_hidden_layers() -> None:
    head = ssl_head(384, 4096, 256)
    assert parameters(head) == 384 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 256 + 256 + 2 * (2 * 4096) == 19_423_488
    assert [type(layer).__name__ for layer in head] == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_linear_projection_has_no_bias_and_deviation_width_to_the_minus_a_half() -> None:
    torch.manual_seed(0)
    assert torch.equal(linear_projection(4, 3, bias=True).bias, torch.zeros(3))
    projection = linear_projection(400, 512)
    assert projection.bias is None
    assert projection.weight.shape == (512, 400)
    assert projection.weight.std().item() == pytest.approx(400**-0.5, rel=0.02)


def test_a_vit_gives_its_cls_token_after_the_last_norm() -> None:
    settings = tiny_settings()
    backbone = create_backbone(settings).eval()
    views = torch.randn(2, 3, settings.view_size, settings.view_size)
    tokens = backbone.forward_features(views)  # type: ignore[operator]
    assert tokens.shape == (2, 1 + 4, 32)
    torch.testing.assert_close(backbone(views), tokens[:, 0])
    torch.testing.assert_close(backbone(views).mean(dim=1), torch.zeros(2), atol=1e-5, rtol=0)


def test_a_vit_that_averages_by_default_gives_its_cls_token_after_the_last_norm() -> None:
    arguments = {"img_size": 28, "embed_dim": 48, "depth": 1, "num_heads": 3}
    settings = tiny_settings(backbone="eva02_tiny_patch14_224", backbone_args=arguments, view_size=28)
    backbone = create_backbone(settings).eval()
    views = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(backbone(views), backbone.forward_features(views)[:, 0])  # type: ignore[operator]
    torch.testing.assert_close(backbone(views).mean(dim=1), torch.zeros(2), atol=1e-5, rtol=0)


def test_a_vit_at_another_size_has_its_positions_resampled_and_nothing_else() -> None:
    backbone = create_backbone(tiny_settings()).eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    larger = at_size(backbone, 48)
    assert larger(torch.randn(2, 3, 48, 48)).shape == (2, 32)
    assert type(larger) is type(backbone)
    for name, tensor in larger.state_dict().items():
        expected = resample_abs_pos_embed(before[name], new_size=[6, 6]) if name == "pos_embed" else before[name]
        assert torch.equal(tensor, expected), name
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_a_network_that_takes_any_size_is_the_same_at_another_one() -> None:
    backbone = create_backbone(Settings(backbone="resnet10t", view_size=64)).eval()
    images = torch.randn(1, 3, 96, 96)
    assert torch.equal(at_size(backbone, 96)(images), backbone(images))


def test_a_network_made_for_one_size_is_refused_at_another_one() -> None:
    backbone = create_backbone(Settings(backbone="cait_xxs24_224", backbone_args={"depth": 1}))
    with pytest.raises(ValueError, match=r"Cait .* 256"):
        at_size(backbone, 256)


def test_pooling_that_is_asked_for_is_kept() -> None:
    arguments = {**tiny_settings().backbone_args, "global_pool": "avg"}
    backbone = create_backbone(tiny_settings(backbone_args=arguments))
    assert backbone.global_pool == "avg"


@pytest.mark.parametrize(("std", "low", "high"), [(0.02, 0.01, 0.03), (None, 0.0, 1e-5)])
def test_cls_token_starts_with_the_deviation_of_the_settings(std: float | None, low: float, high: float) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(tiny_settings(cls_token_std=std))
    assert low < backbone.cls_token.std().item() < high  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_convnext", "test_efficientnet", "test_mambaout", "test_vit_relpos", "mobilenetv3_small_050"]
)
def test_feature_dim_is_the_width_of_the_features(name: str) -> None:
    size = 160
    backbone = create_backbone(tiny_settings(backbone=name, backbone_args={}, view_size=size)).eval()
    assert backbone(torch.randn(1, 3, size, size)).shape == (1, feature_dim(backbone))


def test_same_seed_same_backbone() -> None:
    backbones = []
    for _ in range(2):
        torch.manual_seed(5)
        backbones.append(create_backbone(tiny_settings()))
    for one, two in zip(backbones[0].parameters(), backbones[1].parameters(), strict=True):
        assert torch.equal(one, two)


def test_wrong_backbones_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--backbone vit_nano .*Did you mean"):
        create_backbone(tiny_settings(backbone="vit_nano"))
    with pytest.raises(ValueError, match=r"timm cannot make .*num_heads"):
        create_backbone(tiny_settings(backbone="test_resnet", backbone_args={"num_heads": 12}))
    for heads in (5, 0):
        arguments = {**tiny_settings().backbone_args, "num_heads": heads}
        with pytest.raises(ValueError, match=r"timm cannot make .*num_heads"):
            create_backbone(tiny_settings(backbone_args=arguments))
    with pytest.raises(ValueError, match=r"16 x 16 pixels, and --view-size is 224.*--backbone-args"):
        create_backbone(tiny_settings(view_size=224))


def test_a_backbone_that_takes_any_size_is_not_refused() -> None:
    arguments = {**tiny_settings().backbone_args, "dynamic_img_size": True}
    backbone = create_backbone(tiny_settings(backbone_args=arguments, view_size=32))
    assert backbone(torch.randn(1, 3, 32, 32)).shape == (1, 32)


@pytest.mark.parametrize(
    ("changes", "evidence"),
    [
        ({"depth": 0}, "no block"),
        ({"patch_size": 32}, r"row of features.*Kernel size can't be greater"),
        ({"num_heads": -2}, "row of features.*-2"),
        ({"global_pool": ""}, "row of features.*a view becomes 1 x 5 x 32"),
        ({"act_layer": "magic"}, "timm cannot make .*magic"),
        ({"norm_layer": 5}, "timm cannot make "),
        ({"drop_rate": 2}, "timm cannot make .*between 0 and 1"),
    ],
)
def test_arguments_that_make_no_network_for_a_view_are_refused(changes: dict[str, object], evidence: str) -> None:
    """Once these were tracebacks, of timm or at the first step."""
    with pytest.raises(ValueError, match=evidence):
        create_backbone(tiny_settings(backbone_args={**tiny_settings().backbone_args, **changes}))


def test_views_too_small_for_a_convolutional_network_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--backbone convnext_atto .*16 pixels: .*Use another --view-size"):
        create_backbone(tiny_settings(backbone="convnext_atto", backbone_args={}, view_size=16))


def test_the_look_at_a_view_changes_neither_the_network_nor_the_draws() -> None:
    torch.manual_seed(0)
    backbone = create_backbone(tiny_settings(backbone="test_resnet", backbone_args={}, view_size=64))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    plain = timm.create_model("test_resnet", num_classes=0)
    assert torch.equal(drawn, torch.rand(1))
    assert all(module.training for module in backbone.modules())
    for one, two in zip(backbone.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(one, two)
