"""When nights run by themselves."""

from datetime import timedelta

import dagster as dg

from assets.partitions import SHOP
from orchestration.jobs import nightly
from orchestration.nights import (
    NIGHT_BEGINS,
    SHELF,
    attempts_of_night,
    first_night,
    materialized_days,
    without_logs,
)
from resources.home import Home


@dg.schedule(
    name="nightly",
    job=nightly,
    cron_schedule=f"{NIGHT_BEGINS.minute} {NIGHT_BEGINS.hour} * * *",
    execution_timezone=SHOP.timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night the day that has just ended, from raw logs to the published shelf. After an "
    "outage Dagster catches up on the last tick only; the sensor missed_nights makes the nights before it.",
)
def nightly_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Yesterday, on the shop's clock, unless its shelf is there or on its way."""
    day = context.scheduled_execution_time.astimezone(SHOP.zone).date() - timedelta(days=1)
    if day < first_night(SHOP):
        return dg.SkipReason(
            f"{day} lies before the first night ({first_night(SHOP)}); missed_nights makes its tables."
        )
    if SHOP.last_day and day > SHOP.last_day:
        return dg.SkipReason(f"The last day with logs was {SHOP.last_day}.")
    if reason := without_logs(Home.current(), day):
        return dg.SkipReason(reason)
    if day in materialized_days(context.instance, SHELF):
        return dg.SkipReason(f"The night of {day} has already published its shelf.")
    if attempts_of_night(context.instance, day).active:
        return dg.SkipReason(f"The night of {day} is already under way.")
    return dg.RunRequest(run_key=day.isoformat(), partition_key=day.isoformat())
