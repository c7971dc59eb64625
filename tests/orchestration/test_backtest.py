"""A rolling backtest: what is missing is made, what is there is skipped, and no night knows a later day."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.events import StepMaterializationData
from dagster._core.test_utils import create_run_for_test
from rich.console import Console
from typer.testing import CliRunner

from assets.logs.raw_zone import day_versions, outcomes
from assets.model.evaluation import CANDIDATE, INCUMBENT, SHELF, Evaluation, paired_bootstrap
from assets.model.promotion import evaluations
from assets.model.recipe import load_recipe
from assets.model.snapshot import snapshot_of, write_snapshot
from assets.recommendations.history import OUTCOME, History, history, pooled_bootstrap, write_history
from assets.recommendations.outcomes import OUTCOMES
from assets.recommendations.scoring import Scores
from assets.recommendations.shelf import shelves
from orchestration.backtest import (
    BACKTEST_TAG,
    MODEL,
    SHELVES,
    SNAPSHOT,
    TABLES,
    Backtest,
    BacktestError,
    history_page,
)
from orchestration.cli import NextStepError, app
from orchestration.launcher import driver_lease
from orchestration.nights import EVENTS, days_between
from resources.home import Home, Shop
from resources.model_store import ModelStore
from resources.warehouse import Warehouse
from tests.model.worlds import FIRST, World, random_world
from tests.orchestration.raw import put_rows
from tests.orchestration.shops import LAST, nightshelf
from tests.recommendations.homes import Marts, as_of

DAYS = 9
WORLD = random_world(3, days=DAYS, events=600)
WORLD.events.sort(key=lambda event: event.day)  # so that later ones do not change what the earlier are called
D1, D2, D3 = (FIRST + timedelta(days=n) for n in (6, 7, 8))
"""The nights."""
SHOP = Shop(first_day=FIRST, first_night=D1, shelf_size=5)
TABLES_OF_ALL = f"The tables of {FIRST} to {D3}"


class KilledError(Exception):
    """What stands for the end of the process."""


class Jobs:
    """Stands in for the real jobs: each leaves the files and the record that a run of it leaves.

    Snapshots are real, of a small world. Models are a few words, and their figures are drawn at random from a
    generator that the snapshot seeds: another snapshot, other figures.
    """

    def __init__(self, home: Home, instance: dg.DagsterInstance, world: World = WORLD) -> None:
        self.home, self.instance, self.world = home, instance, world
        self.done: list[str] = []
        self.said: list[str] = []
        self.killed_in = ""
        """Run that gets no further than its first step, e.g. `The model of 2026-01-12`."""
        self.recipe = "first"

    def __call__(self, job: str, tags: dict[str, str], what: str) -> None:
        run = create_run_for_test(self.instance, job, status=dg.DagsterRunStatus.STARTED, tags=tags)
        self.done.append(what)
        first = tags.get("dagster/partition") or tags.get("dagster/asset_partition_range_start", str(FIRST))
        last = tags.get("dagster/asset_partition_range_end", first)
        for day in days_between(date.fromisoformat(first), date.fromisoformat(last)):
            for key, make in self._steps(job):
                make(day)
                self._report(run, key, day)
                if what == self.killed_in:
                    raise KilledError
        self._end(run)

    def _steps(self, job: str) -> list[tuple[dg.AssetKey, Callable[[date], object]]]:
        def nothing(day: date) -> None: ...

        _, model, evaluation, champion = MODEL
        _, scored, shelf = SHELVES
        return {
            "ingest": [],
            "warehouse": [(key, nothing) for key in (EVENTS, *TABLES)],
            "training": [
                (SNAPSHOT, lambda day: write_snapshot(Marts(self.world), day, 28, self.home.snapshots)),
                (model, self._train),
                (evaluation, self._evaluate),
                (champion, self._promote),
            ],
            "recommendations": [(scored, self._score), (shelf, self._judge)],
        }[job]

    def _train(self, day: date) -> None:
        store = ModelStore(self.home)
        with store.stage() as folder:
            known = f"{self.recipe} recipe on {snapshot_of(self.home, day).id}"
            (folder / "model.json").write_text(json.dumps(known))
            recipe = asdict(load_recipe(self.home.shop.recipe))
            (folder / "config.json").write_text(json.dumps({"recipe": recipe}))
            store.seal(folder, day)

    def _evaluate(self, day: date) -> None:
        store, snapshot = ModelStore(self.home), snapshot_of(self.home, day)
        before = store.champion_before(day)
        came = pc.unique(snapshot.table("events").filter(pc.field("day") == day)["user_key"]).sort()
        random = np.random.default_rng(int(snapshot.id, 16))
        level = {"popularity": 0.1, "revisit": 0.3, "co_visitation": 0.3, CANDIDATE: 0.4}
        level |= {INCUMBENT: 0.35} if before else {}
        ndcg = {name: np.clip(random.normal(at, 0.1, len(came)), 0, 1) for name, at in level.items()}
        Evaluation(
            day=day,
            candidate=store.candidate(day),
            incumbent=before.version if before else None,
            users=len(came),
            methods={name: {"ndcg@10": float(of.mean())} for name, of in ndcg.items()}
            | {SHELF: {"ndcg@10": 0.38}},
            comparisons={},
            calibration={},
            per_user=pa.table({"user_key": came, **ndcg}),
        ).write(evaluations(self.home))

    def _promote(self, day: date) -> None:
        """All but the second night's."""
        store = ModelStore(self.home)
        store.promote(day, store.candidate(day), day != D2, ["As it happens."])

    def _score(self, day: date) -> None:
        champion = ModelStore(self.home).champion(day)
        assert champion
        folder = self.home.scores / str(day)
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {"day": str(day), "model_version": champion.version}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    def _judge(self, day: date) -> None:
        """What became of the shelf of the day before."""
        eve = day - timedelta(days=1)
        if (self.home.scores / str(eve)).exists():
            shelf = {"shelf_day": eve, "model_version": Scores.of(self.home, eve).manifest["model_version"]}
            row = {"day": day, **shelf, "users_with_shelf": 9, "ndcg_at_10": 0.37}
            self.home.outcomes.mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist([row], OUTCOMES), self.home.outcomes / f"{day}.parquet")

    def _report(self, run: dg.DagsterRun, key: dg.AssetKey, day: date) -> None:
        version = {DATA_VERSION_TAG: day_versions(self.home, [day])[day]} if key == EVENTS else None
        made = dg.AssetMaterialization(key, partition=day.isoformat(), tags=version)
        event = dg.DagsterEvent(
            event_type_value="ASSET_MATERIALIZATION",
            job_name=run.job_name,
            event_specific_data=StepMaterializationData(made),
        )
        self.instance.report_dagster_event(event, run.run_id)

    def _end(self, run: dg.DagsterRun) -> None:
        success = dg.DagsterEvent(event_type_value="PIPELINE_SUCCESS", job_name=run.job_name)
        self.instance.report_dagster_event(success, run.run_id)

    def backtest(self, first: date = D1, last: date = D3) -> Backtest:
        self.done, self.said, self.killed_in = [], [], ""
        return Backtest(self.home, self.instance, first, last, run=self, say=self.said.append)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """In memory: the record's questions are the same, and a test writes some hundred events."""
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def shop_of_worlds(home: Home) -> Home:
    """Nine days with rows; the last three have a night."""
    home.write_shop(SHOP)
    put_rows(home, "first", days_between(FIRST, D3))
    return home


