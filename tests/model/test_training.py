"""The fine-tuning core: tasks, batches, schedule, loop, report, recipes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support
from sklearn.utils.class_weight import compute_class_weight

from assets.model.batches import REPEATS, Tokens, bucketed, by_length
from assets.model.checkpoints import Checkpoints
from assets.model.network import HeadConfig, TextClassifier, masked_mean
from assets.model.recipe import RECIPES, Recipe, RecipeError, load_recipe
from assets.model.report import classification_report, loss_chart, report_chart, report_table
from assets.model.snapshot import Snapshot, write_snapshot
from assets.model.tasks import TASKS, BehaviorTask, Examples
from assets.model.training import (
    Trained,
    TrainingError,
    _optimizer,
    contrastive_loss,
    learning_rate,
    outputs_of,
    pick_device,
    train,
)
from resources.text_encoder import load_encoder
from tests.model.little_shop import D, little_warehouse, tiny_encoder

QUICK = Recipe(learning_rate=5e-3, epochs=3, max_length=32)
"""A tiny random encoder needs a higher rate than a pre-trained one."""
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads, much slower where others work beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_wishes() -> Iterator[None]:
    """What a training asks of torch holds for its process; here for one test."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("shop")
    return write_snapshot(little_warehouse(folder), D, 12, folder / "snapshots")


def fit(
    encoder: Path,
    snapshot: Snapshot,
    recipe: Recipe,
    tell: Any = lambda event: None,
    checkpoints: Checkpoints | None = None,
) -> Trained:
    task = BehaviorTask()
    return train(task, task.data(snapshot), *load_encoder(str(encoder)), recipe, CPU, tell, checkpoints)


# ---- the task


def test_examples_are_split_by_day_and_a_cart_is_a_click(snapshot: Snapshot) -> None:
    data = BehaviorTask().data(snapshot)
    rows = snapshot.table("behaviors").to_pylist()
    text = {row["item_id"]: row["text"] for row in snapshot.table("items").to_pylist()}
    label = {"browse": 0, "click": 1, "cart": 1, "purchase": 2}
    of_day = {
        "train": lambda d: d <= D - timedelta(2),
        "dev": lambda d: d == D - timedelta(1),
        "test": lambda d: d == D,
    }
    assert {row["behavior"] for row in rows} == set(label)
    for name, belongs in of_day.items():
        split = data.splits[name]
        found = [(data.texts[t], int(y)) for t, y in zip(split.text, split.target, strict=True)]
        assert found == [(text[r["item_id"]], label[r["behavior"]]) for r in rows if belongs(r["day"])]
        assert len(found) > 20
    assert len(set(data.texts)) == len(data.texts)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40).filter(lambda y: len(set(y)) == 3))
def test_balanced_loss_weighs_labels_as_scikit_learn_does(target: list[int]) -> None:
    truth = np.asarray(target)
    logits = torch.randn(len(target), 3, generator=torch.Generator().manual_seed(len(target)))
    weight = compute_class_weight("balanced", classes=np.arange(3), y=truth)
    nll = -torch.log_softmax(logits, 1).numpy()[np.arange(len(truth)), truth]
    loss = BehaviorTask().loss(Examples(truth, truth), balanced=True)
    expected = (nll * weight[truth]).sum() / weight[truth].sum()
    assert loss(logits, torch.tensor(target)).item() == pytest.approx(expected, rel=1e-4)


# ---- batches


