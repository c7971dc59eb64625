"""A rolling backtest: a model and a shelf as of each night of a window, and their quality side by side.

It runs what a backfill runs, but only what is not there yet, so that it can be stopped and started again at
any time. What counts as there is told by Dagster's record and by the files of the home together: the record
knows what failed or is older than what it was made from, the files know what served before a night.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import dagster as dg
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assets.logs.raw_zone import days_of_loads
from assets.model.assets import LEARNT_FROM
from assets.model.evaluation import CANDIDATE, INCUMBENT, K
from assets.model.recipe import load_recipe
from assets.recommendations.history import (
    OUTCOME,
    History,
    Lead,
    Night,
    history,
    model_flaw,
    shelf_flaw,
    trained_with,
)
from orchestration.backfill import (
    Run,
    drop_tag,
    make_model,
    make_shelf,
    make_tables,
    tag_of,
    take_in,
)
from orchestration.launcher import GONE, free_slots, is_driven
from orchestration.nights import (
    ACTIVE,
    EVENTS,
    LABELS,
    attempts_of_night,
    days_between,
    first_night,
    in_windows,
    in_words,
)
from orchestration.nights import SHELF as PUBLISHED
from orchestration.pages import METHODS
from orchestration.sensors import LABELS_LOOK_BACK, outdated_days
from resources.aside import replacing
from resources.home import Home
from resources.leases import lease_one_of

TABLES = [dg.AssetKey(key) for key in LEARNT_FROM]
SNAPSHOT, CHAMPION = dg.AssetKey("training_snapshot"), dg.AssetKey("champion_model")
MODEL = [SNAPSHOT, dg.AssetKey("fine_tuned_model"), dg.AssetKey("model_evaluation"), CHAMPION]
SHELVES = [CHAMPION, dg.AssetKey("scored_recommendations"), PUBLISHED]
"""Each is made from the one before it, so it must be the newer one."""

DBT_STEP = "dbt_build"
"""Step that makes all tables of a window, and checks them."""

BACKTEST_TAG = "nightshelf/backtest"
"""Run tag of what `nightshelf backtest` runs, beside that of a backfill."""

NOT_MADE = "it was not made yet"
NAMES = {**METHODS, OUTCOME: "shelf, the day after"}


class BacktestError(RuntimeError):
    """A backtest cannot be made; the message says why, and what to do."""


@dataclass(frozen=True)
class Record:
    """What the instance's record says of days, as it stands now."""

    instance: dg.DagsterInstance
    since: int = 0
    """Storage id of an event: what was made up to it does not count."""
    _newest: dict[dg.AssetKey, dict[date, int]] = field(default_factory=dict, repr=False)

    def newest(self, key: dg.AssetKey) -> dict[date, int]:
        """{day: storage id of its last materialisation}; a greater id is a later event."""
        if key not in self._newest:
            found = self.instance.event_log_storage.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION
            )
            self._newest[key] = {date.fromisoformat(day): storage_id for day, storage_id in found.items()}
        return self._newest[key]

    def flaw(self, chain: Sequence[dg.AssetKey], day: date) -> str:
        """Why a chain of assets of a day is not there, in words; empty where each was made after the one that
        it is made from, and the run that made the last of them succeeded."""
        made = [self.newest(key).get(day, 0) for key in chain]
        if min(made) <= self.since:
            return NOT_MADE
        for key, before, (earlier, later) in zip(chain[1:], chain, pairwise(made), strict=False):
            if later < earlier:
                return f"its {key.to_user_string()} is older than its {before.to_user_string()}"
        run = self._run_of(chain[-1], day)
        return "" if run is None or run.is_success else f"run {run.run_id[:8]} did not succeed"

    def tables_stand(self, day: date) -> bool:
        """Whether all tables of a day are there, made from the rows that were reported last, and checked."""
        oldest = min(self.newest(key).get(day, 0) for key in TABLES)
        if oldest <= max(self.since, self.newest(EVENTS).get(day, 0)):
            return False
        run = self._run_of(LABELS, day)
        return run is None or run.is_success or self._step_succeeded(run, DBT_STEP)

    def _run_of(self, key: dg.AssetKey, day: date) -> dg.DagsterRun | None:
        """The run that last made a day; None where it was reported by hand, or its run was deleted."""
        wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[day.isoformat()])
        (newest,) = self.instance.fetch_materializations(wanted, limit=1).records
        return self.instance.get_run_by_id(newest.run_id)

    def _step_succeeded(self, run: dg.DagsterRun, step: str) -> bool:
        ended = self.instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS
        ).records
        return any(record.event_log_entry.step_key == step for record in ended)


