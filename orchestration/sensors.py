"""What starts a run without a clock: new files, late rows, missed nights, drift, and failures to be told of.

They look at the state of things (folders, what is materialised, which runs there are), not at a memory of
their own: a sensor's `run_key` is remembered for ever, so one that comes up twice would silently do nothing.
A run that keeps failing is not asked for again and again: see `Attempts` in `orchestration.nights`.
"""

import hashlib
import json
from contextlib import suppress
from datetime import date, datetime, timedelta

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    WILL_RETRY_TAG,
)
from dagster._time import get_current_datetime

from assets.logs.drop import fingerprint, whole_files
from assets.partitions import SHOP
from orchestration.jobs import ingest, nightly, outcomes, training, warehouse
from orchestration.nights import (
    ACTIVE,
    EVENTS,
    LABELS,
    MAX_ATTEMPTS,
    OUTCOMES,
    attempts,
    attempts_of_night,
    backfilled_now,
    days_between,
    in_windows,
    in_words,
    last_due_night,
    missing_nights,
    missing_tables,
)
from orchestration.runs import cause_of, of_window
from resources.home import Home
from resources.notifier import NotificationError, Notifier

ASKED_TAG = "nightshelf/asked"
"""Run tag that says what a sensor wanted, so that it can count its attempts."""

LABELS_LOOK_BACK = 7
"""Days that `lbl_next_item` looks back: rows that come late for a day change labels of so many after it."""

DRIFT_DAYS, DRIFT_AT_LEAST = 7, 3
"""Days of outcomes that are averaged, and how many of them there must be."""

DRIFT_MARGIN = 0.3
"""Share of the promised NDCG by which outcomes may fall short before people are told."""

RUNNING = dg.DefaultSensorStatus.RUNNING


