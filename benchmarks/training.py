"""How fast is an encoder fine-tuned on behaviour texts, at what F1?

    python -m benchmarks.training --out training.json

The same network learns the same examples in as many steps, three ways, in turns: Nightshelf's loop; the stock
transformers.Trainer with its defaults and its dynamic padding; and the plain loop that tutorials have, with
every text padded to the recipe's bound in float32. What counts is the training alone, without tokenising and
measuring; each runs in a process of its own, which keeps what it has loaded from round to round. All three
are then measured alike on the same held-out examples, by F1 and by loss.

Where there is a GPU, it is used, and a network of BERT-base's shape with random weights learns texts of full
length besides, for the share of the device's peak (model FLOPs utilisation).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.figures import Figures, in_turns, positive, ratio, teller
from resources.devices import keep_freed_memory, share_cores

if TYPE_CHECKING:
    import torch

    from assets.model.network import TextClassifier
    from assets.model.recipe import Recipe
    from assets.model.tasks import TaskData

OURS = "nightshelf"
EXAMPLES, PRODUCTS = 640, 150
"""Four examples of each product; a night has tens, for its examples are drawn from weeks."""
TESTED = 2000
RESAMPLES = 500
FULL_LENGTH, FULL_BATCH, FULL_STEPS, WARM_UP = 512, 64, 60, 5
"""Tokens of a text, texts of a step, and steps, for the share of a GPU's peak; and steps before that, while
kernels are loaded and memory grows.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--examples", type=positive, default=EXAMPLES, metavar="N", help="to learn, of the simulated shop"
    )
    parser.add_argument(
        "--products", type=positive, default=PRODUCTS, metavar="N", help="of that shop (default %(default)s)"
    )
    parser.add_argument(
        "--recipe", default="brief", metavar="FILE", help="name or file (default %(default)s)"
    )
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="of runs in turns")
    parser.add_argument("--out", type=Path, metavar="REPORT.json", help="the report")
    asked = parser.parse_args(arguments)
    from assets.model.recipe import RecipeError, load_recipe

    try:
        recipe = replace(load_recipe(asked.recipe), epochs=1, max_examples=None)
    except RecipeError as error:
        parser.error(str(error))
    share_cores()
    # As the training worker does before torch is imported; and with several GPUs the Trainer would take all.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]

    from assets.model.training import TrainingError, pick_device

    device = pick_device()
    figures = Figures(
        asked.out, examples=asked.examples, products=asked.products, recipe=asked.recipe, rounds=asked.rounds
    )
    compare(figures, examples_of_a_shop(asked.examples, asked.products), recipe, device.type, asked.rounds)
    if device.type == "cuda":
        try:
            utilisation(figures, recipe, device, asked.rounds)
        except TrainingError as error:  # a small GPU; what was compared is not lost for that
            figures.skip("training.gpu.mfu", str(error))
    else:
        for name in ("speedup_over_trainer", "mfu"):
            figures.skip(f"training.gpu.{name}", "no GPU here; the same command where there is one has it")
    figures.write()
    figures.show()
    return 0


def compare(figures: Figures, data: TaskData, recipe: Recipe, device: str, rounds: int) -> None:
    """The three ways in turns, and how good what each has learnt is."""
    kind, names = "gpu" if device == "cuda" else "cpu", list(WAYS)
    try:
        version("accelerate")  # the Trainer asks for it
    except PackageNotFoundError:
        names.remove("trainer")
        figures.skip(f"training.{kind}.speedup_over_trainer", "accelerate is not installed")
    good: dict[str, dict[str, tuple[float, float, float]]] = {}
    say = teller()

    def timed(name: str, process: ProcessPoolExecutor) -> Callable[[], float]:
        def run() -> float:
            say(f"{name}: {len(data.splits['train']):,} examples")
            seconds, good[name] = process.submit(learn, name, data, recipe).result()
            return seconds

        return run

    with ExitStack() as running:
        # What one asks of torch and of the system's memory, the others do not get.
        fresh = get_context("spawn")
        own = {name: running.enter_context(ProcessPoolExecutor(1, fresh)) for name in names}
        took = in_turns({name: timed(name, process) for name, process in own.items()}, rounds)
    for name in names:
        if name != OURS:
            value, runs = ratio(took[name], took[OURS])
            goal = {"padded_loop": 6, "trainer": 4 if kind == "gpu" else 2}[name]
            figures.add(f"training.{kind}.speedup_over_{name}", value, "×", f"{name}; goal: {goal}", runs)
        speed = len(data.splits["train"]) / statistics.median(took[name])
        figures.add(
            f"training.{kind}.{name}.examples_per_second", speed, "examples/s", "nothing: of this machine"
        )
        for what, (mean, low, high) in good[name].items():
            interval = f"95 % interval {low:.3f} to {high:.3f} over {len(data.splits['test']):,} examples"
            figures.add(f"training.{kind}.{name}.{what}", mean, "", interval)


