"""Settings chosen on validation: one at a time, uphill, for as long as the time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.methods import Log

Settings = dict[str, Any]


def climb(
    grid: Mapping[str, Sequence[Any]],
    start: Settings,
    worth: Callable[[Settings], float],
    seconds: float,
    log: Log = lambda message: None,
) -> tuple[Settings, float]:
    """Go up on one setting after the other, from value to next value, until no step up is left.

    Each step is one fit, so a grid of many values costs a handful of fits and not their product.

    Args:
        grid: setting → its values in order; neighbours in the list are tried from the one that is best so
        far.
        start: setting → the value to begin with, one of its list.
        worth: what is to be maximised, for example NDCG@10 on validation.
        seconds: no further step is begun that would likely end after that, to judge by the longest so far.
        log: told of each new best.

    Returns:
        The best settings that were tried, and what they are worth.
    """
    began, longest = time.monotonic(), 0.0
    tried: dict[tuple[Any, ...], float] = {}

    def measured(settings: Settings) -> float:
        nonlocal longest
        key = tuple(settings[name] for name in grid)
        if key not in tried:
            if tried and time.monotonic() - began + longest > seconds:
                return float("-inf")
            at = time.monotonic()
            tried[key] = worth(settings)
            longest = max(longest, time.monotonic() - at)
        return tried[key]

    best, value = dict(start), measured(start)
    better = True
    while better:
        better = False
        for name, values in grid.items():
            for step in (1, -1):
                place = list(values).index(best[name]) + step
                while 0 <= place < len(values):
                    candidate = {**best, name: values[place]}
                    found = measured(candidate)
                    if found <= value:
                        break
                    best, value, better = candidate, found, True
                    log(f"validation NDCG@10 {value:.4f} with {_shown(best)}")
                    place += step
    return best, value


def _shown(settings: Settings) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
