"""The recommender: channels fused by a log-linear blend, calibrated, ranked by value, explained.

1. `fused = Σ_c w_c · log(s_c / max s_c + ε)` with weights chosen by NDCG@10 over the full catalogue on the
   dev day: the newest day before the cut-off on which shoppers with a history came (a closed day teaches
   nothing). The search starts from the best channel alone, so on the dev day the blend is never below any.
2. The best candidates by `fused` get P(browse), P(click), P(purchase): the chance that the shopper does *at
   least* that with the item on the next day, whether or not they come at all. A cart counts as a click. Hence
   P(purchase) ≤ P(click) ≤ P(browse). The dev day was a day with shoppers, so it is the next *open* day.
3. `score = Σ_b value_b · P(b)`; with constant values the order is nearly that of `fused`, with `price` it is
   expected revenue.
4. Rules: known and in stock, and not bought within the last seven days.
5. A reason: what the channel that lifted the item most has to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.model.calibration import Curve, apply_curve, fit_curve
from assets.model.channels import Channel, CoVisitation, Matrix, Popularity, channels
from assets.model.interactions import (
    LEVELS,
    Floats,
    Interactions,
    Ints,
    Tables,
    blocks,
    hold_out,
    pair_matrix,
)
from assets.model.metrics import ranking_metrics, top_k
from assets.model.reasons import OFFERED, POPULAR, reasons

OUTCOMES = ("browse", "click", "purchase")
"""Behaviours with a probability and a value."""
EVERYONE = ""
"""The user key of the shelf for shoppers nobody knows yet."""
CANDIDATES = 100
"""Items per user that are calibrated and ranked by value."""
BOUGHT_DAYS = 7
"""An item bought within so many days is left off the shelf; after that, people buy again."""
EPSILON = 1e-3
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
FALLBACK = {"revisit": 0.5, "co_visitation": 1.0, "text": 0.25, "popularity_7d": 0.5, "popularity": 0.0}
"""Weights for a shop so young that there is no dev day to choose them on."""
RECOMMENDATIONS = pa.schema(
    [
        ("user_key", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float64()),
        ("p_browse", pa.float64()),
        ("p_click", pa.float64()),
        ("p_purchase", pa.float64()),
        ("value", pa.float64()),
        ("reason", pa.string()),
        ("reason_item_id", pa.string()),
    ]
)
SIMILAR = pa.schema(
    [
        ("item_id", pa.string()),
        ("rank", pa.int32()),
        ("similar_item_id", pa.string()),
        ("similarity", pa.float64()),
    ]
)

Values = Mapping[str, float | str]


def fit_recommender(
    snapshot: Tables, vectors: NDArray[np.float32], item_ids: Sequence[str], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Choose the blend on the dev day, calibrate on it, and return what `recommender.json` holds.

    Histories and counts end the day before the dev day. The cut-off day itself is never looked at, so that it
    can serve as the test day. Where nobody has come back on any day before it, the weights are `FALLBACK`.

    Args:
        snapshot: the training snapshot.
        vectors: [len(item_ids), dimensions], rows of length 1.
        item_ids: the items to recommend from.
        values: value of browse, click and purchase: a number or "price" (`Shop.values`).

    Returns:
        A JSON-able dict.
    """
    data = Interactions.of(snapshot, vectors, item_ids)
    dev = _dev_day(data)
    held = hold_out(data, dev)
    past, users = held.past, _some(held.users, len(data.item_ids))
    weights, figures = _choose_weights(past, data, dev, users) if len(users) else (dict(FALLBACK), {})
    params: dict[str, Any] = {
        "format": 1,
        "weights": weights,
        "values": {name: values[name] for name in OUTCOMES},
        "dev": {"day": dev.isoformat(), "users": len(users), "ndcg@10": figures},
    }
    params["curves"] = _calibrate(Recommender(params, past), data, dev)
    return params


