"""SASRec, as strong as it is known to be: a small causal transformer that predicts each next item.

Kang and McAuley (ICDM 2018) with what later made it strong: pre-norm blocks, and cross-entropy over the whole
catalogue in place of one sampled negative (Klenitskiy and Vasilev, RecSys 2023: NDCG@10 on MovieLens-1M 0.134
→ 0.182). Beyond 50,000 items the softmax is sampled, its negatives corrected by how often they are drawn
(logQ). The number of epochs is chosen by NDCG@10 on validation, and, where the time allows, the dropout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from assets.model.interactions import HeldOut, Interactions, Ints
from assets.model.network import has_bfloat16
from benchmarks.judge import mean_ndcg
from benchmarks.methods import CannotRunError, Log, Matrix
from benchmarks.opponents import sequences

FULL_UP_TO = 50_000
"""Items up to which the softmax is over all of them."""
NEGATIVES = 4096
LENGTHS = (10, 20, 50, 100, 200)
"""Newest items that are looked at: the least of these that holds 90 % of the histories, or the largest."""
LOGITS = {"cpu": 1_000_000, "cuda": 64_000_000}
"""Logits held at a time: 4 MB, what a processor's cache holds; a GPU has room, and wants large pieces."""
PATIENCE, MOST_ROUNDS, UNJUDGED_ROUNDS = 8, 200, 20
"""Rounds without a better validation after which to stop, rounds at most, and rounds without validation."""
STEPS_A_ROUND = 32
"""Least steps between two looks at validation; a round is a pass over the data where that takes more."""
NOTHING: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Shape:
    """What is fixed before training."""

    items: int
    length: int
    width: int
    dropout: float
    blocks: int = 2
    heads: int = 2
    rate: float = 1e-3

    @property
    def full(self) -> bool:
        """Whether the softmax is over all items."""
        return self.items <= FULL_UP_TO


@dataclass(frozen=True)
class Histories:
    """Each user's items in order of time, one after the other."""

    start: Ints
    """[users + 1]: user u's items are `item[start[u]:start[u + 1]]`."""
    item: Ints

    @classmethod
    def of(cls, past: Interactions, repeats: bool) -> Histories:
        """All events, an item at once again once; without `repeats` each item where it was first met."""
        user, item = sequences(past)
        if not repeats:
            pair = user * max(len(past.item_ids), 1) + item
            first = np.sort(np.unique(pair, return_index=True)[1])
            user, item = user[first], item[first]
        return cls(np.searchsorted(user, np.arange(len(past.users) + 1)), item)

    def windows(self, length: int) -> tuple[Ints, Ints]:
        """Where to learn: (start, end) of pieces that make every item but a history's first a target once."""
        starts, ends = [NOTHING], [NOTHING]
        size = np.diff(self.start)
        for piece in range(max(1, math.ceil((int(size.max(initial=0)) - 1) / length))):
            long_enough = size - 1 > piece * length
            begin = self.start[:-1][long_enough] + piece * length
            starts.append(begin)
            ends.append(np.minimum(begin + length + 1, self.start[1:][long_enough]))
        return np.concatenate(starts), np.concatenate(ends)


