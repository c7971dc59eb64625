"""Precision, recall and F1, per label and averaged, and the pictures of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AVERAGES = ("micro", "macro", "weighted")


def classification_report(
    truth: NDArray[np.integer], guess: NDArray[np.integer], labels: Sequence[str]
) -> dict[str, Any]:
    """Precision = tp / (tp + fp), recall = tp / (tp + fn), F1 = 2 tp / (2 tp + fp + fn); 0 where undefined.

    Args:
        truth: [n] index into `labels`.
        guess: [n] likewise.
        labels: names, all of which are averaged over, met or not.

    Returns:
        {label: {precision, recall, f1, support}} with the averages beside the labels: `micro` over all
        examples (with one label per text, all three are the accuracy), `macro` over labels, `weighted` over
        labels by support.
    """
    met = np.zeros((len(labels), len(labels)))  # [truth, guess]
    np.add.at(met, (truth, guess), 1)
    hit, guessed, support = met.diagonal(), met.sum(0), met.sum(1)
    each = np.stack([_ratio(hit, guessed), _ratio(hit, support), _ratio(2 * hit, guessed + support)], 1)
    total = support.sum()
    accuracy = float(_ratio(hit.sum(), total))
    rows = {
        **dict(zip(labels, each, strict=True)),
        "micro": np.full(3, accuracy),
        "macro": each.mean(0),
        "weighted": _ratio(support, total) @ each,
    }
    supports = [*support, total, total, total]
    return {
        name: {
            **{m: round(float(v), 6) for m, v in zip(("precision", "recall", "f1"), row, strict=True)},
            "support": int(n),
        }
        for (name, row), n in zip(rows.items(), supports, strict=True)
    }


def report_table(report: Mapping[str, Any]) -> str:
    """Markdown: a row per label, then the averages."""
    rows = [
        f"| {f'*{name}*' if name in AVERAGES else name} | {row['precision']:.3f} | {row['recall']:.3f} "
        f"| {row['f1']:.3f} | {row['support']:,} |"
        for name, row in report.items()
    ]
    return "\n".join(["| label | precision | recall | F1 | support |", "|---|---:|---:|---:|---:|", *rows])


def loss_chart(curve: Mapping[str, Any]) -> Figure:
    """Loss over steps: each step, its moving mean, and the dev day's.

    Args:
        curve: what `loss.json` holds: `train` [{step, loss, …}] and `dev` [{step, loss, …}].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2))
    axis = figure.subplots()
    step = [point["step"] for point in curve["train"]]
    loss = np.asarray([point["loss"] for point in curve["train"]])
    axis.plot(step, loss, color="#bbccee", linewidth=0.8, label="each step")
    width = max(len(loss) // 20, 1)
    if width > 1:
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        axis.plot(step[width - 1 :], smooth, color="#4455aa", label=f"mean of {width} steps")
    if curve["dev"]:
        axis.plot(
            [p["step"] for p in curve["dev"]], [p["loss"] for p in curve["dev"]], "o-", color="#cc6644",
            label="dev day",
        )  # fmt: skip
    axis.set_xlabel("step")
    axis.set_ylabel("cross-entropy")
    axis.legend(fontsize="small")
    return figure


def report_chart(report: Mapping[str, Any]) -> Figure:
    """Precision, recall and F1 as bars, per label and average."""
    from matplotlib.figure import Figure

    names = list(report)
    place = np.arange(len(names))
    figure = Figure(figsize=(7, 3.2))
    axis = figure.subplots()
    for n, (metric, color) in enumerate((("precision", "#bbccee"), ("recall", "#8899cc"), ("f1", "#4455aa"))):
        axis.bar(
            place + 0.27 * (n - 1), [report[name][metric] for name in names], 0.27, color=color, label=metric
        )
    axis.set_xticks(place, [f"{name}\n({report[name]['support']:,})" for name in names])
    axis.set_ylim(0, 1)
    axis.legend(fontsize="small")
    return figure


def _ratio(a: Any, b: Any) -> Any:
    return np.where(np.greater(b, 0), a, 0.0) / np.maximum(b, 1)
