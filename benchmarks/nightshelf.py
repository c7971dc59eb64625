"""Nightshelf as a method of the benchmark: the code of the nights, on a data set's split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.model.interactions import Floats, HeldOut, Interactions, Ints
from assets.model.recommender import Matrix, Recommender, fit_recommender
from assets.model.sequence import SequenceConfig, SequenceTrainer
from assets.model.training import pick_device
from benchmarks.vectors import encoded

VALUES = {"browse": 0.05, "click": 0.2, "purchase": 1.0}
"""The values a new shop begins with."""
TRAINED = 0.4
"""Share of a time budget for the sequence model's constant rate; cooling down twice takes half as much again."""


class Nightshelf:
    """This project."""

    name = "nightshelf"

    def fit(self, valid: HeldOut, seed: int, seconds: float, log: Callable[[str], None]) -> None:
        """As a night does: train on what is known, learn the ranking on what is held out."""
        self._vectors = encoded(valid.past.texts, log)
        held = replace(valid, past=self._with_words(valid.past))
        config = SequenceConfig.for_shop(held.past, new_only=not held.repeats, seed=seed)
        log(f"sequence model: {config}")
        self._trainer = SequenceTrainer(config, pick_device(), TRAINED * seconds, log)
        model = self._trainer.fit(held)
        self._fitted = fit_recommender(
            held, VALUES, model, everyone_comes=not held.repeats, seed=seed, log=log
        )

    def refit(self, past: Interactions) -> None:
        """The sequence model's cooling down is done again with the validation days in it, all else refitted."""
        data = self._with_words(past)
        self._recommender = Recommender(self._fitted, data, self._trainer.cooled(data))

    def scores(self, users: Ints) -> Matrix:
        return self._recommender.scores(users)

    def probabilities(self, users: Ints, items: Ints) -> Floats:
        """[pairs, browse | click | purchase]."""
        return self._recommender.probabilities(users, items)

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen on validation."""
        return {"steps": self._trainer.steps, "ranker": self._fitted.params["dev"]}

    def _with_words(self, data: Interactions) -> Interactions:
        vectors: NDArray[np.float32] = self._vectors
        return replace(data, vectors=vectors)
