"""`nightshelf`: what the web UI does, and a little more, from a terminal.

Imports are made inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from rich.console import Console

    from orchestration.runs import Outcome
    from resources.home import Home

app = typer.Typer(
    help="A shop's raw behaviour logs, turned into a fresh shelf of recommendations every night.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
sources = typer.Typer(help="Log sources: what there is, and what a new one would make of a sample.")
app.add_typer(sources, name="sources", no_args_is_help=True)


class NextStepError(RuntimeError):
    """Something cannot be done; the message says what to do instead."""


@app.callback()
def everywhere(
    home: Annotated[
        Path | None, typer.Option(help="Folder with all data; else NIGHTSHELF_HOME, else ./home.")
    ] = None,
) -> None:
    """A shop's raw behaviour logs, turned into a fresh shelf of recommendations every night."""
    from resources.devices import share_cores

    share_cores()
    # Set before anything reads it, and for the processes we start.
    os.environ["NIGHTSHELF_HOME"] = str((home or Path(os.environ.get("NIGHTSHELF_HOME") or "home")).resolve())


@app.command()
def demo(
    home: Annotated[Path | None, typer.Option(help="Folder to put the demo shop into.")] = None,
    days: Annotated[int, typer.Option(min=8, help="Simulated days, the last of them yesterday.")] = 14,
    seed: Annotated[int, typer.Option(help="The same seed gives the same shop.")] = 7,
    nights: Annotated[int, typer.Option(min=1, help="Of these days, how many get a model and a shelf.")] = 2,
) -> None:
    """Simulate a shop, run its last nights, and show what came of it."""
    from orchestration.demo import run_demo

    if home:
        os.environ["NIGHTSHELF_HOME"] = str(home.resolve())
    run_demo(_home(), days=days, seed=seed, nights=nights, console=_console())


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The shop's name.")] = "My shop",
    timezone: Annotated[
        str, typer.Option(help="IANA zone in which a day begins and ends.")
    ] = "Europe/Berlin",
    currency: Annotated[str, typer.Option(help="ISO code of the prices.")] = "EUR",
    first_day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day with logs; today if not given.")
    ] = None,
) -> None:
    """Make the home folder ready: shop.yaml, drop folder, Dagster instance, pool limits. Can be repeated."""
    from orchestration.instance import prepare_instance

    home, console = _home(), _console()
    if home.shop_file.exists():
        console.print(f"{home.shop_file} is there and stays as it is: name, zone and days are changed in it.")
    else:
        _open_shop(home, name, timezone, currency, first_day.date() if first_day else None)
    prepare_instance(home)
    home.drop.mkdir(parents=True, exist_ok=True)
    console.print(f"Dagster's instance is in {home.dagster}; its pool limits are set.")
    console.print(
        f"Days begin with {home.shop.first_day}; older logs need an earlier first_day in {home.shop_file}."
    )
    console.print(f"Next: put log files into {home.drop}/<source>/, then: nightshelf ui")


def _open_shop(home: Home, name: str, timezone: str, currency: str, first_day: date | None) -> None:
    """Write shop.yaml; days begin today where no first day is named."""
    from zoneinfo import available_timezones

    from resources.home import CURRENCY, Shop

    if timezone not in available_timezones():
        raise NextStepError(f"{timezone!r} is no IANA time zone. Write one like: --timezone Europe/Berlin")
    if not CURRENCY.fullmatch(currency):
        raise NextStepError(f"{currency!r} is no ISO code of a currency. Write one like: --currency EUR")
    begins = first_day or datetime.now(Shop(timezone=timezone).zone).date()
    home.write_shop(Shop(name=name, timezone=timezone, currency=currency, first_day=begins))
    _console().print(f"Wrote {home.shop_file}: days begin in {timezone}, the first is {begins}.")


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1.")] = 3000,
) -> None:
    """Open the web UI, with the daemon that runs schedule and sensors."""
    from orchestration.instance import PROJECT, prepare_instance

    _require_free(port)
    home = _shop()
    os.environ["DAGSTER_HOME"] = str(prepare_instance(home))
    _console().print(f"The web UI of {home.root} comes up at http://127.0.0.1:{port} (Ctrl-C ends it).")
    sys.stdout.flush()
    # Whoever starts us in the background may have us ignore these, and our children after us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from orchestration.server import serve
    from resources.leases import LeaseTimeoutError, lease_one_of

    try:
        with lease_one_of([home.leases / "ui.lock"], timeout=0):
            serve(PROJECT / "workspace.yaml", port)
    except LeaseTimeoutError as error:
        raise NextStepError(
            f"The web UI of {home.root} runs already. End it first: with two, there would be two daemons"
        ) from error


