"""A failed run is told of, with its cause, to a real web server."""

import dagster as dg
import pytest

from orchestration.sensors import run_failure
from resources.notifier import NotificationError, Notifier
from tests.servers import Inbox


@dg.asset
def broken() -> dg.MaterializeResult:
    raise dg.Failure("the day has no events; drop its file and run the night again", allow_retries=False)


def failed(instance: dg.DagsterInstance, tags: dict[str, str]) -> dg.RunFailureSensorContext:
    job = dg.Definitions(assets=[broken], jobs=[dg.define_asset_job("nightly", "*")]).resolve_job_def(
        "nightly"
    )
    result = job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    assert not result.success
    return dg.build_run_status_sensor_context(
        sensor_name="run_failure",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=result.dagster_run,
    ).for_run_failure()


def test_the_message_says_which_run_which_day_and_why(instance: dg.DagsterInstance, web: Inbox) -> None:
    context = failed(instance, {"dagster/partition": "2026-01-14"})
    assert run_failure(context, notifier=Notifier(webhook_url=web.url)) is None
    ((_, _, body),) = web.got
    assert body["title"] == "My shop: nightly 2026-01-14 failed"
    assert "broken: the day has no events; drop its file" in body["text"]
    assert body["link"] == f"http://127.0.0.1:3000/runs/{context.dagster_run.run_id}"


def test_a_run_that_is_tried_again_is_not_told_of(instance: dg.DagsterInstance, web: Inbox) -> None:
    context = failed(instance, {"dagster/will_retry": "true"})
    skipped = run_failure(context, notifier=Notifier(webhook_url=web.url))
    assert isinstance(skipped, dg.SkipReason) and "tried again by itself" in str(skipped.skip_message)
    assert web.got == []


def test_a_service_that_is_away_for_a_moment_gets_the_news(instance: dg.DagsterInstance, web: Inbox) -> None:
    context = failed(instance, {})
    web.failures = 1
    assert run_failure(context, notifier=Notifier(webhook_url=web.url)) is None
    assert len(web.got) == 2


def test_a_channel_that_fails_makes_the_tick_fail(instance: dg.DagsterInstance, web: Inbox) -> None:
    web.status = 503
    with pytest.raises(NotificationError, match="HTTP Error 503"):
        run_failure(failed(instance, {}), notifier=Notifier(webhook_url=web.url))
