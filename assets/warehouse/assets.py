"""The dbt project as assets: cleaned, labelled and standardised tables, a window of nights in one dbt run."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from datetime import date
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import dagster as dg
from dagster_dbt import (
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    DbtCliInvocation,
    DbtCliResource,
    DbtProject,
    dbt_assets,
    utils,
)
from dagster_dbt.core.dbt_event_iterator import DbtEventIterator
from packaging.version import Version

from assets.gates import require_passed
from assets.partitions import days_of, nights
from assets.warehouse.project import (
    COMMAND,
    DBT,
    build_args,
    environment,
    keep_columns,
    keep_parsed,
    known_columns,
    manifest,
    project_version,
    rows_by_day,
    take_parsed,
    window,
)
from resources.crash import crash_point
from resources.home import Home
from resources.room import lack, room
from resources.warehouse import Warehouse

PROJECT = DbtProject(DBT)

_OF_COLUMNS = ("dagster/column_schema", "dagster/column_lineage")


class Translator(DagsterDbtTranslator):
    """How a dbt node shows in the asset graph: key `schema/name`, one group, its layer as a tag."""

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None
    ) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        layer = spec.key.path[0] if len(spec.key.path) > 1 else "raw"
        return spec.replace_attributes(owners=["team:data"]).merge_attributes(tags={"layer": layer})

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        return "warehouse"


class Dbt(DbtCliResource):
    """dbt of this Python. Its version is looked up; asking it takes seconds and tries the network."""

    @cached_property
    def _cli_version(self) -> Version:
        return Version(version("dbt-core"))

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> Any:
        """Not yet: it costs seconds, and only columns that are not known ask for it."""
        return None

    def adapter(self) -> Any:
        """dbt's own connection to the warehouse, to read from; asked for in the project's folder."""
        return super()._initialize_dbt_core_adapter(build_args())


# The rest of COMMAND goes before dbt's own words: so dbt is started by what ends it with this process.
RESOURCES = {"dbt": Dbt(project_dir=str(DBT), dbt_executable=COMMAND[0], global_config_flags=[*COMMAND[1:]])}


@contextmanager
def _selected_by_manifest() -> Iterator[None]:
    """Where dagster-dbt finds dbt, it loads dbt's selection engine to see that the whole project is selected,
    most of what our definitions take to load. Without dbt it reads that off the manifest.
    """
    found, utils.DBT_PYTHON_VERSION = utils.DBT_PYTHON_VERSION, None  # type: ignore[assignment]
    try:
        yield
    finally:
        utils.DBT_PYTHON_VERSION = found


with _selected_by_manifest():
    _tables = dbt_assets(
        manifest=manifest(),
        project=PROJECT,
        name="dbt_build",
        partitions_def=nights,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool="warehouse",
        retry_policy=dg.RetryPolicy(max_retries=1, delay=20),
        dagster_dbt_translator=Translator(
            settings=DagsterDbtTranslatorSettings(
                # raw.rejects and raw.ingest_outcomes come from one asset.
                enable_duplicate_source_asset_keys=True,
                enable_code_references=True,
            )
        ),
    )


@_tables
def dbt_build(context: dg.AssetExecutionContext, dbt: Dbt) -> Iterator[Any]:
    """Rebuild the asked nights, however many, in one dbt run, and check them.

    Raises:
        dagster.Failure: a check on the rows failed; not retried, the rows would be the same.
    """
    from assets.logs.raw_zone import at_rest, prepare

    require_passed(context)
    home, days = Home.current(), days_of(context)
    crash_point("dbt.begun")
    # The models read the raw zone more than once: a file that came in between would not add up.
    with (
        room(home, "Building the tables"),
        Warehouse(home, log=context.log.info).lease(),
        at_rest(home, context.log.info),
    ):
        prepare(home)
        crash_point("dbt.leased")
        with _started(dbt, window(home, days[0], days[-1]), home, context) as invocation:
            crash_point("dbt.started")
            events, error = _drained(invocation)
        crash_point("dbt.ended")
        _report_rows(context, events, days, home)
        crash_point("dbt.rows_counted")
        columns = _columns(events, invocation, dbt, home)
        crash_point("dbt.columns_known")
        for event in events:
            if more := columns.get(_node(event)):
                # Told once of a window: kilobytes for each table and day would be most of Dagster's record.
                key = context.assets_def.keys_by_output_name[event.output_name]
                context.add_asset_metadata(more, key, partition_key=days[-1].isoformat())
            yield event
        if error:
            raise _verdict(events, error)
        crash_point("dbt.reported")
        keep_parsed(home, invocation.target_path)
        # Of a failed run, what dbt wrote is kept until another one has succeeded.
        shutil.rmtree(invocation.target_path.parent, ignore_errors=True)


@contextmanager
def _started(
    dbt: DbtCliResource, days: Mapping[str, str], home: Home, context: dg.AssetExecutionContext
) -> Iterator[DbtCliInvocation]:
    """dbt at work; it does not outlive the block, whatever ends that."""
    os.environ.update(environment(home))  # the resource hands its own environment down
    os.environ.update(days)
    target = home.dagster / "dbt" / context.run.run_id
    take_parsed(home, target)
    try:
        invocation = dbt.cli(build_args(), context=context, target_path=target)
    finally:
        for name in days:  # another dbt of this process is not to take them for its own
            del os.environ[name]
    try:
        yield invocation
    finally:
        if invocation.process.poll() is None:
            invocation.process.kill()
            invocation.process.wait()


def _drained(invocation: DbtCliInvocation) -> tuple[list[Any], Exception | None]:
    """All events of the run, and the error that ended it. dbt shares its file with nobody while it runs."""
    events = []
    try:
        for event in invocation.stream():
            events.append(event)
    except Exception as error:
        return events, error
    return events, None


def _report_rows(
    context: dg.AssetExecutionContext, events: Sequence[Any], days: Sequence[date], home: Home
) -> None:
    """Tell each night's partition its own rows: dagster-dbt would count the whole table."""
    keys_of = context.assets_def.keys_by_output_name
    built = {tuple(keys_of[e.output_name].path) for e in events if isinstance(e, dg.Output)}
    if not built:
        return
    for name, rows in rows_by_day(home, days[0], days[-1]).items():
        for day in days if name in built else ():
            context.add_asset_metadata(
                {"dagster/partition_row_count": rows.get(day, 0)}, list(name), partition_key=day.isoformat()
            )


