"""The training assets in Dagster: snapshot, training on a leased device, sealed bundle, metadata."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from safetensors.numpy import load_file

from assets.model.assets import fine_tuned_model, training_snapshot
from assets.model.bundle import make_bundle
from assets.model.checkpoints import FIRST
from assets.model.promotion import evaluate_night, promote_night
from assets.model.serving import open_recommender
from assets.model.snapshot import snapshot_of, write_snapshot
from assets.partitions import look_back
from assets.recommendations.scoring import score
from assets.recommendations.shelf import publish, published, shelves
from resources.home import Home
from resources.model_store import ModelStore
from resources.warehouse import Warehouse
from tests.model.little_shop import D, LittleWarehouse, little_warehouse, tiny_encoder

RUN = f"""
import dagster as dg
from assets.model.assets import fine_tuned_model
instance = dg.DagsterInstance.ephemeral()
dg.materialize([fine_tuned_model], partition_key="{D}", instance=instance, raise_on_error=False)
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with a warehouse and a quick recipe, in the environment."""
    home = Home(tmp_path_factory.mktemp("home"))
    little_warehouse(home.root)
    encoder = tiny_encoder(home.root / "tiny")
    recipe = f"encoder: {encoder}\nlearning_rate: 5.0e-3\nmax_length: 32\nmax_steps: 20\n"
    recipe += "sequence_epochs: 2\nsequence_width: 16\n"
    (home.root / "quick.yaml").write_text(recipe)
    home.write_shop(home.shop.model_copy(update={"recipe": "quick.yaml", "history_days": 12}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTSHELF_HOME", str(home.root))
        patch.setenv("NIGHTSHELF_DEVICES", "none")
        patch.setenv("OMP_NUM_THREADS", "1")  # so small a network is slower on two
        yield home


@pytest.fixture(scope="module")
def night(shop: Home) -> dg.ExecuteInProcessResult:
    return dg.materialize([training_snapshot, fine_tuned_model], partition_key=str(D), instance=instance())


def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


def test_the_snapshot_says_what_it_holds(shop: Home, night: dg.ExecuteInProcessResult) -> None:
    found, snapshot = metadata(night, "training_snapshot"), snapshot_of(shop, D)
    assert found["snapshot"] == snapshot.id
    assert found["path"] == str(snapshot.path)
    assert found["dagster/partition_row_count"] == snapshot.table("events").num_rows == 12 * 60
    assert found["cut-off"] == str(D)


def test_the_model_is_a_sealed_bundle_with_all_that_serving_needs(
    shop: Home, night: dg.ExecuteInProcessResult
) -> None:
    version = metadata(night, "fine_tuned_model")["version"]
    store = ModelStore(shop)
    bundle = store.path(str(version))
    assert store.candidate(D) == version
    assert {p.name for p in bundle.iterdir()} == {
        "README.md", "config.json", "encoder", "head.safetensors", "item_ids.json",
        "item_vectors.safetensors", "loss.json", "made_of.json", "manifest.json", "metrics.json",
        "recommender.json", "sequence.safetensors",
    }  # fmt: skip
    vectors = load_file(bundle / "item_vectors.safetensors")["vectors"]
    assert vectors.shape == (40, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    card = (bundle / "README.md").read_text()
    assert snapshot_of(shop, D).id in card
    assert "| purchase |" in card
    assert not any((shop.models / ".staging").iterdir())


def test_the_bundle_opens_as_a_recommender(shop: Home, night: dg.ExecuteInProcessResult) -> None:
    bundle = ModelStore(shop).path(str(metadata(night, "fine_tuned_model")["version"]))
    told: list[str] = []
    recommender = open_recommender(bundle, snapshot_of(shop, D), shop, told.append)
    assert told == []  # every vector was in the cache
    assert next(iter(recommender.channels)) == "sequence"
    shelf = recommender.recommend(None, 5)
    assert set(shelf["rank"].to_pylist()) == {1, 2, 3, 4, 5}


def test_the_metadata_tells_the_story(night: dg.ExecuteInProcessResult) -> None:
    found = metadata(night, "fine_tuned_model")
    assert found["device"] == "trained on the CPU"
    assert found["steps"] == 20
    for name in ("loss", "report chart"):
        assert str(found[name]).startswith("![")
    assert "| *macro* |" in str(found["report"])
    for name in ("tokens per second", "examples per second", "training seconds", "encoding seconds"):
        assert float(str(found[name])) > 0
    assert 0 < float(str(found["model FLOPs utilisation"])) < 1
    assert float(str(found["non-padding tokens per second"])) <= float(str(found["tokens per second"]))
    assert str(found["peak of the device"]).endswith("TFLOPS, measured by a matrix product")


def test_a_rule_for_a_category_that_no_item_has_is_told(
    shop: Home, night: dg.ExecuteInProcessResult, tmp_path: Path
) -> None:
    home, told = Home(tmp_path / "home"), []
    shutil.copytree(shop.root, home.root)
    known = snapshot_of(home, D).table("items")["category"][0].as_py()
    rules = home.shop.rules.model_copy(update={"bought_again": {known: 1, "Sofaz": 365, "*": 7}})
    home.write_shop(home.shop.model_copy(update={"rules": rules}))
    evaluate_night(home, D)
    promote_night(home, D)
    score(home, D, told.append)
    assert [line for line in told if "rules" in line] == [
        f"{home.shop_file}: rules.bought_again: no item is of the category 'Sofaz'"
    ]


def test_another_home_that_knows_the_future_makes_the_same_model_figures_and_shelf(
    shop: Home, night: dg.ExecuteInProcessResult, tmp_path: Path
) -> None:
    """The same days, trained again, are the same night, byte for byte; later days change nothing in it."""
    other, told = Home(tmp_path / "home"), []
    other.root.mkdir()
    for file in (shop.warehouse, shop.shop_file, shop.root / "quick.yaml"):
        shutil.copy(file, other.root)
    LittleWarehouse(other.warehouse).run(FUTURE)
    assert write_snapshot(Warehouse(other), D + timedelta(days=1), 12, other.snapshots)
    assert write_snapshot(Warehouse(other), D, 12, other.snapshots).id == snapshot_of(shop, D).id
    again = make_bundle(other, D, told.append)
    assert again.version == metadata(night, "fine_tuned_model")["version"]
    assert told[0] == "No GPU on this machine: training on the CPU."
    assert any(line.startswith("step 20 of 20: loss ") for line in told)

    for home in (shop, other):
        evaluate_night(home, D)
        promote_night(home, D)
        score(home, D)
        publish(home, D)
    for folder in (f"models/{again.version}", "models/evaluations", "models/champions", f"scores/{D}"):
        one, two = ({f.name: f.read_bytes() for f in (h.root / folder).glob("*.*")} for h in (shop, other))
        assert one and one == two
    assert [shelf.path.name for shelf in shelves(shop)] == [shelf.path.name for shelf in shelves(other)]
    for table in ("recommendations", "similar_items", "items", "outcomes"):
        rows = []
        for home in (shop, other):
            with published(home) as connection:
                rows.append(connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall())
        assert rows[0] == rows[1]


def test_a_candidate_that_was_made_of_the_same_is_taken_as_it_is(
    shop: Home, night: dg.ExecuteInProcessResult, tmp_path: Path
) -> None:
    home, told = Home(tmp_path / "home"), []
    shutil.copytree(shop.root, home.root)
    version = ModelStore(home).candidate(D)
    bundle = make_bundle(home, D, told.append)
    assert bundle.version == version and not bundle.speed
    assert len(told) == 1 and told[0].startswith(f"{version} was made of this very snapshot, recipe, code")

    home.write_shop(
        home.shop.model_copy(update={"rules": home.shop.rules.model_copy(update={"most_per_brand": 1})})
    )
    assert make_bundle(home, D, told.append).speed, "other rules are another model"
    other = ModelStore(home).candidate(D)
    assert other != version
    (home.models / other / "item_ids.json").write_text("[]")
    assert make_bundle(home, D, told.append).speed, "a damaged bundle is none"
    assert ModelStore(home).candidate(D) == other


FUTURE = f"""
INSERT INTO marts.fct_events
SELECT * REPLACE (event_id || '-later' AS event_id, day + 2 AS day, event_at + INTERVAL 2 DAY AS event_at,
    'purchase' AS behavior)
