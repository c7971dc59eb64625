"""Quality over the nights: each night's evaluation, who was promoted, and what became of its shelf.

Everything is read from what the nights left in the home folder; nothing is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.model.evaluation import CANDIDATE, INCUMBENT, SHELF, Evaluation, Interval, K
from assets.model.promotion import evaluations
from assets.recommendations.outcomes import outcomes_until
from assets.recommendations.scoring import Scores
from resources.aside import replacing
from resources.home import Home
from resources.model_store import ModelStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NDCG = f"ndcg@{K}"
OUTCOME = "outcome"
"""Name of the live curve among the methods: the published shelf, by the behaviour of the day after."""


@dataclass(frozen=True)
class Night:
    """One night's figures."""

    day: date
    users: int
    """Shoppers whom the night's model was measured on."""
    candidate: str
    """Version of the model that was trained for this night."""
    incumbent: str | None
    """Version of what served before; None where nothing did."""
    promoted: bool
    serves: str | None
    """Version of what serves from this night on."""
    ndcg: dict[str, float]
    """Method → NDCG@10, mean over the shoppers of the night's own day, whom no method knew yet; empty where
    nobody came. `shelf` is the candidate's list under the shop's rules, not ranked by relevance alone."""
    outcome: float | None
    """NDCG@10 of the shelf that this night published, by the behaviour of the day after; None where that is
    not known, or is known of another shelf than the one that lies there now."""


@dataclass(frozen=True)
class Lead:
    """NDCG@10 of the candidate minus that of another method, over the nights that have both."""

    interval: Interval
    nights: int
    shoppers: int
    """Different shoppers."""
    shopper_nights: int
    """Pairs of figures: a shopper counts once for each night on which they came."""


@dataclass(frozen=True)
class History:
    """Nights in order, and what they come to."""

    nights: list[Night]
    methods: list[str]
    """Candidate, incumbent, the baselines (best mean first), shelf, outcome; those that have a figure."""
    means: dict[str, float]
    """Method → mean over the nights that have a figure of it, each night counting the same."""
    leads: dict[str, Lead]
    """Method → the candidate's lead over it. Not for `shelf` and `outcome`, which answer another question."""
    best_baseline: str | None
    """The one that the candidate leads least, of those measured in every night that measured anything.
    None where there is none."""

    @property
    def baselines(self) -> list[str]:
        return [name for name in self.methods if name not in (CANDIDATE, INCUMBENT, SHELF, OUTCOME)]

    @property
    def partly(self) -> list[str]:
        """Baselines that some night did not measure: which methods there are changes with the years."""
        most = max((lead.nights for lead in self.leads.values()), default=0)
        return [name for name in self.baselines if name not in self.leads or self.leads[name].nights < most]

    def points(self, method: str) -> list[tuple[date, float]]:
        """(Day whose shoppers judged, NDCG@10) of each night with a figure; `outcome` by the day after."""
        if method == OUTCOME:
            return [(n.day + timedelta(days=1), n.outcome) for n in self.nights if n.outcome is not None]
        return [(night.day, night.ndcg[method]) for night in self.nights if method in night.ndcg]


def history(home: Home, days: Sequence[date]) -> History:
    """Put the figures of nights side by side.

    Args:
        home: whose evaluations, champions and outcomes are read.
        days: nights that were evaluated, in order.

    Raises:
        FileNotFoundError: a night was not evaluated.
    """
    measured = [Evaluation.load(evaluations(home), day) for day in days]
    lived = _outcomes(home)
    nights = [_night(home, evaluation, lived) for evaluation in measured]
    names = list(dict.fromkeys(name for night in nights for name in night.ndcg))
    means = {name: float(np.mean([n.ndcg[name] for n in nights if name in n.ndcg])) for name in names}
    if any(night.outcome is not None for night in nights):
        means[OUTCOME] = float(np.mean([night.outcome for night in nights if night.outcome is not None]))
    baselines = sorted((n for n in names if n not in (CANDIDATE, INCUMBENT, SHELF)), key=lambda n: -means[n])
    order = [CANDIDATE, INCUMBENT, *baselines, SHELF, OUTCOME]
    with_users = [evaluation for evaluation in measured if evaluation.users]
    leads = {
        name: lead for name in [INCUMBENT, *baselines] if (lead := _lead(with_users, name, resamples=1000))
    }
    rivals = [name for name in baselines if name in leads and leads[name].nights == len(with_users)]
    return History(
        nights=nights,
        methods=[name for name in order if name in means],
        means=means,
        leads=leads,
        best_baseline=min(rivals, key=lambda name: leads[name].interval.mean, default=None),
    )