def _columns(
    events: Sequence[Any], invocation: DbtCliInvocation, dbt: Dbt, home: Home
) -> dict[str, dict[str, Any]]:
    """By node, the metadata that tells a table's columns: their types, descriptions, and lineage.

    They follow from the SQL alone, and to find them takes longer than dbt needs to start. So they are kept,
    and looked for where the project or what reads it has changed.
    """
    from assets.logs.raw_zone import version_of

    reads = [
        Path(__file__).read_text(encoding="utf-8"),
        *map(version, ("dagster-dbt", "sqlglot", "duckdb")),
    ]
    made_of = version_of([project_version(), *reads])
    known = known_columns(home, made_of)
    new = [event for event in events if _node(event) and _node(event) not in known]
    if new:
        try:
            # dagster-dbt's threads go to the project's folder and back, each to where it found the process.
            with chdir(dbt.project_dir):
                invocation.adapter = dbt.adapter()
                for event in DbtEventIterator(iter(new), invocation).fetch_column_metadata():
                    if found := _described(event, invocation):
                        known[_node(event)] = {
                            name: dg.serialize_value(cast("Any", value)) for name, value in found.items()
                        }
        finally:
            _let_go(invocation)
        keep_columns(home, made_of, known)
    return {
        node: {name: dg.deserialize_value(value) for name, value in metadata.items()}
        for node, metadata in known.items()
    }


def _node(event: Any) -> str:
    """dbt's name of the table that the event is about; "" where it is about none."""
    return str(event.metadata["unique_id"].value) if isinstance(event, dg.Output) else ""


def _described(event: Any, invocation: DbtCliInvocation) -> dict[str, dg.MetadataValue[Any]]:
    """What the event has been told of columns, with the project's descriptions, which dagster-dbt leaves
    out.
    """
    found = {name: event.metadata[name] for name in _OF_COLUMNS if name in event.metadata}
    schema = found.get("dagster/column_schema")
    if not isinstance(schema, dg.TableSchemaMetadataValue):
        return found
    documented = invocation.manifest["nodes"][_node(event)]["columns"]
    columns = [
        dg.TableColumn(
            name=column.name,
            type=column.type.replace("character varying(256)", "VARCHAR"),
            description=documented.get(column.name, {}).get("description"),
            constraints=column.constraints,
        )
        for column in schema.value.columns
    ]
    return found | {"dagster/column_schema": dg.MetadataValue.table_schema(dg.TableSchema(columns=columns))}


def _let_go(invocation: DbtCliInvocation) -> None:
    """Close what dagster-dbt opened in this process to read column types, before the lease goes."""
    if invocation.adapter is None:
        return
    # dagster-dbt has loaded it by now; before, it costs seconds.
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    with DuckDBConnectionManager._LOCK:
        if DuckDBConnectionManager._ENV is not None:
            DuckDBConnectionManager._ENV.close()
            DuckDBConnectionManager._ENV = None


def _verdict(events: Sequence[Any], error: Exception) -> Exception:
    """A failed check is final; anything else may go better next time."""
    if lack(error):  # checks cannot be made then, which is no verdict on the rows
        return error
    failed = [
        f"{event.check_name} of {event.asset_key.to_user_string()}"
        for event in events
        if isinstance(event, dg.AssetCheckResult)
        and not event.passed
        and event.severity is dg.AssetCheckSeverity.ERROR
        and event.asset_key
    ]
    if not failed:
        return error
    return dg.Failure(
        description=f"Checks failed: {', '.join(failed)}. Tables that depend on them were not rebuilt. "
        "See the checks' tabs, correct the source or the SQL, and materialise the days again.",
        metadata={"dbt": dg.MetadataValue.text(str(error)[-4000:])},
        allow_retries=False,
    )
