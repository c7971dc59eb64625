"""Candidates of a night in a large shop: by the first items of every channel, and by all of their scores."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from assets.model.channels import Channel
from assets.model.features import Features
from assets.model.interactions import LEVELS, Interactions, Ints, blocks, hold_out
from assets.model.recommender import Fitted, Recommender
from assets.model.rules import Rules, allowed, held_back
from assets.model.scored import Dense, Matrix
from assets.model.sequence import SequenceConfig, SequenceTrainer
from benchmarks.crowd import crowd
from benchmarks.figures import Figures, clocked, in_turns, ratio, short
from benchmarks.memory import growth

SIZE = 20
"""Places of a shelf."""
COMPARED = 64
"""Users whose candidates are compared."""


@dataclass
class WrittenOut:
    """A channel that is asked for all of its scores, and looked through: what comes to mind first."""

    channel: Channel

    @property
    def name(self) -> str:
        return self.channel.name

    def fit(self, data: Interactions) -> None:
        self.channel.fit(data)

    def scores(self, users: Ints) -> Matrix:
        return self.channel.scores(users)

    def block(self, users: Ints) -> Dense:
        return Dense(np.ascontiguousarray(self.channel.scores(users)))


def shelf(figures: Figures, items: int, users: int, rounds: int) -> None:
    """How many users a second get candidates, how much faster than by all scores, how memory grows."""
    data = crowd(items, max(items // 2, 8 * users))
    recommender, held = _unlearnt(data), held_back(data, Rules())
    used = recommender.channels
    asked = data.known_users[:users]

    def found(features: Features, portions: Callable[[Ints], list[Ints]], users: Ints) -> list[Ints]:
        """Of each block the pairs, flat; nothing else is kept."""
        pairs = []
        for block in portions(users):
            candidates = features.candidates(block, allowed(data, block, held), SIZE)
            pairs.append(block[candidates.row] * items + candidates.item)
        return pairs

    written_out = {name: WrittenOut(channel) for name, channel in used.items()}
    ours = partial(found, recommender.features, recommender.blocks)
    theirs = partial(found, Features(data, written_out), lambda users: blocks(users, items))
    one, other = (np.concatenate(way(asked[:COMPARED])) for way in (ours, theirs))
    same = len(np.intersect1d(one, other)) / len(np.union1d(one, other))
    took = in_turns(
        {"ours": clocked(partial(ours, asked)), "theirs": clocked(partial(theirs, asked))}, rounds
    )
    name, (value, runs) = f"scoring.shelf_{short(items)}", ratio(took["theirs"], took["ours"])
    against = f"all scores of {len(used)} channels; {same:.1%} of the candidates the same, the others tied"
    figures.add(f"{name}.speedup_over_all_scores", value, "×", against, runs)
    rate = len(asked) / statistics.median(took["ours"])
    figures.add(f"{name}.users_per_second", rate, "users/s", "nothing: of this machine")
    for many in (users, 4 * users):
        grown = growth(partial(ours, data.known_users[:many]))
        if grown is not None:
            figures.add(f"{name}.peak_mib_of_{many}_users", grown, "MiB", "what was held before")


def _unlearnt(data: Interactions) -> Recommender:
    """All channels, those of a sequence model that has learnt nothing among them, and no rankers."""
    config = replace(SequenceConfig.for_shop(data), epochs=0)
    model = SequenceTrainer(config, torch.device("cpu")).fit(hold_out(data, data.as_of))
    asks = {"sequence": LEVELS["browse"], "sequence_bought": LEVELS["purchase"]}
    return Recommender(Fitted({"asks": asks, "without": []}, {}), data, model)