@dg.sensor(
    job=ingest,
    minimum_interval_seconds=30,
    default_status=RUNNING,
    description="A whole file lies in the drop folder that was not there before, or a source of the shop was "
    "corrected: what waits is taken in.",
)
def new_files(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Asks for a run for each state of the drop folder and of the shop's sources, until one succeeds."""
    home = Home.current()
    files = whole_files(home.drop)
    if not files:
        return dg.SkipReason("No file lies in the drop folder.")
    # A source that was corrected gives the files that it refused another chance.
    asked = f"files-{fingerprint([*files, *sorted(home.sources.glob('*.yaml'))])[:16]}"
    tried = attempts(context.instance, "ingest", {ASKED_TAG: asked})
    if tried.succeeded:
        return dg.SkipReason(f"The {len(files)} files in the drop folder are the same as before.")
    if _at_work(context.instance, "ingest"):
        return dg.SkipReason("Files are being taken in; looked at again when that is done.")
    if tried.may_try(get_current_datetime()):
        return dg.RunRequest(tags={ASKED_TAG: asked})
    return dg.SkipReason(
        f"Taking in the {len(files)} files failed {tried.failed} of {MAX_ATTEMPTS} times; "
        + ("see its runs, then: nightshelf backfill FROM TO --tables" if tried.given_up else "resting")
    )


@dg.sensor(
    jobs=[warehouse, outcomes],
    minimum_interval_seconds=60,
    default_status=RUNNING,
    description="Rows came for a day that was already brought into tables: those tables are made again, then "
    "what became of the shelf of the day before. Models and shelves of past nights stay as they were, for "
    "they are what was known that night.",
)
def late_rows(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Compares what each day's tables were made from with what lies in the raw zone now."""
    if _at_work(context.instance, "warehouse", "ingest") or backfilled_now(context.instance):
        return dg.SkipReason("Files or tables are being brought in; looked at again when that is done.")
    now = get_current_datetime()
    late, made = outdated_days(context.instance, Home.current())
    # A night at work, or in the queue, makes its own day's tables.
    late = {
        day: version for day, version in late.items() if not attempts_of_night(context.instance, day).active
    }
    if not late:
        requests = _outdated_outcomes(context.instance, now)
        done = "Every day's tables are made from all of its rows."
        return dg.SensorResult(run_requests=requests, skip_reason=None if requests else done)
    reach = {
        day
        for first in late
        for day in days_between(first, first + timedelta(days=LABELS_LOOK_BACK))
        if day in made
    }
    requests, given_up = [], []
    for first, last in in_windows(reach):
        versions = {str(day): version for day, version in late.items() if first <= day <= last}
        asked = f"late-{hashlib.sha256(json.dumps(versions).encode()).hexdigest()[:16]}"
        tried = attempts(context.instance, "warehouse", {ASKED_TAG: asked})
        if tried.may_try(now):
            window = of_window(first, last) | {ASKED_TAG: asked}
            requests.append(dg.RunRequest(job_name="warehouse", tags=window))
        elif tried.given_up:
            given_up.append(f"nightshelf backfill {first} {last} --tables")
    reason = "Days with late rows: " + in_words(list(late)) + ". The runs to add them failed"
    if given_up:
        reason += f" {MAX_ATTEMPTS} times. See their logs, then: {'; '.join(given_up)}"
    else:
        reason += "; resting before the next attempt."
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else reason)


def _outdated_outcomes(instance: dg.DagsterInstance, now: datetime) -> list[dg.RunRequest]:
    """Runs for the days whose labels were made again after what became of the shelf was measured by them."""
    labels, measured = _newest_by_day(instance, LABELS), _newest_by_day(instance, OUTCOMES)
    requests = []
    for day in sorted(measured):
        if labels.get(day, 0) > measured[day] and not attempts_of_night(instance, day).active:
            asked = f"outcomes-{day}-{labels[day]}"
            if attempts(instance, "outcomes", {ASKED_TAG: asked}).may_try(now):
                requests.append(
                    dg.RunRequest(job_name="outcomes", partition_key=str(day), tags={ASKED_TAG: asked})
                )
    return requests


def outdated_days(instance: dg.DagsterInstance, home: Home) -> tuple[dict[date, str], set[date]]:
    """Days whose tables lack rows.

    Returns:
        ({day: version of the day's rows now}, all days with tables). A day lacks rows if the version that
        `raw_behavior_events` recorded is not the present one, or if that was recorded after its labels
        were last made.
    """
    from assets.logs.raw_zone import day_versions

    events, labels = _newest_by_day(instance, EVENTS), _newest_by_day(instance, LABELS)
    made = set(events) & set(labels)
    recorded = _recorded_versions(instance)
    late = {
        day: version
        for day, version in day_versions(home, sorted(made)).items()
        if version != recorded.get(day, version) or labels[day] < events[day]
    }
    return late, made


def _newest_by_day(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[date, int]:
    """{day: storage id of its last materialisation}; a greater id is a later event."""
    found = instance.event_log_storage.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION
    )
    return {date.fromisoformat(day): storage_id for day, storage_id in found.items()}


def _recorded_versions(instance: dg.DagsterInstance) -> dict[date, str]:
    """{day: data version of raw_behavior_events at its last materialisation}."""
    found = instance.event_log_storage.get_latest_tags_by_partition(
        EVENTS, dg.DagsterEventType.ASSET_MATERIALIZATION, tag_keys=[DATA_VERSION_TAG]
    )
    return {date.fromisoformat(day): tags.get(DATA_VERSION_TAG, "") for day, tags in found.items()}


def _at_work(instance: dg.DagsterInstance, *jobs: str) -> bool:
    active = instance.get_runs(dg.RunsFilter(statuses=ACTIVE))
    return any(run.job_name in jobs for run in active)


@dg.sensor(
    jobs=[nightly, warehouse],
    minimum_interval_seconds=120,
    default_status=RUNNING,
    description="Nights that never published a shelf, because the daemon was down or because they failed, "
    "are made up, oldest first, however many there are. A night that fails three times is left to people.",
)
def missed_nights(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Asks for what two looks in a row found missing, so that it does not race the schedule for a night."""
    home, now = Home.current(), get_current_datetime()
    due = last_due_night(SHOP, now)
    if _at_work(context.instance, "ingest"):
        return dg.SkipReason("Files are being taken in; looked at again when that is done.")
    if backfilled_now(context.instance):
        # Between two of its runs it is not to be seen: what was missing before it has to be seen twice anew.
        reason = "A backfill is under way; what it leaves will be looked at when it is done."
        return dg.SensorResult(skip_reason=reason, cursor="[]")
    early = missing_tables(context.instance, home, due)
    nights = missing_nights(context.instance, home, due)
    seen = set(json.loads(context.cursor or "[]"))
    cursor = json.dumps([str(day) for day in (*early, *nights)])
    if not early and not nights:
        return dg.SensorResult(
            skip_reason=f"Every night up to {due} that has logs has published its shelf.", cursor=cursor
        )

    requests, left = _missing_windows(context.instance, [day for day in early if str(day) in seen], now)
    # Models learn from the days before the first night: these come first, unless they were given up.
    early_is_settled = len(left) == len(in_windows(early)) and not _at_work(context.instance, "warehouse")
    if early_is_settled:
        for day in (day for day in nights if str(day) in seen):
            tried = attempts_of_night(context.instance, day)
            if tried.may_try(now):
                requests.append(
                    dg.RunRequest(
                        job_name="nightly", partition_key=str(day), tags={ASKED_TAG: f"night-{day}"}
                    )
                )
            elif tried.given_up:
                left.append(f"nightshelf night {day}")
    reason = f"Missing: {in_words([*early, *nights])}; seen for the first time, under way, or resting." + (
        f" Given up after repeated failures. See their runs, then: {'; '.join(left)}" if left else ""
    )
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else reason, cursor=cursor)


def _missing_windows(
    instance: dg.DagsterInstance, early: list[date], now: datetime
) -> tuple[list[dg.RunRequest], list[str]]:
    """(Runs to ask for, commands for the windows that were given up)."""
    requests, left = [], []
    for first, last in in_windows(early):
        asked = f"tables-{first}-{last}"
        tried = attempts(instance, "warehouse", {ASKED_TAG: asked})
        if tried.may_try(now):
            requests.append(
                dg.RunRequest(job_name="warehouse", tags=of_window(first, last) | {ASKED_TAG: asked})
            )
        elif tried.given_up:
            left.append(f"nightshelf backfill {first} {last} --tables")
    return requests, left


@dg.sensor(
    job=training,
    minimum_interval_seconds=3600,
    default_status=RUNNING,
    description="The last days' shelves did worse than the champion's evaluation promised: people are told, "
    "and the newest night's model is made again, where anything that it is made of has changed since.",
)
def outcome_drift(context: dg.SensorEvaluationContext, notifier: Notifier) -> dg.RunRequest | dg.SkipReason:
    """Mean NDCG of the last outcomes beside the NDCG that the serving model's evaluation found."""
    from orchestration.drift import drift

    found = drift(Home.current(), days=DRIFT_DAYS)
    if found is None or found.days < DRIFT_AT_LEAST:
        return dg.SkipReason(f"Fewer than {DRIFT_AT_LEAST} days of outcomes since this champion serves.")
    if found.mean >= (1 - DRIFT_MARGIN) * found.promised:
        return dg.SkipReason(found.in_words())
    # Once per champion and day of outcomes, whether or not the run succeeds.
    asked = f"drift-{found.version}-{found.newest}"
    if context.instance.get_runs_count(dg.RunsFilter(job_name="training", tags={ASKED_TAG: asked})):
        return dg.SkipReason(f"{found.in_words()} That has been acted on.")
    day = last_due_night(SHOP, get_current_datetime())
    with suppress(NotificationError):  # who can be told is told, and the rest is in the log
        notifier.notify(
            title=f"{SHOP.name}: the shelves do worse than promised",
            text=f"{found.in_words()} The model of {day} is made again, which gives another one where rows "
            "came late, or recipe or code have changed. Look into what has changed in the logs.",
            link="/assets/recommendation_outcomes",
            log=context.log,
        )
    return dg.RunRequest(partition_key=day.isoformat(), tags={ASKED_TAG: asked})


@dg.run_failure_sensor(
    default_status=RUNNING,
    minimum_interval_seconds=15,
    description="A run failed and will not be tried again by itself: the notifier says so.",
)
def run_failure(context: dg.RunFailureSensorContext, notifier: Notifier) -> dg.SkipReason | None:
    """Title, cause and where to look, through every channel of the notifier."""
    run = context.dagster_run
    if run.tags.get(WILL_RETRY_TAG) == "true":
        return dg.SkipReason(f"Run {run.run_id[:8]} is tried again by itself.")
    window = (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
    days = run.tags.get(PARTITION_NAME_TAG) or " to ".join(run.tags[tag] for tag in window if tag in run.tags)
    causes = [f"{event.step_key}: {cause_of(event)}" for event in context.get_step_failure_events()]
    notifier.notify(
        title=f"{SHOP.name}: {run.job_name} {days} failed".replace("  ", " "),
        text="\n".join(causes) or context.failure_event.message or "The run's process went away.",
        link=f"/runs/{run.run_id}",
        log=context.log,
    )
    return None


sensors = [new_files, late_rows, missed_nights, outcome_drift, run_failure]