@dataclass(frozen=True)
class Recommender:
    """Fitted parameters at work on the interactions of a day."""

    params: Mapping[str, Any]
    data: Interactions

    @classmethod
    def load(
        cls, bundle: Path, snapshot: Tables, vectors: NDArray[np.float32], item_ids: Sequence[str]
    ) -> Recommender:
        """The recommender of a bundle on the items and behaviour of a snapshot.

        Raises:
            FileNotFoundError: the bundle has no recommender.json.
            ValueError: recommender.json is of a format this version does not know.
        """
        params = json.loads((bundle / "recommender.json").read_text(encoding="utf-8"))
        if params.get("format") != 1:
            raise ValueError(
                f"{bundle / 'recommender.json'}: format is {params.get('format')}, this version of "
                "Nightshelf reads format 1; train the model again"
            )
        return cls(params, Interactions.of(snapshot, vectors, item_ids))

    def until(self, day: date) -> Recommender:
        """The same parameters, knowing nothing later than `day`."""
        return Recommender(self.params, self.data.until(day))

    @cached_property
    def channels(self) -> dict[str, Channel]:
        """The channels that carry weight, fitted."""
        used = {
            name: channel for name, channel in channels().items() if self.params["weights"].get(name, 0) > 0
        }
        for channel in used.values():
            channel.fit(self.data)
        return used

    def scores(self, users: Ints) -> Matrix:
        """[len(users), items] fused scores of users by number."""
        return self._fuse(self._log_scores(users), len(users))

    def recommend(self, users: Sequence[str] | None, k: int, values: Values | None = None) -> pa.Table:
        """The shelf.

        Args:
            users: pseudonyms; None for everyone with a history, then unknown shoppers (`EVERYONE`). A shopper
                without history gets the rows of `EVERYONE`, under their own key.
            k: rows per user; fewer only where the rules leave fewer items.
            values: what a behaviour is worth, where it shall differ from the bundle's.

        Returns:
            Table of `RECOMMENDATIONS`, by user in the order asked for (else by key) and rank.
        """
        if users is None:
            users = [*(str(u) for u in self.data.users[self.data.known_users]), EVERYONE]
        worth = self._worth(values)
        number = self.data.numbers_of(users)
        known = np.isin(number, self.data.known_users)
        asked = np.unique(number[known])
        rows = [self._shelf(block, k, worth) for block in blocks(asked, len(self.data.item_ids))]
        strangers = dict.fromkeys(key for key, is_known in zip(users, known, strict=True) if not is_known)
        rows += [self._popular_shelf(key, k, worth) for key in strangers]
        shelf = pa.concat_tables([RECOMMENDATIONS.empty_table(), *rows])
        place = {key: n for n, key in enumerate(users)}
        by_user = np.asarray([place[key] for key in shelf["user_key"].to_pylist()], np.int64)
        return shelf.take(np.argsort(by_user, kind="stable"))

    def shelves(self, users: Ints, k: int, values: Values | None = None) -> Ints:
        """[len(users), k] item numbers: what `recommend` shows users by number, best first, then -1."""
        parts = [np.zeros((0, k), np.int64)]
        for block in blocks(users, len(self.data.item_ids)):
            row, rank, item, *_ = self._ranked(block, self.scores(block), k, self._worth(values))
            parts.append(np.full((len(block), k), -1, np.int64))
            parts[-1][row, rank - 1] = item
        return np.concatenate(parts)

    def similar_items(self, k: int) -> pa.Table:
        """Table of `SIMILAR`: half nearness in words, half met in the same sessions, each at most 1."""
        items = len(self.data.item_ids)
        together = CoVisitation()
        together.fit(self.data)
        parts = [SIMILAR.empty_table()]
        for block in blocks(np.arange(items), items):
            words = np.clip(self.data.vectors[block] @ self.data.vectors.T, 0, 1)
            met = together.rows(block)
            similarity = np.round((words + _by_row_maximum(met)) / 2, 6)
            other = np.ones_like(similarity, bool)
            other[np.arange(len(block)), block] = False
            best = top_k(similarity, k, other & self._offered)
            row, place = np.nonzero(best >= 0)
            item, chosen = block[row], best[row, place]
            found = similarity[row, chosen].astype(np.float64)
            ids = self.data.item_ids
            parts.append(_table([ids[item], place + 1, ids[chosen], found], SIMILAR))
        return pa.concat_tables(parts)

    def probabilities(self, users: Ints, items: Ints, fused: Floats) -> Floats:
        """[pairs, browse | click | purchase] for users' candidates: user, item and fused score of each."""
        features = self._features(users, items, fused)
        curves = [cast(Curve, self.params["curves"][name]) for name in OUTCOMES]
        p = np.column_stack([apply_curve(curve, features) for curve in curves])
        return np.minimum.accumulate(p, axis=1)

    def candidates(self, users: Ints, most: int = CANDIDATES) -> tuple[Ints, Ints, Floats]:
        """The best items that the rules allow: (place in `users`, item, fused score), flat, by user."""
        return self._best(users, self.scores(users), most)

    def _best(self, users: Ints, fused: Matrix, most: int) -> tuple[Ints, Ints, Floats]:
        best = top_k(fused, most, self.allowed(users))
        row, place = np.nonzero(best >= 0)
        item = best[row, place]
        return row, item, fused[row, item].astype(np.float64)

    def allowed(self, users: Ints) -> NDArray[np.bool_]:
        """[len(users), items]: known, in stock, and not bought within the last `BOUGHT_DAYS` days."""
        log = self.data.behaviors
        recent = log.day > self.data.as_of.toordinal() - BOUGHT_DAYS
        bought = recent & (log.level == LEVELS["purchase"])
        order = np.argsort(users)
        matrix = np.empty((len(users), len(self.data.item_ids)), bool)
        matrix[order] = pair_matrix(users[order], (log.user[bought], log.item[bought]), matrix.shape[1])
        return ~matrix & self._offered

    @property
    def _offered(self) -> NDArray[np.bool_]:
        return self.data.in_stock & self.data.known_items

    def _log_scores(self, users: Ints) -> dict[str, Matrix]:
        known = self.data.known_items
        return {
            name: _log_score(np.where(known, channel.scores(users), np.float32(0)))
            for name, channel in self.channels.items()
        }

    def _fuse(self, logs: Mapping[str, Matrix], users: int) -> Matrix:
        weights = self.params["weights"]
        fused = np.zeros((users, len(self.data.item_ids)), np.float32)
        for name, log in logs.items():
            fused += np.float32(weights[name]) * log
        # A matrix product rounds differently in a block of another size; rounding makes ties of that noise.
        return np.round(fused, 5)

    def _features(self, users: Ints, items: Ints, fused: Floats) -> Floats:
        """[pairs, 4]: how far the fused score lies below that of the user's best candidate; seen before; days
        since the last event; events in the last seven days.

        Fused scores order one user's items; between users they say little. The last two features are the same
        for all items of a user: they say how likely the shopper comes at all.
        """
        best = np.full(len(self.data.users), -np.inf)
        np.maximum.at(best, users, fused)
        days_away, busy = self._activity
        seen = self.data.position_of(users, items) >= 0
        return np.column_stack([fused - best[users], seen, np.log1p(days_away[users]), np.log1p(busy[users])])

    @cached_property
    def _activity(self) -> tuple[Floats, Floats]:
        """Days since each user's last event, and their events in the last seven days."""
        log, today, users = self.data.events, self.data.as_of.toordinal(), len(self.data.users)
        last = np.zeros(users)
        np.maximum.at(last, log.user, log.day)
        busy = np.bincount(log.user[log.day > today - 7], minlength=users).astype(np.float64)
        return np.where(last > 0, today - last, 365.0), busy

    def _worth(self, values: Values | None) -> Floats:
        """[items, browse | click | purchase]; an item without a price is worth nothing where price counts."""
        values = values or self.params["values"]
        price = np.nan_to_num(self.data.price, nan=0.0)
        columns = [price if values[b] == "price" else np.full(len(price), float(values[b])) for b in OUTCOMES]
        return np.column_stack(columns)

    def _shelf(self, users: Ints, k: int, worth: Floats) -> pa.Table:
        logs = self._log_scores(users)
        row, rank, item, score, p = self._ranked(users, self._fuse(logs, len(users)), k, worth)
        user, weights, floor = users[row], self.params["weights"], np.log(EPSILON)
        lifts = {name: weights[name] * (log[row, item] - floor) for name, log in logs.items()}
        told = reasons(self.data, self.channels, lifts, user, item)
        columns = [self.data.users[user], rank, self.data.item_ids[item], score, *p.T]
        return _table([*columns, worth[item, 2], *told], RECOMMENDATIONS)

    def _ranked(
        self, users: Ints, fused: Matrix, k: int, worth: Floats
    ) -> tuple[Ints, Ints, Ints, Floats, Floats]:
        """The first k by value, flat: place in `users`, rank from 1, item, score, probabilities."""
        row, item, relevance = self._best(users, fused, max(CANDIDATES, k))
        p = self.probabilities(users[row], item, relevance)
        score = (p * worth[item]).sum(axis=1)
        order = np.lexsort((item, -relevance, -np.round(score, 12), row))
        rank = np.arange(len(row)) - np.searchsorted(row[order], row[order]) + 1
        order, rank = order[rank <= k], rank[rank <= k]
        return row[order], rank, item[order], score[order], p[order]

    def _popular_shelf(self, key: str, k: int, worth: Floats) -> pa.Table:
        """Popular this week, for a shopper nobody knows.

        P is the share of visits (shopper and day) in the last seven days in which the item met the behaviour:
        what a visiting shopper does.
        """
        popular = Popularity(days=7)
        popular.fit(self.data)
        best = top_k(popular.scores(np.zeros(1, np.int64)), max(CANDIDATES, k), self._offered[None])[0]
        best = best[best >= 0]
        log = self.data.behaviors
        recent = log.where(log.day > self.data.as_of.toordinal() - 7)
        visits = len(np.unique(recent.user * 10_000_000 + recent.day))
        met = [np.bincount(recent.item[recent.level >= LEVELS[b]], minlength=len(worth)) for b in OUTCOMES]
        p = np.column_stack(met)[best] / max(visits, 1)
        score = (p * worth[best]).sum(axis=1)
        order = np.lexsort((best, -np.round(score, 12)))[:k]
        item = best[order]
        told = np.where(p[order, 0] > 0, POPULAR, OFFERED), np.full(len(item), None, object)
        columns = [np.full(len(item), key, object), np.arange(len(item)) + 1, self.data.item_ids[item]]
        return _table([*columns, score[order], *p[order].T, worth[item, 2], *told], RECOMMENDATIONS)


