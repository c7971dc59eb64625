"""Scores, shelf and outcomes as assets."""

from collections.abc import Iterator

import dagster as dg

from assets.gates import require_passed
from assets.partitions import day_before, days_of, nights
from assets.plots import picture
from resources.home import Home
from resources.room import room

OWNERS = ["team:ml"]
GROUP = "recommendations"
BEHAVIORS = dg.AssetKey(["labels", "lbl_behaviors"])


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "scored_recommendations",
            deps=["training_snapshot", "champion_model"],
            description="Every shopper's shelf: user, rank, item, score, P(browse), P(click), "
            "P(purchase), value, a reason, model version and snapshot. Unknown shoppers share an empty key.",
            owners=OWNERS,
            kinds={"python", "parquet"},
        ),
        dg.AssetSpec(
            "similar_items",
            deps=["training_snapshot", "champion_model"],
            description="The ten items nearest to each item, in words and in sessions.",
            owners=OWNERS,
            kinds={"python", "parquet"},
        ),
    ],
    partitions_def=nights,
    group_name=GROUP,
)
def scores(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    """Both tables come from one pass over the shoppers and are put in place by one rename."""
    from assets.recommendations.scoring import RECOMMENDATIONS, SIMILAR, score

    require_passed(context)
    (day,) = days_of(context)
    home = Home.current()
    with room(home, "Scoring"):
        scored = score(home, day, context.log.info)
    for asset, file in (("scored_recommendations", RECOMMENDATIONS), ("similar_items", SIMILAR)):
        table = scored.table(file)
        yield dg.MaterializeResult(
            asset_key=asset,
            metadata={
                "dagster/partition_row_count": table.num_rows,
                "path": dg.MetadataValue.path(scored.path / file),
                "first rows": dg.MetadataValue.md(table.slice(0, 10).to_pandas().to_html(index=False)),
                "model version": scored.manifest["model_version"],
                "snapshot": scored.manifest["snapshot_id"],
            },
            data_version=dg.DataVersion(scored.manifest["sha256"][file][:16]),
        )


@dg.asset(
    partitions_def=nights,
    group_name=GROUP,
    kinds={"python", "duckdb"},
    owners=OWNERS,
    deps=["scored_recommendations", "similar_items", "recommendation_outcomes"],
)
def published_shelf(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The file that people and tools read: built aside, audited, put in place by one rename, kept for undo.

    A past night's shelf is built and kept, but does not replace a newer one.
    """
    from assets.recommendations.shelf import publish

    require_passed(context)
    (day,) = days_of(context)
    home = Home.current()
    with room(home, "Publishing the shelf"):
        publication = publish(home, day, context.log.info)
    return dg.MaterializeResult(
        metadata={
            "dagster/partition_row_count": publication.rows["recommendations"],
            "path": dg.MetadataValue.path(home.published),
            "shelf": dg.MetadataValue.path(publication.shelf),
            "is being read": publication.served,
            "model version": publication.model_version,
            "rows": dg.MetadataValue.json(publication.rows),
            "removed": dg.MetadataValue.json(publication.removed),
        }
    )


@dg.asset(
    partitions_def=nights,
    group_name=GROUP,
    kinds={"python", "duckdb"},
    owners=OWNERS,
    deps=[dg.AssetDep("scored_recommendations", partition_mapping=day_before), BEHAVIORS],
)
def recommendation_outcomes(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """What became of yesterday's shelf: recall, NDCG, hit rate, conversion, revenue and coverage."""
    from assets.recommendations.outcomes import (
        labels_of,
        outcomes_until,
        plot_outcomes,
        write_outcome,
    )

    require_passed(context)
    (day,) = days_of(context)
    home = Home.current()
    with room(home, "Writing the outcomes"):
        row = write_outcome(home, day, labels_of(home, day))
    if row is None:
        note = f"There was no shelf on the day before {day}, so there is nothing to judge."
        context.log.info(note)
        return dg.MaterializeResult(metadata={"dagster/partition_row_count": 0, "note": note})
    figures = row.drop_columns(["day", "shelf_day"]).to_pylist()[0]
    return dg.MaterializeResult(
        metadata={
            **figures,
            "dagster/partition_row_count": 1,
            "curves": picture(plot_outcomes(outcomes_until(home, day)), "Outcomes over the days"),
        }
    )
