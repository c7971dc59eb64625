"""Scores at hand in each form, against the matrix that they stand for."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from assets.model.channels import searched
from assets.model.scored import (
    Chosen,
    Dense,
    First,
    Products,
    Same,
    Scored,
    Sparse,
    best_of,
    first_of,
    product,
    sparse,
    written_out,
)


def little(form: str, seed: int, users: int, items: int) -> tuple[Scored, np.ndarray]:
    """Whole numbers, among which many are equal; and the matrix of them, −inf or 0 for nothing."""
    random = np.random.default_rng(seed)
    matrix = (random.integers(1, 4, (users, items)) * (random.random((users, items)) < 0.4)).astype(
        np.float32
    )
    if form == "same":
        matrix[:] = matrix[:1]
        return Same.of(matrix[0] if users else np.zeros(items, np.float32)), matrix
    if form == "products":
        people, things = (random.integers(-2, 3, (n, 3)).astype(np.float32) for n in (users, items))
        nobody = ~people.any(axis=1, keepdims=True)
        return Products(people, searched(things), 0.5), np.where(nobody, -np.inf, people @ things.T)
    return (Dense(matrix) if form == "dense" else Sparse(as_a_product(matrix, random))), matrix


def as_a_product(matrix: np.ndarray, random: np.random.Generator) -> csr_matrix:
    """Sparse, with columns out of order and zeros that are written down, as products have them."""
    order = random.permutation(matrix.shape[1])
    there = (matrix != 0) | (random.random(matrix.shape) < 0.1)
    rows = [order[there[row, order]] for row in range(len(matrix))]
    indptr = np.cumsum([0, *map(len, rows)])
    indices = np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int32)
    row = np.repeat(np.arange(len(matrix)), np.diff(indptr))
    return csr_matrix((matrix[row, indices], indices, indptr), matrix.shape)


FORMS = ["dense", "sparse", "same", "products"]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000), users=st.integers(0, 6), items=st.sampled_from([1, 4, 30, 400]),
    k=st.sampled_from([1, 3, 40]), share=st.floats(0, 1),
)  # fmt: skip
def test_each_form_says_what_the_matrix_says(form, seed, users, items, k, share):
    """The first by score and then by number, and every score where it stands; also in several parts."""
    with mock.patch("assets.model.scored.LOOKED_THROUGH", 500):
        check(form, seed, users, items, k, share)


def check(form: str, seed: int, users: int, items: int, k: int, share: float) -> None:
    scored, matrix = little(form, seed, users, items)
    chosen = Chosen(np.random.default_rng(seed).random(matrix.shape) < share)
    found = scored.first(k, chosen)
    among = np.where(chosen.mask & (matrix > scored.nothing), matrix, -np.inf)
    wanted = [
        (row, item, among[row, item])
        for row in range(users)
        for item in np.argsort(-among[row], kind="stable")[:k].tolist()
        if among[row, item] > -np.inf
    ]
    assert list(zip(found.row.tolist(), found.item.tolist(), found.score.tolist(), strict=True)) == wanted
    np.testing.assert_array_equal(scored.at(chosen), matrix[chosen.mask])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_shares_are_of_the_best_there_is(form, seed):
    scored, matrix = little(form, seed, 8, 20)
    every = Chosen(np.ones(matrix.shape, bool))
    best = best_of(8, scored, scored.first(1, every), Chosen(np.zeros(matrix.shape, bool)))
    np.testing.assert_array_equal(best, matrix.max(axis=1))
    share = scored.share(scored.at(every), best[every.places[0]]).reshape(matrix.shape)
    something = matrix.max(axis=1) > scored.nothing
    assert not share[~something].any() and (share[something].max(axis=1) == 1).all()
    assert (share >= 0).all() and (
        np.argsort(share, kind="stable") == np.argsort(matrix, kind="stable")
    ).all()


def test_the_best_may_be_one_that_is_not_among_the_first():
    """As an item of the shopper's own is, where only others are looked for."""
    matrix = np.array([[0.5, 2.0, 1.0], [0, 0, 0]], np.float32)
    own = Chosen(matrix == 2.0)
    scored = Dense(matrix)
    assert best_of(2, scored, scored.first(1, Chosen(~own.mask)), own).tolist() == [2.0, 0.0]


def test_users_of_whom_nothing_is_known_are_not_searched_for(monkeypatch):
    """All items are as near to them."""
    people = np.array([[1, 0], [0, 0], [0, 1]], np.float32)
    search, asked = searched(np.eye(2, dtype=np.float32)), []
    first = search.first
    monkeypatch.setattr(
        search, "first", lambda u, k, masked: (asked.append(u.tolist()), first(u, k, masked))[1]
    )
    among = Chosen(np.array([[True, True], [True, True], [True, False]]))
    found = Products(people, search).first(1, among)
    assert asked == [[[1, 0], [0, 1]]]
    assert (found.row.tolist(), found.item.tolist()) == ([0, 2], [0, 0])


def test_pairs_that_nobody_asks_for():
    chosen = Chosen(np.array([[True, False], [False, True]]))
    assert [place.tolist() for place in chosen.places] == [[0, 1], [0, 1]]
    assert chosen.others.tolist() == [[False, True], [True, False]]
    assert chosen.keys.tolist() == [0, 3]


def test_a_full_matrix_is_written_out():
    few, many = np.eye(20, dtype=np.float32), np.ones((20, 20), np.float32)
    assert isinstance(sparse(csr_matrix(few)), Sparse) and isinstance(sparse(csr_matrix(many)), Dense)


def test_equal_ones_come_by_number():
    row, item = np.array([0, 0, 0, 2]), np.array([7, 5, 6, 1])
    found = first_of(row, item, np.array([1, 1, 2, 0], np.float32), 2)
    assert (found.row.tolist(), found.item.tolist()) == ([0, 0, 2], [6, 5, 1])
    assert isinstance(found, First)


@pytest.mark.parametrize("mkl", [True, False], ids=["by MKL", "without it"])
@pytest.mark.parametrize(
    ("users", "between", "items"), [(7, 9, 40), (1, 1, 1), (0, 5, 6), (3, 4, 0)], ids=str
)
@pytest.mark.parametrize("filled", [0.0, 0.02, 0.6])
def test_a_product_of_sparse_matrices_is_the_product(
    mkl: bool, users: int, between: int, items: int, filled: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In either form, and added to what is there."""
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    rng = np.random.default_rng(users)

    def some(rows: int, columns: int) -> csr_matrix:
        values = rng.random((rows, columns), np.float32)
        return csr_matrix(np.where(rng.random(values.shape) < filled, values, np.float32(0)))

    one, other, there = some(users, between), some(between, items), rng.random((users, items), np.float32)
    expected = one.toarray() @ other.toarray()
    every = Chosen(np.ones(expected.shape, bool))
    np.testing.assert_allclose(product(one, other).at(every), expected.reshape(-1), rtol=1e-5)
    np.testing.assert_allclose(written_out(one, other), expected, rtol=1e-5)
    np.testing.assert_allclose(written_out(one, other, onto=there.copy()), there + expected, rtol=1e-5)
