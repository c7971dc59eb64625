"""Every source that Nightshelf ships, on a sample in its publisher's exact layout."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.logs import raw_zone
from assets.logs.sources import SHIPPED, read_sources
from resources.home import Home
from resources.identity import IdentityKey


def parquet(**columns: pa.Array) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def zipped(name: str, text: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return out.getvalue()


MOVIES_100K = (
    "1|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Toy%20Story%20(1995)"
    "|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "2|Misérables, Les (1995)|01-Jan-1995|||0|0|0|0|0|0|0|0|1|0|0|0|1|0|0|0|0|0|0\n"
    "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
)

# source: [(file name, content, kind, [(line, what the row holds)], [(refused line, reason, field, value)])].
# user, session and order are raw ids here; the test turns them into pseudonyms.
SAMPLES: dict[
    str, list[tuple[str, str | bytes, str, list[tuple[int, dict[str, Any]]], list[tuple[Any, ...]]]]
] = {
    "nightshelf_csv": [
        (
            "web-2026-01-05.csv",
            "event_id,event_time,user_id,session_id,item_id,behavior,price,quantity\n"
            "e1,2026-01-05T00:30:00+01:00,u1,s1,p1,browse,9.99,1\n"
            "e2,2026-01-05T23:30:00Z,u1,,p1,cart,,\n"
            "e3,2026-01-05 10:00:00,u2,s2,p2,purchase,5,2\n"
            "e4,yesterday,u2,s2,p2,click,5,2\n"
            "e5,2026-01-05T10:00:00+01:00,,s2,p2,click,5,2\n"
            "e6,2026-01-05T10:00:00+01:00,u3,s2,p2,click,n/a,2\n"
            "e7,2126-01-05T10:00:00+01:00,u3,s2,p2,click,5,2\n"
            "e8,2026-01-05T10:00:00+01:00,u3,s2\n",
            "events",
            [
                (
                    2,
                    {
                        "event_id": "e1",
                        "event_at": datetime(2026, 1, 4, 23, 30),
                        "day": date(2026, 1, 5),
                        "user": "u1",
                        "session": "s1",
                        "item_id": "p1",
                        "behavior": "browse",
                        "price": 9.99,
                        "quantity": 1.0,
                        "received_at": None,
                        "extra": None,
                    },
                ),
                (
                    3,
                    {
                        "event_at": datetime(2026, 1, 5, 23, 30),
                        "day": date(2026, 1, 6),
                        "session": None,
                        "price": None,
                    },
                ),
                # Without an offset, the shop's own clock.
                (4, {"event_at": datetime(2026, 1, 5, 9), "day": date(2026, 1, 5), "behavior": "purchase"}),
            ],
            [
                (5, "bad_time", "event_time", "aaaaaaaaa"),
                (6, "missing_value", "user_id", None),
                (7, "bad_number", "price", "a/a"),
                (8, "outside_window", "event_time", "9999-99-99A99:99:99+99:99"),
                (9, "column_count", None, None),
            ],
        )
    ],
    "nightshelf_jsonl": [
        (
            "web.jsonl",
            '{"event_id":"e1","event_time":"2026-01-05T12:00:00.250+01:00",'
            '"received_at":"2026-01-05T12:01:00+01:00",'
            '"user_id":7,"item_id":"p1","behavior":"purchase","order_id":"o1","price":9.5,"currency":"EUR",'
            '"title":"鞋","colour":"red"}\n'
            "\n"
            '{"event_id":"e2","event_time":null,"user_id":7,"item_id":"p1","behavior":"click"}\n'
            "[1]\n",
            "events",
            [
                (
                    1,
                    {
                        "event_at": datetime(2026, 1, 5, 11, 0, 0, 250_000),
                        "received_at": datetime(2026, 1, 5, 11, 1),
                        "user": "7",
                        "order": "o1",
                        "title": "鞋",
                        "currency": "EUR",
                        "extra": '{"colour":"red"}',
                    },
                )
            ],
            [(3, "missing_value", "event_time", None), (4, "bad_json", "line", None)],
        )
    ],
    "nightshelf_parquet": [
        (
            "web.parquet",
            parquet(
                event_time=pa.array(
                    [datetime(2026, 1, 5, 12), datetime(2026, 1, 5, 13), None], pa.timestamp("us", "UTC")
                ),
                user_id=pa.array([1, None, 3]),
                item_id=pa.array(["p1", "p2", "p3"]),
                behavior=pa.array(["click"] * 3),
                price=pa.array([1.5, 2.5, 3.5]),
                shop=pa.array(["a", "b", "c"]),
            ),
            "events",
            [(1, {"event_at": datetime(2026, 1, 5, 12), "user": "1", "price": 1.5, "extra": '{"shop":"a"}'})],
            [(2, "missing_value", "user_id", None), (3, "missing_value", "event_time", None)],
        )
    ],
    "nightshelf_catalogue": [
        (
            "catalogue-2026-01-05.csv",
            "item_id,valid_from,title,description,category,brand,price,currency,in_stock\n"
            'p1,2026-01-05,"Mug, blue","A ""fine"" mug",Kitchen > Mugs,Acme,7.50,EUR,true\n'
            "p2,,Plate,,Kitchen > Plates,,,EUR,no\n"
            "p3,2026-13-01,Bowl,,Kitchen,,1,EUR,1\n"
            "p4,2026-01-05,Bowl,,Kitchen,,1,EUR,perhaps\n",
            "products",
            [
                (
                    2,
                    {
                        "item_id": "p1",
                        "valid_from": date(2026, 1, 5),
                        "title": "Mug, blue",
                        "description": 'A "fine" mug',
                        "category": "Kitchen > Mugs",
                        "brand": "Acme",
                        "price": 7.5,
                        "currency": "EUR",
                        "in_stock": True,
                    },
                ),
                (3, {"item_id": "p2", "valid_from": None, "brand": None, "price": None, "in_stock": False}),
            ],
            [(4, "bad_time", "valid_from", "9999-99-99"), (5, "wrong_type", "in_stock", "aaaaaaa")],
        )
    ],
    "shop_app_jsonl": [
        (
            "app-2026-01-05.jsonl",
            '{"id": "a1", "ts": 1767610800250, "sent_at": 1767610805000, "user": {"id": "u1"}, '
            '"session": "s1", "action": "tap", "product": {"sku": "p1", "price": 9.99}, "qty": 1}\n'
            '{"id": "a2", "ts": 1767610800000, "sent_at": 1767610805000, "user": {"id": "u1", "vip": true}, '
            '"session": "s1", "action": "order", "product": {"sku": "p1", "price": 9.99}, "qty": 2}\n'
            '{"id": "a3", "ts": "a while ago", "sent_at": 1, "user": {"id": "u1"}, "action": "tap", '
            '"product": {"sku": "p1"}}\n'
            '{"id": "a4", "ts": 1767610800000, "user": {"id": "u1"}, "action": "tap", "product": []}\n'
            '{"id": "a5", "ts": 1767610800000, "user": {"id": "u1"}, "action": "tap", '
            '"product": {"sku": "p1", "price": "9,99 €"}}\n'
            '{"id": "a6", "ts": 17676108\n',
            "events",
            [
                (
                    1,
                    {
                        "event_id": "a1",
                        "event_at": datetime(2026, 1, 5, 11, 0, 0, 250_000),
                        "received_at": datetime(2026, 1, 5, 11, 0, 5),
                        "user": "u1",
                        "session": "s1",
                        "item_id": "p1",
                        "behavior": "tap",
                        "price": 9.99,
                        "quantity": 1.0,
                        "extra": None,
                    },
                ),
                (2, {"behavior": "order", "quantity": 2.0, "extra": '{"product":{},"user":{"vip":true}}'}),
            ],
            [
                (3, "bad_time", "ts", "a aaaaa aaa"),
                (4, "missing_value", "product.sku", None),
                (5, "bad_number", "product.price", "9,99 €"),
                (6, "bad_json", "line", None),
            ],
        )
    ],
    "rees46": [
        (
            "2019-Oct.csv.gz",
            "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
            "2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,"
            "72d76fde-8bb3-4e00-8c23-a032dfed738c\n"
            "2019-10-01 00:00:00 "
            "UTC,view,3900821,2053013552326770905,appliances.environment.water_heater,aqua,33.20,"
            "554748717,9333dfbd-b87a-4708-9857-6336556b0fcc\n"
            "2019-10-01 02:50:00 "
            "UTC,view,10900305,2053013555069845885,appliances.kitchen.mixer,elenberg,25.71,52040330",
            "events",
            [
                (
                    2,
                    {
                        "event_at": datetime(2019, 10, 1),
                        "day": date(2019, 10, 1),
                        "behavior": "view",
                        "item_id": "44600062",
                        "category": None,
                        "brand": "shiseido",
                        "price": 35.79,
                        "user": "541312140",
                        "session": "72d76fde-8bb3-4e00-8c23-a032dfed738c",
                        "extra": '{"category_id":"2103807459595387724"}',
                    },
                ),
                (3, {"category": "appliances > environment > water_heater"}),
            ],
            [(4, "column_count", None, None)],
        )
    ],
    "online_retail": [
        (
            "data.csv.gz",
            (
                "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\r\n"
                "536365,85123A,WHITE HANGING HEART T-LIGHT HOLDER,6,12/1/2010 8:26,2.55,17850,United "
                "Kingdom\r\n"
                '536381,82567,"AIRLINE LOUNGE,METAL SIGN",2,7/1/2011 9:41,2.1,15311,EIRE\r\n'
                "C536379,D,Discount,-1,12/1/2010 9:41,27.5,14527,United Kingdom\r\n"
                "536414,22139,,56,12/1/2010 11:52,0,,United Kingdom\r\n"
                "536365,22139,CAFÉ £5 SIGN ,1,12/1/2010 11:52,1,17850,United Kingdom\r\n"
            ).encode("latin-1"),
            "events",
            [
                (
                    2,
                    {
                        "event_at": datetime(2010, 12, 1, 8, 26),
                        "behavior": "purchase",
                        "item_id": "85123A",
                        "title": "WHITE HANGING HEART T-LIGHT HOLDER",
                        "price": 2.55,
                        "quantity": 6.0,
                        "currency": "GBP",
                        "user": "17850",
                        "order": "536365",
                        "extra": '{"Country":"United Kingdom"}',
                    },
                ),
                # British summer time
                (3, {"event_at": datetime(2011, 7, 1, 8, 41), "title": "AIRLINE LOUNGE,METAL SIGN"}),
                (4, {"quantity": -1.0, "order": "C536379"}),
                (6, {"title": "CAFÉ £5 SIGN"}),
            ],
            [(5, "missing_value", "CustomerID", None)],
        )
    ],
    "online_retail_ii": [
        (
            "online_retail_II.csv",
            "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n"
            "489434,85048,15CM CHRISTMAS GLASS BALL 20 LIGHTS,12,2009-12-01 07:45:00,6.95,13085.0,United "
            "Kingdom\n"
            # December or January: who knows?
            "489434,85048,15CM CHRISTMAS GLASS BALL 20 LIGHTS,12,12/1/2009 07:45,6.95,13085.0,France\n",
            "events",
            [
                (
                    2,
                    {
                        "event_at": datetime(2009, 12, 1, 7, 45),
                        "item_id": "85048",
                        "price": 6.95,
                        "user": "13085.0",
                        "order": "489434",
                        "currency": "GBP",
                        "behavior": "purchase",
                    },
                )
            ],
            [(3, "bad_time", "InvoiceDate", "99/9/9999 99:99")],
        )
    ],
    "retailrocket": [
        (
            "events.csv",
            "timestamp,visitorid,event,itemid,transactionid\n"
            "1433221332117,257597,view,355908,\n"
            "1433222276276,599528,transaction,356475,4000\n",
            "events",
            [
                (
                    2,
                    {
                        "event_at": datetime(2015, 6, 2, 5, 2, 12, 117_000),
                        "user": "257597",
                        "behavior": "view",
                        "item_id": "355908",
                        "order": None,
                    },
                ),
                (3, {"behavior": "transaction", "order": "4000"}),
            ],
            [],
        )
    ],
    "otto": [
        (
            "otto-recsys-train.jsonl",
            '{"session":0,"events":[{"aid":1517085,"ts":1659304800025,"type":"clicks"},'
            '{"aid":1563459,"ts":1659304904511,"type":"carts"},{"aid":1,"type":"orders"}]}\n'
            '{"session":1,"events":[]}\n',
            "events",
            [
                (
                    1,
                    {
                        "event_at": datetime(2022, 7, 31, 22, 0, 0, 25_000),
                        "day": date(2022, 8, 1),
                        "user": "0",
                        "session": "0",
                        "item_id": "1517085",
                        "behavior": "clicks",
                        "extra": None,
                    },
                ),
                (1, {"item_id": "1563459", "behavior": "carts"}),
            ],
            [(1, "missing_value", "events.ts", None), (2, "missing_value", "events", None)],
        )
    ],
    "taobao": [
        (
            "UserBehavior.csv",
            "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,buy,1511561733\n1,1,1,fav,1497870000\n",
            "events",
            [
                (
                    1,
                    {
                        "event_at": datetime(2017, 11, 24, 17, 21, 10),
                        "user": "1",
                        "item_id": "2268318",
                        "category": "2520377",
                        "behavior": "pv",
                    },
                ),
                (2, {"behavior": "buy"}),
            ],
            [(3, "outside_window", "timestamp", "9999999999")],
        )
    ],
    "movielens_100k": [
        (
            "u.data",
            "196\t242\t3\t881250949\n186\t302\tx\t891717742\n",
            "events",
            [
                (
                    1,
                    {
                        "event_at": datetime(1997, 12, 4, 15, 55, 49),
                        "user": "196",
                        "item_id": "242",
                        "behavior": "rating",
                        "rating": 3.0,
                        "extra": None,
                    },
                )
            ],
            [(2, "bad_number", "rating", "a")],
        ),
        (
            "u.item",
            MOVIES_100K.encode("latin-1"),
            "products",
            [
                (
                    1,
                    {
                        "item_id": "1",
                        "title": "Toy Story (1995)",
                        "category": "Animation > Children's > Comedy",
                    },
                ),
                (2, {"title": "Misérables, Les (1995)", "category": "Drama > Musical"}),
                (3, {"category": None, "extra": None}),
            ],
            [],
        ),
    ],
    "movielens_1m": [
        (
            "ratings.dat",
            "1::1193::5::978300760\n1::661::3\n",
            "events",
            [
                (
                    1,
                    {
                        "event_at": datetime(2000, 12, 31, 22, 12, 40),
                        "user": "1",
                        "item_id": "1193",
                        "rating": 5.0,
                    },
                )
            ],
            [(2, "column_count", None, None)],
        ),
        (
            "movies.dat",
            (
                "1::Toy Story (1995)::Animation|Children's|Comedy\n"
                "73::Misérables, Les (1995)::Drama|Musical\n"
            ).encode("latin-1"),
            "products",
            [
                (1, {"title": "Toy Story (1995)", "category": "Animation > Children's > Comedy"}),
                (2, {"title": "Misérables, Les (1995)"}),
            ],
            [],
        ),
    ],
    "movielens_latest": [
        (
            "ratings.csv",
            "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n",
            "events",
            [
                (
                    2,
                    {
                        "event_at": datetime(2000, 7, 30, 18, 45, 3),
                        "rating": 4.0,
                        "behavior": "rating",
                        "user": "1",
                    },
                )
            ],
            [],
        ),
        (
            "movies.csv",
            'movieId,title,genres\n11,"American President, The (1995)",Comedy|Drama|Romance\n',
            "products",
            [(2, {"title": "American President, The (1995)", "category": "Comedy > Drama > Romance"})],
            [],
        ),
    ],
    "google_merch": [
        (
            "cleaned_events.csv.zip",
            zipped(
                "cleaned_events.csv",
                "user_id,ga_session_id,country,device,type,item_id,date\r\n"
                "2133,16909,US,mobile,purchase,94,2020-11-01 00:27:14\r\n",
            ),
            "events",
            [
                (
                    2,
                    {
                        "event_at": datetime(2020, 11, 1, 0, 27, 14),
                        "user": "2133",
                        "session": "2133 16909",
                        "behavior": "purchase",
                        "item_id": "94",
                        "extra": '{"country":"US","device":"mobile"}',
                    },
                )
            ],
            [],
        ),
        (
            "cleaned_items.csv",
            "id,name,brand,variant,category,price_in_usd\n3,Google Unisex Eco Tee Black,Google, "
            "LG,Apparel,22\n",
            "products",
            [
                (
                    2,
                    {
                        "item_id": "3",
                        "title": "Google Unisex Eco Tee Black",
                        "brand": "Google",
                        "category": "Apparel",
                        "price": 22.0,
                        "currency": "USD",
                        "extra": '{"variant":" LG"}',
                    },
                )
            ],
            [],
        ),
    ],
}


NAMESPACES = {
    "rees46": "rees46",
    "online_retail": "online_retail",
    "online_retail_ii": "online_retail",
    "retailrocket": "retailrocket",
    "otto": "otto",
    "taobao": "taobao",
    "movielens_100k": "movielens_100k",
    "movielens_1m": "movielens_1m",
    "movielens_latest": "movielens_latest",
    "google_merch": "google_merch",
}
"""Of other people's data; Nightshelf's own formats tell of the shop's own shoppers."""


