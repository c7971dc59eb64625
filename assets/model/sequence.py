"""The sequence model: a small causal transformer that says which item a shopper meets next.

```
item vectors  V [items, D] = text [items, T] @ W + id residual + price bucket + age bucket
events        x [B, L, D] = V[item] + behaviour + time gap + position
blocks        h [B, L, D] = causal transformer(x)
scores          [B, L, items] = (h + wanted behaviour) @ Vᵀ
```

It is SASRec (Kang and McAuley, ICDM 2018) with what has been learnt since: pre-norm blocks, cross-entropy
over all items instead of one sampled negative (Klenitskiy and Vasilev, RecSys 2023, "Turning Dross Into Gold
Loss"), vectors from text plus an id residual (Hou et al., KDD 2022, UniSRec, transductive setting), and the
behaviour as input and as condition (Yuan et al., SIGIR 2022, MB-STR). In training the id residual of random
items is dropped, so that an item nobody has met yet is ranked by its words alone.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from assets.model.batches import on_device
from assets.model.interactions import (
    GAPS,
    LEVELS,
    Floats,
    HeldOut,
    Interactions,
    Ints,
    Sequences,
    blocks,
    sample,
)
from assets.model.metrics import ranking_metrics
from assets.model.network import precision

MEASURE_EVERY = 150
"""Steps, at least, between two measurements on held-out pairs: fewer would take noise for the end."""
NEVER = -1e4
"""A logit for what cannot be; finite, for with nothing else to choose from −∞ would have no gradient."""
PRICES = 11
"""Buckets of an item's price: deciles, and 0 for an unknown one."""


@dataclass(frozen=True)
class SequenceConfig:
    """Sizes and rates; `for_shop` sets those that depend on the data."""

    width: int = 128
    blocks: int = 1  # with short histories a second one costs a third and measured no better
    heads: int = 2
    length: int = 50  # newest events looked at
    dropout: float = 0.5
    id_dropout: float = 0.1  # share of items without their id residual in a step: what cold items look like
    learning_rate: float = 1e-3
    warmup: int = 100  # steps
    tokens: int = 2048  # events a step: small steps learn more per second on a CPU
    epochs: int = 60  # at most; it stops when the held-out ranking no longer improves
    patience: int = 3  # measurements without improvement
    cool_down: float = 0.25  # of the steps before it, in which the rate falls to 0
    negatives: int = 1000  # items drawn for each step's softmax by how often they are met, and as many evenly
    new_only: bool = False  # learn to predict items that the shopper has not met yet, and no others
    seed: int = 7

    @classmethod
    def for_shop(cls, data: Interactions, **changes: Any) -> SequenceConfig:
        """Lengths that hold nine of ten histories, and the more dropout the fewer events an item has.

        Published optima run from 0.5 at 16 events an item (Amazon Beauty) to 0.2 at 290 (MovieLens-1M).
        """
        events = np.bincount(data.events.user, minlength=1)
        long = np.quantile(events[events > 0], 0.9) if events.any() else 10
        crowded = len(data.events.user) / max(len(data.item_ids), 1)
        dropout = float(np.clip(0.5 - 0.24 * np.log10(max(crowded, 1) / 16), 0.2, 0.5))
        length = int(np.clip(long, 10, 200))
        config = cls(length=length, dropout=round(dropout, 2), blocks=1 if length < 50 else 2)
        return replace(config, **changes)


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each behind its layer norm."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_a, self.norm_b = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]; padding stands at the end, so a causal mask keeps it out."""
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm_a(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.out(seen.transpose(1, 2).reshape(batch, length, width)))
        return x + self.drop(self.down(functional.gelu(self.up(self.norm_b(x)))))


