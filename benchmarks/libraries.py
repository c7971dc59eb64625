"""The methods of `implicit` (Frederickson), as that library makes them; `pip install implicit`.

Its models are learned by its own code. Its `recommend` gives the first N only, so the scores of all items are
taken from what it learned, by the product that it takes itself; a test compares the two.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

# Asked for here, so that without the package the method is skipped with that reason.
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import BM25Recommender

from assets.model.interactions import HeldOut, Interactions, Ints
from benchmarks.judge import mean_ndcg
from benchmarks.methods import Log, Matrix
from benchmarks.opponents import own_items
from benchmarks.tuning import Settings, climb


class _Implicit:
    """Learns from who met what: one entry a user and item, all of one weight."""

    name = ""
    grid: dict[str, list[Any]]

    def __init__(self) -> None:
        self.settings: Settings = {}
        self.model: Any = None

    def fit(self, valid: HeldOut, seed: int, seconds: float, log: Log) -> None:
        self._seed = seed
        if not len(valid.users):
            self.refit(valid.past)
            return

        def worth(settings: Settings) -> float:
            self.settings = settings
            self.refit(valid.past)
            return mean_ndcg(self.scores, valid)

        self.settings, _ = climb(self.grid, self.settings, worth, 0.7 * seconds, log)

    def refit(self, past: Interactions) -> None:
        # The library takes no sparse arrays yet, only matrices.
        from scipy.sparse import csr_matrix

        self.met = csr_matrix(own_items(past, np.arange(len(past.users)), 1.0))
        self.model = self._model()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it speaks of its own conversions
            self.model.fit(self.met, show_progress=False)

    def scores(self, users: Ints) -> Matrix:
        raise NotImplementedError

    def _model(self) -> Any:
        raise NotImplementedError


class ImplicitBM25(_Implicit):
    """Item-kNN whose entries are weighed by BM25."""

    name = "implicit_bm25"

    def __init__(self) -> None:
        super().__init__()
        self.settings = {"neighbours": 100, "K1": 1.2, "B": 0.5}
        self.grid = {
            "neighbours": [20, 50, 100, 200, 500],
            "K1": [0.1, 0.4, 1.2, 4.0, 100.0],
            "B": [0.0, 0.25, 0.5, 0.75, 1.0],
        }

    def scores(self, users: Ints) -> Matrix:
        return np.asarray((self.met[users] @ self.model.similarity).toarray(), np.float32)

    def _model(self) -> Any:
        return BM25Recommender(
            K=self.settings["neighbours"], K1=self.settings["K1"], B=self.settings["B"], num_threads=0
        )


class ImplicitALS(_Implicit):
    """Matrix factorisation of implicit feedback by alternating least squares. (Hu, Koren, Volinsky, 2008.)"""

    name = "implicit_als"

    def __init__(self) -> None:
        super().__init__()
        self.settings = {"factors": 64, "alpha": 3.0, "regularization": 0.1}
        self.grid = {
            "factors": [32, 64, 128, 256],
            "alpha": [1.0, 3.0, 10.0, 30.0],
            "regularization": [0.01, 0.1, 1.0, 10.0],
        }

    def scores(self, users: Ints) -> Matrix:
        # CPU and GPU models keep what they learned in different kinds of arrays.
        user, item = (_array(factors) for factors in (self.model.user_factors, self.model.item_factors))
        return np.asarray(user[users] @ item.T, np.float32)

    def _model(self) -> Any:
        return AlternatingLeastSquares(**self.settings, iterations=15, random_state=self._seed, use_gpu=False)


def _array(factors: Any) -> Matrix:
    return np.asarray(factors.to_numpy() if hasattr(factors, "to_numpy") else factors, np.float32)