def test_user_1_of_one_publisher_is_nobody_elses(home: Home) -> None:
    found = {name: source.namespace for name, source in read_sources(home)[0].items()}
    assert {name: space for name, space in found.items() if space != "shop"} == NAMESPACES


def test_every_shipped_source_has_a_sample(home: Home) -> None:
    assert set(SAMPLES) == set(read_sources(home)[0]) == {file.stem for file in SHIPPED.glob("*.yaml")}


def test_samples_become_exactly_these_rows(
    home: Home, drop: Callable[..., Path], rows: Callable[..., list[dict[str, Any]]]
) -> None:
    for source, files in SAMPLES.items():
        for name, content, *_ in files:
            drop(source, name, content)
    taken = {outcome.file: outcome for outcome in raw_zone.take_in_all(home)}
    key = IdentityKey.load(home)
    for source, files in SAMPLES.items():
        for name, _, kind, expected, refused in files:
            outcome = taken[f"{source}/{name}"]
            found = rows(kind, outcome.load_id)
            assert [row["line"] for row in found] == [line for line, _ in expected], outcome
            for row, (_, holds) in zip(found, expected, strict=True):
                assert row["source"] == source
                wanted = _with_pseudonyms(holds, key, NAMESPACES.get(source, "shop"))
                assert {field: row[field] for field in wanted} == wanted
            rejects = [
                (r["line"], r["reason"], r["field"], r["value"]) for r in rows("rejects", outcome.load_id)
            ]
            assert rejects == refused, outcome
            assert outcome.adds_up
            assert (outcome.rows_loaded, outcome.rows_refused) == (len(expected), len(refused))
            assert outcome.kind == kind
            assert outcome.status == ("partly_loaded" if refused else "loaded")


def _with_pseudonyms(holds: dict[str, Any], key: IdentityKey, namespace: str) -> dict[str, Any]:
    spaces = {"user": namespace, "session": f"{namespace}/session", "order": f"{namespace}/order"}
    return {
        f"{name}_key" if name in spaces else name: key.pseudonym(value, spaces[name])
        if name in spaces and value is not None
        else value
        for name, value in holds.items()
    }


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("retailrocket", "item_properties_part1.csv"),
        ("retailrocket", "category_tree.csv"),
        ("movielens_100k", "u.user"),
        ("movielens_1m", "users.dat"),
        ("google_merch", "cleaned_users.csv.zip"),
    ],
)
def test_files_that_come_along_are_left_out_with_a_reason(
    home: Home, drop: Callable[..., Path], source: str, name: str
) -> None:
    drop(source, name, "a,b\n1,2\n")
    (outcome,) = raw_zone.take_in_all(home)
    assert (outcome.status, outcome.reason) == ("refused", "not_used")
    assert outcome.detail
    assert outcome.rows_loaded == 0
