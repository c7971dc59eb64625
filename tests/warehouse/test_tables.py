"""What the tables say about rows with known answers."""

from __future__ import annotations

from datetime import date, datetime

import pytest

from resources.home import Home
from tests.warehouse.raw_rows import query


def test_every_row_is_kept_or_removed_for_a_stated_reason(weekend: Home) -> None:
    funnel = query(
        weekend,
        "select step, sum(rows)::int from marts.quality_funnel where source = 'nightshelf_csv' group by 1",
    )
    assert dict(funnel) == {
        "raw": 75,
        "kept": 11,
        "bot": 60,
        "duplicate": 2,
        "price_outlier": 1,
        "unknown_behavior": 1,
    }
    retail = query(weekend, "select step, rows from marts.quality_funnel where source = 'online_retail'")
    assert dict(retail) == {"raw": 4, "kept": 1, "service_code": 1, "refund": 1, "price_out_of_range": 1}


def test_absurd_numbers_are_removed_for_a_stated_reason_and_stop_no_night(weekend: Home) -> None:
    funnel = query(
        weekend,
        "select source, step, rows from marts.quality_funnel "
        "where day = '2026-03-28' and source in ('absurd', 'movielens_latest')",
    )
    assert {(source, step): rows for source, step, rows in funnel} == {
        ("absurd", "raw"): 4,
        ("absurd", "kept"): 1,
        ("absurd", "quantity_out_of_range"): 1,
        ("absurd", "refund"): 1,
        ("absurd", "price_out_of_range"): 1,
        ("movielens_latest", "raw"): 2,
        ("movielens_latest", "kept"): 0,
        ("movielens_latest", "unknown_behavior"): 2,
    }


def test_the_funnel_counts_what_lies_in_the_raw_zone(weekend: Home) -> None:
    [(raw, kept, removed)] = query(
        weekend,
        """
        select sum(rows) filter (where step = 'raw'), sum(rows) filter (where step = 'kept'),
            sum(rows) filter (where step not in ('raw', 'kept'))
        from marts.quality_funnel
        """,
    )
    assert raw == query(weekend, "select count(*) from raw.behavior_events")[0][0] == kept + removed
    assert kept == query(weekend, "select count(*) from marts.fct_events")[0][0]


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        ("shop_app_jsonl", ["browse", "cart"]),
        ("our_own_format", ["purchase", "purchase"]),
        ("rees46", ["browse", "cart", "purchase"]),
        ("retailrocket", ["browse", "cart", "purchase"]),
        ("otto", ["cart", "click", "purchase"]),
        ("taobao", ["cart", "cart", "click", "purchase"]),
        # Its add_to_cart is what was shown.
        ("google_merch", ["browse", "cart", "purchase"]),
        ("movielens_latest", ["browse", "browse", "click", "purchase", "purchase"]),
        ("online_retail", ["purchase"]),
    ],
)
def test_every_publishers_codes_become_the_four_behaviors(
    weekend: Home, source: str, labels: list[str]
) -> None:
    rows = query(weekend, f"select behavior from marts.fct_events where source = '{source}' order by 1")
    assert [behavior for (behavior,) in rows] == labels


def test_the_taxonomy_names_the_behaviors_in_two_languages(weekend: Home) -> None:
    names = query(weekend, "select distinct label, label_zh from labels.taxonomy where weight > 0")
    assert dict(names) == {"browse": "浏览", "click": "点击", "cart": "加购", "purchase": "购买"}


def test_a_stock_code_is_one_item_however_it_is_written(weekend: Home) -> None:
    assert query(weekend, "select title, last_seen_day from marts.dim_items where item_id = '85123A'") == [
        ("HEART", date(2026, 3, 30))
    ]


def test_sessions_end_at_the_shops_midnight_and_run_through_the_clocks_jump(weekend: Home) -> None:
    anna = query(
        weekend,
        "select event_id, day, session_id from marts.fct_events where event_id in ('w9', 'w10') order by day",
    )
    assert [day for _, day, _ in anna] == [date(2026, 3, 28), date(2026, 3, 29)]
    assert anna[0][2] != anna[1][2]
    ben = query(weekend, "select session_id from marts.fct_events where event_id in ('w11', 'w12')")
    assert len(ben) == 2
    assert len(set(ben)) == 1


