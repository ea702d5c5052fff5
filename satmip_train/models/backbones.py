"""Image backbones, from timm."""

import json
from copy import deepcopy
from typing import Any

import timm
import torch
from torch import Tensor, nn

from satmip_data.errors import cause
from satmip_data.names import did_you_mean
from satmip_train.config import Settings
from satmip_train.models.class_token import read_class_token_alone


def create_backbone(settings: Settings, *, pretrained: bool = False, any_size: bool = False) -> nn.Module:
    """Return the backbone without a classifier: views (B, 3, S, S) -> features (B, `feature_dim`).

    A ViT gives the CLS token of its last layer (supplement B), other networks what they pool by default.

    Args:
        pretrained: start from timm's published weights, which are downloaded, instead of random ones
        any_size: do not check that the backbone takes views of `view_size`

    Raises:
        ValueError: timm has no such model, it does not take the arguments, or makes no features of views of that size.
    """
    backbone = _create(settings, {**settings.backbone_args, "pretrained": pretrained})
    # A ViT that averages by default has its last norm elsewhere, so it is built anew rather than switched.
    if getattr(backbone, "cls_token", None) is not None and getattr(backbone, "global_pool", "token") != "token":
        backbone = _create(settings, {"global_pool": "token", **settings.backbone_args, "pretrained": pretrained})
    cls_token = getattr(backbone, "cls_token", None)
    # NOTE[DIFF] timm starts the CLS token with deviation 1e-6 today; when SLIP was written it was 0.02.
    if isinstance(cls_token, Tensor) and settings.cls_token_std is not None and not pretrained:
        nn.init.trunc_normal_(cls_token, std=settings.cls_token_std)
    read_class_token_alone(backbone)
    if not any_size:
        _check_view_size(backbone, settings.view_size)
        _check_features(backbone, settings)
    return backbone


def at_size(backbone: nn.Module, size: int) -> nn.Module:
    """Return a copy of a backbone that takes images of another side; learned positions are resampled (timm's `set_input_size`).

    Raises:
        ValueError: the backbone is made for one size of images and cannot change it.
    """
    resized = deepcopy(backbone)
    try:
        _check_view_size(resized, size)
    except ValueError as error:
        if not hasattr(resized, "set_input_size"):
            name = type(backbone).__name__
            raise ValueError(f"The backbone {name} is made for images of one size, and not for {size} pixels.") from error
        resized.set_input_size(img_size=(size, size))  # type: ignore[operator]
    return resized


def feature_dim(backbone: nn.Module) -> int:
    """Return the width of the features that a backbone of `create_backbone` gives."""
    # Some networks widen after pooling, and keep that layer when the classifier is removed.
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type]


def _nearest(name: str) -> str:
    return "" if timm.is_model(name) else did_you_mean(name, timm.list_models())


def _create(settings: Settings, arguments: dict[str, Any]) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(settings.backbone, num_classes=0, **arguments)
    except Exception as error:  # timm raises many kinds for arguments that it does not understand
        raise ValueError(
            f"timm cannot make --backbone {settings.backbone} with {json.dumps(arguments, default=str)}: {cause(error)}."
            f"{_nearest(settings.backbone)} Use another --backbone, or --backbone-args that it takes."
        ) from error
    return model


def _check_view_size(backbone: nn.Module, view_size: int) -> None:
    embedding = getattr(backbone, "patch_embed", None)
    expected = getattr(embedding, "img_size", None)
    if expected is not None and getattr(embedding, "strict_img_size", True) and tuple(expected) != (view_size, view_size):
        raise ValueError(
            f"The backbone expects images of {expected[0]} x {expected[1]} pixels, and --view-size is {view_size}. Give "
            f'--backbone-args an "img_size": {view_size}.'
        )


def _check_features(backbone: nn.Module, settings: Settings) -> None:
    """Look at one black view: timm builds much that can take none, as a ViT with patches larger than its images."""
    side = settings.view_size
    try:
        with torch.no_grad():
            shape = tuple(backbone.eval()(torch.zeros(1, 3, side, side)).shape)
        fits = shape == (1, feature_dim(backbone))
        evidence = f"a view becomes {' x '.join(map(str, shape))}"
    except Exception as error:  # whatever stands in the way inside the network
        fits, evidence = False, cause(error)
    if not fits:
        raise ValueError(
            f"--backbone {settings.backbone} with {json.dumps(settings.backbone_args, default=str)} makes no row of features of a "
            f"view of {settings.view_size} pixels: {evidence}. Use another --view-size or --backbone, or other --backbone-args."
        )
    backbone.train()
