"""The verdict of a night, and what people have put back by hand."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from assets.model.evaluation import Evaluation
from assets.model.promotion import evaluations, promote_night
from resources.home import Home
from resources.model_store import ModelStore
from tests.model.test_gate import evaluation

DAY = date(2026, 1, 12)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def bundle(home: Home, day: date) -> str:
    with ModelStore(home).stage() as folder:
        (folder / "recommender.json").write_text("{}")
        return ModelStore(home).seal(folder, day)


def judged(home: Home, candidate: str, incumbent: str) -> None:
    """The figures of a candidate that passes the gate."""
    better = evaluation(0.30, 0.28, 0.20)
    named = {**vars(better), "day": DAY, "candidate": candidate, "incumbent": incumbent}
    Evaluation(**named).write(evaluations(home))


def test_a_verdict_made_again_says_that_a_model_was_put_back_by_hand(home: Home) -> None:
    store, told = ModelStore(home), list[str]()
    old, new = bundle(home, DAY - timedelta(1)), bundle(home, DAY)
    store.promote(DAY - timedelta(1), old, True, ["the first"])
    judged(home, new, old)
    assert promote_night(home, DAY)[1].promote and store.champion(DAY).version == new
    store.roll_back(reason="too many lamps")
    _, decision = promote_night(home, DAY, told.append)
    assert not decision.promote and decision.passed
    assert decision.reasons == told
    assert told[0].startswith(
        f"The gate's verdict does not count: {old} was put back by hand instead of {new}"
    )
    assert "too many lamps" in told[0] and "is better than the best baseline" in " ".join(told)
    assert store.champion(DAY).version == old
