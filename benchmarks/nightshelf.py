"""Nightshelf as a method of the benchmark: the code of the nights, on a data set's split."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from assets.model.interactions import Floats, HeldOut, Interactions, Ints
from assets.model.recommender import Fitted, Matrix, Recommender, fit_recommender
from assets.model.sequence import SequenceConfig, SequenceModel, SequenceTrainer
from assets.model.training import pick_device
from benchmarks.methods import CannotRunError
from benchmarks.vectors import encoded
from resources.home import Values

VALUES = Values().model_dump()
"""The values a new shop begins with."""
TRAINED = 0.55
"""Share of a time budget for the sequence model's constant rate; cooling down twice takes half as much."""


class Nightshelf:
    """This project."""

    name = "nightshelf"
    fitted: ClassVar[tuple[int, int, Nightshelf] | None] = None
    """The last fit, for `NightshelfStrict`: validation pairs (by identity), seed, and the fitted object."""

    def __init__(self, without: Collection[str] = (), words: bool = True, **changes: Any) -> None:
        """
        Args:
            without: channels to do without, for an ablation.
            words: whether items have text vectors.
            changes: of `SequenceConfig.for_shop`.
        """
        self._without, self._words, self._changes = without, words, changes

    def fit(self, valid: HeldOut, seed: int, seconds: float, log: Callable[[str], None]) -> None:
        """As a night does: train on what is known, learn the ranking on what is held out."""
        texts = valid.past.texts
        self._vectors = encoded(texts if self._words else np.full(len(texts), "", object), log)
        held = replace(valid, past=self._with_words(valid.past))
        settings = {"new_only": not held.repeats, "seed": seed, **self._changes}
        config = SequenceConfig.for_shop(held.past, **settings)
        log(f"sequence model: {config}")
        self._trainer = SequenceTrainer(config, pick_device(), TRAINED * seconds, log)
        self._model = self._trainer.fit(held)
        self.learn(held, self._model, seed, log)
        Nightshelf.fitted = id(valid), seed, self

    def learn(self, held: HeldOut, model: SequenceModel, seed: int, log: Callable[[str], None]) -> None:
        """The part after the sequence model."""
        self._fitted = fit_recommender(
            held,
            VALUES,
            model,
            everyone_comes=True,  # the benchmark judges those who came
            without=self._without,
            seed=seed,
            log=log,
        )

    def refit(self, past: Interactions) -> None:
        """The sequence model cools down again with the validation days in it, and all else is refitted."""
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

    @property
    def channels(self) -> list[str]:
        """The channels in use."""
        return list(self._recommender.channels)

    def without(self, part: str, valid: HeldOut, seed: int, log: Callable[[str], None]) -> Nightshelf:
        """Another one that shares the sequence model and does without a channel, or without "trees"."""
        other = Nightshelf() if part == "trees" else Nightshelf(without=[part])
        other._vectors, other._trainer = self._vectors, self._trainer
        held = replace(valid, past=self._with_words(valid.past))
        if part == "trees":
            other._fitted = Fitted(self._fitted.params, {})
        else:
            other.learn(held, self._model, seed, log)
        return other

    def _with_words(self, data: Interactions) -> Interactions:
        vectors: NDArray[np.float32] = self._vectors
        return replace(data, vectors=vectors)


class NightshelfStrict(Nightshelf):
    """Learnt from what precedes the validation items only, as published leave-one-out figures are.

    The validation items are in the histories, as in the published protocol, and teach no channel anything.
    The ranker is fitted on them, as others choose their settings on them, and sees counts of items with them.
    """

    name = "nightshelf_strict"

    def fit(self, valid: HeldOut, seed: int, seconds: float, log: Callable[[str], None]) -> None:
        """Where `nightshelf` has just been fitted on the same, that is it: the two differ in `refit` only.

        Raises:
            CannotRunError: the split is by time.
        """
        if valid.repeats:
            raise CannotRunError("it is for comparing with published leave-one-out figures")
        if Nightshelf.fitted and Nightshelf.fitted[:2] == (id(valid), seed):
            self.__dict__.update(Nightshelf.fitted[2].__dict__)
        else:
            super().fit(valid, seed, seconds, log)
        self._known = self._with_words(valid.past)

    def refit(self, past: Interactions) -> None:
        data = self._with_words(past)
        self._recommender = Recommender(self._fitted, data, self._model)
        known = Recommender(self._fitted, self._known, self._model)
        for channel in known.channels.values():
            # What a channel has learnt stays; the histories that it looks at are longer by one item.
            channel._data = data  # type: ignore[attr-defined]
        self._recommender.__dict__["channels"] = known.channels
