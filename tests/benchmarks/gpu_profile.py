"""Where the time of a step goes, by the kind of its kernels."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "copies": r"memcpy|memset|copy|aten::(cat|to|clone|contiguous)",
    "attention": r"flash|fmha|attention|sdpa|mha|dot_do_o|convert_dq",
    "matrix products": r"gemm|cutlass|cublas|nvjet|xmma|wgmma|gemv|splitk|conv|::(addmm|bmm|mm|linear|matmul|baddbmm|mkldnn)",
    "optimizer": r"adam|multi_tensor",
}
"""Kind -> what the names of its kernels hold; the first that fits. All others are pointwise operations and sums."""


def kind_of(name: str) -> str:
    """Return the kind of a kernel (of an operation, on a CPU) by its name."""
    if re.match(r"triton_(poi|red|per|for)", name):  # the compiler's, named after all that it fused
        return "pointwise and sums"
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower())), "pointwise and sums")


def busy(intervals: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of the intervals lasts."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return total


def shares(work: Callable[[], Any], seconds: float, cuda: bool, table: Path) -> dict[str, float]:
    """Return which part of the time each kind of kernels takes, and "idle"; write the whole table to a file.

    Args:
        seconds: that the work takes where nobody looks

    Raises:
        RuntimeError: the profiler saw nothing of the device.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        work()
    averages = profiler.key_averages()
    order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    table.write_text(averages.table(sort_by=order, row_limit=60), encoding="utf-8")
    kernels = [(event.name, event.time_range.start, event.time_range.end) for event in profiler.events() if _on_device(event, cuda)]
    if not kernels:
        raise RuntimeError("The profiler saw no kernel; CUPTI may not be allowed to look")
    found = dict.fromkeys([*KINDS, "pointwise and sums"], 0.0)
    if cuda:
        for name, start, stop in kernels:
            found[kind_of(name)] += stop - start
    else:
        for event in averages:
            found[kind_of(event.key)] += event.self_cpu_time_total
    microseconds = 1e6 * seconds
    worked = busy((start, stop) for _, start, stop in kernels) if cuda else sum(found.values())
    return {**{kind: value / microseconds for kind, value in found.items()}, "idle": max(1 - worked / microseconds, 0.0)}


def _on_device(event: Any, cuda: bool) -> bool:
    """Whether an event is work of the device; those of a GPU hold spans too, as of a whole step of the optimizer, with the gaps."""
    return (event.device_type == DeviceType.CUDA) == cuda and not event.is_user_annotation
