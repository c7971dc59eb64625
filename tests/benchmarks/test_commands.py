"""What the command lines of the benchmarks say where they are given something wrong."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import ablation

LOG = ("--interactions", "log.csv", "--split", "temporal", "--out", "a.json")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ablation", (*LOG, "--minutes", "-1"), "--minutes: '-1' is no number of minutes above 0"),
        ("ablation", (*LOG, "--minutes", "soon"), "--minutes: 'soon' is no number of minutes above 0"),
        ("ablation", (*LOG, "--users", "0"), "--users: '0' is no whole number of at least 1"),
        ("quality", (*LOG, "--max-users", "all"), "--max-users: 'all' is no whole number of at least 1"),
        ("scoring", ("--items", "0"), "--items: '0' is no whole number of at least 100"),
        ("scoring", ("--shops", "1000,abc"), "--shops: 'abc' is no whole number of at least 100"),
        ("scoring", ("--rounds", "0"), "--rounds: '0' is no whole number of at least 1"),
        ("scoring", ("--texts", "-1"), "--texts: '-1' is no whole number of at least 0"),
        ("training", ("--recipe", "nosuch"), "nosuch: no such recipe. Write one of"),
        ("training", ("--examples", "0"), "--examples: '0' is no whole number of at least 1"),
        ("training", ("--rounds", "0"), "--rounds: '0' is no whole number of at least 1"),
        ("warehouse", ("--events", "few"), "--events: 'few' is no whole number of at least"),
        ("orchestration", ("--days", "0"), "--days: '0' is no whole number of at least 1"),
    ],
)
def test_a_wrong_option_is_named(
    capsys: pytest.CaptureFixture[str], name: str, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        import_module(f"benchmarks.{name}").main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file. Name a Parquet or CSV file"),
        ("user,item\n1,2\n", "no column user_id"),
        ("user_id,item_id,timestamp\n1,2,3\n", "all timestamps are equal"),
    ],
)
def test_an_ablation_says_what_is_wrong_with_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    log, out = tmp_path / "log.csv", tmp_path / "a.json"
    if content:
        log.write_text(content)
    assert ablation.main(["--interactions", str(log), "--split", "temporal", "--out", str(out)]) == 2
    assert message in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [(["--help"], 0, "nightshelf_ingest"), ([], 2, "NAME"), (["nosuch", "."], 2, "invalid choice: 'nosuch'")],
)
def test_rivals_say_how_they_are_called(arguments: list[str], status: int, message: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.rivals", *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == status and message in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
