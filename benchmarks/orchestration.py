"""What orchestration costs beside the work itself.

python -m benchmarks.orchestration --out report.json

Four parts, each in a home of its own that is gone afterwards: how long the definitions take to load, beside a
bare import of dagster and dagster_dbt; a backfill of the tables of ninety days, beside one plain pass of dbt
over them; a night with nothing new, and in it the time per step in which no step was at work; and one asset
from the click in the web UI to its end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, in_turns, positive, ratio, teller
from benchmarks.raw_events import FIRST_DAY, ZONE, days, write_catalogue, write_events
from resources.home import Home, Shop

PROJECT = Path(__file__).parents[1]
EVENTS, DAYS, ROUNDS = 3_000_000, 90, 3
"""As many events a day as the smallest shop of `benchmarks.warehouse` has."""
SECONDS = 3600
"""After which a command that has not ended is given up."""

OURS, BARE = "import orchestration.definitions", "import dagster, dagster_dbt"

TINY = "max_length: 16\nmax_steps: 2\nsequence_epochs: 1\nsequence_width: 16\n"
"""A recipe that hardly learns: the work is to be small beside what is measured."""

_LOADED = """
import time; began = time.perf_counter()
{what}
seconds = time.perf_counter() - began
import resource
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""

_LAUNCH = """
mutation ($what: ExecutionParams!) {
  launchRun(executionParams: $what) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
_STATUS = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


@dataclass(frozen=True)
class Bench:
    """What the parts share."""

    rounds: int
    events: int
    days: int
    work: Path | None
    figures: Figures
    say: Callable[[str], None]

    @contextmanager
    def home(self, shop: Shop) -> Iterator[Home]:
        """A home that is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="nightshelf-orchestration-", dir=self.work) as folder:
            found = Home(Path(folder) / "home")
            found.write_shop(shop)
            yield found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts that are asked for, report."""
    asked = _parser().parse_args(arguments)
    say = teller()
    figures = Figures(asked.out, rounds=asked.rounds, events=asked.events, days=asked.days)
    bench = Bench(asked.rounds, asked.events, asked.days, asked.work, figures, say)
    for name in asked.only or PARTS:
        say(f"{name}: begins")
        PARTS[name](bench)
    figures.write()
    figures.show()
    return 0


def definitions(bench: Bench) -> None:
    """Seconds and memory of loading the definitions, beside the libraries that they cannot do without."""
    shop = Shop(timezone=ZONE, first_day=FIRST_DAY)
    with bench.home(shop) as home:
        loaded(OURS, home)  # dbt's manifest is made where it is not there
        memory: dict[str, list[float]] = {OURS: [], BARE: []}

        def load(what: str) -> float:
            seconds, mib = loaded(what, home)
            memory[what].append(mib)
            return seconds

        took = in_turns({what: lambda what=what: load(what) for what in (OURS, BARE)}, bench.rounds)  # type: ignore[misc]
    value, runs = ratio(took[OURS], took[BARE])
    name = "orchestration.definitions"
    bench.figures.add(f"{name}.ratio_to_bare_import", value, "ratio", f"goal ≤ 1.3; {BARE}", runs)
    value, runs = ratio(memory[OURS], memory[BARE])
    bench.figures.add(
        f"{name}.memory_ratio_to_bare_import", value, "ratio", "goal ≤ 1.3; highest memory", runs
    )
    bench.figures.add(f"{name}.load_s", statistics.median(took[OURS]), "s", "", took[OURS])


def loaded(what: str, home: Home) -> tuple[float, float]:
    """Seconds and peak MiB of an import in a fresh interpreter."""
    told = _run([sys.executable, "-c", _LOADED.format(what=what)], home).split()
    return float(told[-2]), float(told[-1])


def backfill(bench: Bench) -> None:
    """The tables of a window made again, by `nightshelf backfill --tables` and by dbt alone."""
    window = days(bench.days)
    with bench.home(Shop(timezone=ZONE, first_day=window[0], last_day=days(bench.days + 8)[-1])) as home:
        for file in write_events(home.drop / "nightshelf_csv", bench.events, bench.days):
            _age(file)
        _age(write_catalogue(home.drop / "nightshelf_catalogue" / "products.csv", bench.events))
        first, last = window[0].isoformat(), window[-1].isoformat()
        nightshelf(home, "backfill", first, last, "--tables")
        bench.say(f"backfill: {bench.events:,} events of {bench.days} days are in tables")
        took = in_turns(
            {
                "backfill": lambda: nightshelf(home, "backfill", first, last, "--tables"),
                "pass": lambda: one_pass(home, window),
            },
            bench.rounds,
        )
    value, runs = ratio(took["backfill"], took["pass"])
    name = f"orchestration.backfill_{bench.days}_days"
    against = f"goal ≤ 1.3; one pass of dbt over {bench.events:,} events"
    bench.figures.add(f"{name}.ratio_to_one_pass", value, "ratio", against, runs)
    bench.figures.add(f"{name}.s", statistics.median(took["backfill"]), "s", "", took["backfill"])


def one_pass(home: Home, asked: Sequence[date]) -> float:
    """Seconds of the same dbt build without Dagster, its start included."""
    from assets.warehouse.project import build_args, run_dbt, take_parsed, window

    target = home.root / "one_pass"
    shutil.rmtree(target, ignore_errors=True)
    take_parsed(home, target)
    began = time.monotonic()
    run_dbt(build_args(), home, target=target, more=window(home, asked[0], asked[-1]))
    return time.monotonic() - began


def night(bench: Bench) -> None:
    """A night once more when nothing has come since, and the time per step that is no step's work."""
    last = datetime.now(UTC).date() - timedelta(days=1)
    first = last - timedelta(days=5)
    with bench.home(Shop(timezone=ZONE, first_day=first, first_night=last, recipe="tiny.yaml")) as home:
        (home.root / "tiny.yaml").write_text(TINY, encoding="utf-8")
        nightshelf(home, "simulate", "--days", "6", "--shoppers", "200", "--products", "200")
        nightshelf(home, "backfill", first.isoformat(), last.isoformat())
        bench.say(f"night: the night of {last} is done; now once more")
        walls, overheads = [], []
        for _ in range(bench.rounds):
            walls.append(nightshelf(home, "night", last.isoformat()))
            overheads.append(idle_per_step(home))
            bench.say(f"night: {walls[-1]:.1f} s, {overheads[-1]:.2f} s a step beside the work")
    figures = bench.figures
    figures.add("orchestration.empty_night_s", statistics.median(walls), "s", "goal ≤ 30", walls)
    figures.add(
        "orchestration.step_overhead_s", statistics.median(overheads), "s",
        "goal ≤ 1.2; a night's run less the time in which a step works, by steps", overheads,
    )  # fmt: skip


