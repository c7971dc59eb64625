"""The shared report of benchmarks of speed."""

import json

import pytest

from benchmarks.figures import Figures, in_turns, ratio


def test_a_report_says_what_was_measured_on_what(tmp_path, capsys):
    figures = Figures(tmp_path / "report.json", events=3)
    figures.add("a.ratio", 1.25, "ratio", "b", runs=[1.25, 1, 2])
    figures.skip("c", "it is not installed")
    figures.write()
    figures.show()

    report = json.loads((tmp_path / "report.json").read_text())
    assert report["figures"] == [
        {"name": "a.ratio", "value": 1.25, "unit": "ratio", "against": "b", "runs": [1.25, 1.0, 2.0]}
    ]
    assert report["settings"] == {"events": 3}
    assert report["skipped"] == {"c": "it is not installed"}
    assert {"commit", "clean_tree", "machine", "versions"} <= set(report)
    shown = capsys.readouterr().out
    assert "1.25" in shown and "c was skipped: it is not installed" in shown


def test_what_is_no_number_is_no_figure():
    figures = Figures(None)
    with pytest.raises(ValueError, match="nan"):
        figures.add("a", float("nan"), "s", "")
    figures.add("a", 1, "s", "")
    with pytest.raises(ValueError, match="already"):
        figures.add("a", 2, "s", "")
    figures.write()  # without a file, nothing


def test_what_is_compared_runs_in_turns():
    order = []

    def way(name: str, value: float):
        return lambda: order.append(name) or value

    found = in_turns({"a": way("a", 3.0), "b": way("b", 2.0)}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [3.0] * 3, "b": [2.0] * 3}
    assert ratio([1, 4, 3], [1, 2, 1]) == (2, [1, 2, 3])
