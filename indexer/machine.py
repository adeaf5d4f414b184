"""What of the machine this process may use: less than there is under taskset or SLURM, and in a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

# Linux's control groups, version 2: limits are files in the folder of a group, and hold for all groups in it
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def cores() -> int:
    """Cores that may be used: those that are allowed, or fewer where their time is limited."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for limit in _limits("cpu.max"):
        time, _, period = limit.partition(" ")
        if time.isdigit() and period.isdigit() and int(period):
            allowed = min(allowed, max(-(-int(time) // int(period)), 1))
    return allowed


def memory() -> int:
    """Bytes of memory that may be used."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([there, *(int(limit) for limit in _limits("memory.max") if limit.isdigit())])


def _limits(name: str) -> Iterator[str]:
    """What the files of a name say, from the group of this process up; 'max' is no limit."""
    try:
        lines = _OWN_GROUP.read_text().splitlines()
    except OSError:
        return
    for own in (line.removeprefix("0::/") for line in lines if line.startswith("0::/")):
        group = _GROUPS / own
        for folder in takewhile(_GROUPS.parent.__ne__, (group, *group.parents)):
            with suppress(OSError):
                yield (folder / name).read_text().strip()
