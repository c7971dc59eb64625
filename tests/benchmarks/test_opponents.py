"""The opponents by hand, against their definitions, and the search for settings."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import benchmarks.opponents as opponents
from benchmarks.methods import CannotRunError
from benchmarks.opponents import CoVisited, Ease, ItemKNN, OwnHistory, PopularLately, own_items, sequences
from benchmarks.sasrec import FullSoftmax, Histories, Network, SASRec, Shape, _Learner
from benchmarks.splits import LEAVE_ONE_OUT, leave_one_out, split, temporal
from benchmarks.tuning import climb
from tests.benchmarks.logs import SECOND, board, coming_back, dataset

DAY = 86_400


def learned(method, past, **chosen):
    method.settings = {**method.settings, **chosen}
    method.refit(past)
    return method


def test_co_visitation_by_hand():
    """a → b → c: C[a,b] = 1, C[a,c] = 0.8, C[b,a] = 0.5; a was met by two, b and c by one."""
    rows = [*((("u"), item, n, "browse") for n, item in enumerate("abc")), ("v", "a", 0, "browse")]
    data = dataset(rows, "abcd").interactions
    method = learned(CoVisited(), data, alpha=0.5, decay=0.5)
    np.testing.assert_allclose(method.scores(np.array([1]))[0], np.array([0, 1, 0.8, 0]) / 2**0.5, rtol=1e-6)
    a = 0.4 / 2**0.5 + 0.5 * 0.5 / 2**0.5
    b = 0.5 + 0.25 / 2**0.5
    c = 0.5 * 1 + 0.25 * 0.8 / 2**0.5
    np.testing.assert_allclose(method.scores(np.array([0]))[0], [a, b, c, 0], rtol=1e-6)


def test_co_visitation_ends_after_ten_steps_and_with_the_user():
    rows = [("u", f"i{n:02d}", n, "browse") for n in range(13)] + [("v", "other", 0, "browse")]
    data = dataset(rows).interactions
    method = learned(CoVisited(), data, alpha=0.0, decay=1.0)
    method._make()
    counts = method._counts.toarray()
    assert counts[0, 10] == pytest.approx(0.8**9) and counts[0, 11] == 0
    assert counts[10, 0] == pytest.approx(0.8**9 / 2)
    assert not counts[:, 13].any() and not counts[13].any()


def test_item_knn_by_hand():
    """a with b: 2 of the users of a (2) and b (3), so 2 / (√6 + shrink); c is like none but b."""
    rows = [(u, i, n, "browse") for n, (u, i) in enumerate(["ua", "ub", "va", "vb", "wb", "wc"])]
    data = dataset(rows).interactions
    method = learned(ItemKNN(), data, decay=1.0, shrink=1, neighbours=20)
    method.repeats = False
    ab, bc = 2 / (6**0.5 + 1), 1 / (3**0.5 + 1)
    np.testing.assert_allclose(method.scores(np.array([2]))[0], [ab, bc, bc], rtol=1e-6)
    method = learned(method, data, neighbours=1)
    np.testing.assert_allclose(method.scores(np.array([2]))[0], [ab, bc, 0], rtol=1e-6)


def test_ease_is_its_closed_form():
    data = dataset(board(10, 2), ["never"]).interactions
    method = learned(Ease(), data, decay=1.0, ridge=30.0)
    users = np.arange(len(data.users))
    met = own_items(data, users, 1.0).toarray().astype(float)
    inverse = np.linalg.inv(met.T @ met + 30 * np.eye(met.shape[1]))
    weights = np.eye(len(inverse)) - inverse / np.diag(inverse)
    np.testing.assert_allclose(method.scores(users), met @ weights, atol=1e-5)
    assert not method.scores(users)[:, list(data.item_ids).index("never")].any()


def test_ease_is_not_for_large_catalogues(monkeypatch):
    valid = leave_one_out(dataset(board()).interactions).valid
    monkeypatch.setattr(opponents, "EASE_UP_TO", 5)
    with pytest.raises(CannotRunError, match="12 items; its matrix is made for up to 5"):
        Ease().fit(valid, 0, 1.0, print)
    monkeypatch.undo()
    monkeypatch.setattr(opponents, "_free_memory", lambda: 100.0)
    with pytest.raises(CannotRunError, match="GB of memory"):
        Ease().fit(valid, 0, 1.0, print)
    monkeypatch.undo()
    monkeypatch.setattr(opponents, "_seconds_to_invert", lambda size: 60.0)
    with pytest.raises(CannotRunError, match="some 60 s, and it has 100 s"):
        Ease().fit(valid, 0, 100.0, print)


@given(st.integers(1, 40), st.integers(1, 17))
def test_a_triangle_is_mirrored_in_blocks(size, block):
    matrix = np.random.default_rng(size).normal(size=(size, size)).astype(np.float32)
    whole = np.triu(matrix) + np.triu(matrix, 1).T
    np.testing.assert_array_equal(opponents._mirrored(np.triu(matrix), block), whole)


@given(st.integers(1, 6), st.integers(0, 3))
def test_the_nearest_of_each_row_are_kept(most, seed):
    random = np.random.default_rng(seed)
    matrix = random.integers(0, 4, (5, 7)).astype(np.float32)
    kept = opponents._nearest(sparse.csr_array(matrix), most).toarray()
    for row, had in zip(kept, matrix, strict=True):
        wanted = [c for c in np.argsort(-had, kind="stable") if had[c] > 0][:most]
        assert sorted(np.flatnonzero(row)) == sorted(wanted)


def test_own_history_stands_above_everything_else_in_its_order():
    rows = [
        ("u", "b", SECOND, "browse"),
        ("u", "a", SECOND + DAY, "browse"),
        ("u", "b", SECOND + 1, "browse"),
    ]
    rows += [(f"v{n}", "c", SECOND + n, "browse") for n in range(9)]
    data = dataset(rows).interactions
    newest = learned(OwnHistory(), data, decay=0.5, power=0.0).scores(np.array([0]))[0]
    often = learned(OwnHistory(), data, decay=0.9, power=1.0).scores(np.array([0]))[0]
    assert list(np.argsort(-newest)) == [0, 1, 2] and list(np.argsort(-often)) == [1, 0, 2]
    assert newest[2] == 1.0  # the most popular


def test_own_history_is_nothing_where_it_is_masked():
    with pytest.raises(CannotRunError, match="masked"):
        OwnHistory().fit(leave_one_out(dataset(board()).interactions).valid, 0, 1.0, print)


def test_popularity_of_the_last_days_ends_at_the_split():
    rows = [(f"u{n}", "old", SECOND, "browse") for n in range(9)]
    rows += [("u1", "late", SECOND + 85 * DAY, "browse"), ("u1", "old", SECOND + 100 * DAY, "browse")]
    held = temporal(dataset(rows).interactions).test
    method = PopularLately()
    method.refit(held.past)
    assert method.scores(np.array([0]))[0].tolist() == [1.0, 0.0]


def test_sequences_count_an_item_at_once_again_once():
    rows = [("u", item, n, "browse") for n, item in enumerate("aabbac")] + [("v", "c", 0, "browse")]
    data = dataset(rows).interactions
    user, item = sequences(data)
    assert "".join(data.item_ids[item]) == "abacc" and user.tolist() == [0, 0, 0, 0, 1]
    assert Histories.of(data, repeats=True).item.tolist() == item.tolist()
    assert "".join(data.item_ids[Histories.of(data, repeats=False).item]) == "abcc"


@given(st.lists(st.integers(0, 23), min_size=1, max_size=8), st.integers(1, 7))
def test_every_item_but_the_first_is_a_target_once(sizes, length):
    start = np.concatenate([[0], np.cumsum(sizes)])
    histories = Histories(start, np.arange(start[-1]))
    begin, end = histories.windows(length)
    targets = np.concatenate(
        [np.zeros(0, int), *(np.arange(b + 1, e) for b, e in zip(begin, end, strict=True))]
    )
    wanted = [n for n in range(start[-1]) if n not in start]
    assert sorted(targets.tolist()) == wanted
    assert (end - begin <= length + 1).all()


@pytest.mark.parametrize("pieces", [1, 10_000])
def test_the_full_softmax_is_torchs_own(monkeypatch, pieces):
    monkeypatch.setattr("benchmarks.sasrec.LOGITS", {"cpu": pieces})
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 8, requires_grad=True), torch.randn(31, 8, requires_grad=True)
    wanted = torch.randint(0, 30, (40,))
    theirs = torch.nn.functional.cross_entropy(hidden @ weight[:-1].T, wanted)
    slopes = torch.autograd.grad(2 * theirs, (hidden, weight))
    ours = FullSoftmax.apply(hidden, weight, wanted, False)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    for a, b in zip(torch.autograd.grad(2 * ours, (hidden, weight)), slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_sampled_softmax_learns_too(monkeypatch):
    monkeypatch.setattr("benchmarks.sasrec.FULL_UP_TO", 5)
    monkeypatch.setattr("benchmarks.sasrec.NEGATIVES", 64)
    data = dataset(coming_back()).interactions
    histories = Histories.of(data, True)
    torch.manual_seed(0)
    network = Network(Shape(len(data.item_ids), 20, 32, 0.0))
    learner = _Learner(network, histories, 0, False)
    losses = [learner.round(float("inf")) for _ in range(4)]
    assert losses[-1] < losses[0] - 0.5
    batches = list(learner._batches())
    assert sorted(np.concatenate(batches)) == list(range(len(learner.start)))
    sizes = [(learner.end - learner.start - 1)[rows] for rows in batches]
    assert all(len(size) == 1 or len(size) * size.max() <= learner.tokens for size in sizes)


def test_sasrec_needs_two_items_in_a_row():
    rows = [(f"u{n}", "a", SECOND + n, "browse") for n in range(5)]
    alone = SimpleNamespace(past=dataset(rows).interactions, repeats=True, users=np.zeros(0, np.int64))
    with pytest.raises(CannotRunError, match="two items in a row"):
        SASRec().fit(alone, 0, 1.0, print)


def test_the_climb_ends_on_top_and_in_time():
    grid = {"a": [0, 1, 2, 3, 4], "b": [10, 20, 30]}
    asked = []

    def worth(tried):
        asked.append(dict(tried))
        return -((tried["a"] - 3) ** 2) - abs(tried["b"] - 10) / 10

    assert climb(grid, {"a": 1, "b": 20}, worth, float("inf")) == ({"a": 3, "b": 10}, 0.0)
    assert len(asked) < 15 and len(asked) == len({tuple(a.values()) for a in asked})
    asked.clear()
    assert climb(grid, {"a": 1, "b": 20}, worth, -1.0) == ({"a": 1, "b": 20}, -5.0)
    assert len(asked) == 1


def test_libraries_recommend_what_their_scores_say():
    libraries = pytest.importorskip("benchmarks.libraries")
    halves = split(dataset(coming_back()).interactions, LEAVE_ONE_OUT)
    users = halves.test.users[:5]
    for make in (libraries.ImplicitBM25, libraries.ImplicitALS):
        method = make()
        method.fit(halves.valid, 0, 0.0, print)
        method.refit(halves.test.past)
        scores = method.scores(users)
        ids, told = method.model.recommend(users, method.met[users], N=3, filter_already_liked_items=False)
        np.testing.assert_allclose(np.take_along_axis(scores, ids, axis=1), told, rtol=1e-3)
        np.testing.assert_allclose(np.sort(scores, axis=1)[:, :-4:-1], told, rtol=1e-3)
