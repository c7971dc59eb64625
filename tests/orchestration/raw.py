"""Puts rows of given days into a raw zone, for tests that care for days and not for rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from assets.logs.raw_zone import take_in
from resources.home import Home

HEADER = "event_id,event_time,user_id,session_id,item_id,behavior,price,quantity"


def put_rows(home: Home, name: str, days: Iterable[date]) -> None:
    """Take in one file of Nightshelf's own format with one click at noon of each day."""
    file = home.drop / "nightshelf_csv" / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{name}-{day},{day}T12:00:00+01:00,u1,s1,i1,click,9.90," for day in days]
    file.write_text("\n".join([HEADER, *rows]) + "\n")
    outcome = take_in(home, file)
    assert outcome.rows_loaded == len(rows), outcome
