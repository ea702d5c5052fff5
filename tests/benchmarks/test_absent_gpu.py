"""The compiler's plan for a GPU that is not there counts what an operation must move and compute."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

# A script, because what it changes in torch and Triton holds for a process.
SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from absent_gpu import lowered, machine_code
from torch._subclasses.fake_tensor import FakeTensorMode

with FakeTensorMode():
    x, weight = torch.empty(512, 256), torch.empty(256, 128, requires_grad=True)
    pointwise = lowered(lambda x: torch.nn.functional.gelu(x) * 2 + 1, x)
    product = lowered(lambda x, weight: (x @ weight).relu(), x, weight)
graphs = [[[kernel.name, kernel.bytes, kernel.flop] for kernel in graph.kernels] for graph in (*pointwise, *product)]
code = [list(machine_code(graph.code)) for graph in (*pointwise, *product)]
print(json.dumps({"graphs": graphs, "kept": [graph.kept for graph in (*pointwise, *product)], "code": code}))
"""


def test_a_plan_counts_bytes_and_flop_and_its_kernels_compile() -> None:
    folder = Path(__file__).parents[1] / "benchmarks"
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    x, weight, out = 4 * 512 * 256, 4 * 256 * 128, 4 * 512 * 128
    pointwise, forward, backward = found["graphs"]
    assert [kernel[1:] for kernel in pointwise] == [[2 * x, 0]]
    product, relu = forward
    assert product == ["extern_kernels.mm", x + weight + out, 2 * 512 * 256 * 128]
    assert relu[2] == 0
    assert [kernel[2] for kernel in backward if kernel[2]] == [2 * 512 * 256 * 128]
    # What the backward pass needs is the sign of each product, a byte, beside what is returned.
    assert found["kept"] == [x, out + out // 4, 0]
    assert all(registers > 0 and spilled == 0 for graph in found["code"] for _, registers, spilled in graph)
    assert [len(graph) for graph in found["code"]] == [1, 1, 1]
