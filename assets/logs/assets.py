"""Stage 1 as Dagster assets: files in the drop folder become raw events and products."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from assets.gates import require_passed
from assets.partitions import days_of, nights
from resources.home import Home
from resources.room import room

if TYPE_CHECKING:
    from assets.logs.raw_zone import Outcome

GROUP = "logs"
OWNERS = ["team:data"]
OUTCOMES, EVENTS = dg.AssetKey("ingest_outcomes"), dg.AssetKey("raw_behavior_events")

ALWAYS = dg.DataVersion("all files so far")
"""Data version of what has no days. Were it another one after each file, each file would make every day of
every table out of date; which days it does touch, the versions of raw_behavior_events' days say.
"""

_MOST_LISTED = 200
"""Files that a table in the metadata lists."""


@dg.asset(group_name=GROUP, owners=OWNERS, kinds={"python", "duckdb", "parquet"})
def ingest_outcomes(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """One entry per file: what became of every line of it.

    Takes in each whole file that waits in the drop folder and is not in the ledger yet. A file is parsed in a
    process of its own, its rows and its refused rows go to the raw zone together with its outcome, by one
    rename. Lines = header + blank + loaded + refused, for every file. Days that get rows after they were
    reported are named under `late_days`, and their tables become out of date.
    """
    from assets.logs.raw_zone import new_columns, outcomes, take_in_all

    home = Home.current()
    with room(home, "Taking in log files"):
        taken = take_in_all(home, context.log.info)
    ledger = outcomes(home)
    touched = sorted({day for outcome in taken for day in outcome.days})
    late = _changed_days(context, home)
    for day, version in late.items():
        # The rows are in the raw zone by now, so this is what raw_behavior_events of the day now is.
        held = _of_day(ledger, day)
        context.log_event(_stamped(context, day, version, _day_metadata(day, held)))
    if late:
        context.log.warning(
            f"Rows came late for {', '.join(map(str, late))}: tables of these days are out of date."
        )
    new = new_columns(ledger, taken)
    for source, columns in new.items():
        context.log.warning(
            f"Source {source} has new columns: {', '.join(columns)[:300]}. They are kept in extra; map them, "
            "or list them under ignore, in its source file."
        )
    return dg.MaterializeResult(
        metadata={
            "files": dg.MetadataValue.md(_file_table(taken)),
            "files_taken_in": len(taken),
            "rows_loaded": sum(outcome.rows_loaded for outcome in taken),
            "rows_refused": sum(outcome.rows_refused for outcome in taken),
            "refused_by_reason": dg.MetadataValue.md(_reason_table(home, taken)),
            "days": dg.MetadataValue.json(touched),
            "late_days": dg.MetadataValue.json([day.isoformat() for day in late]),
            "new_columns": dg.MetadataValue.json(new),
            "files_in_ledger": len(ledger),
            "dagster/row_count": len(ledger),
            "ledger": dg.MetadataValue.path(str(home.loads)),
        },
        data_version=ALWAYS,
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"parquet"},
    partitions_def=nights,
    backfill_policy=dg.BackfillPolicy.single_run(),
    deps=[ingest_outcomes],
)
def raw_behavior_events(
    context: dg.AssetExecutionContext,
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """One row per event of the day that a publisher wrote, in the canonical columns, users as pseudonyms.

    The rows are in the raw zone already: this reports how many each day has, from which files, and stamps the
    day with a data version that changes as soon as another file holds rows of it.
    """
    from assets.logs.raw_zone import day_versions, outcomes, version_of

    require_passed(context)
    home = Home.current()
    ledger = outcomes(home)
    loads = {day: _of_day(ledger, day) for day in days_of(context)}
    versions = day_versions(home, loads)
    for day, held in loads.items():
        context.add_asset_metadata(_day_metadata(day, held), partition_key=day.isoformat())
        if not held:
            context.log.warning(f"No file holds a row of {day}.")
    whole = versions[min(versions)] if len(versions) == 1 else version_of(list(versions.values()))
    yield dg.MaterializeResult(data_version=dg.DataVersion(whole))
    if len(versions) > 1:
        # A run over several days gives them all one data version; their own ones come after it, and so count.
        for day, version in versions.items():
            yield _stamped(context, day, version, _day_metadata(day, loads[day]))


@dg.asset(group_name=GROUP, owners=OWNERS, kinds={"parquet"}, deps=[ingest_outcomes])
def raw_products(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """One row per product and catalogue file that names it, in the canonical columns.

    The rows are in the raw zone already: this reports how many there are, and from which files.
    """
    from assets.logs.raw_zone import outcomes

    require_passed(context)
    held = [
        outcome for outcome in outcomes(Home.current()) if outcome.kind == "products" and outcome.rows_loaded
    ]
    if not held:
        context.log.warning("No catalogue has come yet: items are known by what events say of them.")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(outcome.rows_loaded for outcome in held),
            "files": dg.MetadataValue.md(_file_table(held)),
        },
        data_version=ALWAYS,
    )


def _changed_days(context: dg.AssetExecutionContext, home: Home) -> dict[date, str]:
    """{day: version of its rows now} of days that raw_behavior_events reported when they had other rows."""
    from assets.logs.raw_zone import day_versions

    recorded = context.instance.event_log_storage.get_latest_tags_by_partition(
        EVENTS, dg.DagsterEventType.ASSET_MATERIALIZATION, tag_keys=[DATA_VERSION_TAG]
    )
    before = {date.fromisoformat(day): tags[DATA_VERSION_TAG] for day, tags in recorded.items()}
    now = day_versions(home, sorted(before))
    return {day: version for day, version in now.items() if version != before[day]}


def _stamped(
    context: dg.AssetExecutionContext, day: date, version: str, metadata: dict[str, dg.MetadataValue]
) -> dg.AssetMaterialization:
    """raw_behavior_events of one day, with a data version of its own and where it comes from: without that,
    Dagster goes by times, and takes the day for out of date after the next ingest.
    """
    return dg.AssetMaterialization(
        asset_key=EVENTS,
        partition=day.isoformat(),
        metadata=metadata,
        tags={
            DATA_VERSION_TAG: version,
            DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
            CODE_VERSION_TAG: context.run_id,
            get_input_data_version_tag(OUTCOMES): ALWAYS.value,
            get_input_event_pointer_tag(OUTCOMES): NULL_EVENT_POINTER,
        },
    )


def _of_day(ledger: Sequence["Outcome"], day: date) -> list["Outcome"]:
    return [outcome for outcome in ledger if day.isoformat() in outcome.days]


def _day_metadata(day: date, held: Sequence["Outcome"]) -> dict[str, dg.MetadataValue]:
    rows = [(outcome, outcome.days[day.isoformat()]) for outcome in _by_source(held)]
    table = ["| file | rows of the day | rows in all |", "|---|---:|---:|"]
    table += [f"| {_cell(o.file)} | {count:,} | {o.rows_loaded:,} |" for o, count in rows]
    return {
        "dagster/partition_row_count": dg.MetadataValue.int(sum(count for _, count in rows)),
        "files": dg.MetadataValue.md("\n".join(table[: _MOST_LISTED + 2])),
        "loads": dg.MetadataValue.json(sorted(outcome.load_id for outcome in held)),
    }


def _by_source(held: Sequence["Outcome"]) -> list["Outcome"]:
    return sorted(held, key=lambda outcome: (outcome.source, outcome.file))


def _file_table(taken: Sequence["Outcome"]) -> str:
    if not taken:
        return "No new file."
    rows = [
        "| file | status | lines | rows loaded | rows refused | days | seconds | |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    rows += [
        f"| {_cell(o.file)} | {o.status} | {o.lines:,} | {o.rows_loaded:,} | {o.rows_refused:,} | "
        f"{len(o.days)} | {o.seconds:.1f} | {_cell(': '.join(filter(None, (o.reason, o.detail))))} |"
        for o in taken[:_MOST_LISTED]
    ]
    if len(taken) > _MOST_LISTED:
        rows.append(f"| and {len(taken) - _MOST_LISTED} more | | | | | | | |")
    return "\n".join(rows)


def _reason_table(home: Home, taken: Sequence["Outcome"]) -> str:
    from assets.logs.raw_zone import DUPLICATE, rejects_by_reason

    # A duplicate bears the name of the load that holds its rows, and is no part of it.
    rows = rejects_by_reason(home, [outcome.load_id for outcome in taken if outcome.status != DUPLICATE])
    if not rows:
        return "Nothing was refused."
    table = ["| source | reason | field | rows | for instance |", "|---|---|---|---:|---|"]
    table += [
        f"| {source} | {reason} | {_cell(column or '')} | {count:,} | {_cell(where)}: {_cell(detail)} |"
        for source, reason, column, count, where, detail in rows
    ]
    return "\n".join(table)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:300]
