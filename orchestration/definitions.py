"""The one Definitions object. It loads no torch, no transformers, no pandas: a test holds that."""

import os
from datetime import timedelta

import dagster as dg

from assets.logs import assets as logs
from assets.logs import checks as logs_checks
from assets.model import assets as model
from assets.model import checks as model_checks
from assets.partitions import SHOP
from assets.recommendations import assets as recommendations
from assets.recommendations import checks as recommendations_checks
from assets.warehouse import assets as warehouse
from orchestration import jobs
from orchestration.executors import executor_of
from orchestration.schedules import nightly_schedule
from orchestration.sensors import sensors
from resources.io_manager import NoPickle
from resources.notifier import Notifier

DEADLINES = {
    "raw_behavior_events": "0 4 * * *",
    "published_shelf": "0 6 * * *",
    "recommendation_outcomes": "0 6 * * *",
}
"""By when, on the shop's clock, last night's work must be there."""


def _with_deadline(spec: dg.AssetSpec) -> dg.AssetSpec:
    deadline = DEADLINES.get(spec.key.to_user_string())
    if deadline is None:
        return spec
    policy = dg.FreshnessPolicy.cron(
        deadline_cron=deadline, lower_bound_delta=timedelta(hours=6), timezone=SHOP.timezone
    )
    return spec.replace_attributes(freshness_policy=policy)


def _setting(name: str) -> str | dg.EnvVar:
    """An environment variable by name, so that the UI shows the name and never the secret; "" where unset."""
    return dg.EnvVar(name) if os.environ.get(name) else ""


notifier = Notifier(
    webhook_url=_setting("NIGHTSHELF_WEBHOOK_URL"),
    smtp_url=_setting("NIGHTSHELF_SMTP_URL"),
    mail_from=_setting("NIGHTSHELF_MAIL_FROM") or "nightshelf@localhost",
    mail_to=_setting("NIGHTSHELF_MAIL_TO"),
    ui_url=_setting("NIGHTSHELF_UI_URL") or "http://127.0.0.1:3000",
)

defs = dg.Definitions(
    assets=[
        made.map_asset_specs(_with_deadline) if isinstance(made, dg.AssetsDefinition) else made
        for made in dg.load_assets_from_modules([logs, warehouse, model, recommendations])
    ],
    asset_checks=dg.load_asset_checks_from_modules([logs_checks, model_checks, recommendations_checks]),
    jobs=[jobs.nightly, jobs.ingest, jobs.warehouse, jobs.training, jobs.recommendations, jobs.outcomes],
    schedules=[nightly_schedule],
    sensors=sensors,
    resources={**warehouse.RESOURCES, "io_manager": NoPickle(), "notifier": notifier},
    executor=executor_of(SHOP),
)
