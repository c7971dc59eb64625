"""The instance in the home: settings copied once, pool limits set, and their absence told."""

from __future__ import annotations

from orchestration.instance import POOL_LIMITS, broken_limits, instance_of, prepare_instance
from resources.home import Home


def test_limits_are_set_told_when_missing_and_set_again(home: Home) -> None:
    folder = prepare_instance(home)
    assert folder == home.dagster
    with instance_of(home) as instance:
        assert broken_limits(instance) == {}
        instance.event_log_storage.delete_concurrency_limit("warehouse")
        assert broken_limits(instance) == {"warehouse": None}
        instance.event_log_storage.set_concurrency_slots("warehouse", 5)
        assert broken_limits(instance) == {"warehouse": 5}
    prepare_instance(home)
    with instance_of(home) as instance:
        assert broken_limits(instance) == {}
        assert {p.name: p.limit for p in instance.event_log_storage.get_pool_limits()} == POOL_LIMITS


def test_settings_hold_and_an_edited_file_is_kept(home: Home) -> None:
    settings = prepare_instance(home) / "dagster.yaml"
    with instance_of(home) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
        assert instance.run_retries_enabled and instance.run_retries_max_retries == 2
        assert not instance.run_retries_retry_on_asset_or_op_failure
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None and queue.tag_concurrency_limits == [{"key": "nightshelf/night", "limit": 1}]
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
    settings.write_text(settings.read_text() + "\n# mine\n")
    prepare_instance(home)
    assert settings.read_text().endswith("# mine\n")