def _dev_day(data: Interactions) -> date:
    """The newest day before the cut-off on which shoppers with a history came; the one before it if none."""
    days = np.unique(data.behaviors.day)
    for day in days[days < data.as_of.toordinal()][::-1]:
        if len(hold_out(data, date.fromordinal(int(day))).users):
            return date.fromordinal(int(day))
    return data.as_of - timedelta(days=1)


def _some(users: Ints, items: int, cells: int = 3_000_000, least: int = 500) -> Ints:
    """As many users as a score matrix of `cells` has rows, drawn with a fixed seed, but at least `least`.

    Weights chosen on fewer follow the noise: on 500 users, the standard error of a mean NDCG@10 is 0.01.
    """
    most = max(cells // max(items, 1), least)
    if len(users) <= most:
        return users
    return np.sort(np.random.default_rng(0).choice(users, most, replace=False))


def _choose_weights(
    past: Interactions, data: Interactions, dev: date, users: Ints
) -> tuple[dict[str, float], dict[str, float]]:
    """Coordinate ascent on NDCG@10 of the dev day, from the best channel alone; and each method's figure."""
    known = past.known_items
    logs = {}
    for name, channel in channels().items():
        channel.fit(past)
        # Not [:, known]: that leaves each row scattered in memory, and rows are what is worked on.
        logs[name] = _log_score(np.compress(known, channel.scores(users), axis=1))
    relevant = np.compress(known, pair_matrix(users, data.met_on(dev), len(known)), axis=1)

    def quality(rest: Matrix, log: Matrix, weight: float) -> float:
        ndcg = []
        for rows in blocks(np.arange(len(users)), len(known)):  # a block at a time bounds the memory
            part = slice(rows[0], rows[-1] + 1)
            fused = rest[part] + np.float32(weight) * log[part]
            ndcg.append(ranking_metrics(fused.round(5), relevant[part])["ndcg@10"])
        return float(np.concatenate(ndcg).mean())

    nothing = np.zeros_like(relevant, np.float32)
    figures = {name: quality(nothing, log, 1.0) for name, log in logs.items()}
    winner = max(figures, key=lambda name: figures[name])
    best = {name: float(name == winner) for name in logs}
    reached = figures[winner]
    for _ in range(3):
        before = reached
        for name, log in logs.items():
            others = [np.float32(w) * logs[other] for other, w in best.items() if w and other != name]
            if not others:
                continue  # the only channel with weight: any other weight gives the same order
            rest = np.sum(others, axis=0)
            for weight in WEIGHTS:
                # A gain below a thousandth is noise on a day's users; the simpler blend stays.
                if weight != best[name] and (got := quality(rest, log, weight)) > reached * (1 + 1e-3):
                    best, reached = {**best, name: weight}, got
        if reached == before:
            break
    return best, {**figures, "nightshelf": reached}


def _calibrate(recommender: Recommender, data: Interactions, dev: date) -> dict[str, Curve]:
    """One curve per behaviour, on the candidates that would have stood on the dev day's shelf."""
    users = recommender.data.known_users
    if len(users) > 3000:  # 300,000 candidates fix four numbers more than well enough
        users = np.sort(np.random.default_rng(1).choice(users, 3000, replace=False))
    features, pairs = [np.zeros((0, 4))], [np.zeros(0, np.int64)]
    items = len(data.item_ids)
    for block in blocks(users, items):
        row, item, fused = recommender.candidates(block)
        features.append(recommender._features(block[row], item, fused))
        pairs.append(block[row] * items + item)
    x, pair = np.concatenate(features), np.concatenate(pairs)
    curves = {}
    for name in OUTCOMES:
        user, item = data.met_on(dev, LEVELS[name])
        curves[name] = fit_curve(x, np.isin(pair, user * items + item))
    return curves


def _log_score(scores: Matrix) -> Matrix:
    return np.log(_by_row_maximum(scores) + np.float32(EPSILON))


def _by_row_maximum(scores: Matrix) -> Matrix:
    return scores / np.maximum(scores.max(axis=1, keepdims=True, initial=0), np.float32(1e-12))


def _table(columns: Sequence[NDArray[Any]], schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)
