"""Two nights through Dagster: evaluation, gate, scores, outcomes, shelf, and their checks."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest

from assets.model import assets as model
from assets.model import checks as model_checks
from assets.model.evaluation import Evaluation
from assets.model.interactions import Interactions
from assets.model.promotion import evaluations, promote_night
from assets.model.snapshot import write_snapshot
from assets.model.vectors import item_vectors
from assets.partitions import nights
from assets.recommendations import assets as recommendations
from assets.recommendations import checks as recommendations_checks
from assets.recommendations.scoring import RECOMMENDATIONS, Scores
from assets.recommendations.shelf import recommendations_for
from resources.home import Home
from resources.model_store import ModelStore
from resources.warehouse import Warehouse
from tests.model.little_shop import tiny_encoder
from tests.model.worlds import Event, World, fit, weighed
from tests.recommendations.homes import Marts, as_of, fill, make_home

ASSETS = [
    model.model_evaluation,
    model.champion_model,
    recommendations.scores,
    recommendations.recommendation_outcomes,
    recommendations.published_shelf,
]
CHECKS = dg.load_asset_checks_from_modules([model_checks, recommendations_checks])


def hits(shoppers: int = 12, days: int = 6) -> World:
    """Everyone comes back to an item of their own each day. On the last day but one, one half discovers a
    hit, on the last day the other half: who knows habits *and* what is popular beats who knows one of them.
    """
    events = []
    for u, day in np.ndindex(shoppers, days):
        events.append(Event(day, f"u{u:02d}", f"i{u:02d}", minute=1))
        if day == days - 2 + u % 2:
            events.append(Event(day, f"u{u:02d}", "hit"))
    items = [*(f"i{u:02d}" for u in range(shoppers)), "hit"]
    return World(events, items, days, np.eye(len(items), dtype=np.float32))


WORLD = hits()
GOOD, POOR = {"revisit": 4.0, "popularity_7d": 1.0}, {"popularity": 1.0}
"""Weights of channels in the blend."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("NIGHTSHELF_HOME", str(tmp_path))
    home = make_home(tmp_path)
    with Warehouse(home).write() as connection:
        fill(connection, WORLD)
    return home


def train(home: Home, world: World, encoder: Path, weights: dict[str, float] | None = None) -> str:
    """Snapshot and sealed candidate of the world's last day, with the weights that it finds, or these."""
    snapshot = write_snapshot(Marts(world), world.cut_off, 28, home.snapshots)
    store = ModelStore(home)
    with store.stage() as folder:
        shutil.copytree(encoder, folder / "encoder")
        items = snapshot.table("items").select(["item_id", "text"]).to_pydict()
        vectors = item_vectors(folder / "encoder", items["text"], home.vectors)
        made = fit(world, Interactions.of(snapshot, vectors, items["item_id"]))
        (weighed(made, **weights) if weights else made).fitted.write(folder)
        return store.seal(folder, world.cut_off)