def test_behaviors_are_labelled_by_the_strongest_of_the_day(weekend: Home) -> None:
    assert query(
        weekend,
        "select behavior, weight, browses, clicks, carts, purchases, revenue from labels.lbl_behaviors "
        "where user_key = 'anna' and item_id = 'mug' and day = '2026-03-27'",
    ) == [("purchase", 10.0, 1, 1, 0, 1, 20.0)]


def test_an_event_without_a_price_has_that_of_the_catalogue_on_its_day(weekend: Home) -> None:
    assert query(weekend, "select price from marts.fct_events where event_id = 'w12'") == [(24.0,)]
    assert query(weekend, "select revenue from marts.dim_users where user_key = 'ben'") == [(24.0,)]


def test_histories_reach_back_over_days_and_hold_nothing_later(weekend: Home) -> None:
    assert query(
        weekend,
        "select history_items, history_behaviors, item_id, behavior from labels.lbl_next_item "
        "where event_id = 'w12'",
    ) == [(["mug", "pot", "tea"], ["browse", "browse", "click"], "pot", "purchase")]


def test_items_met_in_one_session_are_paired_in_both_directions(weekend: Home) -> None:
    pairs = query(
        weekend,
        "select item_id, other_item_id, pairs, weight from marts.fct_item_pairs "
        "where day = '2026-03-29' order by 1",
    )
    assert pairs == [("pot", "tea", 1, 0.5), ("tea", "pot", 1, 1.0)]


def test_popularity_adds_up_to_the_kept_events(weekend: Home) -> None:
    assert query(
        weekend,
        "select events, users, browses, clicks, carts, purchases, weight from marts.fct_popularity "
        "where item_id = 'mug' and day = '2026-03-27'",
    ) == [(4, 2, 2, 1, 0, 1, 14.0)]
    totals = "select sum(events) from marts.fct_popularity union all select count(*) from marts.fct_events"
    assert len(set(query(weekend, totals))) == 1


def test_an_item_looks_as_it_did_on_each_day(weekend: Home) -> None:
    versions = "select valid_from, title, price from marts.dim_item_versions where item_id = '{}' order by 1"
    assert query(weekend, versions.format("pot")) == [
        (date(2026, 3, 27), "Pot", 30.0),
        (date(2026, 3, 29), "Pot", 24.0),
    ]
    assert query(weekend, versions.format("tea")) == [(date(1970, 1, 1), "Tea", 4.0)]
    assert query(weekend, versions.format("shoe")) == [(date(2026, 3, 28), "Shoe", 50.0)]
    assert query(
        weekend,
        "select title, price, first_seen_day, last_seen_day from marts.dim_items where item_id = 'jug'",
    ) == [("Jug", 20.0, None, None)]


def test_prices_are_standardised_within_their_category(weekend: Home) -> None:
    """Home > Cups on 27 March: mug 10 four times, pot 30 three times (one price is the catalogue's)."""
    rows = dict(
        query(
            weekend,
            "select item_id, any_value(round(price_z, 12)) from marts.fct_events "
            "where day = '2026-03-27' group by item_id having count(distinct round(price_z, 12)) = 1",
        )
    )
    mean = (4 * 10 + 3 * 30) / 7
    sigma = ((4 * (10 - mean) ** 2 + 3 * (30 - mean) ** 2) / 7) ** 0.5
    assert rows == {
        "mug": pytest.approx((10 - mean) / sigma, abs=1e-9),
        "pot": pytest.approx((30 - mean) / sigma, abs=1e-9),
        "tea": 0,
    }


def test_activity_is_standardised_by_the_shoppers_own_days(weekend: Home) -> None:
    """Anna's days so far: 7 events, then 1, then 1."""
    rows = dict(
        query(weekend, "select distinct day, activity_z from marts.fct_events where user_key = 'anna'")
    )
    mean, square = 9 / 3, (49 + 1 + 1) / 3
    assert rows[date(2026, 3, 27)] == 0
    assert rows[date(2026, 3, 28)] == pytest.approx(-1)
    assert rows[date(2026, 3, 29)] == pytest.approx((1 - mean) / (square - mean**2) ** 0.5)


def test_an_event_can_be_followed_back_to_its_line(weekend: Home) -> None:
    [(load_id, line, event_at)] = query(
        weekend, "select load_id, line, event_at from marts.fct_events where event_id = 'w13'"
    )
    assert (load_id, line, event_at) == (f"{8:016x}", 3, datetime(2026, 3, 27, 9, 4))
