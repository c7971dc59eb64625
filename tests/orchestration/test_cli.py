"""The command line: quick to answer, and whatever goes wrong is one message with the next step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from typer.testing import CliRunner

from orchestration.cli import app, main
from orchestration.demo import _claim
from orchestration.instance import instance_of, prepare_instance
from orchestration.nights import last_ended_day
from resources.home import Home, Shop
from resources.leases import lease_one_of
from tests.orchestration.raw import put_rows

COMMAND = Path(sys.executable).parent / "nightshelf"
DAY = date(2026, 1, 20)


def say(*words: str) -> str:
    """What a command prints that succeeds."""
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says on stderr when it does not."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return " ".join(error.split())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home that does not exist yet."""
    monkeypatch.setenv("NIGHTSHELF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    return Home(tmp_path / "home")


def test_help_answers_at_once_and_names_every_command() -> None:
    commands = ("demo", "init", "ui", "simulate", "night", "backfill", "recommend", "why", "status", "undo")
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run([str(COMMAND), "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 1.0
    for command in (*commands, "sources"):
        assert f"\n  {command} " in done.stdout


def test_init_makes_a_home_and_can_be_repeated(place: Home) -> None:
    text = say("init", "--name", "Laden", "--timezone", "Asia/Shanghai", "--first-day", "2026-01-05")
    assert "Next:" in text
    assert (place.shop.name, place.shop.timezone) == ("Laden", "Asia/Shanghai")
    before = place.shop_file.read_bytes()
    assert "stays as it is" in say("init", "--name", "Another")
    assert place.shop_file.read_bytes() == before


def test_a_wrong_time_zone_is_refused_in_words(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--timezone Europe/Berlin" in refused(capsys, "init", "--timezone", "Berlin")
    assert not place.root.exists()


def test_the_web_ui_wants_a_shop_first(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert "make demo" in refused(capsys, "ui", "--port", "0")
    assert not place.root.exists()


def test_a_simulated_shop_is_ready_to_be_run(place: Home) -> None:
    small = ("--days", "2", "--shoppers", "20", "--products", "50")
    text = say("simulate", *small)
    yesterday = last_ended_day(Shop(), datetime.now(UTC))
    assert place.shop.first_day == yesterday - timedelta(days=1)
    assert f"nightshelf backfill {place.shop.first_day} {yesterday}" in " ".join(text.split())
    assert f"nightshelf backfill {place.shop.first_day}" in say("simulate", *small)


def test_a_new_shop_begins_today(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--currency EUR" in refused(capsys, "init", "--currency", "euro")
    say("init")
    assert place.shop.first_day == datetime.now(place.shop.zone).date()
    assert "rows of days to come would be refused" in refused(capsys, "simulate")
    assert not place.drop.exists() or not any(place.drop.iterdir())


def test_status_tells_whether_the_limits_hold(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nightshelf init" in refused(capsys, "status")
    say("init", "--first-day", "2026-01-05")
    text = say("status")
    assert "limits hold: warehouse 1" in text
    assert "2026-01-12" not in text.replace("nights from 2026-01-12", "")  # without logs no night is missing
    put_rows(place, "first", [date(2026, 1, 5), date(2026, 1, 12)])
    assert "2026-01-12 to 2026-01-15" in say("status")  # later ones wait for logs
    assert "not running" in text
    assert "none published yet" in text


def test_a_broken_shop_file_is_named_with_its_field(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    place.root.mkdir()
    place.shop_file.write_text("timezone: Mars/Olympus\n")
    error = refused(capsys, "status")
    assert "shop.yaml" in error and "timezone" in error and "Correct the field" in error


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("night", "2999-01-01"), "is not over"),
        (("night", "2026-01-02"), "before the shop's first day"),
        (("night", "2026-01-06"), "nightshelf backfill 2026-01-06 2026-01-06 --tables"),
        (("backfill", "2026-01-09", "2026-01-08"), "Write the earlier day first"),
        (("backfill", "2026-01-09", "2999-01-01"), "is not over"),
        (("recommend", "u1"), "nightshelf"),
        (("undo",), "publish a night first"),
        (("why", "u1", "i1"), "nightshelf"),
    ],
)
def test_what_cannot_be_done_says_what_can(
    home: Home, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], answer: str
) -> None:
    assert answer in refused(capsys, *words)


@pytest.mark.parametrize(
    "words", [("night",), ("backfill", "2026-01-09", "2026-01-10"), ("backtest", "2026-01-09", "2026-01-10")]
)
def test_where_there_is_no_shop_yet_none_is_made_up(
    place: Home, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert "nightshelf init" in refused(capsys, *words)
    assert not place.root.exists()


def test_wrong_usage_names_the_argument() -> None:
    result = CliRunner().invoke(app, ["night", "yesterday"])
    assert result.exit_code == 2 and "yesterday" in result.output


def test_an_unforeseen_error_says_how_to_see_more(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home.drop.write_text("a file where a folder belongs")
    error = refused(capsys, "init")
    assert "NIGHTSHELF_DEBUG=1" in error
    monkeypatch.setenv("NIGHTSHELF_DEBUG", "1")
    with pytest.raises(FileExistsError):
        main(["init"])


def test_a_backfill_says_what_it_would_do(home: Home) -> None:
    lines = say("backfill", "2026-01-10", "2026-01-13", "--dry-run").splitlines()
    assert any("2026-01-10 to 2026-01-13, one run" in line for line in lines)
    assert [line.split()[-1] for line in lines if line.startswith("training")] == ["2026-01-12", "2026-01-13"]
    assert "training" not in say("backfill", "2026-01-10", "2026-01-13", "--dry-run", "--tables")
    assert not home.dagster.exists()


def test_a_night_under_way_is_not_started_again(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_instance(home)
    with instance_of(home) as instance:
        create_run_for_test(
            instance, "nightly", status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": str(DAY)}
        )
    assert "already under way" in refused(capsys, "night", str(DAY))
    assert "already under way" in refused(capsys, "backfill", str(DAY), str(DAY))


def test_a_run_that_cannot_begin_is_not_left_under_way(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "foo")
    assert "NIGHTSHELF_DEVICES='foo'" in refused(capsys, "backfill", "2026-01-09", "2026-01-09", "--tables")
    with instance_of(home) as instance:
        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize("words", [("night", str(DAY)), ("backtest", str(DAY), str(DAY))])
def test_a_recipe_that_is_not_there_is_told_before_anything_is_made(
    home: Home, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    home.write_shop(home.shop.model_copy(update={"recipe": "recipes/ours.yaml"}))
    assert "recipes/ours.yaml: no such recipe" in refused(capsys, *words)
    assert not home.dagster.exists()


def test_a_second_web_ui_of_a_home_is_refused(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with lease_one_of([home.leases / "ui.lock"]):
        assert "runs already" in refused(capsys, "ui", "--port", "0")


def test_the_demo_leaves_other_homes_alone(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(home.root.iterdir())
    assert "is in use and no demo; nothing in it was touched" in refused(
        capsys, "demo", "--home", str(home.root)
    )
    assert sorted(home.root.iterdir()) == before


def test_a_demo_made_otherwise_is_not_mixed_up(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    first = _claim(place, days=14, seed=7, nights=2)
    assert last_ended_day(Shop(), datetime.now(UTC)) - first == timedelta(days=13)
    assert _claim(place, days=14, seed=7, nights=2) == first
    assert "--seed 7" in refused(capsys, "demo", "--seed", "8")


def test_sources_are_listed_and_checked(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nightshelf_csv" in say("sources", "list")
    source = Path(__file__).parents[2] / "assets/logs/sources/nightshelf_csv.yaml"
    sample = tmp_path / "sample.csv"
    header = "event_id,event_time,user_id,session_id,item_id,behavior,price,quantity"
    sample.write_text(f"{header}\ne1,2026-01-05T10:00:00+01:00,u1,s1,i1,click,9.90,\n")
    text = say("sources", "check", str(source), str(sample))
    assert "1 rows loaded, 0 refused" in text and "k1:" in text and "u1" not in text.split()
    sample.write_text(f"{header}\ne1,yesterday,u1,s1,i1,click,9.90,\n")
    result = CliRunner().invoke(app, ["sources", "check", str(source), str(sample)])
    assert result.exit_code == 1 and "bad_time" in result.output
    home.sources.mkdir()
    (home.sources / "ours.yaml").write_text("name: ours\n")
    with pytest.raises(SystemExit):
        main(["sources", "list"])
    listed = capsys.readouterr()
    assert "rees46" in listed.out and "ours.yaml" in listed.err
    broken = tmp_path / "ours.yaml"
    broken.write_text(source.read_text().replace("behavior:", "behaviour:", 1))
    assert "ours.yaml" in refused(capsys, "sources", "check", str(broken), str(sample))


def test_it_runs_where_nothing_is_set_up(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("NIGHTSHELF", "DAGSTER"))
    }
    done = subprocess.run(
        [str(COMMAND), "status"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is not set up yet. Run: nightshelf init" in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def run_command(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), "--home", str(home.root), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_a_real_run_shows_its_steps_and_says_which_failed_and_why(home: Home) -> None:
    """Through the real job: a line of the ledger is missing, so the blocking check stops the backfill."""
    put_rows(home, "first", [date(2026, 1, 5)])
    strange = home.drop / "nightshelf_csv" / "strange.csv"
    strange.parent.mkdir(parents=True, exist_ok=True)
    strange.write_text("what,is,this\n1,2,3\n")
    (ledger,) = (file for file in home.loads.glob("*/outcome.json") if file.parent.name != "_schema")
    ledger.write_text(json.dumps(json.loads(ledger.read_text()) | {"lines": 3}))
    done = run_command(home, "backfill", "2026-01-05", "2026-01-05", "--tables")
    told = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert "done   ingest_outcomes" in done.stdout
    assert "failed ingest_outcomes_accounting_adds_up" in done.stdout
    assert "The tables of" not in done.stdout
    assert "check   refused_share" in done.stdout and "strange.csv" in done.stdout
    assert (
        "Taking in files failed in run" in told and "accounting_adds_up" in told and "nightshelf ui" in told
    )
    assert "Traceback" not in told and "DEBUG" not in done.stdout + told
    assert "STEP_WORKER_STARTED" in (home.dagster / "command.log").read_text()