@pytest.fixture
def jobs(shop_of_worlds: Home, instance: dg.DagsterInstance) -> Jobs:
    return Jobs(shop_of_worlds, instance)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, History]:
    """A home after its backtest, and the figures that came of it."""
    home = Home(tmp_path_factory.mktemp("finished") / "home")
    home.write_shop(SHOP)
    put_rows(home, "first", days_between(FIRST, D3))
    with dg.DagsterInstance.ephemeral() as instance:
        return home, Jobs(home, instance).backtest().go()


def night(*days: date) -> list[str]:
    return [f"The {what} of {day}" for day in days for what in ("model", "shelf")]


def figures(home: Home, day: date) -> dict:
    return json.loads((evaluations(home) / f"{day}.json").read_text())


# What runs, and what does not ------------------------------------------------------------------------------


def test_nights_are_made_oldest_first_and_then_they_are_there(jobs: Jobs) -> None:
    plan = list(jobs.backtest().plan())
    found = jobs.backtest().go()
    assert jobs.done == ["Taking in files", TABLES_OF_ALL, *night(D1, D2, D3)]
    assert [line.split()[0] for line in plan] == ["ingest", "warehouse", *["training,"] * 3]
    assert [n.day for n in found.nights] == [D1, D2, D3]
    test = jobs.backtest()
    assert test.go() == found and jobs.done == []
    assert jobs.said == [f"Already there, skipped: the nights of {D1} to {D3}."]
    assert list(test.plan()) == [f"already there     {D1} to {D3}"]
    assert list(test.plan(again=True)) == plan[1:]


