"""The demo: a simulated shop, its last nights, and what came of them."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from orchestration.instance import instance_of, prepare_instance
from orchestration.meter import Meter
from orchestration.nights import days_between, last_ended_day
from orchestration.runs import StepChange, of_day, of_window
from resources.aside import replacing
from resources.home import Home, Shop

if TYPE_CHECKING:
    from rich.console import Console

SIZE = {"shoppers": 1500, "products": 1200}
"""A shop whose two nights fit into four minutes on two cores."""


class NotADemoError(RuntimeError):
    """The home folder holds something other than this demo; the message says what to do."""


def run_demo(home: Home, *, days: int, seed: int, nights: int, console: Console) -> None:
    """Simulate `days` days ending yesterday; backfill all but the last, and run that as a night.

    The last `nights` days get a model and a shelf.

    Repeating it on the same home makes the same days again; nothing is taken in twice.

    Raises:
        NotADemoError: the home is in use otherwise, or holds a demo made with other settings.
        orchestration.runs.RunFailedError: a run did not succeed.
    """
    began = time.monotonic()
    first = _claim(home, days=days, seed=seed, nights=nights)
    last = first + timedelta(days=days - 1)
    first_night = last - timedelta(days=nights - 1)
    with Meter() as meter:
        meter.stage("simulate")
        simulated(home, first, days, seed, console, **SIZE)
        meter.stage("start-up")
        prepare_instance(home)
        # Imported here because the partitions are fixed by shop.yaml, which is now there.
        from orchestration.backfill import make_model, make_shelf
        from orchestration.launcher import fail_lost_runs
        from orchestration.progress import watched
        from orchestration.stages import stage_of_step

        stages = stage_of_step()
        steps: list[dict[str, object]] = []

        def on_step(change: StepChange, under_way: Sequence[str]) -> None:
            if change.seconds is not None:
                steps.append({"step": change.step, "seconds": round(change.seconds, 2)})
            if under_way:  # of several at a time, the one that began first
                meter.stage(stages.get(under_way[0], "other"))

        with instance_of(home) as instance:
            fail_lost_runs(instance, home)  # of a demo that was cut short
            console.print()

            def run(job: str, tags: dict[str, str], what: str) -> None:
                watched(instance, job, tags, what, console=console, home=home, on_step=on_step)

            # The past as a backfill makes it, tables in one run; then the newest night by itself.
            past = last - timedelta(days=1)
            run("ingest", {}, "Taking in the log files")
            run("warehouse", of_window(first, past), f"Tables of {first} to {past}, one run")
            for day in days_between(first_night, past):
                make_model(run, day, {})
                make_shelf(run, day, {})
            run("nightly", of_day(last), f"The night of {last}: from logs to the published shelf")
            meter.stage("report")
            figures = _figures(home, last)
    total = time.monotonic() - began
    report = figures | {
        "total_seconds": round(total, 1),
        "seconds": {stage: round(seconds, 1) for stage, seconds in meter.seconds.items()},
        "steps": steps,
        "peak_mib": {stage: round(peak / 2**20) for stage, peak in meter.peak.items()},
    }
    _write(home.root / "demo-report.json", report)
    _show(home, report, console)


def simulated(home: Home, first: date, days: int, seed: int, console: Console, **size: int) -> None:
    """Simulate with a progress bar; `size` may hold shoppers and products."""
    from assets.logs.simulator import simulate

    with Progress(
        TextColumn("Simulating a shop"),
        BarColumn(),
        TextColumn("{task.fields[day]}"),
        TimeElapsedColumn(),
        console=console,
    ) as bar:
        task = bar.add_task("", total=days, day="")
        simulate(
            home,
            start=first,
            days=days,
            seed=seed,
            on_day=lambda day: bar.update(task, advance=1, day=str(day)),
            **size,
        )


def _claim(home: Home, **settings: int) -> date:
    """Take the home for this demo, or recognise it as this demo's. Returns the first simulated day."""
    mark = home.root / "demo.json"
    if mark.exists():
        known: dict[str, Any] = json.loads(mark.read_text(encoding="utf-8"))
        first = date.fromisoformat(known.pop("first_day"))
        if known != settings:
            was = " ".join(f"--{name} {value}" for name, value in known.items())
            raise NotADemoError(
                f"{home.root} holds a demo made with {was}. Repeat it with these, or name another folder: "
                "nightshelf demo --home DIR"
            )
        _open_shop(home, first, settings)
        return first
    if _in_use(home):
        raise NotADemoError(
            f"{home.root} is in use and no demo; nothing in it was touched. Name another folder: "
            "nightshelf demo --home DIR"
        )
    last = last_ended_day(Shop(), datetime.now(UTC))
    first = last - timedelta(days=settings["days"] - 1)
    if settings["days"] - settings["nights"] < 4:
        raise NotADemoError(
            "A model needs days to learn from: leave at least four days before the first night."
        )
    _write(mark, settings | {"first_day": first.isoformat()})
    _open_shop(home, first, settings)
    return first


