"""What the benchmark of a GPU concludes from its measurements, and that it measures every lever."""

import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gpu
import gpu_report
import torch
from gpu_levers import LEVERS
from gpu_profile import _on_device, busy, kind_of, shares
from helpers.fake_gpu import onto
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from satmip_train.config import Settings, resolve
from satmip_train.distributed import Job
from satmip_train.models.metadata_encoders import MetadataShape
from satmip_train.objectives import build_objective


def run(peak: float, batch: int = 1024, held: float = 1e9, step: float = 0.2, **more: Any) -> dict[str, Any]:
    speed = {"step_seconds": step, "samples_per_second": batch / step, "views": 2, "objective": "satmips"}
    return {"peak_bytes": peak + held, "resident_bytes": held, "batch_size": batch, **speed, **more}


def test_what_fits_follows_from_two_batches() -> None:
    """Fixed 4 GB and 50 MB a sample."""
    results = {
        "satmips": run(4e9 + 1024 * 50e6),
        "lever: half the batch": run(4e9 + 512 * 50e6, 512),
        "lever: activations recomputed": run(15e9),
        "lever: micro-batch of 256 rows": {"not measured": "out of time"},
    }
    found = gpu_report.memory(results)
    assert (found["mb_a_sample"], found["gb_fixed"]) == (pytest.approx(50), pytest.approx(4))
    assert found["peak_gb_streamed"] == pytest.approx(55.2)
    assert found["peak_gb_fmow_resident"] == pytest.approx(55.2 + 54.73, abs=0.01)
    assert found["fits"]["80 GB, streamed"] == {"largest_batch": 1440, "batch_1024_by": ["as it is", "activations recomputed"]}
    assert found["fits"]["24 GB, streamed"]["batch_1024_by"] == ["activations recomputed"]
    assert found["fits"]["80 GB, fMoW resident"] == {"largest_batch": 345, "batch_1024_by": ["activations recomputed"]}
    assert found["fits"]["24 GB, fMoW resident"] == {"largest_batch": 0, "batch_1024_by": []}
    assert gpu_report.memory({"satmips": results["satmips"]}) == {}


def test_shares_and_ratios_are_those_of_the_formulas() -> None:
    limits = {"product_tflops": 788.0, "copy_gb_per_second": 4300.0}
    shares = gpu_report.shares("satmips", run(1e9, step=0.1), limits)
    assert shares["of_the_product_peak"] == pytest.approx(10_240 * 55.3e9 / 788e12)
    assert shares["of_the_bandwidth"] == pytest.approx(10_240 * 2 * 226e6 / 4300e9)
    results = {"simclr": run(50e9, step=0.2), "satmips": run(55e9, step=0.22), "decoupled": run(80e9, step=0.3)}
    found = gpu_report.ratios({**results, "satmip": {"not measured": "out of time"}})
    assert set(found) == {"satmips / simclr", "satmips / decoupled"}
    assert found["satmips / simclr"] == pytest.approx({"time": 1.1, "memory": 1.1, "paper_time": 1.05, "paper_memory": 1.11})
    assert found["satmips / decoupled"]["time"] == pytest.approx(0.22 / 0.3)


def test_kernels_are_told_apart_by_name() -> None:
    kinds = {
        "flash_fwd_kernel": "attention",
        "cudnn_generated_fort_native_sdpa_sm90_flash_bprop": "attention",
        "fmha_cutlassB_bf16_aligned": "attention",
        "cudnn::fusion::convert_dq_to_16bits": "attention",
        "nvjet_hsh_128x256_64x4": "matrix products",
        "sm90_xmma_gemm_bf16": "matrix products",
        "triton_per_fused__to_copy_addmm_native_layer_norm_0": "pointwise and sums",
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>": "pointwise and sums",
        "Memcpy HtoD (Pinned -> Device)": "copies",
        "multi_tensor_apply_kernel<FusedAdamMathFunctor>": "optimizer",
    }
    assert {name: kind_of(name) for name in kinds} == kinds


