"""A run of images and captions as a model of open_clip: both encoders, their projections and the temperature."""

import json
from typing import Any, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from satmip_train.config import Settings
from satmip_train.errors import UsageError
from satmip_train.models.metadata_encoders import POOLING

WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
"""The names by which open_clip finds them in a folder and in a repository of the Hugging Face hub."""
_BLOCK = {
    "norm1.": "ln_1.", "attn.qkv.": "attn.in_proj_", "attn.proj.": "attn.out_proj.", "norm2.": "ln_2.", "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}  # fmt: skip
"""timm's names of a block's parts, and open_clip's."""
_TEXT = "metadata_encoder.transformer."


def to_open_clip(
    settings: Settings, context: int | None, backbone: nn.Module, model: dict[str, Tensor], dataset: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and config of the open_clip model (a `CustomTextCLIP`) that equals a run's two encoders.

    open_clip's config has no word for a mask over the padding, so captions need `model.text.use_pad_mask = True` after loading,
    unless the run attends to padding.

    Args:
        context: tokens of the longest caption; None where captions were not learned from
        backbone: the run's, with its weights
        model: the state dict of the whole objective
        dataset: holds the mean and std of the train chips

    Raises:
        UsageError: the run learned from no captions, or open_clip has no such backbone.
    """
    if "matching.logit_scale" not in model or settings.metadata_encoder != "text" or context is None:
        raise UsageError(
            f"This run has no encoder of captions, which open_clip needs: its objective is {settings.objective}, its metadata "
            f"encoder {settings.metadata_encoder}. Export it without --open-clip: timm loads its backbone."
        )
    if settings.projection_bias:
        raise UsageError(
            "This run was trained with --projection-bias, and open_clip's projections have no bias. Export it without --open-clip: "
            "timm loads its backbone."
        )
    vision, image = _vit(backbone) if isinstance(backbone, VisionTransformer) else _trunk(settings, backbone)
    text = {name.removeprefix(_TEXT): value for name, value in model.items() if name.startswith(_TEXT)}
    projections = {side: model[f"matching.{side}_projection.weight"] for side in ("image", "metadata")}
    head = {"head.proj.weight": projections["image"]} if "timm_model_name" in vision else {"proj": projections["image"].T}
    weights = {
        **{f"visual.{name}": value for name, value in {**image, **head}.items()},
        **{f"text.{name}": value for name, value in {**text, "text_projection": projections["metadata"].T}.items()},
        **{name: model[f"matching.{name}"] for name in ("logit_scale", "logit_bias") if f"matching.{name}" in model},
    }
    preprocess = {"mean": dataset["mean"], "std": dataset["std"], "interpolation": "bilinear", "resize_mode": "squash"}
    config = {
        "embed_dim": settings.embed_dim,
        "vision_cfg": {**vision, "image_size": settings.view_size},
        "text_cfg": {
            "context_length": context,
            "vocab_size": len(text["token_embedding.weight"]),
            "width": settings.text_width,
            "heads": settings.text_heads,
            "layers": settings.text_layers,
            "no_causal_mask": True,
            "pool_type": POOLING[settings.text_pool],
        },
        "custom_text": True,
        **({"init_logit_bias": 0.0} if "logit_bias" in weights else {}),
    }
    return weights, {"model_cfg": config, "preprocess_cfg": preprocess}


def _vit(backbone: VisionTransformer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and weights of a ViT as open_clip's own, which has no bias of patches: it goes into their positions."""
    weights = backbone.state_dict()
    blocks = len(backbone.blocks)
    positions = weights["pos_embed"][0].clone() if weights.get("pos_embed") is not None else torch.empty(0)
    if not _is_plain(backbone) or len(positions) != backbone.patch_embed.num_patches + 1:
        raise UsageError("The backbone has parts that open_clip's own ViT has not. Export it without --open-clip: timm loads it.")
    positions[1:] += weights["patch_embed.proj.bias"]
    named = {
        "conv1.weight": weights["patch_embed.proj.weight"],
        "class_embedding": weights["cls_token"][0, 0],
        "positional_embedding": positions,
        "ln_post.weight": weights["norm.weight"],
        "ln_post.bias": weights["norm.bias"],
    }
    for i in range(blocks):
        for timms, theirs in _BLOCK.items():
            for kind in ("weight", "bias"):
                named[f"transformer.resblocks.{i}.{theirs}{kind}"] = weights[f"blocks.{i}.{timms}{kind}"]
    width, first = backbone.embed_dim, cast(Any, backbone.blocks[0])
    config = {
        "layers": blocks,
        "width": width,
        "head_width": width // first.attn.num_heads,
        "mlp_ratio": first.mlp.fc1.out_features / width,
        "patch_size": backbone.patch_embed.patch_size[0],
        "no_ln_pre": True,
        "norm_kwargs": {"eps": backbone.norm.eps},
    }
    return config, named


def _is_plain(backbone: VisionTransformer) -> bool:
    """Whether a ViT is made of just the parts that are named anew."""
    expected = {f"blocks.{i}.{part}{kind}" for i in range(len(backbone.blocks)) for part in _BLOCK for kind in ("weight", "bias")}
    expected |= {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
    block = cast(Any, backbone.blocks[0])
    kinds = [type(part).__name__ for part in (block, block.attn, block.mlp, block.mlp.act)]
    return (
        kinds == ["Block", "Attention", "Mlp", "GELU"]
        and backbone.global_pool == "token"
        and set(backbone.state_dict()) == expected
    )


def _trunk(settings: Settings, backbone: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and weights of another network, which open_clip takes from timm, by name and without arguments."""
    if settings.backbone_args:
        raise UsageError(
            f"The run gave {settings.backbone} the arguments {json.dumps(settings.backbone_args)}, and open_clip takes none. "
            "Export it without --open-clip: timm loads it."
        )
    config = {"timm_model_name": settings.backbone, "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
    return config, {f"trunk.{name}": value for name, value in backbone.state_dict().items()}
