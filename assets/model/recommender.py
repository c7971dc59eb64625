"""The recommender: channels and a sequence model, fused by a ranker, calibrated, ranked by value, explained.

1. Candidates: the first items of every channel (`channels.py`), the sequence model (`sequence.py`) among
   them.
2. A ranker per behaviour over all channels' scores and ranks, prices, trends and habits (`features.py`,
   `ranker.py`), learnt on the dev day from histories cut just before it: the newest day before the cut-off on
   which shoppers with a history came (a closed day teaches nothing).
3. P(browse), P(click), P(purchase): the chance that the shopper does *at least* that with the item on the
   next day, whether or not they come at all. A cart counts as a click. Hence P(purchase) ≤ P(click) ≤
   P(browse). The dev day was a day with shoppers, so it is the next *open* day.
4. `score = Σ_b value_b · P(b)`, the business objective: with `price` it is expected revenue.
5. Rules (`rules.py`): stock, bought already, brands, diversity, new items.
6. A reason: what the channel that lifted the item most has to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from assets.model.calibration import Curve, apply_curve, fit_curve
from assets.model.channels import (
    Channel,
    CoVisitation,
    Foresight,
    SequenceChannel,
    channels,
    popularity,
    searched,
)
from assets.model.features import EPSILON, NOTHING, PER_CHANNEL, Candidates, Features
from assets.model.interactions import (
    LEVELS,
    Floats,
    HeldOut,
    Interactions,
    Ints,
    Tables,
    blocks,
    find,
    places,
    sample,
)
from assets.model.metrics import top_k
from assets.model.ranker import Pairs, Ranker, fit_ranker
from assets.model.reasons import OFFERED, POPULAR, reasons
from assets.model.rules import EXPLORED, Rules, allowed, arrange, fit_rules, held_back, new_items, show_new
from assets.model.scored import Chosen, Matrix, Sparse, first_of, rows_of
from assets.model.train import SEQUENCE

if TYPE_CHECKING:
    from assets.model.mips import InnerProducts
    from assets.model.sequence import SequenceModel

OUTCOMES = ("browse", "click", "purchase")
"""Behaviours with a probability and a value."""
EVERYONE = ""
"""The user key of the shelf for shoppers nobody knows yet."""
CANDIDATES = 100
"""Items per user that are calibrated and ranked by value."""
CELLS, MOST_USERS = 16_000_000, 512
"""(User, item) pairs, and users, looked at together: a pair takes some tens of bytes, a user 100 KB."""
FORMAT = 2
"""Of recommender.json."""
MEETS_NEW = 0.005
"""Share of what was held out that nobody had met before; from it on a ranking has places for such items."""
FEWEST = 200
"""Relevant candidates from which on a behaviour gets a ranker of its own."""
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
Log = Callable[[str], None]


class OutdatedModelError(ValueError):
    """The bundle was made by another version of Nightshelf; the message says what to do."""


@dataclass(frozen=True)
class Fitted:
    """What a fitted recommender consists of; `write` puts it into a bundle."""

    params: dict[str, Any]
    """Of `recommender.json`: asks, rankers (without trees), curves, rules, values, dev."""
    trees: dict[str, str]
    """Behaviour → LightGBM's own text of the ranker's trees; absent where none help."""

    def write(self, folder: Path) -> None:
        """`recommender.json`, and `ranker-<behaviour>.txt` for each ranker with trees."""
        text = json.dumps(self.params, indent=2) + "\n"
        (folder / "recommender.json").write_text(text, encoding="utf-8")
        for name, trees in self.trees.items():
            (folder / f"ranker-{name}.txt").write_text(trees, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Fitted:
        """
        Raises:
            FileNotFoundError: the folder has no recommender.json.
            OutdatedModelError: recommender.json is of a format this version does not know.
        """
        file = folder / "recommender.json"
        params = json.loads(file.read_text(encoding="utf-8"))
        if params.get("format") != FORMAT:
            raise OutdatedModelError(
                f"{file}: format is {params.get('format')}, but this version of Nightshelf reads format "
                f"{FORMAT}; train the model again (`nightshelf night DAY`)"
            )
        trees = {
            name: (folder / f"ranker-{name}.txt").read_text(encoding="utf-8")
            for name in OUTCOMES
            if (folder / f"ranker-{name}.txt").exists()
        }
        return cls(params, trees)


def fit_recommender(
    held: HeldOut,
    values: Mapping[str, Any],
    sequence: SequenceModel | None = None,
    rules: Mapping[str, Any] | None = None,
    *,
    everyone_comes: bool = False,
    without: Collection[str] = (),
    learn_from: int = 5000,
    seed: int = 0,
    log: Log = lambda message: None,
) -> Fitted:
    """Learn how to rank and how likely things are from what was held out.

    Args:
        held: what is known, and what shoppers did then.
        values: value of browse, click and purchase: a number or "price" (`Shop.values`).
        sequence: trained on nothing later than `held.past`.
        rules: what the shop decides about its shelf (`Shop.rules`).
        without: channels to do without.
        everyone_comes: probabilities are for those who are judged, not for everyone with a history.
        learn_from: judged shoppers that the rankers learn from, and shoppers that the probabilities are
            fitted on, at most.
        seed: of samples and trees.
        log: told the progress.
    """
    asks = _asks(held) if sequence else {}
    params: dict[str, Any] = {
        "format": FORMAT,
        "asks": asks,
        "without": sorted(without),
        "repeats": held.repeats,
        "values": {name: values[name] for name in OUTCOMES},
        "rules": fit_rules(held.past, rules or {}).to_dict(),
        "dev": {"day": held.past.as_of.isoformat(), "users": len(held.users)},
        "rankers": {},
        "curves": {},
    }
    recommender = Recommender(Fitted(params, {}), held.past, sequence)
    judged = sample(held.users, learn_from, seed)
    asked = judged if everyone_comes else sample(held.past.known_users, learn_from, seed + 1)
    every = _pairs(recommender, held, np.union1d(judged, asked))
    learnt, known = every.of(judged), every.of(asked)
    params["dev"]["recall ceiling"] = _ceilings(learnt, recommender.features.names, held, judged, log)
    params["new_near"] = _new_near(recommender, held, judged)
    names = recommender.features.names
    rankers: dict[str, tuple[Ranker, tuple[Ranker, Ranker]]] = {}
    for name in OUTCOMES:
        before = next(reversed(rankers.values()), None)
        relevant = learnt.level >= LEVELS[name]
        if before and (relevant.sum() < FEWEST or (relevant == (learnt.level >= 0)).all()):
            rankers[name] = before  # too little to learn of this behaviour alone, or nothing else to learn
            continue
        wanted = held.relevant_counts(LEVELS[name])[learnt.user]
        pairs = Pairs(learnt.user, learnt.features, relevant, wanted)
        ranker, folds, figures = fit_ranker(pairs, names, seed, log)
        rankers[name] = ranker, folds
        params["dev"][f"ndcg@10 of {name}"] = figures
    trees: dict[str, str] = {}
    for name, (ranker, _) in rankers.items():
        params["rankers"][name] = {"names": ranker.names, "weights": ranker.weights.tolist()}
        if ranker.trees:
            trees[name] = ranker.trees
    for name, (_, folds) in rankers.items():
        honest = np.where(
            known.user % 2 == 1, folds[1].scores(known.features), folds[0].scores(known.features)
        )
        features = recommender.calibration_features(known.user, honest, known.seen)
        params["curves"][name] = fit_curve(features, known.level >= LEVELS[name])
    return Fitted(params, trees)


@dataclass(frozen=True)
class Recommender:
    """A fitted recommender at work on the interactions of a day."""

    fitted: Fitted
    data: Interactions
    sequence: SequenceModel | None = None

    @classmethod
    def load(
        cls, bundle: Path, snapshot: Tables, vectors: NDArray[np.float32], item_ids: Sequence[str]
    ) -> Recommender:
        """The recommender of a bundle on the items and behaviour of a snapshot.

        Raises:
            FileNotFoundError: the bundle has no recommender.json.
            OutdatedModelError: recommender.json is of a format this version does not know.
        """
        fitted, data = Fitted.read(bundle), Interactions.of(snapshot, vectors, item_ids)
        sequence = None
        if fitted.params["asks"]:
            from assets.model.sequence import SequenceModel

            sequence = SequenceModel.load(bundle / SEQUENCE, data)
        return cls(fitted, data, sequence)

    @property
    def params(self) -> dict[str, Any]:
        return self.fitted.params

    def until(self, day: date) -> Recommender:
        """The same parameters, knowing nothing later than `day`."""
        return Recommender(self.fitted, self.data.until(day), self.sequence)

    def under(self, rules: Mapping[str, Any]) -> Recommender:
        """The same, under what the shop decides about its shelf now (`Shop.rules`)."""
        params = {**self.params, "rules": self.rules.under(rules).to_dict()}
        return Recommender(Fitted(params, self.fitted.trees), self.data, self.sequence)

    @cached_property
    def channels(self) -> dict[str, Channel]:
        """All channels that are used, fitted."""
        every = channels()
        if self.sequence:
            foresight = Foresight(self.sequence)
            asked = {
                name: SequenceChannel(name, foresight, level) for name, level in self.params["asks"].items()
            }
            every = {**asked, **every}
        used = {name: channel for name, channel in every.items() if name not in self.params["without"]}
        for channel in used.values():
            channel.fit(self.data)
        return used

    @cached_property
    def features(self) -> Features:
        return Features(self.data, self.channels)

    @cached_property
    def rankers(self) -> dict[str, Ranker]:
        """Of each behaviour; where two are the same one, one object.

        Raises:
            OutdatedModelError: a ranker was fitted on other features than this version makes.
        """
        rankers: dict[str, Ranker] = {}
        for name, stored in self.params["rankers"].items():
            if stored["names"] != self.features.names:
                raise OutdatedModelError(
                    "the ranker knows other features than this version; train the model again "
                    "(`nightshelf night DAY`)"
                )
            trees = self.fitted.trees.get(name, "")
            same = next((r for r in rankers.values() if r.like(stored["weights"], trees)), None)
            rankers[name] = same or Ranker(stored["names"], np.asarray(stored["weights"]), trees)
        return rankers

    @cached_property
    def rules(self) -> Rules:
        return Rules.from_dict(self.params["rules"])

    @cached_property
    def _held_back(self) -> tuple[Ints, Ints]:
        return held_back(self.data, self.rules)

    def blocks(self, users: Ints) -> list[Ints]:
        """Users, or items, in portions that are looked at together."""
        return blocks(users, len(self.data.item_ids), CELLS, MOST_USERS)

    def scores(self, users: Ints) -> Matrix:
        """[len(users), items] relevance of known items; what is no candidate lies below, by popularity.

        Where shoppers do meet items that nobody had met before, these have some of the first hundred places.
        """
        found = self.features.candidates(users, self.open_to(users))
        score = self.rankers["browse"].scores(found.features)
        popular = popularity(self.data, None).astype(np.float32)
        floor = np.full(len(users), 0.0)
        np.minimum.at(floor, found.row, score)
        result = (floor[:, None] - 2 + popular).astype(np.float32)
        result[found.row, found.item] = np.round(score, 5)
        if self.params.get("new_near") is None:
            return result
        fresh = self._fresh(users)
        near = fresh.max(axis=1, initial=0) >= self.params["new_near"]
        for some, every in ((near, EXPLORED // 2), (~near, EXPLORED)):
            result[some] = show_new(result[some], fresh[some], every)
        return result

    def _fresh(self, users: Ints) -> Matrix:
        """[len(users), items] novelty of what nobody has met; 0 for all else."""
        return self.channels["novelty"].scores(users) * self.data.unmet_items

    def open_to(self, users: Ints) -> NDArray[np.bool_]:
        """[len(users), items] that may be ranked: known, and new to the user where repeats do not count."""
        nothing = np.zeros(0, np.int64)
        held = HeldOut(self.data, users, nothing, nothing, nothing, self.params["repeats"])
        return held.allowed(users)

    def probabilities(self, users: Ints, items: Ints) -> Floats:
        """[pairs, browse | click | purchase] of any pairs; half the last candidate's for one that is none.

        Args:
            users: [pairs] user numbers, in any order.
            items: [pairs].
        """
        p = np.zeros((len(users), len(OUTCOMES)))
        for block in self.blocks(np.unique(users)):
            found = self.features.candidates(block, self.open_to(block))
            told = self._probabilities(block, found, self._scores(found))
            least = np.ones((len(block), len(OUTCOMES)))
            np.minimum.at(least, found.row, told)
            inside = np.flatnonzero(np.isin(users, block))
            row = np.searchsorted(block, users[inside])
            key, wanted = (
                r * len(self.data.item_ids) + i for r, i in ((found.row, found.item), (row, items[inside]))
            )
            place = find(key, wanted)
            p[inside] = np.where(place[:, None] >= 0, told[place] if len(key) else 0, least[row] / 2)
        return p

    def _scores(self, found: Candidates) -> dict[str, Floats]:
        """Behaviour → [candidates] scores of its ranker; each different ranker is asked once."""
        asked: dict[int, Floats] = {}
        for ranker in self.rankers.values():
            if id(ranker) not in asked:
                asked[id(ranker)] = ranker.scores(found.features)
        return {name: asked[id(ranker)] for name, ranker in self.rankers.items()}

    def _probabilities(self, users: Ints, found: Candidates, scores: Mapping[str, Floats]) -> Floats:
        """[candidates, browse | click | purchase], from what the rankers say."""
        user = users[found.row]
        seen = self.data.position_of(user, found.item) >= 0
        p = [
            apply_curve(
                cast(Curve, self.params["curves"][name]), self.calibration_features(user, scores[name], seen)
            )
            for name in OUTCOMES
        ]
        return np.minimum.accumulate(np.column_stack(p), axis=1)

    def calibration_features(self, users: Ints, scores: Floats, seen: NDArray[np.bool_]) -> Floats:
        """[pairs, 4]: log of the item's share among the user's candidates; seen before; days since the last
        event; events in the last seven days.

        Scores order one user's items; between users they say little. The last two features are the same for
        all items of a user: they say how likely the shopper comes at all.
        """
        best = np.full(len(self.data.users), -np.inf)
        np.maximum.at(best, users, scores)
        total = np.bincount(users, np.exp(scores - best[users]), len(self.data.users))
        days_away, busy, _ = self.features.of_users
        share = scores - best[users] - np.log(total[users])
        return np.column_stack([share, seen, np.log1p(days_away[users]), np.log1p(busy[users])])

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
        rows = [self._shelf(block, k, values) for block in self.blocks(asked)]
        strangers = dict.fromkeys(key for key, is_known in zip(users, known, strict=True) if not is_known)
        rows += [self._popular_shelf(key, k, worth) for key in strangers]
        shelf = pa.concat_tables([RECOMMENDATIONS.empty_table(), *rows])
        by_user = pc.index_in(shelf["user_key"], value_set=pa.array(list(dict.fromkeys(users)), pa.string()))
        return shelf.take(np.argsort(by_user.to_numpy(), kind="stable"))

    def shelves(self, users: Ints, k: int, values: Values | None = None) -> Ints:
        """[len(users), k] item numbers: what `recommend` shows users by number, best first, then -1."""
        parts = [np.zeros((0, k), np.int64)]
        for block in self.blocks(users):
            shown = self.ranked(block, k, values)
            parts.append(np.full((len(block), k), -1, np.int64))
            parts[-1][shown.row, shown.rank - 1] = shown.item
        return np.concatenate(parts)

    @property
    def _offered(self) -> NDArray[np.bool_]:
        return self.data.in_stock & self.data.known_items

    def similar_items(self, k: int) -> pa.Table:
        """Table of `SIMILAR`: half nearness in words, half met in the same sessions, each at most 1."""
        ids, vectors = self.data.item_ids, self.data.vectors
        if not len(ids):
            return SIMILAR.empty_table()
        together = cast(CoVisitation, self.channels["co_visitation"]).both_ways()
        most = together.max(axis=1).toarray()[:, 0].astype(np.float32)
        search = searched(vectors)
        parts = []
        for block in self.blocks(np.arange(len(ids))):
            rows = together[block]
            among, met = Chosen(self._alike(search, block, k, rows)), Sparse(rows)
            row, item = among.places
            words = np.clip(search.at(vectors[block], row, item), 0, 1)
            similarity = (words + met.share(met.at(among), most[block][row])) / np.float32(2)
            best = first_of(row, item, np.asarray(similarity.round(6), np.float32), k)
            similar = ids[best.item], best.score.astype(np.float64)
            columns = [ids[block[best.row]], places(best.row) + 1, *similar]
            parts.append(_table(columns, SIMILAR))
        return pa.concat_tables(parts)

    def _alike(self, search: InnerProducts, block: Ints, k: int, met: csr_matrix) -> NDArray[np.bool_]:
        """[items of the block, items] that may be among the k most similar.

        What has not been met with an item counts by its words alone, so the nearest of that are enough.
        """
        vectors, row = self.data.vectors[block], np.arange(len(block))
        left_out = np.tile(~self._offered, (len(block), 1))
        left_out[row, block] = True
        alike = np.zeros(met.shape, bool)
        pairs = met.tocoo()
        alike[pairs.row, pairs.col] = True
        said = np.flatnonzero(vectors.any(axis=1))
        near = search.first(rows_of(vectors, said), k, rows_of(left_out, said)).items
        place, rank = np.nonzero(near >= 0)
        alike[said[place], near[place, rank]] = True
        # What nothing is said of is as near to all others: the first by number.
        alike[np.ix_(np.setdiff1d(row, said), np.flatnonzero(self._offered)[: k + 1])] = True
        return alike & ~left_out

    def _worth(self, values: Values | None) -> Floats:
        """[items, browse | click | purchase]; an item without a price is worth nothing where price counts."""
        values = values or self.params["values"]
        price = np.nan_to_num(self.data.price, nan=0.0)
        columns = [price if values[b] == "price" else np.full(len(price), float(values[b])) for b in OUTCOMES]
        return np.column_stack(columns)

    def _shelf(self, users: Ints, k: int, values: Values | None) -> pa.Table:
        shown, worth = self.ranked(users, k, values), self._worth(values)
        user, ranker = users[shown.row], self.rankers["browse"]
        lifts = {
            name: ranker.weight_of(name) * (shown.features[:, n] - NOTHING)
            for n, name in enumerate(self.channels)
        }
        told = reasons(self.data, self.channels, lifts, user, shown.item)
        columns = [self.data.users[user], shown.rank, self.data.item_ids[shown.item], shown.score, *shown.p.T]
        return _table([*columns, worth[shown.item, 2], *told], RECOMMENDATIONS)

    def ranked(self, users: Ints, k: int, values: Values | None = None) -> Shown:
        """The first k of each user by value and rules: what is published, as numbers."""
        worth = self._worth(values)
        among = allowed(self.data, users, self._held_back)
        found = self.features.candidates(users, among, k)
        scores = self._scores(found)
        p, relevance = self._probabilities(users, found, scores), scores["browse"]
        score = (p * worth[found.item]).sum(axis=1)
        order = np.lexsort((found.item, -relevance, -np.round(score, 12), found.row))
        first = places(found.row[order]) < max(CANDIDATES, k)
        best = order[first | new_items(self.data)[found.item[order]]]
        kept = best[arrange(self.data, found.row[best], found.item[best], score[best], k, self.rules)]
        return Shown(
            found.row[kept],
            places(found.row[kept]) + 1,
            found.item[kept],
            score[kept],
            p[kept],
            found.features[kept],
        )

    def _popular_shelf(self, key: str, k: int, worth: Floats) -> pa.Table:
        """Popular this week, for a shopper nobody knows.

        P is the share of visits (shopper and day) in the last seven days in which the item met the behaviour:
        what a visiting shopper does.
        """
        popular = popularity(self.data, 7).astype(np.float32)
        best = top_k(popular[None], max(CANDIDATES, k), self._offered[None])[0]
        best = best[best >= 0]
        log = self.data.behaviors
        recent = log.where(log.day > self.data.as_of.toordinal() - 7)
        visits = len(np.unique(recent.user * 10_000_000 + recent.day))
        met = [np.bincount(recent.item[recent.level >= LEVELS[b]], minlength=len(worth)) for b in OUTCOMES]
        p = np.column_stack(met)[best] / max(visits, 1)
        score = (p * worth[best]).sum(axis=1)
        order = np.lexsort((best, -np.round(score, 12)))
        one_shelf = np.zeros(len(order), np.int64)
        order = order[arrange(self.data, one_shelf, best[order], score[order], k, self.rules)]
        item = best[order]
        told = np.where(p[order, 0] > 0, POPULAR, OFFERED), np.full(len(item), None, object)
        columns = [np.full(len(item), key, object), np.arange(len(item)) + 1, self.data.item_ids[item]]
        return _table([*columns, score[order], *p[order].T, worth[item, 2], *told], RECOMMENDATIONS)


@dataclass(frozen=True)
class Shown:
    """Shelves of a block of users, flat, by user and rank."""

    row: Ints
    rank: Ints
    item: Ints
    score: Floats
    p: Floats
    features: Matrix


@dataclass(frozen=True)
class _Learnt:
    """Candidates of some users, and what was held out of them."""

    user: Ints
    features: NDArray[np.float32]
    level: Ints
    """Strongest behaviour held out, −1 for none."""
    seen: NDArray[np.bool_]

    def of(self, users: Ints) -> _Learnt:
        keep = np.isin(self.user, users)
        return _Learnt(self.user[keep], self.features[keep], self.level[keep], self.seen[keep])


def _pairs(recommender: Recommender, held: HeldOut, users: Ints) -> _Learnt:
    items = max(len(held.past.item_ids), 1)
    key = held.user * items + held.item
    nothing, width = np.zeros(0, np.int64), len(recommender.features.names)
    parts = [_Learnt(nothing, np.zeros((0, width), np.float32), nothing, np.zeros(0, bool))]
    for block in recommender.blocks(users):
        found = recommender.features.candidates(block, recommender.open_to(block))
        user = block[found.row]
        wanted = user * items + found.item
        place = find(key, wanted)
        level = np.where(place >= 0, held.level[place] if len(key) else -1, -1)
        seen = held.past.position_of(user, found.item) >= 0
        parts.append(_Learnt(user, found.features, level, seen))
    columns = zip(*((part.user, part.features, part.level, part.seen) for part in parts), strict=True)
    return _Learnt(*(np.concatenate(column) for column in columns))


def _ceilings(learnt: _Learnt, names: list[str], held: HeldOut, users: Ints, log: Log) -> dict[str, float]:
    """Share of what was held out that is among each channel's first candidates, and among all of them: no
    ranker can find more."""
    wanted = max(float(held.relevant_counts()[users].sum()), 1.0)
    met = learnt.level >= 0
    ceilings = {"all": float(met.sum()) / wanted}
    for column, name in enumerate(names):
        if name.startswith("rank "):
            first = learnt.features[:, column] < np.log1p(PER_CHANNEL)
            said = learnt.features[:, names.index(name.replace("rank", "log", 1))] > np.log(2 * EPSILON)
            ceilings[name.removeprefix("rank ")] = float((met & first & said).sum()) / wanted
    log("recall ceilings: " + ", ".join(f"{name} {share:.3f}" for name, share in ceilings.items()))
    return ceilings


def _new_near(recommender: Recommender, held: HeldOut, users: Ints) -> float | None:
    """Novelty from which on an item that nobody has met is among the nearest there are: for one in four.

    None where shoppers do not meet such items, so that a ranking has no places for them; nor in a ranking of
    items new to the shopper, where they compete with others on equal terms.
    """
    if not held.repeats or "novelty" not in recommender.channels or not len(held.item) or not len(users):
        return None
    if held.past.unmet_items[held.item].mean() < MEETS_NEW:
        return None
    best = [recommender._fresh(b).max(axis=1) for b in blocks(users, len(held.past.item_ids))]
    return float(np.quantile(np.concatenate(best), 0.75))


def _asks(held: HeldOut) -> dict[str, int]:
    """Channel of the sequence model → behaviour it asks for: the commonest, and buying where that differs."""
    level = np.bincount(held.past.events.level, minlength=len(LEVELS))
    common = int(level.argmax())
    asks = {"sequence": common}
    if common != LEVELS["purchase"] and level[LEVELS["purchase"]] >= FEWEST:
        asks["sequence_bought"] = LEVELS["purchase"]
    return asks


def _table(columns: Sequence[NDArray[Any]], schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)
