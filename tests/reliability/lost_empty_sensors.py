"""As many sensors as Nightshelf has, that do nothing but look at the runs: what Dagster itself needs."""

import dagster as dg


def empty(number: int) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"empty_{number}",
        job_name="nothing",
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def nothing_to_do(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        context.instance.get_runs_count()
        return dg.SkipReason("nothing")

    return nothing_to_do


@dg.job
def nothing() -> None: ...


defs = dg.Definitions(jobs=[nothing], sensors=[empty(n) for n in range(5)])