def test_time_in_which_kernels_overlap_counts_once() -> None:
    assert busy([(5, 7), (0, 2), (1, 3), (1.5, 1.6), (7, 8)]) == pytest.approx(6)
    assert busy([]) == 0


def test_spans_that_a_profiler_draws_over_kernels_are_no_kernels() -> None:
    """Such as that of a whole step of the optimizer, which holds the gaps between its kernels too."""
    cuda, cpu = DeviceType.CUDA, DeviceType.CPU
    kernel, span, host = (
        SimpleNamespace(device_type=kind, is_user_annotation=drawn) for kind, drawn in ((cuda, False), (cuda, True), (cpu, False))
    )
    assert [_on_device(event, True) for event in (kernel, span, host)] == [True, False, False]
    assert [_on_device(event, False) for event in (kernel, span, host)] == [False, False, True]


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_profile_without_kernels_is_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="saw no kernel"):
        shares(lambda: torch.ones(3) + 1, 1.0, True, tmp_path / "profile.txt")


@pytest.mark.parametrize(("free", "cores", "expected"), [(64 << 20, 16, 0), (2 << 30, 16, 4), (64 << 30, 16, 14), (64 << 30, 2, 2)])
def test_there_are_no_more_loader_processes_than_shared_memory_holds(
    monkeypatch: pytest.MonkeyPatch, free: int, cores: int, expected: int
) -> None:
    monkeypatch.setattr(gpu.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    monkeypatch.setattr(gpu.os, "cpu_count", lambda: cores)
    assert gpu.loader_processes(14, 3 * 224 * 224) == expected


def test_a_part_that_fails_costs_no_other(tmp_path: Path) -> None:
    report = gpu.Report(gpu.TOY, Job(torch.device("cpu")), None, tmp_path, math.inf)  # type: ignore[arg-type]
    # What an operator of Triton's raises is no RuntimeError.
    report.measure("one", lambda: {}["missing"])
    report.measure("two", lambda: {"seconds": 1.0})
    assert report.results["one"]["not measured"] == "KeyError: 'missing'"
    assert report.results["two"]["seconds"] == 1.0
    assert "KeyError: 'missing'" in (tmp_path / "failures.txt").read_text()
    assert set(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == {"one", "two"}


# Until 2.15, torch counts a GPU's flash attention and not the CPU's, on which the networks are traced here.
FLASH_ON_A_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
    ),
}


@pytest.mark.parametrize("name", ["simclr", "satmip", "satmips", "decoupled"])
def test_the_arithmetic_of_a_sample_is_that_of_the_recipes(name: str) -> None:
    changes = {"coupled": False} if name == "decoupled" else {}
    settings = resolve("satmips" if changes else name, changes)
    objective = build_objective(settings, MetadataShape(77, 0, ()))
    counter = FlopCounterMode(display=False, custom_mapping=FLASH_ON_A_CPU)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        onto(objective, mode, "cpu")
        views = tuple(torch.empty(4, 3, 224, 224) for _ in range(objective.views))
        with counter:
            objective({"views": views, "tokens": torch.empty(4, 77, dtype=torch.int64)})["loss"].backward()
    stated = gpu_report.flop(name, {"objective": settings.objective})
    assert counter.get_total_flops() / 4 == pytest.approx(stated, rel=0.002)


def test_levers_change_settings_that_there_are() -> None:
    assert len({lever.name for lever in LEVERS}) == len(LEVERS)
    for lever in LEVERS:
        Settings(**lever.changes)
        assert re.fullmatch(r"\w+=[\w.]+|patched", lever.means)
    changed = {name for lever in LEVERS for name in lever.changes} | {"data"}
    assert {"compile", "attention", "tf32", "trim_tokens", "grad_checkpointing", "micro_batch", "precision", "data"} <= changed
    assert "activation_budget" in changed