@dataclass
class Backtest:
    """A backtest of a home over the nights from `first` to `last`."""

    home: Home
    instance: dg.DagsterInstance
    first: date
    last: date
    run: Run
    say: Callable[[str], None] = lambda text: None
    nights: list[date] = field(init=False)
    """Days of the window that get a model."""

    def __post_init__(self) -> None:
        begin = first_night(self.home.shop)
        self.nights = days_between(max(self.first, begin), self.last)
        if not self.nights:
            raise BacktestError(
                f"{self.last} lies before the first night ({begin}), with which models and shelves begin. "
                "Name later days."
            )
        self._tag = {**tag_of(self.first, self.last), BACKTEST_TAG: f"{self.first} to {self.last}"}
        self._skipped: list[date] = []

    @property
    def picture(self) -> Path:
        """Where the picture goes if nobody names another place."""
        return self.home.root / "backtest" / f"{self.first}_{self.last}.png"

    def go(self, again: bool = False) -> History:
        """Make what is missing, the oldest night first, and read the figures.

        Args:
            again: make tables and nights anew, whatever is there. Where this was cut short, a call without it
                goes on; a call with it begins once more.

        Raises:
            BacktestError: there are no logs, or somebody else is at work on one of the nights.
            orchestration.runs.RunFailedError: a run did not succeed; what was made before it stays.
        """
        with lease_one_of([self.home.leases / "backtest.lock"], on_wait=self.say):
            self._fail_lost_runs()
            if again:
                self._begin_again()
            elif self._again.exists():
                self.say("--again was cut short; going on with it.")
            if not self._taken_in():
                take_in(self.run, self.home, self._tag)
            for window in self._windows():
                make_tables(self.run, *window, self._tag)
            for day in self.nights:
                self._make_night(day)
            self._tell_skipped()
            self._again.unlink(missing_ok=True)
            return history(self.home, self.nights)

    def plan(self, again: bool = False) -> Iterator[str]:
        """Lines that say what `go` would run, as far as it can be told before files are taken in."""
        if not self._taken_in():
            yield "ingest            every file that waits in the drop folder"
        for first, last in self._windows(again):
            yield f"warehouse         {first} to {last}, one run"
        flaws = {day: ("again", "again") if again else self._flaws(day) for day in self.nights}
        for day, (model, shelf) in flaws.items():
            if model or shelf:
                yield f"{'training, shelf' if model else 'shelf':<18}{day}"
        there = [day for day, flaw in flaws.items() if not any(flaw)]
        if there:
            yield f"already there     {in_words(there)}"

    # What was begun with --again, and when.

    @property
    def _again(self) -> Path:
        return self.picture.with_suffix(".again")

    def _begin_again(self) -> None:
        record = Record(self.instance)
        newest = [max(record.newest(key).values(), default=0) for key in (*TABLES, *MODEL, *SHELVES)]
        with replacing(self._again) as aside:
            aside.write_text(json.dumps({"since": max(newest)}), encoding="utf-8")

    def _record(self) -> Record:
        since = json.loads(self._again.read_text(encoding="utf-8"))["since"] if self._again.exists() else 0
        return Record(self.instance, since)

    # What is there.

    def _taken_in(self) -> bool:
        """Whether a run has taken in the files that lie in the drop folder now."""
        done = [dg.DagsterRunStatus.SUCCESS]
        wanted = dg.RunsFilter(job_name="ingest", tags=drop_tag(self.home), statuses=done)
        return self.instance.get_runs_count(wanted) > 0

    def _windows(self, again: bool = False) -> list[tuple[date, date]]:
        """Days that need tables: those that the first night looks back on, to the last night.

        A day's labels look back themselves, so days that follow a rebuilt one are rebuilt with it.
        """
        held = [day for day in days_of_loads(self.home) if day <= self.last]
        if not held:
            if self._taken_in():
                raise BacktestError(
                    f"There are no logs up to {self.last}. Put files into {self.home.drop}/<source>/ first."
                )
            held = [self.home.shop.first_day]
        looks_back_to = self.nights[0] - timedelta(days=self.home.shop.history_days - 1)
        wanted = days_between(max(looks_back_to, self.home.shop.first_day, min(held)), self.last)
        if again:
            return in_windows(wanted)
        record, (late, made) = self._record(), outdated_days(self.instance, self.home)
        lacking = {day for day in wanted if day in late or not record.tables_stand(day)}
        reach = timedelta(days=LABELS_LOOK_BACK)
        touched = {follower for day in lacking for follower in days_between(day, day + reach)}
        return in_windows(lacking | (touched & made))

    def _flaws(self, day: date) -> tuple[str, str]:
        """Why the model and why the shelf of a night must be made, in words; empty where they need not."""
        record = self._record()
        model = record.flaw(MODEL, day) or model_flaw(self.home, day)
        return model, record.flaw(SHELVES, day) or shelf_flaw(self.home, day)

    # Making it.

    def _make_night(self, day: date) -> None:
        model, shelf = self._flaws(day)
        if not model and not shelf:
            self._skipped.append(day)
            return
        self._tell_skipped()
        if attempts_of_night(self.instance, day).active:
            raise BacktestError(
                f"The night of {day} is under way from another hand. Watch it in: nightshelf ui. When it is "
                "done, run the same command again: it goes on from here."
            )
        why = model or shelf
        if why != NOT_MADE:
            self.say(f"The {'night' if model else 'shelf'} of {day} is made again: {why}.")
        if model:
            make_model(self.run, day, self._tag)
        make_shelf(self.run, day, self._tag)

    def _fail_lost_runs(self) -> None:
        """What an earlier backtest left unfinished: it is gone, or it would hold the lease.

        What somebody runs once more in the web UI has the tag as well, but a process that drives it.
        """
        for run in self.instance.get_runs(dg.RunsFilter(statuses=ACTIVE)):
            if BACKTEST_TAG in run.tags and not is_driven(self.home, run.run_id):
                self.instance.report_run_failed(run, GONE)
        free_slots(self.instance)

    def _tell_skipped(self) -> None:
        """Once for all nights in a row that were there."""
        if not self._skipped:
            return
        self.say(f"Already there, skipped: the nights of {in_words(self._skipped)}.")
        outdated = [day for day in self._skipped if self._tables_changed_since(day)]
        if outdated:
            self.say(
                f"  Tables that they learnt from were made again since, for {in_words(outdated)}: their "
                "figures are what was known that night. With hindsight: --again"
            )
        recipe = load_recipe(self.home.shop.recipe, self.home.root)
        otherwise = [day for day in self._skipped if trained_with(self.home, day) != asdict(recipe)]
        if otherwise:
            self.say(
                f"  The recipe was another than {self.home.shop.recipe} is now, for {in_words(otherwise)}. "
                "By this one: --again"
            )
        self._skipped = []

    def _tables_changed_since(self, day: date) -> bool:
        """Whether tables of the days that a night looks back on were made after its snapshot."""
        record = Record(self.instance)
        tables, snapshot = record.newest(LABELS), record.newest(SNAPSHOT)[day]
        looks_back_to = day - timedelta(days=self.home.shop.history_days - 1)
        return any(tables.get(known, 0) > snapshot for known in days_between(looks_back_to, day))


