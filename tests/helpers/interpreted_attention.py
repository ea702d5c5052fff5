"""Packed attention by Triton's interpreter, on a CPU, beside the formula and beside timm's module; prints how far they are apart.

    python tests/interpreted_attention.py

A script, because Triton decides at import whether it interprets. The kernels run as they are, in float32, in each configuration.
"""

import copy
import json
import os
from typing import Any
from unittest.mock import patch

os.environ["TRITON_INTERPRET"] = "1"

import timm
import torch
from torch import Tensor, nn

from satmip_train.training import packed_attention as packed
from satmip_train.training import packed_kernels as kernels

SHAPES = {"the paper's": (2, 197, 2, 32), "few tokens": (3, 5, 1, 64), "one token": (2, 1, 2, 16), "all that fit": (1, 256, 1, 32)}
"""Images, tokens, heads, width."""


def distance(got: Tensor, expected: Tensor) -> float:
    """Return how far a tensor is from another, as a part of it; infinite where a number is missing."""
    apart = float((got.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm())
    return apart if apart == apart else float("inf")


def by_the_formula(qkv: Tensor, heads: int) -> Tensor:
    """Return softmax(Q K^T / sqrt(D)) V, written out."""
    images, tokens, size = qkv.shape
    query, key, value = qkv.view(images, tokens, 3, heads, size // (3 * heads)).permute(2, 0, 3, 1, 4)
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def of_the_formula(shape: tuple[int, int, int, int]) -> list[float]:
    """Return the distances of output and gradient."""
    images, tokens, heads, width = shape
    # A large scale makes rows with one weight of nearly 1, as trained networks have.
    qkv = (2 * torch.randn(images, tokens, 3 * heads * width)).requires_grad_()
    exact = qkv.detach().double().requires_grad_()
    out, expected = packed.packed_attention(qkv, heads), by_the_formula(exact, heads)
    # The gradient of a transposed product is not dense in memory.
    gradient = torch.randn(tokens, images, heads * width).transpose(0, 1)
    out.backward(gradient)
    expected.backward(gradient.double())
    assert qkv.grad is not None
    assert exact.grad is not None
    return [distance(out, expected), distance(qkv.grad, exact.grad)]


def of_timms_network(compiled: bool) -> list[float]:
    """Return the distances of a ViT's features and of each weight's gradient from timm's."""
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    whole = timm.create_model("vit_small_patch16_224", num_classes=0, **arguments)
    for parameter in whole.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = copy.deepcopy(whole)
    packed.pack(ours)
    assert all(type(block.attn) is packed.PackedAttention for block in ours.blocks)  # type: ignore[union-attr]
    views, called = torch.randn(3, 3, 32, 32), torch.compile(ours, fullgraph=True, backend="aot_eager") if compiled else ours
    counter = Launches()
    with patch.object(packed, "packed_attention_forward", counter):
        expected, got = whole(views), called(views)
    assert counter.count == 2
    for features in (expected, got):
        features.square().sum().backward()
    gradients = [(a.grad, b.grad) for a, b in zip(ours.parameters(), whole.parameters(), strict=True)]
    # The keys' part of the bias has no gradient but rounding, which the rest of it outweighs.
    return [distance(got, expected), *(distance(a, b) for a, b in gradients if a is not None and b is not None)]


class Launches:
    """Counts how often the forward kernel is launched."""

    count = 0

    def __getitem__(self, grid: tuple[int]) -> Any:
        self.count += 1
        return kernels.packed_attention_forward[grid]


def what_torch_asks_of_an_operator() -> None:
    """Check schema, shapes and gradients as torch's compiler relies on them."""
    qkv = torch.randn(2, 7, 3 * 2 * 16, requires_grad=True)
    torch.library.opcheck(torch.ops.satmip.packed_attention.default, (qkv, 2))
    out, sums = torch.ops.satmip.packed_attention(qkv.detach(), 2)
    torch.library.opcheck(torch.ops.satmip.packed_attention_backward.default, (torch.randn_like(out), qkv.detach(), out, sums, 2))


def main() -> None:
    """Compare and print one JSON object."""
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    forward, backward = list(kernels.FORWARD), list(kernels.BACKWARD)
    for i in range(max(len(forward), len(backward))):
        # Of several the fastest would be looked for.
        kernels.packed_attention_forward.configs, kernels.packed_attention_backward.configs = (
            [forward[i % len(forward)]],
            [backward[i % len(backward)]],
        )
        for name, shape in SHAPES.items():
            found[f"{name}, {i}"] = of_the_formula(shape)
    with patch.object(packed, "DEVICES", ("cpu",)), patch.object(packed, "DTYPES", (torch.float32,)):
        found |= {f"timm, {compiled=}": of_timms_network(compiled) for compiled in (False, True)}
    what_torch_asks_of_an_operator()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
