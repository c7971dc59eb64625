"""When and where Nightshelf runs: definitions, jobs, schedule, sensors, executor, command line."""

import warnings

from resources.devices import collect_less_often

collect_less_often()
# Dagster is held to one minor version; that a part of it is young tells nothing to those who run a shop.
warnings.filterwarnings("ignore", message=r".*is currently in (beta|preview)")
# Meant so: a backfill of the whole night goes day by day, one of the tables alone is a single run.
warnings.filterwarnings(
    "ignore", message=r"Asset job nightly materializes assets with varying BackfillPolicies"
)
