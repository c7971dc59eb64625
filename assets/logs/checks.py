"""What is checked of stage 1: that every line is accounted for, and that little is refused."""

import dagster as dg

from assets.logs.assets import ingest_outcomes, raw_behavior_events
from assets.logs.drop import path_in, plain_files
from assets.partitions import days_of, nights
from resources.home import Home

REFUSED_SHARE = 0.05
"""Share of a file's lines that may be refused before somebody should look."""

_MOST_NAMED = 20


@dg.asset_check(asset=ingest_outcomes, blocking=True)
def accounting_adds_up() -> dg.AssetCheckResult:
    """Of every file ever seen: lines = header + blank + loaded + refused, and what is in place is what was
    loaded.
    """
    from assets.logs.raw_zone import at_rest, outcomes, rows_in_place

    home = Home.current()
    with at_rest(home):  # else a file that comes in between would be in one and not in the other
        ledger = outcomes(home)
        in_place = rows_in_place(home)
    wrong = [f"{o.file}: {o.lines} lines do not add up" for o in ledger if not o.adds_up]
    for outcome in ledger:
        found = in_place.get(outcome.load_id, 0)
        if outcome.status != "duplicate" and found != outcome.rows_loaded:
            wrong.append(
                f"{outcome.file}: {found} rows in {home.loads / outcome.load_id}, {outcome.rows_loaded} in "
                "the ledger"
            )
        if outcome.kind == "events" and sum(outcome.days.values()) != outcome.rows_loaded:
            wrong.append(
                f"{outcome.file}: the days have {sum(outcome.days.values())} of {outcome.rows_loaded} rows"
            )
    return dg.AssetCheckResult(
        passed=not wrong,
        description=(
            f"{'; '.join(wrong[:_MOST_NAMED])}. Delete the folders of these loads in the raw zone and take "
            "the files in again."
            if wrong
            else f"All lines of {len(ledger)} files are accounted for."
        ),
        metadata={
            "files": len(ledger),
            "lines": sum(o.lines for o in ledger),
            "lines_loaded": sum(o.lines_loaded for o in ledger),
            "lines_refused": sum(o.lines_refused for o in ledger),
            "wrong": dg.MetadataValue.json(wrong[:_MOST_NAMED]),
        },
    )


@dg.asset_check(asset=ingest_outcomes)
def refused_share() -> dg.AssetCheckResult:
    """No file in the drop folder, but those that are left out on purpose, has more than a twentieth of its
    lines refused. A file that is gone from there is done with.
    """
    from assets.logs.raw_zone import MOST_ATTEMPTS, NOT_USED, outcomes

    home = Home.current()
    newest = {outcome.file: outcome for outcome in outcomes(home)}
    there = {path_in(home.drop, file) for file in plain_files(home.drop)}
    much = [
        outcome
        for outcome in newest.values()
        if outcome.status in ("partly_loaded", "refused")
        and outcome.reason != NOT_USED
        and (outcome.status == "refused" or outcome.lines_refused > REFUSED_SHARE * outcome.lines)
        and outcome.file in there
    ]
    named = [f"{o.file}: {o.lines_refused:,} of {o.lines:,} lines" for o in much[:_MOST_NAMED]]
    return dg.AssetCheckResult(
        passed=not much,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{'; '.join(named)}. See raw.rejects for the reasons. A file that was refused as a whole is "
            "tried again once its source file (YAML) has changed, and by itself up to "
            f"{MOST_ATTEMPTS} times where the reader failed; of one that was loaded in part, drop the "
            "refused lines again, corrected, as a new file. Then, or where nothing is to be done, take the "
            "file out of the drop folder."
            if much
            else f"No file has more than {REFUSED_SHARE:.0%} of its lines refused."
        ),
        metadata={"files": dg.MetadataValue.json([o.file for o in much])},
    )


@dg.asset_check(asset=raw_behavior_events, partitions_def=nights)
def day_has_events(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Every day of the run has events. A day without any is more often a broken tracker than a closed
    shop.
    """
    from assets.logs.raw_zone import days_of_loads

    held = days_of_loads(Home.current())
    asked = days_of(context)
    empty = [day.isoformat() for day in asked if day not in held]
    return dg.AssetCheckResult(
        passed=not empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"No file holds an event of {', '.join(empty[:_MOST_NAMED])}. Look into the drop folder of these "
            "days."
            if empty
            else f"{len(asked)} days have events."
        ),
        metadata={"empty_days": dg.MetadataValue.json(empty)},
    )
