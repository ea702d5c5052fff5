"""How much memory this process may still take: the machine's, and what is left of its container's limit."""

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
    return min([_of_machine(proc), *_left(proc, cgroups)])


def _of_machine(proc: Path) -> int:
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        kib = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
        return kib["MemAvailable"] * 1024
    except FileNotFoundError:  # no Linux: half of what is built in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _left(proc: Path, cgroups: Path) -> Iterator[int]:
    """Give what is left of each limit on the way from the process's control group up to the root."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # A container that does not see its host's groups has its own at the root, whatever the path says.
        for controller in {"", "memory"} & set(controllers.split(",")):
            for group in (PurePosixPath(path), *PurePosixPath(path).parents):
                left = _left_of(cgroups / controller / str(group).lstrip("/"), *_FILES[controller])
                if left is not None:
                    yield left


def _left_of(group: Path, limit: str, used: str, files: str) -> int | None:
    """Return what is left of the limit of one control group; None where it has none."""
    try:
        most, now = ((group / name).read_text(encoding="ascii").strip() for name in (limit, used))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return None if most == "max" else max(int(most) - int(now) + int(stat.get(files, 0)), 0)
    except (OSError, ValueError):
        return None
