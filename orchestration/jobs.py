"""What can be run as a whole: a night, and each stage of it."""

import dagster as dg

ONE_AT_A_TIME = {"nightshelf/night": "true"}
"""Run tag that `dagster.yaml` lets through one at a time, oldest first: a night's gate looks at the last."""

ingest = dg.define_asset_job(
    "ingest",
    selection=dg.AssetSelection.assets("ingest_outcomes", "raw_products"),
    description="Takes in every whole file that lies in the drop folder.",
)

warehouse = dg.define_asset_job(
    "warehouse",
    selection=dg.AssetSelection.assets("raw_behavior_events") | dg.AssetSelection.groups("warehouse"),
    description="Cleaned and labelled tables of a day, or of a window of days in one run.",
)

training = dg.define_asset_job(
    "training",
    selection=dg.AssetSelection.groups("model"),
    tags=ONE_AT_A_TIME,
    description="Snapshot, fine-tuning, evaluation and gate as of one day.",
)

recommendations = dg.define_asset_job(
    "recommendations",
    selection=dg.AssetSelection.groups("recommendations"),
    tags=ONE_AT_A_TIME,
    description="Scores, the published shelf and yesterday's outcomes, with the model that serves.",
)

outcomes = dg.define_asset_job(
    "outcomes",
    selection=dg.AssetSelection.assets("recommendation_outcomes"),
    description="What became of the shelf of the day before, once more: rows of the day came late.",
)

nightly = dg.define_asset_job(
    "nightly",
    selection=dg.AssetSelection.all(),
    tags=ONE_AT_A_TIME,
    description="One night from raw logs to the published shelf.",
)
