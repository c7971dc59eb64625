"""What is checked before a shelf is published, and after."""

import dagster as dg

from assets.partitions import days_of, nights
from resources.home import Home


@dg.asset_check(asset="scored_recommendations", partitions_def=nights, blocking=True)
def every_shelf_is_whole(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Ranks run 1, 2, 3, … to the end; no item twice; probabilities in [0, 1]; all items known and in stock;
    every shopper has a shelf; the files are those of the manifest."""
    from assets.recommendations.scoring import audit_scores

    (day,) = days_of(context)
    return _result(audit_scores(Home.current(), day))


@dg.asset_check(asset="published_shelf", partitions_def=nights, blocking=True)
def published_file_opens_and_is_complete(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """The night's shelf opens read-only and holds every row that was scored; the file read is as new."""
    from assets.recommendations.shelf import audit_published, made_way

    (day,) = days_of(context)
    home = Home.current()
    gone = f"The shelf of {day} has made way: {home.shop.keep_shelves} newer ones are kept."
    return _result(audit_published(home, day), gone if made_way(home, day) else "Nothing is wrong.")


def _result(wrong: list[str], fine: str = "Nothing is wrong.") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not wrong,
        description="; ".join(wrong) or fine,
        metadata={"findings": dg.MetadataValue.json(wrong)},
    )
