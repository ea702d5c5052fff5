"""How many bytes compiled views move through memory, as the compiler counts them for its own schedule; needs no GPU.

    python tests/benchmarks/view_bytes.py

The schedule is that for a CPU: a GPU may fuse otherwise.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import gpu_views
import torch
from rich.console import Console
from torch import Tensor
from torch._inductor import config as inductor
from torch._inductor.graph import GraphLowering

from satmip_train import augment, colour

BATCH, SIDE = 8, 224
BANDWIDTH = 4.3e12
"""Bytes a second that a copy moves on an H200."""


def counted(views: Callable[..., Tensor], *inputs: Any) -> float:
    """Return the bytes that all kernels of a compiled function read and write, a view."""
    found, build = [], GraphLowering.compile_to_module

    def count(graph: GraphLowering, *arguments: Any) -> Any:
        module = build(graph, *arguments)
        found.append(graph.count_bytes()[0])
        return module

    torch.compiler.reset()
    with (
        patch.object(GraphLowering, "compile_to_module", count),
        inductor.patch(fx_graph_cache=False),
        torch.no_grad(),
    ):
        torch.compile(views, fullgraph=True)(*inputs)
    return sum(found) / BATCH


def main() -> None:
    """Count and print."""
    generator, policy = torch.Generator().manual_seed(0), augment.policy("simclr-sat", SIDE)
    images = torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    params = augment.draw(policy, BATCH, generator, (SIDE, SIDE))
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    console = Console()
    for name, changed in {"as they are": (), "jitter in two passes": ("jitter",), "and blur as sums": ("jitter", "blur")}.items():
        with ExitStack() as stack:
            for part in changed:
                stack.enter_context(patch.object(colour, part, getattr(gpu_views, part)))
            size = counted(lambda x, drawn: augment.batched(x, drawn, policy).sub_(mean).div_(std), images, params)
        console.print(f"{name}: {size / 1e6:.1f} MB a view, {size / BANDWIDTH * 1e6:.1f} microseconds at {BANDWIDTH / 1e12} TB/s")


if __name__ == "__main__":
    main()
