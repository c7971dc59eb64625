"""The fine-tuning loop: any task, any encoder, one device or several (`peers`).

The same seed, snapshot and recipe give the same weights on the same machine, also where the training was
ended on the way and went on from a checkpoint: what a step draws depends on the seed and its number alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from assets.model.batches import Tokens, bucketed, by_length, longest, on_device
from assets.model.checkpoints import Checkpoints, fingerprint, put_back, state_of
from assets.model.flops import Cost, peak_of
from assets.model.network import precision
from assets.model.peers import Peers, local_rank
from assets.model.recipe import Recipe
from assets.model.tasks import SPLITS, Examples, Loss, Task, TaskData
from resources.crash import crash_point

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from assets.model.network import TextClassifier

Progress = Callable[[dict[str, Any]], None]
"""Told what happens as {event, …}: start, resumed, step (about once a second), dev, note."""
MEASURE_BATCH = {"cpu": 128, "cuda": 1024}
"""Texts at a time where no gradients are kept; a GPU would wait for the next few."""
BATCHES, PAIRS, DROPOUT = range(3)
"""Streams of random numbers that do not depend on each other."""


class TrainingError(RuntimeError):
    """The training went wrong; the message says where and what to change."""


@dataclass(frozen=True)
class Trained:
    """A trained network and what is known about it. All but `speed` is the same when trained again."""

    network: TextClassifier
    metrics: dict[str, Any]
    """steps, examples of each split, and the task's report on dev and test."""
    curve: dict[str, list[dict[str, float]]]
    """train: [{step, loss, rate}]; dev: [{step, epoch, loss, …}]."""
    speed: dict[str, Any]
    """train_seconds, examples_per_second, tokens_per_second, real_tokens_per_second, padding (share of all
    tokens), mfu (model FLOPs utilisation), peak_tflops, peak_known; all over the whole training, whichever
    process did it."""


def pick_device() -> torch.device:
    """The GPU that CUDA_VISIBLE_DEVICES leaves visible (of several, that of this process), else the CPU.

    Raises:
        TrainingError: more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, visible = local_rank() or 0, torch.cuda.device_count()
    if number >= visible:
        raise TrainingError(
            f"process {number + 1} of this machine has no GPU: torch sees {visible}. Start as many processes"
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def train(  # noqa: PLR0917
    task: Task,
    data: TaskData,
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    device: torch.device,
    progress: Progress = lambda event: None,
    checkpoints: Checkpoints | None = None,
    peers: Peers = Peers(),  # noqa: B008 - frozen
) -> Trained:
    """Fine-tune an encoder on a task.

    float32 weights, and bfloat16 arithmetic where the device has it (`precision`). Batches hold texts of like
    length, each text once, and are padded to the longest of them only. The dev split is measured after every
    epoch, dev and test at the end. Where `checkpoints` holds a state of this training, it goes on from there.
    Of several processes that train together, each calls this with the same arguments, and gets the same.

    Without examples nothing is trained, and the network is the encoder with a fresh head.

    Raises:
        TrainingError: the loss is no longer finite, or the device's memory does not suffice.
    """
    torch.manual_seed(recipe.seed)
    network = task.network(encoder).to(device)
    tokens = Tokens.of(data.texts, tokenizer, longest(encoder, tokenizer, recipe.max_length))
    examples = _drawn(data.splits["train"], recipe)
    splits = {**data.splits, "train": examples}
    if checkpoints:
        start = {"start": fingerprint(network), "tokens": tokens.fingerprint}
        checkpoints.of = {**checkpoints.of, **start}
    try:
        ask_for_repeatable(network, tokens, device, progress)
        loop = _Loop(task, network, tokens, splits, data.pairs, recipe, device, progress, checkpoints, peers)
        loop.run()
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the device's memory does not suffice at batch_size {recipe.batch_size} and max_length "
            f"{recipe.max_length}: lower one of them in the recipe"
        ) from error
    return Trained(network, loop.metrics(), loop.curve, loop.speed())


def ask_for_repeatable(network: nn.Module, tokens: Tokens, device: torch.device, progress: Progress) -> None:
    """Hold torch to kernels that give the same each time; where the network has an operation without such a
    kernel, tell so and take the others.

    It is tried out on a text, for only to be warned (`warn_only`) is not enough: attention's gradient is then
    added up in any order on a GPU.
    """
    # cuDNN's attention plans anew for every shape, and only being warned of does not keep it out.
    torch.backends.cuda.enable_cudnn_sdp(False)
    # Each new tensor would be filled with NaN first: seven times as many fills a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    if not len(tokens.lengths):
        return
    network.train()
    try:
        with precision(device):
            outputs = network(*tokens.batch(np.arange(1), device))
        outputs.float().sum().backward()
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        torch.use_deterministic_algorithms(True, warn_only=True)
        what = str(error).partition(" does not have")[0]
        progress({"event": "note", "text": f"{what} is not repeatable here: weights may differ next time"})
    network.zero_grad(set_to_none=True)


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Rate of step 1 … `steps`: up in a straight line over the warm-up, then down to 0 past the last."""
    rising = math.ceil(recipe.warmup * steps)
    if step <= rising:
        return recipe.learning_rate * step / rising
    return recipe.learning_rate * (steps - step + 1) / (steps - rising + 1)


