"""Which implementation of attention a step uses: a named one, torch's own choice, or the fastest by measurement."""

import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from satmip_train.distributed import Job

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
PACKED = "packed"
"""Our own, see `packed_attention`."""
MEASURED = ("flash", "cudnn", "efficient", PACKED)
_ROWS, _REPEAT = 256, 10
"""Views, and repetitions, of a measurement."""
_CHECKED, _TOLERANCE = 8, 0.05
"""Views that are compared with the plain formula; the relative distance that rounding to bfloat16 stays under."""


@dataclass(frozen=True)
class Choice:
    """What attention is computed by."""

    name: str
    """"torch", "packed", or a key of `BACKENDS`."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of a forward and a backward pass of `_ROWS` views by each that was measured; empty where nothing was."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why others were not."""

    def __str__(self) -> str:
        measured = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in sorted(self.seconds.items(), key=lambda i: i[1]))
        named = "torch's own choice" if self.name == "torch" else self.name
        chosen = f"{named}, the fastest here ({measured})" if measured else named
        return "; ".join([chosen, *(f"not {name}: {reason}" for name, reason in self.refused.items())])


def use(name: str) -> AbstractContextManager[None]:
    """Return a context in which attention is computed by the named implementation where that can: "torch" or a key of `BACKENDS`.

    Where it cannot (flash attention knows no mask, and captions are masked) the efficient one does, then the plain formula. Beside
    "packed", which `install` puts into the networks, torch chooses.
    """
    if name in ("torch", PACKED):
        return nullcontext()
    if name == "math":
        return sdpa_kernel(SDPBackend.MATH)
    wanted = dict.fromkeys([BACKENDS[name], SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    return sdpa_kernel(list(wanted), set_priority=True)


def install(name: str, encoders: Iterable[nn.Module]) -> None:
    """Put "packed" attention into networks before they run or are compiled; other implementations need no more than `use`."""
    if name == PACKED:
        from satmip_train.training.packed_attention import pack

        for encoder in encoders:
            pack(encoder)


def choose(setting: str, backbone: nn.Module, job: Job, dtype: torch.dtype) -> Choice:
    """Return what a setting asks for; "auto" is the fastest on a GPU for the shape of a ViT's attention, else torch's choice.

    Raises:
        ValueError: "packed" was asked for and cannot be, or the fastest one of the main rank cannot be on this one.
    """
    shape, device = head_shape(backbone), job.device
    if setting == PACKED and (reason := obstacle(shape, device, dtype)) is not None:
        raise ValueError(f"attention packed {reason}. Pass --attention auto")
    if setting != "auto":
        return Choice(setting)
    if device.type != "cuda" or shape is None:
        return Choice("torch")
    heads, tokens, width = shape
    packed = torch.randn(_ROWS, tokens, 3, heads, width, device=device, dtype=dtype, requires_grad=True)
    reason = obstacle(shape, device, dtype)
    return agreed(job, packed, lambda: fastest(packed, _seconds_on_gpu, {} if reason is None else {PACKED: reason}))


def agreed(job: Job, packed: Tensor, measure: Callable[[], Choice]) -> Choice:
    """Return what the main rank measured. Others might find another one, by noise; they only check that they can take the same.

    Shape: packed as in `fastest`.

    Raises:
        ValueError: this rank does not take it, or not with the formula's numbers; or the main rank could not measure.
    """
    choice = job.decided(measure)
    if choice.seconds and not job.main:
        try:
            _tried(choice.name, packed, _exact(packed), lambda work: 0.0)
        except Exception as error:  # as in `fastest`
            raise ValueError(
                f"every rank must compute attention as the main one, by {choice.name}, however: rank {job.rank}: {_reason(error)}. "
                "Pass --attention torch"
            ) from error
    return choice


def head_shape(backbone: nn.Module) -> tuple[int, int, int] | None:
    """Return heads, tokens and width of a head of timm's ViT; None for other networks."""
    attn = getattr(backbone.blocks[0], "attn", None) if isinstance(backbone, VisionTransformer) else None
    if attn is None or not hasattr(attn, "head_dim"):
        return None
    return attn.num_heads, backbone.patch_embed.num_patches + backbone.num_prefix_tokens, attn.head_dim  # type: ignore[union-attr, operator, return-value]


def obstacle(shape: tuple[int, int, int] | None, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why attention of this shape (see `head_shape`) cannot be "packed", as the end of a sentence; None where it can."""
    if find_spec("triton") is None:
        return "needs Triton, however: it is not installed"
    from satmip_train.training.packed_attention import DEVICES, DTYPES, LONGEST, WIDTHS

    if device.type not in DEVICES or dtype not in DTYPES:
        return f"runs in bf16 or fp16 on a GPU, however: {dtype} on {device}"
    if shape is None or shape[1] > LONGEST or shape[2] not in WIDTHS:
        return f"takes a ViT of {LONGEST} tokens at most and heads of {WIDTHS} numbers, however: (heads, tokens, width)={shape}"
    return None


def fastest(packed: Tensor, seconds: Callable[[Callable[[], object]], float], refused: dict[str, str] | None = None) -> Choice:
    """Return the fastest of those that give the plain formula's output and gradients; torch's choice where none does.

    Shape: packed (B, N, 3, H, D): queries, keys and values of N tokens and H heads, with a gradient.

    Args:
        seconds: tells how long a call takes
        refused: implementations that are not tried, and why
    """
    exact = _exact(packed)
    measured, refused = {}, dict(refused or {})
    for name in MEASURED:
        if name not in refused:
            try:
                measured[name] = _tried(name, packed, exact, seconds)
            except Exception as error:  # whatever libraries, compilers and drivers say that do not take this; there are others
                refused[name] = _reason(error)
    return Choice(min(measured, key=measured.__getitem__) if measured else "torch", measured, refused)


def _tried(name: str, packed: Tensor, exact: tuple[Tensor, Tensor], seconds: Callable[[Callable[[], object]], float]) -> float:
    """Return the seconds that a named implementation takes. Raises ValueError where it does not give the formula's numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they say what this one does not take
        # All views also at first, when a kernel that has several forms takes the fastest: of few, another one is.
        found = (part[:_CHECKED].float() for part in _both_passes(packed, name))
        if not all((got - right).norm() <= _TOLERANCE * right.norm() for got, right in zip(found, exact, strict=True)):
            raise ValueError("its numbers are not those of the formula")
        return seconds(lambda: _both_passes(packed, name))


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:100]


def _exact(packed: Tensor) -> tuple[Tensor, Tensor]:
    return _both_passes(packed.detach()[:_CHECKED].float().requires_grad_(), "math")


def _both_passes(packed: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return the output and the gradient of half its square."""
    out = attend(packed, name)
    return out.detach(), torch.autograd.grad(out, packed, out.detach())[0]


def attend(packed: Tensor, name: str) -> Tensor:
    """Return what each token reads from all others, by a named implementation. Shape: (B, N, 3, H, D) -> (B, N, H D)."""
    if name == PACKED:
        from satmip_train.training.packed_attention import packed_attention

        return packed_attention(packed.flatten(2), packed.shape[3])
    query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
    with sdpa_kernel([BACKENDS[name]]):
        out = F.scaled_dot_product_attention(query, key, value)
    return out.transpose(1, 2).flatten(2)


def _seconds_on_gpu(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    work()
    start.record()
    for _ in range(_REPEAT):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / _REPEAT
