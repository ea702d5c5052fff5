"""What the ranks of a job need of one another: gathered rows with the exact gradient, and batch statistics of the global batch."""

from typing import Any

import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def world_size() -> int:
    """Return the number of ranks; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this rank, from 0; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    # torch has the same in torch.distributed.nn, but deprecates it without a successor that both old and new releases have.

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every rank's loss saw these rows, so their gradient is the sum over the ranks.
        (gradient,) = gradients
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return own_rows(total)


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, in the order of the ranks. The gradient of a row is the sum over the losses of all ranks.

    With losses that are means over a rank's own rows, DDP's average of the parameters' gradients over the ranks is then the
    gradient of the loss of the global batch.

    Shape:
        rows: (B, *), the same B on every rank
        returns: (world_size * B, *)
    """
    return _Gather.apply(rows) if world_size() > 1 else rows


def own_rows(gathered: Tensor) -> Tensor:
    """Return this rank's part of what `gather` returned. Shape: (world_size * B, *) -> (B, *)."""
    # A slice and not a chunk: what follows a batch norm may work in place, which autograd forbids on chunks.
    own = len(gathered) // world_size()
    return gathered[rank() * own : (rank() + 1) * own]


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """Return `module` with batch norms that compute their statistics over the global batch. Names of parameters stay.

    On a GPU that is SyncBatchNorm (timm's conversion also keeps the activations that timm fuses into a norm). SyncBatchNorm
    refuses CPU tensors, so there each rank gathers the rows and normalizes all of them: slower, and exact.
    """
    if all(parameter.device.type != "cpu" for parameter in module.parameters()):
        converted: nn.Module = convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.register_forward_pre_hook(_gather_input)
            part.register_forward_hook(_keep_own_rows)
    return module


def _gather_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (gather(inputs[0]),) if module.training else inputs


def _keep_own_rows(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return own_rows(output) if module.training else output