def history_page(found: History, width: int) -> RenderableType:
    """A row per night with NDCG@10 of the methods, their means, and the candidate's lead in words.

    Args:
        found: what is shown.
        width: characters of the terminal; where it is too narrow, of the baselines only the best is shown.
    """
    # Thirteen characters a method, so that no word of a heading is cut; 30 for night, shoppers and champion.
    narrow = 30 + 13 * len(found.methods) > width
    shown = [m for m in found.methods if not narrow or m not in found.baselines or m == found.best_baseline]
    title = f"NDCG@{K} of each night, by the shoppers of its day"
    table = Table(
        title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1), collapse_padding=True
    )
    table.add_column("night", no_wrap=True)
    table.add_column("shoppers", justify="right")
    for name in shown:
        heading = NAMES.get(name, name)
        widest = max(map(len, [*heading.split(), "0.0000"]))
        table.add_column(heading, justify="right", min_width=widest)
    table.add_column("then serves", min_width=10)
    for night in found.nights:
        serves = "★ its own" if night.promoted else f"that of {night.serves[:10]}" if night.serves else "none"
        table.add_row(str(night.day), f"{night.users:,}", *_figures(found, night, shown), Text(serves))
    means = (f"{found.means[name]:.4f}" for name in shown)
    promoted = f"★ {sum(night.promoted for night in found.nights)} of {len(found.nights)}"
    table.add_row("mean", "", *means, promoted, style="dim")
    words = list(_in_words(found))
    if len(shown) < len(found.methods):
        left_out = (NAMES.get(name, name) for name in found.methods if name not in shown)
        words.append(f"Not shown for want of width: {', '.join(left_out)}.")
    return Group(Text(), table, Text(), *map(Text, words))


def _figures(found: History, night: Night, shown: Sequence[str]) -> list[Text]:
    """NDCG@10 of each method; bold the best of those that rank by relevance for the same day."""
    known = night.ndcg | ({} if night.outcome is None else {OUTCOME: night.outcome})
    rivals = [name for name in (CANDIDATE, INCUMBENT, *found.baselines) if name in known]
    best = max((known[name] for name in rivals), default=None)
    return [
        Text(
            f"{known[name]:.4f}" if name in known else "",
            style="bold" if name in rivals and known[name] == best else "",
        )
        for name in shown
    ]


def _in_words(found: History) -> Iterator[str]:
    best = found.best_baseline
    if best is None:
        yield "No shopper came whom the models could be measured on, so they cannot be compared."
        return
    yield _lead_in_words(f"the best baseline, {NAMES.get(best, best)}", found.leads[best])
    if INCUMBENT in found.leads:
        yield _lead_in_words("the incumbent", found.leads[INCUMBENT])
    if found.partly:
        partly = ", ".join(NAMES.get(name, name) for name in found.partly)
        yield f"Not measured in every night, and so never the best: {partly}."


def _lead_in_words(over: str, lead: Lead) -> str:
    nights = "1 night" if lead.nights == 1 else f"{lead.nights} nights"
    return (
        f"This model's lead over {over}: {lead.interval}; {lead.shopper_nights:,} figures of "
        f"{lead.shoppers:,} shoppers on {nights}, 95 % bootstrap interval over shoppers."
    )