def test_nights_by_another_recipe_are_told(jobs: Jobs) -> None:
    jobs.backtest(last=D2).go()
    jobs.home.write_shop(jobs.home.shop.model_copy(update={"recipe": "brief"}))
    jobs.backtest().go()
    assert jobs.done[-2:] == night(D3) and len(jobs.done) == 3
    assert jobs.said[1] == (
        f"  The recipe was another than brief is now, for {D1} to {D2}. By this one: --again"
    )
    jobs.backtest(first=D3).go()
    assert jobs.said == [f"Already there, skipped: the nights of {D3}."]


@pytest.mark.parametrize(
    ("killed_in", "still"),
    [
        (TABLES_OF_ALL, [TABLES_OF_ALL, *night(D1, D2, D3)]),
        (f"The model of {D2}", night(D2, D3)),
        (f"The shelf of {D2}", [f"The shelf of {D2}", *night(D3)]),
    ],
)
def test_cut_short_it_goes_on_where_it_stopped(jobs: Jobs, killed_in: str, still: list[str]) -> None:
    test = jobs.backtest()
    jobs.killed_in = killed_in
    with pytest.raises(KilledError):
        test.go()
    jobs.backtest().go()
    assert jobs.done == still
    skipped = [text for text in jobs.said if "skipped" in text]
    assert skipped == ([] if night(D1)[0] in still else [f"Already there, skipped: the nights of {D1}."])


def test_what_somebody_runs_again_in_the_web_ui_is_not_given_up(jobs: Jobs) -> None:
    tags = {BACKTEST_TAG: f"{D1} to {D3}", "dagster/partition": str(D3 + timedelta(days=1))}
    run = create_run_for_test(jobs.instance, "training", status=dg.DagsterRunStatus.STARTED, tags=tags)
    with driver_lease(jobs.home, run.run_id):
        jobs.backtest().go()
        assert jobs.instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.STARTED
    jobs.backtest().go()
    assert jobs.instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE


def test_a_night_is_there_only_if_what_served_before_it_is_what_it_was_compared_with(jobs: Jobs) -> None:
    jobs.backtest().go()
    jobs.recipe = "second"
    for job in ("training", "recommendations"):
        jobs(job, {"dagster/partition": str(D1)}, f"by hand: {job}")
    before, now = figures(jobs.home, D2)["incumbent"], ModelStore(jobs.home).candidate(D1)
    assert before != now
    jobs.backtest().go()
    assert jobs.done == night(D2, D3)
    assert jobs.said[0] == f"Already there, skipped: the nights of {D1}."
    assert (
        f"The night of {D2} is made again: its evaluation compares with {before}, before it now serves"
        in jobs.said[1]
    )
    assert figures(jobs.home, D2)["incumbent"] == now


