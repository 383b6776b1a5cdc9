"""The report's page in a real browser, headless: it loads without an error, and what moves works."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from adversary.report_page import TABS, page

from .sample_report import ATTACKS, EPSILONS, ROUTERS, THREATS, sample_report

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE, DESK = 390, 1280

pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()),
    reason="no /usr/bin/chromium with chromedriver here; `make browser` as root installs them",
)


class Reader:
    """Someone who reads the page."""

    def __init__(self, driver, path):
        self.driver, self.path = driver, path
        self.js = driver.execute_script

    def open(self, width=DESK, tab="", scheme="light"):
        """Open it anew, on a screen of a width, at a tab."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
        self.driver.get("about:blank")
        self.driver.get(self.path.as_uri() + (f"#{tab}" if tab else ""))
        return self

    def errors(self):
        """What the console says since it was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def choose(self, tab, **filters):
        """Set filters of a tab."""
        for name, value in filters.items():
            self.js(
                "const held = document.querySelector(`#${arguments[0]} [data-filter=${arguments[1]}]`);"
                "if (![...held.options].some((at) => at.value === arguments[2])) throw 'no such option';"
                "held.value = arguments[2]; held.dispatchEvent(new Event('change', {bubbles: true}));",
                tab,
                name,
                value,
            )

    def plots(self, tab):
        """Of each figure that is shown: names of the curves, and the first one's x and y."""
        return self.js(
            "return [...document.querySelectorAll(`#${arguments[0]} figure`)]"
            ".filter((at) => at.offsetParent !== null)"
            ".map((at) => { const {data} = at.querySelector('.plot'); const [first] = data;"
            " return {names: data.map((held) => held.name), x: first.x, y: first.y,"
            " drawn: at.querySelectorAll('.main-svg').length}; })",
            tab,
        )

    def rows(self, tab):
        """First cells of the rows that are shown, of all tables of a tab that are open."""
        return self.js(
            "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)]"
            ".filter((at) => at.checkVisibility()).map((at) => at.cells[0].textContent)",
            tab,
        )


@contextmanager
def browsing(folder):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # With the driver's path given, selenium looks for none, and downloads none.
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    path = folder / "report.html"
    path.write_text(page(sample_report()), encoding="utf-8")
    with browsing(folder) as driver:
        yield Reader(driver, path)


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("tab", TABS)
def test_every_tab_is_drawn_without_an_error_and_fits(reader, tab, width):
    reader.open(width, tab)
    shown = reader.js(
        "return [...document.querySelectorAll('[role=tabpanel]:not([hidden])')].map((at) => at.id)"
    )
    assert shown == [tab]
    assert all(plot["drawn"] for plot in reader.plots(tab))
    assert len(reader.plots(tab)) >= (tab != "method")
    for state in ("as it opens", "unfolded"):
        wide = reader.js("return document.scrollingElement.scrollWidth")
        assert wide <= width, f"{state}: the page is {wide} px wide"
        reader.js("document.querySelectorAll('details').forEach((at) => { at.open = true; })")
    assert reader.errors() == []


def test_nothing_is_fetched(reader):
    reader.open()
    assert reader.js("return performance.getEntriesByType('resource').map((at) => at.name)") == []


def test_tabs_by_mouse_and_by_keys(reader):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    reader.open()
    tabs = reader.driver.find_elements(By.CSS_SELECTOR, "[role=tab]")
    panels = [reader.driver.find_element(By.ID, name) for name in TABS]

    def selected():
        state = [tab.get_attribute("aria-selected") == "true" for tab in tabs]
        assert state == [panel.is_displayed() for panel in panels]
        assert state == [tab.get_attribute("tabindex") == "0" for tab in tabs]
        assert sum(state) == 1
        return list(TABS)[state.index(True)]

    assert selected() == "overview"
    for place, name in enumerate(TABS):
        tabs[place].click()
        assert selected() == name
        assert reader.js("return location.hash") == f"#{name}"
    tabs[-1].send_keys(Keys.ARROW_RIGHT)
    assert selected() == "overview"
    tabs[0].send_keys(Keys.ARROW_LEFT)
    assert selected() == "method"
    tabs[-1].send_keys(Keys.HOME)
    assert selected() == "overview"
    assert reader.driver.switch_to.active_element == tabs[0]
    assert reader.errors() == []


