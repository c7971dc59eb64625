"""What "a night" is: one day of the shop, in the shop's own time zone.

Every partition means "as of that day": what is made for day D uses nothing later than D.
"""

from __future__ import annotations

from datetime import date, timedelta

import dagster as dg

from resources.home import Home, Shop

HOME = Home.current()
SHOP = HOME.shop


def nights_of(shop: Shop) -> dg.DailyPartitionsDefinition:
    """One partition per day of a shop, from midnight to midnight on its clock."""
    return dg.DailyPartitionsDefinition(
        start_date=shop.first_day.isoformat(),
        # Dagster's end is exclusive.
        end_date=(shop.last_day + timedelta(days=1)).isoformat() if shop.last_day else None,
        timezone=shop.timezone,
    )


nights = nights_of(SHOP)
"""Those of this home's shop."""

look_back = dg.TimeWindowPartitionMapping(
    start_offset=-(SHOP.history_days - 1), end_offset=0, allow_nonexistent_upstream_partitions=True
)
"""A model of day D learns from the days before it and D itself, as far back as there are any."""

day_before = dg.TimeWindowPartitionMapping(
    start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True
)
"""Outcomes of day D judge the shelf of day D − 1."""


def days_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> list[date]:
    """The days this run is asked for, in order."""
    window = context.partition_key_range
    first, last = date.fromisoformat(window.start), date.fromisoformat(window.end)
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]
