"""torch's compiler for an H200 that is not there: it writes the kernels it would run, and nothing is run.

Functions are traced on tensors of a CPU that hold nothing, forward and backward; what was traced is moved to the GPU by name, and
lowered. That uses much of what is private in torch, so it is a tool of the benchmarks: it was written for torch 2.11 to 2.15.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from torch._dynamo.device_interface import CudaInterface
from torch._functorch import config as functorch
from torch._functorch.aot_autograd import aot_module_simplified, make_boxed_func
from torch._guards import detect_fake_mode
from torch._inductor import compile_fx, scheduler
from torch._inductor import config as inductor
from torch._inductor.codecache import PyCodeCache
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime import triton_helpers
from torch._subclasses import fake_tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

H200 = SimpleNamespace(
    name="NVIDIA H200", major=9, minor=0, multi_processor_count=132, total_memory=141 * 10**9, warp_size=32, gcnArchName="",
    regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024, L2_cache_size=60 << 20,
    shared_memory_per_block=49152, shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472,
    clock_rate=1_980_000, memory_clock_rate=3_201_000, memory_bus_width=6144,
)  # fmt: skip
_TOLD = {
    "_exchange_device": 0, "_lazy_init": None, "_maybe_exchange_device": 0, "current_device": 0, "device_count": 1,
    "get_device_capability": (9, 0), "get_device_name": H200.name, "get_device_properties": H200,
    "get_rng_state": torch.zeros(16, dtype=torch.uint8), "is_available": True, "is_bf16_supported": True,
    "is_current_stream_capturing": False, "is_initialized": True, "set_rng_state": None, "synchronize": None,
}  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """One call of a kernel."""

    name: str
    """What it fuses, or the library function that it calls."""
    bytes: int
    """Read and written, each buffer once."""
    flop: int
    """Of matrix products and attention; 0 for all else."""


@dataclass(frozen=True)
class Graph:
    """What the compiler makes of a forward or a backward pass."""

    kernels: tuple[Kernel, ...]
    kept: int
    """Bytes that a forward pass leaves behind: what it returns and what its backward pass needs."""
    code: str
    """Python with the Triton kernels, which `machine_code` compiles."""


class _Absent:
    """Triton's driver of the GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)


@contextmanager
def told_of_a_gpu() -> Iterator[None]:
    """Let torch and Triton believe in the GPU."""
    with ExitStack() as stack:
        for name, value in _TOLD.items():
            stack.enter_context(patch(f"torch.cuda.{name}", lambda *args, value=value, **kwargs: value))
        answers = {"is_available": True, "current_device": 0, "get_compute_capability": 90, "get_device_properties": H200}
        for where in (CudaInterface, CudaInterface.Worker):
            for name, value in answers.items():
                answer = staticmethod(lambda *args, value=value, **kwargs: value)
                stack.enter_context(patch.object(where, name, answer, create=True))
        stack.enter_context(patch.object(fake_tensor, "init_gpu_context", lambda device: None))
        stack.enter_context(patch.object(scheduler, "has_triton", lambda: True))
        driver.set_active(_Absent())
        yield


# Flash attention is no kernel of the compiler's. Only what it reads and writes counts here, so these operators have shapes alone.
torch.library.define("benchmarks::attend", "(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")
torch.library.define(
    "benchmarks::attend_backward",
    "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor sums) -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("benchmarks::attend")
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    batch, heads, rows, width = q.shape
    return q.new_empty(batch, rows, heads, width).transpose(1, 2), q.new_empty(batch, heads, rows, dtype=torch.float32)


@torch.library.register_fake("benchmarks::attend_backward")
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


torch.library.register_autograd(
    "benchmarks::attend",
    lambda ctx, grad, _: torch.ops.benchmarks.attend_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, *output),
)


