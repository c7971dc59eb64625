"""What a method is, and which there are.

Every method is treated alike: `fit` chooses its settings on the validation pairs and sees nothing later,
`refit` learns with those settings from everything before the test, `scores` ranks all items. Methods are
imported when they are asked for, so that one whose packages are absent keeps nobody from running the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from assets.model.interactions import Floats, HeldOut, Interactions, Ints

Matrix = NDArray[np.float32]
Log = Callable[[str], None]
OURS = "nightshelf"


class CannotRunError(RuntimeError):
    """The method is not for this data or this machine; the message is the reason in the report."""


class Method(Protocol):
    """One way to rank."""

    name: str

    def fit(self, valid: HeldOut, seed: int, seconds: float, log: Log) -> None:
        """Choose the settings: learn from `valid.past`, judge by the pairs of `valid`, see nothing else.

        Args:
            valid: may hold no pairs; then the defaults serve.
            seed: the same seed gives the same scores.
            seconds: about how long `fit` and `refit` may take together; infinite for as long as it needs.
            log: told the progress.

        Raises:
            CannotRunError: this method can't run here.
        """
        ...

    def refit(self, past: Interactions) -> None:
        """Learn from all of `past`, with the settings that were chosen."""
        ...

    def scores(self, users: Ints) -> Matrix:
        """[len(users), items], finite, higher is better; a user's do not depend on who else is asked for."""
        ...


@runtime_checkable
class Described(Protocol):
    """A method that says what it chose."""

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values, for the report."""
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A method that says how likely each behaviour is."""

    def probabilities(self, users: Ints, items: Ints) -> Floats:
        """[pairs, browse | click | purchase] for pairs of user and item."""
        ...


@dataclass(frozen=True)
class Entry:
    """Where a method is, and what it needs."""

    module: str
    factory: str
    about: str
    share: float = 1.0
    """Of a time budget, in proportion to the other methods that run."""
    timed: bool = False
    """Whether it means nothing where timestamps are no real times."""
    package: str = ""
    """A package that it needs and that may be absent."""

    def make(self) -> Method:
        """A new one.

        Raises:
            CannotRunError: the package is not installed.
        """
        try:
            method: Method = getattr(import_module(self.module), self.factory)()
        except ModuleNotFoundError as error:
            if error.name not in (self.package, self.module):
                raise
            wanted = f'pip install "{self.package}"' if error.name == self.package else f"add {self.module}"
            raise CannotRunError(f"{error.name} is not installed ({wanted})") from error
        return method


# Ours gets half of a budget and SASRec a quarter; the others together get the rest.
METHODS: dict[str, Entry] = {
    "popularity": Entry("benchmarks.opponents", "Popular", "users who met the item"),
    "popularity_7d": Entry(
        "benchmarks.opponents", "PopularLately", "the same in the last 7 days", timed=True
    ),
    "revisit": Entry("benchmarks.opponents", "OwnHistory", "the user's own items, newest first"),
    "item_knn": Entry("benchmarks.opponents", "ItemKNN", "cosine of items over users", share=3),
    "co_visitation": Entry("benchmarks.opponents", "CoVisited", "items met near each other", share=3),
    "ease": Entry("benchmarks.opponents", "Ease", "EASE (Steck 2019), up to 30,000 items", share=6),
    "implicit_bm25": Entry(
        "benchmarks.libraries", "ImplicitBM25", "implicit's BM25 item-kNN", share=2, package="implicit"
    ),
    "implicit_als": Entry(
        "benchmarks.libraries", "ImplicitALS", "implicit's matrix factorisation", share=4, package="implicit"
    ),
    "sasrec": Entry("benchmarks.sasrec", "SASRec", "self-attention with full or sampled softmax", share=20),
    OURS: Entry("benchmarks.nightshelf", "Nightshelf", "this project", share=40),
    "nightshelf_strict": Entry(
        "benchmarks.nightshelf",
        "NightshelfStrict",
        "the same, learnt from what precedes validation only, as published leave-one-out figures are",
        share=2,
    ),
}
