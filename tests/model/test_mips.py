"""The first items of every user, against a slow reference that looks at every score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.model.mips import MOST_USERS, InnerProducts, Masked

PRECISIONS = [torch.bfloat16, torch.float32]


def reference(scores: np.ndarray, k: int) -> list[list[int]]:
    """Items of each row by score, then by number; −inf is left out."""
    order = [np.lexsort((np.arange(len(row)), -row)) for row in scores]
    return [[int(n) for n in best if row[n] > -np.inf][:k] for row, best in zip(scores, order, strict=True)]


def lists(found: np.ndarray) -> list[list[int]]:
    return [[int(n) for n in row if n >= 0] for row in found]


def world(seed: int, users: int, items: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Vectors whose lengths differ, some of them nearly the same: rounding would mix these up."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(8, 16))
    vectors = centres[random.integers(0, 8, users + items)] + spread * random.normal(size=(users + items, 16))
    vectors *= random.lognormal(0, 1, (users + items, 1))
    return vectors[:users].astype(np.float32), vectors[users:].astype(np.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    items=st.sampled_from([1, 7, 300, 2_000, 20_000]),
    k=st.sampled_from([1, 3, 20]),
    spread=st.sampled_from([1.0, 0.01, 0.001]),
)
def test_the_first_items_are_those_of_a_full_ranking_in_float32(precision, seed, items, k, spread):
    users, vectors = world(seed, 20, items, spread)
    found = InnerProducts(vectors, dtype=precision).first(users, k)
    exact = users.astype(np.float64) @ vectors.astype(np.float64).T
    kept = min(k, items)
    assert (found.items[:, :kept] >= 0).all() and (found.items[:, kept:] == -1).all()
    got = np.take_along_axis(exact, found.items[:, :kept], 1)
    best = -np.sort(-exact, axis=1)[:, :kept]
    # Which of two items comes first that differ by less than float32 tells apart is open.
    off = 1e-5 * np.linalg.norm(users, axis=1)[:, None] * np.linalg.norm(vectors, axis=1).max()
    assert (np.abs(got - best) <= off).all()
    assert (np.abs(found.scores[:, :kept] - got) <= off).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), items=st.integers(1, 700), k=st.integers(1, 40), share=st.floats(0, 1))
def test_masks_and_ties(precision, seed, items, k, share):
    """Small whole numbers are exact in bfloat16, so equal scores are equal: the lower number comes first."""
    random = np.random.default_rng(seed)
    users, vectors = (random.integers(-2, 3, (n, 4)).astype(np.float32) for n in (9, items))
    allowed = random.random(items) < 0.7
    masked = random.random((9, items)) < share
    start = np.concatenate([[0], masked.sum(axis=1).cumsum()])
    pairs = Masked(start, np.nonzero(masked)[1])
    scores = np.where(allowed & ~masked, users @ vectors.T, -np.inf)
    for told in (pairs, masked):
        found = InnerProducts(vectors, allowed, dtype=precision).first(users, k, told)
        assert lists(found.items) == reference(scores, k)
        assert ((found.items < 0) == np.isneginf(found.scores)).all()


def test_many_users_are_the_same_users_in_blocks():
    users, vectors = world(0, 2 * MOST_USERS + 3, 500, 1.0)
    products = InnerProducts(vectors)
    whole = products.first(users, 5)
    masked = np.random.default_rng(0).random((len(users), 500)) < 0.5
    some = products.first(users, 5, masked)
    for n in (0, MOST_USERS - 1, MOST_USERS, 2 * MOST_USERS + 2):
        assert (products.first(users[n : n + 1], 5).items[0] == whole.items[n]).all()
        assert (products.first(users[n : n + 1], 5, masked[n : n + 1]).items[0] == some.items[n]).all()


def test_the_products_of_pairs_are_those_of_the_search():
    users, vectors = world(1, 30, 400, 1.0)
    products = InnerProducts(vectors, np.arange(400) != 7)
    found = products.first(users, 50)
    row = np.repeat(np.arange(30), 50)
    np.testing.assert_array_equal(products.at(users, row, found.items.reshape(-1)), found.scores.reshape(-1))
    assert products.at(users, np.array([0]), np.array([7])).tolist() == [-np.inf]


def test_no_items_and_no_users():
    nothing = np.zeros((0, 4), np.float32)
    assert (InnerProducts(nothing).first(np.ones((2, 4), np.float32), 3).items == -1).all()
    assert InnerProducts(np.ones((5, 4), np.float32)).first(nothing, 3).items.shape == (0, 3)
    nobody = np.zeros(5, bool)
    assert (InnerProducts(np.ones((5, 4), np.float32), nobody).first(nothing + 1, 3).items == -1).all()


def test_what_makes_no_sense_is_said():
    with pytest.raises(ValueError, match="k is 0"):
        InnerProducts(np.ones((5, 4), np.float32)).first(np.ones((1, 4), np.float32), 0)
    with pytest.raises(ValueError, match=r"users are \(1, 3\)"):
        InnerProducts(np.ones((5, 4), np.float32)).first(np.ones((1, 3), np.float32), 1)
