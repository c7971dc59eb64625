"""The report of a run: a JSON file, a table on the screen, a picture."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.methods import OURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

Report = dict[str, Any]
PACKAGES = (
    "nightshelf",
    "dagster",
    "dagster-dbt",
    "dbt-core",
    "dbt-duckdb",
    "numpy",
    "scipy",
    "torch",
    "transformers",
    "lightgbm",
    "duckdb",
    "pyarrow",
    "pandas",
    "polars",
    "implicit",
)
FIGURES = {
    "ndcg@10": "NDCG@10",
    "hr@10": "HR@10",
    "mrr@10": "MRR@10",
    "coverage@10": "cover@10",
    "new_ndcg@10": "NDCG@10 new",
    "purchase_ndcg@10": "NDCG@10 bought",
    "cold_recall@10": "cold rec@10",
    "cold_recall@100": "cold rec@100",
}


def write(report: Report, out: Path) -> None:
    """Put the JSON in place by one rename, so that whoever looks finds a whole report."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    aside.write_text(json.dumps(plain(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(out)


def plain(value: Any) -> Any:
    """The value in JSON's own kinds: what a method says of its settings must not cost a run its report."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):  # numpy's and torch's
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def ranked(report: Report) -> list[str]:
    """Methods, the best NDCG@10 first."""
    methods = report["methods"]
    return sorted(methods, key=lambda name: -(methods[name].get("ndcg@10") or 0.0))


def table(report: Report, wide: bool = True) -> Table:
    """The methods side by side; a figure that nobody has gets no column, an interval needs it `wide`."""
    from rich import box
    from rich.table import Table

    methods = report["methods"]
    names = [f for f in FIGURES if any(m.get(f) is not None for m in methods.values())]
    title = f"{report['split']}: {report['judged_users']:,} users, {report['data']['items']:,} items"
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    result.add_column("method", no_wrap=True)
    for name in [*(FIGURES[f] for f in names), "fit s", "score s", "MiB"]:
        result.add_column(name, justify="right")
        if wide and name == FIGURES["ndcg@10"]:
            result.add_column("95 %", no_wrap=True)
    for method in ranked(report):
        row = methods[method]
        cells = [_figure(row.get(f)) for f in names]
        if wide:
            cells.insert(1, "–".join(_figure(end) for end in row["ndcg@10_interval"] or (None,)))
        took = [f"{row[f'{what}_seconds']:,.1f}" for what in ("fit", "score")]
        memory = row["peak_memory_mib"]
        style = "bold" if method == OURS else None
        result.add_row(method, *cells, *took, f"{memory:,.0f}" if memory else "–", style=style)
    return result


def lines(report: Report) -> list[str]:
    """What the table leaves unsaid: comparisons, users without history, what did not run."""
    said = []
    for other, row in report["comparisons"].items():
        low, high = row["ndcg@10_interval"]
        said.append(f"{OURS} − {other}: NDCG@10 {row['ndcg@10']:+.4f} [{low:+.4f}, {high:+.4f}]")
    alone = report["users_without_history"]
    if alone["users"]:
        said.append(
            f"{alone['users']:,} users of the window have no history; popularity gives them NDCG@10 "
            f"{alone['popularity']['ndcg@10']:.4f}"
        )
    said += [f"{name} did not run: {reason}" for name, reason in report["skipped"].items()]
    return said


def picture(report: Report) -> Figure:
    """NDCG@10 and hit rate of the methods with their intervals."""
    from matplotlib.figure import Figure

    names = ranked(report)[::-1]
    figure = Figure(figsize=(9, 1.2 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, metric in zip(axes, ("ndcg@10", "hr@10"), strict=True):
        rows = [report["methods"][name] for name in names]
        value = [row[metric] or 0.0 for row in rows]
        ends = [row[f"{metric}_interval"] or (v, v) for row, v in zip(rows, value, strict=True)]
        away = [
            [max(v - low, 0.0) for v, (low, _) in zip(value, ends, strict=True)],
            [max(high - v, 0.0) for v, (_, high) in zip(value, ends, strict=True)],
        ]
        color = ["#4455aa" if name == OURS else "#bbccee" for name in names]
        axis.barh(names, value, color=color, xerr=away, error_kw={"elinewidth": 1, "ecolor": "#333344"})
        for place, v in enumerate(value):
            axis.text(0, place, f" {v:.4f}", va="center", fontsize="small")
        axis.set_xlabel(f"{FIGURES[metric]}, with 95 % interval over users")
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report['split']}, {report['judged_users']:,} users, {report['data']['items']:,} items")
    return figure


def versions() -> dict[str, str]:
    """Of Python and of the packages that the figures may depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory; no names and no paths."""
    return {"cpu": _cpu(), "cores": cores(), "memory_gib": _memory_gib(), "gpus": _gpus()}


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> tuple[str | None, bool | None]:
    """The commit of this working tree, and whether nothing in it was changed; None where there is no git."""
    folder = Path(__file__).resolve().parent.parent
    head, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain")
    if head is None or changes is None:
        return None, None
    return head, not changes


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