class SequenceNetwork(nn.Module):
    """The network for one shop's items."""

    def __init__(self, config: SequenceConfig, text: Tensor, price: Tensor) -> None:
        """
        Args:
            text: [items, T] text vectors; T may be 0.
            price: [items] bucket of each item.
        """
        super().__init__()
        items, width = len(text), config.width
        self.config = config
        self.known: Tensor
        self.price: Tensor
        self.register_buffer("known", text, persistent=False)
        self.register_buffer("price", price, persistent=False)
        self.words = nn.Linear(text.shape[1], width, bias=False) if text.shape[1] else None
        self.ids = nn.Embedding(items, width)
        self.prices = nn.Embedding(PRICES, width)
        self.behaviors, self.wanted = nn.Embedding(len(LEVELS), width), nn.Embedding(len(LEVELS), width)
        self.gaps = nn.Embedding(GAPS, width)
        self.places = nn.Embedding(config.length, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(config.dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)  # GPT-2's own; first logits near zero

    def items(self, which: Tensor) -> Tensor:
        """[which, D] vectors of items by number; in training some of them without their id residual."""
        ids = self.ids(which)
        if self.training and self.config.id_dropout and self.words is not None:
            ids = ids * (torch.rand(len(ids), 1, device=ids.device) >= self.config.id_dropout)
        vectors = ids + self.prices(self.price[which])
        return vectors if self.words is None else vectors + self.words(self.known[which])

    def forward(self, vectors: Tensor, item: Tensor, level: Tensor, gap: Tensor) -> Tensor:
        """Item vectors [items, D] and events [B, L] -> states [B, L, D]."""
        x = functional.embedding(item, vectors) * math.sqrt(self.config.width)
        x = x + self.behaviors(level) + self.gaps(gap) + self.places.weight[: item.shape[1]]
        x = self.drop(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@dataclass(frozen=True)
class SequenceModel:
    """A trained network on the items of a shop."""

    network: SequenceNetwork
    item_ids: NDArray[np.object_]
    edges: list[float]
    """Prices at which a bucket ends."""

    def states(
        self, data: Interactions, users: Ints, vectors: Tensor | None = None, batch: int = 256
    ) -> NDArray[np.float32]:
        """[len(users), D] what the network makes of each user's newest events; 0 without any.

        The states of a user do not depend on who else is in the batch, but for rounding.

        Args:
            data: whose events count.
            users: numbers of users.
            vectors: those of the items, where they have been asked for already.
            batch: users at a time.
        """
        sequences, config = data.sequences, self.network.config
        first, last = sequences.newest(users, config.length)
        states = np.zeros((len(users), config.width), np.float32)
        device = self.network.ids.weight.device
        self.network.eval()
        with torch.inference_mode():
            vectors = self.vectors() if vectors is None else vectors
            order = np.argsort(last - first, kind="stable")
            order = order[last[order] > first[order]]
            for begin in range(0, len(order), batch):
                rows = order[begin : begin + batch]
                place, real = sequences.padded(first[rows], last[rows])
                item, level, gap = _tensors(device, sequences, place)
                h = self.network(vectors, item, level, gap)
                end = torch.from_numpy(real.sum(axis=1) - 1).to(device)
                states[rows] = h[torch.arange(len(rows), device=device), end].float().cpu().numpy()
        return states

    def vectors(self) -> Tensor:
        """[items, D] item vectors: their products with a state that asks for something are logits."""
        self.network.eval()
        with torch.inference_mode():
            return self.network.items(torch.arange(len(self.item_ids), device=self.network.ids.weight.device))

    def asking(self, level: int) -> NDArray[np.float32]:
        """[D] what is added to a state to ask for behaviour `level`."""
        return self.network.wanted.weight[level].detach().float().cpu().numpy()

    def on(self, data: Interactions) -> SequenceModel:
        """The same network on other interactions; an item it never saw has its words and price."""
        network = SequenceNetwork(self.network.config, *_known(data, self.edges))
        weights = dict(self.network.state_dict())
        place = {item: n for n, item in enumerate(self.item_ids)}
        rows = np.asarray([place.get(item, -1) for item in data.item_ids], np.int64)
        ids = torch.zeros(len(rows), self.network.config.width)
        ids[torch.from_numpy(rows >= 0)] = weights["ids.weight"].cpu()[torch.from_numpy(rows[rows >= 0])]
        network.load_state_dict({**weights, "ids.weight": ids})
        return SequenceModel(network, data.item_ids, self.edges)

    def save(self, file: Path) -> None:
        """Weights as safetensors; config, items and price buckets as JSON in its header."""
        from safetensors.torch import save_file

        about = {"config": asdict(self.network.config), "items": list(self.item_ids), "edges": self.edges}
        weights = {
            name: weight.detach().cpu().contiguous() for name, weight in self.network.state_dict().items()
        }
        save_file(weights, file, {"nightshelf": json.dumps(about)})

    @classmethod
    def load(cls, file: Path, data: Interactions) -> SequenceModel:
        """What `save` wrote, on the items of `data`."""
        from safetensors import safe_open

        with safe_open(file, "pt") as stored:
            about = json.loads(stored.metadata()["nightshelf"])
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
        items = np.asarray(about["items"], object)
        config = SequenceConfig(**about["config"])
        width = weights["words.weight"].shape[1] if "words.weight" in weights else 0
        nothing = torch.zeros(len(items), width), torch.zeros(len(items), dtype=torch.long)
        network = SequenceNetwork(config, *nothing)
        network.load_state_dict(weights)
        return cls(network, items, about["edges"]).on(data)


@dataclass
class SequenceTrainer:
    """Warm-up, a constant rate for as long as it helps, then a fall to nothing (Hu et al. 2024, MiniCPM).

    What is learnt at the constant rate is kept, and may be cooled down twice: on the days before the held-out
    ones, to see what the model is worth, and on all of them, to serve.
    """

    config: SequenceConfig
    device: torch.device
    seconds: float = math.inf
    """Of training at the constant rate, at most; without a bound the same data give the same weights."""
    log: Callable[[str], None] = lambda message: None

    def fit(self, held: HeldOut) -> SequenceModel:
        """Train on what may be known; a sample of the held-out pairs says when to stop.

        Returns:
            the model, cooled down on what may be known.
        """
        torch.manual_seed(self.config.seed)
        self.random = np.random.default_rng(self.config.seed)
        self.edges = _edges(held.past.price[held.past.known_items])
        network = SequenceNetwork(self.config, *_known(held.past, self.edges)).to(self.device)
        model = SequenceModel(network, held.past.item_ids, self.edges)
        sequences, optimizer = held.past.sequences, _optimizer(network, self.config)
        users = sample(held.users, 2000)
        began = told = time.perf_counter()
        best, waited, step, measured = -1.0, 0, 0, 0
        self.steps, self.kept = 0, _state(network, optimizer)
        for epoch in range(self.config.epochs):
            for batch in self._batches(sequences):
                step += 1
                loss = self._step(network, optimizer, sequences, batch, min(1.0, step / self.config.warmup))
                if time.perf_counter() - told > 5:
                    told = time.perf_counter()
                    speed = step * self.config.tokens / (told - began)
                    self.log(
                        f"sequence model: epoch {epoch + 1}, loss {float(loss):.3f}, {speed:,.0f} events/s"
                    )
                if time.perf_counter() - began > self.seconds:
                    break
            over = epoch + 1 == self.config.epochs or time.perf_counter() - began > self.seconds
            if step - measured < MEASURE_EVERY and not over:
                continue
            measured, reached = step, _quality(model, held, users)
            if reached > best * (1 + 1e-3) or not len(users):
                best, waited, self.steps = reached, 0, step
                self.kept = _state(network, optimizer)
            else:
                waited += 1
            if waited >= self.config.patience or time.perf_counter() - began > self.seconds:
                break
        self.log(f"sequence model: {self.steps:,} steps to NDCG@10 {best:.4f} at the constant rate")
        return self.cooled(held.past)

    def cooled(self, data: Interactions) -> SequenceModel:
        """What was kept, trained on with a falling rate on `data`."""
        weights, optimum = self.kept
        network = SequenceNetwork(self.config, *_known(data, self.edges)).to(self.device)
        network.load_state_dict(weights)
        optimizer = _optimizer(network, self.config)
        optimizer.load_state_dict(copy.deepcopy(optimum))
        sequences, steps = data.sequences, math.ceil(self.config.cool_down * self.steps)
        for step, batch in enumerate(islice(self._epochs(sequences), steps)):
            self._step(network, optimizer, sequences, batch, 1 - step / steps)
        return SequenceModel(network, data.item_ids, self.edges)

    def _epochs(self, sequences: Sequences) -> Iterator[tuple[Ints, Ints]]:
        """Batches of one epoch after the other, without end; none where there is nothing to learn."""
        while batches := self._batches(sequences):
            yield from batches

    def _batches(self, sequences: Sequences) -> list[tuple[Ints, Ints]]:
        """Pieces of like length, about `tokens` events each batch, in random order."""
        first, last = sequences.pieces(self.config.length, self.random)
        if not len(first):
            return []
        order = self.random.permutation(len(first))
        pool = max(1, int(50 * self.config.tokens / (last - first).mean()))
        batches = []
        for begin in range(0, len(order), pool):
            rows = order[begin : begin + pool]
            rows = rows[np.argsort((last - first)[rows], kind="stable")]
            which = np.cumsum((last - first)[rows]) // self.config.tokens
            batches += np.split(rows, np.flatnonzero(np.diff(which)) + 1)
        return [(first[batches[n]], last[batches[n]]) for n in self.random.permutation(len(batches))]

    def _step(
        self,
        network: SequenceNetwork,
        optimizer: torch.optim.Optimizer,
        sequences: Sequences,
        batch: tuple[Ints, Ints],
        rate: float,
    ) -> Tensor:
        """One step; its loss, which nobody need wait for."""
        network.train()
        place, real = sequences.padded(*batch)
        learnt = real[:, 1:]
        if self.config.new_only:
            learnt = learnt & ~sequences.again[place[:, 1:]]
        if not learnt.any():
            return torch.zeros(())
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate
        inputs, targets = place[:, :-1], place[:, 1:][learnt]
        loss = self._loss(network, sequences, inputs, targets, learnt)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _loss(
        self,
        network: SequenceNetwork,
        sequences: Sequences,
        inputs: Ints,
        targets: Ints,
        learnt: NDArray[np.bool_],
    ) -> Tensor:
        """Cross-entropy of each target against items drawn for the step, corrected for how often they are.

        Z ≈ e^{s_target} + Σ_{i drawn, not the target} e^{s_i} / P(i drawn), the logQ correction (Bengio and
        Senécal 2008). What is drawn does not depend on the batch: with its own targets as negatives a
        shopper's other items weigh too much in the sum. With few items, all are drawn, and it is the full
        softmax.
        """
        wanted = sequences.item[targets]
        drawn, chance = self._drawn(sequences)
        rows, place = np.unique(
            np.concatenate([sequences.item[inputs].reshape(-1), wanted, drawn]), return_inverse=True
        )
        parts = inputs.size, len(wanted), len(drawn)
        history, answer, others = on_device(place, self.device).split(parts)
        _, level, gap = _tensors(self.device, sequences, inputs)
        ask = on_device(sequences.level[targets], self.device)
        correction = on_device(np.log(chance).astype(np.float32), self.device)
        # Places, not a mask, of which a GPU would first have to say how many it has.
        rows_learnt = on_device(np.flatnonzero(learnt), self.device)
        with precision(self.device):
            vectors = network.items(on_device(rows, self.device))
            states = network(vectors, history.view(inputs.shape), level, gap).flatten(0, 1)[rows_learnt]
            states = states + network.wanted(ask)
            own = (states * vectors[answer]).sum(dim=1).float()
            logits = (states @ vectors[others].T).float() - correction
        rest = logits.masked_fill(others == answer[:, None], NEVER).logsumexp(dim=1)
        return functional.softplus(rest - own).mean()  # −log(e^own / (e^own + e^rest))

    def _drawn(self, sequences: Sequences) -> tuple[Ints, Floats]:
        """Items of the softmax, in order, and the chance of each to be among them.

        Half are drawn by how often they are met, half evenly. An item that nobody met is never drawn: it
        would learn that its words are a reason not to be met.
        """
        events, draws = sequences.events, self.config.negatives
        met = np.flatnonzero(events)
        if len(met) <= 2 * draws:
            return met, np.ones(len(met))
        often = sequences.item[self.random.integers(0, len(sequences.item), draws)]
        drawn = np.union1d(often, met[self.random.integers(0, len(met), draws)])
        missed = (1 - events[drawn] / len(sequences.item)) ** draws * (1 - 1 / len(met)) ** draws
        return drawn, 1 - missed


def _quality(model: SequenceModel, held: HeldOut, users: Ints) -> float:
    """NDCG@10 on held-out pairs; asked for the behaviour that is held out most."""
    if not len(users):
        return 0.0
    level = int(np.bincount(held.level).argmax())
    items = model.vectors()
    vectors, states = items.float().cpu().numpy(), model.states(held.past, users, items) + model.asking(level)
    figures = []
    for rows in blocks(np.arange(len(users)), len(vectors)):
        block = users[rows]
        figures.append(
            ranking_metrics(states[rows] @ vectors.T, held.relevant(block), 10, held.allowed(block))
        )
    return float(np.nanmean(np.concatenate([f["ndcg@10"] for f in figures])))


def _optimizer(network: nn.Module, config: SequenceConfig) -> torch.optim.Optimizer:
    # 0.98: rows of rare items get a gradient seldom, and a shorter memory forgets their scale between.
    return torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _state(network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    return copy.deepcopy(network.state_dict()), copy.deepcopy(optimizer.state_dict())


def _edges(price: Floats) -> list[float]:
    known = price[np.isfinite(price) & (price > 0)]
    return [float(edge) for edge in np.quantile(known, np.arange(1, 10) / 10)] if len(known) else []


def _known(data: Interactions, edges: Sequence[float]) -> tuple[Tensor, Tensor]:
    """What is known of items without having met them: text vectors, price buckets."""
    priced = np.isfinite(data.price) & (data.price > 0)
    bucket = np.where(priced, 1 + np.searchsorted(edges, np.nan_to_num(data.price)), 0)
    return torch.from_numpy(np.array(data.vectors, np.float32)), torch.from_numpy(bucket.astype(np.int64))


def _tensors(device: torch.device, sequences: Sequences, place: Ints) -> tuple[Tensor, Tensor, Tensor]:
    columns = sequences.item, sequences.level, sequences.gap
    return tuple(on_device(column[place], device) for column in columns)  # type: ignore[return-value]
