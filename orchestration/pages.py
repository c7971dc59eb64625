"""Tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from assets.logs.drop import whole_files
from resources.home import Home

if TYPE_CHECKING:
    # Nor is anything else imported here that loads Dagster: a shelf is shown at once.
    from dagster import DagsterInstance

    from assets.logs.preview import Preview
    from assets.logs.sources import Source

METHODS = {
    "nightshelf": "this model",
    "shelf": "its shelf, rules and all",
    "incumbent": "the model before",
    "revisit": "re-visits",
    "co_visitation": "co-visitation",
    "ease": "EASE",
    "popularity_7d": "popularity, 7 days",
    "popularity": "popularity",
}


GIVES_WAY = (("p_browse", "p_click", "p_purchase"), ("price",), ("score",))
"""Columns of a shelf that a narrow terminal does without, those that are missed least first."""
WORDS = 24
"""Characters of title and reason for which a column gives way."""


@dataclass(frozen=True)
class ShelfPage:
    """Rows of a shelf, with as many of its columns as the terminal is wide enough for."""

    rows: Sequence[Mapping[str, Any]]
    currency: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        figures = {"price": f"price {self.currency}", "p_browse": "browse", "p_click": "click"}
        figures |= {"p_purchase": "purchase", "score": "score"}
        wide = options.update(width=1000)  # or what the table needs would be told as what there is
        for names in GIVES_WAY:
            if Measurement.get(console, wide, self._table(figures, WORDS)).minimum <= options.max_width:
                break
            figures = {name: heading for name, heading in figures.items() if name not in names}
        yield self._table(figures)

    def _table(self, figures: Mapping[str, str], words: int = 0) -> Table:
        """With the figures that are named, and at least so many characters for title and reason."""
        widest = {
            name: max((cell_len(str(row[name])) for row in self.rows), default=0)
            for name in ("item_id", "title", "reason")
        }
        table = Table(box=None, pad_edge=False)
        table.add_column("", justify="right", no_wrap=True)
        # `nightshelf why` asks for the id, so it is never cut.
        table.add_column("item", no_wrap=True, min_width=widest["item_id"])
        table.add_column("title", min_width=min(words, widest["title"]), max_width=40)
        for heading in figures.values():
            table.add_column(heading, justify="right", no_wrap=True, min_width=max(len(heading), 6))
        table.add_column("reason", style="dim", min_width=min(words, widest["reason"]), max_width=40)
        for row in self.rows:
            table.add_row(
                str(row["rank"]),
                Text(str(row["item_id"])),
                Text(str(row["title"]), no_wrap=True, overflow="ellipsis"),
                *(_figure(name, row[name]) for name in figures),
                Text(str(row["reason"])),
            )
        return table


def _figure(name: str, value: float | None) -> str:
    digits = {"price": 2, "score": 4}.get(name, 3)
    return "" if value is None else f"{value:.{digits}f}"


def shelf_page(rows: Sequence[Mapping[str, Any]], currency: str) -> ShelfPage:
    """Rows of a shelf: title, price, P(browse), P(click), P(purchase), score, reason."""
    return ShelfPage(rows, currency)


def quality_page(methods: Mapping[str, Mapping[str, float]]) -> Table:
    """Each method's figures on the test day, the model first."""
    known = [name for name in METHODS if name in methods]
    names = [*known, *(name for name in methods if name not in known)]
    measures = list(dict.fromkeys(measure for name in names for measure in methods[name]))
    table = Table("by full ranking", box=None, pad_edge=False)
    for measure in measures:
        table.add_column(measure, justify="right")
    for name in names:
        figures = (f"{methods[name][m]:.4f}" if m in methods[name] else "" for m in measures)
        table.add_row(METHODS.get(name, name), *figures)
    return table


def loads_summary(home: Home) -> dict[str, Any]:
    """Files, rows loaded and rows refused by reason, over everything that was ever taken in."""
    from assets.logs.raw_zone import outcomes, rejects_by_reason

    ledger = [outcome for outcome in outcomes(home) if outcome.status != "duplicate"]
    reasons: Counter[str] = Counter()
    for _, reason, _, rows, *_ in rejects_by_reason(home, [outcome.load_id for outcome in ledger]):
        reasons[reason] += rows
    return {
        "files": dict(Counter(outcome.status for outcome in outcomes(home))),
        "rows_loaded": sum(outcome.rows_loaded for outcome in ledger),
        "rows_refused": sum(outcome.rows_refused for outcome in ledger),
        "refused_by_reason": dict(reasons.most_common()),
    }


def loads_page(loads: Mapping[str, Any]) -> RenderableType:
    """`loads_summary` as lines."""
    statuses = sorted(loads["files"].items())
    files = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in statuses)
    lines = [
        f"Files: {files or 'none'}.",
        f"Rows loaded: {loads['rows_loaded']:,}; refused: {loads['rows_refused']:,}"
        + (":" if loads["refused_by_reason"] else "."),
        *(f"  {count:>8,}  {reason}" for reason, count in loads["refused_by_reason"].items()),
        "",
    ]
    return Text("\n".join(lines))


def cost_page(seconds: Mapping[str, float], peak_mib: Mapping[str, int], total: float) -> Table:
    """Seconds and peak memory by stage."""
    table = Table("stage", box=None, pad_edge=False, title_justify="left")
    table.add_column("seconds", justify="right")
    table.add_column("peak memory, MiB", justify="right")
    for stage, spent in seconds.items():
        table.add_row(stage, f"{spent:.1f}", str(peak_mib.get(stage, "")))
    table.add_row("in all", f"{total:.1f}", str(max(peak_mib.values(), default="not measured")))
    return table