def test_a_night_whose_run_failed_or_whose_parts_are_of_two_makings_is_made_again(jobs: Jobs) -> None:
    jobs.backtest().go()
    jobs.killed_in = "by hand"  # the snapshot of D3 is newer than its model now
    with pytest.raises(KilledError):
        jobs("training", {"dagster/partition": str(D3)}, "by hand")
    (run,) = jobs.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    with pytest.raises(BacktestError, match=f"The night of {D3} is under way"):
        jobs.backtest().go()
    jobs.instance.report_run_failed(run)
    jobs.backtest().go()
    assert jobs.done == night(D3)
    assert "its fine_tuned_model is older than its training_snapshot" in jobs.said[1]


def test_late_rows_make_tables_again_but_no_night_knows_them(jobs: Jobs) -> None:
    jobs.backtest().go()
    put_rows(jobs.home, "late", [D1])
    jobs.backtest().go()
    assert jobs.done == ["Taking in files", f"The tables of {D1} to {D3}"]
    assert "With hindsight: --again" in jobs.said[1]
    jobs.backtest().go(again=True)
    assert jobs.done == [TABLES_OF_ALL, *night(D1, D2, D3)]
    jobs.backtest().go()
    assert jobs.done == [] and len(jobs.said) == 1


def test_again_that_was_cut_short_goes_on(jobs: Jobs) -> None:
    jobs.backtest().go()
    test = jobs.backtest()
    jobs.killed_in = f"The shelf of {D2}"
    with pytest.raises(KilledError):
        test.go(again=True)
    assert jobs.done == [TABLES_OF_ALL, *night(D1, D2)]
    jobs.backtest().go()
    assert jobs.done == [f"The shelf of {D2}", *night(D3)]
    assert jobs.said[0] == "--again was cut short; going on with it."
    jobs.backtest().go()
    assert jobs.done == [] and len(jobs.said) == 1


def test_what_cannot_be_tested_is_said(shop_of_worlds: Home, instance: dg.DagsterInstance) -> None:
    with pytest.raises(BacktestError, match=f"before the first night \\({D1}\\)"):
        Jobs(shop_of_worlds, instance).backtest(FIRST, D1 - timedelta(days=1))
    shutil.rmtree(shop_of_worlds.loads)
    with pytest.raises(BacktestError, match="There are no logs"):
        Jobs(shop_of_worlds, instance).backtest().go()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("2026-01-15", "2026-01-14"), "Write the earlier day first"),
        (("2026-01-14", "2999-01-01"), "is not over"),
        (("2026-01-14", "2026-01-15", "--out", "picture.jpg"), "Name the picture like"),
        (("2026-01-08", "2026-01-09"), "before the first night"),
    ],
)
def test_the_command_says_what_to_do_instead(home: Home, words: tuple[str, ...], answer: str) -> None:
    with pytest.raises((NextStepError, BacktestError), match=answer):
        CliRunner().invoke(app, ["backtest", *words, "--dry-run"], catch_exceptions=False)


# What it is worth, and what it leaves alone ----------------------------------------------------------------


def test_later_days_change_nothing_in_an_earlier_night(home: Home, instance: dg.DagsterInstance) -> None:
    home.write_shop(SHOP)
    put_rows(home, "first", days_between(FIRST, D1))
    jobs = Jobs(home, instance, as_of(WORLD, 7))
    jobs.backtest(D1, D1).go()
    then, snapshot = figures(home, D1), snapshot_of(home, D1).id
    per_user = Evaluation.load(evaluations(home), D1).per_user
    put_rows(home, "later", days_between(D2, D3))
    jobs.world = WORLD
    jobs.backtest(D1, D3).go(again=True)
    assert jobs.done == ["Taking in files", TABLES_OF_ALL, *night(D1, D2, D3)]
    assert figures(home, D1) == then and snapshot_of(home, D1).id == snapshot
    assert Evaluation.load(evaluations(home), D1).per_user.equals(per_user)


