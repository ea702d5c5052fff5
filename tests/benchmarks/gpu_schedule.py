"""What torch's compiler plans for a step of SatMIPS on an H200, without one: kernels, bytes, FLOP, what is kept; nothing is run.

    python tests/benchmarks/gpu_schedule.py              # ViT-S/16, 224 px, batch 1024: a minute
    python tests/benchmarks/gpu_schedule.py --depth 2    # fewer blocks
    python tests/benchmarks/gpu_schedule.py --residual autocast
    python tests/benchmarks/gpu_schedule.py --registers  # also compile each kernel to machine code, two minutes more

The times are the least that each kernel needs, one after the other, at the rates below: no measurement, and no run is as fast.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from absent_gpu import Graph, Kernel, lowered, machine_code
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.fake_gpu import onto

from satmip_train import policies
from satmip_train.config import Settings
from satmip_train.models.backbones import create_backbone
from satmip_train.models.class_token import round_residual
from satmip_train.models.metadata_encoders import MetadataShape, TextEncoder
from satmip_train.views import apply, draws

BATCH, SIDE, TOKENS, HEADS = 1024, 224, 72, 12
COPY, PRODUCT = 4.3e12, 788e12
"""Bytes a second of a copy and FLOP a second of a large bf16 product, as others measured them on an H200."""
KINDS = {"attend": "attention", "mm": "matrix products", "convolution": "matrix products"}


def kind(kernel: Kernel) -> str:
    """Tell kernels apart by name."""
    return next((kind for part, kind in KINDS.items() if part in kernel.name), "pointwise and sums")


def least_seconds(kernel: Kernel) -> float:
    """Return the least that a kernel takes."""
    return max(kernel.bytes / COPY, kernel.flop / PRODUCT)


def views() -> list[Graph]:
    """Plan the views of a batch."""
    policy = policies.policy("simclr-sat", SIDE)
    drawn = draws.draw(policy, BATCH, torch.Generator().manual_seed(0), (SIDE, SIDE))

    def made(images: Tensor, params: draws.Params, mean: Tensor, std: Tensor) -> Tensor:
        return apply.batched(images, params, policy).sub_(mean).div_(std)

    with FakeTensorMode() as mode, torch.no_grad():
        chips = torch.empty(BATCH, SIDE, SIDE, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        params = draws.Params(**{name: mode.from_tensor(value) for name, value in vars(drawn).items()})
        return lowered(made, chips, params, torch.empty(3, 1, 1), torch.empty(3, 1, 1))


def trunk(depth: int, rounded: bool = False) -> list[Graph]:
    """Plan a forward and a backward pass of both views as one batch, also with a rounded residual stream."""
    backbone = create_backbone(Settings(backbone_args={"num_heads": HEADS, "depth": depth}))
    if rounded:
        round_residual(backbone)
    return _trained(backbone, backbone.forward, lambda: torch.empty(2 * BATCH, 3, SIDE, SIDE))


def text() -> list[Graph]:
    """Plan a forward and a backward pass of captions."""
    encoder = TextEncoder(Settings(), MetadataShape(77, 0, ()))
    return _trained(encoder, encoder.features, lambda: torch.empty(BATCH, TOKENS, dtype=torch.int64))


def _trained(network: nn.Module, forward: Callable[[Tensor], Tensor], make: Callable[[], Tensor]) -> list[Graph]:
    """Plan both passes of a network in bfloat16."""

    def encode(batch: Tensor) -> Tensor:
        # The CPU's autocast leaves norms in float32 too, as the residual stream is.
        with torch.autocast("cpu", torch.bfloat16):
            return forward(batch)

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        onto(network, mode, "cpu")
        return lowered(encode, make())


def rows(graph: Graph, samples: int) -> Iterator[tuple[str, int, float, float, float]]:
    """Give kind, kernels, and MB, GFLOP and least microseconds a sample."""
    kinds: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in graph.kernels:
        kinds[kind(kernel)].append(kernel)
    for name, kernels in sorted(kinds.items()):
        size, flop, least = (sum(map(of, kernels)) / samples for of in (lambda k: k.bytes, lambda k: k.flop, least_seconds))
        yield name, len(kernels), size / 1e6, flop / 1e9, least * 1e6


def main() -> None:
    """Plan and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--registers", action="store_true")
    parser.add_argument("--residual", choices=["fp32", "autocast"], default="fp32")
    options = parser.parse_args()
    images = trunk(options.depth, options.residual == "autocast")
    made, captions = views(), text()
    passes = {"views": (made[0], 2), "trunk, forward": (images[0], 1), "trunk, backward": (images[1], 1)}
    passes |= {"text, forward": (captions[0], 1), "text, backward": (captions[1], 1)}
    table, total = Table("a sample of two views", "kind", "kernels", "MB", "GFLOP", "us, at least"), 0.0
    for name, (graph, times) in passes.items():
        for what, count, size, flop, least in rows(graph, BATCH):
            table.add_row(name, what, str(times * count), f"{times * size:.1f}", f"{times * flop:.2f}", f"{times * least:.1f}")
            total += times * least
    console = Console(width=130)
    console.print(table)
    kept = images[0].kept + captions[0].kept
    console.print(f"kept for the backward pass: {kept / BATCH / 1e6:.1f} MB a sample, {kept / 1e9:.1f} GB")
    console.print(f"all: {total:.1f} us a sample at least, so {1e6 / total:,.0f} samples/s at most", soft_wrap=True)
    for name, (graph, _) in passes.items() if options.registers else ():
        for kernel, registers, spilled in machine_code(graph.code):
            console.print(f"{name}: {registers} registers, {spilled} bytes spilled: {kernel}", soft_wrap=True)


if __name__ == "__main__":
    main()