def test_each_filter_of_each_tab_can_be_set_to_everything(reader):
    for tab in TABS:
        reader.open(tab=tab)
        names = reader.js(
            "return [...document.querySelectorAll(`#${arguments[0]} select`)]"
            ".map((at) => [at.dataset.filter, [...at.options].map((held) => held.value)])",
            tab,
        )
        for name, values in names:
            for value in [*values[1:], values[0]]:
                reader.choose(tab, **{name: value})
                assert reader.errors() == [], f"{tab}: {name} = {value}"


def of_kind(kind):
    return [name for name, held in ROUTERS.items() if held[0] == kind]


def test_the_overview_by_kind(reader):
    reader.open(tab="overview")
    assert reader.rows("overview") == reader.plots("overview")[0]["y"] == list(ROUTERS)
    reader.choose("overview", kind="prefix")
    assert reader.rows("overview") == reader.plots("overview")[0]["y"] == of_kind("prefix")


def test_sweeps_by_threat_and_router(reader):
    reader.open(tab="sweeps")
    for threat in THREATS:
        reader.choose("sweeps", threat=threat)
        (plot,) = reader.plots("sweeps")
        assert plot["x"] == EPSILONS
        assert [name for name in plot["names"] if "break-even" not in name] == list(ROUTERS)
    reader.choose("sweeps", threat="noise", victim="vllm_dp")
    (plot,) = reader.plots("sweeps")
    assert plot["names"] == ["round_robin", "vllm_dp", "vllm_dp: break-even"]
    assert reader.rows("sweeps") == ["vllm_dp"]  # of the table of break-evens, which stands open


def test_the_heat_map_by_attack_and_router(reader):
    reader.open(tab="attacks")
    (plot,) = reader.plots("attacks")
    assert (plot["x"], plot["y"]) == (list(ATTACKS), list(ROUTERS))
    reader.choose("attacks", level="world", kind="learned", metric="goodput_per_s")
    (plot,) = reader.plots("attacks")
    assert plot["x"] == [
        "hostile_stream-random",
        "hostile_stream-search@dynamo_cost",
        "hostile_stream-rl@session_hash",
    ]
    assert plot["y"] == of_kind("learned")
    assert reader.rows("attacks") == plot["x"]  # of the table that says what each attack is
    reader.choose("attacks", attacker="pgd")
    assert reader.js("return document.querySelector('#attacks figure:not([hidden])').textContent").count(
        "Nothing matches these filters."
    )
    reader.choose("attacks", level="")
    assert reader.plots("attacks")[0]["x"] == ["noise-pgd@maskable_ppo"]
    reader.js("document.querySelectorAll('#attacks details').forEach((at) => { at.open = true; })")
    assert set(reader.rows("attacks")) == {"noise-pgd@maskable_ppo", *of_kind("learned")}


def test_transfer_traces_attackers_defences_and_training(reader):
    reader.open(tab="transfer")
    reader.choose("transfer", level="world", kind="session")
    (plot,) = reader.plots("transfer")
    assert (plot["x"], plot["y"]) == (["dynamo_cost", "session_hash"], ["session_hash"])
    reader.open(tab="traces")
    reader.choose("traces", trace="1")
    plots = reader.plots("traces")
    assert [len(plot["names"]) for plot in plots] == [6, 4, 4, 2, 2]
    assert plots[-1]["names"] == ["dynamo_cost", "round_robin"]
    reader.open(tab="attackers")
    reader.choose("attackers", threat="hostile_stream", kind="prefix")
    assert reader.rows("attackers") == 2 * of_kind("prefix")  # with 100 evaluations, and with 400
    assert [len(plot["names"]) for plot in reader.plots("attackers")] == [3, 3]
    reader.choose("attackers", threat="noise")
    (plot,) = reader.plots("attackers")
    assert plot["y"] == of_kind("prefix")
    reader.open(tab="defences")
    reader.choose("defences", defence="median", victim="vllm_dp")
    assert reader.rows("defences") == ["vllm_dp"] * 2
    assert len(reader.plots("defences")[0]["y"]) == 2 * 3  # two bars: from, to and a gap
    reader.open(tab="training")
    reader.choose("training", set="adversarial")
    assert reader.rows("training") == ["maskable_ppo", "synthetic worlds", "a real trace held out"]


