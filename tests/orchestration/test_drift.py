"""Outcomes beside the promise: trained again when the shelves fall short, once per champion and day."""

from datetime import date, timedelta

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster._core.test_utils import freeze_time

from assets.model.evaluation import Evaluation
from assets.model.promotion import evaluations
from assets.recommendations.outcomes import OUTCOMES
from orchestration import sensors
from orchestration.drift import drift
from resources.home import Home
from resources.model_store import ModelStore
from resources.notifier import Notifier
from tests.orchestration.test_sensors import NOON, run
from tests.servers import Inbox

TRAINED = date(2026, 1, 14)
PROMISED = 0.20


def champion(home: Home, day: date = TRAINED) -> str:
    """A model that serves from `day` on, with what its evaluation promised."""
    store = ModelStore(home)
    with store.stage() as folder:
        (folder / "config.json").write_text(f'{{"day": "{day}"}}')
        version = store.seal(folder, day)
    store.promote(day, version, promoted=True, reasons=["better than the best baseline"])
    methods = {
        "nightshelf": {"ndcg@10": 2 * PROMISED},  # before the shop's rules
        "shelf": {"ndcg@10": PROMISED},
        "popularity": {"ndcg@10": 0.05},
    }
    Evaluation(
        day=day,
        candidate=version,
        incumbent=None,
        users=10,
        methods=methods,
        comparisons={},
        calibration={},
        per_user=pa.table({"user_key": ["k1:a"]}),
    ).write(evaluations(home))
    return version


def outcome(home: Home, day: date, ndcg: float, version: str, shoppers: int = 9) -> None:
    row = dict.fromkeys(OUTCOMES.names) | {
        "day": day,
        "shelf_day": day - timedelta(days=1),
        "model_version": version,
        "ndcg_at_10": ndcg,
        "users_with_shelf": shoppers,
    }
    home.outcomes.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row], schema=OUTCOMES), home.outcomes / f"{day}.parquet")


def outcomes(home: Home, version: str, *ndcgs: float) -> None:
    for n, ndcg in enumerate(ndcgs):
        outcome(home, TRAINED + timedelta(days=1 + n), ndcg, version)


@pytest.mark.parametrize(
    ("ndcgs", "asks"),
    [
        ((0.19, 0.21, 0.18), False),
        ((0.141, 0.141, 0.141), False),  # thirty in a hundred less is allowed
        ((0.139, 0.139, 0.139), True),
        ((0.01, 0.02), False),  # too few days to tell
        ((0.01, 0.01, 0.01, *[0.20] * 7), False),  # long ago: only the last seven count
        (([0.20] * 4 + [0.05] * 6), True),
    ],
)
def test_trained_again_when_the_last_days_fall_short(
    home: Home, instance: dg.DagsterInstance, web: Inbox, ndcgs: tuple[float, ...], asks: bool
) -> None:
    version = champion(home)
    outcomes(home, version, *ndcgs)
    with freeze_time(NOON):
        requests, reason = look_for_drift(instance, web)
    if not asks:
        assert not requests and reason
        assert web.got == []
        return
    (request,) = requests
    assert request.partition_key == "2026-01-24"
    ((_, _, told),) = web.got
    assert "promised 0.2000" in told["text"]
    run(instance, "training", dg.DagsterRunStatus.FAILURE, dict(request.tags))
    with freeze_time(NOON):
        requests, reason = look_for_drift(instance, web)
    assert not requests and "acted on" in reason  # the same evidence is acted on once
    assert len(web.got) == 1


def test_a_service_that_is_away_does_not_keep_it_from_being_trained(
    home: Home, instance: dg.DagsterInstance, web: Inbox
) -> None:
    outcomes(home, champion(home), 0.01, 0.01, 0.01)
    web.status = 500
    with freeze_time(NOON):
        requests, _ = look_for_drift(instance, web)
    assert [request.partition_key for request in requests] == ["2026-01-24"]


def look_for_drift(instance: dg.DagsterInstance, web: Inbox) -> tuple[list[dg.RunRequest], str]:
    with dg.build_sensor_context(instance=instance, sensor_name="outcome_drift") as context:
        found = sensors.outcome_drift(context, notifier=Notifier(webhook_url=web.url))
    if isinstance(found, dg.SkipReason):
        return [], found.skip_message or ""
    return [found], ""


def test_only_shelves_of_the_model_that_serves_are_judged(home: Home) -> None:
    old = champion(home, TRAINED)
    outcomes(home, old, 0.01, 0.01, 0.01)
    new = champion(home, TRAINED + timedelta(days=3))
    assert drift(home, days=7) is None
    outcome(home, TRAINED + timedelta(days=4), 0.19, new)
    found = drift(home, days=7)
    assert found is not None
    assert (found.version, found.days, found.mean, found.promised) == (new, 1, 0.19, PROMISED)
    assert "NDCG@10 of the last 1 days is 0.1900" in found.in_words()


def test_a_day_without_shoppers_says_nothing(home: Home) -> None:
    version = champion(home)
    outcomes(home, version, 0.19, 0.19)
    outcome(home, TRAINED + timedelta(days=3), 0.0, version, shoppers=0)
    found = drift(home, days=7)
    assert found is not None and (found.days, found.mean) == (2, 0.19)


def test_nothing_to_compare_is_no_drift(home: Home, instance: dg.DagsterInstance, web: Inbox) -> None:
    assert drift(home, days=7) is None
    assert "Fewer than 3 days" in look_for_drift(instance, web)[1]
