"""The memory that a process may take, read from files as Linux has them."""

import os
from pathlib import Path

import pytest

from satmip_train.data.memory import available_memory, memory_in_use

GIB = 2**30
V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def machine(root: Path, cgroup: str | None) -> Path:
    proc = root / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal:       {256 * 2**20} kB\nMemAvailable:   {200 * 2**20} kB\nHugePages_Total:       0\n")
    if cgroup is not None:
        (proc / "self" / "cgroup").write_text(cgroup)
    return proc


def group(folder: Path, names: tuple[str, str], limit: object, used: int, files: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {files}\ntotal_inactive_file {files}\n")


def test_a_container_of_cgroup_v2_has_what_is_left_of_its_limit(tmp_path: Path) -> None:
    """Once a split was taken to fit that the container then could not hold, and the run was killed."""
    proc = machine(tmp_path, "0::/\n")
    group(tmp_path / "cgroup", V2, 16 * GIB, 5 * GIB, files=3 * GIB)
    assert available_memory(proc, tmp_path / "cgroup") == 14 * GIB
    assert memory_in_use(proc, tmp_path / "cgroup") == f"{2 * GIB / 1e9:.1f} of {16 * GIB / 1e9:.1f} GB in use"


def test_the_tightest_limit_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    proc = machine(tmp_path, "0::/system.slice/slurm/job_7/step_0\n")
    slices = tmp_path / "cgroup" / "system.slice"
    group(slices, V2, "max", 100 * GIB)
    group(slices / "slurm" / "job_7", V2, 32 * GIB, 2 * GIB)
    group(slices / "slurm" / "job_7" / "step_0", V2, 64 * GIB, 1 * GIB)
    group(slices / "slurm" / "job_8", V2, 1 * GIB, 0)
    assert available_memory(proc, tmp_path / "cgroup") == 30 * GIB


def test_a_container_of_cgroup_v1_has_its_own_limit_at_the_root(tmp_path: Path) -> None:
    """It is told its path on the host, which it does not see."""
    proc = machine(tmp_path, "5:cpu,cpuacct:/docker/ab:c\n4:memory:/docker/ab:c\n0::/\n")
    group(tmp_path / "cgroup" / "memory", V1, 8 * GIB, 6 * GIB, files=1 * GIB)
    assert available_memory(proc, tmp_path / "cgroup") == 3 * GIB


@pytest.mark.parametrize("limit", ["max", 9_223_372_036_854_771_712, "nonsense", ""])
def test_without_a_limit_it_is_the_machines(tmp_path: Path, limit: object) -> None:
    proc = machine(tmp_path, "4:memory:/a\n0::/a\n")
    group(tmp_path / "cgroup" / "a", V2, limit, GIB)
    group(tmp_path / "cgroup" / "memory" / "a", V1, limit, GIB)
    assert available_memory(proc, tmp_path / "cgroup") == 200 * GIB


def test_a_full_container_has_nothing_left(tmp_path: Path) -> None:
    proc = machine(tmp_path, "0::/a\n")
    group(tmp_path / "cgroup" / "a", V2, GIB, 2 * GIB)
    assert available_memory(proc, tmp_path / "cgroup") == 0


def test_without_control_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, None), tmp_path / "cgroup") == 200 * GIB


def test_elsewhere_than_on_linux_it_is_half_of_what_is_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4 * GIB // 4096}.__getitem__)
    assert available_memory(tmp_path / "proc", tmp_path / "cgroup") == 2 * GIB