class SASRec:
    """Self-attentive sequential recommendation."""

    name = "sasrec"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def fit(self, valid: HeldOut, seed: int, seconds: float, log: Log) -> None:
        self._ends = time.monotonic() + seconds
        self._seed, self._log, self._repeats = seed, log, valid.repeats
        histories = Histories.of(valid.past, valid.repeats)
        if np.diff(histories.start).max(initial=0) < 2:
            raise CannotRunError("no user has two items in a row to learn from")
        began = time.monotonic()
        # Half of the time to choose, half to learn again from more.
        until = began + 0.5 * seconds
        tried: list[_Trained] = []
        for shape in _shapes(histories, len(valid.past.item_ids)):
            if tried and (not len(valid.users) or time.monotonic() - began > 0.4 * (until - began)):
                break
            tried.append(self._train(histories, shape, until, valid=valid))
        best = max(tried, key=lambda trained: trained.value)
        self._network, self._rounds, self._shape = best.network, best.rounds, best.shape
        self._round_seconds, self._learned_from = best.round_seconds, len(histories.item)
        self.settings = {
            "rounds": self._rounds,
            "dropout": self._shape.dropout,
            "width": self._shape.width,
            "blocks": self._shape.blocks,
            "heads": self._shape.heads,
            "length": self._shape.length,
            "loss": "full softmax" if self._shape.full else f"softmax over {NEGATIVES} sampled items, logQ",
            "precision": "bfloat16" if has_bfloat16(self._device) else "float32",
        }
        self._histories = histories

    def refit(self, past: Interactions) -> None:
        """Learn anew for as many rounds as were best; where time is short, go on from what was learned."""
        self._histories = Histories.of(past, self._repeats)
        need = self._rounds * self._round_seconds * len(self._histories.item) / max(self._learned_from, 1)
        anew = time.monotonic() + need < self._ends or self._ends == float("inf")
        before = None if anew else self._network
        rounds = self._rounds if anew else max(1, min(3, self._rounds))
        self.settings["refit"] = "anew" if anew else f"continued for {rounds} rounds"
        trained = self._train(self._histories, self._shape, self._ends, rounds=rounds, before=before)
        self._network = trained.network

    def scores(self, users: Ints) -> Matrix:
        network, histories, shape = self._network.eval(), self._histories, self._shape
        size = np.minimum(np.diff(histories.start)[users], shape.length)
        result = np.zeros((len(users), shape.items), np.float32)
        order = np.argsort(size, kind="stable")
        order = order[size[order] > 0]
        with torch.inference_mode():
            for rows in np.array_split(order, max(1, math.ceil(len(order) * shape.length / 100_000))):
                if not len(rows):
                    continue
                end = histories.start[users[rows] + 1]
                batch = _padded(histories.item, end - size[rows], end, shape.items)
                hidden = network(batch.to(self._device))
                last = hidden[torch.arange(len(rows)), torch.from_numpy(size[rows] - 1)]
                result[rows] = (last @ network.item.weight[:-1].T).float().cpu().numpy()
        return result

    def _train(
        self,
        histories: Histories,
        shape: Shape,
        until: float,
        *,
        valid: HeldOut | None = None,
        rounds: int | None = None,
        before: Network | None = None,
    ) -> _Trained:
        """Train for `rounds`, or until validation has not improved for long, or the time is up."""
        judged = valid is not None and len(valid.users) > 0
        rounds = rounds or (MOST_ROUNDS if judged else UNJUDGED_ROUNDS)
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            network = before or Network(shape).to(self._device)
            learner = _Learner(network, histories, self._seed, has_bfloat16(self._device))
            best = _Trained(-1.0, 0, shape, network, 0.0)
            value, longest, told = 0.0, 0.0, time.monotonic()
            for number in range(1, rounds + 1):
                began = time.monotonic()
                loss = learner.round(until)
                longest = max(longest, time.monotonic() - began)
                if valid is not None and judged:
                    self._network, self._histories, self._shape = network, histories, shape
                    value = mean_ndcg(self.scores, valid)
                if not judged:
                    best = _Trained(0.0, number, shape, network, longest)
                elif value > best.value:
                    best = _Trained(value, number, shape, deepcopy(network), longest)
                if time.monotonic() - told > 5:
                    told = time.monotonic()
                    said = f", validation NDCG@10 {value:.4f}" if judged else ""
                    self._log(f"round {number}: loss {loss:.3f}{said} (dropout {shape.dropout})")
                if number - best.rounds >= PATIENCE or time.monotonic() > until:
                    break
        return best


