"""The status page in a real browser, headless: it shows what the router does, as it does it."""

import time

import pytest

from agents.export import bundle, writing
from agents.router.guard import GuardSettings
from tests.adversary.page.test_browser import CHROMIUM, DRIVER, browsing
from tests.agents.export.exported import export_of
from tests.agents.router.serving import body, posts
from tests.agents.router.test_admin import TOKEN, administered
from tests.envs.live.fake_vllm import fakes
from tests.envs.live.leaks import soon

pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()),
    reason="no /usr/bin/chromium with chromedriver here; `make browser` as root installs them",
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("status")) as driver:
        yield driver


def text(driver, name):
    return driver.execute_script("return document.getElementById(arguments[0]).innerText", name)


def connect(driver, admin, token):
    driver.get(admin.url)
    driver.execute_script(
        "document.getElementById('token').value = arguments[0];"
        "document.querySelector('#login button').click()",
        token,
    )


def errors(driver):
    """What the console says, but for an answer 401."""
    return [entry["message"] for entry in driver.get_log("browser") if "401" not in entry["message"]]


def test_it_shows_what_the_router_does(driver, tmp_path):
    writing.write(tmp_path / "network", export_of("network"), lambda part: "a card")
    policy = bundle.load(tmp_path / "network")
    patient = GuardSettings(max_decision_s=60.0)
    with fakes(2) as servers, administered(servers, policy=policy, guard=patient) as (router, admin, _):
        connect(driver, admin, TOKEN)
        assert soon(lambda: "ready; network" in text(driver, "summary"))
        assert "This router does not learn." in text(driver, "learning")
        posts(router, [body()] * 10)
        assert soon(lambda: sum(router.proxy.statuses.values()) == 10)
        assert soon(lambda: "10" in text(driver, "decisions"))
        assert "heuristic: out_of_range" in text(driver, "decisions")
        rows = text(driver, "instances").splitlines()
        assert len(rows) == 3
        assert rows[1].startswith("a")
        assert "up" in rows[1]
        servers[0].stop()
        assert soon(lambda: "down" in text(driver, "instances"))
        assert soon(lambda: "refused" in text(driver, "notices"))
        assert soon(
            lambda: driver.execute_script("return document.querySelectorAll('#requests path').length")
        )
        servers[0].start()
        assert errors(driver) == []


def test_a_wrong_token_shows_nothing(driver):
    with fakes(1) as servers, administered(servers) as (_, admin, _):
        connect(driver, admin, "wrong")
        assert soon(lambda: text(driver, "summary") == "This is not the token.")
        assert driver.execute_script("return document.getElementById('main').hidden")
        assert errors(driver) == []


def test_it_can_be_read_on_a_phone(driver):
    with fakes(2) as servers, administered(servers) as (_, admin, _):
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        connect(driver, admin, TOKEN)
        assert soon(lambda: "ready" in text(driver, "summary"))
        time.sleep(0.2)
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 390
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_names_are_shown_as_text_and_not_run(driver):
    """An endpoint's name is whatever its configuration says."""
    with fakes(1) as servers, administered(servers) as (_, admin, _):
        from tests.agents.router.test_admin import call

        name = "<img src=x onerror=document.title='run'>"
        assert call(admin, "PUT", "/endpoints", {name: servers[0].url}).status in (200, 400)
        connect(driver, admin, TOKEN)
        assert soon(lambda: "ready" in text(driver, "summary"))
        time.sleep(0.5)
        assert driver.title == "RouteGym router"