def learn(name: str, data: TaskData, recipe: Recipe) -> tuple[float, dict[str, tuple[float, float, float]]]:
    """Seconds that one way takes, and what its network is worth."""
    from assets.model.training import pick_device

    device = pick_device()
    network, seconds = WAYS[name](data, recipe, device)
    return seconds, worth(network, data, recipe, device)


def ours(data: TaskData, recipe: Recipe, device: torch.device) -> tuple[TextClassifier, float]:
    """Nightshelf's own loop, set up as the training worker does; the seconds are those of its own report."""
    from assets.model.tasks import BehaviorTask
    from assets.model.training import train
    from resources.text_encoder import load_encoder

    nothing = data.splits["test"].take(np.zeros(0, np.int64))
    unmeasured = replace(data, splits={**data.splits, "dev": nothing, "test": nothing})
    keep_freed_memory()
    trained = train(BehaviorTask(), unmeasured, *load_encoder(recipe.encoder), recipe, device)
    return trained.network, trained.speed["train_seconds"]


def stock_trainer(data: TaskData, recipe: Recipe, device: torch.device) -> tuple[TextClassifier, float]:
    """transformers.Trainer with its defaults, but for the recipe's batch size and learning rate."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    network, tokenizer = _network(recipe, device)
    train = data.splits["train"]
    ids = tokenizer([data.texts[n] for n in train.text], truncation=True, max_length=recipe.max_length)[
        "input_ids"
    ]
    rows = [{"input_ids": one, "labels": int(y)} for one, y in zip(ids, train.target, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            num_train_epochs=1,
            seed=recipe.seed,
            use_cpu=device.type == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        collator = DataCollatorWithPadding(tokenizer)
        trainer = Trainer(_with_loss(network), settings, data_collator=collator, train_dataset=rows)
        began = time.perf_counter()
        trainer.train()
        return network, _elapsed(began, device)


def padded_loop(data: TaskData, recipe: Recipe, device: torch.device) -> tuple[TextClassifier, float]:
    """The loop of the tutorials, with the recipe's rates: every text padded to the bound, float32, shuffled
    batches.
    """
    import torch

    from assets.model.training import learning_rate

    network, tokenizer = _network(recipe, device)
    train, rows = (
        data.splits["train"],
        np.random.default_rng(recipe.seed).permutation(len(data.splits["train"])),
    )
    padded = tokenizer(
        [data.texts[n] for n in train.text],
        truncation=True,
        max_length=recipe.max_length,
        padding="max_length",
        return_tensors="pt",
    )
    targets = torch.from_numpy(train.target)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    network.train()
    began = time.perf_counter()
    steps = -(-len(rows) // recipe.batch_size)
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, recipe)
        batch = torch.from_numpy(rows[(step - 1) * recipe.batch_size : step * recipe.batch_size])
        ids, mask = (padded[name][batch].to(device) for name in ("input_ids", "attention_mask"))
        loss = torch.nn.functional.cross_entropy(network(ids, mask), targets[batch].to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizer.step()
    return network, _elapsed(began, device)


WAYS = {OURS: ours, "trainer": stock_trainer, "padded_loop": padded_loop}


def utilisation(figures: Figures, recipe: Recipe, device: torch.device, rounds: int) -> None:
    """Nightshelf's loop on BERT-base's shape, with random weights and texts of full length, after a few steps
    of warming up.
    """
    from transformers import BertConfig, BertModel

    from assets.model.tasks import BehaviorTask, Examples, TaskData
    from assets.model.training import train
    from resources.text_encoder import load_encoder

    _, tokenizer = load_encoder(recipe.encoder)
    tokenizer.model_max_length = FULL_LENGTH
    random = np.random.default_rng(0)
    words = [word for word in tokenizer.get_vocab() if word.isalpha()]
    texts = [" ".join(random.choice(words, FULL_LENGTH)) for _ in range(FULL_BATCH * FULL_STEPS)]
    nothing = np.zeros(0, np.int64)
    every = Examples(np.arange(len(texts)), random.integers(0, 3, len(texts)))
    splits = {"train": every, "dev": every.take(nothing), "test": every.take(nothing)}
    full = replace(recipe, batch_size=FULL_BATCH, max_length=FULL_LENGTH, epochs=1, contrast=0)
    encoder, data = BertModel(BertConfig()), TaskData(texts, splits)
    speeds = [
        train(BehaviorTask(), data, encoder, tokenizer, replace(full, max_steps=steps), device).speed
        for steps in (WARM_UP, *[FULL_STEPS] * rounds)
    ]
    runs = [speed["mfu"] for speed in speeds[1:]]
    against = f"{speeds[0]['peak_tflops']:.0f} TFLOPS, the device's peak; goal: 0.4"
    figures.add("training.gpu.mfu", statistics.median(runs), "", against, runs)


def examples_of_a_shop(count: int, products: int = PRODUCTS) -> TaskData:
    """What shoppers of the simulated shop did with which product on which day, by the product's words.

    Returns:
        `count` examples to learn, drawn from the first days, and at most `TESTED` of the last two.
    """
    from assets.model.tasks import CODES, Examples, TaskData
    from benchmarks.data import texts_of
    from benchmarks.simulated import simulated_shop

    events, items = simulated_shop(days=4, shoppers=400, products=products)
    texts = texts_of(items)
    day = pc.cast(events["timestamp"], pa.date32())
    keyed = pa.table(
        {
            "user": events["user_id"],
            "item": pc.index_in(events["item_id"], value_set=items["item_id"].combine_chunks()),
            "day": day,
            "code": pa.array([CODES[name] for name in events["behavior"].to_pylist()]),
        }
    )
    rows = keyed.group_by(["day", "user", "item"]).aggregate([("code", "max")])
    rows = rows.sort_by([("day", "ascending"), ("user", "ascending"), ("item", "ascending")])
    days = rows["day"].to_numpy()
    newest = days >= np.unique(days)[-2]  # the very last begins with what went on past midnight
    every = Examples(rows["item"].to_numpy().astype(np.int64), rows["code_max"].to_numpy().astype(np.int64))
    random = np.random.default_rng(0)

    def drawn(places: NDArray[np.int64], most: int) -> Examples:
        return every.take(random.permutation(places)[:most])

    splits = {"train": drawn(np.flatnonzero(~newest), count), "test": drawn(np.flatnonzero(newest), TESTED)}
    return TaskData(texts, {**splits, "dev": every.take(np.zeros(0, np.int64))})


def worth(
    network: TextClassifier, data: TaskData, recipe: Recipe, device: torch.device
) -> dict[str, tuple[float, float, float]]:
    """Weighted F1 (`f1`) and cross-entropy (`loss`) on the test examples, each with its 95 % bootstrap
    interval. After a short training most guesses are the commonest label; the loss tells networks apart.
    """
    import torch

    from assets.model.batches import Tokens
    from assets.model.report import classification_report
    from assets.model.tasks import BehaviorTask
    from assets.model.training import outputs_of
    from resources.text_encoder import load_encoder

    tokens = Tokens.of(data.texts, load_encoder(recipe.encoder)[1], recipe.max_length)
    test = data.splits["test"]
    texts, place = np.unique(test.text, return_inverse=True)
    logits = torch.from_numpy(outputs_of(network, tokens, texts, device)[place])
    guess = logits.argmax(1).numpy()
    losses = torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(test.target), reduction="none"
    ).numpy()

    def f1(rows: NDArray[np.int64]) -> float:
        report = classification_report(test.target[rows], guess[rows], BehaviorTask.labels)
        return float(report["weighted"]["f1"])

    return {
        "f1": _interval(f1, len(test)),
        "loss": _interval(lambda rows: float(losses[rows].mean()), len(test)),
    }


def _interval(of: Callable[[NDArray[np.int64]], float], count: int) -> tuple[float, float, float]:
    """A figure of all rows, and the ends of its 95 % bootstrap interval."""
    random, every = np.random.default_rng(0), np.arange(count)
    low, high = np.quantile([of(random.choice(every, count)) for _ in range(RESAMPLES)], [0.025, 0.975])
    return of(every), float(low), float(high)


def _network(recipe: Recipe, device: torch.device) -> tuple[TextClassifier, Any]:
    """A fresh network, the same each time, and its tokenizer."""
    import torch

    from assets.model.tasks import BehaviorTask
    from resources.text_encoder import load_encoder

    encoder, tokenizer = load_encoder(recipe.encoder)
    torch.manual_seed(recipe.seed)
    return BehaviorTask().network(encoder).to(device), tokenizer


def _with_loss(network: TextClassifier) -> torch.nn.Module:
    """The network as the Trainer wants one: labels in, loss out."""
    import torch

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            logits = self.network(input_ids, attention_mask)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    return WithLoss()


def _elapsed(began: float, device: torch.device) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
