"""The model stage: what a model may know, and the model trained on it."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.gates import require_passed
from assets.partitions import SHOP, day_before, days_of, look_back, nights
from assets.plots import picture
from resources.devices import TAG
from resources.home import Home
from resources.placement import training_tags
from resources.room import room

if TYPE_CHECKING:
    from assets.model.bundle import Bundle

OWNERS = ["team:ml"]

LEARNT_FROM = [
    ("marts", "fct_events"),
    ("labels", "lbl_behaviors"),
    ("marts", "dim_item_versions"),
    ("marts", "fct_popularity"),
    (
        "marts",
        "quality_funnel",
    ),  # nothing is read of it, but its checks say whether every row is accounted for
]


@dg.asset(
    partitions_def=nights,
    group_name="model",
    kinds={"duckdb", "parquet"},
    owners=OWNERS,
    deps=[dg.AssetDep(dg.AssetKey(key), partition_mapping=look_back) for key in LEARNT_FROM],
)
def training_snapshot(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """What a model of this day may know: the look-back days up to and including it, frozen.

    The folder is named after the hash of its content, so the same content is the same snapshot. A model made
    from it can be made again.
    """
    from assets.model.snapshot import write_snapshot
    from resources.warehouse import Warehouse

    require_passed(context)
    (day,) = days_of(context)
    home = Home.current()
    with room(home, "Writing the snapshot"):
        snapshot = write_snapshot(
            Warehouse(home, log=context.log.info), day, home.shop.history_days, home.snapshots
        )
    rows = snapshot.manifest["rows"]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(snapshot.id),
        metadata={
            "snapshot": snapshot.id,
            "path": dg.MetadataValue.path(str(snapshot.path)),
            "first day": snapshot.manifest["first_day"],
            "cut-off": snapshot.manifest["cut_off"],
            **{f"rows of {name}": count for name, count in rows.items()},
            "dagster/partition_row_count": rows["events"],
        },
    )


@dg.asset(
    partitions_def=nights,
    group_name="model",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    deps=[training_snapshot],
    op_tags=training_tags(SHOP.training),
)
def fine_tuned_model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """A text encoder fine-tuned on the shop's behaviour, and the recommender fitted on its item vectors.

    Trains in a child process on as many leased devices as its op tag asks for, or on the CPU where there is
    no GPU, and seals the result as a bundle. How is the recipe's business (`recipe` in shop.yaml). Where the
    day's bundle was made of the same snapshot, recipe, code and settings already, it is taken as it is.
    """
    from assets.model.bundle import WorkerError, make_bundle
    from assets.model.recipe import RecipeError
    from assets.model.report import loss_chart, report_chart, report_table
    from resources.text_encoder import EncoderError

    require_passed(context)
    (day,) = days_of(context)
    home = Home.current()
    try:
        with room(home, "Training the model"):
            bundle = make_bundle(home, day, context.log.info, int(context.op_def.tags[TAG]))
    except (RecipeError, EncoderError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except WorkerError as error:
        if not error.retry:
            raise dg.Failure(str(error), allow_retries=False) from error
        # Not a RetryPolicy: Dagster would apply that to a run that somebody has stopped, too.
        raise dg.RetryRequested(max_retries=1, seconds_to_wait=30) from error
    test = bundle.metrics["test"]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(bundle.version),
        metadata={
            "version": bundle.version,
            "snapshot": bundle.snapshot.id,
            "path": dg.MetadataValue.path(str(bundle.path)),
            "device": bundle.trained_on,
            "loss": picture(loss_chart(bundle.curve), "loss over steps"),
            "report": dg.MetadataValue.md(report_table(test)),
            "report chart": picture(report_chart(test), "precision, recall and F1 on the test day"),
            "macro F1": test["macro"]["f1"],
            "steps": bundle.metrics["steps"],
            "examples": bundle.metrics["examples"]["train"],
            **(_speed(bundle) if bundle.speed else {}),
        },
    )


MEMORY = {"memory_mib": "peak memory", "device_memory_mib": "peak memory of the GPU"}


def _speed(bundle: "Bundle") -> dict[str, str | float]:
    """Metadata about the training itself."""
    speed = bundle.speed
    return {
        "examples per second": speed["examples_per_second"],
        "tokens per second": speed["tokens_per_second"],
        "non-padding tokens per second": speed["real_tokens_per_second"],
        "padding": speed["padding"],
        "model FLOPs utilisation": speed["mfu"],
        "peak of the device": bundle.peak,
        "training seconds": speed["train_seconds"],
        "encoding seconds": speed["vector_seconds"],
        "seconds of the sequence model": speed["sequence_seconds"],
        **{f"{name} (MiB)": speed[key] for key, name in MEMORY.items() if key in speed},
    }


@dg.asset(
    partitions_def=nights,
    group_name="model",
    kinds={"python", "numpy"},
    owners=OWNERS,
    deps=[training_snapshot, fine_tuned_model],
)
def model_evaluation(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """How good the night's model is on the newest day, by full ranking, beside incumbent and baselines.

    All methods know the days before and nothing of the day itself. Figures of each shopper are kept for the
    paired comparison. The row `shelf` is the candidate's list as published, ordered by value and under the
    rules: what the outcomes of its nights can be compared with.
    """
    from assets.model.promotion import (
        calibration_table,
        evaluate_night,
        figures_chart,
        figures_table,
    )

    require_passed(context)
    (day,) = days_of(context)
    home = Home.current()
    with room(home, "Measuring the model"):
        evaluation = evaluate_night(home, day, context.log.info)
    best = evaluation.methods[evaluation.best_baseline]["ndcg@10"]
    return dg.MaterializeResult(
        metadata={
            "figures": dg.MetadataValue.md(figures_table(evaluation)),
            "chart": picture(figures_chart(evaluation), "NDCG@10 and recall@10 of each method"),
            "calibration": dg.MetadataValue.md(calibration_table(evaluation)),
            "candidate": evaluation.candidate,
            "incumbent": evaluation.incumbent or "none",
            "ndcg@10": evaluation.methods["nightshelf"]["ndcg@10"],
            "ndcg@10 of the shelf": evaluation.methods["shelf"]["ndcg@10"],
            "best baseline": evaluation.best_baseline,
            "best baseline ndcg@10": best,
            "shoppers": evaluation.users,
            "dagster/partition_row_count": evaluation.users,
        }
    )


@dg.asset(
    partitions_def=nights,
    group_name="model",
    kinds={"python"},
    owners=OWNERS,
    # On itself, where the incumbent is decided: a backfill goes from the oldest day to the newest.
    deps=[model_evaluation, dg.AssetDep("champion_model", partition_mapping=day_before)],
)
def champion_model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Who serves from this night on: the candidate if the gate lets it pass, else the incumbent.

    The gate asks that the candidate be no worse than the incumbent, better than the best baseline, calibrated
    and not too narrow. The very first model serves in any case, provisionally, for a shop wants
    a shelf.
    """
    from assets.model.promotion import promote_night
    from resources.model_store import ModelStore

    require_passed(context)
    (day,) = days_of(context)
    home = Home.current()
    with room(home, "Choosing the champion"):
        evaluation, decision = promote_night(home, day, context.log.info)
    champion = ModelStore(home).champion(day)
    return dg.MaterializeResult(
        metadata={
            "champion": champion.version if champion else "none",
            "candidate": evaluation.candidate,
            "promoted": decision.promote,
            "passed the gate": decision.passed,
            "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in decision.reasons)),
            "ndcg@10": evaluation.methods["nightshelf"]["ndcg@10"],
        }
    )
