"""Tasks: what is learnt from text. The training loop knows only the interface; a new task is one class.

A task says which texts a snapshot holds and what is to be learnt of them, which network learns it, by which
loss, and how good its outputs are. Classification of whole texts is the first; tagging of tokens or retrieval
bring their own network and loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.model.report import classification_report
from assets.model.snapshot import Snapshot

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from assets.model.network import TextClassifier

SPLITS = ("train", "dev", "test")
Loss = Callable[["Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class Examples:
    """n examples over shared texts: the same words are tokenised, and when measuring encoded, only once."""

    text: NDArray[np.int64]
    """[n] index into the task's texts."""
    target: NDArray[Any]
    """[n, …] what is to be learnt of each."""

    def __len__(self) -> int:
        return len(self.text)

    def take(self, rows: NDArray[np.int64]) -> Examples:
        return Examples(self.text[rows], self.target[rows])


@dataclass(frozen=True)
class TaskData:
    """All texts of a task, each once, and the examples of each split."""

    texts: list[str]
    splits: dict[str, Examples]
    pairs: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """[pairs, 2] texts that shoppers brought together in the days to train on: looked at, then wanted."""


class Task(Protocol):
    """What the training loop asks of a task."""

    labels: tuple[str, ...]

    def data(self, snapshot: Snapshot) -> TaskData:
        """Texts and examples; `train`, `dev` and `test` by time. Any split may be empty."""
        ...

    def network(self, encoder: PreTrainedModel) -> TextClassifier:
        """A network (ids [B, T], mask [B, T]) -> outputs [B, …], with the encoder in its `encoder`."""
        ...

    def loss(self, train: Examples, balanced: bool) -> Loss:
        """(outputs [B, …], targets [B, …]) -> mean loss over the batch, a scalar."""
        ...

    def report(self, outputs: NDArray[np.float32], targets: NDArray[Any]) -> dict[str, Any]:
        """How good outputs [n, …] are, as JSON."""
        ...


CODES = {"browse": 0, "click": 1, "cart": 1, "purchase": 2}
"""Label of each behaviour."""


WANTED = ("cart", "purchase")
NEAR = 5
"""Products of one shopper that lie so near each other, in order of days, count as brought together."""


class BehaviorTask:
    """What shoppers do with a product, from its words alone: browse, click or purchase.

    One example is one shopper, product and day, labelled with the strongest behaviour. The labels are the
    brief's three; a cart counts as a click, as it does wherever Nightshelf predicts: interest shown, no money
    spent. By time: train up to two days before the cut-off, dev the day before it, test the cut-off itself.
    """

    labels: tuple[str, ...] = ("browse", "click", "purchase")

    def data(self, snapshot: Snapshot) -> TaskData:
        """Examples of products that have words; behaviours outside the taxonomy are left out."""
        items = snapshot.table("items").select(["item_id", "text"])
        items = items.filter(pc.not_equal(items["text"], ""))
        texts = pc.unique(items["text"])
        number = pc.index_in(items["text"], value_set=texts)
        rows = snapshot.table("behaviors").select(["day", "user_key", "item_id", "behavior"])
        place = pc.index_in(rows["item_id"], value_set=pc.cast(items["item_id"], rows["item_id"].type))
        target = pc.index_in(rows["behavior"], value_set=pa.array(list(CODES)))
        keep = pc.and_(pc.is_valid(place), pc.is_valid(target))
        rows, place, target = rows.filter(keep), place.filter(keep), target.filter(keep)
        code = np.asarray(list(CODES.values()), np.int64)[_numpy(target)]
        text = _numpy(pc.take(number, place)) if len(rows) else np.zeros(0, np.int64)
        day = rows["day"].to_numpy().astype("datetime64[D]")
        dev = np.datetime64(snapshot.cut_off - timedelta(days=1))
        where = {"train": day < dev, "dev": day == dev, "test": day > dev}
        splits = {name: Examples(text[at], code[at]) for name, at in where.items()}
        known = day < dev
        user = _numpy(pc.dictionary_encode(rows["user_key"]).combine_chunks().indices)
        wanted = np.asarray(pc.is_in(rows["behavior"], value_set=pa.array(WANTED)))
        order = np.lexsort((text, day, user))
        order = order[known[order]]
        pairs = _together(user[order], text[order], code[order] > 0, wanted[order])
        return TaskData(texts.to_pylist(), splits, pairs)

    def network(self, encoder: PreTrainedModel) -> TextClassifier:
        from assets.model.network import HeadConfig, TextClassifier

        return TextClassifier(encoder, HeadConfig(labels=len(self.labels)))

    def loss(self, train: Examples, balanced: bool) -> Loss:
        """Cross-entropy; where balanced, weighted by n / (labels · n_label) (King and Zeng 2001)."""
        import torch
        from torch.nn import functional

        count = np.maximum(np.bincount(train.target, minlength=len(self.labels)), 1)
        weight = len(train) / (len(self.labels) * count) if balanced else np.ones(len(self.labels))

        @cache  # on its way to a GPU again in each step, it would have the step wait
        def per_label(device: torch.device) -> Tensor:
            return torch.tensor(weight, dtype=torch.float32, device=device)

        def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
            return functional.cross_entropy(outputs.float(), targets, per_label(outputs.device))

        return cross_entropy

    def report(self, outputs: NDArray[np.float32], targets: NDArray[Any]) -> dict[str, Any]:
        return classification_report(targets, outputs.argmax(1), self.labels)


TASKS: dict[str, Callable[[], Task]] = {"behavior": BehaviorTask}
"""Tasks by the name that a recipe gives."""


def _together(
    user: NDArray[np.int64], text: NDArray[np.int64], looked: NDArray[np.bool_], wanted: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """[pairs, 2] of rows by user and time: something clicked or more, and what was wanted near it."""
    pairs = [np.zeros((0, 2), np.int64)]
    for step in range(1, NEAR + 1):
        near = (user[step:] == user[:-step]) & (text[step:] != text[:-step])
        for a, b in ((slice(None, -step), slice(step, None)), (slice(step, None), slice(None, -step))):
            both = near & looked[a] & wanted[b]
            pairs.append(np.column_stack([text[a][both], text[b][both]]))
    return np.concatenate(pairs)


def _numpy(column: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.cast(column, pa.int64()), np.int64)