@dataclass(frozen=True)
class _Trained:
    """What a training came to: as it was at its best on validation, or at its end without one."""

    value: float
    rounds: int
    shape: Shape
    network: Network
    round_seconds: float


class Network(nn.Module):
    """Items and places → a vector for what comes next at each place."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.item = nn.Embedding(shape.items + 1, shape.width, sparse=not shape.full)  # the last is padding
        self.place = nn.Embedding(shape.length, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(shape.width)
        self.drop = nn.Dropout(shape.dropout)
        for embedding in (self.item, self.place):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """[rows, length] items → [rows, length, width]."""
        places = torch.arange(items.shape[1], device=items.device)
        x = self.drop(self.item(items) * self.item.embedding_dim**0.5 + self.place(places))
        for block in self.blocks:
            x = block(x)
        hidden: Tensor = self.norm(x)
        return hidden


class Block(nn.Module):
    """Attention to what came before, then a layer for each place; both normed before and added after."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.dropout = shape.heads, shape.dropout
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asks, self.gives = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layer = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor) -> Tensor:
        # Padding stands at the end, where a causal mask lets nothing real look.
        rows, length, width = x.shape
        three = self.asks(self.norm_1(x)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = three.permute(2, 0, 3, 1, 4)
        met = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.drop(self.gives(met.transpose(1, 2).reshape(rows, length, width)))
        return x + self.drop(self.layer(self.norm_2(x)))


class FullSoftmax(torch.autograd.Function):
    """Mean cross-entropy over all items, and its slope at once, a few rows at a time.

    Nobody needs the logits of all rows together: in pieces that fit a processor's cache a step on 12,000
    items takes two thirds of the time and a small part of the memory. The last item, padding, is left out.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, wanted: Tensor, bfloat16: bool) -> Tensor:
        kind = torch.bfloat16 if bfloat16 else torch.float32
        items = weight[:-1].to(kind)
        slope_hidden = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device)
        slope_items = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        total = torch.zeros((), device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            piece = max(16, LOGITS[hidden.device.type] // len(items))
            for rows in torch.arange(len(hidden), device=hidden.device).split(piece):
                here, right = hidden[rows].to(kind), wanted[rows, None]
                logits = (here @ items.T).float()
                whole = logits.logsumexp(1, keepdim=True)
                total += (whole - logits.gather(1, right)).sum()
                share = logits.sub_(whole).exp_()
                share.scatter_add_(1, right, torch.full_like(whole, -1.0))
                share = share.to(kind)
                slope_hidden[rows] = (share @ items).float()
                slope_items[:-1] += share.T @ here
        count = max(len(hidden), 1)
        ctx.save_for_backward(slope_hidden / count, slope_items / count)
        return total / count

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        hidden, items = ctx.saved_tensors
        return slope * hidden, slope * items, None, None


class _Learner:
    """Takes a network through the data, round by round."""

    def __init__(self, network: Network, histories: Histories, seed: int, bfloat16: bool) -> None:
        self.network, self.histories, self.bfloat16 = network, histories, bfloat16
        self.random = np.random.default_rng(seed)
        self.items = network.item.num_embeddings - 1
        self.full = not network.item.sparse
        self.device = network.item.weight.device
        self.start, self.end = histories.windows(network.place.num_embeddings)
        targets = int((self.end - self.start - 1).sum())
        self.tokens = int(np.clip(targets // 100, 256, 4096))
        self.passes = max(1, math.ceil(STEPS_A_ROUND * self.tokens / max(targets, 1)))
        self.optimizers = self._optimizers()
        if not self.full:
            # Half by popularity, which finds the hard ones, half evenly, which keeps the rare ones down.
            met = np.bincount(histories.item, minlength=self.items) ** 0.75
            self.drawn = 0.5 * met / max(met.sum(), 1) + 0.5 / self.items
            self.cumulative = np.cumsum(self.drawn)

    def round(self, until: float) -> float:
        """One round, cut short where the time is up; its mean loss."""
        self.network.train()
        losses = []
        for _ in range(self.passes):
            for rows in self._batches():
                losses.append(self._step(rows))
                if time.monotonic() > until:
                    return float(np.mean(losses))
        return float(np.mean(losses)) if losses else 0.0

    def _batches(self) -> Iterator[Ints]:
        """Rows of windows of like length, so that little is padding, in random order."""
        size = self.end - self.start - 1
        noise = self.random.uniform(0.8, 1.25, len(size))
        order = np.argsort(size * noise, kind="stable")
        batches, first = [], 0
        while first < len(order):
            longest = np.maximum.accumulate(size[order[first : first + self.tokens]])
            fits = np.flatnonzero(longest * np.arange(1, len(longest) + 1) <= self.tokens)
            count = int(fits[-1]) + 1 if len(fits) else 1
            batches.append(order[first : first + count])
            first += count
        for place in self.random.permutation(len(batches)):
            yield batches[place]

    def _step(self, rows: Ints) -> float:
        start, end = self.start[rows], self.end[rows]
        given = _padded(self.histories.item, start, end - 1, self.items).to(self.device)
        wanted = _padded(self.histories.item, start + 1, end, self.items).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            hidden = self.network(given)
            real = wanted != self.items
            hidden, wanted = hidden[real], wanted[real]  # no logits for padding
            loss = self._loss(hidden, wanted)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return float(loss.detach())

    def _loss(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        if self.full:
            loss: Tensor = FullSoftmax.apply(hidden, self.network.item.weight, wanted, self.bfloat16)
            return loss
        # −log of s⁺ / (s⁺ + Σ s⁻ / (n · q⁻)): the sum over the drawn stands for the sum over all items.
        drawn = np.searchsorted(self.cumulative, self.random.random(NEGATIVES) * self.cumulative[-1])
        drawn = np.minimum(drawn, self.items - 1)
        negative = torch.from_numpy(drawn).to(self.device)
        often = torch.from_numpy(np.log(NEGATIVES * self.drawn[drawn])).float().to(self.device)
        right = (hidden.float() * self.network.item(wanted).float()).sum(-1, keepdim=True)
        wrong = (hidden @ self.network.item(negative).T).float() - often
        wrong = wrong.masked_fill(negative[None] == wanted[:, None], float("-inf"))
        return functional.cross_entropy(torch.cat([right, wrong], 1), torch.zeros_like(wanted))

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        betas, rate = (0.9, 0.98), 1e-3
        if self.full:
            return [torch.optim.Adam(self.network.parameters(), lr=rate, betas=betas)]
        dense = [p for name, p in self.network.named_parameters() if name != "item.weight"]
        return [
            torch.optim.Adam(dense, lr=rate, betas=betas),
            torch.optim.SparseAdam([self.network.item.weight], lr=rate, betas=betas),
        ]


def _shapes(histories: Histories, items: int) -> list[Shape]:
    """What is tried on validation, the likeliest first: long histories want less dropout than short ones."""
    size = np.diff(histories.start)
    size = size[size > 0]
    most = float(np.quantile(size, 0.9)) if len(size) else 1.0
    length = next((n for n in LENGTHS if n >= most), LENGTHS[-1])
    events = len(histories.item)
    width = 32 if events < 5_000 else 64 if events < 50_000 or items > FULL_UP_TO else 128
    usual = [0.5, 0.2] if len(size) and size.mean() < 20 else [0.2, 0.5]
    return [Shape(items, length, width, dropout) for dropout in usual]


def _padded(items: Ints, start: Ints, end: Ints, padding: int) -> Tensor:
    """[rows, longest]: `items[start:end]` of each row, then `padding`."""
    size = end - start
    place = np.arange(int(size.max(initial=0)))
    inside = place < size[:, None]
    where = np.where(inside, start[:, None] + place, 0)
    return torch.from_numpy(np.where(inside, items[where], padding))
