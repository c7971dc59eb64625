"""The contract that every method keeps, ours included, and what each of them must find in a tiny world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from assets.model.interactions import HeldOut
from benchmarks.judge import mean_ndcg
from benchmarks.methods import METHODS, CannotRunError, Method
from benchmarks.quality import METHODS as NAMES
from benchmarks.splits import LEAVE_ONE_OUT, TEMPORAL, Split, split
from tests.benchmarks.logs import board, coming_back, dataset

SPLITS = {LEAVE_ONE_OUT: board, TEMPORAL: coming_back}
BLIND = {"popularity", "popularity_7d"}
"""They say the same to everybody."""


@cache
def held_out(name: str) -> Split:
    data = dataset(SPLITS[name]())
    return split(data.interactions, name, data.timed)


@cache
def fitted(method: str, name: str, again: int = 0) -> Method | str:
    """The method, ready for the test, or why it does not run; `again` only makes another."""
    try:
        made = METHODS[method].make()
        made.fit(held_out(name).valid, 7, float("inf"), lambda message: None)
    except CannotRunError as reason:
        return str(reason)
    made.refit(held_out(name).test.past)
    return made


@pytest.fixture(scope="module", autouse=True)
def short_trainings() -> Iterator[None]:
    """A tiny world is learned in a few rounds; patience is for large ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("PATIENCE", 2),
            ("MOST_ROUNDS", 5),
            ("UNJUDGED_ROUNDS", 1),
            ("STEPS_A_ROUND", 20),
        ):
            patch.setattr(f"benchmarks.sasrec.{name}", value)
        yield


@pytest.fixture(params=[(m, s) for s in SPLITS for m in METHODS], ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    if isinstance(reason := fitted(*request.param), str):
        pytest.skip(reason)
    return request.param


def test_scores_are_finite(case):
    data, users = held_out(case[1]).test.past, held_out(case[1]).test.users
    scores = fitted(*case).scores(users)
    assert scores.shape == (len(users), len(data.item_ids))
    assert scores.dtype == np.float32 and np.isfinite(scores).all()


def test_a_block_of_users_scores_like_one_by_one(case):
    method, users = fitted(*case), np.random.default_rng(0).permutation(held_out(case[1]).test.users)[:12]
    together = method.scores(users)
    for row, user in enumerate(users):
        np.testing.assert_allclose(method.scores(np.array([user]))[0], together[row], rtol=1e-3, atol=1e-4)


def test_the_same_seed_gives_the_same_scores(case):
    users = held_out(case[1]).test.users
    np.testing.assert_allclose(
        fitted(*case).scores(users), fitted(*case, 1).scores(users), rtol=1e-4, atol=1e-5
    )


def test_what_was_held_out_is_found(case):
    """The diagonal of the board, at the very top; and what shoppers come back to, far above chance."""
    name, how = case
    if name in BLIND:
        pytest.skip("says the same to everybody")
    worth = mean_ndcg(fitted(*case).scores, held_out(how).test)
    assert worth > (0.9 if how == LEAVE_ONE_OUT else 0.4)


@pytest.mark.parametrize("name", [n for n in METHODS if n != "nightshelf"])
def test_without_validation_there_are_defaults(name):
    held = held_out(TEMPORAL).valid
    nobody = np.zeros(0, np.int64)
    unjudged = HeldOut(held.past, nobody, nobody, nobody, nobody, repeats=True)
    try:
        method = METHODS[name].make()
        method.fit(unjudged, 0, float("inf"), lambda message: None)
    except CannotRunError as reason:
        pytest.skip(str(reason))
    method.refit(held_out(TEMPORAL).test.past)
    assert np.isfinite(method.scores(held_out(TEMPORAL).test.users)).all()


def test_a_short_time_is_kept_and_still_gives_scores():
    method = METHODS["sasrec"].make()
    method.fit(held_out(TEMPORAL).valid, 0, 0.0, lambda message: None)
    method.refit(held_out(TEMPORAL).test.past)
    assert "continued" in method.settings["refit"]
    assert np.isfinite(method.scores(held_out(TEMPORAL).test.users)).all()


def test_the_command_names_the_methods_and_splits_that_there_are():
    from benchmarks import quality, splits

    assert tuple(METHODS) == NAMES
    assert quality.SPLITS == splits.SPLITS


def test_an_absent_package_is_a_reason_and_another_error_is_not():
    entry = METHODS["popularity"]
    with pytest.raises(CannotRunError, match="nowhere_at_all is not installed"):
        replace(entry, module="nowhere_at_all", package="nowhere_at_all").make()
    with pytest.raises(AttributeError):
        replace(entry, factory="Nothing").make()