def run(day: object, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return dg.materialize([*ASSETS, *CHECKS], partition_key=str(day), instance=instance, raise_on_error=False)


def gate(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    name = "candidate_beats_incumbent_and_baselines"
    return next(e for e in result.get_asset_check_evaluations() if e.check_name == name)


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}


def test_two_nights(home, encoder):
    instance = dg.DagsterInstance.ephemeral()
    first, second = as_of(WORLD, 5), WORLD
    version = train(home, first, encoder, POOR)
    result = run(first.cut_off, instance)
    assert result.success
    assert {n: p for n, p in verdicts(result).items() if n != "candidate_beats_incumbent_and_baselines"} == {
        "serving_bundle_is_what_was_sealed": True,
        "every_shelf_is_whole": True,
        "published_file_opens_and_is_complete": True,
    }
    assert ModelStore(home).champion(first.cut_off).version == version
    assert not list(home.outcomes.glob("*"))

    newer = train(home, second, encoder, GOOD)
    result = run(second.cut_off, instance)
    assert result.success
    evaluation = Evaluation.load(evaluations(home), second.cut_off)
    assert (evaluation.candidate, evaluation.incumbent) == (newer, version)
    serving = ModelStore(home).champion(second.cut_off)
    assert serving.version == newer and serving.promoted
    assert gate(result).passed
    assert f"is no worse than the incumbent {version}" in gate(result).description
    assert "is better than the best baseline, revisit" in gate(result).description
    assert set(recommendations_for(home, "k1:x")["model_version"].to_pylist()) == {serving.version}
    assert [p.stem for p in home.outcomes.glob("*.parquet")] == [str(second.cut_off)]
    metadata = result.asset_materializations_for_node("model_evaluation")[0].metadata
    assert "| **nightshelf** |" in metadata["figures"].value
    assert metadata["chart"].value.startswith("![NDCG@10")

    # A night made again gives the same scores; a past one leaves the newer shelf where it is.
    before = Scores.of(home, first.cut_off).manifest
    assert run(first.cut_off, instance).success
    assert Scores.of(home, first.cut_off).manifest == before
    assert recommendations_for(home, "k1:x")["day"][0].as_py() == second.cut_off


def test_a_worse_candidate_is_refused_in_words_and_the_incumbent_serves(home, encoder):
    instance = dg.DagsterInstance.ephemeral()
    incumbent = train(home, as_of(WORLD, 5), encoder, GOOD)
    assert run(as_of(WORLD, 5).cut_off, instance).success
    poor = train(home, WORLD, encoder, POOR)
    result = run(WORLD.cut_off, instance)
    assert result.success  # a refusal is no failure: the shop has its shelf
    assert not gate(result).passed and gate(result).severity is dg.AssetCheckSeverity.WARN
    assert gate(result).description.startswith(f"The candidate is worse than the incumbent {incumbent}")
    assert "does not beat the best baseline, revisit" in gate(result).description
    assert gate(result).description.endswith(f"The incumbent {incumbent} goes on serving.")
    serving = ModelStore(home).champion(WORLD.cut_off)
    assert (serving.version, serving.candidate, serving.promoted) == (incumbent, poor, False)
    assert set(recommendations_for(home, "u00")["model_version"].to_pylist()) == {incumbent}


def test_a_night_goes_on_where_somebody_has_removed_the_model_that_served(home, encoder):
    instance = dg.DagsterInstance.ephemeral()
    gone = train(home, as_of(WORLD, 5), encoder, GOOD)
    assert run(as_of(WORLD, 5).cut_off, instance).success
    shutil.rmtree(ModelStore(home).path(gone))
    following = train(home, WORLD, encoder, POOR)
    result = run(WORLD.cut_off, instance)
    assert result.success
    assert f"The incumbent {gone} was made by another version" in gate(result).description
    assert "or is no longer there" in gate(result).description
    assert ModelStore(home).champion(WORLD.cut_off).version == following


def test_a_champion_of_another_version_of_nightshelf_gives_way(home, encoder):
    """After an upgrade the model that serves may be of a format nobody reads any more."""
    store, before = ModelStore(home), as_of(WORLD, 5).cut_off
    with store.stage() as folder:
        (folder / "recommender.json").write_text('{"format": 1}')
        outdated = store.seal(folder, before)
    store.promote(before, outdated, True, ["it was good then"])
    poor = train(home, WORLD, encoder, POOR)
    result = run(WORLD.cut_off, dg.DagsterInstance.ephemeral())
    assert result.success
    assert f"The incumbent {outdated} was made by another version of Nightshelf" in gate(result).description
    assert "No other model can serve, so it serves provisionally" in gate(result).description
    assert not gate(result).passed and gate(result).severity is dg.AssetCheckSeverity.WARN
    assert store.champion(WORLD.cut_off).version == poor
    assert set(recommendations_for(home, "u00")["model_version"].to_pylist()) == {poor}
    assert Evaluation.load(evaluations(home), WORLD.cut_off).incumbent == outdated


def test_the_first_day_of_the_shop_has_no_champion_before_it(home, encoder):
    """`champion_model` depends on its own day before, and the first partition has none."""
    world = as_of(WORLD, 1)
    assert str(world.cut_off) == nights.get_first_partition_key()
    version = train(home, world, encoder)
    assert run(world.cut_off, dg.DagsterInstance.ephemeral()).success
    assert ModelStore(home).champion(world.cut_off).version == version
    graph = dg.Definitions(assets=ASSETS).resolve_asset_graph()
    assert dg.AssetKey("champion_model") in graph.get(dg.AssetKey("champion_model")).parent_keys


def test_a_tampered_bundle_never_serves(home, encoder):
    world = as_of(WORLD, 5)
    version = train(home, world, encoder)
    instance = dg.DagsterInstance.ephemeral()
    assert run(world.cut_off, instance).success
    (home.models / version / "recommender.json").write_text("{}")
    result = run(world.cut_off, instance)
    assert not result.success
    assert "recommender.json was changed after sealing" in str(
        result.failure_data_for_node("model_evaluation")
    )


def test_scores_that_changed_since_their_audit_are_not_published(home, encoder):
    world = as_of(WORLD, 5)
    train(home, world, encoder)
    instance = dg.DagsterInstance.ephemeral()
    assert run(world.cut_off, instance).success
    published = home.published.stat().st_ino
    scores = Scores.of(home, world.cut_off)
    pq.write_table(scores.table(RECOMMENDATIONS).slice(3), scores.path / RECOMMENDATIONS)
    later = dg.materialize(
        [*ASSETS, *CHECKS],
        partition_key=str(world.cut_off),
        instance=instance,
        selection=["published_shelf"],
        raise_on_error=False,
    )
    assert not later.success
    assert "not the file that the manifest names" in str(later.failure_data_for_node("published_shelf"))
    assert home.published.stat().st_ino == published


def test_the_gate_decides_on_what_serves_now(home, encoder):
    """The day before was made after the night itself, so the incumbent is another than was evaluated."""
    instance = dg.DagsterInstance.ephemeral()
    newer = train(home, WORLD, encoder, POOR)
    assert run(WORLD.cut_off, instance).success
    assert ModelStore(home).champion(WORLD.cut_off).version == newer
    older = train(home, as_of(WORLD, 5), encoder, GOOD)
    assert run(as_of(WORLD, 5).cut_off, instance).success
    told: list[str] = []
    evaluation, decision = promote_night(home, WORLD.cut_off, told.append)
    assert told[0].endswith(
        f"compares {newer} with nothing, but now they are {newer} and {older}: measuring again."
    )
    assert (evaluation.candidate, evaluation.incumbent) == (newer, older)
    assert not decision.promote and ModelStore(home).champion(WORLD.cut_off).version == older
    assert Evaluation.load(evaluations(home), WORLD.cut_off).incumbent == older
