"""Pretrained backbones from other projects, by name: the layout of their weight files. Needs no torch."""

from dataclasses import dataclass, field
from typing import Any

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FMOW = ((0.4182, 0.4215, 0.3991), (0.2877, 0.2754, 0.2764))
_MAE_DECODER = ("mask_token", "decoder_embed.", "decoder_pos_embed", "decoder_blocks.", "decoder_norm.", "decoder_pred.")


@dataclass(frozen=True)
class External:
    """Somebody else's backbone: how its file becomes a timm network."""

    backbone: str
    """timm's name of the architecture."""
    args: dict[str, Any] = field(default_factory=dict)
    """Its arguments."""
    size: int = 224
    """Side in pixels at which it is evaluated."""
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Channel mean and deviation it was trained with; None: timm knows. Evaluation takes those of its own set (supplement A)."""
    dropped: tuple[str, ...] = ()
    """Beginnings of names that belong to no backbone: decoders, classifiers."""
    scaled_positions: bool = False
    """Whether positions are computed from the GSD (Scale-MAE) instead of read."""


EXTERNALS = {
    "satmae": External("vit_large_patch16_224", statistics=_FMOW, dropped=_MAE_DECODER),
    "satmae++": External(
        "vit_large_patch16_224", statistics=_FMOW, dropped=(*_MAE_DECODER, "proj_up_conv.", "proj_up_norm.", "up_block.")
    ),
    # The paper evaluates it at 128 pixels (supplement A). Its stored positions are not used by its own code either.
    "scale-mae": External(
        "vit_large_patch16_224",
        size=128,
        dropped=(*_MAE_DECODER, "mask_token_decoder", "pos_emb_projection.", "fpn.", "fcn.", "fcn_high.", "fcn_low.", "pos_embed"),
        scaled_positions=True,
        statistics=_IMAGENET,
    ),
    # Their ViT-S has 12 heads, which its shapes do not tell.
    "slip-s": External("vit_small_patch16_224", {"num_heads": 12}, statistics=_IMAGENET),
    "slip-b": External("vit_base_patch16_224", statistics=_IMAGENET),
}
"""By the name that `--external` gives them; beside these, "timm:MODEL" and "open_clip:MODEL"."""
