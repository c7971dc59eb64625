"""Killed anywhere: at every named point, a plain second run gives what an undisturbed one gives.

In a copy of a home, a stage runs in a process that dies at the point: by SIGKILL, by an exception, or as on
a full disk. Then the stage runs again. The home then holds what it holds after a run that nobody disturbed,
file for file (tables by an order-free hash of their rows), and nothing else. Somebody reads the published
file all the time, and sees the old shelf or the new one, whole.
"""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from resources.crash import VARIABLE, CrashPointError, crash_point
from resources.home import Home
from tests.reliability.crash_homes import (
    ENVIRONMENT,
    ROOT,
    Homes,
    Readers,
    drive,
    holdings,
    run,
    stage_of,
)
from tests.warehouse.raw_rows import fingerprints

POINTS = {
    "first ingest": ["ingest.schema_written", "ingest.schema_in_place"],
    "ingest": [
        "ingest.identified",
        "ingest.work_folder_made",
        "ingest.work_folder_made#3",
        "ingest.copied",
        "reader.started",
        "reader.block_parsed",
        "reader.block_written",
        "reader.all_written",
        "ingest.reader_done",
        "ingest.refusal_written",
        "ingest.rows_written",
        "ingest.outcome_written",
        "ingest.load_in_place",
        "ingest.load_in_place#2",
        "ingest.duplicate_written",
        "ingest.duplicate_in_place",
        "ingest.all_taken_in",
        "ingest.cache_written",
        "ingest.remembered",
    ],
    "ingest with its source": ["ingest.refused_load_moved", "ingest.refused_load_replaced"],
    "manifest": ["manifest.parsed", "manifest.in_place"],
    "dbt": [
        "dbt.begun",
        "dbt.leased",
        "dbt.started",
        "dbt.ended",
        "dbt.rows_counted",
        "dbt.columns_known",
        "dbt.reported",
    ],
    "snapshot": [
        "snapshot.begun",
        "snapshot.rows_written",
        "snapshot.rows_written#3",
        "snapshot.tables_written",
        "snapshot.manifest_written",
        "snapshot.in_place",
        "snapshot.pointer_written",
    ],
    "damaged snapshot": ["snapshot.damaged_moved"],
    "train": [
        "bundle.staged",
        "bundle.device_leased",
        "bundle.worker_started",
        "train.started",
        "train.step",
        "train.step#3",
        "train.encoder_written",
        "train.head_written",
        "train.config_written",
        "train.figures_written",
        "vectors.written",
        "vectors.in_place",
        "train.sequence_dev_written",
        "train.written",
        "train.in_place",
        "bundle.trained",
        "bundle.vectors_written",
        "bundle.recommender_written",
        "bundle.card_written",
        "seal.manifest_written",
        "seal.in_place",
        "store.record_written",
        "bundle.sealed",
    ],
    "damaged bundle": ["seal.damaged_moved"],
    "evaluate": [
        "evaluate.measured",
        "evaluate.shoppers_written",
        "evaluate.shoppers_in_place",
        "evaluate.figures_written",
        "evaluate.in_place",
    ],
    "promote": ["promote.judged", "promote.decided", "store.record_written", "promote.recorded"],
    "score": [
        "score.scored",
        "score.table_written",
        "score.table_written#2",
        "score.manifest_written",
        "score.in_place",
    ],
    "score again": ["score.old_moved", "score.in_place"],
    "outcomes": ["outcomes.judged", "outcomes.written", "outcomes.in_place"],
    "publish": [
        "publish.tables_written",
        "publish.built",
        "publish.audited",
        "publish.read_only",
        "publish.kept",
        "publish.linked",
        "publish.shown",
        "publish.before_pruning",
        "publish.pruned",
        "publish.pruned#2",
    ],
    "publish again": ["publish.kept", "publish.linked", "publish.shown"],
    "undo": ["undo.chosen", "publish.linked", "publish.shown", "undo.shown"],
    "little rollback": ["rollback.chosen", "store.record_written", "rollback.recorded"],
    # The same through Dagster, whole nights of it.
    "night": [
        "snapshot.in_place",
        "train.in_place",
        "seal.in_place",
        "score.manifest_written",
        "publish.linked",
    ],
}
"""Case → the points that it passes, `#3` for the third passing."""