def _open_shop(home: Home, first: date, settings: Mapping[str, int]) -> None:
    """Write shop.yaml, unless it is there."""
    if not home.shop_file.exists():
        last = first + timedelta(days=settings["days"] - 1)
        first_night = last - timedelta(days=settings["nights"] - 1)
        # It has a last day: otherwise the UI would go on making nights of which there are no logs.
        home.write_shop(
            Shop(name="Demo shop", recipe="demo", first_day=first, first_night=first_night, last_day=last)
        )


def _in_use(home: Home) -> bool:
    """Whether a shop is there, or data of one. A folder of Dagster's, say, is there before any shop."""
    holds = (home.drop, home.loads.parent)
    return (
        home.shop_file.exists()
        or home.warehouse.exists()
        or any(folder.exists() and any(folder.iterdir()) for folder in holds)
    )


def _figures(home: Home, last: date) -> dict[str, Any]:
    """What the report says, read from what the run left behind."""
    from assets.model.evaluation import Evaluation
    from assets.model.promotion import evaluations
    from assets.recommendations.shelf import published
    from orchestration.pages import loads_summary
    from resources.model_store import ModelStore

    champion = ModelStore(home).champion(last)
    evaluation = Evaluation.load(evaluations(home), last)
    with published(home) as shelf:
        user = shelf.execute(_LIVELY_SHOPPER).fetchone()
        key = user[0] if user else ""
        rows = shelf.execute(_SHELF, [key]).to_arrow_table().to_pylist()
    return {
        "loads": loads_summary(home),
        "quality": dict(evaluation.methods),
        "champion": {
            "version": champion.version if champion else None,
            "promoted": champion.promoted if champion else False,
            "reasons": list(champion.reasons) if champion else [],
        },
        "shopper": key,
        "shelf": rows,
    }


_LIVELY_SHOPPER = """
SELECT user_key FROM recommendations WHERE user_key <> ''
GROUP BY user_key ORDER BY count(DISTINCT reason) DESC, count(reason_item_id) DESC, user_key LIMIT 1
"""

_SHELF = """
SELECT rank, item_id, title, price, p_browse, p_click, p_purchase, score, reason
FROM recommendations WHERE user_key = ? ORDER BY rank LIMIT 10
"""


def _show(home: Home, report: dict[str, Any], console: Console) -> None:
    from orchestration.pages import cost_page, loads_page, quality_page, shelf_page

    console.rule("What came of it")
    console.print(loads_page(report["loads"]))
    console.print(quality_page(report["quality"]))
    champion = report["champion"]
    console.print(f"Model {champion['version']}: {'promoted' if champion['promoted'] else 'not promoted'}.")
    for reason in champion["reasons"]:
        console.print(f"  {reason}", highlight=False)
    console.print(f"\nTen recommendations for the shopper {report['shopper']}")
    console.print(shelf_page(report["shelf"], home.shop.currency))
    console.print(cost_page(report["seconds"], report["peak_mib"], report["total_seconds"]))
    query = "SELECT rank, title, price, score, reason FROM recommendations WHERE user_key = ? ORDER BY rank"
    code = (
        f"import duckdb; print(duckdb.connect({_short(home.published)!r}, read_only=True)"
        f".execute({query!r}, [{report['shopper']!r}]).df())"
    )
    console.print("Query the published file with any tool that reads DuckDB:", highlight=False)
    # The Python that has DuckDB: `make demo` leaves nobody in its environment.
    python = _short(Path(sys.executable))
    console.print(f'  {python} -c "{code}"', highlight=False, soft_wrap=True, markup=False)
    here = home.root == Path("home").resolve()
    command = "make ui" if here else f"nightshelf --home {shlex.quote(_short(home.root))} ui"
    console.print(
        f"Open the web UI: {command} → http://127.0.0.1:3000", highlight=False, soft_wrap=True, markup=False
    )


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _write(file: Path, content: dict[str, Any]) -> None:
    with replacing(file) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str), encoding="utf-8")