FROM marts.fct_events WHERE day >= '{D}'::DATE - 1;
INSERT INTO labels.lbl_behaviors
SELECT * REPLACE (day + 2 AS day, 'purchase' AS behavior, 9 AS purchases)
FROM labels.lbl_behaviors WHERE day >= '{D}'::DATE - 1;
INSERT INTO marts.fct_popularity
SELECT * REPLACE (day + 2 AS day, 9 AS purchases) FROM marts.fct_popularity WHERE day >= '{D}'::DATE - 1;
INSERT INTO marts.dim_item_versions
SELECT * REPLACE ('{D}'::DATE + 1 AS valid_from, 'sold out' AS title, false AS in_stock)
FROM marts.dim_item_versions
UNION ALL
SELECT * REPLACE ('new' || item_id AS item_id, '{D}'::DATE + 1 AS valid_from) FROM marts.dim_item_versions;
"""
"""Two days later than `D`, on which everybody buys, everything known changes its words, and much is new."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "quick.yaml: epoch: no such field"),
        ("task: juggling", "quick.yaml: task: must be one of behavior, not 'juggling'"),
        ("encoder: /nowhere", "/nowhere: no such folder"),  # only the worker can tell
    ],
)
def test_a_wrong_recipe_fails_in_words_and_is_not_retried(
    shop: Home, night: dg.ExecuteInProcessResult, text: str, message: str
) -> None:
    sound = (shop.root / "quick.yaml").read_text()
    (shop.root / "quick.yaml").write_text(text)
    try:
        result = dg.materialize(
            [fine_tuned_model], partition_key=str(D), instance=instance(), raise_on_error=False
        )
    finally:
        (shop.root / "quick.yaml").write_text(sound)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert message in str(failure.event_specific_data)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_an_interrupted_run_ends_the_training_and_the_next_one_goes_on(
    shop: Home, night: dg.ExecuteInProcessResult, tmp_path: Path
) -> None:
    """What comes of it is what an undisturbed training in another home gives."""
    sound = (shop.root / "quick.yaml").read_text()
    (shop.root / "quick.yaml").write_text(sound.replace("max_steps: 20", "max_steps: 300\nepochs: 50"))
    run = subprocess.Popen([sys.executable, "-c", RUN], stderr=subprocess.PIPE, text=True)
    try:
        assert any(" loss " in line for line in run.stderr)
        (worker,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        # However quick the machine: the clock goes on while it sleeps, and a checkpoint is due.
        os.kill(int(worker), signal.SIGSTOP)
        time.sleep(FIRST)
        os.kill(int(worker), signal.SIGCONT)
        until = time.monotonic() + 60
        while not (kept := list(shop.checkpoints.glob("*.safetensors"))):
            assert time.monotonic() < until
            time.sleep(0.02)
        began = time.monotonic()
        os.kill(run.pid, signal.SIGTERM)
        _, rest = run.communicate(timeout=20)
        assert time.monotonic() - began < 5
        assert "RETRY" not in rest
        assert not Path(f"/proc/{worker}").exists()
        assert not any((shop.models / ".staging").iterdir())
        assert len(ModelStore(shop).versions()) == 1
        assert kept == list(shop.checkpoints.iterdir())

        told: list[str] = []
        again = make_bundle(shop, D, told.append)
        assert any(line.startswith("goes on from the checkpoint of step ") for line in told)
        assert not list(shop.checkpoints.iterdir())
        other = Home(tmp_path / "home")
        for file in (shop.warehouse, shop.shop_file, shop.root / "quick.yaml"):
            other.root.mkdir(exist_ok=True)
            shutil.copy(file, other.root)
        write_snapshot(Warehouse(other), D, 12, other.snapshots)
        told.clear()
        assert make_bundle(other, D, told.append).version == again.version
        assert not any("checkpoint" in line for line in told)
    finally:
        run.kill()
        (shop.root / "quick.yaml").write_text(sound)


def test_the_snapshot_depends_on_its_look_back_days_and_the_training_asks_for_a_device() -> None:
    deps = training_snapshot.asset_deps[training_snapshot.key]
    assert dg.AssetKey(["labels", "lbl_behaviors"]) in deps
    assert all(training_snapshot.get_partition_mapping(dep) == look_back for dep in deps)
    assert fine_tuned_model.op.tags["nightshelf/devices"] == "1"


def test_the_definitions_load_nothing_heavy() -> None:
    code = (
        "import sys; import assets.model.assets\n"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'duckdb', 'networkx'}\n"
        "assert not heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
