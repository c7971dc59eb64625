"""Ranking metrics over the full catalogue, exact under ties.

Every metric is the *expected value when tied items are put in random order* (McSherry and Najork, "Computing
information retrieval performance measures efficiently in the presence of tied scores", ECIR 2008). Counting a
tie as half a rank gives the same mean rank, but can lift NDCG above 1 when many relevant items are tied, and
a popularity baseline on a small shop is full of ties.

Nothing is sampled: a relevant item is ranked against every allowed item.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.model.interactions import places

Scores = NDArray[np.float32] | NDArray[np.float64]


def ranking_metrics(
    scores: Scores, relevant: NDArray[np.bool_], k: int = 10, allowed: NDArray[np.bool_] | None = None
) -> dict[str, NDArray[np.float64]]:
    """NDCG@k, hit rate@k, recall@k and reciprocal rank@k of each user.

    With gains 1 for a relevant item and 0 otherwise, `R` relevant items and ranks from 1:

    - `ndcg@k` = Σ_{rank ≤ k} gain / log2(rank + 1), divided by the same sum with the relevant items first
      (Järvelin and Kekäläinen, 2002). 1 for a perfect ranking even where R > k.
    - `hr@k` = 1 if any relevant item is in the first k.
    - `recall@k` = relevant items in the first k / R. At most k / R where R > k.
    - `mrr@k` = 1 / rank of the first relevant item, 0 where that rank exceeds k.

    Args:
        scores: [users, items], finite; higher is better.
        relevant: [users, items].
        k: length of the list, at least 1. A list longer than the catalogue ends with it.
        allowed: [users, items]; what is False is taken out of the ranking *and* of the relevant items.

    Returns:
        Name → [users]; NaN for a user with nothing relevant, to whom no metric applies.

    Raises:
        ValueError: shapes differ, k < 1, or an allowed score is not finite.
    """
    if k < 1:
        raise ValueError(f"k is {k}; a ranking has at least one place")
    if relevant.shape != scores.shape:
        raise ValueError(f"relevant is {relevant.shape}, scores are {scores.shape}; both are [users, items]")
    scores, relevant = _masked(scores, relevant, allowed)
    users = len(scores)
    wanted = relevant.sum(axis=1)
    row, item = np.nonzero(relevant)
    ahead, tied = _tie_groups(scores, row, item, k)
    inside = np.minimum(ahead + tied, k) - np.minimum(ahead, k)  # places of the tie group within the first k
    discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    gain = (discount[np.minimum(ahead + tied, k)] - discount[np.minimum(ahead, k)]) / tied
    first_rank, hit = _first_relevant(row, ahead, tied, users, k)
    with np.errstate(divide="ignore", invalid="ignore"):
        ndcg = np.bincount(row, gain, users) / discount[np.minimum(wanted, k)]
        recall = np.bincount(row, inside / tied, users) / wanted
    nothing = wanted == 0
    values = {f"ndcg@{k}": ndcg, f"hr@{k}": hit, f"recall@{k}": recall, f"mrr@{k}": first_rank}
    # Sums of many small terms can end one rounding above 1.
    return {name: np.where(nothing, np.nan, np.minimum(value, 1.0)) for name, value in values.items()}


def top_k(scores: Scores, k: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """The k best items of each user, best first; equal scores in order of the item's index.

    Args:
        scores: [users, items].
        k: length of the list.
        allowed: [users, items]; items never taken are False.

    Returns:
        [users, k] item indices, -1 where fewer than k items are allowed.
    """
    scores, _ = _masked(scores, None, allowed)
    users, items = scores.shape
    best = np.full((users, k), -1, np.int64)
    if not users or not items:
        return best
    row, item = np.nonzero((scores >= kth_best(scores, k)[:, None]) & (scores > -np.inf))
    order = np.lexsort((item, -scores[row, item], row))
    row, item = row[order], item[order]
    place = places(row)
    kept = place < k
    best[row[kept], place[kept]] = item[kept]
    return best


def list_metrics(
    lists: NDArray[np.int64], relevant: NDArray[np.bool_], k: int = 10
) -> dict[str, NDArray[np.float64]]:
    """The figures of `ranking_metrics` for lists that are already cut: what stands on them, in that order.

    Args:
        lists: [users, at most k places used] item indices, best first; -1 is an empty place.
        relevant: [users, items], of which a relevant item that is on no list counts as missed.
        k: as there.

    Returns:
        Name → [users]; NaN for a user with nothing relevant.
    """
    lists = lists[:, :k]
    hit = np.take_along_axis(relevant, np.maximum(lists, 0), axis=1) & (lists >= 0)
    rank = np.arange(1, lists.shape[1] + 1)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    wanted = relevant.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ndcg = (hit / np.log2(rank + 1)).sum(axis=1) / ideal[np.minimum(wanted, k)]
        recall = hit.sum(axis=1) / wanted
    first = (hit / rank).max(axis=1, initial=0.0)
    values = {f"ndcg@{k}": ndcg, f"hr@{k}": hit.any(axis=1), f"recall@{k}": recall, f"mrr@{k}": first}
    return {name: np.where(wanted == 0, np.nan, value) for name, value in values.items()}


def coverage(top: NDArray[np.int64], items: int) -> float:
    """Share of the catalogue that appears in at least one list: |∪_u top_u| / items; 0 without items.

    Args:
        top: [users, k] item indices from `top_k`; -1 is nothing.
        items: size of the catalogue.
    """
    shown = np.unique(top[top >= 0])
    return len(shown) / items if items else 0.0


def kth_best(scores: Scores, k: int) -> NDArray[Any]:
    """[users] the k-th best score of each, the worst where there are fewer, 0 where there is none."""
    import torch

    # Four times as fast as NumPy's partition.
    best = torch.from_numpy(scores).topk(min(k, scores.shape[1]), sorted=False).values
    return best.amin(1).numpy() if best.shape[1] else np.zeros(len(scores), scores.dtype)


def _masked(
    scores: Scores, relevant: NDArray[np.bool_] | None, allowed: NDArray[np.bool_] | None
) -> tuple[Scores, NDArray[np.bool_]]:
    if relevant is None:
        relevant = np.zeros(scores.shape, bool)
    if allowed is not None:
        if allowed.shape != scores.shape:
            raise ValueError(
                f"allowed is {allowed.shape}, scores are {scores.shape}; both are [users, items]"
            )
        scores, relevant = np.where(allowed, scores, -np.inf), relevant & allowed
    finite = np.isfinite(scores) if allowed is None else np.isfinite(scores) | ~allowed
    if not finite.all():
        user, item = np.argwhere(~finite)[0]
        raise ValueError(
            f"the score of user {user} and item {item} is {scores[user, item]}; scores must be finite"
        )
    return scores, relevant


def _tie_groups(
    scores: Scores, row: NDArray[np.int64], item: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each relevant pair: items strictly ahead, and items with the same score (itself included).

    Only the first k places count, so a pair below the k-th best score is told "k ahead" without looking.
    """
    ahead = np.full(len(row), k, np.int64)
    tied = np.ones(len(row), np.int64)
    if not len(row):
        return ahead, tied
    items = scores.shape[1]
    own = scores[row, item]
    near = np.flatnonzero(own >= kth_best(scores, k)[row])
    for chunk in np.array_split(near, max(1, len(near) * items // 4_000_000)):  # 4 M cells: bounded memory
        others = scores[row[chunk]]
        ahead[chunk] = (others > own[chunk, None]).sum(axis=1)
        tied[chunk] = (others == own[chunk, None]).sum(axis=1)
    return ahead, tied


def _first_relevant(
    row: NDArray[np.int64], ahead: NDArray[np.int64], tied: NDArray[np.int64], users: int, k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected reciprocal rank of the first relevant item, and the chance that it is within the first k.

    Only the best tie group that holds a relevant item matters: with r of its m items relevant, the first p
    places of it hold none with probability Π_{j<p} (m − r − j) / (m − j).
    """
    before = np.full(users, k, np.int64)
    np.minimum.at(before, row, ahead)
    in_first = ahead == before[row]
    relevant = np.bincount(row[in_first], minlength=users)
    group = np.ones(users, np.int64)
    group[row[in_first]] = tied[in_first]
    missed = np.ones(users)
    reciprocal = np.zeros(users)
    for place in range(k):
        open_place = (before + place < k) & (place < group) & (relevant > 0)
        left = np.maximum(group - place, 1)
        found = np.where(open_place, missed * np.minimum(relevant / left, 1.0), 0.0)
        reciprocal += found / (before + place + 1)
        missed -= found
    return reciprocal, np.where(relevant > 0, 1 - missed, 0.0)
