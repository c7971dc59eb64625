"""What lies in the drop folder, seen from outside: names, sizes and times, nothing is opened."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

STILL = 2.0
"""Seconds that a file must have been left alone before it counts as whole."""

UNFINISHED = (".tmp", ".part", ".partial", ".crdownload")


def whole_files(drop: Path, now: float | None = None) -> list[Path]:
    """Files below `drop` that are complete, sorted: not hidden, not named as unfinished, and still."""
    now = time.time() if now is None else now
    return sorted(
        file for file in _files(drop) if not _unfinished(file, drop) and now - file.stat().st_mtime >= STILL
    )


def fingerprint(files: list[Path]) -> str:
    """Changes whenever one of `files` appears, disappears or is written."""
    seen = hashlib.sha256()
    for file in files:
        stat = file.stat()
        seen.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return seen.hexdigest()


def _files(drop: Path) -> Iterator[Path]:
    return (path for path in drop.rglob("*") if path.is_file()) if drop.is_dir() else iter(())


def _unfinished(file: Path, drop: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(drop).parts)
    return hidden or file.name.lower().endswith(UNFINISHED)
