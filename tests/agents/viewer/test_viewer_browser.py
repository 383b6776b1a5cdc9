"""The page in a real browser, headless: it shows what the ledger says, and its keys do what they say."""

import re

import numpy as np
import pandas as pd
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from agents.metrics import figures
from agents.viewer.__main__ import view
from tests.adversary.page.test_browser import CHROMIUM, DRIVER, browsing

from .conftest import configured

PHONE, LAPTOP = 390, 1366

pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()),
    reason="no /usr/bin/chromium with chromedriver here; `make browser` as root installs them",
)


class Watcher:
    """Someone who looks at the page."""

    def __init__(self, driver, path):
        self.driver, self.path = driver, path
        self.js = driver.execute_script

    def open(self, at_s=0.0, width=LAPTOP, scheme="light"):
        """Open it anew, at an instant."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
        self.driver.get("about:blank")
        self.driver.get(f"{self.path.as_uri()}#t={at_s}")
        WebDriverWait(self.driver, 30).until(lambda _: self.js("return player !== null"))
        return self

    def press(self, *keys):
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def values(self, expression):
        return np.array(self.js(f"return Array.from({expression})"))

    def text(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def rows(self, place):
        """Of a fleet: the text of each cell of each instance."""
        return self.js(
            "return [...document.querySelectorAll(`.fleet.side${arguments[0]} tbody tr`)]"
            ".map((row) => [...row.cells].map((cell) => cell.textContent))",
            place,
        )

    def figure(self, place, name):
        return self.js("return player.fleets[arguments[0]].numbers[arguments[1]].textContent", place, name)

    def decision(self):
        """Of whom which decision is listed as the present one."""
        title = self.text("#detail h2")
        number = int(self.text("#list tr.now button"))
        policy = re.fullmatch(rf"Decision {number:,} of (\w+)", title)[1]
        assert self.text("#list h2") == f"Decisions of {policy}"
        return policy, number

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def ledgers(run):
    return [pd.read_parquet(run / "cells" / f"{name}-3.parquet") for name in ("by_load", "learns")]


@pytest.fixture(scope="module")
def watcher(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    path = view(
        configured("viewer", f"run={run}", f"directory={folder}", "policies=[by_load,learns]", "seed=3")
    )
    with browsing(folder) as driver:
        yield Watcher(driver, path)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, LAPTOP])
def test_it_is_drawn_without_an_error_and_fits(watcher, width, scheme):
    watcher.open(3.0, width, scheme)
    assert watcher.js("return document.scrollingElement.scrollWidth") <= width
    if width == LAPTOP:  # tables scroll by themselves on a phone
        assert not watcher.js(
            "return [...document.querySelectorAll('.wide')].some((at) => at.scrollWidth > at.clientWidth)"
        )
    canvases = watcher.driver.find_elements(By.TAG_NAME, "canvas")
    assert len(canvases) == 1 + 2 * 2
    drawn = (
        "const {width, height} = arguments[0];"
        "const {data} = arguments[0].getContext('2d').getImageData(0, 0, width, height);"
        "return data.some((value) => value > 0)"
    )
    assert all(watcher.js(drawn, canvas) for canvas in canvases)
    assert watcher.errors() == []


def test_nothing_is_fetched(watcher):
    watcher.open()
    assert watcher.js("return performance.getEntriesByType('resource').map((at) => at.name)") == []


def test_it_reads_what_was_packed(watcher, ledgers):
    watcher.open()
    for place, ledger in enumerate(ledgers):
        held = f"player.episodes[{place}]"
        assert watcher.values(f"{held}.instance").tolist() == ledger["instance"].tolist()
        ttft_s = watcher.values(f"{held}.ttft_s")
        assert np.abs(ttft_s - ledger["ttft_s"].fillna(-1.0)).max() < 0.51e-4
        assert len(watcher.values(f"{held}.scores")) == 2 * len(ledger)


def test_the_end_is_the_run_s_table(watcher, ledgers):
    watcher.open()
    watcher.press(Keys.END)
    for place, ledger in enumerate(ledgers):
        row = figures(ledger, 2)
        assert watcher.figure(place, "ttft") == f"{row['ttft_mean_s']:.2f} s"
        assert watcher.figure(place, "met") == f"{100 * row['frac_slo_met']:.0f} %"
        assert watcher.figure(place, "cached") == f"{100 * row['frac_prefix_hits']:.0f} %"
        assert watcher.figure(place, "waiting") == "0"
        assert watcher.figure(place, "failed") == f"{row['num_failed']:.0f}, {row['num_retries']:.0f}"
    waited_s = watcher.js(
        "const {times, sums} = player.episodes[0].waiting; let area = 0;"
        "for (let at = 1; at < times.length; at += 1) area += sums[at] * (times[at] - times[at - 1]);"
        "return area"
    )
    final = ledgers[0][~ledgers[0]["is_retried"]]
    waited_in_vain_s = (watcher.values("player.episodes[0].ended_at_s") - ledgers[0]["arrived_at_s"])[
        final.index[final["failure"] != ""]
    ]
    assert len(waited_in_vain_s)
    expected_s = final["ttft_s"].sum() + waited_in_vain_s.sum()
    assert waited_s == pytest.approx(expected_s, abs=1e-4 * len(final))


def test_lanes_hold_as_many_as_the_engines(watcher):
    """But for those that come or go within a rounding of the instant of a look."""
    watcher.open()
    num_wrong = watcher.js(
        "let wrong = 0;"
        "for (const episode of player.episodes) episode.fleet.at_s.forEach((t, look) => {"
        "  if (look) for (const instance of [0, 1]) if (episode.status(instance, look) === 'up') {"
        "    let held = 0;"
        "    episode.inFlight(instance, t, () => { held += 1; });"
        "    const [running, waiting] = ['num_running', 'num_waiting']"
        "      .map((name) => episode.ofFleet(name, instance, look));"
        "    wrong += held !== running + waiting;"
        "  }"
        "});"
        "return wrong"
    )
    assert num_wrong < 0.005 * 2 * 2 * 2000


@pytest.mark.parametrize(
    ("at_s", "states"),
    [(1.5, "3\N{MULTIPLICATION SIGN} slower"), (2.3, "down"), (2.9, "starting"), (5.5, "")],
)
def test_queues_and_what_is_wrong_with_them(watcher, at_s, states):
    watcher.open(at_s)
    for place in (0, 1):
        rows = watcher.rows(place)
        assert states in rows[0][0] + rows[1][0]
        held = f"player.episodes[{place}]"
        look = np.searchsorted(watcher.values(f"{held}.fleet.at_s"), at_s, "right") - 1
        for instance, row in enumerate(rows):
            for cell, name in ((2, "num_running"), (3, "num_waiting")):
                assert row[cell] == str(watcher.js(f"return {held}.ofFleet('{name}', {instance}, {look})"))
    if states == "down":
        masks = [row[6] == "masked" for place in (0, 1) for row in watcher.rows(place)]
        assert any(masks)


def test_keys_go_from_decision_to_decision(watcher, ledgers):
    watcher.open(2.0)
    policy, first = watcher.decision()
    assert policy == "by_load"
    watcher.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert watcher.decision() == ("by_load", first + 2)
    watcher.press("n")
    number = watcher.decision()[1]
    missed = np.flatnonzero(~ledgers[0]["slo_met"])
    assert number == missed[missed > first + 2][0]
    watcher.press("2")
    assert watcher.decision()[0] == "learns"
    watcher.press(Keys.HOME)
    assert watcher.text("#clock").startswith("0:00.0 /")
    watcher.js("player.last[1] = -1")  # as where the first decision comes later
    watcher.press(Keys.ARROW_LEFT)
    assert watcher.js("return player.last[1]") == -1
    watcher.press(Keys.HOME)
    for _ in range(3):  # several decisions may be made at one instant: none is left out
        watcher.press(Keys.ARROW_RIGHT)
    assert watcher.decision() == ("learns", 3)


def test_a_decision_is_told_with_its_scores_and_its_outcome(watcher, ledgers):
    ledger = ledgers[0]
    number = int(ledger["ttft_s"].idxmax())
    watcher.open()
    watcher.js("player.choose(arguments[0])", number)
    told = watcher.text("#detail")
    ttft_s = ledger["ttft_s"][number]
    assert f"first token after {ttft_s:.2f} s (accepted: 0.20 s)" in told
    assert f"{ledger['num_prompt_tokens'][number]:,} prompt tokens" in told
    assert watcher.text("#list tr.now td:nth-child(6)") == f"{ttft_s:.2f} s"
    rows = watcher.js(
        "return [...document.querySelectorAll('#detail tbody tr')]"
        ".map((row) => [...row.cells].map((at) => at.textContent))"
    )
    table = {row[0]: row[1:] for row in rows}
    scores = watcher.js(
        f"return [0, 1].map((at) => player.episodes[0].seen(player.episodes[0].scores, at, {number}))"
    )
    assert [float(text) for text in table["score"] if text != "masked"] == [
        value for value in scores if value is not None
    ]
    assert len(table["in flight uncached tokens"]) == 2
    failed = int(np.flatnonzero(ledger["is_retried"])[0])
    watcher.js("player.choose(arguments[0])", failed)
    assert "(instance failed), and it was sent again" in watcher.text("#detail")
    assert watcher.text("#list tr.now").count("failed, sent again") == 1
    again = int(np.flatnonzero(ledger["num_retries"])[0])
    watcher.js("player.choose(arguments[0])", again)
    assert "again" in watcher.text("#list tr.now .badge")


def test_rows_and_the_scrubber_move_time(watcher, ledgers):
    watcher.open(3.0)
    row = watcher.driver.find_elements(By.CSS_SELECTOR, "#list tbody tr")[2]
    number = int(row.find_element(By.TAG_NAME, "button").text)
    row.click()
    assert watcher.decision() == ("by_load", number)
    assert watcher.js("return player.t") == pytest.approx(ledgers[0]["arrived_at_s"][number], abs=1.0)
    watcher.js(
        "const at = document.getElementById('scrub'); at.value = at.max / 2;"
        "at.dispatchEvent(new Event('input'))"
    )
    assert watcher.js("return player.t / player.end_s") == pytest.approx(0.5)


def test_it_plays_and_pauses(watcher):
    watcher.open()
    Select(watcher.driver.find_element(By.ID, "speed")).select_by_value("2")
    play = watcher.driver.find_element(By.ID, "play")
    play.click()
    assert play.get_attribute("aria-label") == "Pause"
    WebDriverWait(watcher.driver, 30).until(lambda _: watcher.js("return player.t > 0.5"))
    watcher.press(" ")
    at_s = watcher.js("return player.t")
    assert play.get_attribute("aria-label") == "Play"
    assert f"#t={at_s:.4f}" in watcher.driver.current_url
    assert watcher.js("return player.t") == at_s
    Select(watcher.driver.find_element(By.ID, "speed")).select_by_value("100")
    watcher.js("document.activeElement.blur()")
    watcher.press(" ")
    WebDriverWait(watcher.driver, 30).until(lambda _: not watcher.js("return player.isPlaying"))
    assert watcher.js("return player.t === player.end_s")  # it stops there
    assert watcher.errors() == []


def test_the_address_of_every_decision_leads_to_it(watcher):
    """Though most instants are no sums of halves, quarters and so on."""
    at_s = watcher.open().values("player.episodes[0].at_s")
    assert [float(f"{each:.4f}") for each in at_s] == at_s.tolist()
