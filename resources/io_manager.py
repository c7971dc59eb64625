"""The default IO manager: it stores nothing.

Dagster's own would pickle whatever a step returns into a file that runs code when it is opened. Nightshelf's
assets write Parquet, JSON, safetensors or DuckDB themselves and hand on paths, so nothing is left to store.
"""

from __future__ import annotations

from typing import Any

import dagster as dg


class NoPickle(dg.ConfigurableIOManager):
    """Lets steps that return nothing pass, and refuses to store or load a value."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """
        Raises:
            dagster.DagsterInvariantViolationError: the step returned a value.
        """
        if obj is not None:
            raise dg.DagsterInvariantViolationError(
                f"{_name(context)} returned a {type(obj).__name__}, and Nightshelf pickles nothing. Write "
                "the value to a file below the home folder (Parquet, JSON, safetensors, DuckDB), put it in "
                "place by one rename, and return dg.MaterializeResult with its path in the metadata."
            )

    def load_input(self, context: dg.InputContext) -> Any:
        """
        Raises:
            dagster.DagsterInvariantViolationError: always, for nothing was stored.
        """
        raise dg.DagsterInvariantViolationError(
            f"{_name(context)} is asked for as a function argument, but assets hand on files, not values. "
            f"Name it in deps=[…] and read its file in the body of the function."
        )


def _name(context: dg.OutputContext | dg.InputContext) -> str:
    return context.asset_key.to_user_string() if context.has_asset_key else str(context.name)