def preview_page(preview: Preview) -> RenderableType:
    """The first rows of a sample as canonical rows, the first refusals, and what is to be done."""
    parts: list[RenderableType] = [
        Text(
            f"{preview.source} ({preview.kind}): {preview.lines:,} lines looked at, "
            f"{preview.rows_loaded:,} rows loaded, {preview.rows_refused:,} refused."
        )
    ]
    # One row below the other: canonical rows have more columns than a terminal.
    for row in preview.rows[:3]:
        table = Table.grid(padding=(0, 2))
        for column, value in row.items():
            table.add_row(Text(column, style="dim"), Text("" if value is None else str(value)))
        parts += [Text(), table]
    if preview.rejects:
        table = Table("line", "reason", "field", "value", "detail", box=None, pad_edge=False)
        for reject in preview.rejects:
            table.add_row(*(Text(str(reject.get(str(c.header)) or "")) for c in table.columns))
        parts += [Text(), table]
    parts += [Text(f"Note: {note}") for note in preview.notes]
    parts += [Text(f"Problem: {problem}", style="red") for problem in preview.problems]
    return Group(*parts)


def sources_page(sources: Mapping[str, Source]) -> Table:
    """One row per source: name, what its files hold, in which format, and what it is."""
    table = Table("source", "holds", "format", "is", box=None, pad_edge=False)
    for name, source in sorted(sources.items()):
        kinds = ", ".join(dict.fromkeys(spec.kind for spec in source.files))
        formats = ", ".join(dict.fromkeys(spec.format.type for spec in source.files))
        table.add_row(name, kinds, formats, Text(source.description.strip().split("\n")[0]))
    return table


def status_page(home: Home, instance: DagsterInstance, now: datetime) -> Table:
    """What waits, what is missing, what serves, and whether the pool limits hold: one row each."""
    from orchestration.nights import in_words, last_due_night, missing_tables

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    facts = {
        "shop": f"{home.shop.name}, {home.root}",
        "days": f"from {home.shop.first_day} in {home.shop.timezone}; nights from {home.shop.first_night}",
        "pools": _pools(instance),
        "daemon": _daemon(instance),
        "drop folder": _files(home),
        "tables missing": in_words(missing_tables(instance, home, last_due_night(home.shop, now))) or "none",
        "nights missing": _nights(home, instance, now),
        "model": _champion(home),
        "shelf": _shelf(home),
        "outcomes": _newest_outcome(home),
    }
    for name, fact in facts.items():
        table.add_row(name, escape(fact))
    return table


def _files(home: Home) -> str:
    from assets.logs.raw_zone import PARTLY, REFUSED, outcomes

    known = Counter(outcome.status for outcome in outcomes(home))
    wrong = known[REFUSED] + known[PARTLY]
    refused = f", {wrong} of them refused in whole or in part: see raw.rejects" if wrong else ""
    return f"{len(whole_files(home.drop))} files; {known.total()} on record{refused}"


def _pools(instance: DagsterInstance) -> str:
    from orchestration.instance import POOL_LIMITS, broken_limits

    broken = broken_limits(instance)
    if broken:
        found = ", ".join(f"{pool} has {limit or 'no limit'}" for pool, limit in broken.items())
        return f"limits do NOT hold: {found}. Run: nightshelf init"
    return "limits hold: " + ", ".join(f"{pool} {limit}" for pool, limit in POOL_LIMITS.items())


def _daemon(instance: DagsterInstance) -> str:
    from dagster._daemon.controller import get_daemon_statuses

    # A daemon gives a sign of life every half minute; Dagster's own patience is half an hour.
    wanted = instance.get_required_daemon_types()
    statuses = get_daemon_statuses(instance, wanted, heartbeat_tolerance_seconds=120)
    silent = sorted(kind for kind, status in statuses.items() if not status.healthy)
    if len(silent) == len(statuses):
        return "not running; schedule and sensors rest. Run: nightshelf ui"
    return f"not healthy: {', '.join(silent)}" if silent else "running"


def _nights(home: Home, instance: DagsterInstance, now: datetime) -> str:
    from orchestration.nights import attempts_of_night, in_words, last_due_night, missing_nights

    missing = missing_nights(instance, home, last_due_night(home.shop, now))
    given_up = [day for day in missing if attempts_of_night(instance, day).given_up]
    text = in_words(missing) or "none"
    return f"{text} (given up: {in_words(given_up)}; run: nightshelf night DAY)" if given_up else text


def _champion(home: Home) -> str:
    from resources.model_store import ModelStore

    champion = ModelStore(home).champion()
    if champion is None:
        return "none yet"
    back = champion.rollback
    by_hand = (
        f", put back by hand instead of {back.instead_of}: {back.reason or 'no reason given'}" if back else ""
    )
    return f"{champion.version}, as of the night of {champion.day}{by_hand}"


def _shelf(home: Home) -> str:
    from assets.recommendations.shelf import shelves

    kept = shelves(home)
    current = next((shelf for shelf in kept if shelf.current), None)
    if current is None:
        return "none published yet"
    return f"of the night of {current.day}; {len(kept)} kept for undo"


def _newest_outcome(home: Home) -> str:
    from assets.recommendations.outcomes import outcomes_until

    rows = outcomes_until(home, date.max - timedelta(days=1)).to_pylist()
    if not rows:
        return "none yet"
    newest = rows[-1]
    return (
        f"{newest['day']}: NDCG@10 {newest['ndcg_at_10']:.4f}, recall {newest['recall_at_k']:.4f}, "
        f"conversion {newest['conversion']:.2%}, {newest['users_with_shelf']} shoppers"
    )
