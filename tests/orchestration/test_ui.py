"""The web UI as a person uses it: open the graph, materialise an asset, backfill three days, see the plot."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from orchestration.instance import instance_of
from resources.home import Home
from tests.orchestration.shops import COMMAND, FIRST
from tests.servers import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(shop: Home) -> Iterator[str]:
    """`nightshelf ui`, up and answering."""
    port = free_port()
    log = shop.root / "ui.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(COMMAND), "--home", str(shop.root), "ui", "--port", str(port)],
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: process.poll() is not None or answers(url), 120, "the web UI to answer")
        assert process.poll() is None, log.read_text()[-3000:]
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=2):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        opened = browser.new_page(base_url=address, viewport={"width": 1500, "height": 900})
        opened.set_default_timeout(30_000)
        yield opened
        browser.close()


def wait_for(there: Callable[[], object], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)


def runs_of(home: Home, asset: str, *, after: float) -> list[str]:
    """Ids of the runs begun after a moment that make exactly this asset."""
    with instance_of(home) as instance:
        found = instance.get_run_records(dg.RunsFilter(created_after=datetime.fromtimestamp(after, UTC)))
        return [
            record.dagster_run.run_id
            for record in found
            if record.dagster_run.asset_selection == {dg.AssetKey(asset)}
        ]


def see_it_succeed(page: Page, home: Home, asset: str, after: float) -> None:
    """On the run's own page, as a person would."""
    wait_for(lambda: runs_of(home, asset, after=after), 120, f"a run of {asset}")
    (run,) = runs_of(home, asset, after=after)
    page.goto(f"/runs/{run}")
    page.get_by_text("Success", exact=True).first.wait_for(timeout=180_000)


def test_the_graph_shows_the_four_stages(page: Page) -> None:
    page.goto("/asset-groups", wait_until="domcontentloaded")
    graph = page.locator("svg foreignObject")
    for stage in ("logs", "warehouse", "model", "recommendations"):
        graph.get_by_text(stage, exact=True).wait_for()


def test_materialise_one_asset_from_the_graph_and_see_its_plot(page: Page, shop: Home) -> None:
    began = time.time()
    page.goto("/asset-groups", wait_until="domcontentloaded")
    graph = page.locator("svg foreignObject")
    graph.get_by_text("model", exact=True).click()
    graph.get_by_text("model_evaluation").click()
    page.get_by_role("button", name="Materialize selected").click()
    page.get_by_role("button", name="Latest", exact=True).click()
    page.get_by_role("button", name="Launch 1 run").click()
    see_it_succeed(page, shop, "model_evaluation", began)

    page.goto("/assets/model_evaluation")
    page.get_by_text("Show Markdown").first.click()
    picture = page.locator("img[src^='data:image/png;base64']").first
    picture.wait_for()
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 200


def test_backfill_three_days_in_one_run(page: Page, shop: Home) -> None:
    began = time.time()
    days = [FIRST + timedelta(days=n) for n in (1, 2, 3)]
    page.goto("/assets/raw_behavior_events")
    page.get_by_role("button", name="Materialize…").click()
    chosen = page.get_by_placeholder("No matching partitions")
    chosen.fill(f"[{days[0]}...{days[-1]}]")
    chosen.press("Enter")
    page.get_by_text("3 partitions", exact=True).wait_for()
    page.get_by_role("button", name="Launch backfill").click()
    see_it_succeed(page, shop, "raw_behavior_events", began)
    assert made_since(shop, "raw_behavior_events", began) == set(days)


def made_since(home: Home, asset: str, after: float) -> set[date]:
    with instance_of(home) as instance:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), after_timestamp=after), limit=100
        ).records
        return {date.fromisoformat(str(record.partition_key)) for record in records}