@app.command()
def simulate(
    start: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="First day; the shop's first, or so that yesterday is the last."
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1)] = 14,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 7,
    shoppers: Annotated[int, typer.Option(min=1)] = 3000,
    products: Annotated[int, typer.Option(min=1)] = 2000,
) -> None:
    """Write what a shop's tracking would into the drop folder, dirt included."""
    from orchestration.demo import simulated

    home = _home()
    begins = home.shop.first_day if home.shop_file.exists() else _last_ended(home) - timedelta(days=days - 1)
    first = start.date() if start else begins
    last = first + timedelta(days=days - 1)
    if last > _last_ended(home):
        raise NextStepError(
            f"{last} is not over yet, and rows of days to come would be refused. Name an earlier first day: "
            f"--start {_last_ended(home) - timedelta(days=days - 1)}; it must not lie before first_day in "
            f"{home.shop_file}."
        )
    simulated(home, first, days, seed, _console(), shoppers=shoppers, products=products)
    _console().print(f"Log files are in {home.drop}. Next: nightshelf backfill {first} {last}")


@sources.command("list")
def sources_list() -> None:
    """Sources that Nightshelf knows: its own and those in the home folder."""
    from assets.logs.sources import SourceError, read_sources
    from orchestration.pages import sources_page

    known, faults = read_sources(_home())
    _console().print(sources_page(known))
    if faults:
        raise SourceError("\n".join(faults.values()))


@sources.command("check")
def sources_check(
    source: Annotated[Path, typer.Argument(help="The source's YAML file.", exists=True, dir_okay=False)],
    sample: Annotated[Path, typer.Argument(help="A file as the publisher sends it.", exists=True)],
) -> None:
    """Show what the first rows of SAMPLE become, or what is wrong with file, line and field."""
    from assets.logs.preview import check_source
    from orchestration.pages import preview_page

    preview = check_source(source, sample, _home())
    _console().print(preview_page(preview))
    if not preview.ok:
        raise typer.Exit(1)


@app.command()
def night(
    day: Annotated[
        datetime | None, typer.Argument(formats=["%Y-%m-%d"], metavar="[DAY]", help="Yesterday if not given.")
    ] = None,
) -> None:
    """Run one night now: one day from raw logs to the published shelf."""
    from orchestration.backfill import make_up_tables
    from orchestration.nights import first_night
    from orchestration.runs import of_day

    home = _shop()
    which = day.date() if day else _last_ended(home)
    _require_ended(home, which)
    if which < first_night(home.shop):
        raise NextStepError(
            f"{which} lies before the first night ({first_night(home.shop)}): there is too little to learn "
            f"from. For its tables run: nightshelf backfill {which} {which} --tables"
        )
    _require_recipe(home)
    with _instance(home) as instance:
        _require_idle(instance, which)
        make_up_tables(partial(_run, instance), instance, home, which)
        _run(instance, "nightly", of_day(which), f"The night of {which}")
    _say(_served_by(home, which))
    _console().print(f"Next: nightshelf recommend USER, or nightshelf status. The shelf: {home.published}")


@app.command()
def backfill(
    first: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], metavar="FROM")],
    last: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], metavar="TO")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    tables: Annotated[bool, typer.Option("--tables", help="Only the SQL stages.")] = False,
) -> None:
    """Make past days again: tables as one run for the window, then model and shelf day by day.

    The window of the tables begins earlier where the first night would else learn from days that have none.
    """
    from orchestration.backfill import lacking_tables, make_model, make_shelf, make_tables, tag_of, take_in
    from orchestration.nights import days_between, first_night

    home, console = _shop(), _console()
    begin, end = _window(home, first, last)
    nights = [] if tables else days_between(max(begin, first_night(home.shop)), end)
    if dry_run:
        earlier = f"; earlier where days that {nights[0]} learns from have no tables" if nights else ""
        console.print("ingest            every file that waits in the drop folder")
        console.print(f"warehouse         {begin} to {end}, one run{earlier}")
        for day in nights:
            console.print(f"training, shelf   {day}")
        return
    if nights:
        _require_recipe(home)
    tag = tag_of(begin, end)
    with _instance(home) as instance:
        _require_idle(instance, *nights)
        run = partial(_run, instance)
        take_in(run, home, tag)
        lacking = lacking_tables(instance, home, nights[0]) if nights else []
        make_tables(run, min([begin, *lacking]), end, tag)
        for day in nights:
            _require_idle(instance, day)
            make_model(run, day, tag)
            make_shelf(run, day, tag)


