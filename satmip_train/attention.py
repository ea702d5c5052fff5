"""Which implementation of attention a step uses: a named one, torch's own choice, or the fastest by measurement."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
MEASURED = ("flash", "cudnn", "efficient")
_ROWS, _REPEAT = 256, 10
"""Views, and repetitions, of a measurement."""
_CHECKED, _TOLERANCE = 8, 0.05
"""Views that are compared with the plain formula; the relative distance that rounding to bfloat16 stays under."""


@dataclass(frozen=True)
class Choice:
    """What attention is computed by."""

    name: str
    """"torch", or a key of `BACKENDS`."""
    seconds: dict[str, float]
    """Of a forward and a backward pass of `_ROWS` views by each that was measured; empty where nothing was."""

    def __str__(self) -> str:
        measured = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in sorted(self.seconds.items(), key=lambda i: i[1]))
        named = "torch's own choice" if self.name == "torch" else self.name
        return f"{named}, the fastest here ({measured})" if measured else named


def use(name: str) -> AbstractContextManager[None]:
    """Return a context in which attention is computed by the named implementation where that can: "torch" or a key of `BACKENDS`.

    Where it cannot (flash attention knows no mask, and captions are masked) the efficient one does, then the plain formula.
    """
    if name == "torch":
        return nullcontext()
    rest = [backend for backend in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH) if name != "math"]
    wanted = list(dict.fromkeys([BACKENDS[name], *rest]))
    return sdpa_kernel(wanted, set_priority=len(wanted) > 1)


def choose(setting: str, backbone: nn.Module, device: torch.device, dtype: torch.dtype) -> Choice:
    """Return what a setting asks for; "auto" is the fastest on a GPU for the shape of a ViT's attention, else torch's choice."""
    if setting != "auto":
        return Choice(setting, {})
    shape = head_shape(backbone)
    if device.type != "cuda" or shape is None:
        return Choice("torch", {})
    inputs = [torch.randn(_ROWS, *shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    return fastest(inputs, _seconds_on_gpu)


def head_shape(backbone: nn.Module) -> tuple[int, int, int] | None:
    """Return heads, tokens and width of a head of timm's ViT; None for other networks."""
    attn = getattr(backbone.blocks[0], "attn", None) if isinstance(backbone, VisionTransformer) else None
    if attn is None or not hasattr(attn, "head_dim"):
        return None
    return attn.num_heads, backbone.patch_embed.num_patches + backbone.num_prefix_tokens, attn.head_dim  # type: ignore[union-attr, operator, return-value]


def fastest(inputs: list[Tensor], seconds: Callable[[Callable[[], object]], float]) -> Choice:
    """Return the fastest of those that give the plain formula's output and gradients; torch's choice where none does.

    Shape: queries, keys and values (B, heads, N, D), with gradients.

    Args:
        seconds: tells how long a call takes
    """
    few = [x.detach()[:_CHECKED].requires_grad_() for x in inputs]
    exact = _both_passes([x.detach().float().requires_grad_() for x in few], SDPBackend.MATH)
    measured = {}
    for name in MEASURED:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they say what this one does not take
                found = _both_passes(few, BACKENDS[name])
        except RuntimeError:
            continue
        if all((got.float() - expected).norm() <= _TOLERANCE * expected.norm() for got, expected in zip(found, exact, strict=True)):
            measured[name] = seconds(lambda name=name: _both_passes(inputs, BACKENDS[name]))  # type: ignore[misc]
    return Choice(min(measured, key=measured.__getitem__), measured) if measured else Choice("torch", {})


def _both_passes(inputs: list[Tensor], backend: SDPBackend) -> tuple[Tensor, ...]:
    """Return the output and the gradients of half its square."""
    query, key, value = inputs
    with sdpa_kernel([backend]):
        out = F.scaled_dot_product_attention(query, key, value)
    return out.detach(), *torch.autograd.grad(out, inputs, out.detach())


def _seconds_on_gpu(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    work()
    start.record()
    for _ in range(_REPEAT):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / _REPEAT
