"""Attention over few tokens, a Triton kernel for a head: queries, keys and values stay packed, as one product makes them.

General kernels walk over blocks of keys, because a row of scores may be longer than a multiprocessor holds. Those of a ViT are not,
so here the forward pass shows a block of queries all keys at once and takes their softmax in one go, and the backward pass shows a
block of keys all queries and is done with their gradients. No sum is taken up again, and neither the parts nor their gradients are
copied from one layout into another. To import this module needs Triton.
"""

from typing import Any

import timm.models.vision_transformer as vit
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula, sdpa_backward_flop_count, sdpa_flop_count

from satmip_train.training.packed_kernels import packed_attention_backward, packed_attention_forward

LONGEST = 256
"""Tokens that fit."""
WIDTHS = (16, 32, 64)
"""Numbers that a head may have."""
DTYPES = (torch.bfloat16, torch.float16)
DEVICES = ("cuda",)


def _sizes(qkv: Tensor, heads: int) -> tuple[tuple[int], tuple[float, int, int, int, int]]:
    """Return the grid, and scale, tokens, heads, width and padded tokens as the kernels take them."""
    images, tokens, packed = qkv.shape
    width = packed // (3 * heads)
    return (images * heads,), (width**-0.5, tokens, heads, width, max(1 << (tokens - 1).bit_length(), 16))


@torch.library.custom_op("satmip::packed_attention", mutates_args=())
def _attend(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    images, tokens, packed = qkv.shape
    qkv, (grid, sizes) = qkv.contiguous(), _sizes(qkv, heads)
    out = qkv.new_empty(images, tokens, packed // 3)
    sums = qkv.new_empty(images, heads, tokens, dtype=torch.float32)
    packed_attention_forward[grid](qkv, out, sums, *sizes)
    return out, sums


@torch.library.custom_op("satmip::packed_attention_backward", mutates_args=())
def _carry_back(gradient: Tensor, qkv: Tensor, out: Tensor, sums: Tensor, heads: int) -> Tensor:
    gradient, qkv, (grid, sizes) = gradient.contiguous(), qkv.contiguous(), _sizes(qkv, heads)
    gqkv = torch.empty_like(qkv)
    packed_attention_backward[grid](gradient, qkv, out, sums, gqkv, *sizes)
    return gqkv


@_attend.register_fake
def _(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    images, tokens, packed = qkv.shape
    return qkv.new_empty(images, tokens, packed // 3), qkv.new_empty(images, heads, tokens, dtype=torch.float32)


@_carry_back.register_fake
def _(gradient: Tensor, qkv: Tensor, out: Tensor, sums: Tensor, heads: int) -> Tensor:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], *output)
    ctx.heads = inputs[1]


def _differentiate(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor, None]:
    return _carry_back(gradient, *ctx.saved_tensors, ctx.heads), None


_attend.register_autograd(_differentiate, setup_context=_keep)


def _shape(qkv: torch.Size, heads: int) -> tuple[int, int, int, int]:
    images, tokens, packed = qkv
    return images, heads, tokens, packed // (3 * heads)


# Else a compiler that computes the cheapest activations again would take these for free.
@register_flop_formula(torch.ops.satmip.packed_attention)
def _flop(qkv: torch.Size, heads: int, **_: Any) -> int:
    return int(sdpa_flop_count(*[_shape(qkv, heads)] * 3))  # type: ignore[no-untyped-call]


@register_flop_formula(torch.ops.satmip.packed_attention_backward)
def _flop_back(gradient: torch.Size, qkv: torch.Size, out: torch.Size, sums: torch.Size, heads: int, **_: Any) -> int:
    return int(sdpa_backward_flop_count(*[_shape(qkv, heads)] * 4))  # type: ignore[no-untyped-call]


def packed_attention(qkv: Tensor, heads: int) -> Tensor:
    """Return what each token reads from all tokens of its image.

    The scores are scaled by the head's width^-0.5. Sums are float32; weights are rounded to the inputs' type before they weigh.

    Shape: (B, N, 3 H D), in this order queries, keys and values of all heads -> (B, N, H D), where N is at most `LONGEST` and D one
    of `WIDTHS`; of one of `DTYPES`, on one of `DEVICES`.
    """
    out: Tensor = _attend(qkv, heads)[0]
    return out


class PackedAttention(vit.Attention):  # type: ignore[name-defined, misc]
    """timm's attention, computed by `packed_attention` on a GPU in half precision, and else as timm does."""

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """Return what the tokens learn from each other; masks are left to timm. Shape: (B, N, C) -> (B, N, C)."""
        masked = any(value is not None and value is not False for value in (*args, *options.values()))
        drops = self.training and self.attn_drop.p > 0
        if x.device.type in DEVICES and x.shape[1] <= LONGEST and not masked and not drops:
            qkv = self.qkv(x)
            if qkv.dtype in DTYPES:
                learned: Tensor = self.proj_drop(self.proj(packed_attention(qkv, self.num_heads)))
                return learned
        return super().forward(x, *args, **options)  # type: ignore[no-any-return]


def pack(encoder: nn.Module) -> None:
    """Make `PackedAttention` of each of timm's attentions that `is_plain`, without a change to its weights."""
    for part in encoder.modules():
        if is_plain(part):
            part.__class__ = PackedAttention


def is_plain(part: Any) -> bool:
    """Whether a module is timm's attention and norms and gates nothing."""
    if type(part) is not vit.Attention:  # type: ignore[attr-defined]
        return False
    kept = (getattr(part, name, None) for name in ("q_norm", "k_norm", "norm", "gate"))
    return all(norm is None or isinstance(norm, nn.Identity) for norm in kept)
