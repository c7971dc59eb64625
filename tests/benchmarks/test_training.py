"""The benchmark of training, with an encoder of seconds."""

import json
import math

from benchmarks.training import examples_of_a_shop, main
from tests.model.little_shop import tiny_encoder


def test_the_report_has_every_figure_that_is_promised(tmp_path):
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "report.json"
    recipe.write_text(f"encoder: {tiny_encoder(tmp_path / 'tiny')}\nbatch_size: 8\nmax_length: 32\n")
    asked = ["--examples", "32", "--recipe", str(recipe), "--rounds", "1", "--out", str(out)]
    assert main(asked) == 0
    report = json.loads(out.read_text())
    found = {figure["name"]: figure for figure in report["figures"]}
    names = {
        "training.cpu.speedup_over_padded_loop",
        "training.cpu.speedup_over_trainer",
        "training.cpu.nightshelf.f1",
        "training.gpu.speedup_over_trainer",
        "training.gpu.mfu",
    }
    assert not names - set(found) - set(report["skipped"])
    assert all(math.isfinite(figure["value"]) for figure in found.values())
    assert 0 < found["training.cpu.nightshelf.f1"]["value"] < 1


def test_what_is_learnt_is_older_than_what_is_measured():
    data = examples_of_a_shop(100)
    assert len(data.splits["train"]) == 100 and len(data.splits["test"]) > 1000
    assert set(data.splits["test"].target) == {0, 1, 2}