@app.command()
def backtest(
    first: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], metavar="FROM")],
    last: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], metavar="TO")],
    again: Annotated[bool, typer.Option("--again", help="Make tables and nights anew.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The picture, a .png; else home/backtest/FROM_TO.png.", dir_okay=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
) -> None:
    """Quality of each night beside its opponents: makes the nights that are missing, then shows them all."""
    from assets.recommendations.history import write_history
    from orchestration.backtest import NAMES, Backtest, history_page

    home, console = _shop(), _console()
    begin, end = _window(home, first, last)
    if out and out.suffix != ".png":
        raise NextStepError(f"{out} is no .png. Name the picture like: --out backtest.png")
    _require_recipe(home)
    with _instance(home, runs=not dry_run) as instance:
        test = Backtest(home, instance, begin, end, run=partial(_run, instance), say=_say)
        if dry_run:
            for line in test.plan(again):
                console.print(line, highlight=False)
            return
        found = test.go(again)
    picture = out or test.picture
    figures = write_history(found, picture, NAMES)
    console.print(history_page(found, console.width))
    console.print(f"The picture: {picture}  The figures: {figures}", highlight=False, soft_wrap=True)


@app.command()
def recommend(
    user: Annotated[str, typer.Argument(help="The shop's own id, or a k1: pseudonym.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 10,
) -> None:
    """What stands on a shopper's shelf."""
    from assets.recommendations.shelf import recommendations_for
    from orchestration.pages import shelf_page

    home = _home()
    table = recommendations_for(home, user)
    note = (table.schema.metadata or {}).get(b"note", b"").decode()
    if note:
        _console().print(note, highlight=False)
    _console().print(shelf_page(table.slice(0, limit).to_pylist(), home.shop.currency))
    _console().print(f"Why one of them: nightshelf why {user} ITEM", highlight=False, markup=False)


@app.command()
def why(user: str, item: str) -> None:
    """From a row of the shelf back to model, snapshot, events, source file and line."""
    from assets.recommendations.lineage import explain

    for line in explain(_home(), user, item).lines():
        _say(line)


@app.command()
def status() -> None:
    """What waits, what is missing, what serves, and whether the pool limits hold."""
    from orchestration.pages import status_page

    home = _home()
    _ = home.shop  # whatever is wrong with shop.yaml comes first
    if not (home.dagster / "dagster.yaml").exists():
        raise NextStepError(f"{home.root} is not set up yet. Run: nightshelf init (or: nightshelf demo)")
    with _instance(home, runs=False) as instance:
        _console().print(status_page(home, instance, datetime.now(UTC)))


@app.command()
def docs() -> None:
    """Write the documentation of every table and column, with the lineage graph, as one HTML file."""
    from assets.warehouse.project import write_docs

    home = _home()
    if not home.warehouse.exists():
        raise NextStepError(f"{home.warehouse} is not there yet. Run: nightshelf night (or: nightshelf demo)")
    with _console().status("dbt writes the documentation, some ten seconds"):
        page = write_docs(home)
    _console().print(f"Open {page} in a browser.")


@app.command()
def undo() -> None:
    """Put the previous shelf back."""
    from assets.recommendations.shelf import shelves
    from assets.recommendations.shelf import undo as put_back

    home = _home()
    undone = next((shelf for shelf in shelves(home) if shelf.current), None)
    shelf = put_back(home)
    forward = f" To publish that of {undone.day} again: nightshelf night {undone.day}" if undone else ""
    _console().print(f"The shelf of {shelf.day} is published again.{forward}")


@app.command()
def rollback(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="The model that served before, if not given.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
) -> None:
    """Put a previous model back, from the newest night on, whatever the gate said of that night."""
    from resources.model_store import ModelStore

    done = ModelStore(_home()).roll_back(version, reason)
    _console().print(
        f"{done.version} serves from the night of {done.day} on, instead of {done.instead_of}, until a "
        "candidate of a later night passes the gate against it.\n"
        "What is published is still the shelf as it was. To put the shelf before it back at once: nightshelf "
        f"undo. Next: nightshelf night {done.day}, which publishes a shelf of this model.",
        highlight=False,
    )


def _home() -> Home:
    from resources.home import Home

    return Home.current()


def _shop() -> Home:
    """The home, which has been set up.

    Raises:
        NextStepError: it has not: with a shop of defaults, days would be looked for that nobody has logs of.
    """
    home = _home()
    if not home.shop_file.exists():
        raise NextStepError(
            f"{home.root} is no shop yet. Run: make demo, to look at one; or for your own: "
            "nightshelf init --name NAME --timezone ZONE --first-day YYYY-MM-DD"
        )
    return home


def _console() -> Console:
    from rich.console import Console

    # A pipe or a file has no width; tables should not be squeezed into eighty columns there.
    return Console() if sys.stdout.isatty() else Console(width=140)


def _last_ended(home: Home) -> date:
    from orchestration.nights import last_ended_day

    return last_ended_day(home.shop, datetime.now(UTC))


def _require_ended(home: Home, day: date) -> None:
    if day > _last_ended(home):
        raise NextStepError(
            f"{day} is not over in {home.shop.timezone}. The newest day that is: {_last_ended(home)}"
        )
    if day < home.shop.first_day:
        raise NextStepError(
            f"{day} lies before the shop's first day ({home.shop.first_day}). Name a later day, or set an "
            f"earlier first_day in {home.shop_file}."
        )


def _served_by(home: Home, day: date) -> str:
    """Which model made the shelf of a night, and whether it is the night's own."""
    from resources.model_store import ModelStore

    store = ModelStore(home)
    candidate, champion = store.candidate(day), store.champion(day)
    if champion and champion.version == candidate:
        return f"The night's model passed the gate and serves: {candidate}"
    serves = f"{champion.version} serves" if champion else "none serves"
    return f"The night's model did not pass the gate: {serves}. Why: champion_model in the web UI"


def _require_recipe(home: Home) -> None:
    """The recipe can be used: told now, and not when files and tables have been made.

    Raises:
        RecipeError: it cannot.
    """
    from assets.model.recipe import load_recipe

    load_recipe(home.shop.recipe, home.root)


def _window(home: Home, first: datetime, last: datetime) -> tuple[date, date]:
    """The days from FROM to TO, in order and over."""
    begin, end = first.date(), last.date()
    if begin > end:
        raise NextStepError(f"{begin} lies after {end}. Write the earlier day first.")
    _require_ended(home, begin)
    _require_ended(home, end)
    return begin, end


def _require_free(port: int) -> None:
    import socket

    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError as error:
            raise NextStepError(
                f"Port {port} is taken; perhaps the web UI runs already: http://127.0.0.1:{port} "
                "Take another one: nightshelf ui --port PORT"
            ) from error


@contextmanager
def _instance(home: Home, *, runs: bool = True) -> Iterator[DagsterInstance]:
    if runs:
        _start_step_server(home)  # before Dagster is loaded here: it takes the server as long
    from orchestration.instance import instance_of, prepare_instance
    from orchestration.launcher import fail_lost_runs

    prepare_instance(home)
    with instance_of(home) as instance:
        for run in fail_lost_runs(instance, home):
            _console().print(f"Run {run[:8]} was cut short and is marked as failed.")
        yield instance


def _require_idle(instance: DagsterInstance, *nights: date) -> None:
    from orchestration.nights import attempts_of_night

    for night in nights:
        if attempts_of_night(instance, night).active:
            raise NextStepError(f"The night of {night} is already under way. Watch it in: nightshelf ui")


def _start_step_server(home: Home) -> None:
    from orchestration.preload import start_step_server
    from orchestration.progress import noise_into

    os.environ["DAGSTER_HOME"] = str(home.dagster)  # steps have the environment of their server
    home.dagster.mkdir(parents=True, exist_ok=True)
    with noise_into(home.dagster / "command.log", _console()):
        start_step_server(home.shop)


def _say(text: str) -> None:
    _console().print(text, highlight=False, markup=False, soft_wrap=True)


def _run(instance: DagsterInstance, job: str, tags: dict[str, str], what: str) -> Outcome:
    from orchestration.progress import watched

    return watched(instance, job, tags, what, console=_console(), home=_home())


def main(arguments: list[str] | None = None) -> None:
    """Entry point: whatever goes wrong becomes one message and exit code 1."""
    try:
        app(args=arguments)
    except Exception as error:
        if os.environ.get("NIGHTSHELF_DEBUG") == "1":
            raise
        _tell(error)
        sys.exit(1)
    finally:
        # Else the interpreter looks through all of Dagster once more before it ends, for over half a second.
        gc.freeze()


def _tell(error: Exception) -> None:
    from rich.console import Console

    from resources.room import in_words, lack

    # Our own errors name the next step themselves; of others at least the kind, and how to see more.
    ours = type(error).__module__.split(".")[0] in ("orchestration", "assets", "resources")
    message = str(error) if ours else f"{type(error).__name__}: {error}"
    if not ours and (lacking := lack(error)):
        message = in_words(_home(), "The command", lacking, error)
    Console(stderr=True).print(f"[red]Error:[/red] {_plain(message)}", highlight=False, soft_wrap=True)
    if not ours:
        print("For the whole story run it again with NIGHTSHELF_DEBUG=1.", file=sys.stderr)


def _plain(text: Any) -> str:
    from rich.markup import escape

    return escape(str(text))


if __name__ == "__main__":
    main()
