"""A ViT of which only the class token is read: what nobody reads of its last block is not computed."""

from typing import Any

import timm.models.vision_transformer as vit
from timm.models import checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional as F


class ClassTokenViT(vit.VisionTransformer):
    """timm's ViT, whose `forward` computes no more of the last block than the class token.

    Features and gradients are those of timm's. Of the last block are left the keys and values of all tokens, 2 of its 12 D^2
    products a token for a width D; of 12 blocks that saves 7 %. `forward_features` still gives all tokens.
    """

    rounded_residual = False
    """Whether the residual stream has the type of the patch embeddings, bfloat16 under autocast to it, in place of float32."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Return the features. Shape: (B, 3, S, S) -> (B, D)."""
        patches = self.patch_embed(x)
        x = self.norm_pre(self.patch_drop(self._pos_embed(patches)))
        exact = x.dtype
        if self.rounded_residual:
            # Blocks add what has this type already, so that it stays.
            x = x.to(patches.dtype)
        before, last = self.blocks[:-1], self.blocks[-1]
        x = checkpoint_seq(before, x) if self.grad_checkpointing and len(before) else before(x)
        features: Tensor = self.forward_head(self.norm(class_token_of(last, x).to(exact)))
        return features


def class_token_of(block: Any, x: Tensor) -> Tensor:
    """Return the class token that a block of timm's would give. Shape: (B, N, D), the class token first -> (B, 1, D)."""
    one = x[:, :1] + block.drop_path1(block.ls1(_attend(block.attn, block.norm1(x))))
    token: Tensor = one + block.drop_path2(block.ls2(block.mlp(block.norm2(one))))
    return token


def _attend(attn: Any, known: Tensor) -> Tensor:
    """Return what the class token learns from all tokens. Shape: (B, N, D) -> (B, 1, D)."""
    (batch, tokens, _), heads, width = known.shape, attn.num_heads, attn.num_heads * attn.head_dim
    weight, bias = attn.qkv.weight, attn.qkv.bias
    query = F.linear(known[:, :1], weight[:width], None if bias is None else bias[:width])
    others = F.linear(known, weight[width:], None if bias is None else bias[width:])
    query = query.view(batch, 1, heads, -1).transpose(1, 2)
    key, value = others.view(batch, tokens, 2, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    dropout = attn.attn_drop.p if attn.training else 0.0
    read = F.scaled_dot_product_attention(attn.q_norm(query), attn.k_norm(key), value, dropout_p=dropout)
    learned: Tensor = attn.proj_drop(attn.proj(read.transpose(1, 2).reshape(batch, 1, width)))
    return learned


def read_class_token_alone(backbone: nn.Module) -> None:
    """Make a `ClassTokenViT` of timm's ViT, where its features are made of the class token alone; else change nothing.

    Raises:
        ValueError: the ViT has no blocks, so that its class token knows nothing of an image.
    """
    if _reads_it_alone(backbone):
        backbone.__class__ = ClassTokenViT


def _reads_it_alone(backbone: Any) -> bool:
    # Variants of timm's ViT, and of its block and attention, compute something else.
    if type(backbone) is not vit.VisionTransformer or backbone.cls_token is None or backbone.global_pool != "token":
        return False
    if not len(backbone.blocks):
        raise ValueError('The ViT has no block: "depth" is 0 in --backbone-args. Use 1 or more.')
    block = backbone.blocks[-1]
    if type(block) is not vit.Block or type(block.attn) is not vit.Attention:  # type: ignore[attr-defined]
        return False
    return not any(isinstance(getattr(block.attn, name, None), (nn.Linear, nn.LayerNorm)) for name in ("norm", "gate"))


def round_residual(backbone: nn.Module) -> None:
    """Let the residual stream of a `ClassTokenViT` be rounded under autocast, see `rounded_residual`.

    Raises:
        ValueError: it is another network, or scales what its blocks add, in float32.
    """
    if not isinstance(backbone, ClassTokenViT) or any(isinstance(part, vit.LayerScale) for part in backbone.modules()):  # type: ignore[attr-defined]
        raise ValueError(
            "--residual autocast needs a ViT of timm whose class token is read and whose layers are not scaled, which "
            f"{type(backbone).__name__} is not. Leave it out."
        )
    backbone.rounded_residual = True