WAYS = ("kill", "error", "full")
MATRIX = [(case, point, way) for case, points in POINTS.items() for point in points for way in WAYS]
SAMPLE = [
    ("first ingest", "reader.block_written", "kill"),
    ("first ingest", "ingest.outcome_written", "full"),
    ("ingest with its source", "ingest.refused_load_moved", "kill"),
    ("little night", "snapshot.in_place", "kill"),
    ("little publish", "publish.kept", "error"),
    ("little publish", "publish.linked", "kill"),
    ("little rollback", "store.record_written", "kill"),
]
"""Where a half-done state differs most from none, of what is quick."""

SIGNS = {
    "kill": ("was ended by SIGKILL", "status -9"),
    "error": ("CrashPointError", "the reader ended with code 1"),
    "full": (os.strerror(28), "the disk is full"),
}
"""What tells of a death in a child process or in a step, beside the exit status."""


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    return Homes(tmp_path_factory.mktemp("crash"))


COLUMNS = ("stage", "point", "how", "ended", "second run", "orphans", "reads")
Row = dict[str, str]


class Report:
    """The table of deaths, shown at the end; NIGHTSHELF_CRASH_TABLE may name a file that grows with it."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.head = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"

    @contextmanager
    def row(self, stage: str, point: str, how: str) -> Iterator[Row]:
        row = {"stage": stage, "point": point, "how": how, "second run": "NOT EQUAL"}
        try:
            yield row
            row["second run"] = "equal"
        finally:
            self.rows.append(row)
            self._write(*([] if len(self.rows) > 1 else [self.head]), self.line(row))

    def line(self, row: Row) -> str:
        return f"| {' | '.join(row.get(name, '-') for name in COLUMNS)} |"

    @property
    def sum(self) -> str:
        good = sum(row["second run"] == "equal" for row in self.rows)
        reads = sum(int(row.get("reads", 0)) for row in self.rows)
        points = len({row["point"].split("#")[0] for row in self.rows})
        return f"{points} points, {len(self.rows)} deaths, {good} made good by a second run, {reads:,} reads"

    def finish(self, show: Callable[[str], None]) -> None:
        self._write("", self.sum)
        show("\n".join(["", self.head, *map(self.line, self.rows), "", self.sum]))

    def _write(self, *lines: str) -> None:
        if file := os.environ.get("NIGHTSHELF_CRASH_TABLE"):
            with Path(file).open("a", encoding="utf-8") as stream:
                stream.writelines(f"{line}\n" for line in lines)


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    report = Report()
    yield report
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and len(report.rows) > len(SAMPLE):
        report.finish(reporter.write_line)


def die_and_run_again(homes: Homes, report: Report, to: Path, case: str, point: str, way: str) -> None:
    home, day = homes.copy(case, to / "home"), homes.day(case)
    wanted = homes.after(case)[2]
    allowed = {shelf_of(homes.before(case)[0]), shelf_of(homes.after(case)[0])}
    with report.row(case, point, way) as row:
        with Readers(home) as readers:
            done = drive(stage_of(case), home, day, f"{point}:{way}")
            row["ended"] = ended(done, way)
            assert row["ended"], f"{point} was never reached: {done.stdout[-2000:]}{done.stderr[-4000:]}"
            run(case, home, day)
        found = holdings(home)
        orphans = sorted(found.keys() - wanted.keys())
        row |= {"orphans": str(len(orphans)), "reads": str(readers.reads)}
        assert not orphans
        assert found == wanted
        assert not readers.errors
        assert readers.seen <= allowed
    shutil.rmtree(home.root)


def shelf_of(home: Home) -> str:
    return str(fingerprints(home.published)) if home.published.exists() else ""


def ended(done: subprocess.CompletedProcess[str], way: str) -> str:
    """How the process died at the point, or the child that did; empty where neither did."""
    if way == "kill" and done.returncode == -signal.SIGKILL:
        return "SIGKILL"
    said = done.stdout + done.stderr
    if any(sign in said for sign in SIGNS[way]):
        return {"kill": "child SIGKILL", "error": "exception", "full": "disk full"}[way]
    return ""


@pytest.mark.parametrize(("case", "point", "way"), SAMPLE, ids=str)
def test_a_sample_of_deaths_is_made_good_by_a_second_run(
    homes: Homes, report: Report, tmp_path: Path, case: str, point: str, way: str
) -> None:
    die_and_run_again(homes, report, tmp_path, case, point, way)


@pytest.mark.crash
@pytest.mark.parametrize(("case", "point", "way"), MATRIX, ids=str)
def test_every_death_is_made_good_by_a_second_run(
    homes: Homes, report: Report, tmp_path: Path, case: str, point: str, way: str
) -> None:
    die_and_run_again(homes, report, tmp_path, case, point, way)


@pytest.mark.crash
@pytest.mark.parametrize("moment", [0.0, 0.7, 1.5, 3.0])
def test_dbt_itself_is_killed_while_it_writes(
    homes: Homes, report: Report, tmp_path: Path, moment: float
) -> None:
    """Some of its tables are the new ones by then, others the old ones."""
    home, day = homes.copy("dbt", tmp_path / "home"), homes.day("dbt")
    with report.row("dbt", f"{moment} s after its first write", "kill") as row:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.crash_driver", "dbt", str(home.root), str(day)],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT, "NIGHTSHELF_HOME": str(home.root)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        dbt = writing_dbt(process, home)
        time.sleep(moment)
        dbt.kill()
        _, said = process.communicate(timeout=120)
        assert process.returncode != 0 and "-9" in said
        row["ended"] = "child SIGKILL"
        run("dbt", home, day)
        assert holdings(home) == homes.after("dbt")[2]
        row["orphans"] = "0"


def writing_dbt(process: subprocess.Popen[str], home: Home) -> psutil.Process:
    """The dbt that a process has started, as soon as it has written to the warehouse."""
    files = (home.warehouse, home.warehouse.with_name("warehouse.duckdb.wal"))
    before = [_written(file) for file in files]
    dbt = None
    while dbt is None or before == [_written(file) for file in files]:
        assert process.poll() is None, process.stderr and process.stderr.read()
        children = psutil.Process(process.pid).children(recursive=True)
        dbt = next((child for child in children if "build" in child.cmdline()), None)
        time.sleep(0.02)
    return dbt


def _written(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def names_in_the_source() -> list[str]:
    found = []
    for room in ("assets", "resources", "orchestration"):
        for file in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("crash_point"):
                    (name,) = node.args
                    assert isinstance(name, ast.Constant), f"{file}: {ast.unparse(node)} has no literal name"
                    found.append(name.value)
    return found


def test_no_point_is_missing_in_the_matrix_and_each_has_a_name_of_its_own() -> None:
    names = names_in_the_source()
    assert len(names) >= 60
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert {point.split("#")[0] for points in POINTS.values() for point in points} == set(names)
    assert {point for _, point, _ in SAMPLE} <= set(names)


def test_a_point_dies_as_it_is_told_and_else_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    crash_point("here")
    monkeypatch.setenv(VARIABLE, "there:error")
    crash_point("here")
    with pytest.raises(CrashPointError, match="there"):
        crash_point("there")
    monkeypatch.setenv(VARIABLE, "third#3:full")
    crash_point("third")
    crash_point("third")
    with pytest.raises(OSError, match=f"{os.strerror(28)}.*third"):
        crash_point("third")
    monkeypatch.setenv(VARIABLE, "here:softly")
    with pytest.raises(ValueError, match="write kill, error or full"):
        crash_point("here")
    killed = subprocess.run(
        [sys.executable, "-c", "from resources.crash import crash_point; crash_point('x'); print('alive')"],
        cwd=ROOT,
        env={**os.environ, VARIABLE: "x"},
        capture_output=True,
        check=False,
    )
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, b"")
