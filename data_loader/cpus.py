"""How many CPUs this process may use, which can be fewer than the machine has."""

import math
import os
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs that the affinity and the quota of the control group leave to this process, 1 at least.

    root: where /sys is
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _cgroup_quota(root / "sys/fs/cgroup")
    return max(1, min(count, math.floor(quota)) if quota else count)


def cpus_of_this_process(root: Path = Path("/")) -> int:
    """Its share of them, beside torchrun's other processes on this machine."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    count = int(processes) if processes.isdigit() else 1
    return max(1, available_cpus(root) // max(1, count))


def _cgroup_quota(group: Path) -> float | None:
    """CPUs' worth of time that the control group may use, None without a limit; version 2, then version 1."""
    for read in (_quota_of_version_2, _quota_of_version_1):
        try:
            quota, period = read(group)
            if int(quota) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
            continue
    return None


def _quota_of_version_2(group: Path) -> tuple[str, str]:
    quota, period = (group / "cpu.max").read_text().split()
    return quota, period


def _quota_of_version_1(group: Path) -> tuple[str, str]:
    quota = (group / "cpu/cpu.cfs_quota_us").read_text()
    period = (group / "cpu/cpu.cfs_period_us").read_text()
    return quota, period