def test_batches_of_token_ids_are_those_of_the_tokenizer(encoder: Path) -> None:
    _, tokenizer = load_encoder(str(encoder))
    texts = ["red shoe", "warm small lamp 12 for the home", "tent", " ".join(["chair"] * 50)]
    tokens = Tokens.of(texts, tokenizer, 16)
    ids, mask = tokens.batch(np.asarray([1, 3, 0]), CPU)
    expected = tokenizer(
        [texts[1], texts[3], texts[0]], padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    assert torch.equal(ids, expected["input_ids"])
    assert torch.equal(mask, expected["attention_mask"])
    assert ids.shape[1] == tokens.lengths.max() == 16
    assert tokens.batch(np.asarray([2]), CPU)[0].shape == (1, 3)


@given(st.lists(st.integers(1, 128), min_size=1, max_size=400), st.integers(1, 32), st.integers(0, 9))
def test_batches_hold_every_row_once_and_little_padding(lengths: list[int], size: int, seed: int) -> None:
    length, rng = np.asarray(lengths), np.random.default_rng(seed)
    for batches in (bucketed(np.arange(len(length)), length, size, rng), by_length(length, size)):
        assert sorted(np.concatenate(batches)) == list(range(len(length)))
        assert max(map(len, batches)) <= size
        padded = sum(length[rows].max() * len(rows) for rows in batches)
        assert padded <= length.max() * len(length)
    # The longest first, so that what does not fit in memory fails at once, and like beside like.
    for one, following in pairwise(by_length(length, size)):
        assert length[one].min() >= length[following].max()


def test_an_epoch_mixes_its_batches() -> None:
    lengths, texts = np.tile([5, 10, 20], 20), np.tile(np.arange(60), 10)
    rng = np.random.default_rng(0)
    one, two = bucketed(texts, lengths, 16, rng), bucketed(texts, lengths, 16, rng)
    assert {tuple(rows) for rows in one} != {tuple(rows) for rows in two}
    longest = [lengths[texts[rows]].max() for rows in one]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=400), st.integers(1, 32), st.integers(0, 9))
