"""Two nights through Dagster: evaluation, gate, scores, outcomes, shelf, and their checks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertConfig, BertModel

from assets.model import assets as model
from assets.model import checks as model_checks
from assets.model.evaluation import Evaluation
from assets.model.promotion import evaluations, promote_night
from assets.model.recommender import fit_recommender
from assets.model.snapshot import write_snapshot
from assets.model.vectors import item_vectors
from assets.recommendations import assets as recommendations
from assets.recommendations import checks as recommendations_checks
from assets.recommendations.scoring import RECOMMENDATIONS, Scores
from assets.recommendations.shelf import recommendations_for
from resources.home import Home
from resources.model_store import ModelStore
from resources.text_encoder import load_encoder
from resources.warehouse import Warehouse
from tests.model.worlds import World
from tests.recommendations.homes import VALUES, Marts, as_of, fill, make_home, some_world

ASSETS = [
    model.model_evaluation,
    model.champion_model,
    recommendations.scores,
    recommendations.recommendation_outcomes,
    recommendations.published_shelf,
]
CHECKS = dg.load_asset_checks_from_modules([model_checks, recommendations_checks])
WORLD = some_world(days=6)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real encoder of the default's kind, with one small layer and weights nobody has trained."""
    folder = tmp_path_factory.mktemp("encoder")
    _, tokenizer = load_encoder("default")
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=len(tokenizer),
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("NIGHTSHELF_HOME", str(tmp_path))
    home = make_home(tmp_path)
    with Warehouse(home).write() as connection:
        fill(connection, WORLD)
    return home


def train(home: Home, world: World, encoder: Path) -> str:
    """Snapshot and sealed candidate of the world's last day."""
    snapshot = write_snapshot(Marts(world), world.cut_off, 28, home.snapshots)
    store = ModelStore(home)
    folder = store.stage()
    shutil.copytree(encoder, folder / "encoder")
    items = snapshot.table("items").select(["item_id", "text"]).to_pydict()
    vectors = item_vectors(folder / "encoder", items["text"], home.vectors)
    params = fit_recommender(snapshot, vectors, items["item_id"], VALUES)
    (folder / "recommender.json").write_text(json.dumps(params))
    return store.seal(folder, world.cut_off)


def run(day: object, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return dg.materialize([*ASSETS, *CHECKS], partition_key=str(day), instance=instance, raise_on_error=False)


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}


def test_two_nights(home, encoder):
    instance = dg.DagsterInstance.ephemeral()
    first, second = as_of(WORLD, 5), WORLD
    version = train(home, first, encoder)
    result = run(first.cut_off, instance)
    assert result.success
    assert {n: p for n, p in verdicts(result).items() if n != "candidate_beats_incumbent_and_baselines"} == {
        "serving_bundle_is_what_was_sealed": True,
        "every_shelf_is_whole": True,
        "published_file_opens_and_is_complete": True,
    }
    assert ModelStore(home).champion(first.cut_off).version == version
    assert not list(home.outcomes.glob("*"))

    newer = train(home, second, encoder)
    result = run(second.cut_off, instance)
    assert result.success
    evaluation = Evaluation.load(evaluations(home), second.cut_off)
    assert (evaluation.candidate, evaluation.incumbent) == (newer, version)
    serving = ModelStore(home).champion(second.cut_off)
    gate = verdicts(result)["candidate_beats_incumbent_and_baselines"]
    assert serving.version == (newer if gate else version) and serving.reasons
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


def test_a_gate_on_yesterdays_evaluation_is_refused(home, encoder):
    """The candidate was trained again after it was evaluated."""
    world = as_of(WORLD, 5)
    train(home, world, encoder)
    assert run(world.cut_off, dg.DagsterInstance.ephemeral()).success
    store = ModelStore(home)
    folder = store.stage()
    (folder / "recommender.json").write_text("{}")
    store.seal(folder, world.cut_off)
    with pytest.raises(RuntimeError, match=r"materialize model_evaluation .* again"):
        promote_night(home, world.cut_off)
