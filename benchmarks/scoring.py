"""How fast are users scored against all items, and how fast do texts become vectors?

    python -m benchmarks.scoring --out scoring.json

Each size is searched for every user's first 100 items by Nightshelf (`assets/model/mips.py`) and by what else
a user would take, all exact, in turns, on the same random vectors of 128 dimensions. Indexes are built
beforehand and not counted. Rates are of the machine's own product of two large matrices, measured in the same
rounds. Then the channels of a night look for candidates in large shops (`benchmarks/shelf.py`), and texts
are encoded.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figures, clocked, in_turns, positive, ratio, short, teller
from benchmarks.memory import growth
from resources.devices import share_cores

if TYPE_CHECKING:
    import torch

    from assets.model.mips import Masked

Vectors = NDArray[np.float32]
Search = Callable[[Vectors], NDArray[np.int64]]
"""[users, D] -> [users, K] item numbers."""

K, WIDTH, OURS = 100, 128, "nightshelf"
USERS = 2048
AT_ONCE = 128
"""Users at a time, for those who leave it to their caller: what suited torch best."""
CELLS = 400_000_000
"""Users × items of a run at most: larger catalogues are searched for fewer users."""
WRITTEN_OUT = 50_000_000
"""Users × items at most for the channels of a shop, whose scores are written out for comparison."""
SQUARE = 3072
"""Rows of the matrices whose product gives the machine's rate."""
TEXTS = 3000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scoring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--items", type=_numbers, default=[10_000, 100_000, 1_000_000], metavar="N,N",
        help='as in 10000,50000; "" for none',
    )  # fmt: skip
    parser.add_argument(
        "--shops", type=_numbers, default=[10_000, 100_000], metavar="N,N",
        help="items of shops in which all channels score",
    )  # fmt: skip
    parser.add_argument(
        "--users", type=positive, default=USERS, metavar="N", help="at most; fewer where there are many items"
    )
    parser.add_argument(
        "--texts", type=partial(positive, least=0), default=TEXTS, metavar="N", help="to encode; 0 for none"
    )
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="of runs in turns")
    parser.add_argument("--out", type=Path, metavar="REPORT.json", help="the report")
    asked = parser.parse_args(arguments)
    share_cores()
    say = teller()
    figures = Figures(asked.out, **{name: value for name, value in vars(asked).items() if name != "out"})
    for items in asked.items:
        users = max(1, min(asked.users, CELLS // items))
        say(f"{users:,} users × {items:,} items")
        search(figures, items, users, asked.rounds)
        figures.write()
    for items in asked.shops:
        from benchmarks.shelf import shelf

        users = max(1, min(asked.users, WRITTEN_OUT // items))
        say(f"candidates of {users:,} shoppers of a shop of {items:,} items")
        shelf(figures, items, users, asked.rounds)
        figures.write()
    if asked.texts:
        say(f"encoding {asked.texts:,} texts")
        encode(figures, asked.texts, asked.rounds)
        figures.write()
    figures.show()
    return 0


def search(figures: Figures, items: int, users: int, rounds: int) -> None:
    """Ours and the others', the machine's rate, what masks cost and how memory grows."""
    import torch

    from assets.model.mips import InnerProducts
    from assets.model.network import has_bfloat16

    random = np.random.default_rng(0)
    catalogue, people = (random.normal(size=(n, WIDTH)).astype(np.float32) for n in (items, users))
    name = f"scoring.top{K}_{short(items)}_x{WIDTH}"
    ours = InnerProducts(catalogue)
    mask = _masked(random, users, items)
    masking = InnerProducts(catalogue, random.random(items) < 0.9)
    searches: dict[str, Search] = {OURS: lambda u: ours.first(u, K).items}
    for peer, build in PEERS.items():
        try:
            searches[peer] = build(catalogue)
        except ImportError as error:
            figures.skip(f"{name}.speedup_over_{peer}", f"{error.name} is not installed")
    agree = _agreement(searches, catalogue, people[:AT_ONCE])
    ways: dict[str, Callable[[], float]] = {n: _timed(find, people) for n, find in searches.items()}
    ways["masked"] = _timed(lambda u: masking.first(u, K, mask).items, people)
    rates = {torch.float32: "float32, the precision of the result; goal: 0.6"}
    if has_bfloat16(torch.device("cpu")):  # emulated, one such product takes minutes
        rates[torch.bfloat16] = "bfloat16"
    ways |= {str(dtype): _product(dtype) for dtype in rates}
    took = in_turns(ways, rounds)

    peers = [peer for peer in searches if peer != OURS]
    for peer in peers:
        value, runs = ratio(took[peer], took[OURS])
        figures.add(f"{name}.speedup_over_{peer}", value, "×", agree[peer], runs)
    best = min(peers, key=lambda peer: statistics.median(took[peer]))
    value, runs = ratio(took[best], took[OURS])
    figures.add(f"{name}.speedup_over_best_peer", value, "×", f"{best}; goal: 1", runs)
    work = 2 * users * items * WIDTH
    for dtype, goal in rates.items():
        runs = [work / s / rate for s, rate in zip(took[OURS], took[str(dtype)], strict=True)]
        suffix = "" if dtype == torch.float32 else "_in_bfloat16"
        figures.add(
            f"{name}.share_of_matmul_rate{suffix}",
            statistics.median(runs),
            "×",
            f"a product of {SQUARE}² in {goal}",
            runs,
        )
    value, runs = ratio(took["masked"], took[OURS])
    figures.add(f"{name}.cost_of_masks", value, "×", "the same without masks and stock", runs)
    users_a_second = users / statistics.median(took[OURS])
    figures.add(f"{name}.users_per_second", users_a_second, "users/s", "nothing: of this machine")
    for times in (1, 4):
        crowd = np.tile(people, (times, 1))
        grown = growth(partial(ours.first, crowd, K))
        if grown is not None:
            figures.add(f"{name}.peak_mib_of_{len(crowd)}_users", grown, "MiB", "what was held before")


def encode(figures: Figures, texts: int, rounds: int) -> None:
    """Item texts of the simulated shop to vectors: ours, and `encode` of sentence-transformers."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        figures.skip(
            "encoding.cpu.speedup_over_sentence_transformers", "sentence-transformers is not installed"
        )
        return
    from assets.model.vectors import encode_as, item_vectors
    from benchmarks.data import texts_of
    from benchmarks.simulated import simulated_shop
    from resources.text_encoder import resolve_encoder

    folder = Path(resolve_encoder("default"))
    _, items = simulated_shop(days=1, shoppers=10, products=max(texts, 20))
    words = texts_of(items)[:texts]
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found: dict[str, Vectors] = {}

    def other() -> None:
        found["other"] = theirs.encode(words, normalize_embeddings=True, show_progress_bar=False)

    with tempfile.TemporaryDirectory() as aside:

        def ours(precision: str) -> None:
            with tempfile.TemporaryDirectory(dir=aside) as empty:
                found[precision] = item_vectors(Path(aside) / precision, words, Path(empty))

        precisions = ["native", *(["int8"] if find_spec("openvino") else [])]
        for precision in precisions:
            shutil.copytree(folder, Path(aside) / precision)
            encode_as(Path(aside) / precision, precision)
        ways = {one: clocked(partial(ours, one)) for one in precisions}
        took = in_turns({**ways, "other": clocked(other)}, rounds)
    if "int8" not in precisions:
        figures.skip("encoding.cpu.speedup_over_sentence_transformers", "openvino is not installed")
    for precision, name in (("int8", "encoding.cpu"), ("native", "encoding.cpu.native")):
        if precision in took:
            value, runs = ratio(took["other"], took[precision])
            against = f"item_vectors: {precision}; sentence-transformers' encode, same weights; goal: 2.5"
            figures.add(f"{name}.speedup_over_sentence_transformers", value, "×", against, runs)
            cosine = (found[precision] * found["other"]).sum(axis=1).min()
            figures.add(f"{name}.min_cosine", float(cosine), "", "its vectors; goal: 0.995")
            rate = texts / statistics.median(took[precision])
            figures.add(f"{name}.texts_per_second", rate, "texts/s", "nothing: of this machine")


def _torch(catalogue: Vectors) -> Search:
    import torch

    items = torch.from_numpy(catalogue)

    def find(users: Vectors) -> NDArray[np.int64]:
        blocks = torch.from_numpy(users).split(AT_ONCE)
        return torch.cat([(block @ items.T).topk(K).indices for block in blocks]).numpy()

    return find


def _implicit(catalogue: Vectors) -> Search:
    from implicit.cpu.topk import topk

    return lambda users: np.asarray(topk(catalogue, users, K, num_threads=_cores())[0], np.int64)


def _faiss(catalogue: Vectors) -> Search:
    import faiss

    faiss.omp_set_num_threads(_cores())
    index = faiss.IndexFlatIP(catalogue.shape[1])
    index.add(catalogue)
    return lambda users: index.search(users, K)[1]


def _usearch(catalogue: Vectors) -> Search:
    from usearch.index import MetricKind
    from usearch.index import search as exact_search

    def find(users: Vectors) -> NDArray[np.int64]:
        found: Any = exact_search(catalogue, users, K, MetricKind.IP, exact=True, threads=_cores())
        return np.asarray(found.keys, np.int64)

    return find


PEERS: dict[str, Callable[[Vectors], Search]] = {
    "torch": _torch,
    "implicit": _implicit,
    "faiss": _faiss,
    "usearch": _usearch,
}


def _agreement(searches: dict[str, Search], catalogue: Vectors, users: Vectors) -> dict[str, str]:
    """How many of the places hold an item of the same score as ours: all are meant to be exact."""
    scores = users @ catalogue.T
    best = np.take_along_axis(scores, searches[OURS](users), 1)
    said = {}
    for name, find in searches.items():
        theirs = np.take_along_axis(scores, find(users), 1)
        same = np.isclose(np.sort(theirs), np.sort(best), atol=1e-4).mean()
        said[name] = f"{name}, whose scores are ours at {same:.4%} of the places"
    return said


def _masked(random: np.random.Generator, users: int, items: int) -> Masked:
    """Fifty items of each user that they have already."""
    from assets.model.mips import Masked

    return Masked(np.arange(users + 1) * 50, random.integers(0, items, users * 50))


def _product(dtype: torch.dtype) -> Callable[[], float]:
    """Operations per second of a product of two large matrices."""
    import torch

    one = torch.randn(SQUARE, SQUARE).to(dtype)
    out = torch.empty_like(one)

    def run() -> float:
        began = time.perf_counter()
        torch.mm(one, one, out=out)
        return 2 * SQUARE**3 / (time.perf_counter() - began)

    return run


def _timed(find: Search, users: Vectors) -> Callable[[], float]:
    find(users[:1])
    return clocked(lambda: find(users))


def _cores() -> int:
    import torch

    return torch.get_num_threads()


def _numbers(text: str) -> list[int]:
    """Numbers of items; fewer than are searched for are no catalogue."""
    return [positive(number, least=K) for number in text.split(",") if number]


if __name__ == "__main__":
    sys.exit(main())
