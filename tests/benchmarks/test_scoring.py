"""The benchmark of scoring, on a size of seconds."""

import json
import math

from benchmarks.scoring import main


def test_the_report_has_every_figure_that_is_promised(tmp_path):
    out = tmp_path / "report.json"
    asked = ["--items", "2000,3000", "--shops", "2000", "--users", "40", "--texts", "12", "--rounds", "1"]
    assert main([*asked, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    found = {figure["name"]: figure for figure in report["figures"]}
    names = {f"scoring.top100_{size}_x128.{figure}" for size in ("2k", "3k") for figure in OF_EACH_SIZE}
    names |= {f"scoring.shelf_2k.{figure}" for figure in OF_EACH_SHOP}
    missing = (names | OF_ENCODING) - set(found) - set(report["skipped"])
    assert not missing
    assert all(math.isfinite(figure["value"]) for figure in found.values())
    assert found["encoding.cpu.min_cosine"]["value"] > 0.995
    torch = found["scoring.top100_2k_x128.speedup_over_torch"]["against"]
    assert torch == "torch, whose scores are ours at 100.0000% of the places"


OF_EACH_SIZE = (
    "speedup_over_torch",
    "speedup_over_implicit",
    "speedup_over_faiss",
    "speedup_over_usearch",
    "speedup_over_best_peer",
    "share_of_matmul_rate",
    "cost_of_masks",
    "peak_mib_of_40_users",
    "peak_mib_of_160_users",
)
OF_EACH_SHOP = (
    "speedup_over_all_scores",
    "users_per_second",
    "peak_mib_of_40_users",
    "peak_mib_of_160_users",
)
OF_ENCODING = {"encoding.cpu.speedup_over_sentence_transformers", "encoding.cpu.min_cosine"}
