"""Puts rows of given days into a raw zone, for tests that care for days and not for rows."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import date

from assets.logs.raw_zone import take_in_all
from resources.home import Home

HEADER = "event_id,event_time,user_id,session_id,item_id,behavior,price,quantity"


def put_rows(home: Home, name: str, days: Iterable[date]) -> None:
    """Take in one file of Nightshelf's own format with one click at noon of each day."""
    file = home.drop / "nightshelf_csv" / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{name}-{day},{day}T12:00:00+01:00,u1,s1,i1,click,9.90," for day in days]
    file.write_text("\n".join([HEADER, *rows]) + "\n")
    os.utime(file, (0, 0))  # not touched for long, so whole
    (outcome,) = take_in_all(home)
    assert outcome.rows_loaded == len(rows), outcome
