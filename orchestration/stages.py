"""Which stage of the house a step belongs to, as the definitions say."""

from __future__ import annotations


def stage_of_step() -> dict[str, str]:
    """{step key: group of what it makes}, checks with the asset they look at."""
    from orchestration.definitions import defs

    graph = defs.resolve_asset_graph()
    return {
        assets_def.node_def.name: graph.get(next(iter(sorted(keys)))).group_name
        for assets_def in graph.assets_defs
        if (keys := assets_def.keys or {check.asset_key for check in assets_def.check_keys})
    }
