"""What became of yesterday's shelf: the live quality curve."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from assets.recommendations.scoring import RECOMMENDATIONS, Scores
from resources.aside import replacing
from resources.crash import crash_point
from resources.home import Home
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTCOMES = pa.schema(
    [
        ("day", pa.date32()),
        ("shelf_day", pa.date32()),
        ("model_version", pa.string()),
        ("k", pa.int64()),
        ("users", pa.int64()),
        ("users_with_shelf", pa.int64()),
        ("recall_at_k", pa.float64()),
        ("ndcg_at_k", pa.float64()),
        ("ndcg_at_10", pa.float64()),
        ("hit_rate", pa.float64()),
        ("conversion", pa.float64()),
        ("revenue", pa.float64()),
        ("revenue_share", pa.float64()),
        ("coverage", pa.float64()),
    ]
)
"""One row per day; the columns' formulas stand in `outcome_of`."""


def outcome_of(shelf: pa.Table, labels: pa.Table, *, day: date, k: int, items: int) -> pa.Table:
    """Judge a shelf by the behaviour of the day after.

    Over the shoppers who came on the day and had a shelf of their own, with the distinct items they met as
    relevant:

    - `recall_at_k`: items met that stood on the shelf / items met, mean over shoppers;
    - `ndcg_at_k`, `ndcg_at_10`: Σ 1/log2(rank + 1) over the items met, over its best possible value, at the
      shelf's size and at 10 (the latter compares with the row `shelf` of the evaluation);
    - `hit_rate`: shoppers who met at least one item of their shelf;
    - `conversion`: shoppers who bought at least one item of their shelf;
    - `revenue`: what they paid for items of their shelf; `revenue_share`: its share in all they paid;
    - `coverage`: distinct items on any shelf / items in the catalogue.

    Args:
        shelf: rows of scored recommendations (user_key, rank, item_id, model_version, day).
        labels: `lbl_behaviors` of the day (user_key, item_id, purchases, revenue).
        day: the day of the behaviour.
        k: the shelf's size.
        items: items in the catalogue of the shelf's night.

    Returns:
        One row of `OUTCOMES`; shares of nothing are 0.
    """
    # In one order and by one thread: the last digits of a sum depend on both.
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.register("shelf", shelf.sort_by([("user_key", "ascending"), ("rank", "ascending")]))
        connection.register("labels", labels.sort_by([(name, "ascending") for name in labels.column_names]))
        row = connection.execute(_SQL, {"k": k, "items": items, "day": day}).to_arrow_table()
    return row.cast(OUTCOMES)


_SQL = """
WITH
own AS (SELECT * FROM shelf WHERE user_key <> ''),
ideal AS (  -- ideal[n] = DCG of n relevant items in the first n places
    SELECT list(total ORDER BY n) AS ideal
    FROM (
        SELECT n, sum(1 / log2(n + 1)) OVER (ORDER BY n) AS total FROM range(1, greatest($k, 10) + 1) AS t (n)
    )
),
met AS (
    SELECT
        user_key, item_id, sum(purchases) AS purchases,
        coalesce(sum(revenue) FILTER (WHERE purchases > 0), 0) AS revenue
    FROM labels GROUP BY user_key, item_id
),
judged AS (
    SELECT met.*, own.rank
    FROM met LEFT JOIN own USING (user_key, item_id)
    WHERE met.user_key IN (SELECT user_key FROM own)
),
by_user AS (
    SELECT
        user_key,
        count(*) AS met,
        count(rank) AS hits,
        coalesce(sum(1 / log2(rank + 1)), 0) AS dcg,
        coalesce(sum(1 / log2(rank + 1)) FILTER (WHERE rank <= 10), 0) AS dcg_10,
        coalesce(bool_or(rank IS NOT NULL AND purchases > 0), false) AS bought,
        coalesce(sum(revenue) FILTER (WHERE rank IS NOT NULL), 0) AS revenue,
        sum(revenue) AS spent
    FROM judged GROUP BY user_key
)
SELECT
    $day::DATE AS day,
    (SELECT max(day) FROM shelf) AS shelf_day,
    (SELECT max(model_version) FROM shelf) AS model_version,
    $k::BIGINT AS k,
    (SELECT count(DISTINCT user_key) FROM met) AS users,
    count(*) AS users_with_shelf,
    coalesce(avg(hits / met), 0) AS recall_at_k,
    coalesce(avg(dcg / ideal[least(met, $k)]), 0) AS ndcg_at_k,
    coalesce(avg(dcg_10 / ideal[least(met, 10)]), 0) AS ndcg_at_10,
    coalesce(avg((hits > 0)::INT), 0) AS hit_rate,
    coalesce(avg(bought::INT), 0) AS conversion,
    coalesce(sum(revenue), 0) AS revenue,
    coalesce(sum(revenue) / nullif(sum(spent), 0), 0) AS revenue_share,
    coalesce((SELECT count(DISTINCT item_id) FROM own) / nullif($items, 0), 0) AS coverage
FROM by_user CROSS JOIN ideal
"""


def labels_of(home: Home, day: date) -> pa.Table:
    """`lbl_behaviors` of the day, fetched in one short read of the warehouse."""
    query = "SELECT user_key, item_id, purchases, revenue FROM labels.lbl_behaviors WHERE day = $1"
    with Warehouse(home).read() as connection:
        return connection.execute(query, [day]).to_arrow_table()


def write_outcome(home: Home, day: date, labels: pa.Table) -> pa.Table | None:
    """Judge the shelf of the day before and put `home/outcomes/<day>.parquet` in place by one rename.

    Args:
        home: whose scores are judged.
        day: the day of the behaviour.
        labels: `lbl_behaviors` of that day.

    Returns:
        The row; None where the night before had no shelf, in which case no file is left for the day.
    """
    file = home.outcomes / f"{day}.parquet"
    try:
        scores = Scores.of(home, day - timedelta(days=1))
    except FileNotFoundError:
        file.unlink(missing_ok=True)
        return None
    row = outcome_of(
        scores.table(RECOMMENDATIONS),
        labels,
        day=day,
        k=scores.manifest["shelf_size"],
        items=scores.manifest["items"],
    )
    crash_point("outcomes.judged")
    with replacing(file) as aside:
        pq.write_table(row, aside)
        crash_point("outcomes.written")
    crash_point("outcomes.in_place")
    return row


def outcomes_until(home: Home, day: date) -> pa.Table:
    """All outcomes up to and including `day`, oldest first: a table of `OUTCOMES`."""
    files: list[Path] = [file for file in sorted(home.outcomes.glob("*.parquet")) if file.stem <= str(day)]
    return pa.concat_tables(
        [OUTCOMES.empty_table(), *(pq.read_table(file, schema=OUTCOMES, partitioning=None) for file in files)]
    )


def plot_outcomes(outcomes: pa.Table) -> Figure:
    """The curves over the days: quality above, conversion and coverage, and revenue on its own scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7))
    quality, business, money = figure.subplots(3, 1, sharex=True)
    days = outcomes["day"].to_pylist()
    for axis, names in (
        (quality, ("ndcg_at_10", "recall_at_k", "hit_rate")),
        (business, ("conversion", "coverage")),
        (money, ("revenue",)),
    ):
        for name in names:
            axis.plot(days, outcomes[name].to_pylist(), marker="o", label=name)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", fontsize="small")
    quality.set_title("Yesterday's shelf against today's behaviour")
    figure.autofmt_xdate()
    return figure
