"""How the numbers of a step are computed: TF32, attention, compilation, recomputed activations."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import torch
from torch import nn
from torch._functorch import config as functorch
from torch.nn.attention import SDPBackend, sdpa_kernel

from satmip_train.errors import UsageError
from satmip_train.models.metadata_encoders import TextEncoder
from satmip_train.objectives.base import Objective

_M_MMAP_THRESHOLD, _LARGE = -3, 128 * 1024
"""GNU's number of the size, in bytes, from which memory is asked of the system by itself; with one that is set, it stays so."""


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within it float32 matrix products and convolutions of a GPU round their factors to TF32 (10 bits), or do not."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def attention(name: str) -> AbstractContextManager[None]:
    """Return a context in which torch computes attention by the named backend; "auto" and "torch" leave the choice to torch.

    Where that one cannot (flash attention knows no mask, and captions are masked) the efficient one does, then the plain formula.
    """
    if name in ("auto", "torch"):
        return nullcontext()
    if name == "math":
        return sdpa_kernel(SDPBackend.MATH)
    wanted = dict.fromkeys([_BACKENDS[name], SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    return sdpa_kernel(list(wanted), set_priority=True)


def compile_encoders(objective: Objective, activation_budget: float = 1.0) -> None:
    """Compile the image encoders and the textual one, forward and backward; what follows them is cheap.

    Args:
        activation_budget: share of the activations that is kept; the compiler computes the rest again, the cheapest first
    """
    functorch.activation_memory_budget = activation_budget
    for encoder in objective.image_encoders:
        encoder.forward = torch.compile(encoder.forward)
    if isinstance(objective.metadata_encoder, TextEncoder):
        # Token rows have few widths; after the second, one graph is made for all.
        objective.metadata_encoder.features = torch.compile(objective.metadata_encoder.features)  # type: ignore[method-assign]


def set_compile_cache_tag(*circumstances: str) -> None:
    """Let torch keep what it compiles under other circumstances apart on the disk: it asks for its graphs by their code.

    The code names neither the implementation of attention (see `attention`; pytorch issue 185449) nor, before torch 2.14, the
    type of autocast. A run would get the graphs of an earlier one, and with them the earlier one's attention and precision.
    A tag of the user's own, in the environment, goes on to tell graphs apart too.
    """
    own = os.environ.get("TORCH_COMPILE_CACHE_KEY_TAG", "")
    torch.compiler.config.cache_key_tag = ", ".join(filter(None, (own, *circumstances)))


class CompilerError(UsageError):
    """torch.compile failed; the message says how to go on without."""


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Tell what to do where torch.compile fails, which it does at the first step.

    Raises:
        CompilerError: networks or views could not be compiled.
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
            raise
        reason = " ".join(str(error).strip().split("\n\n")[0].split())
        raise CompilerError(f"torch.compile failed: {reason}. Use --no-compile to train without it.") from error


@contextmanager
def memory_errors() -> Iterator[None]:
    """Tell what takes less memory where a step does not fit into the GPU.

    Raises:
        UsageError: the GPU is out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"A step does not fit into the GPU's memory: {str(error).splitlines()[0]} Use --micro-batch 256 (or fewer rows) or "
            "--grad-checkpointing, which learn the same, or --data stream where the split is resident."
        ) from error


def return_freed_memory() -> None:
    """Have the C library give the memory of large tensors back to the system as soon as they are freed.

    GNU's keeps it otherwise, in pieces between those that live on: with recomputed activations a step then took up to 40 % more
    than its tensors (docs/benchmarks.md). Elsewhere nothing is changed.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def recompute_activations(backbone: nn.Module) -> None:
    """Let a backbone compute activations again in the backward pass.

    Raises:
        ValueError: it cannot.
    """
    advice = "Leave it out; --micro-batch saves memory too where there are no batch norms."
    refusal = f"timm's {type(backbone).__name__} knows no --grad-checkpointing. {advice}"
    if not hasattr(backbone, "set_grad_checkpointing"):
        raise ValueError(refusal)
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except AssertionError as error:  # how timm says that this one cannot
        raise ValueError(refusal) from error