def test_rows_of_one_text_share_batches(rows: list[int], size: int, seed: int) -> None:
    texts, lengths = np.asarray(rows), np.arange(21) % 4 + 1
    batches = bucketed(texts, lengths, size, np.random.default_rng(seed))
    encoded = sum(len(np.unique(texts[batch])) for batch in batches)
    known = len(np.unique(texts))
    pools = -(-len(texts) // (size * max(1, REPEATS * known // size)))
    assert encoded <= pools * known + len(batches), "in a pool, a text is cut at the ends of batches only"


# ---- the network


def test_padding_changes_nothing(encoder: Path, snapshot: Snapshot) -> None:
    model, tokenizer = load_encoder(str(encoder))
    network = BehaviorTask().network(model).eval()
    tokens = Tokens.of(["tent", "warm small lamp 12 for the home", "red shoe"], tokenizer, 32)
    together = outputs_of(network, tokens, np.arange(3), CPU)
    alone = np.concatenate([outputs_of(network, tokens, np.asarray([n]), CPU) for n in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_the_mean_is_over_real_tokens_only() -> None:
    hidden, mask = torch.randn(4, 5, 3), torch.tensor([[1] * n + [0] * (5 - n) for n in (5, 3, 1, 0)])
    found = masked_mean(hidden, mask)
    for row, n in enumerate((5, 3, 1)):
        torch.testing.assert_close(found[row], hidden[row, :n].mean(0))
    assert not found[3].any()


# ---- the loop


@given(st.integers(1, 500), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_the_rate_rises_over_the_warm_up_and_falls_to_the_end(steps: int, warmup: float) -> None:
    rate = [learning_rate(step, steps, Recipe(warmup=warmup)) for step in range(1, steps + 1)]
    top = int(np.ceil(warmup * steps))
    assert all(0 < r <= 2e-5 * (1 + 1e-12) for r in rate)
    assert np.all(np.diff(rate[:top]) > 0)
    assert np.all(np.diff(rate[max(top - 1, 0) :]) < 0)
    if top:
        assert rate[top - 1] == pytest.approx(2e-5)


def test_it_learns_what_the_words_tell(encoder: Path, snapshot: Snapshot) -> None:
    told: list[dict[str, Any]] = []
    trained = fit(encoder, snapshot, QUICK, told.append)
    untrained = fit(encoder, snapshot, replace(QUICK, learning_rate=0.0, max_steps=1))
    assert untrained.metrics["test"]["macro"]["f1"] < 0.6
    assert trained.metrics["test"]["macro"]["f1"] > 0.8  # a tenth of the events is noise by construction
    assert trained.curve["dev"][-1]["loss"] < trained.curve["dev"][0]["loss"] < np.log(3)
    assert [p["epoch"] for p in trained.curve["dev"]] == [1, 2, 3]
    assert [p["step"] for p in trained.curve["train"]] == list(range(1, trained.metrics["steps"] + 1))
    assert told[0]["event"] == "start"
    assert {event["event"] for event in told} == {"start", "step", "dev"}
    assert trained.speed["examples_per_second"] > 0
    assert 0 <= trained.speed["padding"] < 0.3


def test_the_same_seed_gives_the_same_weights(encoder: Path, snapshot: Snapshot) -> None:
    recipe = replace(QUICK, max_steps=12)
    one, two, other = (fit(encoder, snapshot, r) for r in (recipe, recipe, replace(recipe, seed=8)))
    assert (one.curve, one.metrics) == (two.curve, two.metrics)
    weights = one.network.state_dict()
    assert all(torch.equal(weights[name], w) for name, w in two.network.state_dict().items())
    assert not all(torch.equal(weights[name], w) for name, w in other.network.state_dict().items())


class EndedError(Exception):
    """The training was ended."""


class EveryStep(Checkpoints):
    """Writes a checkpoint at every step."""

    def due(self) -> bool:
        return True


class EndedAt(EveryStep):
    """Ends the training after the checkpoint of one step."""

    last = 0

    def write(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        super().write(tensors, state)
        if len(tensors["losses"]) == self.last:
            raise EndedError


def test_a_training_that_was_ended_goes_on_as_if_it_had_not_been(
    encoder: Path, snapshot: Snapshot, tmp_path: Path
) -> None:
    """Ended in the first epoch, at the very end of one, and after its last step."""
    recipe = replace(QUICK, contrast=0.5, class_weights="balanced")
    whole, told = fit(encoder, snapshot, recipe), []
    an_epoch = whole.metrics["steps"] // 3
    for last in (5, an_epoch, 2 * an_epoch + 1, 3 * an_epoch):
        kept = EndedAt(tmp_path / "state.safetensors", {"snapshot": snapshot.id})
        kept.last = last
        with pytest.raises(EndedError):
            fit(encoder, snapshot, recipe, told.append, kept)
    found = fit(encoder, snapshot, recipe, told.append, EveryStep(kept.file, {"snapshot": snapshot.id}))
    assert (found.curve, found.metrics) == (whole.curve, whole.metrics)
    weights = whole.network.state_dict()
    assert all(torch.equal(weights[name], w) for name, w in found.network.state_dict().items())
    resumed = [event["step"] for event in told if event["event"] == "resumed"]
    assert resumed == [5, an_epoch, 2 * an_epoch + 1, 3 * an_epoch]
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("snapshot", r"of another training \(snapshot\)"),
        ("recipe", r"of another training \(start\)"),  # another seed draws another head
        ("bytes", "cannot be read"),
        ("cut", "cannot be read"),
    ],
)
def test_a_checkpoint_of_anything_else_is_no_start(
    encoder: Path, snapshot: Snapshot, tmp_path: Path, change: str, message: str
) -> None:
    recipe, file = replace(QUICK, max_steps=8), tmp_path / "state.safetensors"
    fit(encoder, snapshot, recipe, checkpoints=EveryStep(file, {"snapshot": "one"}))
    told: list[str] = []
    of = {"snapshot": "other" if change == "snapshot" else "one"}
    if change == "recipe":
        recipe = replace(recipe, seed=8)
    if change == "bytes":
        file.write_bytes(b"\x80\x04" * 100)
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    found = fit(encoder, snapshot, recipe, checkpoints=EveryStep(file, of, told.append))
    assert re.search(message, told[0])
    assert found.curve == fit(encoder, snapshot, recipe).curve


def test_a_training_goes_on_where_no_checkpoint_can_be_written(
    encoder: Path, snapshot: Snapshot, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    told: list[str] = []
    kept = EveryStep(tmp_path / "file" / "state.safetensors", {}, told.append)
    assert fit(encoder, snapshot, replace(QUICK, max_steps=3), checkpoints=kept).metrics["steps"] == 3
    assert "no checkpoint could be written" in told[0]


def test_steps_and_examples_can_be_bounded(encoder: Path, snapshot: Snapshot) -> None:
    assert fit(encoder, snapshot, replace(QUICK, max_steps=5)).metrics["steps"] == 5
    trained = fit(encoder, snapshot, replace(QUICK, max_examples=100, epochs=2))
    assert (trained.metrics["examples"]["train"], trained.metrics["steps"]) == (100, 2 * 7)


def test_a_shop_without_words_keeps_the_encoder_as_it_was(encoder: Path, tmp_path: Path) -> None:
    warehouse = little_warehouse(tmp_path)
    warehouse.run(
        "UPDATE marts.dim_item_versions SET title = NULL, brand = '', category = ' ', description = NULL"
    )
    told: list[dict[str, Any]] = []
    trained = fit(encoder, write_snapshot(warehouse, D, 12, tmp_path / "s"), QUICK, told.append)
    assert trained.metrics["steps"] == 0
    assert trained.metrics["test"]["micro"]["support"] == 0
    assert "stays as it was" in told[1]["text"]
    before, _ = load_encoder(str(encoder))
    after = trained.network.encoder.state_dict()
    assert all(torch.equal(after[name], w) for name, w in before.state_dict().items())


def test_a_loss_that_is_not_finite_ends_the_training_in_words(encoder: Path, snapshot: Snapshot) -> None:
    model, tokenizer = load_encoder(str(encoder))
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    task = BehaviorTask()
    with pytest.raises(TrainingError, match=r"the loss is nan at step 1 .*lower learning_rate"):
        train(task, task.data(snapshot), model, tokenizer, QUICK, CPU)


@pytest.mark.parametrize(("dropout", "in_training"), [(0.1, "eager"), (0.0, "sdpa")])
def test_attention_is_the_quicker_one_and_the_same(encoder: Path, dropout: float, in_training: str) -> None:
    """On a CPU, by what there is a kernel for."""
    model, tokenizer = load_encoder(str(encoder))
    model.config.attention_probs_dropout_prob = dropout
    network = BehaviorTask().network(model)
    network.train()
    assert model.config._attn_implementation == in_training
    network.eval()
    assert model.config._attn_implementation == "sdpa"
    batch = tokenizer(["a red lamp", "shoes"], padding=True, return_tensors="pt")
    outputs = []
    for way in ("sdpa", "eager"):
        model.set_attn_implementation(way)
        outputs.append(network(batch["input_ids"], batch["attention_mask"]))
    torch.testing.assert_close(*outputs)


def test_torch_is_held_to_repeatable_kernels(encoder: Path, snapshot: Snapshot) -> None:
    """Not only asked for them: on a GPU, attention gives way to such a wish."""
    fit(encoder, snapshot, replace(QUICK, max_steps=1))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


class _Unrepeatable(TextClassifier):
    """Has an operation of which torch has no repeatable kernel."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(ids, mask)
        return outputs + torch.zeros(3).put_(torch.tensor([0]), torch.zeros(1))


@pytest.mark.filterwarnings("ignore:put_ does not have a deterministic implementation")
def test_an_encoder_that_cannot_be_repeated_is_trained_all_the_same(
    encoder: Path, snapshot: Snapshot
) -> None:
    class Task(BehaviorTask):
        def network(self, encoder: Any) -> TextClassifier:
            return _Unrepeatable(encoder, HeadConfig(labels=3))

    told: list[dict[str, Any]] = []
    task, recipe = Task(), replace(QUICK, max_steps=2)
    trained = train(task, task.data(snapshot), *load_encoder(str(encoder)), recipe, CPU, told.append)
    assert trained.metrics["steps"] == 2
    (note,) = [event["text"] for event in told if event["event"] == "note"]
    assert note == "put_ is not repeatable here: weights may differ next time"


def test_more_processes_than_gpus_are_told_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(TrainingError, match="process 2 of this machine has no GPU: torch sees 1"):
        pick_device()


def test_biases_and_layer_norms_do_not_decay(encoder: Path) -> None:
    network = BehaviorTask().network(load_encoder(str(encoder))[0])
    decayed, spared = (group["params"] for group in _optimizer(network, Recipe(), CPU).param_groups)
    names = {id(p): name for name, p in network.named_parameters()}
    assert all("LayerNorm" in names[id(p)] or names[id(p)].endswith("bias") for p in spared)
    assert not any("LayerNorm" in names[id(p)] or names[id(p)].endswith("bias") for p in decayed)
    assert len(decayed) + len(spared) == len(names)


# ---- the contrastive loss


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8), st.integers(0, 99))
def test_the_contrastive_loss_is_its_formula(pairs: list[tuple[int, int]], seed: int) -> None:
    """Pair by pair: of all partners in the batch but the text itself and its partner's repetitions, the own
    one; logits lowered by how often each is wanted."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(6, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    share, losses = random.uniform(0.01, 1, len(pairs)), []
    for n, (a, b) in enumerate(pairs):
        logits = {
            m: vectors[a] @ vectors[other] / 0.05 - np.log(share[m])
            for m, (_, other) in enumerate(pairs)
            if m == n or other not in (a, b)
        }
        losses.append(np.log(sum(np.exp(np.array(list(logits.values())) - logits[n]))))
    rows = torch.tensor(pairs)
    one, other = (torch.tensor(vectors)[rows[:, n]] for n in (0, 1))
    found = contrastive_loss(one, other, rows, torch.tensor(share))
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-4, abs=1e-4)


def test_contrast_draws_together_what_shoppers_bring_together(encoder: Path, snapshot: Snapshot) -> None:
    """They take the blue lamp with the blue shoe: by colour, which tells nothing of the label."""
    task = BehaviorTask()
    data = task.data(snapshot)
    color = np.array([text.split()[0] for text in data.texts])
    same = color[:, None] == color
    pairs = np.argwhere(same & ~np.eye(len(color), dtype=bool))
    nearer = []
    for weight in (0.0, 1.0):
        recipe = replace(QUICK, contrast=weight, max_steps=60)
        trained = train(task, replace(data, pairs=pairs), *load_encoder(str(encoder)), recipe, CPU)
        tokens = Tokens.of(data.texts, load_encoder(str(encoder))[1], 32)
        trained.network.eval()
        with torch.inference_mode():
            vectors = trained.network.vectors(*tokens.batch(np.arange(len(color)), CPU)).numpy()
        cosine = vectors @ vectors.T
        nearer.append(cosine[same].mean() - cosine[~same].mean())
    assert nearer[1] > nearer[0] + 0.2


# ---- the report

LABELS = ("browse", "click", "purchase")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_the_report_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, guess = np.asarray(pairs).T
    report = classification_report(truth, guess, LABELS)
    each = precision_recall_fscore_support(truth, guess, labels=[0, 1, 2], zero_division=0)
    rows = {label: [metric[n] for metric in each] for n, label in enumerate(LABELS)}
    for average in ("micro", "macro", "weighted"):
        found = precision_recall_fscore_support(
            truth, guess, labels=[0, 1, 2], average=average, zero_division=0
        )
        rows[average] = [*found[:3], len(pairs)]
    assert list(report) == list(rows)
    for name, row in rows.items():
        assert list(report[name].values()) == pytest.approx(row, abs=1e-6)


def test_the_report_of_nothing_is_zeros() -> None:
    report = classification_report(np.zeros(0, int), np.zeros(0, int), LABELS)
    assert {v for row in report.values() for v in row.values()} == {0}
    assert "| browse | 0.000 | 0.000 | 0.000 | 0 |" in report_table(report)


def test_pictures_show_the_curve_and_every_row_of_the_report() -> None:
    report = classification_report(np.asarray([0, 1, 2, 2]), np.asarray([0, 1, 1, 2]), LABELS)
    axis = report_chart(report).axes[0]
    assert [t.get_text().split("\n")[0] for t in axis.get_xticklabels()] == list(report)
    curve = {
        "train": [{"step": n, "loss": 1 / n, "rate": 0.1} for n in range(1, 60)],
        "dev": [{"step": 59, "loss": 0.5}],
    }
    assert [len(line.get_xdata()) for line in loss_chart(curve).axes[0].lines] == [59, 58, 1]
    loss_chart({"train": [], "dev": []})


# ---- recipes


def test_the_briefs_recipe_is_the_briefs() -> None:
    brief = load_recipe("brief")
    assert (brief.learning_rate, brief.epochs, brief.batch_size, brief.max_length) == (2e-5, 5, 16, 128)
    assert brief == Recipe()


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_that_is_shipped_can_be_used(file: Path) -> None:
    assert load_recipe(file.stem) == load_recipe(str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", r"r\.yaml: epoch: no such field. The fields are task, encoder"),
        (
            "epochs: many",
            r"r\.yaml: epochs: must be a whole number of at least 1 and at most 1000, not 'many'",
        ),
        ("epochs: 1.5", "epochs: must be a whole number"),
        ("epochs: true", "epochs: must be a whole number"),
        ("epochs: null", "epochs: must be a whole number"),
        ("learning_rate: 3", "learning_rate: must be a number of at least 0 and at most 1, not 3"),
        ("learning_rate: .nan", "learning_rate: must be a number"),
        ("max_steps: 0", "max_steps: must be a whole number of at least 1, not 0"),
        ("class_weights: heavy", "class_weights: must be one of none, balanced, not 'heavy'"),
        ("encoder: 3", "encoder: must be a name"),
        ("- a\n- b", "a recipe is a list of `field: value` lines"),
        ("a: [", "not valid YAML"),
        ("epochs: 2026-13-01", r"r\.yaml:1: not valid YAML: 2026-13-01 cannot be read as timestamp"),
    ],
)
def test_a_wrong_recipe_is_refused_by_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe("r.yaml", tmp_path)


def test_an_encoder_in_a_folder_is_seen_from_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    file = tmp_path / "recipes" / "own.yaml"
    file.write_text("encoder: ../encoder\n")
    assert load_recipe(str(file)).encoder == str((tmp_path / "encoder").resolve())
    file.write_text("encoder: some/encoder\n")  # a name on the hub
    assert load_recipe(str(file)).encoder == "some/encoder"


def test_the_tasks_of_recipes_are_those_there_are() -> None:
    (task,) = (field for field in fields(Recipe) if field.name == "task")
    assert task.metadata["names"] == tuple(TASKS)


def test_a_recipe_that_is_no_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"task: behavior\nencoder: \xfc\n")
    with pytest.raises(RecipeError, match=r"r\.yaml:2: not UTF-8 text"):
        load_recipe("r.yaml", tmp_path)


def test_a_rate_without_a_dot_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("learning_rate: 3e-5\nmax_steps: null")
    assert load_recipe("r.yaml", tmp_path) == Recipe(learning_rate=3e-5)


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(RecipeError, match="Write one of brief, demo, nightly"):
        load_recipe("night")