def outputs_of(
    network: nn.Module, tokens: Tokens, texts: NDArray[np.int64], device: torch.device
) -> NDArray[np.float32]:
    """[len(texts), …] outputs of the network in evaluation mode, in the order of `texts`."""
    network.eval()
    parts, order = [], by_length(tokens.lengths[texts], MEASURE_BATCH[device.type])
    with torch.inference_mode(), precision(device):
        for rows in order:
            parts.append(network(*tokens.batch(texts[rows], device)).float().cpu().numpy())
    found = np.concatenate(parts)
    back = np.empty_like(found)
    back[np.concatenate(order)] = found
    return back


class _Both(nn.Module):
    """What a step asks of the network, in one call, as DistributedDataParallel wants it."""

    def __init__(self, network: TextClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, *batches: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Ids and mask [B, T] -> outputs [B, …]; with another ids and mask [C, T], also vectors [C, D]."""
        ids, mask, *others = batches
        outputs = self.network(ids, mask)
        return (outputs, self.network.vectors(*others)) if others else (outputs,)


class _Loop:
    def __init__(  # noqa: PLR0917
        self,
        task: Task,
        network: TextClassifier,
        tokens: Tokens,
        splits: dict[str, Examples],
        pairs: NDArray[np.int64],
        recipe: Recipe,
        device: torch.device,
        progress: Progress,
        checkpoints: Checkpoints | None,
        peers: Peers,
    ) -> None:
        self.task, self.network, self.tokens, self.splits = task, network, tokens, splits
        self.recipe, self.device, self.progress, self.pairs = recipe, device, progress, pairs
        self.checkpoints, self.peers = checkpoints, peers
        self.model = peers.together(_Both(network), device)
        self.wanted = np.bincount(pairs[:, 1], minlength=len(tokens.lengths)) / max(len(pairs), 1)
        self.loss: Loss = task.loss(splits["train"], recipe.class_weights == "balanced")
        self.optimizer = _optimizer(network, recipe, device)
        self.curve: dict[str, list[dict[str, float]]] = {"train": [], "dev": []}
        self.an_epoch = math.ceil(len(splits["train"]) / recipe.batch_size)
        self.steps = int(min(self.an_epoch * recipe.epochs, recipe.max_steps or math.inf))
        self.seconds, self.seen, self.real, self.padded, self.flops = 0.0, 0, 0, 0, 0.0
        self.cost, self.peak = Cost.of(network), peak_of(device)
        self.waiting: list[tuple[int, float, torch.Tensor]] = []

    def run(self) -> None:
        sizes = {name: len(self.splits[name]) for name in SPLITS}
        self.progress({"event": "start", "steps": self.steps, "device": str(self.device), **sizes})
        if not self.steps:
            note = "no product with words was met before the dev day: the encoder stays as it was"
            self.progress({"event": "note", "text": note})
        step = self._resumed()
        told = time.perf_counter()  # across epochs, for one may take less than a second
        train, size = self.splits["train"], self.recipe.batch_size
        while step < self.steps:
            epoch, done = divmod(step, self.an_epoch)
            if step and not done and len(self.splits["dev"]):
                self._on_dev(step, epoch)
            batches = bucketed(train.text, self.tokens.lengths, size, self._random(BATCHES, epoch))
            began = time.perf_counter()
            self.network.train()
            for rows in batches[done : done + self.steps - step]:
                step += 1
                self._step(step, train.take(rows))
                crash_point("train.step")
                if time.perf_counter() - told > 1 or step == self.steps:
                    self._tell(step, self._seconds_since(began))
                    told = time.perf_counter()
                if self.checkpoints and not self.peers.rank and self.checkpoints.due():
                    self._keep(self.checkpoints, self._seconds_since(began))
            self.seconds = self._seconds_since(began)
        self.report = self._measure("dev", "test")
        if self.steps and len(self.splits["dev"]):
            self._dev_point(step, math.ceil(step / self.an_epoch), *self.report["dev"])

    def _random(self, stream: int, *at: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, stream, *at])

    def _resumed(self) -> int:
        """The step of the checkpoint, whose state is put back; 0 without one."""
        kept = self.checkpoints.read() if self.checkpoints and self.steps else None
        losses = kept[0].pop("losses").tolist() if kept else []
        if not self.peers.agree(len(losses), self.device):
            # On several machines without a folder that all of them see.
            self.progress({"event": "note", "text": "not every process has the checkpoint: from the start"})
            return 0
        if not kept:
            return 0
        tensors, state = kept
        put_back(tensors, self.network, self.optimizer)
        for step, loss in enumerate(losses, 1):
            rate = learning_rate(step, self.steps, self.recipe)
            self.curve["train"].append({"step": step, "loss": loss, "rate": rate})
        self.curve["dev"] = state["dev"]
        self.seconds, self.seen = state["seconds"], state["seen"]
        self.real, self.padded, self.flops = state["real"], state["padded"], state["flops"]
        self.progress({"event": "resumed", "step": len(losses), "steps": self.steps})
        return len(losses)

    def _keep(self, checkpoints: Checkpoints, seconds: float) -> None:
        losses = [point["loss"] for point in self.curve["train"]]
        tensors = state_of(self.network, self.optimizer) | {
            "losses": torch.tensor(losses, dtype=torch.float64)
        }
        figures = {"seen": self.seen, "real": self.real, "padded": self.padded, "flops": self.flops}
        state = {"dev": self.curve["dev"], "seconds": seconds, **figures}
        checkpoints.write(tensors, state)

    def _step(self, step: int, examples: Examples) -> None:
        rate = learning_rate(step, self.steps, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(int(self._random(DROPOUT, step, self.peers.rank).integers(2**63)))
        # Of like length, many examples of a batch are about the same product: each text is encoded once.
        distinct, place_of = np.unique(examples.text, return_inverse=True)
        rows = on_device(place_of, self.device)
        batches = [self._batch(distinct)]
        pairs = self.pairs[:0]
        if self.recipe.contrast and len(self.pairs):
            pairs = self.pairs[self._random(PAIRS, step).integers(0, len(self.pairs), len(examples))]
            texts, place = np.unique(pairs, return_inverse=True)
            batches.append(self._batch(texts))
        targets = on_device(examples.target, self.device)
        with precision(self.device):
            outputs, *vectors = self.model(*(tensor for batch in batches for tensor in batch))
        # In float32: a text's gradient is the sum over its rows.
        loss = self.loss(self.peers.gathered(outputs.float(), len(distinct))[rows], targets)
        if vectors:
            gathered = self.peers.gathered(vectors[0], len(texts))
            loss = loss + self.recipe.contrast * self._contrast(pairs, place.reshape(-1, 2), gathered)
        # Each process has the gradient of its own rows, and their mean is taken: the sum is what is meant.
        (loss * self.peers.count).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # Reading a loss would make a GPU wait; they are read together, about once a second.
        self.waiting.append((step, rate, loss.detach()))
        self.seen += len(examples)

    def _batch(self, texts: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of this process's share of some texts, padded to the longest of them all."""
        lengths = self.tokens.lengths[texts]
        self.real += int(lengths.sum())
        self.padded += int(lengths.max()) * len(texts)
        self.flops += self.cost.step(lengths)
        return self.tokens.batch(self.peers.share(texts), self.device, int(lengths.max()))

    def _contrast(
        self, pairs: NDArray[np.int64], place: NDArray[np.int64], vectors: torch.Tensor
    ) -> torch.Tensor:
        """How well pairs of texts find each other by their vectors, in rows `place` (`contrastive_loss`)."""
        share = on_device(self.wanted[pairs[:, 1]].astype(np.float32), self.device)
        rows = on_device(place, self.device)
        return contrastive_loss(vectors[rows[:, 0]], vectors[rows[:, 1]], rows, share)

    def _seconds_since(self, began: float) -> float:
        """Of training, those of the epoch with them; waits for a GPU, for only then are the steps done."""
        self._collect()
        return self.seconds + time.perf_counter() - began

    def _collect(self) -> None:
        for step, rate, loss in self.waiting:
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} at step {step} with learning rate {rate:.2e}: lower learning_rate "
                    "or clip in the recipe"
                )
            self.curve["train"].append({"step": step, "loss": round(value, 6), "rate": rate})
        self.waiting.clear()

    def _tell(self, step: int, seconds: float) -> None:
        self.progress(
            {
                "event": "step",
                "step": step,
                "steps": self.steps,
                "loss": self.curve["train"][-1]["loss"],
                **self._rates(seconds),
                "seconds_left": round(seconds / step * (self.steps - step)),
            }
        )

    def _on_dev(self, step: int, epoch: int) -> None:
        self._dev_point(step, epoch, *self._measure("dev")["dev"])

    def _dev_point(self, step: int, epoch: int, report: dict[str, Any], loss: float) -> None:
        point = {"step": step, "epoch": epoch, "loss": round(loss, 6)}
        self.curve["dev"].append(point)
        averages = {k: v["f1"] for k, v in report.items() if k in ("micro", "macro", "weighted")}
        self.progress({"event": "dev", **point, "f1": averages})

    def _measure(self, *names: str) -> dict[str, tuple[dict[str, Any], float]]:
        """{split: (the task's report, mean loss without class weights)}; each text goes through once."""
        texts = np.unique(np.concatenate([self.splits[name].text for name in names]))
        outputs = self._outputs(texts)
        places = {name: np.searchsorted(texts, self.splits[name].text) for name in names}
        return {name: self._judged(self.splits[name], outputs[at]) for name, at in places.items()}

    def _outputs(self, texts: NDArray[np.int64]) -> NDArray[np.float32]:
        """[len(texts), …] of the network, each process seeing to its share."""
        if not len(texts):
            return np.zeros((0, max(len(self.task.labels), 1)), np.float32)
        own = outputs_of(self.network, self.tokens, self.peers.share(texts), self.device)
        return self.peers.gathered(torch.from_numpy(own).to(self.device), len(texts)).cpu().numpy()

    def _judged(self, examples: Examples, outputs: NDArray[np.float32]) -> tuple[dict[str, Any], float]:
        """The loss of no examples is 0."""
        if not len(examples):
            return self.task.report(outputs, examples.target), 0.0
        plain = self.task.loss(examples, balanced=False)
        loss = plain(torch.from_numpy(outputs), torch.from_numpy(examples.target))
        return self.task.report(outputs, examples.target), float(loss)

    def metrics(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "pairs": len(self.pairs),
            "examples": {name: len(self.splits[name]) for name in SPLITS},
            **{name: report for name, (report, _) in self.report.items()},
        }

    def _rates(self, seconds: float) -> dict[str, float]:
        return {
            "examples_per_second": round(self.seen / seconds, 1),
            "tokens_per_second": round(self.padded / seconds, 1),
            "real_tokens_per_second": round(self.real / seconds, 1),
            "mfu": round(self.flops / seconds / self.peak.flops / self.peers.count, 4),
        }

    def speed(self) -> dict[str, Any]:
        return {
            "train_seconds": round(self.seconds, 2),
            **self._rates(max(self.seconds, 1e-9)),
            "padding": round(1 - self.real / max(self.padded, 1), 4),
            "peak_tflops": round(self.peak.flops * self.peers.count / 1e12, 3),
            "peak_known": self.peak.known,
        }