def test_past_nights_leave_what_serves_today_alone(jobs: Jobs) -> None:
    store = ModelStore(jobs.home)
    jobs.backtest(D3, D3).go()
    champion = store.champion()
    jobs.backtest(D1, D2).go()
    assert jobs.done == night(D1, D2)
    assert store.champion() == champion


# The figures -----------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_evaluations_and_outcomes(finished: tuple[Home, History]) -> None:
    home, found = finished
    measured = [Evaluation.load(evaluations(home), day) for day in (D1, D2, D3)]
    for one, evaluation in zip(found.nights, measured, strict=True):
        assert one.ndcg == {name: m["ndcg@10"] for name, m in evaluation.methods.items()}
        assert (one.candidate, one.incumbent) == (evaluation.candidate, evaluation.incumbent)
    assert found.methods[:2] == [CANDIDATE, INCUMBENT] and found.methods[-2:] == [SHELF, OUTCOME]
    assert set(found.baselines) == {"popularity", "revisit", "co_visitation"}
    # The night's shelf, by the day after: the last one's is not known yet.
    assert [one.outcome is None for one in found.nights] == [False, False, True]
    assert [day for day, _ in found.points(OUTCOME)] == [D2, D3]
    pooled = pa.concat_tables(
        [e.per_user.select(["user_key", CANDIDATE, *found.baselines]) for e in measured]
    )
    best = max(found.baselines, key=lambda name: pc.mean(pooled[name]).as_py())
    lead = found.leads[best]
    assert found.best_baseline == best
    assert lead.interval.mean == pytest.approx(
        np.mean(pooled[CANDIDATE].to_numpy() - pooled[best].to_numpy())
    )
    assert lead.interval.low <= lead.interval.mean <= lead.interval.high
    assert (lead.nights, lead.shopper_nights) == (3, pooled.num_rows)
    assert lead.shoppers == len(pc.unique(pooled["user_key"]))
    assert found.leads[INCUMBENT].nights == 2  # before the first night nothing served
    assert [one.promoted for one in found.nights] == [True, False, True]
    assert [one.serves for one in found.nights] == [
        one.candidate for one in (measured[0], measured[0], measured[2])
    ]
    assert SHELF not in found.leads and OUTCOME not in found.leads


