"""The processes of a run: devices, ranks, gathered rows with the exact gradient, global batch statistics."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from satmip_train.errors import UsageError

_alone = False
"""Whether this rank computes by itself for a while, see `alone`."""


def world_size() -> int:
    """Return the number of ranks; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone else 1


def rank() -> int:
    """Return the number of this rank, from 0; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() and not _alone else 0


@contextmanager
def alone() -> Iterator[None]:
    """Within it this rank computes as if there were no others."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


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


@dataclass(frozen=True, slots=True)
class Job:
    """This process among those of a run."""

    device: torch.device
    rank: int = 0
    ranks: int = 1
    first_on_machine: bool = True
    ranks_on_machine: int = 1
    waiting_group: Any = None
    """The group in which ranks wait for one that works alone, longer than collectives may take."""

    @property
    def main(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.ranks > 1:
            dist.barrier(self.waiting_group)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over the ranks."""
        if self.ranks > 1:
            dist.all_reduce(values)
        return values / self.ranks

    def all_agree(self, answer: bool) -> bool:
        """Return whether every rank answers yes."""
        if self.ranks == 1:
            return answer
        votes = torch.tensor(int(answer))
        dist.all_reduce(votes, dist.ReduceOp.MIN)
        return bool(votes)

    def same(self, number: int) -> bool:
        """Return whether every rank has the same number."""
        if self.ranks == 1:
            return True
        ends = torch.tensor([number, -number])
        dist.all_reduce(ends, dist.ReduceOp.MIN)
        return bool(ends[0] == -ends[1])


@contextmanager
def join_job(device: str = "auto") -> Iterator[Job]:
    """Join the run that torchrun's environment describes (without one: a run of its own) and leave it at the end.

    Args:
        device: "auto" (a GPU where there is one) or a torch device such as "cpu"

    Raises:
        UsageError: there is no such device, or another rank ended before this one.
    """
    ranks, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        # By default torch rounds the factors of float32 convolutions to TF32, though not those of products.
        torch.backends.cudnn.allow_tf32 = False
    if ranks == 1:
        yield Job(chosen)
        return
    with _telling_of_lost_ranks():
        # CPU tensors (the agreement to stop) go over gloo, also on GPUs.
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
        # A rank may fetch a split for hours, while by default the others give up after half an hour.
        waiting_group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        with _telling_of_lost_ranks():
            yield Job(chosen, dist.get_rank(), ranks, local == 0, here, waiting_group)
    finally:
        dist.destroy_process_group()


@contextmanager
def _telling_of_lost_ranks() -> Iterator[None]:
    """Say that another rank is gone, of which torch tells by a traceback in each of those that are left."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo's errors are of no kind of their own
            raise
        raise UsageError(
            f"Rank {os.environ.get('RANK', '?')} cannot reach another rank, which has probably ended. Its last words tell why. "
            "The same command goes on from the last checkpoint."
        ) from error


def _device(name: str, local: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{local}" if name == "cuda" else name)
        torch.zeros(1, device=device).item()  # "meta" holds no numbers
    except Exception as error:  # torch raises many kinds for devices that are not there, some with pages of its tables
        evidence = next(iter(str(error).splitlines()), repr(error))
        raise UsageError(f'--device "{name}" cannot be used on this machine: {evidence}. Use auto or cpu.') from error
    return device


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