def contrastive_loss(
    one: torch.Tensor,
    other: torch.Tensor,
    rows: torch.Tensor,
    share: torch.Tensor,
    temperature: float = 0.05,
) -> torch.Tensor:
    """InfoNCE over the pairs of a batch (van den Oord et al., 2018), with the logQ correction.

    Another pair's partner is a negative as often as it is wanted, so its logit is lowered by log(share), or
    popular products would be pushed away from everything (Yi et al., RecSys 2019).

    Args:
        one, other: [pairs, D] float32 vectors of length 1.
        rows: [pairs, 2] which texts they are: the same text is no negative of itself.
        share: [pairs] of all pairs that have this partner.
        temperature: of the cosines.

    Returns:
        Mean over the pairs, a scalar.
    """
    logits = one @ other.T / temperature - share.clamp(min=1e-9).log()
    same = (rows[None, :, 1] == rows[:, None, 1]) | (rows[None, :, 1] == rows[:, None, 0])
    own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    logits = logits.masked_fill(same & ~own, float("-inf"))
    return nn.functional.cross_entropy(logits, torch.arange(len(rows), device=rows.device))


def _optimizer(network: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """AdamW; biases and layer norms (the one-dimensional parameters) do not decay."""
    named = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in named if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _drawn(examples: Examples, recipe: Recipe) -> Examples:
    """At most `max_examples`, drawn with the seed."""
    if recipe.max_examples is None or len(examples) <= recipe.max_examples:
        return examples
    rng = np.random.default_rng(recipe.seed)
    return examples.take(np.sort(rng.choice(len(examples), recipe.max_examples, replace=False)))