def test_methods_come_and_go_and_some_nights_measure_nobody(
    finished: tuple[Home, History], tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(finished[0].root, home.root)
    folder = evaluations(home)
    one, two = (Evaluation.load(folder, day) for day in (D1, D2))
    perfect = one.per_user.append_column("ease", pa.array(np.ones(one.users)))
    replace(one, methods=one.methods | {"ease": {"ndcg@10": 1.0}}, per_user=perfect).write(folder)
    replace(two, users=0, per_user=two.per_user.slice(0, 0)).write(folder)
    found = history(home, [D1, D2, D3])
    assert found.partly == ["ease"] and found.best_baseline in ("revisit", "co_visitation")
    assert found.nights[1].ndcg == {} and found.leads[found.best_baseline].nights == 2
    assert len(found.points(CANDIDATE)) == 2
    text = told(found)
    assert "Not measured in every night, and so never the best: EASE." in text and str(D2) in text


def told(found: History, width: int = 160) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(history_page(found, width))
    return capture.get()


def test_it_is_shown_as_a_table_a_picture_and_a_file(finished: tuple[Home, History], tmp_path: Path) -> None:
    _, found = finished
    text = told(found)
    for one in found.nights:
        (row,) = (line for line in text.splitlines() if line.startswith(str(one.day)))
        assert f"{one.ndcg[CANDIDATE]:.4f}" in row and ("★" in row) == one.promoted
        assert one.day.isoformat() in told(found, 80) and "★" in told(found, 80)
    assert "This model's lead over the best baseline" in text and "for want of width" in told(found, 80)
    picture = tmp_path / "backtest" / "picture.png"
    kept = json.loads(write_history(found, picture).read_text())
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [one["ndcg"] for one in kept["nights"]] == [one.ndcg for one in found.nights]
    assert (
        kept["leads"][kept["best_baseline"]]["interval"]["mean"]
        == found.leads[found.best_baseline].interval.mean
    )
    assert sorted(file.name for file in picture.parent.iterdir()) == ["picture.json", "picture.png"]


def test_the_pooled_interval_takes_a_shopper_as_one_observation() -> None:
    difference = np.random.default_rng(1).normal(0.1, 1.0, 400)
    once = pooled_bootstrap(difference, np.arange(400))
    assert once == paired_bootstrap(difference)
    # The same shoppers on nine nights, each night alike: no more is known than after one.
    nine = pooled_bootstrap(np.tile(difference, 9), np.tile(np.arange(400), 9))
    assert (nine.low, nine.high) == pytest.approx((once.low, once.high))


# The real thing --------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_from_the_command_line_on_real_logs(shop: Home, tmp_path: Path) -> None:
    """The last day was backfilled. The night before it is made while the rows of the last day lie there, and
    knows as much as in a warehouse that has never seen them."""
    text = nightshelf(shop, "backtest", str(LAST), str(LAST), "--out", str(tmp_path / "last.png"))
    assert text.startswith(f"Already there, skipped: the nights of {LAST}.") and "done" not in text
    home, eve = Home(tmp_path / "home"), LAST - timedelta(days=1)
    subprocess.run(["cp", "-a", shop.root, home.root], check=True)  # published file and shelf stay one
    home.write_shop(home.shop.model_copy(update={"first_night": eve}))
    text = nightshelf(home, "backtest", str(eve), str(eve))
    assert text.startswith(f"The model of {eve}")  # files and tables are there, in the copy too
    picture = home.root / "backtest" / f"{eve}_{eve}.png"
    (one,) = json.loads(picture.with_suffix(".json").read_text())["nights"]
    assert picture.exists() and one["day"] == str(eve) and one["promoted"] and one["users"] > 20
    assert [(kept.day, kept.current) for kept in shelves(home)] == [(LAST, True), (eve, False)]
    assert ModelStore(home).champion() == ModelStore(shop).champion()
    never_seen = without_days_after(eve, home, Home(tmp_path / "never-seen"))
    again = write_snapshot(Warehouse(never_seen), eve, home.shop.history_days, never_seen.snapshots)
    assert snapshot_of(home, eve).id == again.id


def without_days_after(last: date, home: Home, copy: Home) -> Home:
    """A copy of the home's warehouse without rows of later days, and without the last day's catalogue."""
    copy.root.mkdir()
    shutil.copy(home.warehouse, copy.warehouse)
    (newest,) = (one.load_id for one in outcomes(home) if one.file.endswith(f"catalogue-{LAST}.csv"))
    products = f"read_parquet('{home.loads}/*/products.parquet') WHERE load_id <> '{newest}'"
    with duckdb.connect(str(copy.warehouse)) as connection:
        gone = 0
        for (table,) in connection.execute(TABLES_WITH_DAYS).fetchall():
            gone += connection.execute(f"DELETE FROM {table} WHERE day > ?", [last]).fetchone()[0]
        connection.execute(f"CREATE OR REPLACE VIEW raw.products AS SELECT * FROM {products}")
    assert gone > 100
    return copy


TABLES_WITH_DAYS = """
SELECT schema_name || '.' || table_name FROM duckdb_tables()
WHERE NOT internal AND table_name IN (SELECT table_name FROM duckdb_columns() WHERE column_name = 'day')
"""