def test_figures_follow_the_theme_and_the_width(reader):
    reader.open(tab="sweeps")
    ink = functools.partial(reader.js, "return document.querySelector('#sweeps .plot').layout.font.color")
    light = ink()
    wish = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    reader.js("return new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert ink() != light
    assert reader.errors() == []


def test_without_scripts_all_is_there_to_read(reader):
    reader.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        reader.open()
        assert reader.js(
            "return [...document.querySelectorAll('[role=tabpanel]')].every((at) => at.offsetHeight > 0)"
        )
    finally:
        reader.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# --- for those who cannot see it, or hardly ---


def test_headings_go_down_a_step_at_a_time(reader):
    reader.open()
    levels = reader.js(
        "return [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((at) => +at.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_everything_has_a_name(reader):
    reader.open()
    nameless = reader.js("""
      const by = (at) => at.getAttribute('aria-labelledby');
      const named = (at) => (at.getAttribute('aria-label') || at.alt || '').trim()
        || (by(at) && document.getElementById(by(at)))
        || (at.labels && at.labels.length && at.labels[0].textContent.trim())
        || (['BUTTON', 'SUMMARY'].includes(at.tagName) && at.textContent.trim());
      const told = 'img, [role=img], [role=region], [role=tablist], [role=tabpanel], [role=group], table,'
        + ' select, button, summary, [tabindex]';
      const all = [...document.querySelectorAll(told)];
      return all.filter((at) => !named(at)).map((at) => at.outerHTML.slice(0, 99));
    """)
    assert nameless == []
    figures = reader.js(
        "return [...document.querySelectorAll('figure')].map((at) =>"
        " !!at.querySelector('figcaption').textContent.trim() && !!at.querySelector('[role=img]'))"
    )
    assert all(figures)
    assert reader.js("return document.documentElement.lang") == "en"
    heads = "return [...document.querySelectorAll('thead th, tbody th')].every((at) => at.scope)"
    assert reader.js(heads)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_paper(reader, scheme):
    reader.open(scheme=scheme)
    reader.js(
        "document.querySelectorAll('[hidden], details')"
        ".forEach((at) => { at.hidden = false; at.open = true; })"
    )
    faint = reader.js("""
      const parse = (text) => text.match(/[\\d.]+/g).map(Number);
      const shine = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
      const paper = (at) => {
        for (; at; at = at.parentElement) {
          const held = parse(getComputedStyle(at).backgroundColor);
          if (held.length === 3 || held[3] > 0) return held;
        }
        return [255, 255, 255];
      };
      return [...document.querySelectorAll('body *')]
        .filter((at) => !at.closest('.plot, script, style') && at.offsetParent !== null)
        .filter((at) => [...at.childNodes].some((held) => held.nodeType === 3 && held.data.trim()))
        .map((at) => {
          const [ink, back] = [shine(parse(getComputedStyle(at).color)), shine(paper(at))];
          const ratio = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
          return [ratio, at.textContent.slice(0, 40)];
        })
        .filter(([ratio]) => ratio < 4.5);
    """)
    assert faint == []


def test_fingers_find_the_tabs(reader):
    reader.open(PHONE)
    small = reader.js(
        "return [...document.querySelectorAll('[role=tab]:not([hidden]), select')]"
        ".filter((at) => at.offsetParent !== null && at.getBoundingClientRect().height < 40)"
        ".map((at) => at.outerHTML.slice(0, 80))"
    )
    assert small == []


def test_a_report_of_nothing_opens_too(reader, tmp_path):
    path = tmp_path / "empty.html"
    path.write_text(page({}), encoding="utf-8")
    held = Reader(reader.driver, path).open(PHONE)
    assert held.errors() == []
    assert held.js("return document.scrollingElement.scrollWidth") <= PHONE