def model_flaw(home: Home, day: date) -> str:
    """Why the model of a night does not stand as its files tell it, in words; empty where it does.

    It stands where its evaluation and its verdict are of the candidate that the store holds, against what the
    store says served before.
    """
    store = ModelStore(home)
    try:
        candidate, evaluation = store.candidate(day), Evaluation.load(evaluations(home), day)
    except FileNotFoundError as error:
        return str(error)
    before, champion = store.champion_before(day), store.champion(day)
    incumbent = before.version if before else None
    if evaluation.candidate != candidate:
        return f"its evaluation is of {evaluation.candidate}, its model now is {candidate}"
    if evaluation.incumbent != incumbent:
        was, now = evaluation.incumbent or "nothing", incumbent or "nothing"
        return f"its evaluation compares with {was}, before it now serves {now}"
    if champion is None or champion.day != day or champion.candidate != candidate:
        return f"nothing was decided about {candidate}"
    return ""


def trained_with(home: Home, day: date) -> dict[str, Any]:
    """The recipe of a night's model, as its bundle has it.

    Raises:
        FileNotFoundError: the night has none.
    """
    config = home.models / ModelStore(home).candidate(day) / "config.json"
    recipe: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))["recipe"]
    return recipe


def shelf_flaw(home: Home, day: date) -> str:
    """Why the shelf of a night is not by the model that serves from this night on; empty where it is."""
    try:
        scored_with = Scores.of(home, day).manifest["model_version"]
    except FileNotFoundError as error:
        return str(error)
    champion = ModelStore(home).champion(day)
    serves = champion.version if champion else "nothing"
    return "" if scored_with == serves else f"its shelf is by {scored_with}, from it on now serves {serves}"


def _night(home: Home, evaluation: Evaluation, lived: dict[tuple[date, str], float]) -> Night:
    champion = ModelStore(home).champion(evaluation.day)
    methods = evaluation.methods if evaluation.users else {}
    return Night(
        day=evaluation.day,
        users=evaluation.users,
        candidate=evaluation.candidate,
        incumbent=evaluation.incumbent,
        promoted=champion is not None and champion.day == evaluation.day and champion.promoted,
        serves=champion.version if champion else None,
        ndcg={name: figures[NDCG] for name, figures in methods.items()},
        outcome=lived.get((evaluation.day, champion.version)) if champion else None,
    )


def _outcomes(home: Home) -> dict[tuple[date, str], float]:
    """{(night, model of its shelf): NDCG@10}, days without a shopper left out."""
    table = outcomes_until(home, date.max)
    table = table.filter(pc.greater(table["users_with_shelf"], 0))
    return {
        (row["shelf_day"], row["model_version"]): row["ndcg_at_10"]
        for row in table.select(["shelf_day", "model_version", "ndcg_at_10"]).to_pylist()
    }


def _lead(measured: Sequence[Evaluation], method: str, resamples: int) -> Lead | None:
    """The candidate's lead over a method in the nights that measured it; None where none did."""
    tables = [e.per_user for e in measured if method in e.per_user.column_names]
    if not tables:
        return None
    difference = np.concatenate([t[CANDIDATE].to_numpy() - t[method].to_numpy() for t in tables])
    keys = np.concatenate([t["user_key"].to_numpy(zero_copy_only=False).astype(str) for t in tables])
    names, shopper = np.unique(keys, return_inverse=True)
    interval = pooled_bootstrap(difference, shopper, resamples)
    return Lead(interval, nights=len(tables), shoppers=len(names), shopper_nights=len(difference))


