"""Processes and their descendants, as Linux's /proc shows them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")


def tree_memory(root: int, proc: Path = PROC) -> int | None:
    """Memory of a process and all its descendants in bytes, shared pages counted once; None without /proc.

    Proportional set size (Linux's smaps_rollup): steps forked from one server share most of their pages.
    """
    if not proc.is_dir():
        return None
    children: dict[int, list[int]] = defaultdict(list)
    for stat in proc.glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold blanks and brackets itself.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children[parent].append(int(stat.parent.name))
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        waiting.extend(children[pid])
        total += _proportional(proc / str(pid) / "smaps_rollup")
    return total


def _proportional(rollup: Path) -> int:
    try:
        lines = rollup.read_text().splitlines()
    except OSError:  # gone in the meantime
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
