"""What is checked of the model that serves."""

import dagster as dg

from assets.partitions import days_of, nights
from resources.home import Home


@dg.asset_check(asset="champion_model", partitions_def=nights)
def candidate_beats_incumbent_and_baselines(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """The night's candidate passed the gate. If not, this warns and says why; a model still serves.

    It says so, too, where another model was put back by hand, which serves then in any case.
    """
    from assets.model.evaluation import Evaluation
    from assets.model.gate import decide
    from assets.model.promotion import evaluations
    from resources.model_store import ModelStore

    (day,) = days_of(context)
    decision = decide(Evaluation.load(evaluations(Home.current()), day))
    champion = ModelStore(Home.current()).champion(day)
    by_hand = [champion.rollback.words] if champion and champion.rollback else []
    return dg.AssetCheckResult(
        passed=decision.passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join([*by_hand, *decision.reasons]),
        metadata={"promoted": champion is not None and champion.version == champion.candidate},
    )


@dg.asset_check(asset="champion_model", partitions_def=nights, blocking=True)
def serving_bundle_is_what_was_sealed(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Every file of the serving bundle has the SHA-256 that its manifest names."""
    from resources.model_store import BundleError, ModelStore, TamperedBundleError

    (day,) = days_of(context)
    store = ModelStore(Home.current())
    champion = store.champion(day)
    if champion is None:
        return dg.AssetCheckResult(passed=False, description=f"No model serves on {day}.")
    try:
        store.path(champion.version)
    except (FileNotFoundError, BundleError, TamperedBundleError) as error:
        return dg.AssetCheckResult(
            passed=False, description=str(error), metadata={"version": champion.version}
        )
    return dg.AssetCheckResult(
        passed=True, description="All files are as sealed.", metadata={"version": champion.version}
    )