def pooled_bootstrap(
    difference: NDArray[np.float64], shopper: NDArray[np.int64], resamples: int = 1000, seed: int = 0
) -> Interval:
    """95 % percentile interval of the mean of paired differences over several nights.

    Whole shoppers are resampled, each with all of their nights: what the same person does on two nights is
    not two independent observations, and an interval that took it for that would be too narrow.

    Args:
        difference: [pairs], one per shopper and night.
        shopper: [pairs], the shopper's number, from 0 without gaps.
        resamples: number of bootstrap samples.
        seed: of the generator; the same seed gives the same interval.
    """
    sums, pairs = np.bincount(shopper, difference), np.bincount(shopper)
    random, n = np.random.default_rng(seed), len(sums)
    at_once, means = max(1, 2_000_000 // n), []
    for done in range(0, resamples, at_once):
        drawn = random.integers(0, n, (min(at_once, resamples - done), n))
        means.append(sums[drawn].sum(axis=1) / pairs[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


def write_history(found: History, picture: Path, names: Mapping[str, str] | None = None) -> Path:
    """Put the picture (PNG) and, beside it under the same name, the figures (JSON) in place.

    Args:
        found: at least one night.
        picture: a `.png`; folders are made.
        names: as `history_chart`.

    Returns:
        the file with the figures.
    """
    figures = picture.with_suffix(".json")
    with replacing(picture) as aside:
        history_chart(found, names).savefig(aside, format="png", dpi=130, bbox_inches="tight")
    with replacing(figures) as aside:
        aside.write_text(json.dumps(_as_json(found), indent=2) + "\n", encoding="utf-8")
    return figures


def _as_json(found: History) -> dict[str, Any]:
    return {
        "measure": NDCG,
        "methods": found.methods,
        "nights": [{**asdict(night), "day": night.day.isoformat()} for night in found.nights],
        "means": found.means,
        "best_baseline": found.best_baseline,
        "leads": {name: asdict(lead) for name, lead in found.leads.items()},
    }


_LOOKS: dict[str, dict[str, Any]] = {
    CANDIDATE: {"color": "#2244aa", "linewidth": 2.4, "zorder": 5},
    INCUMBENT: {"color": "#2244aa", "linewidth": 1.2, "linestyle": "--", "zorder": 4},
    SHELF: {"color": "#cc5511", "linewidth": 1.4, "linestyle": ":", "zorder": 3},
    OUTCOME: {"color": "#cc5511", "linewidth": 1.8, "marker": "s", "zorder": 3},
}
_BASELINE_COLORS = ("#448844", "#997700", "#777777", "#885599", "#229999", "#aa6666")


def history_chart(found: History, names: Mapping[str, str] | None = None) -> Figure:
    """A line per method over the days whose shoppers judged; nights whose model was promoted bear a star.

    Args:
        found: at least one night.
        names: method → what to call it, where its name will not do.
    """
    from matplotlib.dates import date2num
    from matplotlib.figure import Figure

    names = {OUTCOME: "published shelf, the day after", SHELF: "shelf, under the rules", **(names or {})}
    figure = Figure(figsize=(9.5, 5))
    axis = figure.subplots()
    colors = cycle(_BASELINE_COLORS)
    for name in found.methods:
        _draw(axis, found, name, names, **_LOOKS.get(name) or {"color": next(colors), "linewidth": 1.2})
    stars = [(night.day, night.ndcg[CANDIDATE]) for night in found.nights if night.promoted and night.ndcg]
    if stars:
        look: dict[str, Any] = {
            "markersize": 15,
            "color": "#ffbb00",
            "markeredgecolor": "#2244aa",
            "zorder": 6,
        }
        axis.plot(*zip(*stars, strict=True), "*", label="promoted", **look)
    axis.set_ylim(bottom=0)
    axis.set_ylabel(f"NDCG@{K}")
    axis.set_title(f"{found.nights[0].day} to {found.nights[-1].day}: each night by the shoppers of its day")
    axis.grid(alpha=0.3)
    if found.methods:
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", frameon=False)
    days = sorted({n.day for n in found.nights} | {day for m in found.methods for day, _ in found.points(m)})
    step = -(-len(days) // 14)  # so many dates fit below the axis
    axis.set_xticks(date2num(days[::step]), [str(day) for day in days[::step]])
    axis.set_xlim(date2num(days[0]) - 0.5, date2num(days[-1]) + 0.5)
    figure.autofmt_xdate()
    return figure


def _draw(axis: Any, found: History, name: str, names: Mapping[str, str], **look: Any) -> None:
    points = found.points(name)
    label = f"{names.get(name, name)} ({found.means[name]:.4f})"
    style = {"marker": "o", "markersize": 4, **look}
    axis.plot([day for day, _ in points], [value for _, value in points], label=label, **style)