def _moved(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Move what was traced to the GPU, by name."""
    for node in graph.graph.nodes:
        node.meta.pop("tensor_meta", None)
        node.meta["val"] = _on_gpu(node.meta.get("val"))
        if node.kwargs.get("device") == torch.device("cpu"):
            node.kwargs = {**node.kwargs, "device": torch.device("cuda", 0)}
    graph.recompile()
    return graph


def _on_gpu(values: Any) -> Any:
    return tree_map_only(Tensor, lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda"), values)


class _Lowered(BaseException):
    """Ends the compiler's work where its kernels would be loaded."""


def _kept(graph: torch.fx.GraphModule) -> int:
    """Return the bytes of what a traced pass makes and returns, each piece of memory once."""

    def sizes(nodes: Iterable[torch.fx.Node | None]) -> dict[int, int]:
        values = (node.meta["val"] for node in nodes if node is not None)
        storages = (value.untyped_storage() for value in values if isinstance(value, Tensor))
        return {storage._cdata: storage.nbytes() for storage in storages}

    given = sizes(node for node in graph.graph.nodes if node.op == "placeholder")
    return sum(size for storage, size in sizes(graph.graph.output_node().args[0]).items() if storage not in given)


def _lower(graph: torch.fx.GraphModule, inputs: Any, *, found: list[Graph], backward: bool) -> Callable[..., Any]:
    kept = 0 if backward else _kept(graph)

    def take(lowering: GraphLowering, *args: Any) -> Any:
        code, _ = lowering.codegen()
        # The counts are in units of four bytes.
        kernels = [Kernel(_name(node), 4 * count, _flop(node)) for node, count in lowering.count_bytes()[1] if count]
        found.append(Graph(tuple(kernels), kept, str(getattr(code, "value", code))))
        raise _Lowered

    mode = detect_fake_mode(inputs)
    assert mode is not None
    with told_of_a_gpu(), mode, patch.object(GraphLowering, "compile_to_module", take), suppress(_Lowered):
        compile_fx.compile_fx_inner(_moved(graph), _on_gpu(inputs), is_backward=backward)
    return make_boxed_func(lambda *args: None)  # type: ignore[no-any-return]


def _name(node: Any) -> str:
    inner = getattr(node, "node", None)
    return str(getattr(inner, "python_kernel_name", None) or "fused")


def _flop(node: Any) -> int:
    name = _name(node)
    backward, sizes = "backward" in name, [tuple(map(int, x.get_size())) for x in getattr(node.node, "inputs", ())]
    if "convolution" in name:
        # Without the gradient of the images, which nobody asks for.
        (out, weight) = (sizes[0], sizes[2]) if backward else (tuple(map(int, node.node.get_size())), sizes[1])
        return 2 * prod(out) * prod(weight[1:])
    if "attend" in name:
        # Two products forward; four backward, and the scores once more.
        (batch, heads, rows, width), (_, _, columns, _) = sizes[1:3] if backward else sizes[:2]
        return (10 if backward else 4) * batch * heads * rows * columns * width
    return int(node.estimate_flops() or 0)


def lowered(function: Callable[..., Tensor], *inputs: Any) -> list[Graph]:
    """Return what the compiler makes of a function of fake tensors of a CPU: its forward pass and, with gradients, its backward."""
    found: list[Graph] = []

    def partition(graph: torch.fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        compile_fx._recursive_joint_graph_passes(graph)
        return compile_fx.min_cut_rematerialization_partition(graph, *args, compiler="inductor", **kwargs)

    def backend(graph: torch.fx.GraphModule, example: Any) -> Any:
        forward, backward = (partial(_lower, found=found, backward=which) for which in (False, True))
        return aot_module_simplified(
            graph, example, fw_compiler=forward, bw_compiler=backward, partition_fn=partition, decompositions=select_decomp_table()
        )

    torch.compiler.reset()
    with (
        functorch.patch(force_non_lazy_backward_lowering=True, enable_autograd_cache=False),
        # No pool of processes, which would outlive this one's work.
        inductor.patch(fx_graph_cache=False, joint_graph_constant_folding=False, compile_threads=1),
        patch.object(F, "scaled_dot_product_attention", lambda q, k, v, *mask, **more: torch.ops.benchmarks.attend(q, k, v)[0]),
    ):
        try:
            torch.compile(function, backend=backend, fullgraph=True)(*inputs)
        except (AttributeError, IndexError):
            # Nothing was computed, so there is nothing to return.
            if not found:
                raise
    return found


def _ptxas() -> Path:
    return next(path for path in Path(triton.__file__).parent.rglob("ptxas*") if os.access(path, os.X_OK))


_TRITON = re.compile(r"async_compile\.triton\('(\w+)', \'\'\'(.*?)\'\'\'", re.DOTALL)


def machine_code(code: str) -> Iterator[tuple[str, int, int]]:
    """Compile each Triton kernel of a graph for Hopper; give its name, registers a thread and bytes spilled, in its worst form."""
    ptxas = _ptxas()
    with (
        told_of_a_gpu(),
        patch.object(triton_helpers, "set_driver_to_gpu", lambda: None),
        inductor.patch(use_static_cuda_launcher=False),
    ):
        for name, source in _TRITON.findall(code):
            kernel = getattr(PyCodeCache.load(source), name)
            forms = [_resources(kernel._precompile_config(form).kernel.asm["ptx"], ptxas) for form in kernel.configs]
            yield name, max(registers for registers, _ in forms), max(spilled for _, spilled in forms)


def _resources(ptx: str, ptxas: Path) -> tuple[int, int]:
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [ptxas, "-v", "-arch=sm_90a", "-o", os.devnull, file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = (re.findall(pattern, report) for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores"))
    return max(map(int, registers)), max(map(int, spilled))
