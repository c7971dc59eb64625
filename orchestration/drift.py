"""Do the shelves keep what the champion's evaluation promised?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from resources.home import Home


@dataclass(frozen=True)
class Drift:
    """The last days' outcomes beside the promise."""

    version: str
    """Of the model that serves."""
    newest: date
    """Newest day of outcomes."""
    days: int
    mean: float
    """NDCG@10 of the outcomes of the model's shelves, mean over the days."""
    promised: float
    """NDCG@10 of the shelf in the model's evaluation: the same quantity, rules and all."""

    def in_words(self) -> str:
        return (
            f"NDCG@10 of the last {self.days} days is {self.mean:.4f}; "
            f"{self.version} promised {self.promised:.4f}."
        )


def drift(home: Home, days: int) -> Drift | None:
    """The last `days` outcomes of shelves made by the model that serves, beside its evaluation.

    Returns:
        None where there is no champion, no evaluation of it, or no outcome of a shelf of its own yet.
    """
    import pyarrow.compute as pc

    from assets.model.evaluation import Evaluation
    from assets.model.promotion import evaluations
    from assets.recommendations.outcomes import outcomes_until
    from resources.model_store import ModelStore

    champion = ModelStore(home).champion()
    if champion is None:
        return None
    outcomes = outcomes_until(home, date.max)
    # A day without a shopper says nothing about the shelf.
    told = pc.and_(
        pc.equal(outcomes["model_version"], champion.version), pc.greater(outcomes["users_with_shelf"], 0)
    )
    outcomes = outcomes.filter(told).sort_by("day")
    outcomes = outcomes.slice(max(0, len(outcomes) - days))
    try:
        # A version is named after the day it was trained as of, which is the day it was evaluated on.
        promise = Evaluation.load(evaluations(home), date.fromisoformat(champion.version[:10]))
    except FileNotFoundError:
        return None
    if promise.candidate != champion.version or not len(outcomes):
        return None  # of a night that was made twice, the other model's evaluation
    return Drift(
        version=champion.version,
        newest=outcomes["day"][-1].as_py(),
        days=len(outcomes),
        mean=pc.mean(outcomes["ndcg_at_10"]).as_py(),
        # Evaluations of an older version know the ranking before the shop's rules only.
        promised=promise.methods.get("shelf", promise.methods["nightshelf"])["ndcg@10"],
    )
