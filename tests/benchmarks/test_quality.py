"""The command from end to end, on a simulated shop that is small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import quality, simulated
from benchmarks.methods import METHODS, Entry
from benchmarks.report import plain
from tests.benchmarks.logs import SECOND

CHEAP = "popularity,popularity_7d,revisit,item_knn,co_visitation,ease"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    arguments = ["--out", str(folder), "--days", "8", "--shoppers", "150", "--products", "120"]
    assert simulated.main(arguments) == 0
    return folder


def run(shop: Path, out: Path, how: str, *more: str) -> int:
    files = ["--interactions", str(shop / "interactions.parquet"), "--items", str(shop / "items.parquet")]
    return quality.main([*files, "--split", how, "--out", str(out), *more])


@pytest.mark.parametrize("how", quality.SPLITS)
def test_a_run_is_reported_whole(shop, tmp_path, capsys, how):
    out = tmp_path / "new" / "report.json"
    assert run(shop, out, how, "--methods", CHEAP, "--budget-minutes", "5", "--seed", "3") == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    ran = {name for name in CHEAP.split(",") if not (how == "leave-one-out" and name == "revisit")}
    assert set(report["methods"]) == ran and set(report["skipped"]) == set(CHEAP.split(",")) - ran
    for row in report["methods"].values():
        for figure in ("ndcg@10", "hr@10", "mrr@10", "coverage@10"):
            low, high = row[f"{figure}_interval"]
            assert 0 <= low <= row[figure] <= high <= 1
        assert row["fit_seconds"] >= 0 and row["score_seconds"] >= 0 and row["peak_memory_mib"] > 50
        assert {"cold_recall@10", "cold_recall@100"} <= set(row)
        assert ("new_ndcg@10" in row) == ("purchase_ndcg@10" in row) == (how == "temporal")
    assert report["methods"]["ease"]["settings"]["ridge"] > 0
    assert report["split"] == how and report["seed"] == 3 and report["comparisons"] == {}
    assert report["judged_users"] == report["eligible_users"] > 20
    data = report["data"]
    assert data["rows"] == data["events"] and data["left_out"] == {} and data["timed"]
    assert set(data["behaviors"]) == {"browse", "click", "cart", "purchase"}
    assert {"numpy", "python", "torch"} <= set(report["versions"])
    assert set(report["machine"]) == {"cpu", "cores", "memory_gib", "gpus"}
    if how == "temporal":
        alone = report["users_without_history"]
        assert alone["users"] > 0 and 0 <= alone["popularity"]["ndcg@10"] <= 1
    assert out.with_suffix(".png").stat().st_size > 5_000
    said = capsys.readouterr()
    assert "co_visitation" in said.out and "judged" in said.err
    assert str(Path.cwd()) not in out.read_text(encoding="utf-8")


def test_the_same_seed_gives_the_same_figures(shop, tmp_path):
    for name in ("a", "b"):
        assert run(shop, tmp_path / f"{name}.json", "temporal", "--methods", "ease,popularity") == 0
    a, b = (json.loads((tmp_path / f"{n}.json").read_text(encoding="utf-8"))["methods"] for n in "ab")
    assert list(a) == list(b) == ["popularity", "ease"]
    for name, row in a.items():
        for figure in [f for f in row if "@" in f]:
            assert row[figure] == pytest.approx(b[name][figure], abs=1e-9)


def test_users_may_be_drawn(shop, tmp_path):
    out = tmp_path / "report.json"
    assert run(shop, out, "temporal", "--methods", "popularity", "--max-users", "11") == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["judged_users"] == 11 < report["eligible_users"]


def test_any_setting_can_be_told():
    told = {
        1: np.float32(0.5),
        "b": (np.arange(2), {np.int64(3)}),
        "c": float("nan"),
        "d": Path("x"),
        "e": None,
    }
    assert plain(told) == {"1": 0.5, "b": [[0, 1], [3]], "c": None, "d": "x", "e": None}


class Broken:
    name = "broken"

    def fit(self, valid, seed, seconds, log):
        raise ValueError("no idea")


class Ours:
    """Stands in for ours: popularity, with a guess for every behaviour."""

    name = "nightshelf"

    def __new__(cls):
        method = METHODS["popularity"].make()
        method.probabilities = lambda users, items: (items % 7)[:, None] * [0.03, 0.02, 0.01] + 0.01
        return method


def test_one_that_breaks_keeps_nobody_from_the_rest(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(METHODS, "ease", Entry(__name__, "Broken", ""))
    out = tmp_path / "report.json"
    assert run(shop, out, "temporal", "--methods", "popularity,ease") == quality.FAILED
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["skipped"] == {"ease": "broke: ValueError: no idea"}
    assert "popularity" in report["methods"]
    assert "Traceback" in capsys.readouterr().err


def test_ours_is_compared_and_its_probabilities_judged(shop, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "nightshelf", Entry(__name__, "Ours", ""))
    out = tmp_path / "report.json"
    assert run(shop, out, "temporal", "--methods", "popularity,revisit,nightshelf") == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report["comparisons"]) == {"popularity", "revisit"}
    same, worse = report["comparisons"]["popularity"], report["comparisons"]["revisit"]
    assert same["ndcg@10"] == 0 and same["ndcg@10_interval"] == [0, 0]
    gap = report["methods"]["nightshelf"]["ndcg@10"] - report["methods"]["revisit"]["ndcg@10"]
    assert worse["ndcg@10"] == pytest.approx(gap)
    assert worse["ndcg@10_interval"][0] <= gap <= worse["ndcg@10_interval"][1]
    for behavior in ("browse", "click", "purchase"):
        row = report["methods"]["nightshelf"]["behaviors"][behavior]
        assert 0 <= row["auc"] <= 1 and row["log_loss"] > 0 and 0 <= row["ece"] <= 1


def test_the_smallest_data_set_runs(tmp_path):
    log = tmp_path / "log.csv"
    rows = "\n".join(f"u,{item},{SECOND + n}" for n, item in enumerate("abc"))
    log.write_text(f"user_id,item_id,timestamp\n{rows}\n", encoding="utf-8")
    for how in quality.SPLITS:
        out = tmp_path / f"{how}.json"
        arguments = ["--interactions", str(log), "--split", how, "--methods", CHEAP, "--out", str(out)]
        assert quality.main(arguments) == 0
        assert json.loads(out.read_text(encoding="utf-8"))["judged_users"] == 1


def test_wrong_calls_are_refused_in_words(shop, tmp_path, capsys):
    out = tmp_path / "report.json"
    assert quality.main(["--interactions", "gone.csv", "--split", "temporal", "--out", str(out)]) == 2
    assert "gone.csv: no such file" in capsys.readouterr().err
    for wrong, said in (
        (["--methods", "magic"], "no method magic; there are popularity"),
        (["--budget-minutes", "-1"], "no number of minutes"),
        (["--max-users", "0"], "no whole number of at least 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(shop, out, "temporal", *wrong)
        assert stopped.value.code == 2 and said in capsys.readouterr().err
    assert not out.exists()


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom benchmarks import quality\n"
        "try:\n    quality.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('numpy', 'torch', 'duckdb', 'pandas', 'scipy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n") and "--interactions" in done.stdout


def test_the_simulated_shop_tells_what_a_shop_knows_and_no_more(shop):
    log, items = pq.read_table(shop / "interactions.parquet"), pq.read_table(shop / "items.parquet")
    assert log.column_names == ["user_id", "item_id", "timestamp", "behavior"]
    assert items.column_names == ["item_id", "title", "description", "category", "brand", "price"]
    assert set(log["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())
    assert len(items) == len(set(items["item_id"].to_pylist()))
    times = log["timestamp"].to_pylist()
    assert times == sorted(times) and (times[-1] - times[0]).days == 7
    again = simulated.simulated_shop(8, 150, 120, 0)
    assert again[0].equals(log) and again[1].equals(items)
    with pytest.raises(SystemExit):
        simulated.main(["--out", "x", "--days", "0"])