def idle_per_step(home: Home) -> float:
    """Seconds of the newest run, from its creation, in which no step was at work, divided by its steps."""
    import dagster as dg

    os.environ["DAGSTER_HOME"] = str(home.dagster)
    with dg.DagsterInstance.get() as instance:
        (record,) = instance.get_run_records(limit=1)
        begun: dict[str, float] = {}
        worked: list[tuple[float, float]] = []
        for entry in instance.all_logs(record.dagster_run.run_id):
            event = entry.dagster_event
            if event and event.step_key and event.is_step_start:
                begun[event.step_key] = entry.timestamp
            elif event and event.step_key and event.is_step_success:
                worked.append((begun[event.step_key], entry.timestamp))
        whole = (record.end_time or 0.0) - record.create_timestamp.timestamp()
    return (whole - covered(worked)) / len(worked)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length of what the spans cover together; where they overlap it counts once."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def click(bench: Bench) -> None:
    """Seconds from the request that the web UI sends on a click to the end of the run of one small asset."""
    with bench.home(Shop(timezone=ZONE, first_day=FIRST_DAY, last_day=FIRST_DAY + timedelta(days=8))) as home:
        nightshelf(home, "init")
        with _ui(home) as address:
            took = [_clicked(address) for _ in range(bench.rounds)]
    bench.figures.add("orchestration.click_to_done_s", statistics.median(took), "s", "raw_products", took)


PARTS: dict[str, Callable[[Bench], None]] = {
    part.__name__: part for part in (definitions, backfill, night, click)
}


def nightshelf(home: Home, *words: str) -> float:
    """Seconds of a command.

    Raises:
        RuntimeError: it failed; the message is what it said.
    """
    began = time.monotonic()
    _run([sys.executable, "-m", "orchestration.cli", "--home", str(home.root), *words], home)
    return time.monotonic() - began


def _run(command: Sequence[str], home: Home) -> str:
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env=_environment(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command[1:])[:200]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.stdout


def _environment(home: Home) -> dict[str, str]:
    return os.environ | {
        "NIGHTSHELF_HOME": str(home.root),
        "DAGSTER_HOME": str(home.dagster),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }


def _age(file: Path) -> None:
    os.utime(file, (time.time() - 3600,) * 2)  # a file that has just come would be waited for


@contextmanager
def _ui(home: Home) -> Iterator[str]:
    """`nightshelf ui` of the home, up; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (home.root / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestration.cli", "--home", str(home.root), "ui", "--port", str(port)],
            cwd=PROJECT, env=_environment(home), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 180
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(
                    f"the web UI did not come up:\n{(home.root / 'ui.log').read_text()[-2000:]}"
                )
            time.sleep(0.5)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(address: str) -> bool:
    import requests

    try:
        return requests.get(f"{address}/server_info", timeout=2).ok
    except requests.RequestException:
        return False


def _clicked(address: str) -> float:
    what = {
        "selector": {
            "repositoryLocationName": "nightshelf",
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": ["raw_products"]}],
        },
        "runConfigData": "{}",
        "mode": "default",
    }
    began = time.monotonic()
    answer = _ask(address, _LAUNCH, {"what": what})["launchRun"]
    if answer["__typename"] != "LaunchRunSuccess":
        raise RuntimeError(f"the run was not launched: {answer}")
    run = answer["run"]["runId"]
    while (status := _ask(address, _STATUS, {"run": run})["runOrError"]["status"]) != "SUCCESS":
        if status in ("FAILURE", "CANCELED"):
            raise RuntimeError(f"the run ended as {status}")
        time.sleep(0.1)
    return time.monotonic() - began


def _ask(address: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    import requests

    answer = requests.post(f"{address}/graphql", json={"query": query, "variables": variables}, timeout=60)
    answer.raise_for_status()
    return dict(answer.json()["data"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.orchestration",
        description="Measure what orchestration costs beside the work itself.",
    )
    parser.add_argument("--only", nargs="+", choices=[*PARTS], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--events", type=positive, default=EVENTS, metavar="N", help="in the backfill (default %(default)s)"
    )
    parser.add_argument(
        "--days", type=positive, default=DAYS, metavar="N", help="of it (default %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=positive, default=ROUNDS, metavar="N", help="of runs (default %(default)s)"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="where to put what is made meanwhile")
    parser.add_argument("--out", type=Path, metavar="REPORT.json", help="the report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
