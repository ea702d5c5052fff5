"""Memory that this process may still use: that of the machine, within the limit of its container."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Limit, use, and that of files in memory.stat, which the kernel gives up when asked: of cgroup v2, and of v1's controller."""


def available_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Return the bytes that can be had without swapping and without passing a limit of Docker, Kubernetes, Slurm or systemd.

    Args:
        proc: where the system tells of processes
        cgroups: where it tells of control groups
    """
    return min(left for left, _ in _limits(proc, cgroups))


def memory_in_use(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> str:
    """Return how much is in use where the least is left, such as "22.9 of 23.4 GB in use"; see `available_memory`."""
    left, limit = min(_limits(proc, cgroups))
    return f"{(limit - left) / 1e9:.1f} of {limit / 1e9:.1f} GB in use"


def _limits(proc: Path, cgroups: Path) -> Iterator[tuple[int, int]]:
    """Give what is left of each limit, and the limit: the machine's, and those on the way from the control group to the root."""
    yield _of_machine(proc)
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # A container that does not see its host's groups has its own at the root, whatever the path says.
        for controller in {"", "memory"} & set(controllers.split(",")):
            for group in (PurePosixPath(path), *PurePosixPath(path).parents):
                found = _of_group(cgroups / controller / str(group).lstrip("/"), *_FILES[controller])
                if found is not None:
                    yield found


def _of_machine(proc: Path) -> tuple[int, int]:
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        kib = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
        return kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024
    except FileNotFoundError:  # no Linux: half of what is built in
        built_in = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return built_in // 2, built_in


def _of_group(group: Path, limit: str, used: str, files: str) -> tuple[int, int] | None:
    """Return what is left of the limit of one control group, and the limit; None where it has none."""
    try:
        most, now = ((group / name).read_text(encoding="ascii").strip() for name in (limit, used))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return None if most == "max" else (max(int(most) - int(now) + int(stat.get(files, 0)), 0), int(most))
    except (OSError, ValueError):
        return None
