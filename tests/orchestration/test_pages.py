"""Tables for the terminal, in terminals of several widths."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from orchestration.pages import shelf_page

TITLE = "Voltix Signature Photo Paper Matt, 200 sheets of A4"
ALL = ["item", "title", "price EUR", "browse", "click", "purchase", "score", "reason"]


def row(**changed: Any) -> dict[str, Any]:
    whole = {"rank": 10, "item_id": "P11000042", "title": TITLE, "price": 8.99, "p_browse": 0.084}
    whole |= {"p_click": 0.056, "p_purchase": 0.012, "score": 0.0571}
    return whole | {"reason": f"Because you viewed {TITLE}"} | changed


def shown(width: int, *rows: dict[str, Any]) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(shelf_page(rows, "EUR"))
    lines = capture.get().splitlines()
    assert all(len(line) <= width for line in lines)
    return lines


def test_a_narrow_terminal_shows_what_one_goes_on_with() -> None:
    """`nightshelf why` asks for the item's id."""
    head, first, *more = shown(80, row())
    assert head.split() == ["item", "title", "score", "reason"]
    assert first.split()[:3] == ["10", "P11000042", "Voltix"] and "0.0571  Because you viewed" in first
    words = " ".join(line.strip() for line in [first.partition("0.0571")[2], *more])
    assert words == f"Because you viewed {TITLE}"  # the reason is whole


@pytest.mark.parametrize("width", [120, 140])
def test_a_wide_terminal_shows_everything(width: int) -> None:
    head, first, *_ = shown(width, row())
    assert head.split() == " ".join(ALL).split()
    assert "8.99   0.084   0.056     0.012  0.0571" in first


def test_short_words_leave_room_for_figures() -> None:
    head, first = shown(90, row(title="Paper", reason="You came back to this", price=None))
    assert head.split() == " ".join(ALL).split()
    assert " ".join(first.split()) == "10 P11000042 Paper 0.084 0.056 0.012 0.0571 You came back to this"


def test_a_long_id_is_whole_and_a_title_is_no_markup() -> None:
    long = "0b9f6c1e-7a52-4c11-9d5e-8f1f2f3f4f5f"
    _, first, *_ = shown(80, row(item_id=long, title="Paper [bold]A4[/bold]"))
    assert long in first and "Paper [bold]" in first


def test_a_shelf_without_rows_is_a_heading() -> None:
    assert shown(80)[0].split() == " ".join(ALL).split()


def test_to_show_a_shelf_no_dagster_is_loaded() -> None:
    code = "import sys, orchestration.pages; assert not {'dagster', 'pandas', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
