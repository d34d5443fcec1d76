"""Resident memory and CPU time of our processes, from /proc."""

import os
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""The unit of utime and stime in /proc/PID/stat (proc(5))."""

KB_PER_MB = 1024


def descendants(pid: int) -> list[int]:
    """Return `pid` and everything that it has started, directly or not."""
    found = [pid]
    for parent in found:
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
            texts = [(task / "children").read_text(encoding="utf-8") for task in tasks]
        except OSError:
            continue
        found += [int(child) for text in texts for child in text.split()]
    return found


def resident_mb(pid: int, field: str = "VmRSS") -> float:
    """Return the resident memory of one process, MB; with `VmHWM` the most that it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / KB_PER_MB
    return 0.0


def peak_mb(pids: Iterable[int]) -> float:
    """Return the most resident memory that one of these processes and their children ever had, MB."""
    return max(resident_mb(member, "VmHWM") for pid in pids for member in descendants(pid))


def largest_mb(pids: Iterable[int]) -> float:
    """Return the resident memory of the largest of these processes and their children, MB."""
    return max(resident_mb(member) for pid in pids for member in descendants(pid))


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds that these processes and their living children have used."""
    members = [member for pid in pids for member in descendants(pid)]
    # utime, stime, and those of children that are gone.
    return sum(_ticks(f"/proc/{member}/stat", 4) for member in members) / TICKS_PER_S


def main_thread_cpu_s(pid: int) -> float:
    """Return the CPU seconds that the main thread of a process has used."""
    return _ticks(f"/proc/{pid}/task/{pid}/stat", 2) / TICKS_PER_S


def _ticks(path: str, count: int) -> int:
    """Return the sum of the first of utime, stime, cutime and cstime: fields 14 to 17 of proc(5); 0 of what is gone."""
    try:
        # Counted from the state, field 3: the name before it may hold anything.
        fields = Path(path).read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(int(value) for value in fields[11 : 11 + count])
